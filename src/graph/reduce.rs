//! Operations that fold dimensions away, and orderings along one.

use super::{Op, ReduceOp, Result, Value};
use crate::array::{DType, Shape};

macro_rules! reduce {
    ($($(#[$doc:meta])* $name:ident => $op:ident),* $(,)?) => {
        impl Value {
            $($(#[$doc])* #[track_caller] pub fn $name(&self, dims: &[usize]) -> Result<Value> {
                Value::apply(Op::Reduce { op: ReduceOp::$op, dims: dims.to_vec() }, &[self])
            })*
        }
    };
}

reduce! {
    reduce_sum => Sum,
    reduce_prod => Prod,
    reduce_max => Max,
    reduce_min => Min,
    /// Of `pred`.
    reduce_and => And,
    /// Of `pred`.
    reduce_or => Or,
}

impl Value {
    /// The sum of all elements.
    #[track_caller]
    pub fn sum_all(&self) -> Result<Value> {
        self.reduce_sum(&(0..self.rank()).collect::<Vec<_>>())
    }

    /// Arithmetic mean over the given dimensions.
    #[track_caller]
    pub fn mean(&self, dims: &[usize]) -> Result<Value> {
        let count: usize = dims.iter().filter_map(|&dim| self.dims().get(dim)).product();
        self.reduce_sum(dims)?.div_scalar(count as f64)
    }

    /// The index (`s32`) of the first largest element along `dim`, which goes away. NaN counts as one of the
    /// largest, so that there always is one.
    #[track_caller]
    pub fn argmax(&self, dim: usize) -> Result<Value> {
        let largest = self.reduce_max(&[dim])?.expand_dim(dim)?;
        let shape = self.shape().with_dtype(DType::S32);
        let none = self.dims()[dim] as f64;
        let index = self.builder().iota(shape, dim)?;
        let is_largest = self.eq(&largest)?.or(&self.ne(self)?)?;
        is_largest.select(&index, &index.full_like(none)?)?.reduce_min(&[dim])
    }

    /// Running sum along `dim`, in `log2(extent)` shifted additions.
    #[track_caller]
    pub fn cumsum(&self, dim: usize) -> Result<Value> {
        let Some(&extent) = self.dims().get(dim) else {
            let shape = self.shape();
            return Err(self.builder().error(format!("cumsum expects a dimension of {shape}, got {dim}")));
        };
        let mut sum = self.clone();
        let mut shift = 1;
        while shift < extent {
            let shifted = sum.slice_in_dim(dim, 0, extent - shift)?.pad_in_dim(dim, shift, 0, 0.0)?;
            sum = sum.add(&shifted)?;
            shift *= 2;
        }
        Ok(sum)
    }

    /// Orders all values along `dim` by the first of them, equal keys in their old order.
    #[track_caller]
    pub fn sort(values: &[&Value], dim: usize, descending: bool) -> Result<Vec<Value>> {
        Value::apply_all(Op::Sort { dim, descending }, values)
    }

    /// The `k` largest elements of the last dimension in descending order, and their indices (`s32`).
    #[track_caller]
    pub fn top_k(&self, k: usize) -> Result<(Value, Value)> {
        let Some(dim) = self.rank().checked_sub(1).filter(|&dim| k <= self.dims()[dim]) else {
            let shape = self.shape();
            return Err(self.builder().error(format!("top_k expects at least {k} elements, got {shape}")));
        };
        let index = self.builder().iota(Shape::new(DType::S32, self.dims()), dim)?;
        let sorted = Value::sort(&[self, &index], dim, true)?;
        Ok((sorted[0].slice_in_dim(dim, 0, k)?, sorted[1].slice_in_dim(dim, 0, k)?))
    }
}
