use super::Error;
use crate::array::{DType, HostArray};
use crate::config::schema::{NON_NEGATIVE, POSITIVE};
use crate::config::{Kwargs, Loaded, Rules};
use crate::config_section;
use crate::optim::schedule::Schedule;
use crate::optim::{Adafactor, Optimizer, OptimizerConfig, Transform};
use crate::params::{ParamSpecs, Patterns, Unused};

config_section! {
    /// Arguments of `scale_by_adam`.
    pub struct AdamArgs {
        /// Decay of the first moment.
        pub b1: f64 = 0.9;
        /// Decay of the second moment.
        pub b2: f64 = 0.999;
        /// Added to the root of the second moment.
        pub eps: f64 = 1e-8;
        /// Added under the root.
        pub eps_root: f64 = 0.0;
        /// Type in which the first moment is kept.
        pub mu_dtype: Option<DType> = None;
    }
}

config_section! {
    /// Arguments of `adamw`, torch's optimizer of that name.
    pub struct AdamWArgs {
        /// Decay of the first moment.
        pub b1: f64 = 0.9;
        /// Decay of the second moment.
        pub b2: f64 = 0.999;
        /// Added to the root of the second moment.
        pub eps: f64 = 1e-8;
        /// Decay of all trained parameters, which the learning rate multiplies.
        pub weight_decay: f64 = 0.01, NON_NEGATIVE;
        /// Type in which the first moment is kept.
        pub mu_dtype: Option<DType> = None;
    }
}

config_section! {
    /// Arguments of `big_vision.scale_by_adafactor`.
    pub struct AdafactorArgs {
        /// An array is factored if its second largest extent is at least this.
        pub min_dim_size_to_factor: usize = 32;
        /// In step t, the second moment decays by 1 - t^-decay_rate.
        pub decay_rate: f64 = 0.8, NON_NEGATIVE;
        /// Steps that this does not count.
        pub decay_offset: f64 = 0.0, NON_NEGATIVE;
        /// Largest decay of the second moment.
        pub beta2_cap: f64 = 0.999;
        /// Largest root mean square of a parameter's update.
        pub clipping_threshold: Option<f64> = None, POSITIVE;
        /// Decay of the momentum; null or 0 for none.
        pub momentum: Option<f64> = Some(0.9), NON_NEGATIVE;
        /// Type in which the momentum is kept; null takes the parameters'.
        pub dtype_momentum: Option<DType> = Some(DType::BF16);
        /// Added to squared gradients.
        pub eps: f64 = 1e-30;
    }
}

config_section! {
    /// Arguments of `big_vision.momentum_hp`.
    pub struct MomentumArgs {
        /// Decay of the sum of gradients.
        pub momentum: f64 = 0.9, NON_NEGATIVE;
        /// Type in which the sum is kept; null takes the parameters'.
        pub dtype: Option<DType> = Some(DType::BF16);
        /// Whether the sum is looked up one step ahead.
        pub nesterov: bool = false;
    }
}

/// The learning-rate schedules of a run, numbered as [`OptimizerConfig::schedule`] numbers them.
#[derive(Debug, Clone)]
pub struct Schedules(Vec<Schedule>);

impl Schedules {
    /// The value of each schedule for the update that follows `step` finished ones, `f32 [schedules]`.
    pub fn values(&self, step: u64) -> HostArray {
        self.scaled_values(step, 1.0)
    }

