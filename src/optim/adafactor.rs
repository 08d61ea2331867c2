use super::TransformState;
use super::transform::{kept, moving_average};
use crate::array::{DType, Shape};
use crate::graph::{Result, Value};

/// `big_vision.scale_by_adafactor`: gradients over the root of their second moment, of which large matrices keep only
/// the means of rows and columns, and a momentum of the outcome
/// (<https://arxiv.org/abs/1804.04235>, in the variant of <https://arxiv.org/abs/2106.04560>).
#[derive(Debug, Clone, PartialEq)]
pub struct Adafactor {
    /// An array is factored if its second largest extent is at least this.
    pub min_dim_size_to_factor: usize,
    /// The second moment decays by `1 - t^-decay_rate` in step `t` …
    pub decay_rate: f64,
    /// … of which so many are not counted …
    pub decay_offset: f64,
    /// … and by no more than this.
    pub beta2_cap: f64,
    /// Largest root mean square of a parameter's update.
    pub clipping_threshold: Option<f64>,
    /// Decay of the momentum; without it there is none.
    pub momentum: Option<f64>,
    /// The type in which the momentum is kept; the parameter's where not given.
    pub dtype_momentum: Option<DType>,
    /// Added to squared gradients.
    pub eps: f64,
}

impl Adafactor {
    /// `count`; then `v_row` and `v_col` of what is factored, and `v` of the rest; then `ema` of all.
    pub(super) fn state(&self, params: &[(&str, &Shape)]) -> Vec<TransformState> {
        let row = |shape: &Shape| Some(without(shape, self.factored_dims(shape)?.largest));
        let column = |shape: &Shape| Some(without(shape, self.factored_dims(shape)?.second));
        let whole = |shape: &Shape| self.factored_dims(shape).is_none().then(|| shape.clone());
        let mut state = vec![TransformState::count("0/0")];
        state.extend(TransformState::of_each("v_row", "0/1", params, row));
        state.extend(TransformState::of_each("v_col", "0/2", params, column));
        state.extend(TransformState::of_each("v", "0/3", params, whole));
        if self.momentum.is_some() {
            state.extend(TransformState::of_each("ema", "2/1", params, kept(self.dtype_momentum)));
        }
        state
    }

    pub(super) fn update(&self, gradients: &[Value], state: &[Value]) -> Result<(Vec<Value>, Vec<Value>)> {
        let dims: Vec<Option<FactoredDims>> =
            gradients.iter().map(|gradient| self.factored_dims(gradient.shape())).collect();
        let num_factored = dims.iter().flatten().count();
        let (count, rest) = state.split_at(1);
        let (rows, rest) = rest.split_at(num_factored);
        let (columns, rest) = rest.split_at(num_factored);
        let (wholes, momenta) = rest.split_at(gradients.len() - num_factored);
        let decay = self.decay(&count[0])?;

        let (mut next_rows, mut next_columns, mut next_wholes) = (vec![], vec![], vec![]);
        let mut updates = Vec::with_capacity(gradients.len());
        for (gradient, dims) in gradients.iter().zip(&dims) {
            let squares = gradient.square()?.add_scalar(self.eps)?;
            let update = match dims {
                Some(dims) => {
                    let place = next_rows.len();
                    let row = decay.average(&squares.mean(&[dims.largest])?, &rows[place])?;
                    let column = decay.average(&squares.mean(&[dims.second])?, &columns[place])?;
                    // The place of the second largest extent in what the largest was taken out of.
                    let second = dims.second - usize::from(dims.second > dims.largest);
                    let mean = row.mean(&[second])?.expand_dim(second)?;
                    let row_factor = row.div(&mean)?.rsqrt()?.expand_dim(dims.largest)?;
                    let column_factor = column.rsqrt()?.expand_dim(dims.second)?;
                    next_rows.push(row);
                    next_columns.push(column);
                    gradient.mul(&row_factor)?.mul(&column_factor)?
                }
                None => {
                    let whole = decay.average(&squares, &wholes[next_wholes.len()])?;
                    let update = gradient.mul(&whole.rsqrt()?)?;
                    next_wholes.push(whole);
                    update
                }
            };
            updates.push(self.clip(update)?);
        }

        let mut next = vec![count[0].add_scalar(1.0)?];
        next.extend(next_rows.into_iter().chain(next_columns).chain(next_wholes));
        if let Some(momentum) = self.momentum {
            for (update, old) in updates.iter_mut().zip(momenta) {
                // The update is the average as it is; what is kept of it is rounded.
                *update = moving_average(update, old, momentum)?;
                next.push(update.convert(old.dtype())?);
            }
        }
        Ok((updates, next))
    }

    /// `min(beta2_cap, 1 - t^-decay_rate)`, where `t` is 1 in the first step: nothing is left of the zeros at the
    /// start.
    fn decay(&self, count: &Value) -> Result<Decay> {
        let step = count.convert(DType::F32)?.add_scalar(1.0 - self.decay_offset)?;
        let power = step.pow(&step.full_like(-self.decay_rate)?)?;
        let old = power.full_like(1.0)?.sub(&power)?.min_scalar(self.beta2_cap)?;
        Ok(Decay { new: old.full_like(1.0)?.sub(&old)?, old })
    }

    /// `optax.clip_by_block_rms`.
    fn clip(&self, update: Value) -> Result<Value> {
        let Some(threshold) = self.clipping_threshold else { return Ok(update) };
        let all: Vec<usize> = (0..update.rank()).collect();
        let rms = update.square()?.mean(&all)?.sqrt()?;
        update.div(&rms.div_scalar(threshold)?.max_scalar(1.0)?)
    }

    /// The dimensions of the two largest extents; of equal ones, those that come last.
    fn factored_dims(&self, shape: &Shape) -> Option<FactoredDims> {
        let mut dims: Vec<usize> = (0..shape.rank()).collect();
        dims.sort_by_key(|&dim| shape.dims()[dim]);
        let &[.., second, largest] = dims.as_slice() else { return None };
        let is_large = shape.dims()[second] >= self.min_dim_size_to_factor;
        is_large.then_some(FactoredDims { second, largest })
    }
}

struct FactoredDims {
    second: usize,
    largest: usize,
}

/// Weights of what is new and of what was, `f32[]`.
struct Decay {
    new: Value,
    old: Value,
}

impl Decay {
    fn average(&self, new: &Value, old: &Value) -> Result<Value> {
        old.mul(&self.old)?.add(&new.mul(&self.new)?)
    }
}

fn without(shape: &Shape, dim: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    dims.remove(dim);
    shape.with_dims(dims)
}
