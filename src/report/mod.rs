//! What people and their tools see of a run: metrics, TensorBoard events, the terminal, pictures with boxes,
//! and `report.html`.
//!
//! Plain data comes in, files and terminal lines go out. The module knows nothing of graphs, models or the
//! trainer, and computes no metric itself: names and values are the caller's, in big_vision's words
//! (`training_loss`, `val/pplx/avg`).

mod card;
pub mod chart;
pub mod compare;
pub mod console;
pub mod draw;
pub mod events;
pub mod logging;
pub mod metrics;
pub mod overview;
pub mod page;
pub mod palette;
pub mod preview;
pub mod results;
pub mod table;
mod text;
mod transfer;
pub mod units;

pub use transfer::Transfer;

use std::io::{self, Write as _};
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
    #[error("could not encode a picture of {width}x{height} pixels for the report")]
    Picture { width: u32, height: u32, source: image::ImageError },
    #[error("a logger has been installed before this program's own")]
    SecondLogger,
}

impl Error {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }
}

/// Writes a file aside and renames it: readers see the old content or the new, never a part.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".report-");
        // Temporary files are the owner's alone; this one becomes an ordinary file, as the umask has it.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(Error::io("write", path))
}
