use crate::array::DType;
use crate::graph::{Result, Value};

/// Both values in the type that JAX would compute in: the wider float, or `f32` for the two half types.
#[track_caller]
pub fn promote(a: &Value, b: &Value) -> Result<(Value, Value)> {
    let dtype = match (a.dtype(), b.dtype()) {
        (x, y) if x == y => x,
        (DType::F16, DType::BF16) | (DType::BF16, DType::F16) => DType::F32,
        (x, y) if x.num_bytes() >= y.num_bytes() => x,
        (_, y) => y,
    };
    Ok((a.convert(dtype)?, b.convert(dtype)?))
}

/// `jax.nn.softmax` over the last dimension, in the operand's type. As `jnp.sum` does, the sum runs in `f32`
/// whatever the type, and is rounded once.
#[track_caller]
pub fn softmax(x: &Value) -> Result<Value> {
    let last = x.rank() - 1;
    let largest = x.reduce_max(&[last])?.stop_gradient()?.expand_dim(last)?;
    let unnormalized = x.sub(&largest)?.exp()?;
    let sum = unnormalized.convert(DType::F32)?.reduce_sum(&[last])?.convert(x.dtype())?;
    unnormalized.div(&sum.expand_dim(last)?)
}

/// `log(sum(exp(x)))` over the last dimension, which goes away.
#[track_caller]
pub fn log_sum_exp(x: &Value) -> Result<Value> {
    let last = x.rank() - 1;
    let largest = x.reduce_max(&[last])?.stop_gradient()?;
    let sum = x.sub(&largest.expand_dim(last)?)?.exp()?.reduce_sum(&[last])?;
    sum.log()?.add(&largest)
}
