use std::fmt;
use std::path::PathBuf;

use crate::array;

/// What a plugin said about a call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The C API function, as `PJRT_Client_Compile`.
    pub call: &'static str,
    pub message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.call, self.message)
    }
}

/// Why the runtime could not do what was asked. The first sixteen are the status codes of the PJRT C API, one
/// each, so that a caller can tell (say) a lack of device memory from a bad program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cancelled: {0}")]
    Cancelled(Status),
    #[error("unknown: {0}")]
    Unknown(Status),
    #[error("invalid argument: {0}")]
    InvalidArgument(Status),
    #[error("deadline exceeded: {0}")]
    DeadlineExceeded(Status),
    #[error("not found: {0}")]
    NotFound(Status),
    #[error("already exists: {0}")]
    AlreadyExists(Status),
    #[error("permission denied: {0}")]
    PermissionDenied(Status),
    /// Device memory ran out, as a rule.
    #[error("resource exhausted: {0}")]
    ResourceExhausted(Status),
    #[error("failed precondition: {0}")]
    FailedPrecondition(Status),
    #[error("aborted: {0}")]
    Aborted(Status),
    #[error("out of range: {0}")]
    OutOfRange(Status),
    #[error("unimplemented: {0}")]
    Unimplemented(Status),
    #[error("internal: {0}")]
    Internal(Status),
    #[error("unavailable: {0}")]
    Unavailable(Status),
    #[error("data loss: {0}")]
    DataLoss(Status),
    #[error("unauthenticated: {0}")]
    Unauthenticated(Status),

    #[error("no PJRT plugin for {wanted} found; fetch one with `scripts/fetch-plugin {fetch}`, or name its file with \
             --plugin or PALIGEMMA_PJRT_PLUGIN; searched: {}", searched.join(", "))]
    PluginNotFound { wanted: &'static str, fetch: &'static str, searched: Vec<String> },
    #[error("unknown plugin kind \"{0}\", known are: cpu, cuda, cuda13, cuda12, tpu")]
    UnknownKind(String),
    #[error("PJRT plugin {} cannot be loaded: {source}", path.display())]
    PluginLoad { path: PathBuf, source: libloading::Error },
    #[error("{} is no PJRT plugin: its GetPjrtApi {problem}", path.display())]
    NotAPlugin { path: PathBuf, problem: &'static str },
    #[error("PJRT plugin {} has C API {major}.{minor}; this program knows major version 0 only", path.display())]
    IncompatibleVersion { path: PathBuf, major: i32, minor: i32 },
    #[error("the plugin (PJRT C API {major}.{minor}) has no {function}; use a newer plugin")]
    MissingFunction { function: &'static str, major: i32, minor: i32 },
    #[error("the device's element type {0} (a PJRT_Buffer_Type) has no counterpart in this program")]
    UnsupportedElementType(i32),
    #[error("execute expects {expected} argument lists (one per device of the executable), got {got}")]
    WrongDeviceCount { expected: usize, got: usize },
    #[error(
        "execute expects argument lists alike on every device: device 0 has {first}, device {index} has {other}"
    )]
    UnevenArguments { index: usize, first: String, other: String },
    #[error(transparent)]
    Array(#[from] array::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl Error {
    /// The variant for a `PJRT_Error_Code`; codes that the C API does not define become [`Error::Unknown`].
    pub(super) fn from_code(code: i32, status: Status) -> Self {
        match code {
            1 => Error::Cancelled(status),
            3 => Error::InvalidArgument(status),
            4 => Error::DeadlineExceeded(status),
            5 => Error::NotFound(status),
            6 => Error::AlreadyExists(status),
            7 => Error::PermissionDenied(status),
            8 => Error::ResourceExhausted(status),
            9 => Error::FailedPrecondition(status),
            10 => Error::Aborted(status),
            11 => Error::OutOfRange(status),
            12 => Error::Unimplemented(status),
            13 => Error::Internal(status),
            14 => Error::Unavailable(status),
            15 => Error::DataLoss(status),
            16 => Error::Unauthenticated(status),
            _ => Error::Unknown(status),
        }
    }
}
