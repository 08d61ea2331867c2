use std::io;
use std::path::{Path, PathBuf};

use super::{Report, hf, npy, zarr};
use crate::array::Shape;
use crate::params::nearest_hint;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(
        "{} is not a checkpoint: {found}; expected an .npz, a .safetensors file or index, a directory of arrays \
         (checkpoint.bv-…), or a directory that holds one of them or a training run", .path.display()
    )]
    NotACheckpoint { path: PathBuf, found: &'static str },

    #[error("{} is not a complete zip archive (an interrupted download or copy?)", .path.display())]
    Zip {
        path: PathBuf,
        #[source]
        source: Box<zip::result::ZipError>,
    },

    #[error("{} holds two entries of the same name", .path.display())]
    DuplicateEntries { path: PathBuf },

    #[error(
        "{} holds no adapters: neither those of a run with lora (lora/alpha and others) nor those of PEFT \
         (adapter_config.json beside adapter_model.safetensors)", .path.display()
    )]
    NoAdapters { path: PathBuf },

    #[error("tensor \"{name}\" occurs twice in {}", .path.display())]
    DuplicateTensor { path: PathBuf, name: String },

    #[error("entry \"{entry}\" of {} is not a usable array", .path.display())]
    Npy {
        path: PathBuf,
        entry: String,
        #[source]
        source: npy::Error,
    },

    #[error(
        "entry \"{entry}\" of {} is damaged: its checksum is {got:08x}, the archive says {expected:08x}",
        .path.display()
    )]
    Checksum { path: PathBuf, entry: String, expected: u32, got: u32 },

    #[error("array \"{name}\" of {} is not usable", .path.display())]
    Zarr {
        path: PathBuf,
        name: String,
        #[source]
        source: zarr::Error,
    },

    #[error("{} names \"{content}\", {problem}", .path.display())]
    BadPointer { path: PathBuf, content: String, problem: &'static str },

    #[error("piece {}.part{piece} {problem}", .path.display())]
    Pieces { path: PathBuf, piece: String, problem: &'static str },

    #[error("the layers of {} are not a stack: layer {layer} of \"{name}\" {problem}", .path.display())]
    Layers { path: PathBuf, name: String, layer: usize, problem: String },

    #[error("{} is there and is no directory of arrays; write to another name or remove it", .path.display())]
    Occupied { path: PathBuf },

    #[error("{} is not a complete safetensors file", .path.display())]
    Safetensors {
        path: PathBuf,
        #[source]
        source: ::safetensors::SafeTensorError,
    },

    #[error("tensor \"{name}\" of {} has dtype {dtype}, which is not supported", .path.display())]
    UnsupportedDType { path: PathBuf, name: String, dtype: String },

    #[error("{} is not an index of safetensors shards: {problem}", .path.display())]
    BadIndex { path: PathBuf, problem: String },

    #[error("no tensor is called \"{name}\" in {}{}", .path.display(), nearest_hint(.nearest))]
    UnknownTensor { path: PathBuf, name: String, nearest: Vec<String> },

    #[error("{} has no part \"{part}\", its parts are: {}", .path.display(), .known.join(", "))]
    UnknownPart { path: PathBuf, part: String, known: Vec<String> },

    #[error("tensor \"{name}\" of shape {shape} has {} bytes, not {got}", .shape.num_bytes())]
    WrongSize { name: String, shape: Shape, got: usize },

    #[error("{} expects tensor {}, got \"{name}\"", .path.display(), quoted(.expected.as_deref()))]
    WriteOrder { path: PathBuf, expected: Option<String>, name: String },

    #[error("{} was finished before tensor \"{next}\" was written", .path.display())]
    Unfinished { path: PathBuf, next: String },

    #[error("tensor name \"{name}\" cannot be written: {problem}")]
    BadName { name: String, problem: &'static str },

    #[error("{} exists already; remove it, or choose another name", .path.display())]
    Exists { path: PathBuf },

    #[error("cannot go between Hugging Face's names and big_vision's with {}", .path.display())]
    Hf {
        path: PathBuf,
        #[source]
        source: Box<hf::Problem>,
    },

    #[error("{0}")]
    DoesNotFit(Box<Report>),

    #[error("{} is in use by another run; stop it, or choose another workdir", .workdir.display())]
    InUse { workdir: PathBuf },

    #[error("{} has no manifest.json: it is not a complete training checkpoint", .path.display())]
    NoManifest { path: PathBuf },

    #[error("{} is not a manifest of a training checkpoint", .path.display())]
    BadManifest {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },

    #[error(
        "{} has format \"{format}\" version {version}; this program reads \"{}\" up to version {}",
        .path.display(), super::store::FORMAT, super::store::VERSION
    )]
    ManifestVersion { path: PathBuf, format: String, version: u32 },

    #[error("{} is truncated or overwritten: it has {got} bytes, its manifest says {expected}", .path.display())]
    FileSize { path: PathBuf, expected: u64, got: u64 },

    #[error("{} is damaged: its blake3 digest is {got}, its manifest says {expected}", .path.display())]
    Digest { path: PathBuf, expected: String, got: String },

    #[error("manifest of {} and its files disagree about tensor \"{name}\"", .path.display())]
    ManifestTensor { path: PathBuf, name: String },

    #[error(
        "no checkpoint in {} is intact; move the damaged ones away to start afresh:{}",
        .workdir.display(), damages(.damaged)
    )]
    NoneIntact { workdir: PathBuf, damaged: Vec<(PathBuf, Error)> },

    #[error(
        "{} leaves frozen parameters to {}, which cannot be read; put it back, or correct its path in \
         manifest.json", .path.display(), .base.display()
    )]
    BaseUnreadable {
        path: PathBuf,
        base: PathBuf,
        #[source]
        source: Box<Error>,
    },

    #[error(
        "{} leaves parameter \"{name}\" to {}, which no longer has it as it was; put the original back",
        .path.display(), .base.display()
    )]
    BaseChanged { path: PathBuf, base: PathBuf, name: String },

    #[error(
        "{} leaves frozen parameters to a chain of more than {max} checkpoints, or to itself",
        .path.display()
    )]
    BaseTooDeep { path: PathBuf, max: usize },

    #[error("the state of the training cannot be copied from the device")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),

    #[error("the thread that was saving a checkpoint panicked: {message}")]
    SaverPanicked { message: String },
}

impl Error {
    /// Whether a checkpoint is whole, but not what it leaves parameters to.
    pub fn is_of_base(&self) -> bool {
        matches!(self, Error::BaseUnreadable { .. } | Error::BaseChanged { .. } | Error::BaseTooDeep { .. })
    }

    /// Whether what was named is another thing than was wanted, rather than damaged or out of reach.
    pub fn is_usage(&self) -> bool {
        use Error::{DoesNotFit, Exists, NoAdapters, NotACheckpoint, UnknownPart};
        matches!(
            self,
            NotACheckpoint { .. } | UnknownPart { .. } | DoesNotFit(_) | Exists { .. } | NoAdapters { .. }
        )
    }

    /// For `map_err`: `cannot ACTION PATH`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}

fn quoted(name: Option<&str>) -> String {
    name.map_or_else(|| "none any more".to_owned(), |name| format!("\"{name}\""))
}

fn damages(damaged: &[(PathBuf, Error)]) -> String {
    damaged.iter().map(|(path, error)| format!("\n  {}: {error}", path.display())).collect()
}
