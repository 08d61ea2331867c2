use super::{Transform, TransformState};
use crate::array::{DType, Shape};
use crate::graph::{Builder, Result, Value};
use crate::params::{self, ParamSpecs, Patterns};

/// The settings of `big_vision.optax.make` that do not change from step to step.
#[derive(Debug, Clone)]
pub struct OptimizerConfig {
    pub transform: Transform,
    /// Base learning rate.
    pub lr: f64,
    /// Factors on the learning rate; 1 where no pattern matches.
    pub lr_mults: Patterns<f64>,
    /// Decoupled weight decay: multiplied by the schedule, but not by the learning rate.
    pub wd: f64,
    /// Factors on the decay; 0 where no pattern matches.
    pub wd_mults: Patterns<f64>,
    /// Bound on the norm of the gradients of all trained parameters together.
    pub grad_clip_norm: Option<f64>,
    /// The number of each parameter's schedule; `None` freezes it.
    pub schedule: Patterns<Option<usize>>,
}

/// A parameter that is trained, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    pub name: String,
    pub shape: Shape,
    /// Which schedule scales its updates.
    pub schedule: usize,
    pub lr_mult: f64,
    /// Decay times its multiplier.
    pub wd: f64,
}

/// An [`OptimizerConfig`] applied to the parameters of a model.
#[derive(Debug, Clone)]
pub struct Optimizer {
    transform: Transform,
    lr: f64,
    grad_clip_norm: Option<f64>,
    trained: Vec<Trained>,
}

/// What one update yields.
#[derive(Debug, Clone)]
pub struct Update {
    pub params: Vec<Value>,
    pub state: Vec<Value>,
    /// Sum of the squares of each gradient before clipping, `f32[]` each.
    pub squares_grads: Vec<Value>,
    /// Norm of all gradients before clipping, `f32[]`.
    pub l2_grads: Value,
    /// Sum of the squares of each new parameter, `f32[]` each.
    pub squares_params: Vec<Value>,
    /// Their sum, `f32[]`.
    pub sum_squares_params: Value,
    /// Norm of what was added to the parameters, `f32[]`.
    pub l2_updates: Value,
}

impl Optimizer {
    /// # Errors
    /// When `schedule` leaves a parameter out; the error lists all that it leaves out.
    pub fn new(config: &OptimizerConfig, specs: &ParamSpecs) -> std::result::Result<Self, params::Error> {
        let schedules = config.schedule.assign(specs.names()).all()?;
        let trained = specs.iter().zip(schedules).filter_map(|(spec, schedule)| {
            Some(Trained {
                name: spec.name.clone(),
                // Whatever a checkpoint holds, what is trained is kept in f32.
                shape: spec.shape.with_dtype(DType::F32),
                schedule: (*schedule)?,
                lr_mult: config.lr_mults.get(&spec.name).copied().unwrap_or(1.0),
                wd: config.wd * config.wd_mults.get(&spec.name).copied().unwrap_or(0.0),
            })
        });
        Ok(Optimizer {
            transform: config.transform.clone(),
            lr: config.lr,
            grad_clip_norm: config.grad_clip_norm,
            trained: trained.collect(),
        })
    }

    /// The trained parameters, in the model's order.
    pub fn trained(&self) -> &[Trained] {
        &self.trained
    }

    pub fn transform(&self) -> &Transform {
        &self.transform
    }

    /// The arrays that [`update`](Self::update) takes and returns; all start at zero.
    pub fn state(&self) -> Vec<TransformState> {
        let params: Vec<(&str, &Shape)> =
            self.trained.iter().map(|param| (param.name.as_str(), &param.shape)).collect();
        self.transform.state(&params)
    }

    /// One step of the chain: clip, transform, learning rate, weight decay, schedule. `schedules` holds
    /// the value of each schedule at this step, `f32 [schedules]`.
    #[track_caller]
    pub fn update(
        &self,
        params: &[Value],
        gradients: &[Value],
        state: &[Value],
        schedules: &Value,
    ) -> Result<Update> {
        let b = schedules.builder();
        let _scope = b.scope("optimizer");
        let squares_grads = squares(gradients)?;
        let l2_grads = sum(b, &squares_grads)?.sqrt()?;
        let clipped = match self.grad_clip_norm {
            None => gradients.to_vec(),
            Some(max_norm) => {
                let max_norm = b.scalar(DType::F32, max_norm)?;
                let is_small = l2_grads.lt(&max_norm)?;
                let one = b.scalar(DType::F32, 1.0)?;
                let norm = is_small.select(&one, &l2_grads)?;
                let max_norm = is_small.select(&one, &max_norm)?;
                let clip = |g: &Value| g.div(&norm)?.mul(&max_norm);
                gradients.iter().map(clip).collect::<Result<Vec<_>>>()?
            }
        };
        let (directions, state) = self.transform.update(&clipped, state, params)?;
        let mut updates = Vec::with_capacity(params.len());
        let mut updated = Vec::with_capacity(params.len());
        for ((direction, param), trained) in directions.iter().zip(params).zip(&self.trained) {
            let mut update = direction.mul_scalar(self.lr)?;
            if trained.lr_mult != 1.0 {
                update = update.mul_scalar(trained.lr_mult)?;
            }
            if trained.wd != 0.0 {
                update = update.add(&param.mul_scalar(trained.wd)?)?;
            }
            update = update.mul(&schedules.index_in_dim(0, trained.schedule)?)?.neg()?;
            updated.push(param.add(&update)?);
            updates.push(update);
        }
        let squares_params = squares(&updated)?;
        Ok(Update {
            squares_grads,
            l2_grads,
            sum_squares_params: sum(b, &squares_params)?,
            squares_params,
            l2_updates: sum_squares(b, &updates)?.sqrt()?,
            params: updated,
            state,
        })
    }
}

/// The sum of the squares of all elements, `f32[]`.
#[track_caller]
pub fn sum_squares(b: &Builder, values: &[Value]) -> Result<Value> {
    sum(b, &squares(values)?)
}

/// The sum of the squares of the elements of each value, `f32[]` each.
#[track_caller]
fn squares(values: &[Value]) -> Result<Vec<Value>> {
    values.iter().map(|value| value.convert(DType::F32)?.square()?.sum_all()).collect()
}

#[track_caller]
fn sum(b: &Builder, values: &[Value]) -> Result<Value> {
    values.iter().try_fold(b.scalar(DType::F32, 0.0)?, |sum, value| sum.add(value))
}
