//! Sources against what the reference read from the same files (tests/data/data/README.md).

use std::fs;
use std::path::{Path, PathBuf};

use paligemma::data::{
    Annotations, Coco, DetectOptions, DetectionSource, ImageFile, ImageFolder, Jsonl, JsonlOptions, Source,
    Value, Voc, VocOptions, Yolo,
};
use paligemma::detection::{LocOptions, LocScale};
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

/// The pictures of the boxed sets: what was drawn, by the file's name.
fn drawn() -> Vec<Json> {
    expected("expected_detection.json")["images"].as_array().unwrap().clone()
}

/// The three readers over the same scenes, by part.
fn boxed_sets(part: &str) -> Vec<Box<dyn Annotations>> {
    let voc = Voc::open(folder().join("voc"), part, VocOptions::default()).unwrap();
    let yolo = Yolo::open(folder().join("yolo"), part).unwrap();
    vec![Box::new(voc), Box::new(yolo)]
}

/// Corners and classes of a drawn picture.
fn drawn_objects(image: &Json) -> Vec<([f64; 4], String)> {
    let boxes = image["bbox_xywh"].as_array().unwrap().iter();
    let labels = image["categories"].as_array().unwrap().iter();
    let object = |(xywh, label): (&Json, &Json)| {
        let [x, y, w, h] = [0, 1, 2, 3].map(|i| xywh[i].as_f64().unwrap());
        ([y, x, y + h, x + w], label.as_str().unwrap().to_owned())
    };
    boxes.zip(labels).map(object).collect()
}

fn name_of(annotated: &paligemma::data::Annotated) -> String {
    let ImageFile::Path(path) = &annotated.image else { panic!("{} has no file", annotated.id) };
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn boxed_sets_have_the_drawn_boxes() {
    let drawn = drawn();
    let mut compared = 0;
    let coco: Box<dyn Annotations> = Box::new(Coco::open(folder().join("coco"), None).unwrap());
    assert_eq!((coco.len(), coco.classes().len()), (24, 4));
    for (part, sets) in [("", vec![coco]), ("train", boxed_sets("train")), ("val", boxed_sets("val"))] {
        for set in sets {
            for index in 0..set.len() {
                let annotated = set.annotated(index).unwrap();
                let name = name_of(&annotated);
                let image = drawn.iter().find(|image| image["file"] == name.as_str()).unwrap();
                assert!(part.is_empty() || image["part"] == part, "{name} is not of {part}");
                let expected = drawn_objects(image);
                let size = [&image["height"], &image["width"]].map(|side| side.as_f64().unwrap());
                let scale = [size[0] / annotated.extent[0], size[1] / annotated.extent[1]];
                assert_eq!(annotated.objects.len(), expected.len(), "{}", set.locate(index));
                for (object, (corners, label)) in annotated.objects.iter().zip(&expected) {
                    assert_eq!(object.label, *label);
                    for (i, (got, expected)) in object.corners.iter().zip(corners).enumerate() {
                        // YOLO's text has six decimals of the picture's side.
                        let got = got * scale[i % 2];
                        assert!((got - expected).abs() < 2e-4, "{}: {got} {expected}", set.locate(index));
                    }
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100, "only {compared} boxes compared");
}

#[test]
fn coco_is_read_as_by_pycocotools() {
    let set = Coco::open(folder().join("coco/annotations/instances_train.json"), None).unwrap();
    let expected = expected("expected_detection.json");
    let views = expected["pycocotools"].as_array().unwrap();
    assert_eq!(set.len(), views.len());
    for (index, view) in views.iter().enumerate() {
        let annotated = set.annotated(index).unwrap();
        assert_eq!(annotated.id, view["image_id"].to_string());
        assert_eq!(name_of(&annotated), view["file_name"]);
        let xywh = |[y1, x1, y2, x2]: [f64; 4]| [x1, y1, x2 - x1, y2 - y1].map(|v| v as i64);
        let objects = annotated.objects.iter();
        let boxes: Vec<_> = objects.clone().map(|object| xywh(object.corners)).collect();
        assert_eq!(json!(boxes), view["bbox"], "{}", annotated.id);
        let labels: Vec<_> = objects.map(|object| object.label.as_str()).collect();
        assert_eq!(json!(labels), view["categories"]);
    }
}

#[test]
fn boxed_rows_have_pictures_prompts_and_the_recorded_answers() {
    let drawn = drawn();
    let scale = LocScale::Bins1024;
    let loc = LocOptions { scale, ..LocOptions::default() };
    let raw = LocOptions { scale, clamp: false, ..LocOptions::default() };
    let mut compared = 0;
    for (loc, rule) in [(loc, "seed_rule_clamped"), (raw, "seed_rule")] {
        let coco: Box<dyn Annotations> = Box::new(Coco::open(folder().join("coco"), None).unwrap());
        let sets = boxed_sets("train").into_iter().chain(boxed_sets("val")).chain([coco]);
        for set in sets {
            let rule = match (rule, set.describe().starts_with("yolo")) {
                ("seed_rule", true) => "seed_rule_from_yolo_text",
                (rule, _) => rule,
            };
            let names: Vec<String> =
                (0..set.len()).map(|index| name_of(&set.annotated(index).unwrap())).collect();
            let options = DetectOptions { loc, ..DetectOptions::default() };
            let source = DetectionSource::new(set, options).unwrap();
            for (index, name) in names.iter().enumerate() {
                let image = drawn.iter().find(|image| image["file"] == name.as_str()).unwrap();
                let row = source.get(index).unwrap();
                assert_eq!(row["suffix"].as_str().unwrap(), image[rule], "{}", source.locate(index));
                assert!(row["prefix"].as_str().unwrap().starts_with("detect circle ; "));
                let bytes = row["image"].as_bytes().unwrap();
                if source.describe().starts_with("coco") {
                    assert_eq!(sha256(bytes), image["sha256"]);
                }
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 2 * 3 * 24);
}

#[test]
fn missing_pictures_are_named_with_the_place_that_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("Annotations")).unwrap();
    let xml = fs::read_to_string(folder().join("voc/Annotations/000001.xml")).unwrap();
    fs::write(dir.path().join("Annotations/000001.xml"), xml).unwrap();
    let set = Voc::open(dir.path(), "train", VocOptions::default()).unwrap();
    let source = DetectionSource::new(Box::new(set), DetectOptions::default()).unwrap();
    let message = source.get(0).unwrap_err().to_string();
    let message = message.replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(message, "Annotations/000001.xml: cannot read image JPEGImages/000001.jpg");
}