    /// As [`values`](Self::values), times `scale`.
    pub fn scaled_values(&self, step: u64, scale: f64) -> HostArray {
        let values: Vec<f32> = self.0.iter().map(|schedule| schedule.value(step) * scale as f32).collect();
        let mut array = HostArray::zeros(crate::array::Shape::new(DType::F32, [values.len()]));
        array.bytes_mut().copy_from_slice(bytemuck::cast_slice(&values));
        array
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Names of optimizers that this program has.
const OPTIMIZERS: [&str; 6] = [
    "scale_by_adam",
    "adamw",
    "big_vision.scale_by_adafactor",
    "big_vision.momentum_hp",
    "big_vision.sgd",
    "identity",
];

/// The optimizer of a config, applied to the model's parameters.
///
/// # Errors
/// Unknown optimizers and arguments, parameters without a schedule, and patterns that freeze nothing.
pub fn optimizer(
    loaded: &Loaded,
    specs: &ParamSpecs,
    total_steps: u64,
    batch_size: u64,
    data_size: u64,
) -> Result<(Optimizer, Schedules), Error> {
    let config = &loaded.config;
    let mut schedules = Vec::new();
    let mut numbers = Vec::new();
    if config.lora.is_some() {
        // Adapters are trained, and nothing that they stand beside.
        numbers.push(("(img|llm|quant)/.*|lora/alpha".to_owned(), None));
    }
    for (pattern, spec) in &config.schedule.0 {
        let number = match spec {
            None => None,
            Some(spec) => {
                let schedule = Schedule::new(spec, total_steps, Some(batch_size), Some(data_size))
                    .map_err(|error| loaded.error_at("schedule", error.to_string()))?;
                schedules.push(schedule);
                Some(schedules.len() - 1)
            }
        };
        numbers.push((pattern.as_str().to_owned(), number));
    }
    let schedule = Patterns::new(numbers)?;
    check_used(loaded, "schedule", &schedule, specs)?;
    let config = OptimizerConfig {
        transform: transform(loaded)?,
        lr: config.lr,
        lr_mults: patterns(loaded, "lr_mults", &config.lr_mults, specs)?,
        wd: config.wd,
        // The default pattern may match nothing, and so may a pattern for a part that is frozen.
        wd_mults: Patterns::new(config.wd_mults.0.iter().map(|(pattern, mult)| (pattern.as_str(), *mult)))?,
        grad_clip_norm: config.grad_clip_norm,
        schedule,
    };
    Ok((Optimizer::new(&config, specs)?, Schedules(schedules)))
}

/// What a config's optimizer makes of gradients.
///
/// # Errors
/// Unknown optimizers and arguments.
pub fn transform(loaded: &Loaded) -> Result<Transform, Error> {
    let config = &loaded.config;
    let arguments: &Kwargs = &config.optax;
    match config.optax_name.as_str() {
        "scale_by_adam" => {
            let AdamArgs { b1, b2, eps, eps_root, mu_dtype } = arguments.parse()?;
            Ok(Transform::Adam { b1, b2, eps, eps_root, mu_dtype })
        }
        "adamw" => {
            let AdamWArgs { b1, b2, eps, weight_decay, mu_dtype } = arguments.parse()?;
            let adam = Transform::Adam { b1, b2, eps, eps_root: 0.0, mu_dtype };
            Ok(Transform::Decayed { weight_decay, transform: Box::new(adam) })
        }
        "big_vision.scale_by_adafactor" => {
            let AdafactorArgs {
                min_dim_size_to_factor,
                decay_rate,
                decay_offset,
                beta2_cap,
                clipping_threshold,
                momentum,
                dtype_momentum,
                eps,
            } = arguments.parse()?;
            Ok(Transform::Adafactor(Adafactor {
                min_dim_size_to_factor,
                decay_rate,
                decay_offset,
                beta2_cap,
                clipping_threshold,
                momentum: momentum.filter(|momentum| *momentum != 0.0),
                dtype_momentum,
                eps,
            }))
        }
        "big_vision.momentum_hp" => {
            let MomentumArgs { momentum, dtype, nesterov } = arguments.parse()?;
            Ok(Transform::Momentum { decay: momentum, dtype, nesterov })
        }
        "big_vision.sgd" | "identity" => {
            if let Some(argument) = arguments.entries().first() {
                let message = format!("{} takes no arguments, got {}", config.optax_name, argument.key());
                return Err(loaded.error_at("optax", message).into());
            }
            Ok(Transform::Identity)
        }
        other => {
            let message = format!("unknown optimizer \"{other}\", known are: {}", OPTIMIZERS.join(", "));
            Err(loaded.error_at("optax_name", message).into())
        }
    }
}

fn patterns(
    loaded: &Loaded,
    key: &str,
    rules: &Rules<f64>,
    specs: &ParamSpecs,
) -> Result<Patterns<f64>, Error> {
    let patterns = Patterns::new(rules.0.iter().map(|(pattern, value)| (pattern.as_str(), *value)))?;
    check_used(loaded, key, &patterns, specs)?;
    Ok(patterns)
}

/// A pattern that matches no parameter at all is a misspelling: nothing would be frozen by it.
fn check_used<V>(
    loaded: &Loaded,
    key: &str,
    patterns: &Patterns<V>,
    specs: &ParamSpecs,
) -> Result<(), Error> {
    let unused = patterns.assign(specs.names()).unused;
    match unused.iter().find(|unused| unused.shadowed == 0) {
        None => Ok(()),
        Some(Unused { pattern, .. }) => {
            let example = specs.names().next().unwrap_or("llm/final_norm/scale");
            let message = format!(
                "pattern \"{pattern}\" of {key} matches no parameter; it must match a whole name such as \"{example}\""
            );
            Err(loaded.error_at(key, message).into())
        }
    }
}
