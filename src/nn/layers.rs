use super::{Params, promote};
use crate::array::DType;
use crate::graph::{Result, Value};

/// flax's `Dense` with `dtype`: `x [.., I] · kernel [I, O] + bias [O]`. Without a type, the operands'
/// common one is used.
#[track_caller]
pub fn dense(params: &Params, x: &Value, dtype: Option<DType>) -> Result<Value> {
    dense_general(params, x, 1, dtype)
}

/// flax's `DenseGeneral`: contracts the last `num_axes` of `x` with the first of the kernel.
#[track_caller]
pub fn dense_general(params: &Params, x: &Value, num_axes: usize, dtype: Option<DType>) -> Result<Value> {
    let (kernel, bias) = (params.get("kernel")?, params.get("bias")?);
    let x = match dtype {
        Some(dtype) => x.convert(dtype)?,
        None => promote(x, kernel)?.0,
    };
    let bias = bias.convert(x.dtype())?;
    params.product("kernel", &x, &dense_spec(x.rank(), kernel.rank(), num_axes))?.add(&bias)
}

/// The `einsum` that contracts the last `num_axes` axes of one operand with the first of another.
fn dense_spec(rank: usize, kernel_rank: usize, num_axes: usize) -> String {
    let letters: String = ('A'..='Z').take(rank + kernel_rank.saturating_sub(num_axes)).collect();
    let (operand, outputs) = letters.split_at(rank);
    let (rest, inputs) = operand.split_at(rank.saturating_sub(num_axes));
    format!("{operand},{inputs}{outputs}->{rest}{outputs}")
}

/// flax's `LayerNorm` over the last dimension: `f32` statistics with the variance as
/// `max(0, E[x²] - E[x]²)`, the result in the common type of operand and parameters.
#[track_caller]
pub fn layer_norm(params: &Params, x: &Value, epsilon: f64) -> Result<Value> {
    let (scale, bias) = (params.get("scale")?, params.get("bias")?);
    let last = x.rank() - 1;
    let wide = x.convert(DType::F32)?;
    let mean = wide.mean(&[last])?;
    let variance = wide.square()?.mean(&[last])?.sub(&mean.square()?)?.max_scalar(0.0)?;
    let factor = variance.add_scalar(epsilon)?.rsqrt()?.expand_dim(last)?.mul(&scale.convert(DType::F32)?)?;
    let centered = wide.sub(&mean.expand_dim(last)?)?;
    let (common, _) = promote(x, scale)?;
    centered.mul(&factor)?.add(&bias.convert(DType::F32)?)?.convert(common.dtype())
}

/// Gemma's `RMSNorm` (`models/ppp/gemma.py`): `x / sqrt(E[x²] + 1e-6) · (1 + scale)`, in `f32`, the
/// result in the operand's type.
#[track_caller]
pub fn rms_norm(params: &Params, x: &Value) -> Result<Value> {
    let scale = params.get("scale")?.convert(DType::F32)?;
    let last = x.rank() - 1;
    let wide = x.convert(DType::F32)?;
    let variance = wide.square()?.mean(&[last])?;
    let root = variance.add_scalar(1e-6)?.sqrt()?;
    let normed = wide.mul(&root.full_like(1.0)?.div(&root)?.expand_dim(last)?)?;
    normed.mul(&scale.add_scalar(1.0)?)?.convert(x.dtype())
}

/// `jax.nn.gelu` in its default, tanh form.
#[track_caller]
pub fn gelu(x: &Value) -> Result<Value> {
    const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
    let cubic = x.mul(&x.square()?)?.mul_scalar(0.044715)?.add(x)?;
    let cdf = cubic.mul_scalar(SQRT_2_OVER_PI)?.tanh()?.add_scalar(1.0)?.mul_scalar(0.5)?;
    x.mul(&cdf)
}

/// flax's `Conv` with `VALID` padding whose stride is its kernel: `[B, H, W, C]` to
/// `[B, H/ph, W/pw, width]`. Being a matrix product over patches, it is written as one.
#[track_caller]
pub fn patch_embedding(params: &Params, image: &Value, dtype: DType) -> Result<Value> {
    let kernel = params.get("kernel")?.convert(dtype)?;
    let bias = params.get("bias")?.convert(dtype)?;
    let (&[batch, height, width, channels], &[ph, pw, _, features]) = (image.dims(), kernel.dims()) else {
        let (image, kernel) = (image.shape(), kernel.shape());
        let message = format!(
            "patch embedding expects an image [B, H, W, C] and a kernel of rank 4, got {image} and {kernel}"
        );
        return Err(params.builder().error(message));
    };
    let (rows, columns) = (height / ph, width / pw);
    // Pixels that do not fill a patch are left out, as with VALID padding.
    let patches = image
        .convert(dtype)?
        .slice_in_dim(1, 0, rows * ph)?
        .slice_in_dim(2, 0, columns * pw)?
        .reshape(&[batch, rows, ph, columns, pw, channels])?
        .transpose(&[0, 1, 3, 2, 4, 5])?
        .reshape(&[batch, rows, columns, ph * pw * channels])?;
    let kernel = kernel.reshape(&[ph * pw * channels, features])?;
    patches.einsum("BhwP,PD->BhwD", &kernel)?.add(&bias)
}
