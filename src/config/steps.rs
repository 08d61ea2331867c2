//! Durations and the moments at which things happen (`steps` and `itstime` of big_vision's `utils.py`).
//!
//! A duration named `X` is written in one of four forms: `X_steps`, `X_examples`, `X_epochs` or `X_percent`
//! (of the whole training, from 0 to 1).

use std::fmt;

/// A duration in at most one form. A negative value counts as absent, as in the reference.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Duration {
    pub steps: Option<f64>,
    pub examples: Option<f64>,
    pub epochs: Option<f64>,
    pub percent: Option<f64>,
}

/// What a run knows about its own length; forms that need something missing here count as absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Horizon {
    /// Examples in one epoch.
    pub data_size: Option<u64>,
    /// Examples of one step, over all devices.
    pub batch_size: Option<u64>,
    pub total_steps: Option<u64>,
}

/// A duration that cannot be converted to steps.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StepsError {
    #[error("only one of {} can be set", .0.join(", "))]
    SeveralForms(Vec<String>),
    #[error("{name}_percent is {percent}, expected a number from 0 to 1")]
    PercentOutOfRange { name: String, percent: f64 },
    #[error(
        "cannot convert {name} to steps: it has no {name}_steps, {name}_examples, {name}_epochs or {name}_percent \
         that this run can convert ({horizon})"
    )]
    Missing { name: String, horizon: Horizon },
    #[error("{name}_steps is {steps}, expected a whole number of steps")]
    NotWhole { name: String, steps: f64 },
}

impl Duration {
    pub const NONE: Duration = Duration { steps: None, examples: None, epochs: None, percent: None };
    /// The suffixes of the four forms, in the order of [`forms`](Self::forms).
    pub const SUFFIXES: [&str; 4] = ["steps", "examples", "epochs", "percent"];

    pub const fn of_steps(steps: f64) -> Duration {
        Duration { steps: Some(steps), ..Duration::NONE }
    }

    /// The value in each form, absent where it is not set or negative.
    pub fn forms(&self) -> [Option<f64>; 4] {
        [self.steps, self.examples, self.epochs, self.percent].map(|value| value.filter(|v| *v >= 0.0))
    }

    pub fn is_set(&self) -> bool {
        self.forms().iter().any(Option::is_some)
    }

    /// The duration in steps, `None` when no form is set that `horizon` can convert. `_steps` comes back as
    /// it is; the other forms are rounded to the nearest whole step, halves to even, and are at least 1
    /// unless 0.
    ///
    /// # Errors
    /// When two forms are set, or a percentage lies outside 0 to 1.
    pub fn steps(&self, name: &str, horizon: Horizon) -> Result<Option<f64>, StepsError> {
        let forms = self.forms();
        let set = Duration::SUFFIXES.iter().zip(forms).filter(|(_, value)| value.is_some());
        let set: Vec<String> = set.map(|(suffix, _)| format!("{name}_{suffix}")).collect();
        if set.len() > 1 {
            return Err(StepsError::SeveralForms(set));
        }
        let known = |value: Option<u64>| value.filter(|v| *v > 0).map(|v| v as f64);
        let [steps, examples, epochs, percent] = forms;
        let batch_size = known(horizon.batch_size);
        if steps.is_some() {
            return Ok(steps);
        }
        if let (Some(examples), Some(batch_size)) = (examples, batch_size) {
            return Ok(Some(round_up_to_one(examples / batch_size)));
        }
        if let (Some(epochs), Some(batch_size), Some(data_size)) =
            (epochs, batch_size, known(horizon.data_size))
        {
            return Ok(Some(round_up_to_one(epochs * (data_size / batch_size))));
        }
        if let (Some(percent), Some(total_steps)) = (percent, known(horizon.total_steps)) {
            if percent > 1.0 {
                return Err(StepsError::PercentOutOfRange { name: name.to_owned(), percent });
            }
            return Ok(Some(round_up_to_one(percent * total_steps)));
        }
        Ok(None)
    }

    /// As [`steps`](Self::steps), for durations that count whole steps.
    ///
    /// # Errors
    /// Also when `_steps` is a fraction.
    pub fn whole_steps(&self, name: &str, horizon: Horizon) -> Result<Option<u64>, StepsError> {
        match self.steps(name, horizon)? {
            Some(steps) if steps.fract() != 0.0 => Err(StepsError::NotWhole { name: name.to_owned(), steps }),
            steps => Ok(steps.map(|steps| steps as u64)),
        }
    }

    /// As [`whole_steps`](Self::whole_steps), for durations that a run cannot do without.
    ///
    /// # Errors
    /// Also when nothing is set that `horizon` can convert.
    pub fn required_steps(&self, name: &str, horizon: Horizon) -> Result<u64, StepsError> {
        let missing = || StepsError::Missing { name: name.to_owned(), horizon };
        self.whole_steps(name, horizon)?.ok_or_else(missing)
    }
}

