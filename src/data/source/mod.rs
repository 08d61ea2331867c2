//! Where rows come from. A source is indexed when it is opened and read row by row, in any order, from
//! several threads.

pub(super) mod detection;
mod frames;
mod imagefolder;
mod jsonl;
mod memory;
mod roboflow;

pub use detection::{
    Annotated, Annotations, Classes, Coco, DetectOptions, DetectionSource, ImageFile, Object, Voc,
    VocOptions, Yolo,
};
pub use frames::{Frames, FramesOptions};
pub use imagefolder::ImageFolder;
pub use jsonl::{Jsonl, JsonlOptions};
pub use memory::MemorySource;
pub use roboflow::roboflow;

use std::fs;
use std::ops::Range;
use std::path::Path;

use super::{Error, Row};

/// How many [blocks](Source::blocks) a source keeps at hand at least.
pub const BLOCKS_AT_HAND: usize = 8;

/// A finite, randomly accessible list of rows.
pub trait Source: Send + Sync {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads row `index`, with the files that its fields name. Every call reads afresh.
    ///
    /// # Errors
    /// When the row or one of its files cannot be read, or `index` is not below [`len`](Self::len).
    fn get(&self, index: usize) -> Result<Row, Error>;

    /// Consecutive ranges of rows, from 0 to [`len`](Self::len), that are stored together and cheap to read together,
    /// such as pages of columns that are decoded as one. A source of this kind keeps the [`BLOCKS_AT_HAND`]
    /// blocks read last, so an order that draws from no more blocks than that at a time reads each of them
    /// once. Empty, the default, where any row costs the same.
    fn blocks(&self) -> &[Range<usize>] {
        &[]
    }

    /// What this source is, for logs: its kind, where it is, how many rows.
    fn describe(&self) -> String;

    /// Where row `index` is written, for messages: `train.jsonl:17`.
    fn locate(&self, index: usize) -> String;
}

/// The error that every source gives for an index past its end.
fn out_of_range(source: &dyn Source, index: usize) -> Error {
    Error::OutOfRange { source_name: source.describe(), index, len: source.len() }
}

/// Reads a whole file, naming it when that fails.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })
}
