//! Sets in files of records: TFRecord, TFDS, WebDataset and parquet.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value as Json, json};

use super::super::Row;
use super::super::tally::Tally;
use super::{compare, row_to_json, without_id};
use crate::data::{FeatureType, Parquet, ParquetOptions, Source, TfRecord, Tfds, TfdsOptions, WebDataset};

/// The features of a record are declared from its recording; a file has one record after the other.
pub(super) fn tfrecord(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let folder = dir.join(recorded["folder"].as_str()?);
    let mut tally = Tally::new("tfrecord features");
    let records = recorded["records"].as_array()?;
    for file in records.chunk_by(|a, b| a["file"] == b["file"]) {
        let name = file[0]["file"].as_str()?;
        let mut types = IndexMap::new();
        for (feature, value) in file.iter().filter_map(|record| record["features"].as_object()).flatten() {
            types.insert(feature.clone(), feature_type(value)?);
        }
        let expected: Vec<Json> = file
            .iter()
            .map(|record| {
                types.keys().map(|name| (name.clone(), elements(&record["features"][name]))).collect()
            })
            .map(Json::Object)
            .collect();
        match TfRecord::open(&[folder.join(name)], types) {
            Ok(source) => compare(&mut tally, &source, &expected, |_, row| without_id(row)),
            Err(error) => tally.case(false, error),
        }
    }
    Some(tally.rows())
}

fn feature_type(feature: &Json) -> Option<FeatureType> {
    let (kind, elements) = feature.as_object()?.iter().next()?;
    let is_file = elements.as_array()?.iter().any(Json::is_object);
    match kind.as_str() {
        "bytes_list" if is_file => Some(FeatureType::BytesList),
        "bytes_list" => Some(FeatureType::StrList),
        "int64_list" => Some(FeatureType::IntList),
        "float_list" => Some(FeatureType::FloatList),
        _ => None,
    }
}

/// The elements of a recorded feature, files by their digest alone; none where a record lacks the feature.
fn elements(feature: &Json) -> Json {
    let lists = feature.as_object().into_iter().flat_map(|feature| feature.values());
    let elements = lists.filter_map(Json::as_array).flatten();
    elements.map(|element| element.get("sha256").unwrap_or(element).clone()).collect()
}

pub(super) fn tfds(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let folder = dir.join(recorded["folder"].as_str()?);
    let [mut rows, mut splits] = ["tfds rows", "tfds splits"].map(Tally::new);
    for case in recorded["splits"].as_array()? {
        let split = case["split"].as_str()?;
        let expected = case["examples"].as_array()?;
        let options =
            TfdsOptions { data_dir: Some(folder.clone()), split: split.to_owned(), ..Default::default() };
        match Tfds::open(options) {
            // Of parts of splits, only the field n is recorded.
            Ok(source) if expected.iter().all(Json::is_number) => {
                let numbers = (0..source.len())
                    .map(|row| source.get(row).ok().map(|row| row_to_json(&row)["n"].clone()));
                splits.case(numbers.eq(expected.iter().cloned().map(Some)), split);
            }
            Ok(source) => compare(&mut rows, &source, expected, |_, row| shown_example(&row)),
            Err(error) => rows.case(false, error),
        }
    }
    Some([rows.rows(), splits.rows()].concat())
}

/// The recording has the boxes and labels of `objects` in lists of their own.
fn shown_example(row: &Json) -> Json {
    let objects = |field: &str| match &row["objects"] {
        Json::Array(objects) => objects.iter().map(|object| object[field].clone()).collect(),
        objects => objects[field].clone(),
    };
    json!({
        "image_sha256": row["image"],
        "caption": row["caption"],
        "texts": row["texts"],
        "label": row["label"],
        "n": row["n"],
        "bbox": objects("bbox"),
        "object_labels": objects("label"),
        "tfds_id": row["tfds_id"],
        "_id": row["_id"],
    })
}

/// The files of a set that is spread over several.
pub(super) fn files(dir: &Path, recorded: &Json) -> Option<Vec<PathBuf>> {
    let folder = dir.join(recorded["folder"].as_str()?);
    recorded["files"].as_array()?.iter().map(|file| Some(folder.join(file.as_str()?))).collect()
}

pub(super) fn webdataset(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let mut tally = Tally::new("webdataset samples");
    let samples = recorded["samples"].as_array()?;
    let expected: Vec<Json> = samples.iter().map(expected_sample).collect::<Option<_>>()?;
    match WebDataset::open(&files(dir, recorded)?, &IndexMap::new()) {
        Ok(source) => compare(&mut tally, &source, &expected, |_, row| without_id(row)),
        Err(error) => tally.case(false, error),
    }
    Some(tally.rows())
}

/// What members of a sample mean by their ending; other files are compared by their digest.
fn expected_sample(sample: &Json) -> Option<Json> {
    let mut row = Map::from_iter([("__key__".to_owned(), sample["key"].clone())]);
    for (field, member) in sample["fields"].as_object()? {
        let value = match (field.as_str(), member["text"].as_str()) {
            ("txt", Some(_)) => member["text"].clone(),
            ("json" | "cls", Some(text)) => serde_json::from_str(text).ok()?,
            _ => member["sha256"].clone(),
        };
        row.insert(field.clone(), value);
    }
    Some(Json::Object(row))
}

pub(super) fn parquet_captions(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    parquet("parquet captions", dir, recorded)
}

pub(super) fn parquet_detection(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    parquet("parquet detection", dir, recorded)
}

fn parquet(name: &str, dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let mut tally = Tally::new(name);
    let expected: Vec<Json> = recorded["rows"].as_array()?.iter().map(expected_row).collect::<Option<_>>()?;
    match Parquet::open(&files(dir, recorded)?, &ParquetOptions::default()) {
        Ok(source) => compare(&mut tally, &source, &expected, |_, row| without_id(row)),
        Err(error) => tally.case(false, error),
    }
    Some(tally.rows())
}

/// An image is its bytes here, with its path beside it, and what is null is not there.
fn expected_row(recorded: &Json) -> Option<Json> {
    let mut row = recorded.as_object()?.clone();
    let image = row.insert("image".to_owned(), recorded["image"]["sha256"].clone())?;
    row.insert("image_path".to_owned(), image["path"].clone());
    row.retain(|_, value| !value.is_null());
    Some(Json::Object(row))
}
