//! Random bits from explicit states, so that a program's randomness is an argument of it.

use super::{Builder, Op, Result, RngAlgorithm, Value};
use crate::array::{DType, Shape};

impl Builder {
    /// `(next state, bits)`: uniformly random bits of an unsigned integer type. The state is `u64[2]`.
    #[track_caller]
    pub fn rng_bit_generator(
        &self,
        algorithm: RngAlgorithm,
        state: &Value,
        shape: Shape,
    ) -> Result<(Value, Value)> {
        let mut results = self.push_all(Op::RngBitGenerator { algorithm, shape }, &[state])?;
        let bits = results.swap_remove(1);
        Ok((results.swap_remove(0), bits))
    }

    /// `(next state, samples)`: `f32` in `[0, 1)` with 23 random bits, as `jax.random.uniform`.
    #[track_caller]
    pub fn uniform(&self, state: &Value, dims: &[usize]) -> Result<(Value, Value)> {
        let shape = Shape::new(DType::U32, dims);
        let (state, bits) = self.rng_bit_generator(RngAlgorithm::ThreeFry, state, shape)?;
        // The mantissa is filled with random bits under the exponent of 1, giving [1, 2).
        let mantissa = bits.shift_right_logical(&self.scalar(DType::U32, 9.0)?)?;
        let one_to_two = mantissa.or(&self.scalar(DType::U32, f64::from(1.0f32.to_bits()))?)?;
        Ok((state, one_to_two.bitcast_convert(DType::F32)?.sub_scalar(1.0)?))
    }
}
