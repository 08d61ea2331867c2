//! Where rows come from. A source is indexed when it is opened and read row by row, in any order, from
//! several threads.

mod cached;
mod columns;
pub(super) mod detection;
mod example;
mod fingerprint;
mod first;
mod frames;
mod hub;
mod imagefolder;
mod jsonl;
mod memory;
mod mock;
mod parquet;
mod places;
mod records;
mod roboflow;
mod shards;
mod split;
mod tfds;
mod tfds_features;
mod tfrecord;
mod webdataset;

pub use cached::Cached;
pub use detection::{
    Annotated, Annotations, Classes, Coco, DetectOptions, DetectionSource, ImageFile, Object, Voc,
    VocOptions, Yolo,
};
pub use fingerprint::fingerprint;
use fingerprint::fingerprint_of_records;
pub use first::First;
pub use frames::{Frames, FramesOptions};
pub use hub::HubDataset;
pub use imagefolder::ImageFolder;
pub use jsonl::{Jsonl, JsonlOptions};
pub use memory::MemorySource;
pub use mock::Mock;
pub use parquet::{Parquet, ParquetOptions};
pub use roboflow::roboflow;
pub use tfds::{Tfds, TfdsOptions};
pub use tfrecord::{FeatureType, TfRecord};
pub use webdataset::WebDataset;

use std::borrow::Cow;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

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

    /// A number that changes when the rows do, as far as that can be told without reading them: made with
    /// [`fingerprint`] of the names and sizes of files and of the options that choose rows. Folders are no part
    /// of it, so that data may move. A run refuses to go on when the number has changed.
    fn fingerprint(&self) -> u64 {
        fingerprint([self.len().to_string()])
    }
}

/// The error that every source gives for an index past its end.
fn out_of_range(source: &dyn Source, index: usize) -> Error {
    Error::OutOfRange { source_name: source.describe(), index, len: source.len() }
}

/// Reads a whole file, naming it when that fails.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })
}

/// The entries of a folder that are not hidden, sorted: the file system's own order is not repeatable.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |source| Error::Io { action: "list", path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if !file_name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn refuse_remote(path: &Path) -> Result<(), Error> {
    if path.to_str().is_some_and(|text| text.contains("://")) {
        return Err(Error::Remote { path: path.to_owned() });
    }
    Ok(())
}
