//! Both towers together: big_vision's `models/proj/paligemma/paligemma.py`.

use super::gemma::DROPOUT_SITES;
use super::{GemmaConfig, KvCache, LoraConfig, LossConfig, SiglipConfig, Taps, TokenLoss};
use crate::array::{DType, Shape};
use crate::graph::{Builder, Result, Value};
use crate::nn::{AttentionMask, Dropout, Params, part_of};
use crate::params::{ParamSpec, ParamSpecs};

/// A PaliGemma for images of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct PaliGemmaConfig {
    pub img: SiglipConfig,
    pub llm: GemmaConfig,
    /// Height and width of images in pixels.
    pub image_size: [usize; 2],
    /// Adapters beside its kernels, if it has any.
    pub lora: Option<LoraConfig>,
}

/// What a forward pass over images and text leaves.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Normed activations of the text positions, `[B, T, D]`.
    pub text_pre_logits: Value,
}

/// Images and texts to learn from.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    /// `f32 [B, H, W, 3]` in [-1, 1].
    pub image: &'a Value,
    /// `s32 [B, T]`, and so the masks.
    pub text: &'a Value,
    pub mask_ar: &'a Value,
    pub mask_loss: &'a Value,
}

/// Images and prompts, embedded as one sequence.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// `[B, I + T, D]`.
    pub x: Value,
    /// `pred [B, I + T]`: false on padding.
    pub input_mask: Value,
    /// `s32 [B, I + T]`.
    pub mask_ar: Value,
}

impl PaliGemmaConfig {
    /// The tokens that an image becomes.
    pub fn num_image_tokens(&self) -> usize {
        self.img.num_tokens(self.image_size)
    }

    /// All parameters, under `img/` and `llm/`, and what belongs to them, under `lora/` and `quant/`.
    ///
    /// # Errors
    /// When a kernel cannot be kept as [`LoraConfig::quant`] wants it.
    pub fn params(&self) -> std::result::Result<ParamSpecs, crate::params::Error> {
        let base = self.base_params();
        ParamSpecs::new(match &self.lora {
            Some(lora) => lora.params(base)?,
            None => base,
        })
    }

    /// The parameters without adapters, as floats.
    pub fn base_params(&self) -> Vec<ParamSpec> {
        let img = self.img.params(self.image_size, self.llm.width).into_iter().map(|spec| spec.under("img"));
        let llm = self.llm.params().into_iter().map(|spec| spec.under("llm"));
        img.chain(llm).collect()
    }

