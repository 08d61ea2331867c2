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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::HostArray;
    use crate::exec::run_once;
    use crate::graph::Builder;
    use crate::runtime::testing::cpu_client;

    /// The updates of one parameter in successive steps with these gradients; the parameter stays where it is.
    fn updates(transform: &Transform, param: [f32; 3], gradients: &[[f32; 3]]) -> Vec<[f32; 3]> {
        let b = Builder::new("updates");
        let array = |values: &[f32; 3]| b.constant(HostArray::new([3], values).unwrap()).unwrap();
        let shape = Shape::new(DType::F32, [3]);
        let mut state: Vec<Value> =
            transform.state(&[("w", &shape)]).iter().map(|state| b.zeros(&state.shape).unwrap()).collect();
        let mut all = Vec::new();
        for gradient in gradients {
            let (updates, next) = transform.update(&[array(gradient)], &state, &[array(&param)]).unwrap();
            all.extend(updates);
            state = next;
        }
        let function = b.finish(&all.iter().collect::<Vec<_>>()).unwrap();
        let results = run_once(&cpu_client(), &function, &[]).unwrap();
        results.iter().map(|array| array.values::<f32>().unwrap().try_into().unwrap()).collect()
    }

    const GRADIENTS: [[f32; 3]; 3] = [[1.0, -2.0, 0.5], [0.25, 1.0, 0.0], [-1.0, 3.0, 0.125]];

    #[track_caller]
    fn assert_close(got: &[[f32; 3]], expected: &[[f64; 3]], tolerance: f64) {
        for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
            assert!((f64::from(*got) - expected).abs() <= tolerance, "{got} instead of {expected}");
        }
    }

    /// In `f64`, by the formulas of `optax.trace`.
    fn traces(decay: f64, nesterov: bool, round: impl Fn(f64) -> f64) -> Vec<[f64; 3]> {
        let mut trace = [0.0; 3];
        let mut all = Vec::new();
        for gradient in GRADIENTS {
            let gradient = gradient.map(f64::from);
            let sum: [f64; 3] = std::array::from_fn(|i| gradient[i] + round(decay) * trace[i]);
            all.push(if nesterov { std::array::from_fn(|i| gradient[i] + decay * sum[i]) } else { sum });
            trace = sum.map(&round);
        }
        all
    }

    #[test]
    fn momentum_is_kept_in_its_type_and_looked_up_ahead_on_request() {
        let in_bf16 = |value: f64| half::bf16::from_f64(value).to_f64();
        for nesterov in [false, true] {
            let momentum = |dtype| Transform::Momentum { decay: 0.9, dtype, nesterov };
            let exact = updates(&momentum(None), [0.0; 3], &GRADIENTS);
            assert_close(&exact, &traces(0.9, nesterov, |value| value), 2e-6);
            let rounded = updates(&momentum(Some(DType::BF16)), [0.0; 3], &GRADIENTS);
            assert_close(&rounded, &traces(0.9, nesterov, in_bf16), 2e-6);
            assert!((exact[2][1] - rounded[2][1]).abs() > 1e-3, "{exact:?} {rounded:?}");
        }
    }

    #[test]
    fn decay_is_added_to_what_the_learning_rate_scales() {
        let adam = Transform::Adam { b1: 0.9, b2: 0.999, eps: 1e-8, eps_root: 0.0, mu_dtype: None };
        let decayed = Transform::Decayed { weight_decay: 0.1, transform: Box::new(adam.clone()) };
        let param = [3.0, -1.0, 0.0];
        let [with, without] = [&decayed, &adam].map(|transform| updates(transform, param, &GRADIENTS));
        let expected: Vec<[f64; 3]> = without
            .iter()
            .map(|update| std::array::from_fn(|i| f64::from(update[i]) + 0.1 * f64::from(param[i])))
            .collect();
        assert_close(&with, &expected, 2e-6);
        // In f32, 1 - 0.999^t is good to some 1e-5. torch.optim.AdamW, two steps of the first element: m / (1 - b1^t) over sqrt(v / (1 - b2^t)) + eps.
        let (m, v) = (0.9 * 0.1 + 0.1 * 0.25, 0.999 * 1e-3 + 1e-3 * 0.0625);
        let second: f64 = m / (1.0 - 0.81) / (f64::sqrt(v / (1.0 - 0.999 * 0.999)) + 1e-8);
        assert_close(&with[..2], &[[1.3, -1.1, 1.0], [second + 0.3, expected[1][1], expected[1][2]]], 2e-5);
    }
}
