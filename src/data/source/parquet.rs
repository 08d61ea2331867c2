use std::io::{BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use indexmap::IndexMap;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use prost::bytes::Bytes;
use rayon::prelude::*;

use super::columns::Columns;
use super::shards::{ShardReader, Shards, expand};
use super::split::{self, Part, StoredSplit};
use super::{Error, Row, Source, file_name, fingerprint, out_of_range};
use crate::data::Value;

/// Which rows and columns of parquet files a [`Parquet`] source reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParquetOptions {
    /// `train`, `train[:90%]+validation` and the like; `None` reads all files. A file's split is the part of its
    /// name before `-00000-of-00002` or another number, or its folder where the name is a number.
    pub split: Option<String>,
    /// Columns that are read; `None` reads all.
    pub columns: Option<Vec<String>>,
    /// Gives each class label `label` a companion `label_name` with the class's name.
    pub label_names: bool,
}

/// Parquet files, as Hugging Face's `datasets` writes them.
///
/// Each row begins with an `id`, its number as text, unless a column is called so. Images (structs of `bytes` and
/// `path`) become bytes, with `image_path` beside them where there is a path; other structs become dicts and
/// nulls no field at all. Class labels are numbers, whose names the files tell.
///
/// Rows cannot be read one by one: they are decoded in [`blocks`](Source::blocks) of about `BLOCK_BYTES`, of
/// which those used last stay in memory.
#[derive(Debug)]
pub struct Parquet {
    shards: Shards,
    files: Vec<ArrowReaderMetadata>,
    columns: Columns,
    /// Columns of the files that are read, by number.
    roots: Vec<usize>,
    blocks: Vec<Block>,
    /// The rows of each block, counted over the whole source.
    ranges: Vec<Range<usize>>,
    cache: Cache,
}

/// Bytes of values that are decoded together, on average.
const BLOCK_BYTES: u64 = 4 << 20;
/// Bytes of decoded blocks that stay in memory: [`BLOCKS_AT_HAND`](super::BLOCKS_AT_HAND) blocks, and half as
/// much again since blocks differ.
const CACHE_BYTES: usize = (super::BLOCKS_AT_HAND * BLOCK_BYTES as usize) / 2 * 3;

/// Consecutive rows of one row group.
#[derive(Debug, Clone)]
struct Block {
    file: usize,
    group: usize,
    rows: Range<usize>,
}

impl Parquet {
    /// `patterns` are files, folders, globs and names with braces.
    ///
    /// # Errors
    /// When files are missing or damaged, their columns differ, or a split or column is unknown.
    pub fn open(patterns: &[PathBuf], options: &ParquetOptions) -> Result<Self, Error> {
        let shards = Shards::new(expand(patterns, &[".parquet"])?);
        let open = |file: usize| open_file(&shards, file);
        let files: Vec<ArrowReaderMetadata> =
            (0..shards.len()).into_par_iter().map(open).collect::<Result<_, _>>()?;
        let columns_of = |file: usize| {
            Columns::of(files[file].schema(), options.columns.as_deref(), options.label_names).map_err(
                |problem| Error::Options { problem: format!("{}: {problem}", shards.path(file).display()) },
            )
        };
        let (columns, roots) = columns_of(0)?;
        for file in 1..shards.len() {
            if files[file].schema().fields() != files[0].schema().fields()
                && columns_of(file)? != (columns.clone(), roots.clone())
            {
                let problem = format!("its columns are not those of {}", shards.path(0).display());
                return Err(Error::BadFile { path: shards.path(file).to_owned(), problem });
            }
        }
        let pieces = match &options.split {
            None => (0..files.len()).map(|file| (file, 0..num_rows(&files[file]))).collect(),
            Some(spec) => split_pieces(&shards, &files, spec)?,
        };
        let mut source = Parquet {
            shards,
            files,
            columns,
            roots,
            blocks: Vec::new(),
            ranges: Vec::new(),
            cache: Cache::default(),
        };
        for (file, rows) in pieces {
            source.add_blocks(file, rows);
        }
        Ok(source)
    }

    /// The names of the classes of a column, or of a part of one (`objects/category`), where the files have them.
    pub fn class_names(&self, column: &str) -> Option<&[String]> {
        self.columns.class_names(column)
    }

