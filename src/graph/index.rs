//! Reading and writing at positions that are values.

use super::{GatherDims, Op, Result, ScatterDims, ScatterOp, Value};

impl Value {
    /// The block of extents `sizes` at `starts`, moved inside if it sticks out.
    #[track_caller]
    pub fn dynamic_slice(&self, starts: &[&Value], sizes: &[usize]) -> Result<Value> {
        let mut inputs = vec![self];
        inputs.extend(starts);
        Value::apply(Op::DynamicSlice { sizes: sizes.to_vec() }, &inputs)
    }

    /// This array with `update` written at `starts`, moved inside if it sticks out.
    #[track_caller]
    pub fn dynamic_update_slice(&self, update: &Value, starts: &[&Value]) -> Result<Value> {
        let mut inputs = vec![self, update];
        inputs.extend(starts);
        Value::apply(Op::DynamicUpdateSlice, &inputs)
    }

    /// XLA's general gather.
    #[track_caller]
    pub fn gather(&self, indices: &Value, dims: GatherDims) -> Result<Value> {
        Value::apply(Op::Gather(dims), &[self, indices])
    }

    /// XLA's general scatter.
    #[track_caller]
    pub fn scatter(
        &self,
        indices: &Value,
        updates: &Value,
        dims: ScatterDims,
        op: ScatterOp,
    ) -> Result<Value> {
        Value::apply(Op::Scatter { dims, op }, &[self, indices, updates])
    }

    /// Rows of dimension 0 by number: `[V, D…]` and indices `[B…]` give `[B…, D…]`.
    #[track_caller]
    pub fn take(&self, indices: &Value) -> Result<Value> {
        let batch = indices.rank();
        let mut slice_sizes = self.dims().to_vec();
        match slice_sizes.first_mut() {
            Some(rows) => *rows = 1,
            None => return Err(self.builder().error("take expects at least rank 1, got a scalar".into())),
        }
        let dims = GatherDims {
            offset_dims: (batch..batch + self.rank() - 1).collect(),
            collapsed_slice_dims: vec![0],
            start_index_map: vec![0],
            operand_batching_dims: vec![],
            start_indices_batching_dims: vec![],
            index_vector_dim: batch,
            slice_sizes,
        };
        self.gather(indices, dims)
    }

    /// `result[b…, i] = self[b…, indices[b…, i]]` along the last dimension.
    #[track_caller]
    pub fn take_along_last(&self, indices: &Value) -> Result<Value> {
        let rank = self.rank();
        if rank == 0 || indices.rank() != rank || indices.dims()[..rank - 1] != self.dims()[..rank - 1] {
            let (x, i) = (self.shape(), indices.shape());
            let message = format!("take_along_last expects equal leading extents, got {x} and {i}");
            return Err(self.builder().error(message));
        }
        let batch: Vec<usize> = (0..rank - 1).collect();
        let dims = GatherDims {
            offset_dims: vec![],
            collapsed_slice_dims: vec![rank - 1],
            start_index_map: vec![rank - 1],
            operand_batching_dims: batch.clone(),
            start_indices_batching_dims: batch,
            index_vector_dim: rank,
            slice_sizes: vec![1; rank],
        };
        self.gather(indices, dims)
    }
}
