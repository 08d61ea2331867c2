//! Continuations that are chosen token by token (`_decode_with_logp`).

use super::program::{Context, Decoded, PromptValues, Search, Tip, first_rows, pick_candidates};
use super::{DecodeConfig, Method, Sampler};
use crate::array::{DType, Shape};
use crate::graph::{Result, Value};
use crate::nn::log_sum_exp;

/// Of R rows: `best_of_n` for each prompt, next to each other.
pub(super) struct Samples {
    /// `pred [R]`
    pub finished: Value,
    /// `s32 [R, max_decode_len]`
    pub tokens: Value,
    /// `f32 [R, max_decode_len]`
    pub logp: Value,
    /// `u64[2]`, where tokens are drawn.
    random_state: Option<Value>,
    /// `f32 [R, max_decode_len, V]`, where somebody asked for them.
    pub step_logits: Option<Value>,
}

impl Samples {
    /// Emits the first token of each row, from the logits behind each prompt.
    #[track_caller]
    pub fn start(
        context: &Context<'_>,
        prompts: &PromptValues,
        mut tip: Tip,
        mut logits: Value,
        random_state: Option<&Value>,
        keep_logits: bool,
    ) -> Result<(Tip, Self)> {
        let b = logits.builder().clone();
        let mut mask = prompts.mask.clone();
        let best_of_n = context.config.method.rows_each();
        if best_of_n > 1 {
            let batch = logits.dims()[0];
            let rows = first_rows(&logits, batch, best_of_n, 1)?.reshape(&[batch * best_of_n])?;
            tip.pick_rows(&rows)?;
            logits = logits.take(&rows)?;
            mask = mask.take(&rows)?;
        }
        let (rows, max_len) = (logits.dims()[0], context.config.max_decode_len);
        let zeros = |dtype: DType, dims: &[usize]| b.zeros(&Shape::new(dtype, dims));
        let mut samples = Samples {
            finished: mask.not()?,
            tokens: zeros(DType::S32, &[rows, max_len])?,
            logp: zeros(DType::F32, &[rows, max_len])?,
            random_state: random_state.filter(|_| context.config.method.draws()).cloned(),
            step_logits: match keep_logits {
                true => Some(zeros(DType::F32, &[rows, max_len, logits.dims()[1]])?),
                false => None,
            },
        };
        samples.emit(context, &mut tip, &logits)?;
        Ok((tip, samples))
    }

    /// The likeliest continuation of each prompt, its end included (`_bon_select`).
    #[track_caller]
    pub fn decoded(self, context: &Context<'_>, tip: Tip) -> Result<Decoded> {
        let Samples { mut tokens, mut logp, .. } = self;
        let best_of_n = context.config.method.rows_each();
        if best_of_n > 1 {
            let &[rows, max_len] = tokens.dims() else {
                return Err(tokens.builder().error(format!("tokens expect [R, L], got {}", tokens.shape())));
            };
            let is_end = tokens.eq_scalar(f64::from(context.config.eos_token))?.convert(DType::S32)?;
            let is_behind_end = is_end.cumsum(1)?.sub(&is_end)?.gt_scalar(0.0)?;
            let counted = is_behind_end.select(&logp.full_like(0.0)?, &logp)?;
            let batch = rows / best_of_n;
            let best = counted.reduce_sum(&[1])?.reshape(&[batch, best_of_n])?.argmax(1)?.expand_dim(1)?;
            let pick = |x: &Value| {
                pick_candidates(&x.reshape(&[batch, best_of_n, max_len])?, &best)?.reshape(&[batch, max_len])
            };
            tokens = pick(&tokens)?;
            logp = pick(&logp)?;
        }
        Ok(Decoded { tokens, logp, num_steps: tip.num_steps })
    }
}

impl Search for Samples {
    fn into_values(self) -> Vec<Value> {
        let Samples { finished, tokens, logp, random_state, step_logits } = self;
        [finished, tokens, logp].into_iter().chain(random_state).chain(step_logits).collect()
    }

    fn from_values(values: &[Value], config: &DecodeConfig) -> Result<Self> {
        let [finished, tokens, logp, rest @ ..] = values else {
            unreachable!("the loop carries what into_values gave it");
        };
        let (random, rest) = rest.split_at(usize::from(config.method.draws()));
        Ok(Samples {
            finished: finished.clone(),
            tokens: tokens.clone(),
            logp: logp.clone(),
            random_state: random.first().cloned(),
            step_logits: rest.first().cloned(),
        })
    }

    #[track_caller]
    fn is_done(&self) -> Result<Value> {
        self.finished.reduce_and(&[0])
    }

    #[track_caller]
    fn emit(&mut self, context: &Context<'_>, tip: &mut Tip, logits: &Value) -> Result<()> {
        let sampler = match context.config.method {
            Method::Sample { sampler, .. } => sampler,
            Method::Beam { .. } => Sampler::Greedy,
        };
        let masked = context.masked(logits, f64::NEG_INFINITY)?;
        let (token, random_state) = sampler.choose(&masked, self.random_state.as_ref())?;
        self.random_state = random_state;
        let logp = log_prob(logits, &token)?;
        let zero = token.builder().scalar(DType::S32, 0.0)?;
        let column = [&zero, &tip.num_steps];
        self.tokens = self.tokens.dynamic_update_slice(&token.expand_dim(1)?, &column)?;
        self.logp = self.logp.dynamic_update_slice(&logp.expand_dim(1)?, &column)?;
        if let Some(all) = &self.step_logits {
            let start = [&zero, &tip.num_steps, &zero];
            self.step_logits = Some(all.dynamic_update_slice(&logits.expand_dim(1)?, &start)?);
        }
        self.finished = self.finished.or(&token.eq_scalar(f64::from(context.config.eos_token))?)?;
        tip.num_steps = tip.num_steps.add_scalar(1.0)?;
        tip.last = token;
        Ok(())
    }
}

/// Of tokens `s32 [R]` under logits `[R, V]`, without the temperature of any sampler and without the mask.
#[track_caller]
fn log_prob(logits: &Value, token: &Value) -> Result<Value> {
    let chosen = logits.take_along_last(&token.expand_dim(1)?)?.reshape(token.dims())?;
    chosen.sub(&log_sum_exp(logits)?)
}
