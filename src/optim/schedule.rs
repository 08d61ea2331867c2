//! The learning rate at each step: big_vision's `create_learning_rate_schedule` (`utils.py`), evaluated on
//! the host.
//!
//! The reference evaluates its schedule in a compiled f32 program. We follow XLA's operations one by one: it
//! turns a division by a constant into a product with the reciprocal, one by a square root into a product
//! with `rsqrt`, and contracts a product and a sum. That is why a linear decay ends at 6e-8 and not at 0.

use crate::config::{DecayType, Duration, Horizon, ScheduleSpec, StepsError};

/// Steps over which `rsqrt` decays, unless said otherwise.
const TIMESCALE: f64 = 10_000.0;
/// The batch size that `scale_with_batchsize` relates to (Goyal et al., arxiv.org/abs/1706.02677).
const REFERENCE_BATCH_SIZE: f64 = 256.0;

/// A schedule that cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("schedule: {0}")]
    Steps(#[from] StepsError),
    #[error(
        "schedule warms up for {warmup} steps, but the training has only {total_steps}: shorten the warm-up"
    )]
    WarmupTooLong { warmup: f64, total_steps: u64 },
    #[error("schedule has scale_with_batchsize, but the batch size is not known")]
    NoBatchSize,
}

/// A learning rate as a function of the step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    total_steps: f32,
    base: f32,
    warmup: f32,
    /// One over the steps of warm-up, of cool-down, and between warm-up and end.
    warmup_rate: f32,
    cooldown_rate: f32,
    decay_rate: f32,
    decay: Decay,
}

#[derive(Debug, Clone, PartialEq)]
enum Decay {
    Cosine,
    /// `span` is the distance from the first value to `end`.
    Polynomial {
        power: f32,
        end: f32,
        span: f32,
    },
    /// `rate` is one over the timescale.
    Rsqrt {
        rate: f32,
        shift: f32,
        at_warmup: f32,
    },
    Stair {
        steps: Vec<f64>,
        mults: Vec<f32>,
    },
}

impl Schedule {
    /// The schedule of a training of `total_steps`. Durations in examples or epochs that lack `batch_size` or
    /// `data_size` (examples per epoch) count as absent.
    ///
    /// # Errors
    /// When two forms of one duration are set, or the warm-up does not end before the training (unless that
    /// has at most one step, as evaluations do).
    pub fn new(
        spec: &ScheduleSpec,
        total_steps: u64,
        batch_size: Option<u64>,
        data_size: Option<u64>,
    ) -> Result<Schedule, Error> {
        let horizon = Horizon { data_size, batch_size, total_steps: Some(total_steps) };
        let steps = |name: &str, duration: &Duration, default: f64| -> Result<f64, StepsError> {
            Ok(duration.steps(name, horizon)?.unwrap_or(default))
        };
        let warmup = steps("warmup", &spec.warmup, 0.0)?;
        let cooldown = steps("cooldown", &spec.cooldown, 0.0)?;
        if total_steps > 1 && warmup >= total_steps as f64 {
            return Err(Error::WarmupTooLong { warmup, total_steps });
        }
        let scale = match (spec.scale_with_batchsize, batch_size) {
            (false, _) => 1.0,
            (true, Some(batch_size)) => batch_size as f64 / REFERENCE_BATCH_SIZE,
            (true, None) => return Err(Error::NoBatchSize),
        };
        let base = spec.mult * scale;
        let decay = match spec.decay_type {
            DecayType::Cosine => Decay::Cosine,
            DecayType::Linear | DecayType::Polynomial => {
                let end = spec.end.or(spec.linear_end).unwrap_or(0.0);
                Decay::Polynomial {
                    power: spec.power.unwrap_or(1.0) as f32,
                    end: end as f32,
                    span: (base - end) as f32,
                }
            }
            DecayType::Rsqrt => {
                let timescale = steps("timescale", &spec.timescale_for, spec.timescale.unwrap_or(TIMESCALE))?;
                let shift = steps("shift", &spec.shift_for, spec.shift.unwrap_or(0.0))?;
                let at_warmup = base as f32 / ((1.0 + shift * (1.0 / timescale)) as f32).sqrt();
                Decay::Rsqrt { rate: 1.0 / timescale as f32, shift: shift as f32, at_warmup }
            }
            DecayType::Stair => {
                let mults = spec.mults.iter().map(|&mult| mult as f32).collect();
                Decay::Stair { steps: spec.steps.clone(), mults }
            }
        };
        Ok(Schedule {
            total_steps: total_steps as f32,
            base: base as f32,
            warmup: warmup as f32,
            // Infinite where there is none, which `value` leaves out.
            warmup_rate: 1.0 / warmup as f32,
            cooldown_rate: 1.0 / cooldown as f32,
            decay_rate: 1.0 / (total_steps as f64 - warmup) as f32,
            decay,
        })
    }

