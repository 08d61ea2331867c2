//! Going on from a training elsewhere: `resume` in the config.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value as Json;

use super::Error;
use super::prepare::Progress;
use crate::array::{HostArray, Shape};
use crate::checkpoint::{self, Checkpoint, Reader, State};
use crate::optim::{Optimizer, Transform, TransformState};
use crate::params::ParamSpecs;

/// Lines of a report on what does not fit: more say no more.
const MAX_PROBLEMS: usize = 8;

/// The state of a training that took place in another workdir, by this program or by big_vision.
pub(super) struct Elsewhere {
    reader: Box<dyn Reader>,
    /// The full name there of each array of the optimizer.
    state: HashMap<String, String>,
    pub progress: Progress,
    /// What else the trainer that wrote it, if it was this one, remembered.
    json: Json,
}

/// Whose names a state has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Own,
    BigVision,
}

impl Elsewhere {
    /// Opens a state and sees that it has everything that this training carries on.
    ///
    /// The run goes on at the step of the state, behind the rows that the state has used: big_vision's has used a
    /// batch in every step. What the state has beyond that, such as the moments of parameters that are frozen now,
    /// is left out, as big_vision does.
    ///
    /// # Errors
    /// When the state cannot be read, or lacks something: then with all that it lacks.
    pub fn open(
        path: &Path,
        specs: &ParamSpecs,
        optimizer: &Optimizer,
        batch_size: u64,
    ) -> Result<Self, Error> {
        let (reader, names, progress, json): (Box<dyn Reader>, _, _, _) = match checkpoint::open_state(path)?
        {
            State::Own(checkpoint) => {
                let progress = own_progress(&checkpoint);
                let json = checkpoint.state().clone();
                (checkpoint, Names::Own, Some(progress), json)
            }
            State::BigVision(reader) => {
                let progress = big_vision_progress(reader.as_ref(), batch_size)?;
                (reader, Names::BigVision, progress, Json::Null)
            }
        };
        let mut problems = Vec::new();
        let is_adafactor = matches!(optimizer.transform(), Transform::Adafactor(_));
        if names == Names::BigVision && !is_adafactor && reader.find("opt/1/0/0/0").is_some() {
            problems
                .push("its optimizer is big_vision.scale_by_adafactor, the config has another".to_owned());
        }
        if progress.is_none() {
            problems.push("opt/…/0/0 is missing, the count of steps".to_owned());
        }
        let mut expect = |name: String, shape: &Shape| match reader.find(&name) {
            None => problems.push(format!("{name} is missing")),
            Some(found) if found.dims() != shape.dims() => {
                problems.push(format!("{name} is {found}, expected {shape}"));
            }
            Some(_) => {}
        };
        specs.iter().for_each(|spec| expect(format!("params/{}", spec.name), &spec.shape));
        let state: HashMap<String, String> =
            optimizer.state().iter().map(|state| (state.name.clone(), names.of_state(state))).collect();
        optimizer.state().iter().for_each(|array| expect(state[&array.name].clone(), &array.shape));
        match progress {
            Some(progress) if problems.is_empty() => Ok(Elsewhere { reader, state, progress, json }),
            _ => Err(Error::Uncovered { path: path.to_owned(), problems: shortened(problems) }),
        }
    }

    /// What a checkpoint of this program holds besides arrays; null for others.
    pub fn state(&self) -> &Json {
        &self.json
    }

    pub fn path(&self) -> &Path {
        self.reader.path()
    }

    /// All parameters, in the order and types of `specs`.
    pub fn params(&self, specs: &ParamSpecs) -> Result<Vec<HostArray>, Error> {
        let read = |spec: &&crate::params::ParamSpec| {
            let array = self.reader.read(&format!("params/{}", spec.name))?;
            let dtype = spec.shape.dtype();
            Ok(if array.dtype() == dtype { array } else { array.cast(dtype) })
        };
        specs.iter().collect::<Vec<_>>().par_iter().map(read).collect()
    }

