//! What people and their tools see of a run: metrics, TensorBoard events, the terminal, pictures with boxes,
//! and `report.html`.
//!
//! Plain data comes in, files and terminal lines go out. The module knows nothing of graphs, models or the
//! trainer, and computes no metric itself: names and values are the caller's, in big_vision's words
//! (`training_loss`, `val/pplx/avg`).

pub mod console;
pub mod draw;
pub mod events;
pub mod logging;
pub mod metrics;
pub mod palette;
mod text;
mod units;

use std::io;
use std::path::{Path, PathBuf};

/// Why a report could not be written, or read back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{}:{line} is not a row of metrics ({reason}); correct or remove that line",
        path.display()
    )]
    MetricsRow { path: PathBuf, line: usize, reason: String },
    #[error("a metric cannot be called \"step\", each row already begins with it")]
    ReservedKey,
    #[error("metrics of step {step} were written after those of step {last}")]
    StepWentBack { step: u64, last: u64 },
    #[error("{}={filter:?} is not a log filter: {reason}", logging::FILTER_VARIABLE)]
    LogFilter { filter: String, reason: String },
    #[error("a logger has been installed before this program's own")]
    SecondLogger,
}

impl Error {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }
}
