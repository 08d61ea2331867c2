//! Operations that move elements without changing them.

use super::{Op, PadDim, Result, SliceDim, Value};

impl Value {
    /// Repeats along new leading dimensions and along dimensions of extent 1, as numpy's `broadcast_to`.
    #[track_caller]
    pub fn broadcast_to(&self, dims: &[usize]) -> Result<Value> {
        if dims == self.dims() {
            return Ok(self.clone());
        }
        let added = dims.len().saturating_sub(self.rank());
        let mapping: Vec<usize> = (0..self.rank()).map(|i| i + added).collect();
        self.broadcast_in_dim(dims, &mapping)
    }

    /// Operand dimension `i` becomes result dimension `mapping[i]`; all others repeat.
    #[track_caller]
    pub fn broadcast_in_dim(&self, dims: &[usize], mapping: &[usize]) -> Result<Value> {
        Value::apply(Op::BroadcastInDim { dims: dims.to_vec(), mapping: mapping.to_vec() }, &[self])
    }

    #[track_caller]
    pub fn reshape(&self, dims: &[usize]) -> Result<Value> {
        if dims == self.dims() {
            return Ok(self.clone());
        }
        Value::apply(Op::Reshape { dims: dims.to_vec() }, &[self])
    }

    /// Inserts a dimension of extent 1 before dimension `dim`.
    #[track_caller]
    pub fn expand_dim(&self, dim: usize) -> Result<Value> {
        let mut dims = self.dims().to_vec();
        if dim > dims.len() {
            let message = format!("expand_dim expects a position of at most {}, got {dim}", self.rank());
            return Err(self.builder().error(message));
        }
        dims.insert(dim, 1);
        self.reshape(&dims)
    }

    #[track_caller]
    pub fn transpose(&self, permutation: &[usize]) -> Result<Value> {
        if permutation.iter().copied().eq(0..self.rank()) {
            return Ok(self.clone());
        }
        Value::apply(Op::Transpose { permutation: permutation.to_vec() }, &[self])
    }

    #[track_caller]
    pub fn slice(&self, dims: &[SliceDim]) -> Result<Value> {
        Value::apply(Op::Slice(dims.to_vec()), &[self])
    }

    /// Elements `start..limit` along one dimension.
    #[track_caller]
    pub fn slice_in_dim(&self, dim: usize, start: usize, limit: usize) -> Result<Value> {
        let mut dims: Vec<SliceDim> =
            self.dims().iter().map(|&limit| SliceDim { start: 0, limit, stride: 1 }).collect();
        let Some(entry) = dims.get_mut(dim) else {
            let shape = self.shape();
            return Err(self.builder().error(format!("slice expects a dimension of {shape}, got {dim}")));
        };
        *entry = SliceDim { start, limit, stride: 1 };
        self.slice(&dims)
    }

    /// The element at `index` along one dimension, which goes away.
    #[track_caller]
    pub fn index_in_dim(&self, dim: usize, index: usize) -> Result<Value> {
        let picked = self.slice_in_dim(dim, index, index + 1)?;
        let mut dims = picked.dims().to_vec();
        dims.remove(dim);
        picked.reshape(&dims)
    }

    /// Cuts into `parts` equal pieces.
    #[track_caller]
    pub fn split(&self, dim: usize, parts: usize) -> Result<Vec<Value>> {
        let extent = self.dims().get(dim).copied().unwrap_or(0);
        if parts == 0 || !extent.is_multiple_of(parts) {
            let shape = self.shape();
            let message = format!("split expects dimension {dim} of {shape} to have {parts} equal parts");
            return Err(self.builder().error(message));
        }
        let size = extent / parts;
        (0..parts).map(|i| self.slice_in_dim(dim, i * size, (i + 1) * size)).collect()
    }

    /// Adds elements at the edges of and between those of each dimension.
    #[track_caller]
    pub fn pad(&self, value: &Value, dims: &[PadDim]) -> Result<Value> {
        Value::apply(Op::Pad(dims.to_vec()), &[self, value])
    }

    /// Adds `low` and `high` times a constant at the edges of one dimension.
    #[track_caller]
    pub fn pad_in_dim(&self, dim: usize, low: usize, high: usize, value: f64) -> Result<Value> {
        let mut dims = vec![PadDim { low: 0, high: 0, interior: 0 }; self.rank()];
        let Some(entry) = dims.get_mut(dim) else {
            let shape = self.shape();
            return Err(self.builder().error(format!("pad expects a dimension of {shape}, got {dim}")));
        };
        *entry = PadDim { low: low as i64, high: high as i64, interior: 0 };
        self.pad(&self.builder().scalar(self.dtype(), value)?, &dims)
    }

    #[track_caller]
    pub fn concatenate(values: &[&Value], dim: usize) -> Result<Value> {
        match values {
            [single] => Ok((*single).clone()),
            _ => Value::apply(Op::Concatenate { dim }, values),
        }
    }

    /// Puts values of one shape side by side along a new dimension.
    #[track_caller]
    pub fn stack(values: &[&Value], dim: usize) -> Result<Value> {
        let expanded = values.iter().map(|value| value.expand_dim(dim)).collect::<Result<Vec<_>>>()?;
        Value::concatenate(&expanded.iter().collect::<Vec<_>>(), dim)
    }

    #[track_caller]
    pub fn reverse(&self, dims: &[usize]) -> Result<Value> {
        Value::apply(Op::Reverse { dims: dims.to_vec() }, &[self])
    }

    /// Keeps the compiler from merging what is computed from the results with what was computed before.
    #[track_caller]
    pub fn optimization_barrier(values: &[&Value]) -> Result<Vec<Value>> {
        Value::apply_all(Op::OptimizationBarrier, values)
    }
}
