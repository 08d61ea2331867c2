//! Everything that a training needs before its first step.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use super::resume::Elsewhere;
use super::state::TrainState;
use super::step::{StepBatch, TrainStep};
use super::watch::Watch;
use super::{Error, Request};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::{Checkpoint, Frozen, Reader, Store};
use crate::config::{FrozenType, Horizon, Loaded, Reduction};
use crate::data::{Batch, Loader, LoaderOptions, Remainder, Stream};
use crate::exec;
use crate::model::{LossConfig, PaliGemmaConfig, Reduction as LossReduction};
use crate::nn::LORA_ALPHA;
use crate::optim::Optimizer;
use crate::params::{Init, ParamSpecs};
use crate::pp::Env;
use crate::report::metrics::read_metrics;
use crate::report::overview::overview;
use crate::runtime::{Client, CompileOptions, Executable};
use crate::setup::{self, Schedules};

/// A training, ready for its next step.
pub(super) struct Prepared {
    pub model: PaliGemmaConfig,
    pub specs: ParamSpecs,
    pub optimizer: Optimizer,
    pub schedules: Schedules,
    pub client: Client,
    pub step: TrainStep,
    pub executable: Executable,
    pub compile_secs: f64,
    state: Option<TrainState>,
    pub loader: Loader,
    /// The batch that the loader gave to learn its shapes from: the first one to train on.
    first_batch: Option<Batch>,
    pub env: Env,
    pub store: Arc<Store>,
    /// What checkpoints hold besides the changing state; until the saver takes it.
    pub frozen: Option<Frozen>,
    /// Where the run stands.
    pub progress: Progress,
    /// What evaluations have led to.
    pub watch: Watch,
    /// Whether the workdir has a checkpoint of where it stands.
    pub is_saved: bool,
    /// Whether that is one that is kept for good.
    pub is_kept: bool,
    pub horizon: Horizon,
    pub total_steps: u64,
    pub batch_size: u64,
    /// Rows of an epoch.
    pub data_size: u64,
    /// What a checkpoint says of the training data.
    pub data: Json,
    /// Whether rows that fail are passed over, so that their number is of interest.
    pub counts_skipped: bool,
}

impl Prepared {
    /// The state before the next step; once.
    pub fn take_state(&mut self) -> Option<TrainState> {
        self.state.take()
    }

    /// The batch of the next step; once.
    pub fn take_first_batch(&mut self) -> Option<Batch> {
        self.first_batch.take()
    }
}

/// Arrays of a batch that the step takes, in its order.
const STEP_ARRAYS: [&str; 4] = ["image", "text", "mask_ar", "mask_loss"];

