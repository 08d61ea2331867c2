//! Gradient transformations with memory, in `optax`'s semantics.

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
}

/// An array that a transformation keeps from step to step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransformState {
    /// Such as `mu/llm/layers/attn/q_einsum/w`, or `count`.
    pub name: String,
    pub shape: Shape,
}

impl Transform {
    /// What is kept for parameters of these names and shapes. All of it starts at zero.
    pub(super) fn state(&self, params: &[(&str, &Shape)]) -> Vec<TransformState> {
        match self {
            Transform::Identity => vec![],
            Transform::Adam { mu_dtype, .. } => {
                let of_each = |moment: &str, dtype: Option<DType>| {
                    let state = |(name, shape): &(&str, &Shape)| TransformState {
                        name: format!("{moment}/{name}"),
                        shape: shape.with_dtype(dtype.unwrap_or(shape.dtype())),
                    };
                    params.iter().map(state).collect::<Vec<_>>()
                };
                let count = TransformState { name: "count".into(), shape: Shape::scalar(DType::S32) };
                [vec![count], of_each("mu", *mu_dtype), of_each("nu", None)].concat()
            }
        }
    }

    /// The transformed gradients and the next state.
    #[track_caller]
    pub(super) fn update(&self, gradients: &[Value], state: &[Value]) -> Result<(Vec<Value>, Vec<Value>)> {
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
                    let mu = moment(gradient, &mu.convert(gradient.dtype())?, *b1)?;
                    let nu = moment(&gradient.square()?, nu, *b2)?;
                    let root = nu.div(&second_bias)?.add_scalar(*eps_root)?.sqrt()?;
                    updates.push(mu.div(&first_bias)?.div(&root.add_scalar(*eps)?)?);
                    mus.push(mu.convert(kept)?);
                    nus.push(nu);
                }
                let next = std::iter::once(count).chain(mus).chain(nus).collect();
                Ok((updates, next))
            }
        }
    }
}

/// `(1 - decay) · new + decay · old`.
fn moment(new: &Value, old: &Value, decay: f64) -> Result<Value> {
    new.mul_scalar(1.0 - decay)?.add(&old.mul_scalar(decay)?)
}

/// `1 - decay^count`: what a moment that started at zero is too small by.
fn bias_correction(decay: f64, count: &Value) -> Result<Value> {
    let power =
        count.full_like(1.0)?.convert(DType::F32)?.mul_scalar(decay)?.pow(&count.convert(DType::F32)?)?;
    power.full_like(1.0)?.sub(&power)
}
