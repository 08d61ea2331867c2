//! The graph of decoding.

use super::DecodeConfig;
use crate::array::{DType, Shape};
use crate::graph::{Result, Value};
use crate::model::{KvCache, PaliGemmaConfig, Taps};
use crate::nn::{Params, log_sum_exp};

/// Prompts as a program sees them.
#[derive(Debug, Clone)]
pub struct PromptValues {
    /// `f32 [B, H, W, 3]` in -1 to 1.
    pub image: Value,
    /// `s32 [B, T]`, aligned to the left.
    pub text: Value,
    /// `s32 [B, T]`: 1 on tokens, 0 on padding.
    pub mask_input: Value,
    /// `s32 [B, T]`: see [`AttentionMask::prefix_lm`](crate::nn::AttentionMask::prefix_lm).
    pub mask_ar: Value,
    /// `pred [B]`: false for rows that only fill the batch; nobody waits for their end.
    pub mask: Value,
}

/// What decoding leaves.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// `s32 [B, max_decode_len]`: emitted tokens, 0 from `num_steps` on. A row that has emitted the
    /// end-of-sequence token continues until all rows have.
    pub tokens: Value,
    /// `f32 [B, max_decode_len]`: the log-probability of each token, 0 from `num_steps` on.
    pub logp: Value,
    /// `s32[]`: how many tokens were emitted for each row.
    pub num_steps: Value,
}

/// Continues prompts. `taps` may ask for `prefill_logits [B, V]`, those of the last token of each prompt,
/// and `step_logits [B, max_decode_len, V]`, those that each token was chosen from.
#[track_caller]
pub fn decode(
    model: &PaliGemmaConfig,
    params: &Params,
    prompts: &PromptValues,
    config: &DecodeConfig,
    taps: &mut Taps,
) -> Result<Decoded> {
    let b = params.builder();
    let _scope = b.scope("decode");
    let max_len = config.max_decode_len;
    if max_len == 0 {
        return Err(b.error("decode expects a max_decode_len of at least 1, got 0".into()));
    }
    let params = &model.narrowed(params)?;
    let is_token = prompts.mask_input.gt_scalar(0.0)?;
    let (image, text, mask_ar) = (&prompts.image, &prompts.text, &prompts.mask_ar);
    let prompt = model.embed(params, image, text, Some(&is_token), mask_ar, &mut Taps::none())?;
    let prompt_len = prompt.x.dims()[1];
    let (logits, cache, num_valid) = model.prefill(params, &prompt, max_len)?;

    let batch = text.dims()[0];
    let step_logits =
        taps.wanted().then(|| b.zeros(&Shape::new(DType::F32, [batch, max_len, logits.dims()[1]])));
    let mut start = State {
        num_steps: b.scalar(DType::S32, 0.0)?,
        last: b.zeros(&Shape::new(DType::S32, [batch]))?,
        finished: prompts.mask.not()?,
        tokens: b.zeros(&Shape::new(DType::S32, [batch, max_len]))?,
        logp: b.zeros(&Shape::new(DType::F32, [batch, max_len]))?,
        cache,
        step_logits: step_logits.transpose()?,
    };
    start.emit(&logits, config)?;
    let end = b.while_loop(
        &start.into_values(),
        |b, carries| {
            let state = State::from_values(carries)?;
            let is_room = state.num_steps.lt(&b.scalar(DType::S32, max_len as f64)?)?;
            is_room.and(&state.finished.reduce_and(&[0])?.not()?)
        },
        |b, carries| {
            let params = &params.within(b);
            let mut state = State::from_values(carries)?;
            let decoded_before = state.num_steps.sub_scalar(1.0)?;
            let (logits, cache) =
                model.extend(params, &state.last, &state.cache, &num_valid, prompt_len, &decoded_before)?;
            state.cache = cache;
            state.emit(&logits, config)?;
            Ok(state.into_values())
        },
    )?;
    let end = State::from_values(&end)?;
    taps.put("prefill_logits", &logits);
    if let Some(step_logits) = &end.step_logits {
        taps.put("step_logits", step_logits);
    }
    Ok(Decoded { tokens: end.tokens, logp: end.logp, num_steps: end.num_steps })
}

/// What the loop carries from token to token.
struct State {
    /// `s32[]`: tokens emitted for each row.
    num_steps: Value,
    /// `s32 [B]`: the last of them.
    last: Value,
    /// `pred [B]`
    finished: Value,
    tokens: Value,
    logp: Value,
    cache: KvCache,
    step_logits: Option<Value>,
}

impl State {
    fn into_values(self) -> Vec<Value> {
        let State { num_steps, last, finished, tokens, logp, cache, step_logits } = self;
        let always = [num_steps, last, finished, tokens, logp, cache.keys, cache.values];
        always.into_iter().chain(step_logits).collect()
    }

    #[track_caller]
    fn from_values(values: &[Value]) -> Result<Self> {
        let [num_steps, last, finished, tokens, logp, keys, of_cache, rest @ ..] = values else {
            unreachable!("the loop carries what into_values gave it");
        };
        Ok(State {
            num_steps: num_steps.clone(),
            last: last.clone(),
            finished: finished.clone(),
            tokens: tokens.clone(),
            logp: logp.clone(),
            cache: KvCache { keys: keys.clone(), values: of_cache.clone() },
            step_logits: rest.first().cloned(),
        })
    }

    /// Chooses the next token of each row from logits `[B, V]` and notes it.
    #[track_caller]
    fn emit(&mut self, logits: &Value, config: &DecodeConfig) -> Result<()> {
        let token = config.sampler.choose(logits)?;
        let logp = log_prob(logits, &token)?;
        let zero = token.builder().scalar(DType::S32, 0.0)?;
        let column = [&zero, &self.num_steps];
        self.tokens = self.tokens.dynamic_update_slice(&token.expand_dim(1)?, &column)?;
        self.logp = self.logp.dynamic_update_slice(&logp.expand_dim(1)?, &column)?;
        if let Some(all) = &self.step_logits {
            self.step_logits =
                Some(all.dynamic_update_slice(&logits.expand_dim(1)?, &[&zero, &self.num_steps, &zero])?);
        }
        self.finished = self.finished.or(&token.eq_scalar(f64::from(config.eos_token))?)?;
        self.num_steps = self.num_steps.add_scalar(1.0)?;
        self.last = token;
        Ok(())
    }
}

/// Of tokens `s32 [B]` under logits `[B, V]`, without the temperature or mask of any sampler.
#[track_caller]
fn log_prob(logits: &Value, token: &Value) -> Result<Value> {
    let chosen = logits.take_along_last(&token.expand_dim(1)?)?.reshape(token.dims())?;
    chosen.sub(&log_sum_exp(logits)?)
}
