//! The training loss, which never holds the logits of a whole batch at once when they are many.
//!
//! They are computed for a part of the vocabulary at a time, and again in the backward pass. Each part
//! of the embedding table is then read once, and its gradient is written once; cutting the batch instead
//! would read the table and add to all of its gradient for every part.

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
    /// Positions of each row whose logits are computed at once; 0 for all. Without it, the vocabulary is
    /// cut instead, where logits would take more than a quarter of a GiB.
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

/// What the logits of one part, with its part of the table, may take.
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

    /// Smoothed log-likelihood of each target, `f32 [B, T]`.
    fn log_likelihood(&self, pre_logits: &Value, table: &Value, targets: &Value) -> Result<Value> {
        let (&[batch, length, width], &[vocab, _]) = (pre_logits.dims(), table.dims()) else {
            let (x, table) = (pre_logits.shape(), table.shape());
            let message =
                format!("loss expects activations [B, T, D] and a table [V, D], got {x} and {table}");
            return Err(pre_logits.builder().error(message));
        };
        let float = DType::F32.num_bytes();
        match self.chunk_tokens {
            None => match vocab_chunks(batch * length, width, vocab) {
                Some(chunks) => self.by_vocab(pre_logits, table, targets, chunks),
                // No even cut: positions can be cut anyhow.
                None => {
                    let tokens = CHUNK_BYTES / (batch * vocab * float).max(1);
                    self.by_tokens(pre_logits, table, targets, tokens)
                }
            },
            Some(0) => self.by_vocab(pre_logits, table, targets, 1),
            Some(tokens) => self.by_tokens(pre_logits, table, targets, tokens),
        }
    }

    /// As [`log_likelihood`](Self::log_likelihood), with the table in `chunks` equal parts.
    fn by_vocab(&self, pre_logits: &Value, table: &Value, targets: &Value, chunks: usize) -> Result<Value> {
        let &[vocab, width] = table.dims() else { unreachable!("the table's rank was checked") };
        if chunks == 1 {
            return self.combine(&statistics(pre_logits, table, targets)?, vocab);
        }
        let rows = vocab / chunks;
        let b = Value::innermost(&[pre_logits, table]).clone();
        let parts = table.reshape(&[chunks, rows, width])?;
        let starts = b.iota(Shape::new(DType::S32, [chunks]), 0)?.mul_scalar(rows as f64)?;
        let (_, of_parts) = b.scan(chunks, &[], &[parts, starts], ScanOptions::default(), |_, _, part| {
            let targets = targets.sub(&part[1].broadcast_to(targets.dims())?)?;
            let Statistics { of_target, normalizer, sum } = statistics(pre_logits, &part[0], &targets)?;
            Ok((vec![], vec![of_target, normalizer, sum]))
        })?;
        let whole = Statistics {
            of_target: of_parts[0].reduce_sum(&[0])?,
            normalizer: log_sum_exp(&of_parts[1].transpose(&[1, 2, 0])?)?,
            sum: of_parts[2].reduce_sum(&[0])?,
        };
        self.combine(&whole, vocab)
    }

    /// As [`log_likelihood`](Self::log_likelihood), for `tokens` positions of each row at a time.
    fn by_tokens(&self, pre_logits: &Value, table: &Value, targets: &Value, tokens: usize) -> Result<Value> {
        let &[batch, length, width] = pre_logits.dims() else { unreachable!("the rank was checked") };
        let chunk = tokens.clamp(1, length.max(1));
        if chunk == length {
            return self.by_vocab(pre_logits, table, targets, 1);
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
            // Bound to the step, so that no compiler keeps a converted copy of the table across the loop.
            let bound = Value::optimization_barrier(&[table, &steps[0]])?;
            let statistics = statistics(&bound[1], &bound[0], &steps[1])?;
            Ok((vec![], vec![self.combine(&statistics, table.dims()[0])?]))
        })?;
        outputs[0].transpose(&[1, 0, 2])?.reshape(&[batch, num_chunks * chunk])?.slice_in_dim(1, 0, length)
    }

    /// `Σ_v target[v] · log_softmax(logits)[v]` over a whole vocabulary.
    fn combine(&self, statistics: &Statistics, vocab: usize) -> Result<Value> {
        let Statistics { of_target, normalizer, sum } = statistics;
        let of_target = of_target.sub(normalizer)?;
        if self.label_smoothing == 0.0 {
            return Ok(of_target);
        }
        let on = 1.0 - self.label_smoothing;
        let off = self.label_smoothing / (vocab as f64 - 1.0);
        let of_all = sum.sub(&normalizer.mul_scalar(vocab as f64)?)?;
        of_target.mul_scalar(on)?.add(&of_all.sub(&of_target)?.mul_scalar(off)?)
    }
}