    /// An array of the optimizer, by this program's name for it.
    pub fn optimizer_state(&self, name: &str) -> Result<HostArray, checkpoint::Error> {
        self.reader.read(self.state.get(name).map_or(name, String::as_str))
    }
}

impl Names {
    /// The full name of an array of the optimizer. big_vision's is a link of a chain, the second, of which `optax`
    /// names the parts by their positions.
    fn of_state(self, state: &TransformState) -> String {
        match self {
            Names::Own => format!("opt/{}", state.name),
            Names::BigVision => format!("opt/1/0/{}", state.position),
        }
    }
}

fn own_progress(checkpoint: &Checkpoint) -> Progress {
    let state = checkpoint.state();
    let number = |key: &str| state.get(key).and_then(Json::as_u64).unwrap_or(0);
    Progress {
        step: checkpoint.step(),
        position: number("position"),
        num_skipped: number("num_skipped"),
        trained_secs: state.get("trained_secs").and_then(Json::as_f64).unwrap_or(0.0),
    }
}

/// Every schedule of big_vision counts the steps; `None` when none does.
fn big_vision_progress(reader: &dyn Reader, batch_size: u64) -> Result<Option<Progress>, Error> {
    let is_count = |name: &&str| {
        let link = name.strip_prefix("opt/").and_then(|rest| rest.strip_suffix("/0/0"));
        let is_schedule =
            link.is_some_and(|link| link != "1" && link.bytes().all(|byte| byte.is_ascii_digit()));
        is_schedule && reader.find(name).is_some_and(|shape| shape.is_scalar() && shape.dtype().is_integer())
    };
    let mut steps = Vec::new();
    for name in reader.names().into_iter().filter(is_count) {
        steps.push((name, scalar(reader, name)? as u64));
    }
    let Some(&(first, step)) = steps.first() else { return Ok(None) };
    if let Some((other, found)) = steps.iter().find(|(_, other)| *other != step) {
        let problem = format!("{first} counts {step} steps, {other} counts {found}");
        return Err(Error::Uncovered { path: reader.path().to_owned(), problems: vec![problem] });
    }
    let clock = "chrono/accum_train_time";
    let trained_secs = if reader.find(clock).is_some() { scalar(reader, clock)? } else { 0.0 };
    Ok(Some(Progress { step, position: step.saturating_mul(batch_size), num_skipped: 0, trained_secs }))
}

fn scalar(reader: &dyn Reader, name: &str) -> Result<f64, checkpoint::Error> {
    Ok(reader.read(name)?.to_f64().first().copied().unwrap_or(0.0))
}