    /// The rate of the update that follows `step` finished ones.
    pub fn value(&self, step: u64) -> f32 {
        let now = step as f32;
        // NaN for a training of 0 steps, as in the reference; `clamp` keeps it.
        let progress = ((now - self.warmup) * self.decay_rate).clamp(0.0, 1.0);
        let mut rate = match &self.decay {
            Decay::Cosine => self.base * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos()),
            Decay::Polynomial { power, end, span } => span.mul_add((1.0 - progress).powf(*power), *end),
            Decay::Rsqrt { rate, shift, at_warmup } => match self.warmup <= now {
                true => self.base * (1.0 / (1.0 + (now + shift - self.warmup) * rate).sqrt()),
                false => *at_warmup,
            },
            Decay::Stair { steps, mults } => {
                let passed = steps.iter().filter(|&&at| at < (step + 1) as f64).count();
                match passed.checked_sub(1) {
                    None => self.base,
                    // NaN behind the last factor, as in the reference; the config refuses such schedules.
                    Some(index) => self.base * mults.get(index).copied().unwrap_or(f32::NAN),
                }
            }
        };
        if self.warmup_rate.is_finite() {
            rate *= (now * self.warmup_rate).min(1.0);
        }
        if self.cooldown_rate.is_finite() {
            rate *= ((self.total_steps - now) * self.cooldown_rate).min(1.0);
        }
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn spec(args: &Value) -> Option<ScheduleSpec> {
        let number = |key: &str| args[key].as_f64();
        let duration = |name: &str| Duration {
            steps: number(&format!("{name}_steps")),
            examples: number(&format!("{name}_examples")),
            epochs: number(&format!("{name}_epochs")),
            percent: number(&format!("{name}_percent")),
        };
        let numbers =
            |key: &str| args[key].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let decay_type = match args["decay_type"].as_str() {
            Some("cosine") => DecayType::Cosine,
            Some("linear") => DecayType::Linear,
            Some("polynomial") => DecayType::Polynomial,
            Some("rsqrt") => DecayType::Rsqrt,
            Some("stair") | None => DecayType::Stair,
            Some(_) => return None,
        };
        Some(ScheduleSpec {
            mult: number("base").unwrap_or(1.0),
            decay_type,
            scale_with_batchsize: args["scale_with_batchsize"].as_bool().unwrap_or(false),
            warmup: duration("warmup"),
            cooldown: duration("cooldown"),
            power: number("power"),
            end: number("end"),
            linear_end: number("linear_end"),
            timescale: number("timescale"),
            timescale_for: duration("timescale"),
            shift: number("shift"),
            shift_for: duration("shift"),
            steps: numbers("steps"),
            mults: numbers("mults"),
        })
    }

    fn float(value: &Value) -> f32 {
        match value.as_str() {
            Some("nan") => f32::NAN,
            Some("inf") => f32::INFINITY,
            Some("-inf") => f32::NEG_INFINITY,
            _ => value.as_f64().unwrap() as f32,
        }
    }

    #[test]
    fn values_equal_the_recordings() {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/data/schedule/lr_schedules.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 225);
        let (mut values, mut exact, mut unsorted) = (0, 0, 0);
        for case in cases {
            let args = &case["args"];
            // A decay type that does not exist cannot be written down here; the config tests its message.
            let Some(spec) = spec(args) else {
                assert!(case["error"].is_string());
                continue;
            };
            // Where steps descend, the reference's answer depends on its way of searching; the config refuses
            // them.
            if !spec.steps.is_sorted() {
                unsorted += 1;
                continue;
            }
            let int = |key: &str| args[key].as_u64();
            let total_steps = int("total_steps").unwrap();
            let schedule = Schedule::new(&spec, total_steps, int("batch_size"), int("data_size"));
            if case["error"].is_string() {
                assert!(schedule.is_err(), "{args}");
                continue;
            }
            let schedule = schedule.unwrap();
            let scale =
                if spec.scale_with_batchsize { int("batch_size").unwrap() as f64 / 256.0 } else { 1.0 };
            let near_end = if spec.power == Some(0.5) { 2.5e-4 } else { 2e-7 };
            for (step, expected) in
                case["steps"].as_array().unwrap().iter().zip(case["values"].as_array().unwrap())
            {
                let (got, expected) = (schedule.value(step.as_u64().unwrap()), float(expected));
                values += 1;
                exact += usize::from(got.to_bits() == expected.to_bits());
                if expected.is_nan() {
                    assert!(got.is_nan(), "{args} at {step}");
                    continue;
                }
                let tolerance = near_end * spec.mult * scale + 1e-5 * f64::from(expected.abs());
                let error = (f64::from(got) - f64::from(expected)).abs();
                assert!(error <= tolerance, "{args} at {step}: got {got}, expected {expected}");
            }
        }
        assert_eq!((values, unsorted), (4269, 1));
        // All but 24 here; other platforms round `cos` and `powf` differently.
        assert!(exact * 100 > values * 98, "{exact} of {values} values are exact");
    }
}
