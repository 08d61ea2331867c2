use std::fs;
use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::Value as Json;

use super::*;
use crate::data::{MemorySource, Row, Value};

/// The smallest PNG of 2x1 pixels.
fn png() -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image::RgbImage::new(2, 1).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn options(task: Task) -> FormatOptions {
    FormatOptions { task, prefix: None, detect: DetectOptions::default(), force: false }
}

fn rows(path: &Path) -> Vec<Json> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn objects(boxes: &[[f64; 4]], labels: &[i64]) -> Value {
    let boxes = boxes.iter().map(|corners| Value::List(corners.map(Value::Float).to_vec())).collect();
    let labels = labels.iter().map(|&label| Value::Int(label)).collect();
    Value::Dict(
        [("bbox".to_owned(), Value::List(boxes)), ("category".to_owned(), Value::List(labels))].into(),
    )
}

fn set(rows: Vec<Row>, change: impl FnOnce(&mut RowOptions)) -> RowSet {
    let mut options = RowOptions { class_names: vec!["cat".into(), "dog".into()], ..RowOptions::default() };
    change(&mut options);
    RowSet::new(Arc::new(MemorySource::new("rows", rows)), options)
}

fn row(fields: &[(&str, Value)]) -> Row {
    fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

#[test]
fn pictures_within_larger_files_are_written_beside_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("made/rows.jsonl");
    let image = Value::Bytes(png());
    let set = set(
        vec![
            row(&[
                ("image", image.clone()),
                ("objects", objects(&[[0.0, 0.0, 1.0, 1.0], [-1.0, 0.0, 4.0, 1.0]], &[1, 0])),
            ]),
            row(&[("image", image), ("objects", objects(&[], &[]))]),
        ],
        |_| {},
    );
    let mut done = 0;
    let summary = format(&set, &options(Task::Detect), &out, |n| done = n).unwrap();
    let expected = Summary {
        num_images: 2,
        num_rows: 2,
        num_boxes: 2,
        num_outside: 1,
        num_images_written: 2,
        ..Summary::default()
    };
    assert_eq!((summary, done), (expected, 2));
    let written = rows(&out);
    assert_eq!(written[0]["prefix"], "detect cat ; dog");
    let suffix = "<loc0000><loc0000><loc1023><loc0512> dog ; <loc0000><loc0000><loc1023><loc1023> cat";
    assert_eq!(written[0]["suffix"], suffix);
    assert_eq!(written[1]["suffix"], "");
    for row in &written {
        assert_eq!(fs::read(dir.path().join("made").join(row["image"].as_str().unwrap())).unwrap(), png());
    }
    let listed = |folder: &Path| fs::read_dir(folder).unwrap().count();
    assert_eq!(listed(&dir.path().join("made")), 2, "something was left behind");

    // Once more: only on request, and never what is not ours.
    let error = format(&set, &options(Task::Detect), &out, |_| {}).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let force = FormatOptions { force: true, ..options(Task::Count) };
    assert_eq!(format(&set, &force, &out, |_| {}).unwrap().num_rows, 4);
    let counts: Vec<_> =
        rows(&out).iter().map(|row| format!("{}: {}", row["prefix"], row["suffix"])).collect();
    let expected = ["cat\": \"1\"", "dog\": \"1\"", "cat\": \"0\"", "dog\": \"0\""];
    assert_eq!(counts, expected.map(|end| format!("\"how many {end}")));
    fs::write(dir.path().join("made/rows_images/notes.txt"), "mine").unwrap();
    let error = format(&set, &force, &out, |_| {}).unwrap_err();
    assert!(error.to_string().contains("(notes.txt): not replacing it"), "{error}");
}

