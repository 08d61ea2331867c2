use crate::array::{DType, Shape};
use crate::graph::{Builder, Result, RngAlgorithm, Value};

/// Random states for the dropout of a stack of layers.
#[derive(Debug, Clone)]
pub struct Dropout {
    pub rate: f64,
    /// `u64 [layers, sites, 2]`: a generator state for each place of each layer.
    pub states: Value,
}

impl Dropout {
    /// Draws one state for each of `sites` places in each of `layers` layers from `state` (`u64[2]`).
    #[track_caller]
    pub fn new(b: &Builder, state: &Value, rate: f64, layers: usize, sites: usize) -> Result<Self> {
        let shape = Shape::new(DType::U64, [layers, sites, 2]);
        let (_, states) = b.rng_bit_generator(RngAlgorithm::ThreeFry, state, shape)?;
        Ok(Dropout { rate, states })
    }
}

/// flax's `Dropout`: zeroes elements with probability `rate` and scales up the others.
#[track_caller]
pub fn dropout(x: &Value, state: &Value, rate: f64) -> Result<Value> {
    let (_, uniform) = x.builder().uniform(state, x.dims())?;
    let keep = uniform.lt(&x.builder().scalar(DType::F32, 1.0 - rate)?)?;
    keep.select(&x.div_scalar(1.0 - rate)?, &x.full_like(0.0)?)
}