pub(super) fn prepare(request: &Request<'_>) -> Result<Prepared, Error> {
    let Request { loaded, console, .. } = request;
    let config = &loaded.config;
    let input = config
        .input
        .as_ref()
        .ok_or_else(|| loaded.error_at("input", "input is needed for training: data, pp and batch_size"))?;
    // Told before data is opened, which may take long.
    setup::transform(loaded)?;
    let model = setup::model_config(loaded)?;
    let env = setup::pp_env(loaded);
    let streams = setup::streams(loaded, &env, input, &STEP_ARRAYS, model.llm.vocab_size)?;
    let data = describe(&streams);
    // An epoch of a mixture is the rows of all its sources, as in big_vision.
    let data_size = streams.iter().map(|stream| stream.source.len() as u64).sum();
    let batch_size = input.batch_size as u64;
    let horizon = Horizon { data_size: Some(data_size), batch_size: Some(batch_size), total_steps: None };
    let total_steps = config
        .total
        .required_steps("total", horizon)
        .map_err(|error| loaded.error_at("total_steps", error.to_string()))?;
    let horizon = Horizon { total_steps: Some(total_steps), ..horizon };
    let all = model.params()?;
    let (optimizer, schedules) = setup::optimizer(loaded, &all, total_steps, batch_size, data_size)?;
    let is_trained = |name: &str| optimizer.trained().iter().any(|trained| trained.name == name);
    let frozen = config.frozen_dtype.map_or(DType::F32, FrozenType::dtype);
    let specs = setup::param_dtypes(&all, frozen, is_trained)?;
    console.line(&overview(&specs, is_trained));

    let store = Arc::new(Store::open(request.workdir)?);
    let resumed = store.load_latest()?.map(|latest| latest.checkpoint);
    // A run that has begun goes on by itself.
    let elsewhere = match config.resume.as_ref().filter(|_| resumed.is_none()) {
        Some(path) => Some(Elsewhere::open(path.as_path(), &specs, &optimizer, batch_size)?),
        None => None,
    };
    let progress = match &elsewhere {
        Some(elsewhere) => elsewhere.progress,
        None => Progress::of(resumed.as_ref(), loaded, data_size, &data)?,
    };
    let saved = elsewhere.as_ref().map(Elsewhere::state).or(resumed.as_ref().map(Checkpoint::state));
    let watch = Watch::new(config, saved.and_then(|state| state.get("watch")));
    let is_at_end = progress.step == total_steps || watch.is_over();
    let is_over = progress.step > total_steps || is_at_end && is_finished(request, progress.step)?;
    let origin = elsewhere.as_ref().map(Elsewhere::path).or(resumed.as_ref().map(Reader::path));
    if let Some(origin) = origin {
        if is_over {
            let workdir = if elsewhere.is_some() { origin } else { request.workdir }.to_owned();
            return Err(Error::AlreadyDone { workdir, trained: progress.step, total: total_steps });
        }
        console.line(&format!("resuming from {}", origin.display()));
    }

    // The loader's threads start to work while the program is compiled.
    let counts_skipped = streams.iter().any(|stream| stream.skip_errors);
    let options = LoaderOptions {
        batch_size: input.batch_size,
        seed: config.seed,
        epochs: None,
        remainder: Remainder::Drop,
        threads: input.num_parallel_calls.unwrap_or(0),
        prefetch: input.prefetch.max(1),
        start: progress.position,
        ..LoaderOptions::default()
    };
    let mut loader = Loader::of_streams(streams, options)?;
    let phase = console.phase("first batch");
    let first_batch = loader.next().ok_or(Error::NoMoreData)??;
    phase.done("");
    let text_len = check_batch(&first_batch, &model, input.batch_size)?;

    let loss = LossConfig {
        label_smoothing: config.label_smoothing,
        reduction: match config.loss.reduction {
            Reduction::Example => LossReduction::Example,
            Reduction::Token => LossReduction::Token,
        },
        chunk_tokens: config.loss.chunk_tokens,
    };
    let phase = console.phase("opening devices");
    let client = setup::client(&config.device)?;
    let device = client
        .devices()
        .first()
        .cloned()
        .ok_or_else(|| loaded.error_at("device", "the plugin found no device"))?;
    phase.done(&format!("{} {}", client.platform_name(), device.kind()));

    // Parameters are read or drawn on other threads while the program is built and compiled on this one.
    let (values, compiled) = std::thread::scope(|scope| {
        let values = scope.spawn(|| match &elsewhere {
            Some(elsewhere) => elsewhere.params(&specs),
            None => initial_values(loaded, &specs, resumed.as_ref()),
        });
        let compiled = (|| {
            let started = Instant::now();
            let batch =
                StepBatch { batch_size: input.batch_size, text_len, micro_batches: config.grad_accum_steps };
            let step = TrainStep::build(&model, &specs, &optimizer, schedules.len(), &loss, batch)
                .map_err(exec::Error::from)?;
            let module = exec::emit(&client, &step.function, &step.emit_options())?;
            if let Some(path) = request.dump_hlo {
                std::fs::write(path, module.to_string())
                    .map_err(|source| Error::Write { path: path.to_owned(), source })?;
            }
            let built_ms = started.elapsed().as_secs_f64() * 1e3;
            let phase = console.phase("compiling the step");
            let (executable, outcome) = exec::compile_module(&client, &module, &CompileOptions::default())?;
            let size = module.num_instructions();
            let took = phase.done(&format!("{size} instructions, built in {built_ms:.0} ms, {outcome}"));
            Ok::<_, Error>((step, executable, took.as_secs_f64()))
        })();
        (values.join(), compiled)
    });
    let (step, executable, compile_secs) = compiled?;
    let values = values.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let saved = |name: &str| {
        if let Some(elsewhere) = &elsewhere {
            return Some(elsewhere.optimizer_state(name));
        }
        // A checkpoint without it is one of another optimizer, and reading says what it has.
        let checkpoint = resumed.as_ref()?;
        Some(checkpoint.read(&format!("opt/{name}")))
    };
    let state = TrainState::new(&device, &specs, values, &optimizer, saved)?;
    let frozen = frozen_part(loaded, &state, resumed.as_ref())?;
    Ok(Prepared {
        model,
        specs,
        optimizer,
        schedules,
        client,
        step,
        executable,
        compile_secs,
        state: Some(state),
        loader,
        first_batch: Some(first_batch),
        env,
        store,
        frozen: Some(frozen),
        progress,
        watch,
        is_saved: resumed.is_some(),
        is_kept: resumed.as_ref().is_some_and(Checkpoint::keep),
        horizon,
        total_steps,
        batch_size,
        data_size,
        data,
        counts_skipped,
    })
}

