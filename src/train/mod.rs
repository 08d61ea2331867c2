//! Training: the step as one program, the state that it carries on the device, and the loop around it.
//!
//! The loop never waits for a step that it does not report: the next batch is prepared and sent while the
//! device works, and measurements are read when they are ready. A run can be stopped and resumed at any
//! step with the same result as one that was not.

mod guard;
mod page;
mod prepare;
mod resume;
mod run;
mod state;
mod step;
mod timing;
mod watch;

pub use guard::NotFinite;
pub use run::{Ended, Request, train};
pub use state::{FrozenOnDevice, StateCopy, TrainState};
pub use step::{METRICS, StepBatch, StepInputs, TrainStep};

use std::path::PathBuf;

use crate::{array, checkpoint, config, data, eval, exec, params, report, runtime, setup};

/// A training that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setup(#[from] setup::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Params(#[from] params::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Exec(#[from] exec::Error),
    #[error(transparent)]
    Eval(#[from] eval::Error),
    #[error(transparent)]
    Report(#[from] report::Error),
    #[error(transparent)]
    Array(#[from] array::Error),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("input.pp must leave \"{key}\" as {expected}, got {got}")]
    Batch { key: &'static str, expected: String, got: String },
    #[error(transparent)]
    NotFinite(Box<NotFinite>),
    #[error("the run in {} was trained for {trained} of {total} steps; nothing is left to do", workdir.display())]
    AlreadyDone { workdir: PathBuf, trained: u64, total: u64 },
    #[error(
        "the checkpoint was written with {what} {saved}, the config has {now}; use another workdir to start anew"
    )]
    OtherRun { what: String, saved: String, now: String },
    #[error(
        "{} does not hold the state of this training; resume it with its own config, or start from its parameters by \
         model_init:{}", path.display(), problems.iter().map(|problem| format!("\n  {problem}")).collect::<String>()
    )]
    Uncovered { path: PathBuf, problems: Vec<String> },
    #[error("{metric} is no metric of its evaluation, which gave: {}", known.join(", "))]
    NoMetric { metric: String, known: Vec<String> },
    #[error("the training data ended before the training did")]
    NoMoreData,
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Self {
        Error::Exec(error.into())
    }
}