fn round_up_to_one(steps: f64) -> f64 {
    if steps == 0.0 { 0.0 } else { steps.round_ties_even().max(1.0) }
}

impl fmt::Display for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: Option<u64>| value.map_or("unknown".to_owned(), |v| v.to_string());
        let (data, batch, total) = (show(self.data_size), show(self.batch_size), show(self.total_steps));
        write!(f, "examples per epoch {data}, batch size {batch}, total steps {total}")
    }
}

/// Which moments count for [`itstime`] beside every n-th step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct When {
    /// Step 1.
    pub first: bool,
    /// The last step.
    pub last: bool,
    /// A step this close to the last one is skipped, as a fraction of n: what happens at the last step anyway
    /// need not happen just before it.
    pub drop_close_to_last: f64,
    /// False on processes that leave the action to another one.
    pub on_this_host: bool,
}

impl Default for When {
    fn default() -> Self {
        When { first: true, last: true, drop_close_to_last: 0.25, on_this_host: true }
    }
}

/// Whether an action that runs every `every_n_steps` runs at `step` (of 1 to `total_steps`). Never without a
/// period, or with a period of 0.
pub fn itstime(step: u64, every_n_steps: Option<f64>, total_steps: u64, when: When) -> bool {
    let Some(every) = every_n_steps.filter(|n| *n != 0.0) else { return false };
    let close_to_last = (step.abs_diff(total_steps) as f64) < when.drop_close_to_last * every;
    let is_step = step as f64 % every == 0.0 && !close_to_last;
    let is_last = when.last && step == total_steps;
    let is_first = when.first && step == 1;
    when.on_this_host && (is_step || is_last || is_first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn cases(text: &str) -> Vec<Value> {
        let file: Value = serde_json::from_str(text).unwrap();
        file["cases"].as_array().unwrap().clone()
    }

    #[test]
    fn steps_equal_the_recordings() {
        let cases = cases(include_str!("../../tests/data/schedule/steps.json"));
        assert_eq!(cases.len(), 227);
        for case in cases {
            let name = case["prefix"].as_str().unwrap();
            let form = |suffix| case["config"][format!("{name}_{suffix}")].as_f64();
            let duration = Duration {
                steps: form("steps"),
                examples: form("examples"),
                epochs: form("epochs"),
                percent: form("percent"),
            };
            let known = |key: &str| case["kw"][key].as_u64();
            let horizon = Horizon {
                data_size: known("data_size"),
                batch_size: known("batch_size"),
                total_steps: known("total_steps"),
            };
            let default = case["kw"].get("default");
            let got = duration.steps(name, horizon);
            match case["error"].as_str() {
                Some("AssertionError") => assert!(got.is_err(), "{case}"),
                Some(_) => {
                    assert_eq!(got, Ok(None), "{case}");
                    assert!(duration.required_steps(name, horizon).is_err(), "{case}");
                }
                None => {
                    let got = got.unwrap().or_else(|| default.and_then(Value::as_f64));
                    assert_eq!(got, case["value"].as_f64(), "{case}");
                    let whole = case["type"] == "int";
                    assert_eq!(whole, got.is_some_and(|v| v.fract() == 0.0), "{case}");
                }
            }
        }
    }

    #[test]
    fn itstime_equals_the_recordings() {
        let cases = cases(include_str!("../../tests/data/schedule/itstime.json"));
        assert_eq!(cases.len(), 362);
        for case in cases {
            let kw = &case["kw"];
            let when = When {
                first: kw["first"].as_bool().unwrap_or(true),
                last: kw["last"].as_bool().unwrap_or(true),
                drop_close_to_last: kw["drop_close_to_last"].as_f64().unwrap_or(0.25),
                on_this_host: kw["host"].as_u64().unwrap_or(0) == 0,
            };
            let total = case["total_steps"].as_u64().unwrap();
            let every = case["every_n_steps"].as_f64();
            let [from, to] = [0, 1].map(|i| case["checked"][i].as_u64().unwrap());
            let got: Vec<u64> = (from..=to).filter(|&step| itstime(step, every, total, when)).collect();
            let expected: Vec<u64> =
                case["true_at"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
            assert_eq!(got, expected, "{case}");
        }
    }

    #[test]
    fn errors_say_what_is_missing() {
        let horizon = Horizon { batch_size: Some(8), ..Horizon::default() };
        let epochs = Duration { epochs: Some(2.0), ..Duration::NONE };
        assert_eq!(
            epochs.required_steps("total", horizon).unwrap_err().to_string(),
            "cannot convert total to steps: it has no total_steps, total_examples, total_epochs or total_percent \
             that this run can convert (examples per epoch unknown, batch size 8, total steps unknown)"
        );
        let error = Duration::of_steps(7.5).whole_steps("log", horizon).unwrap_err();
        assert_eq!(error.to_string(), "log_steps is 7.5, expected a whole number of steps");
    }
}
