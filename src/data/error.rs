use std::io;
use std::path::PathBuf;

use super::PreprocessError;

/// What can go wrong between a file and a batch. Messages name the file and, where there is one, the row;
/// the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}:{line}: {problem}", path.display())]
    BadLine { path: PathBuf, line: u64, problem: String },
    #[error("{}:{line}: no field \"{field}\" to open as a file (`fopen_keys`), fields are: {}", path.display(), found.join(", "))]
    MissingField { path: PathBuf, line: u64, field: String, found: Vec<String> },
    #[error("{}:{line}: cannot read file {} of field \"{field}\"{hint}", path.display(), file.display())]
    RowFile { path: PathBuf, line: u64, field: String, file: PathBuf, source: io::Error, hint: String },
    #[error("{}: {problem}", path.display())]
    BadFile { path: PathBuf, problem: String },
    #[error("{}: {what}: {problem}", path.display())]
    BadAnnotation { path: PathBuf, what: String, problem: String },
    #[error("{row}: {problem}")]
    BadRow { row: String, problem: String },
    #[error("{at}: cannot read image {}", image.display())]
    ImageFile { at: String, image: PathBuf, source: io::Error },
    #[error("\"{}\" is a remote address, only local files are read: download it first", path.display())]
    Remote { path: PathBuf },
    #[error("{}: {problem} (at byte {offset})", path.display())]
    Damaged { path: PathBuf, offset: u64, problem: String },
    #[error("{}: {problem}", pattern.display())]
    NoFiles { pattern: PathBuf, problem: String },
    #[error("cannot download {what} of data set {repo} ({revision}); private data sets need HF_TOKEN")]
    Hub { what: String, repo: String, revision: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{source_name} has no rows")]
    Empty { source_name: String },
    #[error("the blocks of {source_name} are not its rows, one after the other")]
    Blocks { source_name: String },
    #[error("{} holds no folders of images, expected <class>/<file>.{{{}}}", path.display(), extensions.join(","))]
    NoImages { path: PathBuf, extensions: &'static [&'static str] },
    #[error("row {index} was asked of {source_name}, which has {len}")]
    OutOfRange { source_name: String, index: usize, len: usize },
    #[error("{problem}")]
    Options { problem: String },
    #[error("cannot preprocess {row}")]
    Preprocess { row: String, source: PreprocessError },
    #[error("reading or preprocessing {row} panicked: {message}")]
    Panicked { row: String, message: String },
    #[error(
        "{row} gives \"{name}\" as {got}, but the batch's first row gave {expected}: every row must come to the same shape"
    )]
    Ragged { row: String, name: String, expected: String, got: String },
    #[error("{attempts} rows in a row failed although `skip_errors` is set")]
    TooManySkipped { attempts: u64, source: Box<Error> },
    #[error("all loader threads ended before the batch at position {position} was complete")]
    ThreadsEnded { position: u64 },
    #[error("cannot start a loader thread")]
    Spawn(#[source] io::Error),
}

impl Error {
    /// Whether the request is at fault rather than the data: options or the names of files.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::Options { .. } | Error::Remote { .. } | Error::NoFiles { .. })
    }
}
