//! Sets of pictures in the formats of record files, for measurements: bytes that do not compress, as those of
//! JPEG files do not.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields};
use indexmap::IndexMap;
use paligemma::data::{
    FeatureType, Jsonl, JsonlOptions, Parquet, ParquetOptions, Source, TfRecord, WebDataset,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const KINDS: [&str; 4] = ["jsonl", "parquet", "tar", "tfrecord"];

/// Bytes of one picture.
pub const PICTURE_BYTES: usize = 100_000;
/// Rows in one file, which then has 500 MB.
const FILE_ROWS: usize = 5000;
/// Rows in one row group of a parquet file, as `datasets` writes pictures.
const GROUP_ROWS: usize = 100;

fn picture(number: usize) -> Vec<u8> {
    let mut bytes = vec![0; PICTURE_BYTES];
    ChaCha8Rng::seed_from_u64(number as u64).fill_bytes(&mut bytes);
    bytes[..3].copy_from_slice(&[0xff, 0xd8, 0xff]);
    bytes
}

fn caption(number: usize) -> String {
    format!("picture {number}")
}

/// Writes `rows` pictures with captions to a folder.
pub fn write(kind: &str, rows: usize, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let shards = (0..rows).step_by(FILE_ROWS).map(|begin| begin..(begin + FILE_ROWS).min(rows));
    for (shard, numbers) in shards.enumerate() {
        let path = folder.join(format!("train-{shard:05}.{kind}"));
        match kind {
            "jsonl" => {
                let mut lines = BufWriter::new(
                    File::options().create(true).append(true).open(folder.join("rows.jsonl"))?,
                );
                fs::create_dir_all(folder.join(format!("{shard}")))?;
                for number in numbers {
                    fs::write(folder.join(format!("{shard}/{number}.jpg")), picture(number))?;
                    writeln!(
                        lines,
                        r#"{{"image": "{shard}/{number}.jpg", "caption": "{}"}}"#,
                        caption(number)
                    )?;
                }
                lines.flush()?;
            }
            "parquet" => write_parquet(&path, numbers).map_err(io::Error::other)?,
            "tar" => {
                let mut builder = tar::Builder::new(BufWriter::new(File::create(path)?));
                for number in numbers {
                    for (name, content) in [("jpg", picture(number)), ("txt", caption(number).into_bytes())] {
                        let mut header = tar::Header::new_ustar();
                        header.set_size(content.len() as u64);
                        header.set_mode(0o644);
                        builder.append_data(&mut header, format!("{number:08}.{name}"), &content[..])?;
                    }
                }
                builder.into_inner()?.flush()?;
            }
            "tfrecord" => {
                let mut file = BufWriter::new(File::create(path)?);
                for number in numbers {
                    file.write_all(&record(&example(&picture(number), &caption(number))))?;
                }
                file.flush()?;
            }
            other => return Err(io::Error::other(format!("{other} is none of {}", KINDS.join(", ")))),
        }
    }
    Ok(())
}

fn write_parquet(path: &Path, numbers: std::ops::Range<usize>) -> parquet::errors::Result<()> {
    let image = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let group = |numbers: std::ops::Range<usize>| {
        let (mut bytes, mut paths, mut captions) =
            (BinaryBuilder::new(), StringBuilder::new(), StringBuilder::new());
        for number in numbers {
            bytes.append_value(picture(number));
            paths.append_value(format!("{number}.jpg"));
            captions.append_value(caption(number));
        }
        let parts: Vec<ArrayRef> = vec![Arc::new(bytes.finish()), Arc::new(paths.finish())];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("image", Arc::new(StructArray::new(image.clone(), parts, None))),
            ("caption", Arc::new(captions.finish())),
        ];
        RecordBatch::try_from_iter(columns)
    };
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_dictionary_enabled(false)
        .build();
    let end = numbers.end;
    let mut writer: Option<ArrowWriter<File>> = None;
    for begin in numbers.step_by(GROUP_ROWS) {
        let batch = group(begin..(begin + GROUP_ROWS).min(end))?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(ArrowWriter::try_new(
                File::create(path)?,
                batch.schema(),
                Some(properties.clone()),
            )?),
        };
        writer.write(&batch)?;
    }
    writer.map_or(Ok(()), |writer| writer.close().map(drop))
}

/// A `tf.train.Example` of two features of one value each, written field by field.
fn example(image: &[u8], caption: &str) -> Vec<u8> {
    /// A field of length-delimited content.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(content);
        out
    }
    let feature = |name: &str, value: &[u8]| {
        let list = field(1, &field(1, value));
        field(1, &[field(1, name.as_bytes()), field(2, &list)].concat())
    };
    field(1, &[feature("image", image), feature("caption", caption.as_bytes())].concat())
}

/// A record with its length and checksums.
pub fn record(content: &[u8]) -> Vec<u8> {
    let masked =
        |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), content, &masked(content)].concat()
}

/// Opens what [`write`] wrote; rows have an `image`.
pub fn open(kind: &str, folder: &Path) -> Result<Arc<dyn Source>, Box<dyn std::error::Error>> {
    let folder = folder.to_owned();
    Ok(match kind {
        "jsonl" => {
            let options = JsonlOptions {
                fopen_keys: [("image".to_owned(), folder.clone())].into(),
                ..Default::default()
            };
            Arc::new(Jsonl::open(folder.join("rows.jsonl"), options)?)
        }
        "parquet" => Arc::new(Parquet::open(&[folder], &ParquetOptions::default())?),
        "tar" => {
            let rename = [("image".to_owned(), "jpg".to_owned())].into();
            Arc::new(WebDataset::open(&[folder], &rename)?)
        }
        "tfrecord" => {
            let features = [("image", FeatureType::Bytes), ("caption", FeatureType::Str)];
            let features: IndexMap<_, _> = features.map(|(name, kind)| (name.to_owned(), kind)).into();
            Arc::new(TfRecord::open(&[folder], features)?)
        }
        other => return Err(format!("{other} is none of {}", KINDS.join(", ")).into()),
    })
}
