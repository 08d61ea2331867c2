mod cache;
mod files;

use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use indexmap::IndexMap;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use rayon::prelude::*;

use super::columns::Columns;
use super::shards::{Shards, expand};
use super::split::{self, Part, StoredSplit};
use super::{Error, Row, Source, file_name, fingerprint, out_of_range};
use crate::data::Value;
use crate::panics;
use cache::{Cache, settle};
use files::{Files, Group};

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
    files: Files,
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
/// Bytes of decoded blocks that stay in memory: [`BLOCKS_AT_HAND`](super::BLOCKS_AT_HAND) blocks, and a quarter
/// more since blocks differ.
const CACHE_BYTES: usize = (super::BLOCKS_AT_HAND * BLOCK_BYTES as usize) / 4 * 5;

/// Consecutive rows of one row group.
#[derive(Debug, Clone)]
struct Block {
    file: usize,
    group: usize,
    /// Rows of the file before the row group.
    before: usize,
    rows: Range<usize>,
}

impl Parquet {
    /// `patterns` are files, folders, globs and names with braces.
    ///
    /// # Errors
    /// When files are missing or damaged, their columns differ, or a split or column is unknown.
    pub fn open(patterns: &[PathBuf], options: &ParquetOptions) -> Result<Self, Error> {
        let files = Files::new(Shards::new(expand(patterns, &[".parquet"])?));
        let first = files.footer(0)?;
        let columns_of = |file: usize, footer: &ArrowReaderMetadata| {
            Columns::of(footer.schema(), options.columns.as_deref(), options.label_names).map_err(|problem| {
                Error::Options { problem: format!("{}: {problem}", files.path(file).display()) }
            })
        };
        let (columns, roots) = columns_of(0, &first)?;
        let groups_of = |file: usize| {
            let footer = files.footer(file)?;
            if footer.schema().fields() != first.schema().fields()
                && columns_of(file, &footer)? != (columns.clone(), roots.clone())
            {
                let problem = format!("its columns are not those of {}", files.path(0).display());
                return Err(Error::BadFile { path: files.path(file).to_owned(), problem });
            }
            Ok(files::groups(&footer, &roots))
        };
        let groups: Vec<Vec<Group>> =
            (0..files.len()).into_par_iter().map(groups_of).collect::<Result<_, _>>()?;
        let num_rows: Vec<usize> =
            groups.iter().map(|groups| groups.iter().map(|group| group.num_rows).sum()).collect();
        let pieces = match &options.split {
            None => num_rows.iter().enumerate().map(|(file, &rows)| (file, 0..rows)).collect(),
            Some(spec) => split_pieces(&files, &num_rows, spec)?,
        };
        let (blocks, ranges) = (Vec::new(), Vec::new());
        let mut source = Parquet { files, columns, roots, blocks, ranges, cache: Cache::new(CACHE_BYTES) };
        for (file, rows) in pieces {
            source.add_blocks(file, &groups[file], rows);
        }
        Ok(source)
    }

    /// The names of the classes of a column, or of a part of one (`objects/category`), where the files have them.
    pub fn class_names(&self, column: &str) -> Option<&[String]> {
        self.columns.class_names(column)
    }

    /// Cuts rows of a file into blocks that end with their row group at the latest.
    fn add_blocks(&mut self, file: usize, groups: &[Group], rows: Range<usize>) {
        let mut before = 0;
        for (group, &Group { num_rows, num_bytes }) in groups.iter().enumerate() {
            let begin = rows.start.max(before) - before;
            let end = rows.end.min(before + num_rows).saturating_sub(before);
            let row_bytes = (num_bytes / num_rows.max(1) as u64).max(1);
            let step = (BLOCK_BYTES / row_bytes).max(1) as usize;
            for from in (begin..end).step_by(step) {
                let rows = from..(from + step).min(end);
                let start = self.len();
                self.ranges.push(start..start + rows.len());
                self.blocks.push(Block { file, group, before, rows });
            }
            before += num_rows;
        }
    }

