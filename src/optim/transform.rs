//! Gradient transformations with memory, in `optax`'s semantics.

use super::adafactor::Adafactor;
use crate::array::{DType, Shape};
use crate::graph::{Result, Value};

/// The transformation that an optimizer is called after.
#[derive(Debug, Clone, PartialEq)]
pub enum Transform {
    /// `optax.identity`, alias `big_vision.sgd`: plain gradient descent.
    Identity,
    /// `optax.scale_by_adam` (<https://arxiv.org/abs/1412.6980>).
    Adam {
        b1: f64,
        b2: f64,
        eps: f64,
        eps_root: f64,
        /// The type in which the first moment is kept; the parameter's where not given.
        mu_dtype: Option<DType>,
    },
    /// `big_vision.scale_by_adafactor`.
    Adafactor(Adafactor),
    /// `optax.trace`, alias `big_vision.momentum_hp`: a decaying sum of gradients.
    Momentum {
        decay: f64,
        /// The type in which the sum is kept; the parameter's where not given.
        dtype: Option<DType>,
        /// Whether the sum is looked up one step ahead (Nesterov).
        nesterov: bool,
    },
    /// Another transformation, and decay of the parameters added to its updates: `optax.add_decayed_weights`. As the
    /// learning rate scales both, this is the weight decay of torch's `AdamW`.
    Decayed { weight_decay: f64, transform: Box<Transform> },
}

/// An array that a transformation keeps from step to step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransformState {
    /// Such as `mu/llm/layers/attn/q_einsum/w`, or `count`.
    pub name: String,
    /// Where `optax` has the same array in the transformation's state, by positions in its tuples: `1/llm/…`, `0`.
    pub position: String,
    pub shape: Shape,
}

impl TransformState {
    /// Counts steps.
    pub(super) fn count(position: &str) -> Self {
        TransformState { name: "count".into(), position: position.into(), shape: Shape::scalar(DType::S32) }
    }

    /// One array of each parameter, as `of` makes its shape.
    pub(super) fn of_each(
        kind: &str,
        position: &str,
        params: &[(&str, &Shape)],
        of: impl Fn(&Shape) -> Option<Shape>,
    ) -> Vec<Self> {
        let state = |(name, shape): &(&str, &Shape)| {
            Some(TransformState {
                name: format!("{kind}/{name}"),
                position: format!("{position}/{name}"),
                shape: of(shape)?,
            })
        };
        params.iter().filter_map(state).collect()
    }
}

/// The shape of what is kept of a parameter, in `dtype` or else in the parameter's.
pub(super) fn kept(dtype: Option<DType>) -> impl Fn(&Shape) -> Option<Shape> {
    move |shape| Some(shape.with_dtype(dtype.unwrap_or(shape.dtype())))
}

impl Transform {
    /// What is kept for parameters of these names and shapes. All of it starts at zero.
    pub(super) fn state(&self, params: &[(&str, &Shape)]) -> Vec<TransformState> {
        match self {
            Transform::Identity => vec![],
            Transform::Adam { mu_dtype, .. } => [
                vec![TransformState::count("0")],
                TransformState::of_each("mu", "1", params, kept(*mu_dtype)),
                TransformState::of_each("nu", "2", params, kept(None)),
            ]
            .concat(),
            Transform::Adafactor(adafactor) => adafactor.state(params),
            Transform::Momentum { dtype, .. } => TransformState::of_each("trace", "0", params, kept(*dtype)),
            Transform::Decayed { transform, .. } => transform.state(params),
        }
    }

    /// The transformed gradients and the next state.
    #[track_caller]
    pub(super) fn update(
        &self,
        gradients: &[Value],
        state: &[Value],
        params: &[Value],
    ) -> Result<(Vec<Value>, Vec<Value>)> {
        match self {
            Transform::Identity => Ok((gradients.to_vec(), vec![])),
            Transform::Adam { b1, b2, eps, eps_root, .. } => {
                let (moments, second) = state.split_at(1 + gradients.len());
                let (count, first) = moments.split_at(1);
                let count = count[0].add_scalar(1.0)?;
                let (first_bias, second_bias) =
                    (bias_correction(*b1, &count)?, bias_correction(*b2, &count)?);
                let (mut updates, mut mus, mut nus) = (vec![], vec![], vec![]);
                for ((gradient, mu), nu) in gradients.iter().zip(first).zip(second) {
                    let kept = mu.dtype();
                    let mu = moving_average(gradient, mu, *b1)?;
                    let nu = moving_average(&gradient.square()?, nu, *b2)?;
                    let root = nu.div(&second_bias)?.add_scalar(*eps_root)?.sqrt()?;
                    updates.push(mu.div(&first_bias)?.div(&root.add_scalar(*eps)?)?);
                    mus.push(mu.convert(kept)?);
                    nus.push(nu);
                }
                let next = std::iter::once(count).chain(mus).chain(nus).collect();
                Ok((updates, next))
            }
            Transform::Adafactor(adafactor) => adafactor.update(gradients, state),
            Transform::Momentum { decay, nesterov, .. } => {
                let (mut updates, mut next) = (vec![], vec![]);
                for (gradient, trace) in gradients.iter().zip(state) {
                    let sum = gradient.add(&decayed(trace, *decay, gradient.dtype())?)?;
                    next.push(sum.convert(trace.dtype())?);
                    updates.push(match nesterov {
                        true => gradient.add(&sum.mul_scalar(*decay)?)?,
                        false => sum,
                    });
                }
                Ok((updates, next))
            }
            Transform::Decayed { weight_decay, transform } => {
                let (updates, next) = transform.update(gradients, state, params)?;
                let decay = |(update, param): (&Value, &Value)| update.add(&param.mul_scalar(*weight_decay)?);
                Ok((updates.iter().zip(params).map(decay).collect::<Result<_>>()?, next))
            }
        }
    }
}

/// `(1 - decay) · new + decay · old`, in the type of `new`.
pub(super) fn moving_average(new: &Value, old: &Value, decay: f64) -> Result<Value> {
    new.mul_scalar(1.0 - decay)?.add(&decayed(old, decay, new.dtype())?)
}

/// `decay · old` in a type that `old` may be narrower than.
///
/// In JAX the factor takes the type of what it multiplies, so a momentum in bfloat16 decays by bfloat16(0.9) =
/// 0.8984375; the product itself stays in `f32` under XLA.
fn decayed(old: &Value, decay: f64, dtype: DType) -> Result<Value> {
    let factor = match old.dtype() {
        DType::BF16 => half::bf16::from_f64(decay).to_f64(),
        DType::F16 => half::f16::from_f64(decay).to_f64(),
        _ => decay,
    };
    old.convert(dtype)?.mul_scalar(factor)
}

/// `1 - decay^count`: what a moment that started at zero is too small by.
fn bias_correction(decay: f64, count: &Value) -> Result<Value> {
    let power =
        count.full_like(1.0)?.convert(DType::F32)?.mul_scalar(decay)?.pow(&count.convert(DType::F32)?)?;
    power.full_like(1.0)?.sub(&power)
}
