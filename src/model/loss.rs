//! The training loss, which never holds the logits of a whole batch at once when they are many.

use super::gemma::logits;
use crate::array::{DType, Shape};
use crate::graph::{RematPolicy, Result, ScanOptions, Value};
use crate::nn::log_sum_exp;

/// How token losses become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// The mean over an example's tokens, then over examples: big_vision.
    #[default]
    Example,
    /// The mean over all tokens of the batch: the torch scripts.
    Token,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LossConfig {
    /// Probability mass that targets give to all other tokens.
    pub label_smoothing: f64,
    pub reduction: Reduction,
    /// Positions of each row whose logits are computed at once; 0 for all. Without it, as many as fit
    /// into a quarter of a GiB.
    pub chunk_tokens: Option<usize>,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig { label_smoothing: 0.0, reduction: Reduction::Example, chunk_tokens: None }
    }
}

/// A loss and what it is made of.
#[derive(Debug, Clone)]
pub struct TokenLoss {
    /// `f32[]`.
    pub loss: Value,
    /// Mean negative log-likelihood of each example's tokens, `f32 [B]`.
    pub per_example: Value,
    /// Mean number of supervised tokens per example, `f32[]`.
    pub avg_sup_seqlen: Value,
    /// Largest number of supervised tokens of an example, `f32[]`.
    pub max_sup_seqlen: Value,
}

/// What the logits of one chunk may take.
const CHUNK_BYTES: usize = 256 << 20;

impl LossConfig {
    /// The loss of activations `[B, T, D]` against targets `s32 [B, T]` under a table `[V, D]`; tokens
    /// count as `mask` (`f32 [B, T]`) says.
    #[track_caller]
    pub fn build(
        &self,
        pre_logits: &Value,
        table: &Value,
        targets: &Value,
        mask: &Value,
    ) -> Result<TokenLoss> {
        let log_likelihood = self.log_likelihood(pre_logits, table, targets)?.mul(mask)?;
        let count = mask.reduce_sum(&[1])?;
        let per_example = log_likelihood.reduce_sum(&[1])?.neg()?.div(&count.max_scalar(1.0)?)?;
        let loss = match self.reduction {
            Reduction::Example => per_example.mean(&[0])?,
            Reduction::Token => log_likelihood.sum_all()?.neg()?.div(&count.sum_all()?.max_scalar(1.0)?)?,
        };
        Ok(TokenLoss {
            loss,
            per_example,
            avg_sup_seqlen: count.mean(&[0])?,
            max_sup_seqlen: count.reduce_max(&[0])?,
        })
    }

    /// The number of positions per chunk, for logits `[batch, length, vocab]`.
    fn chunk(&self, batch: usize, length: usize, vocab: usize) -> usize {
        let chunk = match self.chunk_tokens {
            Some(0) => length,
            Some(tokens) => tokens,
            None => CHUNK_BYTES / (batch * vocab * DType::F32.num_bytes()).max(1),
        };
        chunk.clamp(1, length.max(1))
    }

    /// Smoothed log-likelihood of each target, `f32 [B, T]`.
    fn log_likelihood(&self, pre_logits: &Value, table: &Value, targets: &Value) -> Result<Value> {
        let (&[batch, length, width], &[vocab, _]) = (pre_logits.dims(), table.dims()) else {
            let (x, table) = (pre_logits.shape(), table.shape());
            let message =
                format!("loss expects activations [B, T, D] and a table [V, D], got {x} and {table}");
            return Err(pre_logits.builder().error(message));
        };
        let chunk = self.chunk(batch, length, vocab);
        if chunk == length {
            return self.chunk_log_likelihood(pre_logits, table, targets);
        }
        // Rows are cut into equal chunks; what fills up the last one is dropped afterwards.
        let num_chunks = length.div_ceil(chunk);
        let missing = num_chunks * chunk - length;
        let xs = pre_logits
            .pad_in_dim(1, 0, missing, 0.0)?
            .reshape(&[batch, num_chunks, chunk, width])?
            .transpose(&[1, 0, 2, 3])?;
        let targets = targets
            .pad_in_dim(1, 0, missing, 0.0)?
            .reshape(&[batch, num_chunks, chunk])?
            .transpose(&[1, 0, 2])?;
        let options = ScanOptions { policy: RematPolicy::NothingSaveable, reverse: false };
        let b = Value::innermost(&[pre_logits, table]).clone();
        let (_, outputs) = b.scan(num_chunks, &[], &[xs, targets], options, |_, _, steps| {
            Ok((vec![], vec![self.chunk_log_likelihood(&steps[0], table, &steps[1])?]))
        })?;
        outputs[0].transpose(&[1, 0, 2])?.reshape(&[batch, num_chunks * chunk])?.slice_in_dim(1, 0, length)
    }

    /// `Σ_v target[v] · log_softmax(logits)[v]`, without the one-hot targets: the target's logit is
    /// picked by comparison, which stays inside the fused loops over the vocabulary.
    fn chunk_log_likelihood(&self, pre_logits: &Value, table: &Value, targets: &Value) -> Result<Value> {
        let logits = logits(table, pre_logits)?;
        let last = logits.rank() - 1;
        let vocab = logits.dims()[last];
        let index = logits.builder().iota(Shape::new(DType::S32, logits.dims()), last)?;
        let is_target = index.eq(&targets.expand_dim(last)?)?;
        let picked = is_target.select(&logits, &logits.full_like(0.0)?)?.reduce_sum(&[last])?;
        let normalizer = log_sum_exp(&logits)?;
        let of_target = picked.sub(&normalizer)?;
        if self.label_smoothing == 0.0 {
            return Ok(of_target);
        }
        let on = 1.0 - self.label_smoothing;
        let off = self.label_smoothing / (vocab as f64 - 1.0);
        let of_all = logits.reduce_sum(&[last])?.sub(&normalizer.mul_scalar(vocab as f64)?)?;
        of_target.mul_scalar(on)?.add(&of_all.sub(&of_target)?.mul_scalar(off)?)
    }
}