fn shortened(mut problems: Vec<String>) -> Vec<String> {
    if problems.len() > MAX_PROBLEMS + 1 {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::DType;
    use crate::optim::{Adafactor, OptimizerConfig};
    use crate::params::{Init, ParamSpec, Patterns};

    fn recorded(run: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model/checkpoint_bv").join(run)
    }

    /// Parameters of the recorded model, of which the decoder's and those of `more` are trained.
    fn training(more: &str) -> (ParamSpecs, Optimizer) {
        training_with(ADAM, "adam", [(more, Some(0)), ("img/.*", None), (".*", Some(0))])
    }

    const ADAM: Transform = Transform::Adam { b1: 0.9, b2: 0.999, eps: 1e-8, eps_root: 0.0, mu_dtype: None };

    fn training_with<const N: usize>(
        transform: Transform,
        run: &str,
        schedule: [(&str, Option<usize>); N],
    ) -> (ParamSpecs, Optimizer) {
        let reader = checkpoint::open(recorded(run)).unwrap();
        let spec = |name: &&str| {
            ParamSpec::new(*name, reader.find(name).unwrap().with_dtype(DType::F32), Init::Zeros)
        };
        let specs = ParamSpecs::new(reader.names().iter().map(spec)).unwrap();
        let config = OptimizerConfig {
            transform,
            lr: 1.0,
            lr_mults: Patterns::default(),
            wd: 0.0,
            wd_mults: Patterns::default(),
            grad_clip_norm: None,
            schedule: Patterns::new(schedule).unwrap(),
        };
        let optimizer = Optimizer::new(&config, &specs).unwrap();
        (specs, optimizer)
    }

    fn problem(run: &str, more: &str) -> String {
        let (specs, optimizer) = training(more);
        Elsewhere::open(&recorded(run), &specs, &optimizer, 2).err().unwrap().to_string()
    }

    #[test]
    fn a_state_of_big_vision_is_found_under_its_names() {
        let (specs, optimizer) = training("none");
        let state = Elsewhere::open(&recorded("adam"), &specs, &optimizer, 2).unwrap();
        assert_eq!((state.progress.step, state.progress.position), (6, 12));
        assert!((state.progress.trained_secs - 0.04205).abs() < 1e-4);
        assert_eq!(state.optimizer_state("count").unwrap().to_f64(), [6.0]);
        let whole = checkpoint::open_as_is(recorded("adam")).unwrap();
        for name in ["llm/layers/mlp/linear", "llm/embedder/input_embedding"] {
            let raw = |link: &str| whole.read(&format!("opt/1/0/{link}/{name}")).unwrap();
            assert_eq!(state.optimizer_state(&format!("mu/{name}")).unwrap(), raw("1"));
            assert_eq!(state.optimizer_state(&format!("nu/{name}")).unwrap(), raw("2"));
        }
        let params = state.params(&specs).unwrap();
        assert_eq!(params[0], whole.read(&format!("params/{}", specs.iter().next().unwrap().name)).unwrap());
    }

    #[test]
    fn a_state_of_adafactor_is_found_in_its_parts() {
        let adafactor = Transform::Adafactor(Adafactor {
            min_dim_size_to_factor: 32,
            decay_rate: 0.8,
            decay_offset: 0.0,
            beta2_cap: 0.95,
            clipping_threshold: None,
            momentum: Some(0.9),
            dtype_momentum: Some(DType::BF16),
            eps: 1e-30,
        });
        let (specs, optimizer) = training_with(adafactor, "adafactor", [(".*", Some(0))]);
        let state = Elsewhere::open(&recorded("adafactor"), &specs, &optimizer, 2).unwrap();
        assert_eq!((state.progress.step, state.progress.position), (6, 12));
        let whole = checkpoint::open_as_is(recorded("adafactor")).unwrap();
        let embedding = "llm/embedder/input_embedding";
        for (ours, theirs) in [
            ("count".to_owned(), "opt/1/0/0/0".to_owned()),
            (format!("v_row/{embedding}"), format!("opt/1/0/0/1/{embedding}")),
            (format!("v_col/{embedding}"), format!("opt/1/0/0/2/{embedding}")),
            ("v/llm/final_norm/scale".to_owned(), "opt/1/0/0/3/llm/final_norm/scale".to_owned()),
            (format!("ema/{embedding}"), format!("opt/1/0/2/1/{embedding}")),
        ] {
            assert_eq!(state.optimizer_state(&ours).unwrap(), whole.read(&theirs).unwrap(), "{ours}");
        }
        assert_eq!(whole.shape(&format!("opt/1/0/2/1/{embedding}")).unwrap().dtype(), DType::BF16);
    }

    #[test]
    fn what_a_state_lacks_is_named() {
        let text = problem("adam", "img/head/bias");
        assert!(text.contains("checkpoint_bv/adam does not hold the state of this training"), "{text}");
        assert!(
            text.ends_with("\n  opt/1/0/1/img/head/bias is missing\n  opt/1/0/2/img/head/bias is missing"),
            "{text}"
        );
        let text = problem("adafactor", "none");
        assert!(
            text.contains("\n  its optimizer is big_vision.scale_by_adafactor, the config has another\n"),
            "{text}"
        );
        assert!(text.ends_with(" more"), "{text}");
    }
}