    /// Cuts rows of a file into blocks that end with their row group at the latest.
    fn add_blocks(&mut self, file: usize, rows: Range<usize>) {
        let mut group_begin = 0;
        let metadata = self.files[file].metadata().clone();
        for (number, group) in metadata.row_groups().iter().enumerate() {
            let group_rows = group.num_rows().max(0) as usize;
            let begin = rows.start.max(group_begin) - group_begin;
            let end = rows.end.min(group_begin + group_rows).saturating_sub(group_begin);
            let row_bytes = (self.group_bytes(group) / group_rows.max(1) as u64).max(1);
            let step = (BLOCK_BYTES / row_bytes).max(1) as usize;
            for from in (begin..end).step_by(step) {
                let rows = from..(from + step).min(end);
                let before = self.ranges.last().map_or(0, |last| last.end);
                self.ranges.push(before..before + rows.len());
                self.blocks.push(Block { file, group: number, rows });
            }
            group_begin += group_rows;
        }
    }

    /// Bytes of a row group's columns that are read, decompressed.
    fn group_bytes(&self, group: &RowGroupMetaData) -> u64 {
        let schema = group.schema_descr();
        let read = |&column: &usize| self.roots.contains(&schema.get_column_root_idx(column));
        let columns = (0..group.num_columns()).filter(read);
        columns.map(|column| group.column(column).uncompressed_size().max(0) as u64).sum()
    }

    fn load(&self, number: usize) -> Result<RecordBatch, Error> {
        let block = &self.blocks[number];
        let decode = || {
            let metadata = self.files[block.file].clone();
            let mask =
                ProjectionMask::roots(metadata.metadata().file_metadata().schema_descr(), self.roots.clone());
            let reader = PlacedReader(self.shards.reader(block.file)?);
            let mut batches = ParquetRecordBatchReaderBuilder::new_with_metadata(reader, metadata)
                .with_row_groups(vec![block.group])
                .with_projection(mask)
                .with_offset(block.rows.start)
                .with_limit(block.rows.len())
                .with_batch_size(block.rows.len())
                .build()
                .map_err(|error| self.undecodable(block, &error))?;
            match batches.next() {
                Some(Ok(batch)) if batch.num_rows() == block.rows.len() => Ok(batch),
                Some(Err(error)) => Err(self.undecodable(block, &error)),
                _ => Err(self.undecodable(block, &"it has fewer rows than the file says")),
            }
        };
        // The decoder is not proof against every damaged file; it only reads what this thread alone has.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
            .unwrap_or_else(|_| Err(self.undecodable(block, &"the decoder gave up")))
    }

    fn undecodable(&self, block: &Block, problem: &dyn std::fmt::Display) -> Error {
        let group = self.files[block.file].metadata().row_group(block.group);
        let offset = group
            .file_offset()
            .or_else(|| group.columns().first().map(|column| column.byte_range().0 as i64));
        let Range { start, end } = block.rows;
        let problem = format!("cannot decode rows {start} to {end} of row group {}: {problem}", block.group);
        self.shards.damaged(block.file, offset.unwrap_or(0).max(0) as u64, problem)
    }

    fn block_of(&self, index: usize) -> Option<usize> {
        let block = self.ranges.partition_point(|range| range.end <= index);
        (block < self.ranges.len()).then_some(block)
    }
}

impl Source for Parquet {
    fn len(&self) -> usize {
        self.ranges.last().map_or(0, |last| last.end)
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let number = self.block_of(index).ok_or_else(|| out_of_range(self, index))?;
        let batch = self.cache.get(number, || self.load(number))?;
        let folder = self.shards.path(self.blocks[number].file).parent().unwrap_or(Path::new(""));
        let fields = self
            .columns
            .row(&batch, index - self.ranges[number].start, folder)
            .map_err(|problem| Error::BadRow { row: self.locate(index), problem })?;
        let mut row = Row::from([("id".to_owned(), Value::Str(index.to_string()))]);
        row.extend(fields);
        Ok(row)
    }

    fn blocks(&self) -> &[Range<usize>] {
        &self.ranges
    }

    fn describe(&self) -> String {
        let first = self.shards.path(0).display();
        format!("parquet {first} ({} files, {} rows)", self.shards.len(), self.len())
    }

    fn locate(&self, index: usize) -> String {
        let Some(number) = self.block_of(index) else { return format!("row {index} of {}", self.describe()) };
        let block = &self.blocks[number];
        let groups = &self.files[block.file].metadata().row_groups()[..block.group];
        let before: i64 = groups.iter().map(RowGroupMetaData::num_rows).sum();
        let row = before as usize + block.rows.start + index - self.ranges[number].start;
        format!("{} (row {row})", self.shards.path(block.file).display())
    }