/// What the loss has to know of the logits, `f32 [B, T]` each.
struct Statistics {
    /// The logit of the target, or 0 where the target is not among them.
    of_target: Value,
    /// `log(Σ exp(logit))`.
    normalizer: Value,
    /// Of all logits.
    sum: Value,
}

/// Of the logits under the rows of a table, or of a part of one.
fn statistics(pre_logits: &Value, table: &Value, targets: &Value) -> Result<Statistics> {
    let logits = logits(table, pre_logits)?;
    let last = logits.rank() - 1;
    // Without one-hot targets: the comparison stays inside the fused loops over the vocabulary.
    let index = logits.builder().iota(Shape::new(DType::S32, logits.dims()), last)?;
    let is_target = index.eq(&targets.expand_dim(last)?)?;
    Ok(Statistics {
        of_target: is_target.select(&logits, &logits.full_like(0.0)?)?.reduce_sum(&[last])?,
        normalizer: log_sum_exp(&logits)?,
        sum: logits.reduce_sum(&[last])?,
    })
}

/// The number of equal parts of a vocabulary that keeps the logits of `tokens` positions, and the part of
/// the table in `f32`, within [`CHUNK_BYTES`]; `None` where it has no divisor near that.
fn vocab_chunks(tokens: usize, width: usize, vocab: usize) -> Option<usize> {
    let float = DType::F32.num_bytes();
    // Logits that fit need no cut, however large the table is.
    if tokens * vocab * float <= CHUNK_BYTES {
        return Some(1);
    }
    let least = (vocab * (tokens + width) * float).div_ceil(CHUNK_BYTES);
    (least..=least.saturating_mul(4).min(vocab)).find(|&chunks| vocab.is_multiple_of(chunks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::HostArray;
    use crate::autodiff::gradient;
    use crate::exec::run_once;
    use crate::graph::Builder;
    use crate::runtime::testing::cpu_client;

    #[test]
    fn vocabularies_are_cut_evenly_into_parts_that_fit() {
        assert_eq!(vocab_chunks(8 * 127, 2304, 257_152), Some(14));
        assert_eq!(vocab_chunks(512, 256, 4096), Some(1));
        // A prime vocabulary has no even cut.
        assert_eq!(vocab_chunks(8 * 127, 2304, 257_161), None);
    }

    #[test]
    fn parts_of_the_vocabulary_add_up_to_the_whole() {
        let (batch, length, width, vocab) = (2, 5, 6, 28);
        let wave = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
        let inputs = [
            HostArray::new([batch, length, width], &wave(batch * length * width, 0.7)).unwrap(),
            // Large logits, of which most parts hold none that counts.
            HostArray::new(
                [vocab, width],
                &wave(vocab * width, 1.3).iter().map(|x| 20.0 * x).collect::<Vec<_>>(),
            )
            .unwrap(),
            HostArray::new([batch, length], &[0i32, 27, 3, 4, 6, 7, 13, 14, 20, 21]).unwrap(),
        ];
        let b = Builder::new("parts");
        let values: Vec<Value> =
            inputs.iter().map(|input| b.parameter("input", input.shape().clone()).unwrap()).collect();
        for label_smoothing in [0.0, 0.1] {
            let config = LossConfig { label_smoothing, ..Default::default() };
            let mut outputs = Vec::new();
            for chunks in [1, 2, 7, 28] {
                let likelihood = config.by_vocab(&values[0], &values[1], &values[2], chunks).unwrap();
                outputs.push(likelihood.clone());
                outputs.extend(gradient(&likelihood.sum_all().unwrap(), &values[..2]).unwrap());
            }
            let function = b.finish(&outputs.iter().collect::<Vec<_>>()).unwrap();
            let results = run_once(&cpu_client(), &function, &inputs.iter().collect::<Vec<_>>()).unwrap();
            let (whole, parts) = results.split_at(3);
            for (i, part) in parts.iter().enumerate() {
                let (got, expected) = (part.values::<f32>().unwrap(), whole[i % 3].values::<f32>().unwrap());
                let largest = expected.iter().fold(0.0f32, |max, value| max.max(value.abs()));
                let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // Differences of logits of this size are good to a few times 1e-6.
                assert!(worst <= 2e-6 * largest, "{i}: off by {worst:e} of {largest:e}");
            }
        }
    }
}
