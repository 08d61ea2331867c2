//! What the metrics of evaluations decide: which checkpoint is kept as the best one, when the learning rate falls, and
//! when a run ends. What is remembered for that is part of the checkpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::Error;
use crate::config::{CkptBest, Config, EarlyStop, Goal, ReduceOnPlateau, ThresholdMode};

/// Evaluations in succession that are worse than the best one before anybody is warned.
const OVERFIT_EVALUATIONS: u64 = 3;

/// The metrics that a run looks at.
#[derive(Debug)]
pub(super) struct Watch {
    best: Option<CkptBest>,
    early_stop: Option<EarlyStop>,
    plateau: Option<ReduceOnPlateau>,
    lr: f64,
    /// Of each evaluation: its name and what its metrics' names begin with.
    prefixes: Vec<(String, String)>,
    /// Metrics that show overfitting whether anything depends on them or not: mean losses of perplexity evaluations.
    losses: Vec<String>,
    memory: Memory,
}

/// What is remembered from evaluation to evaluation, as checkpoints hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    best: Tracked,
    early_stop: Tracked,
    plateau: Plateau,
    /// By the names of [`Watch::losses`].
    losses: BTreeMap<String, Tracked>,
}

impl Default for Memory {
    fn default() -> Self {
        let plateau = Plateau { best: None, num_bad: 0, cooldown: 0, scale: 1.0, seen: 0 };
        let (best, early_stop) = Default::default();
        Memory { best, early_stop, plateau, losses: BTreeMap::new() }
    }
}

/// The best value of a metric so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Tracked {
    value: Option<f64>,
    /// When it was seen.
    step: u64,
    /// Evaluations since then.
    since: u64,
    /// The last step of which a value was seen: a run that was interrupted after an evaluation may repeat it.
    seen: u64,
}

/// The memory of [`ReduceOnPlateau`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Plateau {
    best: Option<f64>,
    num_bad: usize,
    cooldown: usize,
    /// What learning rates are multiplied with.
    scale: f64,
    seen: u64,
}

