use std::path::PathBuf;

use super::Check;
use crate::array::Shape;
use crate::{array, checkpoint, config, exec, graph, params, pp, runtime, setup, train, vqvae};

/// Why a recording cannot be replayed. Numbers that differ are not among the reasons.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unknown check \"{name}\", known are: {}", names(&Check::ALL))]
    UnknownCheck { name: String },

    #[error("{} does not hold the check {missing}, it holds: {}", .path.display(), names(.held))]
    NotHeld { path: PathBuf, missing: Check, held: Vec<Check> },

    #[error(
        "{} is not a recording: neither it nor a folder in it has a file such as forward.safetensors, \
         loss.json, sgd.json, pp_image.json, pp_text.json, expected_jsonl.json, evaluators.json or steps.json", .path.display()
    )]
    NotARecording { path: PathBuf },

    #[error("cannot read {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("{} is not what a recording has under this name", .path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },

    #[error("{}: {message}", .path.display())]
    Unsupported { path: PathBuf, message: String },

    #[error("{} holds other tensors than expected:{}{}", .path.display(), list("missing", .missing),
        list("unknown", .unknown))]
    OtherTensors { path: PathBuf, missing: Vec<String>, unknown: Vec<String> },

    #[error("recorded \"{name}\" has the shape {recorded}, this program computes {got}")]
    OtherShape { name: String, recorded: Shape, got: Shape },

    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Setup(#[from] setup::Error),
    #[error(transparent)]
    Train(#[from] train::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Params(#[from] params::Error),
    #[error(transparent)]
    Array(#[from] array::Error),
    #[error(transparent)]
    Graph(#[from] graph::Error),
    #[error(transparent)]
    Pp(#[from] pp::Error),
    #[error(transparent)]
    Exec(#[from] exec::Error),
    #[error(transparent)]
    Masks(#[from] vqvae::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
}

fn names(checks: &[Check]) -> String {
    checks.iter().map(|check| check.name()).collect::<Vec<_>>().join(", ")
}

fn list(what: &str, names: &[String]) -> String {
    names.iter().map(|name| format!("\n  {what} {name}")).collect()
}