    fn load(&self, number: usize) -> Result<(RecordBatch, usize), Error> {
        let block = &self.blocks[number];
        let footer = self.files.footer(block.file)?;
        let undecodable = |problem: &dyn std::fmt::Display| self.undecodable(block, &footer, problem);
        let decode = || {
            if block.group >= footer.metadata().num_row_groups() {
                return Err(undecodable(&"the file has changed since it was opened"));
            }
            let schema = footer.metadata().file_metadata().schema_descr();
            let mask = ProjectionMask::roots(schema, self.roots.iter().copied());
            let reader = self.files.reader(block.file)?;
            let mut batches = ParquetRecordBatchReaderBuilder::new_with_metadata(reader, footer.clone())
                .with_row_groups(vec![block.group])
                .with_projection(mask)
                .with_offset(block.rows.start)
                .with_limit(block.rows.len())
                .with_batch_size(block.rows.len())
                .build()
                .map_err(|error| undecodable(&error))?;
            match batches.next() {
                Some(Ok(batch)) if batch.num_rows() == block.rows.len() => {
                    settle(&batch).map_err(|error| undecodable(&error))
                }
                Some(Err(error)) => Err(undecodable(&error)),
                _ => Err(undecodable(&"it has fewer rows than the file says")),
            }
        };
        // The decoder is not proof against every damaged file; it only reads what this thread alone has.
        panics::catch(decode)
            .unwrap_or_else(|message| Err(undecodable(&format!("the decoder gave up: {message}"))))
    }

    fn undecodable(
        &self,
        block: &Block,
        footer: &ArrowReaderMetadata,
        problem: &dyn std::fmt::Display,
    ) -> Error {
        let Range { start, end } = block.rows;
        let problem = format!("cannot decode rows {start} to {end} of row group {}: {problem}", block.group);
        self.files.damaged(block.file, files::group_offset(footer, block.group), problem)
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
        let folder = self.files.path(self.blocks[number].file).parent().unwrap_or(Path::new(""));
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
        let first = self.files.path(0).display();
        format!("parquet {first} ({} files, {} rows)", self.files.len(), self.len())
    }

    fn locate(&self, index: usize) -> String {
        let Some(number) = self.block_of(index) else { return format!("row {index} of {}", self.describe()) };
        let block = &self.blocks[number];
        let row = block.before + block.rows.start + index - self.ranges[number].start;
        format!("{} (row {row})", self.files.path(block.file).display())
    }

    /// The names of the files, and which of their rows are used.
    fn fingerprint(&self) -> u64 {
        let names = (0..self.files.len()).map(|file| file_name(self.files.path(file)).into_owned());
        let blocks = self.blocks.iter().map(|block| {
            let Block { file, group, rows, .. } = block;
            format!("{file} {group} {}..{}", rows.start, rows.end)
        });
        fingerprint(names.chain(blocks))
    }
}

/// The rows of each file that a split names.
fn split_pieces(files: &Files, num_rows: &[usize], spec: &str) -> Result<Vec<(usize, Range<usize>)>, Error> {
    let mut by_name: IndexMap<String, Vec<usize>> = IndexMap::new();
    for file in 0..files.len() {
        by_name.entry(split_name(files.path(file))).or_default().push(file);
    }
    let stored = |(name, members): (&String, &Vec<usize>)| StoredSplit {
        name: name.clone(),
        shard_lengths: members.iter().map(|&file| num_rows[file] as u64).collect(),
    };
    let splits: Vec<StoredSplit> = by_name.iter().map(stored).collect();
    let parts = split::resolve(spec, &splits)
        .map_err(|problem| Error::Options { problem: format!("{}: {problem}", files.path(0).display()) })?;
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::Arc;

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
        assert_eq!(source.blocks(), [0..13, 13..20, 20..33, 33..40, 40..45, 45..46]);
        assert!(
            source.locate(21).ends_with("train-00000-of-00002.parquet (row 51)"),
            "{}",
            source.locate(21)
        );

        let all = open(None).unwrap();
        assert_eq!(all.len(), 83);
        assert_eq!(all.blocks()[..3], [0..3, 3..16, 16..29]);
        // Against the order of the file, from many threads.
        let rows: Vec<usize> = (0..all.len()).map(|i| i * 37 % all.len()).collect();
        let firsts = numbers(&all);
        rows.par_iter().for_each(|&index| {
            let row = all.get(index).unwrap();
            assert_eq!(row["n"], Value::Int(firsts[index]));
            assert_eq!(row["blob"].as_bytes().unwrap()[0], firsts[index] as u8);
        });
        let held = all.cache.num_bytes();
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
        let at = source.files.footer(0).unwrap().metadata().row_group(1).column(1).byte_range().0 as usize;
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
