//! Training runs, replayed by the trainer's own step.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::program::{Batch, Session};
use super::recording::expect_names;
use super::sides::{Side, other_sides};
use super::tolerance::{
    ADAFACTOR_CHANGE, ADAFACTOR_L2_UPDATES, ADAFACTOR_PARAMS, ADAM_CHANGE, ADAM_PARAMS, EXACT, L2_GRADS,
    L2_PARAMS, L2_UPDATES, LOSS, MEAN_LENGTH, SCHEDULE, SGD_LOSS, SGD_LOSS_FLOAT16, SGD_PARAMS,
    ZERO_GRADIENT_LEARNING_RATES, has_zero_gradient,
};
use super::{Error, Row, Tolerance};
use crate::array::{DType, HostArray};
use crate::config::{Config, Horizon, Loaded};
use crate::model::PaliGemmaConfig;
use crate::setup;
use crate::train::METRICS;

const BATCHES_FILE: &str = "sgd_batches.safetensors";

/// `sgd.json`: the notebook's loop.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedSgd {
    schedule: NotebookSchedule,
    trainable: Vec<String>,
    steps: Vec<SgdStep>,
    #[serde(default)]
    steps_with_float16_frozen_params_and_float16_vit: Vec<SgdStep>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotebookSchedule {
    total_steps: u64,
    base: f64,
    decay_type: String,
    warmup_percent: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SgdStep {
    step: u64,
    lr: f64,
    loss: f64,
}

pub(super) fn sgd(session: &Session) -> Result<Vec<Row>, Error> {
    let recording = &session.recording;
    let recorded: RecordedSgd = recording.json("sgd.json")?;
    let loaded = parse_config(session, "sgd.json", &recorded.trainer_config())?;
    let batches = Batch::read_stacked(recording, BATCHES_FILE)?;
    let mut rows = Vec::new();

    let plain = Formats { model: recording.config.clone(), frozen: DType::F32 };
    let run = Run::replay(session, &loaded, &plain, &batches, FIRST_NOTEBOOK_STEP, &[])?;
    sgd_steps(session, "", &run, &recorded.steps, SGD_LOSS, &mut rows)?;
    let params = recording.tensors("sgd_params.safetensors")?;
    expect_names(params.as_ref(), recorded.trainable.iter().map(String::as_str))?;
    let finals = recording.specs.names().zip(&run.params);
    for (name, got) in finals.filter(|(name, _)| params.find(name).is_some()) {
        rows.push(Row::tensor(name, got, &params.read(name)?, SGD_PARAMS)?);
    }

    if !recorded.steps_with_float16_frozen_params_and_float16_vit.is_empty() {
        let mut formats = Formats { frozen: DType::F16, ..plain };
        formats.model.img.dtype_mm = DType::F16;
        let run = Run::replay(session, &loaded, &formats, &batches, FIRST_NOTEBOOK_STEP, &[])?;
        let steps = &recorded.steps_with_float16_frozen_params_and_float16_vit;
        sgd_steps(session, "float16.", &run, steps, SGD_LOSS_FLOAT16, &mut rows)?;
    }
    Ok(rows)
}

/// The notebook evaluates its schedule at steps 1, 2, …; the trainer at 0, 1, ….
const FIRST_NOTEBOOK_STEP: u64 = 1;

impl RecordedSgd {
    /// The notebook's loop in the trainer's words: gradient descent whose rate is all in the schedule.
    fn trainer_config(&self) -> Value {
        let schedule = json!({
            "mult": self.schedule.base,
            "decay_type": self.schedule.decay_type,
            "warmup_percent": self.schedule.warmup_percent,
        });
        let trained = self.trainable.iter().map(|name| json!([regex::escape(name), schedule]));
        json!({
            "total_steps": self.schedule.total_steps,
            "optax_name": "big_vision.sgd",
            "lr": 1.0,
            "schedule": trained.chain([json!([".*", null])]).collect::<Vec<_>>(),
        })
    }
}

fn sgd_steps(
    session: &Session,
    prefix: &str,
    run: &Run,
    recorded: &[SgdStep],
    loss: Tolerance,
    rows: &mut Vec<Row>,
) -> Result<(), Error> {
    run.expect_steps(session, "sgd.json", recorded.iter().map(|step| step.step))?;
    for (got, recorded) in run.steps.iter().zip(recorded) {
        let name = |what: &str| format!("{prefix}step{}.{what}", recorded.step);
        rows.push(Row::number(name("lr"), got.schedules[0], recorded.lr, SCHEDULE));
        rows.push(Row::number(name("loss"), got.metric("training_loss"), recorded.loss, loss));
    }
    Ok(())
}

/// `adam.json` and its like: a run of the trainer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedRun {
    config: Value,
    unchanged: Vec<String>,
    steps: Vec<Map<String, Value>>,
}

