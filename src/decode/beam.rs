//! Beam search (`_beam_decode`).
//!
//! Of each prompt, K beginnings are alive. In each step, the best of them that could end here becomes the best
//! finished continuation, where it is better than the last one; the K likeliest of their extensions by any other
//! token live on. Scores are sums of log-probabilities, whatever the length. Axes: B prompts, N beginnings before a
//! step (1 in the first, then K), K beginnings after it, L tokens, V vocabulary.

use super::program::{Context, Decoded, PromptValues, Search, Tip, first_rows, pick_candidates};
use super::{DecodeConfig, Method};
use crate::array::{DType, Shape};
use crate::graph::{Result, Value};
use crate::nn::log_sum_exp;

/// Lower than any score of a candidate that may live on.
const NEVER: f64 = f32::MIN as f64;

pub(super) struct Beams {
    /// `pred [B]`: whether somebody waits for the prompt.
    mask: Value,
    /// `f32 [B]`: the score of the best finished continuation.
    best_score: Value,
    /// `s32 [B, L]`: its tokens, 0 behind the end.
    best_tokens: Value,
    /// `f32 [B, L]`
    best_logp: Value,
    /// `s32 [B, N, L]`: the beginnings that are alive.
    tokens: Value,
    /// `f32 [B, N, L]`: 0 where there is no token yet.
    logp: Value,
}

impl Beams {
    /// Chooses the first tokens, from the logits `[B, V]` behind each prompt.
    #[track_caller]
    pub fn start(
        context: &Context<'_>,
        prompts: &PromptValues,
        mut tip: Tip,
        logits: &Value,
    ) -> Result<(Tip, Self)> {
        let b = logits.builder();
        let (batch, max_len) = (logits.dims()[0], context.config.max_decode_len);
        let zeros = |dtype: DType, dims: &[usize]| b.zeros(&Shape::new(dtype, dims));
        let mut beams = Beams {
            mask: prompts.mask.clone(),
            best_score: b.full(&Shape::new(DType::F32, [batch]), f64::NEG_INFINITY)?,
            best_tokens: zeros(DType::S32, &[batch, max_len])?,
            best_logp: zeros(DType::F32, &[batch, max_len])?,
            tokens: zeros(DType::S32, &[batch, 1, max_len])?,
            logp: zeros(DType::F32, &[batch, 1, max_len])?,
        };
        beams.emit(context, &mut tip, logits)?;
        Ok((tip, beams))
    }

    pub fn decoded(self, tip: Tip) -> Decoded {
        Decoded { tokens: self.best_tokens, logp: self.best_logp, num_steps: tip.num_steps }
    }

    /// Lets each beginning end here, with the log-probability `[B, N, 1]` of that.
    #[track_caller]
    fn finish(&mut self, eos_token: i32, end_logp: &Value, column: &[&Value]) -> Result<()> {
        let end = end_logp.builder().full(&end_logp.shape().with_dtype(DType::S32), f64::from(eos_token))?;
        let logp = self.logp.dynamic_update_slice(end_logp, column)?;
        let tokens = self.tokens.dynamic_update_slice(&end, column)?;
        let score = logp.reduce_sum(&[2])?;
        // Of equals the older.
        let scores = Value::concatenate(&[&self.best_score.expand_dim(1)?, &score], 1)?;
        let place = scores.argmax(1)?.expand_dim(1)?;
        let pick = |best: &Value, new: &Value| {
            let all = Value::concatenate(&[&best.expand_dim(1)?, new], 1)?;
            pick_candidates(&all, &place)?.reshape(best.dims())
        };
        self.best_tokens = pick(&self.best_tokens, &tokens)?;
        self.best_logp = pick(&self.best_logp, &logp)?;
        self.best_score = scores.reduce_max(&[1])?;
        Ok(())
    }
}

impl Search for Beams {
    fn into_values(self) -> Vec<Value> {
        let Beams { mask, best_score, best_tokens, best_logp, tokens, logp } = self;
        vec![mask, best_score, best_tokens, best_logp, tokens, logp]
    }

    fn from_values(values: &[Value], _config: &DecodeConfig) -> Result<Self> {
        let [mask, best_score, best_tokens, best_logp, tokens, logp] = values else {
            unreachable!("the loop carries what into_values gave it");
        };
        Ok(Beams {
            mask: mask.clone(),
            best_score: best_score.clone(),
            best_tokens: best_tokens.clone(),
            best_logp: best_logp.clone(),
            tokens: tokens.clone(),
            logp: logp.clone(),
        })
    }

    /// Whether no beginning that is alive can become better than what is finished: scores only fall.
    #[track_caller]
    fn is_done(&self) -> Result<Value> {
        let live = self.logp.reduce_sum(&[2])?.reduce_max(&[1])?;
        live.lt(&self.best_score)?.or(&self.mask.not()?)?.reduce_and(&[0])
    }

    #[track_caller]
    fn emit(&mut self, context: &Context<'_>, tip: &mut Tip, logits: &Value) -> Result<()> {
        let b = logits.builder().clone();
        let Method::Beam { beam_size } = context.config.method else {
            return Err(b.error("beam search expects a size".into()));
        };
        let &[batch, count, max_len] = self.tokens.dims() else {
            return Err(b.error(format!("beginnings expect [B, N, L], got {}", self.tokens.shape())));
        };
        let log_probs = logits.sub(&log_sum_exp(logits)?.expand_dim(1)?)?;
        let log_probs = log_probs.reshape(&[batch, count, logits.dims()[1]])?;
        let zero = b.scalar(DType::S32, 0.0)?;
        let step = tip.num_steps.clone();
        let column = [&zero, &zero, &step];
        let live = self.logp.reduce_sum(&[2])?.expand_dim(2)?;

        let eos_token = context.config.eos_token;
        // The config was checked: the end is a token of the vocabulary, and so are K others that may be emitted.
        let end = eos_token as usize;
        self.finish(eos_token, &log_probs.slice_in_dim(2, end, end + 1)?, &column)?;

        // Of K + 1 extensions of each beginning, one at most is the end.
        let (logp, token) = context.masked(&log_probs, NEVER)?.top_k(beam_size + 1)?;
        let scores = live.add(&logp)?;
        let scores = token.eq_scalar(f64::from(eos_token))?.select(&scores.full_like(NEVER)?, &scores)?;
        let flat = [batch, count * (beam_size + 1)];
        let (_, places) = scores.reshape(&flat)?.top_k(beam_size)?;
        let token = token.reshape(&flat)?.take_along_last(&places)?;
        let logp = logp.reshape(&flat)?.take_along_last(&places)?;
        let parent = places.div_scalar((beam_size + 1) as f64)?;

        let rows = first_rows(&places, batch, beam_size, count)?.add(&parent)?;
        tip.pick_rows(&rows.reshape(&[batch * beam_size])?)?;
        let pick = |x: &Value, new: &Value| {
            let kept = x.reshape(&[batch * count, max_len])?.take(&rows)?;
            kept.dynamic_update_slice(&new.expand_dim(2)?, &column)
        };
        self.tokens = pick(&self.tokens, &token)?;
        self.logp = pick(&self.logp, &logp)?;
        tip.num_steps = tip.num_steps.add_scalar(1.0)?;
        tip.last = token.reshape(&[batch * beam_size])?;
        Ok(())
    }
}
