use super::{Params, dense_general, softmax};
use crate::array::{DType, Shape};
use crate::graph::{Result, Value};

/// flax's `MultiHeadDotProductAttention` of a sequence `[B, L, W]` with itself, all in `dtype`.
#[track_caller]
pub fn multi_head_attention(params: &Params, x: &Value, dtype: DType) -> Result<Value> {
    let project = |name: &str| dense_general(&params.under(name), x, 1, Some(dtype));
    let (query, key, value) = (project("query")?, project("key")?, project("value")?);
    let head_dim = query.dims()[3] as f64;
    // The divisor is rounded to the type, as in flax.
    let query = query.div(&query.builder().scalar(DType::F32, head_dim)?.sqrt()?.convert(dtype)?)?;
    let weights = softmax(&query.einsum("BQNH,BSNH->BNQS", &key)?)?;
    let mixed = weights.einsum("BNQS,BSNH->BQNH", &value)?;
    dense_general(&params.under("out"), &mixed, 2, Some(dtype))
}

/// Who may attend to whom: `pred [B, T, S]`.
#[derive(Debug, Clone)]
pub struct AttentionMask(Value);

/// What a masked logit becomes (`models/ppp/gemma.py`).
const BIG_NEGATIVE: f64 = -2.3819763e38;

impl AttentionMask {
    /// Tokens attend to valid tokens whose cumulative `mask_ar` is smaller than or equal to theirs
    /// (`make_attn_mask`). Both are `[B, L]`, `input_mask` a `pred`, `mask_ar` an `s32`:
    ///
    /// ```text
    /// mask_ar [0 0 0 1 1]: 3 tokens see each other, 2 see what stands before them
    ///         [1 1 1 1 1]: all tokens see what stands before them
    ///         [1 0 1 0 1]: blocks of 2, 2 and 1 tokens see themselves and the blocks before them
    /// ```
    #[track_caller]
    pub fn prefix_lm(input_mask: &Value, mask_ar: &Value) -> Result<Self> {
        let block = mask_ar.cumsum(1)?;
        let earlier_or_same = block.expand_dim(1)?.le(&block.expand_dim(2)?)?;
        let both_valid = input_mask.expand_dim(1)?.and(&input_mask.expand_dim(2)?)?;
        Ok(AttentionMask(earlier_or_same.and(&both_valid)?))
    }

    pub fn new(mask: Value) -> Self {
        AttentionMask(mask)
    }

    pub fn value(&self) -> &Value {
        &self.0
    }

    /// Masks logits `[B, K, G, T, S]`.
    #[track_caller]
    pub fn apply(&self, logits: &Value) -> Result<Value> {
        let &[batch, queries, keys] = self.0.dims() else {
            let message = format!("attention mask expects [B, T, S], got {}", self.0.shape());
            return Err(logits.builder().error(message));
        };
        let mask = self.0.reshape(&[batch, 1, 1, queries, keys])?;
        mask.select(logits, &logits.full_like(BIG_NEGATIVE)?)
    }
}

/// Rotary position embeddings for given positions, to be computed once and used in all layers.
#[derive(Debug, Clone)]
pub struct Rope {
    /// `f32 [B, L, 1, H/2]`.
    sin: Value,
    cos: Value,
}

impl Rope {
    /// For positions `s32 [B, L]` (`_apply_rope` of `models/ppp/gemma.py`).
    #[track_caller]
    pub fn new(positions: &Value, head_dim: usize, max_wavelength: f64) -> Result<Self> {
        let b = positions.builder();
        let half = head_dim / 2;
        let exponents = b.iota(Shape::new(DType::F32, [half]), 0)?.mul_scalar(2.0 / head_dim as f64)?;
        let timescale = b.full(&Shape::new(DType::F32, [half]), max_wavelength)?.pow(&exponents)?;
        let radians = positions.convert(DType::F32)?.expand_dim(2)?.div(&timescale)?.expand_dim(2)?;
        Ok(Rope { sin: radians.sin()?, cos: radians.cos()? })
    }

    /// Rotates `[B, L, N, H]`: the first half of each head is the real, the second the imaginary part.
    #[track_caller]
    pub fn apply(&self, x: &Value) -> Result<Value> {
        let wide = x.convert(DType::F32)?.split(3, 2)?;
        let (real, imaginary) = (&wide[0], &wide[1]);
        let rotated = [
            real.mul(&self.cos)?.sub(&imaginary.mul(&self.sin)?)?,
            imaginary.mul(&self.cos)?.add(&real.mul(&self.sin)?)?,
        ];
        Value::concatenate(&rotated.iter().collect::<Vec<_>>(), 3)?.convert(x.dtype())
    }
}