pub(super) fn adam(session: &Session) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for name in ["adam", "adam_lr_mults"] {
        if session.recording.has(&format!("{name}.json")) {
            trainer(session, name, &ADAM, &mut rows)?;
        }
    }
    Ok(rows)
}

pub(super) fn adafactor(session: &Session) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    trainer(session, "adafactor", &ADAFACTOR, &mut rows)?;
    Ok(rows)
}

/// How exact the outcome of an optimizer must be.
struct Exactness {
    params: Tolerance,
    change: Tolerance,
    l2_updates: Tolerance,
    /// Whether the first updates depend on nothing but the signs of gradients.
    takes_signs: bool,
}

const ADAM: Exactness =
    Exactness { params: ADAM_PARAMS, change: ADAM_CHANGE, l2_updates: L2_UPDATES, takes_signs: false };
const ADAFACTOR: Exactness = Exactness {
    params: ADAFACTOR_PARAMS,
    change: ADAFACTOR_CHANGE,
    l2_updates: ADAFACTOR_L2_UPDATES,
    takes_signs: true,
};

fn trainer(session: &Session, name: &str, exactness: &Exactness, rows: &mut Vec<Row>) -> Result<(), Error> {
    let recording = &session.recording;
    let file = format!("{name}.json");
    let recorded: RecordedRun = recording.json(&file)?;
    let loaded = parse_config(session, &file, &recorded.config)?;
    let batches = Batch::read_stacked(recording, BATCHES_FILE)?;
    let formats = Formats { model: recording.config.clone(), frozen: DType::F32 };
    let mut run = Run::replay(session, &loaded, &formats, &batches, 0, &[])?;
    let params = recording.tensors(&format!("{name}_params.safetensors"))?;
    // Where the first rate is 0, as it is in a warm-up, all that a sign has changed by then is the momentum.
    if exactness.takes_signs && run.steps[0].schedules.iter().all(|value| *value == 0.0) {
        let distance = SIDE_LEARNING_RATES * loaded.config.lr;
        let smoothing = loaded.config.label_smoothing;
        let sides = other_sides(session, smoothing, &batches[0], &run.params, params.as_ref(), distance)?;
        let is_known = |side: &Side| has_zero_gradient(&side.param);
        let sides: Vec<Side> = sides.into_iter().filter(|side| !is_known(side)).collect();
        if !sides.is_empty() {
            run = Run::replay(session, &loaded, &formats, &batches, 0, &sides)?;
        }
        for side in &sides {
            rows.push(side.row(name)?);
        }
    }

    let odd = |message: String| Error::Unsupported { path: recording.path(&file), message };
    let number = |step: &Map<String, Value>, key: &str| {
        let value = step.get(key).and_then(Value::as_f64);
        value.ok_or_else(|| odd(format!("a step's \"{key}\" is not a number")))
    };
    let steps = recorded
        .steps
        .iter()
        .map(|step| Ok(number(step, "step")? as u64))
        .collect::<Result<Vec<_>, Error>>()?;
    run.expect_steps(session, &file, steps.iter().copied())?;
    for ((got, recorded), step) in run.steps.iter().zip(&recorded.steps).zip(steps) {
        for key in recorded.keys().filter(|key| *key != "step") {
            let (value, tolerance) = got
                .find(key, loaded.config.lr, exactness)
                .ok_or_else(|| odd(format!("a step has \"{key}\", which the trainer does not measure")))?;
            let row = format!("{name}.step{step}.{key}");
            rows.push(Row::number(row, value, number(recorded, key)?, tolerance));
        }
    }

    let changed = recording.specs.names().filter(|name| !recorded.unchanged.iter().any(|n| n == name));
    expect_names(params.as_ref(), changed)?;
    for ((param, initial), got) in recording.specs.names().zip(&session.params).zip(&run.params) {
        let row = format!("{name}.{param}");
        if params.find(param).is_none() {
            rows.push(Row::tensor(row, got, initial, EXACT)?);
        } else if has_zero_gradient(param) {
            let bound = Tolerance::bound(ZERO_GRADIENT_LEARNING_RATES * loaded.config.lr);
            rows.push(Row::tensor(row, got, initial, bound)?);
        } else {
            let recorded = params.read(param)?;
            rows.push(Row::tensor(&row, got, &recorded, exactness.params)?);
            rows.push(Row::change(row, got, &recorded, Some(initial), exactness.change)?);
        }
    }
    Ok(())
}