/// What every checkpoint of the run holds, or leaves to those that its parameters came from.
fn frozen_part(loaded: &Loaded, state: &TrainState, resumed: Option<&Checkpoint>) -> Result<Frozen, Error> {
    let mut frozen = Frozen::new(Box::new(state.frozen()));
    if !loaded.config.ckpt_frozen {
        frozen = frozen.left_to(match resumed.map(Checkpoint::base).unwrap_or_default() {
            [] => setup::init_files(loaded)?,
            base => base.to_vec(),
        });
    }
    Ok(match resumed {
        Some(checkpoint) => frozen.resumed_from(checkpoint),
        None => frozen,
    })
}

/// Whether a run whose last checkpoint is of its last step also got to what comes after it: the last
/// evaluations and the page.
fn is_finished(request: &Request<'_>, last_step: u64) -> Result<bool, Error> {
    let config = &request.loaded.config;
    let metrics = request.workdir.join("metrics.jsonl");
    if !metrics.is_file() || config.report.html && !request.workdir.join("report.html").is_file() {
        return Ok(false);
    }
    let rows = read_metrics(&metrics)?;
    let was_evaluated = |name: &str| {
        let key = format!("z/secs/eval/{name}");
        rows.iter().any(|row| row.step == last_step && row.values.iter().any(|(known, _)| *known == key))
    };
    Ok(config.evals.iter().all(|(name, _)| was_evaluated(name)))
}

/// Where a run stands, as a checkpoint's JSON state says it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub step: u64,
    /// Rows used since the run began.
    pub position: u64,
    /// Rows passed over since the run began.
    pub num_skipped: u64,
    pub trained_secs: f64,
}

impl Progress {
    /// What [`to_json`](Self::to_json) wrote; the start of a run without a checkpoint.
    fn of(
        checkpoint: Option<&Checkpoint>,
        loaded: &Loaded,
        data_size: u64,
        data: &Json,
    ) -> Result<Self, Error> {
        let Some(checkpoint) = checkpoint else { return Ok(Progress::default()) };
        let state = checkpoint.state();
        let number = |key: &str| state.get(key).and_then(Json::as_u64).unwrap_or(0);
        let same = |what: &str, key: &str, now: Json| match state.get(key) {
            Some(saved) if *saved != now => {
                let (saved, now) = first_difference(saved, &now);
                Err(Error::OtherRun { what: what.to_owned(), saved, now })
            }
            _ => Ok(()),
        };
        same("seed", "seed", json!(loaded.config.seed))?;
        same("training rows", "data_size", json!(data_size))?;
        same("training data", "data", data.clone())?;
        Ok(Progress {
            step: checkpoint.step(),
            position: number("position"),
            num_skipped: number("num_skipped"),
            trained_secs: state.get("trained_secs").and_then(Json::as_f64).unwrap_or(0.0),
        })
    }

    pub fn to_json(self, seed: u64, data_size: u64, data: &Json, watch: Json) -> Json {
        json!({
            "watch": watch,
            "position": self.position,
            "num_skipped": self.num_skipped,
            "trained_secs": self.trained_secs,
            "seed": seed,
            "data_size": data_size,
            "data": data,
        })
    }
}

