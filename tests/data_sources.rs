//! Sources against what the reference read from the same files (tests/data/data/README.md).

use std::fs;
use std::path::{Path, PathBuf};

use paligemma::data::{ImageFolder, Jsonl, JsonlOptions, Source, Value};
use pretty_assertions::assert_eq;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/data")
}

fn expected(name: &str) -> Json {
    serde_json::from_slice(&fs::read(folder().join(name)).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value as the recordings write it: files by their digest.
fn to_json(value: &Value) -> Json {
    match value {
        Value::Str(text) => json!(text),
        Value::Int(int) => json!(int),
        Value::Float(float) => json!(float),
        Value::Bool(flag) => json!(flag),
        Value::Bytes(bytes) => json!(sha256(bytes)),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Dict(fields) => fields.iter().map(|(name, v)| (name.clone(), to_json(v))).collect(),
    }
}

fn read_all(source: &dyn Source) -> Result<Vec<Json>, String> {
    let row = |index| source.get(index).map_err(|e| e.to_string());
    let json = |row: paligemma::data::Row| row.iter().map(|(name, v)| (name.clone(), to_json(v))).collect();
    (0..source.len()).map(|index| row(index).map(json).map(Json::Object)).collect()
}

fn open(case: &Json) -> Result<Jsonl, String> {
    let options = JsonlOptions {
        fopen_keys: [("image".to_owned(), folder().join("jsonl"))].into(),
        start: case["options"]["start"].as_u64().unwrap_or(0) as usize,
        stop: case["options"]["stop"].as_u64().map(|stop| stop as usize),
    };
    let file = case["file"].as_str().unwrap();
    Jsonl::open(folder().join("jsonl").join(file), options).map_err(|e| e.to_string())
}

#[test]
fn jsonl_rows_are_the_references() {
    let cases = expected("expected_jsonl.json");
    let cases = cases["cases"].as_array().unwrap();
    let mut compared = 0;
    for case in cases.iter().filter(|case| case.get("examples").is_some()) {
        let source = open(case).unwrap();
        assert_eq!(source.len() as u64, case["total_examples"].as_u64().unwrap());
        assert_eq!(
            Json::Array(read_all(&source).unwrap()),
            case["examples"],
            "{} {}",
            case["file"],
            case["options"]
        );
        compared += source.len();
    }
    assert_eq!(compared, 20 + 4 + 4 + 2 + 2 + 5 + 2);
}

#[test]
fn jsonl_errors_come_when_the_references_do() {
    let cases = expected("expected_jsonl.json");
    let mut messages = Vec::new();
    for case in cases["cases"].as_array().unwrap().iter().filter(|case| case.get("error").is_some()) {
        // A recording with a number of examples opened, and failed when it came to the row.
        let message = match case["total_examples"].as_u64() {
            None => open(case).unwrap_err(),
            Some(total) => {
                let source = open(case).unwrap();
                assert_eq!(source.len() as u64, total);
                assert!(source.get(0).is_ok());
                match read_all(&source) {
                    Err(message) => message,
                    // The reference gives every row the fields of the first; here preprocessing asks for them.
                    Ok(rows) => {
                        format!("{} has no suffix: {}", source.locate(1), rows[1].get("suffix").is_none())
                    }
                }
            }
        };
        messages.push(message.replace(&format!("{}/", folder().display()), ""));
    }
    assert_eq!(
        messages,
        [
            "jsonl/bad_blank_line.jsonl:3: the line is blank, expected a JSON object",
            "jsonl/bad_json.jsonl:3: invalid JSON at column 9: EOF while parsing a value",
            "jsonl/bad_missing_key.jsonl:2 has no suffix: true",
            "jsonl/bad_missing_image.jsonl:2: cannot read file jsonl/no_such.jpg of field \"image\"",
        ]
    );
}

#[test]
fn imagefolder_rows_are_the_references() {
    let expected = expected("expected_imagefolder.json");
    for split in ["train", "test"] {
        let source = ImageFolder::open(folder().join("imagefolder").join(split)).unwrap();
        assert_eq!(json!(source.classes()), expected[split]["classes"]);
        let rows = read_all(&source).unwrap();
        let rows = rows.iter().enumerate().map(|(index, row)| {
            let file = source.path(index).unwrap().strip_prefix(folder().join("imagefolder")).unwrap();
            assert_eq!(row["id"], index.to_string());
            json!({"file": file, "label": row["label_index"], "class": row["label"], "sha256": row["image"]})
        });
        assert_eq!(rows.collect::<Json>(), expected[split]["rows"]);
    }
}
