//! Recordings of small data sets in the formats that people have: every row of every set, with files by their
//! digest.

mod boxes;
mod records;

use std::path::Path;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::recording::{files_of, read_json};
use super::tally::Tally;
use super::{Error, Row};
use crate::data::{self, ImageFolder, Jsonl, JsonlOptions, Source, Value};

/// A set of the recording: the file that says what its rows are, and how to replay it.
type Part = (&'static str, fn(&Path, &Json) -> Option<Vec<Row>>);

const PARTS: [Part; 9] = [
    ("expected_jsonl.json", jsonl),
    ("expected_imagefolder.json", imagefolder),
    ("expected_tfrecord.json", records::tfrecord),
    ("expected_tfds.json", records::tfds),
    ("expected_webdataset.json", records::webdataset),
    ("expected_hf_parquet_captions.json", records::parquet_captions),
    ("expected_hf_parquet_detection.json", records::parquet_detection),
    ("expected_detection.json", boxes::sets),
    ("expected_detection_strings.json", boxes::parquet_strings),
];

pub(super) const FILES: [&str; PARTS.len()] = files_of(&PARTS);

/// Every set that the folder holds.
pub(super) fn data(dir: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (file, part) in PARTS {
        let path = dir.join(file);
        if path.is_file() {
            let recorded: Json = read_json(&path)?;
            let message = "it lacks something that such a recording has".to_owned();
            rows.extend(part(dir, &recorded).ok_or(Error::Unsupported { path, message })?);
        }
    }
    Ok(rows)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value as the recordings write it.
fn to_json(value: &Value) -> Json {
    match value {
        Value::Str(text) => json!(text),
        Value::Int(int) => json!(int),
        Value::Float(float) => json!(float),
        Value::Bool(flag) => json!(flag),
        Value::Bytes(bytes) => json!(sha256(bytes)),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Dict(entries) => row_to_json(entries),
    }
}

fn row_to_json(row: &data::Row) -> Json {
    row.iter().map(|(name, value)| (name.clone(), to_json(value))).collect::<serde_json::Map<_, _>>().into()
}

/// Compares every row of a source, as `shown` by the recording, with what is recorded.
fn compare(tally: &mut Tally, source: &dyn Source, expected: &[Json], shown: impl Fn(usize, Json) -> Json) {
    tally.case(source.len() == expected.len(), format!("number of rows of {}", source.describe()));
    for (index, expected) in expected.iter().enumerate() {
        match source.get(index) {
            Ok(row) => tally.case(shown(index, row_to_json(&row)) == *expected, source.locate(index)),
            Err(error) => tally.case(false, error),
        }
    }
}

/// A row as JSON, without the number that sources give their rows.
fn without_id(mut row: Json) -> Json {
    if let Some(row) = row.as_object_mut() {
        row.shift_remove("id");
    }
    row
}

fn jsonl(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let folder = dir.join(recorded["folder"].as_str()?);
    let [mut rows, mut errors] = ["jsonl rows", "jsonl errors"].map(Tally::new);
    for case in recorded["cases"].as_array()? {
        let (file, options) = (case["file"].as_str()?, &case["options"]);
        let limit = |name: &str| options[name].as_u64().and_then(|row| usize::try_from(row).ok());
        let options = JsonlOptions {
            fopen_keys: [("image".to_owned(), folder.clone())].into(),
            start: limit("start").unwrap_or(0),
            stop: limit("stop"),
        };
        let source = Jsonl::open(folder.join(file), options);
        match (source, case.get("examples")) {
            (Ok(source), Some(expected)) => compare(&mut rows, &source, expected.as_array()?, |_, row| row),
            (source, None) => {
                errors.case(source.is_err() || source.is_ok_and(|source| is_refused(&source)), file)
            }
            (Err(error), Some(_)) => rows.case(false, error),
        }
    }
    Some([rows.rows(), errors.rows()].concat())
}

/// Whether a row cannot be read, or has not the fields of the first one: the reference asks every row for these, here
/// preprocessing asks for what it needs.
fn is_refused(source: &dyn Source) -> bool {
    let fields = |index: usize| Some(source.get(index).ok()?.keys().cloned().collect::<Vec<_>>());
    let first = fields(0);
    (0..source.len()).any(|index| fields(index).is_none_or(|got| Some(got) != first))
}

fn imagefolder(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let folder = dir.join(recorded["folder"].as_str()?).canonicalize().ok()?;
    let mut tally = Tally::new("imagefolder rows");
    for split in ["train", "test"] {
        let source = match ImageFolder::open(folder.join(split)) {
            Ok(source) => source,
            Err(error) => {
                tally.case(false, error);
                continue;
            }
        };
        tally.case(json!(source.classes()) == recorded[split]["classes"], format!("classes of {split}"));
        compare(&mut tally, &source, recorded[split]["rows"].as_array()?, |index, row| {
            let path = source.path(index).and_then(|path| path.strip_prefix(&folder).ok());
            json!({"file": path, "label": row["label_index"], "class": row["label"], "sha256": row["image"]})
        });
    }
    Some(tally.rows())
}
