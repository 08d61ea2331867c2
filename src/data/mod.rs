//! From files to batches: sources of rows, the order they are visited in, and the threads that turn them
//! into arrays while the device works.
//!
//! One row's way: [`Order`] says which row stands at a position of the run, a [`Source`] reads it as a
//! [`Row`], a [`Preprocess`] makes it arrays, and the [`Loader`] stacks them into a [`Batch`]. Which rows a
//! batch holds, and with which random seeds, is a pure function of the options and the position: it depends
//! neither on the number of threads nor on what was read before, so a run resumes exactly.
//!
//! This module knows nothing of images, tokens or devices, and does not download anything.
//!
//! ```
//! use std::sync::Arc;
//! use paligemma::array::HostArray;
//! use paligemma::data::{Loader, LoaderOptions, MemorySource, Processed, Row};
//!
//! let rows = (0..10i64).map(|n| Row::from([("n".to_owned(), n.into())])).collect();
//! let source = Arc::new(MemorySource::new("numbers", rows));
//! let preprocess = Arc::new(|row: Row, _seed: u64| {
//!     let n: i32 = row["n"].to_string().parse()?;
//!     let mut out = Processed::default();
//!     out.arrays.insert("n".to_owned(), HostArray::scalar(n));
//!     Ok(out)
//! });
//! let options = LoaderOptions { batch_size: 4, epochs: Some(1), shuffle: false, ..LoaderOptions::default() };
//! let batches: Vec<_> = Loader::new(source, preprocess, options)?.collect::<Result<_, _>>()?;
//! assert_eq!(batches.len(), 2);
//! assert_eq!(batches[1].arrays["n"].values::<i32>()?, [4, 5, 6, 7]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod error;
pub mod format;
mod loader;
mod mixture;
mod order;
mod prefetch;
mod row;
mod source;
mod stream;
pub mod synth;

pub use batch::{Batch, MASK};
pub use error::Error;
pub use loader::{Loader, LoaderOptions, Remainder, Stats};
pub use mixture::Mixture;
pub use order::{Order, Shuffle, mix};
pub use row::{Row, Value};
pub use source::{
    Annotated, Annotations, BLOCKS_AT_HAND, Cached, Classes, Coco, DetectOptions, DetectionSource,
    FeatureType, First, Frames, FramesOptions, HubDataset, ImageFile, ImageFolder, Jsonl, JsonlOptions,
    MemorySource, Mock, Object, Parquet, ParquetOptions, Source, TfRecord, Tfds, TfdsOptions, Voc,
    VocOptions, WebDataset, Yolo, fingerprint, roboflow,
};
pub use stream::{EPOCH, ID, SOURCE, Stream};

use indexmap::IndexMap;

use crate::array::HostArray;

/// Why a row could not be preprocessed, in the preprocessing module's own words.
pub type PreprocessError = Box<dyn std::error::Error + Send + Sync>;

/// What preprocessing makes of one row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Processed {
    /// Arrays to stack into a batch: the same names, shapes and dtypes for every row.
    pub arrays: IndexMap<String, HostArray>,
    /// Texts that go with the arrays: the same names for every row.
    pub strings: IndexMap<String, String>,
    /// What evaluation needs beside these (question ids, right answers, masks); rows need not be alike.
    pub fields: Fields,
}

/// What an evaluation knows of an example, by names.
pub type Fields = IndexMap<String, Field>;

/// A value that stays on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    Text(String),
    Texts(Vec<String>),
    /// Of any extents; numbers have none.
    Array(HostArray),
}

/// Turns a row into arrays. Runs on several threads at once.
pub trait Preprocess: Send + Sync {
    /// `seed` differs for every position of the run and is all the randomness the function may use: the same
    /// row with the same seed must give the same result.
    ///
    /// # Errors
    /// When the row cannot be used; the loader adds which row it was.
    fn run(&self, row: Row, seed: u64) -> Result<Processed, PreprocessError>;
}

impl<F> Preprocess for F
where
    F: Fn(Row, u64) -> Result<Processed, PreprocessError> + Send + Sync,
{
    fn run(&self, row: Row, seed: u64) -> Result<Processed, PreprocessError> {
        self(row, seed)
    }
}