/// An element this many learning rates from where the recording has it took the other sign: in a few steps, a momentum
/// of 0.1 carries it by half of one.
const SIDE_LEARNING_RATES: f64 = 0.05;

fn parse_config(session: &Session, file: &str, config: &Value) -> Result<Loaded, Error> {
    // JSON is YAML.
    Ok(Config::parse(&format!("{config:#}"), &session.recording.path(file), &[], &[])?)
}

/// What a run computes with.
struct Formats {
    model: PaliGemmaConfig,
    /// The type in which parameters that are not trained are kept.
    frozen: DType,
}

/// A run that was replayed.
struct Run {
    steps: Vec<Step>,
    /// In the model's order.
    params: Vec<HostArray>,
}

struct Step {
    /// The values of the schedules that the update was made with.
    schedules: Vec<f64>,
    /// As [`METRICS`].
    metrics: Vec<f64>,
}

impl Run {
    /// One step for each batch; the first one's update is scaled by the schedules' values at `first_step`. After it,
    /// the momentum of `sides` is turned to its other side.
    fn replay(
        session: &Session,
        loaded: &Loaded,
        formats: &Formats,
        batches: &[Batch],
        first_step: u64,
        sides: &[Side],
    ) -> Result<Self, Error> {
        let specs = &session.recording.specs;
        let first = batches.first().expect("a file of batches holds at least one");
        let batch_size = first.size().batch_size as u64;
        let total_steps = loaded
            .config
            .total
            .required_steps("total", Horizon::default())
            .map_err(|error| loaded.error_at("total_steps", error.to_string()))?;
        let epoch = total_steps * batch_size;
        let (optimizer, schedules) = setup::optimizer(loaded, specs, total_steps, batch_size, epoch)?;
        let is_trained = |name: &str| optimizer.trained().iter().any(|trained| trained.name == name);
        let kept = setup::param_dtypes(specs, formats.frozen, is_trained)?;
        let label_smoothing = loaded.config.label_smoothing;
        let mut trainer =
            session.trainer(&formats.model, &kept, &optimizer, schedules.len(), label_smoothing, first)?;
        let mut steps = Vec::new();
        for (step, batch) in (first_step..).zip(batches) {
            let schedules = schedules.values(step);
            let (next, metrics) = trainer.step(batch, &schedules)?;
            trainer =
                if step == first_step { next.with_other_sides(&kept, &optimizer, sides)? } else { next };
            steps.push(Step { schedules: schedules.to_f64(), metrics: metrics.to_f64() });
        }
        Ok(Run { steps, params: trainer.params()? })
    }

    /// That the recording counts its steps as 1, 2, … and has one for each batch.
    fn expect_steps(
        &self,
        session: &Session,
        file: &str,
        recorded: impl Iterator<Item = u64>,
    ) -> Result<(), Error> {
        if recorded.eq(1..=self.steps.len() as u64) {
            return Ok(());
        }
        let message = format!("steps are not numbered 1 to {}, one for each batch", self.steps.len());
        Err(Error::Unsupported { path: session.recording.path(file), message })
    }
}

impl Step {
    fn metric(&self, name: &str) -> f64 {
        let index = METRICS.iter().position(|metric| *metric == name);
        self.metrics[index.expect("a metric of the step's own list")]
    }

    /// A measurement by the trainer's name for it, and how exact it must be.
    fn find(&self, key: &str, lr: f64, exactness: &Exactness) -> Option<(f64, Tolerance)> {
        let tolerance = match key {
            "training_loss" => LOSS,
            "l2_grads" => L2_GRADS,
            "l2_params" => L2_PARAMS,
            "l2_updates" => exactness.l2_updates,
            "avg_sup_seqlen" => MEAN_LENGTH,
            "max_sup_seqlen" => EXACT,
            _ => {
                // The first schedule has no number, the others are 1, 2, ….
                let (factor, number) = match key.strip_prefix("global_schedule") {
                    Some(number) => (1.0, number),
                    None => (lr, key.strip_prefix("lr")?),
                };
                let index = if number.is_empty() { 0 } else { number.parse().ok()? };
                return Some((factor * self.schedules.get(index)?, SCHEDULE));
            }
        };
        Some((self.metric(key), tolerance))
    }
}
