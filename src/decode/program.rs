//! The graph of decoding: a prompt's cache, and the loop that every search runs in.

use super::beam::Beams;
use super::sample::Samples;
use super::{DecodeConfig, Method};
use crate::array::{DType, HostArray, Shape};
use crate::graph::{GatherDims, Result, Value};
use crate::model::{KvCache, PaliGemmaConfig, Taps};
use crate::nn::Params;

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
    /// end-of-sequence token continues until all rows have; of beam search there is only 0 behind it.
    pub tokens: Value,
    /// `f32 [B, max_decode_len]`: the log-probability of each token, 0 where there is none.
    pub logp: Value,
    /// `s32[]`: how many tokens were emitted for each row.
    pub num_steps: Value,
}

/// Continues prompts. A sampler that draws needs a `random_state`, `u64[2]`. `taps` may ask for
/// `prefill_logits [B, V]`, those of the last token of each prompt, and, of samples,
/// `step_logits [B, max_decode_len, V]`, those that each token was chosen from.
#[track_caller]
pub fn decode(
    model: &PaliGemmaConfig,
    params: &Params,
    prompts: &PromptValues,
    random_state: Option<&Value>,
    config: &DecodeConfig,
    taps: &mut Taps,
) -> Result<Decoded> {
    let b = params.builder();
    let _scope = b.scope("decode");
    let context = Context::new(model, params, config, prompts.text.dims()[1])?;
    let (logits, tip) = context.prefill(prompts)?;
    taps.put("prefill_logits", &logits);
    let all = b.scalar(DType::S32, config.max_decode_len as f64)?;
    match config.method {
        Method::Sample { .. } => {
            let (tip, samples) = Samples::start(&context, prompts, tip, logits, random_state, taps.wanted())?;
            let (tip, samples) = context.run(tip, samples, &all)?;
            if let Some(step_logits) = &samples.step_logits {
                taps.put("step_logits", step_logits);
            }
            samples.decoded(&context, tip)
        }
        Method::Beam { .. } => {
            let (tip, beams) = Beams::start(&context, prompts, tip, &logits)?;
            let (tip, beams) = context.run(tip, beams, &all)?;
            Ok(beams.decoded(tip))
        }
    }
}

/// What a search notes of the tokens that it has chosen; part of what the loop carries.
pub(super) trait Search: Sized {
    fn into_values(self) -> Vec<Value>;

    /// As [`into_values`](Self::into_values) gave them.
    fn from_values(values: &[Value], config: &DecodeConfig) -> Result<Self>;

    /// `pred[]`: whether more tokens would change nothing for rows that somebody waits for.
    fn is_done(&self) -> Result<Value>;

    /// Chooses the next token of each row, from logits `[R, V]`.
    fn emit(&mut self, context: &Context<'_>, tip: &mut Tip, logits: &Value) -> Result<()>;
}

/// What stays the same from token to token.
pub(super) struct Context<'a> {
    model: &'a PaliGemmaConfig,
    params: Params,
    pub config: &'a DecodeConfig,
    /// Positions of the longest prompt, its image included.
    prompt_len: usize,
    /// `pred [V]`: tokens that may be emitted; all without it.
    allows: Option<Value>,
}

impl<'a> Context<'a> {
    /// `text_len` is the extent of the prompts' text.
    #[track_caller]
    pub fn new(
        model: &'a PaliGemmaConfig,
        params: &Params,
        config: &'a DecodeConfig,
        text_len: usize,
    ) -> Result<Self> {
        let b = params.builder();
        let vocab_size = model.llm.vocab_size;
        config.check(vocab_size).map_err(|error| b.error(error.to_string()))?;
        let allows = match config.mask_logits.allows_all() {
            true => None,
            false => {
                let bytes: Vec<u8> =
                    config.mask_logits.allows(vocab_size).into_iter().map(u8::from).collect();
                let array = HostArray::from_bytes(Shape::new(DType::Pred, [vocab_size]), &bytes);
                Some(b.constant(array.map_err(|error| b.error(error.to_string()))?)?)
            }
        };
        let prompt_len = model.num_image_tokens() + text_len;
        Ok(Context { model, params: model.narrowed(params)?, config, prompt_len, allows })
    }

    /// Logits `[B, V]` behind each prompt, and where decoding stands then.
    #[track_caller]
    pub fn prefill(&self, prompts: &PromptValues) -> Result<(Value, Tip)> {
        let b = self.params.builder();
        let is_token = prompts.mask_input.gt_scalar(0.0)?;
        let PromptValues { image, text, mask_ar, .. } = prompts;
        let prompt =
            self.model.embed(&self.params, image, text, Some(&is_token), mask_ar, &mut Taps::none())?;
        let (logits, cache, num_valid) =
            self.model.prefill(&self.params.without_layers(), &prompt, self.config.max_decode_len)?;
        let num_steps = b.scalar(DType::S32, 0.0)?;
        let last = b.zeros(&Shape::new(DType::S32, [text.dims()[0]]))?;
        Ok((logits, Tip { num_steps, last, num_valid, cache }))
    }