    /// Whether a training step drops anything.
    pub fn has_dropout(&self) -> bool {
        self.llm.dropout > 0.0 || self.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0)
    }

    /// Embeds images `[B, H, W, 3]` (or `[B, frames, H, W, 3]`) and text `s32 [B, T]`. `input_mask`
    /// (`pred [B, T]`) is false on padding; without it, padding counts as text.
    #[track_caller]
    pub fn embed(
        &self,
        params: &Params,
        image: &Value,
        text: &Value,
        input_mask: Option<&Value>,
        mask_ar: &Value,
        taps: &mut Taps,
    ) -> Result<Prompt> {
        let b = params.builder();
        let zimg = {
            let _scope = b.scope("img");
            self.encode_images(&params.under("img"), image, taps)?
        };
        let ztxt = {
            let _scope = b.scope("llm");
            self.llm.embed(&params.under("llm"), text)?
        };
        taps.put("ztxt", &ztxt);
        let (zimg, ztxt) = crate::nn::promote(&zimg, &ztxt)?;
        let x = Value::concatenate(&[&zimg, &ztxt], 1)?;
        let image_len = zimg.dims()[1];
        let input_mask = match input_mask {
            Some(mask) => mask.clone(),
            None => b.full(&Shape::new(DType::Pred, text.dims()), 1.0)?,
        };
        Ok(Prompt {
            x: x.convert(self.llm.embed_dtype)?,
            input_mask: input_mask.pad_in_dim(1, image_len, 0, 1.0)?,
            mask_ar: mask_ar.pad_in_dim(1, image_len, 0, 0.0)?,
        })
    }

    /// Frames of a video are encoded one by one; their tokens follow each other.
    fn encode_images(&self, params: &Params, image: &Value, taps: &mut Taps) -> Result<Value> {
        let &[batch, frames, ref frame @ ..] = image.dims() else {
            return Err(params.builder().error(format!("images expect [B, H, W, 3], got {}", image.shape())));
        };
        if frame.len() != 3 {
            return self.img.encode(params, image, taps);
        }
        let mut folded = vec![batch * frames];
        folded.extend_from_slice(frame);
        let tokens = self.img.encode(params, &image.reshape(&folded)?, taps)?;
        let (length, width) = (tokens.dims()[1], tokens.dims()[2]);
        tokens.reshape(&[batch, frames * length, width])
    }

    /// Activations at the text positions, for training and scoring. Padding takes part as in the
    /// reference: it is attended to by what its `mask_ar` lets see it, and is not in the loss.
    /// `dropout_state` (`u64[2]`) switches dropout on, where the model has any.
    #[track_caller]
    pub fn forward(
        &self,
        params: &Params,
        image: &Value,
        text: &Value,
        mask_ar: &Value,
        dropout_state: Option<&Value>,
        taps: &mut Taps,
    ) -> Result<Forward> {
        let b = params.builder();
        let adapter_rate = self.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        let params = &match dropout_state.filter(|_| adapter_rate > 0.0) {
            Some(state) => params.with_adapter_dropout(state, adapter_rate)?,
            None => params.clone(),
        };
        let prompt = self.embed(params, image, text, None, mask_ar, taps)?;
        let _scope = b.scope("llm");
        let mask = AttentionMask::prefix_lm(&prompt.input_mask, &prompt.mask_ar)?;
        taps.put("attn_mask", mask.value());
        let llm = params.under("llm");
        let rate = self.llm.dropout;
        let dropout = dropout_state
            .filter(|_| rate > 0.0)
            .map(|state| Dropout::new(b, state, rate, self.llm.depth, DROPOUT_SITES))
            .transpose()?;
        let pre_logits = self.llm.forward(&llm, &prompt.x, &mask, dropout.as_ref(), taps)?;
        let (image_len, length) = (prompt.x.dims()[1] - text.dims()[1], prompt.x.dims()[1]);
        let text_pre_logits = pre_logits.slice_in_dim(1, image_len, length)?;
        if taps.wanted() {
            taps.put("text_logits", &self.llm.logits(&llm, &text_pre_logits)?);
            if self.llm.final_logits_softcap != 0.0 {
                let capped = self.llm.capped(&self.llm.logits(&llm, &pre_logits)?)?;
                taps.put("llm_logits_softcapped", &capped);
            }
        }
        Ok(Forward { text_pre_logits })
    }

    /// The loss of `trainers/proj/paligemma/train.py`: the model sees `text[:, :-1]` and is asked for
    /// `text[:, 1:]` where `mask_loss` says so.
    #[track_caller]
    pub fn loss(
        &self,
        params: &Params,
        examples: &Examples<'_>,
        dropout_state: Option<&Value>,
        config: &LossConfig,
    ) -> Result<TokenLoss> {
        let &Examples { image, text, mask_ar, mask_loss } = examples;
        let length = text.dims().get(1).copied().unwrap_or(0);
        let inputs = text.slice_in_dim(1, 0, length - 1)?;
        let targets = text.slice_in_dim(1, 1, length)?;
        let mask_ar = mask_ar.slice_in_dim(1, 0, length - 1)?;
        let mask_loss = mask_loss.slice_in_dim(1, 1, length)?.convert(DType::F32)?;
        let forward = self.forward(params, image, &inputs, &mask_ar, dropout_state, &mut Taps::none())?;
        let _scope = params.builder().scope("loss");
        let table = params.get("llm/embedder/input_embedding")?;
        config.build(&forward.text_pre_logits, table, &targets, &mask_loss)
    }

    /// The parameters for a program that runs the decoder many times: its weights, where they are wider than
    /// the activations that they are multiplied with, are rounded here, once, and not in every pass.
    #[track_caller]
    pub fn narrowed(&self, params: &Params) -> Result<Params> {
        let dtype = self.llm.embed_dtype;
        params.map(|name, value| {
            let is_wider = value.dtype().num_bytes() > dtype.num_bytes();
            if Self::is_decoder_weight(name) && is_wider { value.convert(dtype) } else { Ok(value.clone()) }
        })
    }

    /// How many of a parameter's first axes count what the decoder uses one by one, layers or the groups of each layer;
    /// `None` for parameters that are no stack of the decoder's.
    pub fn decoder_stack_axes(name: &str) -> Option<usize> {
        match part_of(name).unwrap_or(name).strip_prefix("llm/layers/")? {
            "mlp/gating_einsum" => Some(2),
            _ => Some(1),
        }
    }

    /// Whether a parameter is a matrix of the decoder's layers. Their other parameters are the norms' vectors, and
    /// computed with in f32.
    pub fn is_decoder_weight(name: &str) -> bool {
        name.starts_with("llm/layers/") && !name.ends_with("/scale")
    }

    /// Runs prompts through the model and fills a cache with room for `max_decode_len` more tokens.
    /// Prompts are aligned to the right, so that all continue at one entry of the cache. Returns the
    /// logits of the last prompt token (`f32 [B, V]`), the cache and the number of valid tokens of each
    /// prompt (`s32 [B]`).
    #[track_caller]
    pub fn prefill(
        &self,
        params: &Params,
        prompt: &Prompt,
        max_decode_len: usize,
    ) -> Result<(Value, KvCache, Value)> {
        let b: &Builder = params.builder();
        let _scope = b.scope("llm");
        let llm = params.under("llm");
        let length = prompt.x.dims()[1];
        let num_valid = prompt.input_mask.convert(DType::S32)?.reduce_sum(&[1])?;
        let aligned = RightAlignment::new(&num_valid, length)?;
        let x = aligned.rows(&prompt.x)?;
        let input_mask = aligned.entries(&prompt.input_mask)?;
        let mask_ar = aligned.entries(&prompt.mask_ar)?;
        // Padding now stands before the prompt, where its mask_ar would count; it attends to nothing.
        let mask_ar = input_mask.select(&mask_ar, &mask_ar.full_like(0.0)?)?;
        let mask = AttentionMask::prefix_lm(&input_mask, &mask_ar)?;
        let positions = input_mask.convert(DType::S32)?.cumsum(1)?.sub_scalar(1.0)?;
        let (pre_logits, cache) = self.llm.prefill(&llm, &x, &positions, &mask, length + max_decode_len)?;
        let last = pre_logits.index_in_dim(1, length - 1)?;
        Ok((self.llm.logits(&llm, &last)?, cache, num_valid))
    }

    /// Logits (`f32 [B, V]`, with the final soft-cap) after one more token of each row, `s32 [B]`. `step`
    /// (`s32[]`) counts the tokens that were decoded before.
    #[track_caller]
    pub fn extend(
        &self,
        params: &Params,
        tokens: &Value,
        cache: &KvCache,
        num_valid: &Value,
        prompt_len: usize,
        step: &Value,
    ) -> Result<(Value, KvCache)> {
        let b = params.builder();
        let _scope = b.scope("llm");
        let llm = params.under("llm");
        let batch = tokens.dims()[0];
        let size = cache.keys.dims()[2];
        let x = self.llm.embed(&llm, &tokens.expand_dim(1)?)?;
        let positions = num_valid.add(step)?.expand_dim(1)?;

        // Entries in use are those from the start of the row's prompt to this token.
        let prompt_len = b.scalar(DType::S32, prompt_len as f64)?;
        let position = step.add(&prompt_len)?;
        let entry = b.iota(Shape::new(DType::S32, [batch, 1, size]), 2)?;
        let begin = prompt_len.sub(num_valid)?.reshape(&[batch, 1, 1])?;
        let mask = entry.ge(&begin)?.and(&entry.le(&position)?)?;

        let (pre_logits, cache) =
            self.llm.extend(&llm, &x, &positions, &AttentionMask::new(mask), cache, &position)?;
        let logits = self.llm.logits(&llm, &pre_logits.index_in_dim(1, 0)?)?;
        Ok((self.llm.capped(&logits)?, cache))
    }
}

/// Moves left-aligned rows to the right end (`_left_to_right_align` of `gemma_bv.py`).
struct RightAlignment {
    /// `s32 [B, L]`: the entry that each position takes.
    source: Value,
}

impl RightAlignment {
    fn new(num_valid: &Value, length: usize) -> Result<Self> {
        let b = num_valid.builder();
        let position = b.iota(Shape::new(DType::S32, [num_valid.dims()[0], length]), 1)?;
        let source = position.add(&num_valid.expand_dim(1)?)?;
        let source = source.rem(&source.full_like(length as f64)?)?;
        Ok(RightAlignment { source })
    }

    /// Of `[B, L]`.
    fn entries(&self, x: &Value) -> Result<Value> {
        x.take_along_last(&self.source)
    }

    /// Of `[B, L, D]`.
    fn rows(&self, x: &Value) -> Result<Value> {
        let &[batch, length, width] = x.dims() else {
            return Err(x.builder().error(format!("prompts expect [B, L, D], got {}", x.shape())));
        };
        let row = x.builder().iota(self.source.shape().clone(), 0)?;
        let flat = row.mul_scalar(length as f64)?.add(&self.source)?;
        x.reshape(&[batch * length, width])?.take(&flat)
    }
}