    /// The names of the files, and which of their rows are used.
    fn fingerprint(&self) -> u64 {
        let names = (0..self.shards.len()).map(|file| file_name(self.shards.path(file)).into_owned());
        let blocks = self.blocks.iter().map(|block| {
            let Block { file, group, rows } = block;
            format!("{file} {group} {}..{}", rows.start, rows.end)
        });
        fingerprint(names.chain(blocks))
    }
}

fn open_file(shards: &Shards, file: usize) -> Result<ArrowReaderMetadata, Error> {
    let reader = PlacedReader(shards.reader(file)?);
    // Where pages lie, but not the statistics of what they hold.
    let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
    let load = || ArrowReaderMetadata::load(&reader, options);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(load));
    let problem = match result {
        Ok(Ok(metadata)) => return Ok(metadata),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the reader gave up".to_owned(),
    };
    // What describes a parquet file stands at its end.
    Err(shards.damaged(file, reader.len(), format!("this is no whole parquet file: {problem}")))
}

fn num_rows(file: &ArrowReaderMetadata) -> usize {
    file.metadata().row_groups().iter().map(|group| group.num_rows().max(0) as usize).sum()
}

/// The rows of each file that a split names.
fn split_pieces(
    shards: &Shards,
    files: &[ArrowReaderMetadata],
    spec: &str,
) -> Result<Vec<(usize, Range<usize>)>, Error> {
    let mut by_name: IndexMap<String, Vec<usize>> = IndexMap::new();
    for file in 0..shards.len() {
        by_name.entry(split_name(shards.path(file))).or_default().push(file);
    }
    let stored = |(name, members): (&String, &Vec<usize>)| StoredSplit {
        name: name.clone(),
        shard_lengths: members.iter().map(|&file| num_rows(&files[file]) as u64).collect(),
    };
    let splits: Vec<StoredSplit> = by_name.iter().map(stored).collect();
    let parts = split::resolve(spec, &splits)
        .map_err(|problem| Error::Options { problem: format!("{}: {problem}", shards.path(0).display()) })?;
    let pieces = |part: &Part| {
        let members = &by_name[part.split];
        let shards = part.shards(&splits[part.split]).into_iter();
        shards
            .map(|(shard, rows)| (members[shard], rows.start as usize..rows.end as usize))
            .collect::<Vec<_>>()
    };
    Ok(parts.iter().flat_map(pieces).collect())
}

/// `data/train-00000-of-00002.parquet`, `train.parquet`, `train_3.parquet` and `train/0000.parquet` are all of
/// the split `train`.
fn split_name(path: &Path) -> String {
    let name = file_name(path);
    let stem = name.strip_suffix(".parquet").unwrap_or(&name);
    let counted = stem.rsplit_once("-of-").filter(|(_, count)| count.chars().all(|c| c.is_ascii_digit()));
    let stem = counted.map_or(stem, |(before, _)| before);
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', '.']);
    match stem {
        "" => path.parent().map(|folder| file_name(folder).into_owned()).unwrap_or_default(),
        stem => stem.to_owned(),
    }
}

/// Decoded blocks, those used last, for all threads.
#[derive(Debug, Default)]
struct Cache {
    /// The latest at the end.
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug)]
struct Slot {
    number: usize,
    batch: Arc<Mutex<Option<RecordBatch>>>,
    num_bytes: usize,
}

impl Cache {
    /// A block, decoded by the first thread that asks for it while the others wait.
    fn get(
        &self,
        number: usize,
        load: impl FnOnce() -> Result<RecordBatch, Error>,
    ) -> Result<RecordBatch, Error> {
        let cell = {
            let mut slots = self.lock();
            let slot = match slots.iter().position(|slot| slot.number == number) {
                Some(at) => slots.remove(at),
                None => Slot { number, batch: Arc::default(), num_bytes: 0 },
            };
            let cell = slot.batch.clone();
            slots.push(slot);
            cell
        };
        let mut batch = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = &*batch {
            return Ok(batch.clone());
        }
        let loaded = load()?;
        *batch = Some(loaded.clone());
        let mut slots = self.lock();
        if let Some(slot) = slots.iter_mut().find(|slot| slot.number == number) {
            slot.num_bytes = loaded.get_array_memory_size();
        }
        let mut total: usize = slots.iter().map(|slot| slot.num_bytes).sum();
        while total > CACHE_BYTES && slots.len() > 1 {
            total -= slots.remove(0).num_bytes;
        }
        Ok(loaded)
    }

    /// Nothing panics while the lock is held.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads at a place without moving a cursor that others share, as readers of plain files would.
struct PlacedReader(ShardReader);

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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use arrow_array::{ArrayRef, BinaryArray, Int64Array};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;