/// What a round of evaluations led to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// This step's checkpoint is the best one so far.
    pub is_best: bool,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Watch {
    /// Goes on from `saved`, the [`memory`](Self::memory) of a checkpoint.
    pub fn new(config: &Config, saved: Option<&Json>) -> Self {
        let memory = saved.and_then(|json| serde_json::from_value(json.clone()).ok());
        let prefixes: Vec<(String, String)> =
            config.evals.iter().map(|(name, eval)| (name.to_owned(), eval.metric_prefix(name))).collect();
        let is_perplexity = |name: &str, kind: Option<&str>| {
            kind.unwrap_or(name).rsplit('.').next().is_some_and(|kind| kind == "perplexity")
        };
        let losses = config.evals.iter().filter(|(name, eval)| is_perplexity(name, eval.kind.as_deref()));
        Watch {
            losses: losses.map(|(name, eval)| format!("{}avg", eval.metric_prefix(name))).collect(),
            best: config.ckpt_best.clone(),
            early_stop: config.early_stop.clone(),
            plateau: config.reduce_on_plateau.clone(),
            lr: config.lr,
            prefixes,
            memory: memory.unwrap_or_default(),
        }
    }

    /// Whether an evaluation can change how the run goes on.
    pub fn decides(&self) -> bool {
        self.best.is_some() || self.early_stop.is_some() || self.plateau.is_some()
    }

    /// What the learning rate is multiplied with.
    pub fn scale(&self) -> f64 {
        if self.plateau.is_some() { self.memory.plateau.scale } else { 1.0 }
    }

    /// Whether the run is to end.
    pub fn is_over(&self) -> bool {
        self.early_stop.as_ref().is_some_and(|stop| self.memory.early_stop.since >= stop.patience as u64)
    }

    /// The metric of which the best checkpoint is kept, its best value and the step of that.
    pub fn best(&self) -> Option<(&str, f64, u64)> {
        let Tracked { value, step, .. } = self.memory.best;
        Some((&self.best.as_ref()?.metric, value?, step))
    }

    pub fn memory(&self) -> Json {
        serde_json::to_value(&self.memory).expect("its keys are texts and its numbers finite")
    }

    /// Takes note of the metrics that the evaluations `names` found at `step`.
    ///
    /// # Errors
    /// When a metric that something depends on is not among those of its evaluation.
    pub fn see(&mut self, step: u64, names: &[&str], metrics: &[(String, f64)]) -> Result<Seen, Error> {
        let find = |metric: &str| -> Result<Option<f64>, Error> {
            if let Some((_, value)) = metrics.iter().find(|(name, _)| name == metric) {
                return Ok(Some(*value));
            }
            let owner = self
                .prefixes
                .iter()
                .find(|(name, prefix)| names.contains(&name.as_str()) && metric.starts_with(prefix.as_str()));
            let Some((_, prefix)) = owner else { return Ok(None) };
            let found = metrics.iter().map(|(name, _)| name.clone()).filter(|name| name.starts_with(prefix));
            Err(Error::NoMetric { metric: metric.to_owned(), known: found.collect() })
        };
        let mut seen = Seen::default();
        let memory = &mut self.memory;
        if let Some(best) = &self.best
            && let Some(value) = find(&best.metric)?
        {
            seen.is_best = memory.best.see(step, value, best.mode, 0.0);
        }
        if let Some(stop) = &self.early_stop
            && let Some(value) = find(&stop.metric)?
        {
            let is_new = step > memory.early_stop.seen;
            memory.early_stop.see(step, value, stop.mode, stop.min_delta);
            let Tracked { value, step, since, .. } = memory.early_stop;
            if is_new && since >= stop.patience as u64 {
                let (metric, value) = (&stop.metric, value.unwrap_or(f64::NAN));
                seen.notes.push(format!(
                    "stopping early: {metric} was best at step {step} ({value:.4}), {since} evaluations ago"
                ));
            }
        }
        if let Some(plateau) = &self.plateau
            && let Some(value) = find(&plateau.metric)?
            && memory.plateau.see(step, value, plateau, self.lr)
        {
            let lr = self.lr * memory.plateau.scale;
            seen.notes
                .push(format!("{} does not get better: the learning rate is {lr:e} now", plateau.metric));
        }
        for (metric, value) in metrics.iter().filter(|(name, _)| self.losses.contains(name)) {
            let tracked = memory.losses.entry(metric.clone()).or_default();
            let is_new = step > tracked.seen;
            tracked.see(step, *value, Goal::Min, 0.0);
            if is_new && tracked.since == OVERFIT_EVALUATIONS {
                let (best, at) = (tracked.value.unwrap_or(f64::NAN), tracked.step);
                let kept = match &self.best {
                    Some(kept) if kept.metric == *metric => "the file BEST names the checkpoint of that step",
                    _ => "ckpt_best keeps the best checkpoint, early_stop saves the time",
                };
                seen.notes.push(format!(
                    "{metric} was best at step {at} ({best:.4}) and is {value:.4} now: the model may be overfitting; \
                     {kept}"
                ));
            }
        }
        Ok(seen)
    }
}

impl Tracked {
    /// Whether `value` is a new best one, by more than `delta`.
    fn see(&mut self, step: u64, value: f64, goal: Goal, delta: f64) -> bool {
        if step <= self.seen {
            return false;
        }
        self.seen = step;
        let is_better = value.is_finite()
            && self.value.is_none_or(|best| match goal {
                Goal::Min => value < best - delta,
                Goal::Max => value > best + delta,
            });
        if is_better {
            (self.value, self.step, self.since) = (Some(value), step, 0);
        } else {
            self.since += 1;
        }
        is_better
    }
}

