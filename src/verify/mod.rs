//! Replays recordings of the reference implementation and measures how far this program's numbers are from
//! them: the proof of exactness that anybody can run.
//!
//! A recording is a folder of a small model's parameters, batches, and what big_vision made of them:
//! activations, losses, gradients, training runs, decoded tokens; of images and texts and what its preprocessing made
//! of them; or of predictions and what its evaluators made of these. Each [`Check`] replays one of these, on a device
//! where a model is needed, and yields a [`Row`] for every number and tensor; [`Tolerance`] says how far apart they may
//! be, and why. This module only uses what training itself uses (`model`, `train`, `decode`, `pp`, `metrics`), so a
//! deviation is a bug there.

mod check;
mod checkpoint;
mod compare;
mod data;
mod decode;
mod error;
mod forward;
mod image;
mod loss;
mod metrics;
mod perplexity;
mod program;
mod recording;
mod report;
mod schedule;
mod sides;
mod tally;
mod text;
mod tolerance;
mod train;
mod vit;

use std::path::Path;

use check::Replay;
use program::Session;
use recording::{Case, Recording};

use crate::runtime::Client;

pub use check::Check;
pub use compare::Row;
pub use error::Error;
pub use report::{CaseReport, CheckReport, Report};
pub use tolerance::{Measure, Tolerance};

/// What to replay, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// These checks only; empty for all that the folder holds.
    pub only: Vec<Check>,
    /// Text positions whose logits the loss computes at once; 0 for all.
    pub chunk_tokens: usize,
}

/// Replays a recording, or every recording in a folder of them. `client` is asked for a client, whose first device
/// is used, when a check needs one.
///
/// # Errors
/// When the folder holds no recording or not the checks asked for, or when a recording is unreadable or does
/// not fit its own config. A deviation is no error: the report has it.
pub fn replay<'a>(
    client: &dyn Fn() -> Result<&'a Client, Error>,
    dir: &Path,
    options: &Options,
) -> Result<Report, Error> {
    let cases = Case::find(dir)?;
    let holds = |check: &Check| cases.iter().any(|case| case.held().contains(check));
    if let Some(&missing) = options.only.iter().find(|check| !holds(check)) {
        let held = Check::ALL.into_iter().filter(holds).collect();
        return Err(Error::NotHeld { path: dir.to_owned(), missing, held });
    }
    let mut reports = Vec::new();
    for case in &cases {
        let wanted = |check: &&Check| options.only.is_empty() || options.only.contains(check);
        let checks: Vec<Check> = case.held().iter().filter(wanted).copied().collect();
        if !checks.is_empty() {
            reports.push(replay_case(client, case, &checks, options)?);
        }
    }
    Ok(Report { cases: reports })
}

fn replay_case<'a>(
    client: &dyn Fn() -> Result<&'a Client, Error>,
    case: &Case,
    checks: &[Check],
    options: &Options,
) -> Result<CaseReport, Error> {
    let mut session = None;
    let mut reports = Vec::new();
    for &check in checks {
        tracing::info!(case = case.name(), check = check.name(), "replaying");
        let rows = match check.replay() {
            Replay::Folder(rows) => rows(case.dir())?,
            Replay::Device(rows) => rows(client()?, case.dir())?,
            Replay::Model(rows) => rows(match &mut session {
                Some(session) => session,
                None => session.insert(Session::new(client()?, Recording::open(case)?, options)?),
            })?,
        };
        reports.push(CheckReport { check, rows });
    }
    Ok(CaseReport { name: case.name().to_owned(), checks: reports })
}