    /// Emits tokens until the search is done or so many (`s32[]`) are emitted for each row.
    #[track_caller]
    pub fn run<S: Search>(&self, tip: Tip, search: S, limit: &Value) -> Result<(Tip, S)> {
        let from_values = |values: &[Value]| -> Result<(Tip, S)> {
            let (tip, search) = values.split_at(Tip::NUM_VALUES);
            Ok((Tip::from_values(tip), S::from_values(search, self.config)?))
        };
        let start = join(tip, search);
        let end = self.params.builder().while_loop(
            &start,
            |_, carries| {
                let (tip, search) = from_values(carries)?;
                tip.num_steps.lt(limit)?.and(&search.is_done()?.not()?)
            },
            |b, carries| {
                let (mut tip, mut search) = from_values(carries)?;
                let decoded_before = tip.num_steps.sub_scalar(1.0)?;
                let (logits, cache) = self.model.extend(
                    &self.params.within(b),
                    &tip.last,
                    &tip.cache,
                    &tip.num_valid,
                    self.prompt_len,
                    &decoded_before,
                )?;
                tip.cache = cache;
                search.emit(self, &mut tip, &logits)?;
                Ok(join(tip, search))
            },
        )?;
        from_values(&end)
    }

    /// Logits `[…, V]` with those of tokens that may not be emitted replaced by `never`.
    #[track_caller]
    pub fn masked(&self, logits: &Value, never: f64) -> Result<Value> {
        let Some(allows) = &self.allows else { return Ok(logits.clone()) };
        let last = logits.rank() - 1;
        let allows = allows.broadcast_in_dim(logits.dims(), &[last])?;
        allows.select(logits, &logits.full_like(never)?)
    }
}

/// What the loop carries.
pub(super) fn join(tip: Tip, search: impl Search) -> Vec<Value> {
    let mut values = tip.into_values();
    values.extend(search.into_values());
    values
}

/// Where decoding stands: all that the model needs for the next logits of each of R rows.
pub(super) struct Tip {
    /// `s32[]`: tokens emitted for each row.
    pub num_steps: Value,
    /// `s32 [R]`: the last of them.
    pub last: Value,
    /// `s32 [R]`: valid tokens of each prompt.
    pub num_valid: Value,
    pub cache: KvCache,
}

impl Tip {
    pub const NUM_VALUES: usize = 5;

    fn into_values(self) -> Vec<Value> {
        let Tip { num_steps, last, num_valid, cache } = self;
        vec![num_steps, last, num_valid, cache.keys, cache.values]
    }

    pub fn from_values(values: &[Value]) -> Self {
        let [num_steps, last, num_valid, keys, values] = values else {
            unreachable!("the loop carries what into_values gave it");
        };
        Tip {
            num_steps: num_steps.clone(),
            last: last.clone(),
            num_valid: num_valid.clone(),
            cache: KvCache { keys: keys.clone(), values: values.clone() },
        }
    }

    /// Replaces the prompts and caches of all rows by those of the rows with these numbers, `s32 [R]`. What was
    /// emitted last is the caller's to say.
    #[track_caller]
    pub fn pick_rows(&mut self, rows: &Value) -> Result<()> {
        let pick = |x: &Value| {
            let mut slice_sizes = x.dims().to_vec();
            slice_sizes[1] = 1;
            let dims = GatherDims {
                offset_dims: vec![0, 2, 3, 4],
                collapsed_slice_dims: vec![1],
                start_index_map: vec![1],
                operand_batching_dims: vec![],
                start_indices_batching_dims: vec![],
                index_vector_dim: 1,
                slice_sizes,
            };
            x.gather(rows, dims)
        };
        self.cache = KvCache { keys: pick(&self.cache.keys)?, values: pick(&self.cache.values)? };
        self.num_valid = self.num_valid.take(rows)?;
        Ok(())
    }
}

/// Numbers of the first of `each` rows that stand for each of `batch` prompts, as `s32 [batch, columns]`.
#[track_caller]
pub(super) fn first_rows(like: &Value, batch: usize, columns: usize, each: usize) -> Result<Value> {
    let index = like.builder().iota(Shape::new(DType::S32, [batch, columns]), 0)?;
    index.mul_scalar(each as f64)
}

/// Of candidates `[B, N, L]`, those at places `s32 [B, K]`: `[B, K, L]`.
#[track_caller]
pub(super) fn pick_candidates(candidates: &Value, places: &Value) -> Result<Value> {
    let &[batch, count, length] = candidates.dims() else {
        let shape = candidates.shape();
        return Err(candidates.builder().error(format!("candidates expect [B, N, L], got {shape}")));
    };
    let rows = first_rows(places, batch, places.dims()[1], count)?.add(places)?;
    candidates.reshape(&[batch * count, length])?.take(&rows)
}