impl Plateau {
    /// Whether the learning rate has been reduced.
    fn see(&mut self, step: u64, value: f64, spec: &ReduceOnPlateau, lr: f64) -> bool {
        if step <= self.seen {
            return false;
        }
        self.seen = step;
        let threshold = spec.threshold;
        let is_better = value.is_finite()
            && self.best.is_none_or(|best| match (spec.mode, spec.threshold_mode) {
                (Goal::Min, ThresholdMode::Rel) => value < best * (1.0 - threshold),
                (Goal::Min, ThresholdMode::Abs) => value < best - threshold,
                (Goal::Max, ThresholdMode::Rel) => value > best * (1.0 + threshold),
                (Goal::Max, ThresholdMode::Abs) => value > best + threshold,
            });
        if is_better {
            (self.best, self.num_bad) = (Some(value), 0);
        } else {
            self.num_bad += 1;
        }
        if self.cooldown > 0 {
            (self.cooldown, self.num_bad) = (self.cooldown - 1, 0);
        }
        if self.num_bad <= spec.patience {
            return false;
        }
        (self.cooldown, self.num_bad) = (spec.cooldown, 0);
        let (old, new) = (lr * self.scale, (lr * self.scale * spec.factor).max(spec.min_lr));
        let is_worth_it = old - new > spec.eps;
        if is_worth_it {
            self.scale = new / lr;
        }
        is_worth_it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(yaml: &str, saved: Option<&Json>) -> Watch {
        let evals = "evals:\n  val/pplx: {type: perplexity, log_steps: 1, data: {name: 'bv:jsonl', fname: x}, pp_fn: decode}\n";
        let path = std::path::Path::new("run.yaml");
        let loaded = Config::parse(&format!("{evals}{yaml}"), path, &[], &[]);
        Watch::new(&loaded.unwrap_or_else(|error| panic!("{error}")).config, saved)
    }

    /// Averages of the validation losses of ten epochs: a published run of torch's script on tuxemon captions.
    const TUXEMON: [f64; 10] =
        [0.8287, 0.7816, 0.7635, 0.7696, 0.8003, 0.7832, 0.8429, 0.8524, 0.8789, 0.8929];

    fn see(watch: &mut Watch, step: u64, value: f64) -> Seen {
        watch.see(step, &["val/pplx"], &[("val/pplx/avg".to_owned(), value)]).unwrap()
    }

    #[test]
    fn a_run_of_torch_is_reduced_at_the_epochs_it_was() {
        let yaml = "lr: 1e-5\nreduce_on_plateau: {metric: val/pplx/avg, factor: 0.5, patience: 2}\n\
                    ckpt_best: {metric: val/pplx/avg}\nearly_stop: {metric: val/pplx/avg, patience: 5}\n";
        let mut watch = watch(yaml, None);
        let (mut rates, mut best, mut over, mut warned) = (vec![], vec![], vec![], vec![]);
        for (epoch, value) in (1..).zip(TUXEMON) {
            // A run that is resumed after every epoch goes the same way.
            watch = self::watch(yaml, Some(&watch.memory()));
            let seen = see(&mut watch, epoch, value);
            rates.push(1e-5 * watch.scale());
            best.extend(seen.is_best.then_some(epoch));
            over.extend(watch.is_over().then_some(epoch));
            warned.extend(seen.notes.iter().any(|note| note.contains("overfitting")).then_some(epoch));
            // An evaluation that is repeated changes nothing.
            assert_eq!(see(&mut watch, epoch, value + 1.0), Seen::default());
        }
        assert_eq!(rates, [[1e-5; 5].as_slice(), &[5e-6; 3], &[2.5e-6; 2]].concat());
        assert_eq!((best, over, warned), (vec![1, 2, 3], vec![8, 9, 10], vec![6]));
        assert_eq!(watch.best(), Some(("val/pplx/avg", 0.7635, 3)));
    }

    #[test]
    fn thresholds_cooldown_and_least_rates_are_torchs() {
        let yaml = "lr: 1.0\nreduce_on_plateau: {metric: val/pplx/avg, mode: max, factor: 0.1, patience: 0, \
                    threshold: 0.5, threshold_mode: abs, cooldown: 2, min_lr: 0.05}\n";
        let mut watch = watch(yaml, None);
        let mut scale = |step: u64, value: f64| {
            see(&mut watch, step, value);
            watch.scale()
        };
        assert_eq!(scale(1, 1.0), 1.0);
        // Better, but by less than the threshold.
        assert_eq!(scale(2, 1.4), 0.1);
        assert_eq!([scale(3, 1.4), scale(4, 1.4)], [0.1, 0.1]);
        assert_eq!([scale(5, 1.4), scale(6, 1.4), scale(7, 1.4), scale(8, 1.4)], [0.05; 4]);
        // A number that is none is not better than any.
        assert_eq!(scale(9, f64::NAN), 0.05);
    }

    #[test]
    fn metrics_that_are_not_there_are_named() {
        let mut watch = watch("ckpt_best: {metric: val/pplx/acc, mode: max}\n", None);
        assert_eq!(watch.see(1, &["other"], &[]).unwrap(), Seen::default());
        let found = [("val/pplx/avg".to_owned(), 1.0), ("other/acc".to_owned(), 1.0)];
        let error = watch.see(1, &["val/pplx", "other"], &found).unwrap_err().to_string();
        assert_eq!(error, "val/pplx/acc is no metric of its evaluation, which gave: val/pplx/avg");
    }
}