#[test]
fn captions_that_are_missing_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("rows.jsonl");
    let image = Value::Bytes(png());
    let several = Value::List(vec!["one".into(), "two".into()]);
    let set = set(
        vec![
            row(&[("image", image.clone()), ("text", "a cat".into())]),
            row(&[("image", image.clone())]),
            row(&[("image", image), ("text", several)]),
        ],
        |options| options.caption_key = Some("text".to_owned()),
    );
    let summary = format(&set, &options(Task::Caption), &out, |_| {}).unwrap();
    assert_eq!((summary.num_images, summary.num_rows, summary.num_silent), (3, 3, 1));
    assert_eq!(summary.num_images_written, 2);
    let suffixes: Vec<_> = rows(&out).iter().map(|row| row["suffix"].as_str().unwrap().to_owned()).collect();
    assert_eq!(suffixes, ["a cat", "one", "two"]);
    assert!(rows(&out).iter().all(|row| row["prefix"] == "caption en"));

    let other = dir.path().join("none.jsonl");
    let error = format(&set, &options(Task::Count), &other, |_| {});
    assert_eq!(error.unwrap().num_rows, 6, "counts of classes that are not there are 0");
    let nothing = super::tests::set(vec![row(&[("image", Value::Bytes(png()))])], |_| {});
    let other = dir.path().join("nothing.jsonl");
    let error = format(&nothing, &options(Task::Caption), &other, |_| {}).unwrap_err().to_string();
    assert!(error.contains("gives no rows: no picture has a caption; --caption-key says"), "{error}");
    assert!(!other.exists());
}

#[test]
fn answers_of_other_scales_are_read_repaired_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.png"), png()).unwrap();
    let answer = "<loc0512><loc-024><loc1024><loc0256> cat ; <loc0001> junk";
    let rows_of = |answer: &str| vec![row(&[("image", "a.png".into()), ("suffix", answer.into())])];
    let set = set(rows_of(answer), |options| {
        options.folder = dir.path().to_owned();
        options.suffix_loc.scale = crate::detection::LocScale::Bins1024;
    });
    let out = dir.path().join("b/rows.jsonl");
    let summary = format(&set, &options(Task::Detect), &out, |_| {}).unwrap();
    assert_eq!((summary.num_boxes, summary.num_outside, summary.num_invalid), (1, 1, 1));
    let row = &rows(&out)[0];
    assert_eq!(row["suffix"], "<loc0512><loc0000><loc1023><loc0256> cat");
    assert_eq!(row["image"], "../a.png");
}

#[test]
fn what_rows_lack_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = |fields: &[(&str, Value)], task: Task| {
        let set = set(vec![row(fields)], |options| options.label_key = Some("label".to_owned()));
        format(&set, &options(task), &dir.path().join("rows.jsonl"), |_| {}).unwrap_err().to_string()
    };
    let image = ("image", Value::Bytes(png()));
    assert_eq!(
        message(&[("img", Value::Bytes(png()))], Task::Detect),
        "rows[0]: there is no \"image\", only img"
    );
    assert_eq!(
        message(&[image.clone(), ("objects", objects(&[[0.0; 4]], &[2]))], Task::Detect),
        "rows[0]: class 2 is none of 2 names"
    );
    assert_eq!(
        message(&[image, ("objects", objects(&[[0.0; 4]], &[]))], Task::Detect),
        "rows[0]: there are 1 boxes, but 0 of \"objects.category\""
    );
    let missing = message(&[("image", "no.png".into()), ("suffix", "".into())], Task::Detect);
    assert_eq!(missing, "rows[0]: cannot read image no.png");
    assert_eq!(
        message(&[("image", Value::Bytes(vec![1, 2])), ("suffix", "".into())], Task::Detect),
        "rows[0]: the image is none that can be read (PNG, JPEG, WebP, GIF, BMP)"
    );
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ways_between_folders() {
    let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to)).display().to_string();
    assert_eq!(way("/a/b", "/a/b"), "");
    assert_eq!(way("/a/b", "/a/b/c"), "c");
    assert_eq!(way("/a/b/c", "/a/d"), "../../d");
}
