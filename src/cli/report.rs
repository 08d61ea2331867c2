//! `paligemma report`: several runs beside each other.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::report::compare::{Run, compare};
use crate::report::console::Console;
use crate::report::metrics::read_metrics;
use crate::report::{self, page};

/// Compare runs: a table of last and best values, and a page with their curves in one chart each
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Work directories of runs
    #[arg(value_name = "DIR", required = true)]
    workdirs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "OUT.html", default_value = "comparison.html")]
    out: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} holds no run: there is no metrics.jsonl in it", path.display())]
    NoRun { path: PathBuf },
    #[error(transparent)]
    Report(#[from] report::Error),
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
}

impl Error {
    /// Whether arguments are wrong, rather than the run.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::NoRun { .. })
    }
}

/// # Errors
/// When a folder holds no run, or the page cannot be written.
pub fn run(args: &Args, console: &Console) -> Result<(), Error> {
    let mut runs = Vec::new();
    for (index, path) in args.workdirs.iter().enumerate() {
        let metrics = path.join("metrics.jsonl");
        if !metrics.is_file() {
            return Err(Error::NoRun { path: path.clone() });
        }
        let rows = read_metrics(&metrics)?;
        let config_yaml = std::fs::read_to_string(path.join("config.yaml")).unwrap_or_default();
        runs.push(Run { name: name(&args.workdirs, index), rows, config_yaml });
    }
    let comparison = compare(&runs);
    page::write(&args.out, &comparison.page)?;
    console.line(&format!("written: {}", args.out.display()));
    match io::stdout().lock().write_all(comparison.text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Write(error)),
        _ => Ok(()),
    }
}

/// A run's folder by its last name, or by its path where several are called that.
fn name(workdirs: &[PathBuf], index: usize) -> String {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let path = &workdirs[index];
    let others = workdirs.iter().enumerate().filter(|(other, _)| *other != index);
    match last(path) {
        Some(name) if others.clone().all(|(_, other)| last(other).as_ref() != Some(&name)) => name,
        _ => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_called_by_what_tells_them_apart() {
        let paths = ["a/run", "b/run", "c/other"].map(PathBuf::from);
        assert_eq!([0, 1, 2].map(|i| name(&paths, i)), ["a/run", "b/run", "other"]);
    }
}
