//! Parquet files: what their footers say, and reading at a place.

use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetStatisticsPolicy, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use prost::bytes::Bytes;

use super::Error;
use crate::data::source::shards::{ShardReader, Shards};
use crate::panics;

/// Footers that stay in memory. They take some hundred bytes for each column of a row group: for all files of a
/// large set, more than the rows at hand.
const MAX_FOOTERS: usize = 4;

/// A list of parquet files.
#[derive(Debug)]
pub(super) struct Files {
    shards: Shards,
    /// The footers used last, the latest at the end.
    footers: Mutex<Vec<(usize, ArrowReaderMetadata)>>,
}

impl Files {
    pub fn new(shards: Shards) -> Self {
        Files { shards, footers: Mutex::default() }
    }

    pub fn len(&self) -> usize {
        self.shards.len()
    }

    pub fn path(&self, file: usize) -> &Path {
        self.shards.path(file)
    }

    pub fn reader(&self, file: usize) -> Result<PlacedReader, Error> {
        Ok(PlacedReader(self.shards.reader(file)?))
    }

    pub fn damaged(&self, file: usize, offset: u64, problem: String) -> Error {
        self.shards.damaged(file, offset, problem)
    }

    /// What describes a file: it is read again unless it is one of those used last.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn footer(&self, file: usize) -> Result<ArrowReaderMetadata, Error> {
        // Nothing panics while the lock is held.
        let lock = || self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        let held = {
            let mut footers = lock();
            let at = footers.iter().position(|(number, _)| *number == file);
            at.map(|at| {
                footers[at..].rotate_left(1);
                footers[footers.len() - 1].1.clone()
            })
        };
        if let Some(footer) = held {
            return Ok(footer);
        }
        let footer = self.read_footer(file)?;
        let mut footers = lock();
        if footers.iter().all(|(number, _)| *number != file) {
            footers.push((file, footer.clone()));
        }
        if footers.len() > MAX_FOOTERS {
            footers.remove(0);
        }
        Ok(footer)
    }

    fn read_footer(&self, file: usize) -> Result<ArrowReaderMetadata, Error> {
        let reader = self.reader(file)?;
        // Where pages lie, but not the statistics of what they hold.
        let options = ArrowReaderOptions::new()
            .with_offset_index_policy(PageIndexPolicy::Optional)
            .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
        let load = || ArrowReaderMetadata::load(&reader, options);
        let problem = match panics::catch(load) {
            Ok(Ok(footer)) => return Ok(footer),
            Ok(Err(error)) => error.to_string(),
            Err(message) => format!("the reader gave up: {message}"),
        };
        // The footer stands at the end.
        Err(self.damaged(file, reader.len(), format!("this is no whole parquet file: {problem}")))
    }
}

/// What stays in memory of a row group while blocks are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub num_rows: usize,
    /// Of the columns that are read, decompressed.
    pub num_bytes: u64,
}

/// The row groups of a file whose columns `roots` are read.
pub(super) fn groups(footer: &ArrowReaderMetadata, roots: &[usize]) -> Vec<Group> {
    let group = |group: &RowGroupMetaData| {
        let schema = group.schema_descr();
        let read = |&column: &usize| roots.contains(&schema.get_column_root_idx(column));
        let columns = (0..group.num_columns()).filter(read);
        Group {
            num_rows: group.num_rows().max(0) as usize,
            num_bytes: columns.map(|column| group.column(column).uncompressed_size().max(0) as u64).sum(),
        }
    };
    footer.metadata().row_groups().iter().map(group).collect()
}

/// Where a row group begins in its file, as far as the footer says it.
pub(super) fn group_offset(footer: &ArrowReaderMetadata, group: usize) -> u64 {
    let group = footer.metadata().row_groups().get(group);
    let offset = group.and_then(|group| {
        group.file_offset().or_else(|| group.columns().first().map(|column| column.byte_range().0 as i64))
    });
    offset.unwrap_or(0).max(0) as u64
}

/// Reads at a place without moving a cursor that others share, as readers of plain files would.
pub(super) struct PlacedReader(ShardReader);

impl Length for PlacedReader {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for PlacedReader {
    type T = BufReader<ShardReader>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut reader = self.0.clone();
        reader.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(reader))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // Before the memory is taken: the length may be a damaged one.
        if start.checked_add(length as u64).is_none_or(|end| end > self.0.len()) {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at byte {start} are beyond the end of the file"
            )));
        }
        let mut bytes = vec![0; length];
        self.0.read_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}