    use super::*;

    /// Rows `n` of 300 kB each, which are 27 to a block.
    fn write(path: &Path, numbers: Range<i64>, group_rows: usize) {
        let blobs: Vec<Vec<u8>> = numbers
            .clone()
            .map(|n| (0..300_000u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8 ^ n as u8).collect())
            .collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from_iter_values(numbers))),
            ("blob", Arc::new(BinaryArray::from_iter_values(blobs))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
        let mut writer =
            ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn numbers(source: &Parquet) -> Vec<i64> {
        let number = |index| match source.get(index).unwrap()["n"] {
            Value::Int(n) => n,
            ref other => panic!("{other}"),
        };
        (0..source.len()).map(number).collect()
    }

    #[test]
    fn splits_blocks_and_any_order() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("train-00000-of-00002.parquet"), 0..70, 50);
        write(&dir.path().join("train-00001-of-00002.parquet"), 70..80, 50);
        write(&dir.path().join("test.parquet"), 80..83, 50);
        let open = |split: Option<&str>| {
            let options = ParquetOptions { split: split.map(str::to_owned), ..Default::default() };
            Parquet::open(&[dir.path().to_owned()], &options)
        };
        let source = open(Some("train[30:75]+test[-1:]")).unwrap();
        assert_eq!(numbers(&source), (30..75).chain([82]).collect::<Vec<_>>());
        assert_eq!(source.blocks(), [0..20, 20..40, 40..45, 45..46]);
        assert!(
            source.locate(21).ends_with("train-00000-of-00002.parquet (row 51)"),
            "{}",
            source.locate(21)
        );

        let all = open(None).unwrap();
        assert_eq!(all.len(), 83);
        assert_eq!(all.blocks()[..3], [0..3, 3..30, 30..53]);
        // Against the order of the file, from many threads.
        let rows: Vec<usize> = (0..all.len()).map(|i| i * 37 % all.len()).collect();
        let firsts = numbers(&all);
        rows.par_iter().for_each(|&index| {
            let row = all.get(index).unwrap();
            assert_eq!(row["n"], Value::Int(firsts[index]));
            assert_eq!(row["blob"].as_bytes().unwrap()[0], firsts[index] as u8);
        });
        let held: usize = all.cache.lock().iter().map(|slot| slot.num_bytes).sum();
        assert!(held <= CACHE_BYTES && held > 0, "{held}");
        assert!(matches!(all.get(83), Err(Error::OutOfRange { .. })));
        let error = open(Some("val")).unwrap_err();
        assert!(error.is_usage());
        assert!(
            error.to_string().ends_with("split \"val\": there is no split \"val\", only test, train"),
            "{error}"
        );
    }

    #[test]
    fn files_say_their_split() {
        for (path, split) in [
            ("data/train-00000-of-00002.parquet", "train"),
            ("test.parquet", "test"),
            ("default/validation/0003.parquet", "validation"),
            ("train_12.parquet", "train"),
            ("part-of-all.parquet", "part-of-all"),
        ] {
            assert_eq!(split_name(Path::new(path)), split, "{path}");
        }
    }

    #[test]
    fn damage_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        write(&path, 0..4, 2);
        let bytes = fs::read(&path).unwrap();
        let open = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Parquet::open(std::slice::from_ref(&path), &ParquetOptions::default())
        };
        let cut = open(&bytes[..bytes.len() - 7]).unwrap_err().to_string();
        assert!(cut.contains("a.parquet: this is no whole parquet file: "), "{cut}");
        assert!(open(b"PAR1").is_err());
        // The header of the first page of the second row group.
        let source = open(&bytes).unwrap();
        let at = source.files[0].metadata().row_group(1).column(1).byte_range().0 as usize;
        let mut bad = bytes.clone();
        bad[at..at + 8].fill(0xff);
        let source = open(&bad).unwrap();
        assert!(source.get(1).is_ok());
        let error = source.get(2).unwrap_err().to_string();
        assert!(error.contains("a.parquet: cannot decode rows 0 to 2 of row group 1: "), "{error}");

        write(&dir.path().join("b.parquet"), 0..1, 1);
        fs::write(&path, &bytes).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![("n", Arc::new(BinaryArray::from_vec(vec![b"x"])))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = File::create(dir.path().join("b.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let error =
            Parquet::open(&[dir.path().to_owned()], &ParquetOptions::default()).unwrap_err().to_string();
        assert!(error.contains("b.parquet: its columns are not those of "), "{error}");
    }
}