/// What decides which row stands at which position of a run, for checkpoints: a run that goes on with other
/// data would see some rows twice and others never.
fn describe(streams: &[Stream]) -> Json {
    let describe = |stream: &Stream| {
        json!({
            "name": stream.name,
            "weight": stream.weight,
            "rows": stream.source.len(),
            // As text: not every reader of JSON keeps all digits of a number.
            "fingerprint": format!("{:016x}", stream.source.fingerprint()),
        })
    };
    streams.iter().map(describe).collect()
}

/// The first parts of lists that are not the same, or the wholes of what are no lists.
fn first_difference(one: &Json, other: &Json) -> (String, String) {
    let (Some(ones), Some(others)) = (one.as_array(), other.as_array()) else {
        return (one.to_string(), other.to_string());
    };
    let at = ones.iter().zip(others).take_while(|(one, other)| one == other).count();
    let text = |list: &[Json]| list.get(at).map_or("nothing".to_owned(), Json::to_string);
    (text(ones), text(others))
}

/// All parameters, in the order and types of `specs`.
fn initial_values(
    loaded: &Loaded,
    specs: &ParamSpecs,
    resumed: Option<&Checkpoint>,
) -> Result<Vec<HostArray>, Error> {
    let Some(checkpoint) = resumed else { return Ok(setup::initial_params(loaded, specs)?) };
    specs
        .iter()
        .map(|spec| {
            let array = checkpoint.read(&format!("params/{}", spec.name))?;
            if array.dims() != spec.shape.dims() {
                let (saved, now) = (array.shape().to_string(), spec.shape.to_string());
                return Err(Error::OtherRun { what: "a parameter of shape".to_owned(), saved, now });
            }
            // A setting that is kept as a parameter.
            if let (LORA_ALPHA, Init::Constant(now)) = (spec.name.as_str(), &spec.init)
                && array.to_f64() != [f64::from(*now as f32)]
            {
                let (what, saved) = ("lora.alpha".to_owned(), array.to_f64()[0].to_string());
                return Err(Error::OtherRun { what, saved, now: now.to_string() });
            }
            Ok(array.cast(spec.shape.dtype()))
        })
        .collect()
}

/// Checks that a batch has what the step takes, and gives the length of its texts.
fn check_batch(batch: &Batch, model: &PaliGemmaConfig, batch_size: usize) -> Result<usize, Error> {
    let shape = |key: &'static str, expected: String| match batch.arrays.get(key) {
        Some(array) => Ok(array.shape()),
        None => {
            let got: Vec<&str> = batch.arrays.keys().map(String::as_str).collect();
            Err(Error::Batch { key, expected, got: format!("only {}", got.join(", ")) })
        }
    };
    let [height, width] = model.image_size;
    let expected = Shape::new(DType::F32, [batch_size, height, width, 3]);
    let image = shape("image", expected.to_string())?;
    if *image != expected {
        return Err(Error::Batch { key: "image", expected: expected.to_string(), got: image.to_string() });
    }
    let text = shape("text", "s32 [batch, length]".into())?.clone();
    let has_tokens = text.dtype() == DType::S32 && text.rank() == 2 && text.dims()[1] >= 2;
    if !has_tokens {
        let expected = format!("s32[{batch_size},length] with a length of at least 2");
        return Err(Error::Batch { key: "text", expected, got: text.to_string() });
    }
    for key in ["mask_ar", "mask_loss"] {
        let mask = shape(key, text.to_string())?;
        if *mask != text {
            return Err(Error::Batch { key, expected: text.to_string(), got: mask.to_string() });
        }
    }
    Ok(text.dims()[1])
}

/// The arrays of a batch that the step takes, in its order.
pub(super) fn step_arrays(batch: Batch) -> Result<Vec<HostArray>, Error> {
    let mut arrays = batch.arrays;
    let take = |key: &'static str| {
        arrays.swap_remove(key).ok_or_else(|| Error::Batch {
            key,
            expected: "an array".into(),
            got: "none".into(),
        })
    };
    STEP_ARRAYS.into_iter().map(take).collect()
}
