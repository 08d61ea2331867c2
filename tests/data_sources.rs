//! Sources against what the reference read from the same files (tests/data/data/README.md).

use std::fs;
use std::path::{Path, PathBuf};

use paligemma::config::{Config, InputData};
use paligemma::data::{
    Annotations, Coco, DetectOptions, DetectionSource, FeatureType, ImageFile, ImageFolder, Jsonl,
    JsonlOptions, Parquet, ParquetOptions, Preprocess, Row, Source, TfRecord, Tfds, TfdsOptions, Value, Voc,
    VocOptions, WebDataset, Yolo,
};
use paligemma::detection::{LocOptions, LocScale};
use paligemma::setup;
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

#[test]
fn parquet_captions_are_the_references() {
    let expected = expected("expected_hf_parquet_captions.json");
    let source =
        Parquet::open(&[folder().join("hf_parquet_captions/data")], &ParquetOptions::default()).unwrap();
    let expected = expected["rows"].as_array().unwrap();
    assert_eq!(source.len(), expected.len());
    assert_eq!(source.blocks(), [0..16, 16..24]);
    for (index, expected) in expected.iter().enumerate() {
        let row = to_json(&Value::Dict(source.get(index).unwrap()));
        assert_eq!(row["image"], expected["image"]["sha256"]);
        for (key, expected) in [
            ("image_path", &expected["image"]["path"]),
            ("gpt4_turbo_caption", &expected["gpt4_turbo_caption"]),
            ("blip_caption", &expected["blip_caption"]),
        ] {
            // A null is no field, and indexing JSON gives null for what is not there.
            assert_eq!(row[key], *expected, "{key} of row {index}");
            assert_eq!(row.get(key).is_none(), expected.is_null());
        }
    }
}

#[test]
fn parquet_detection_rows_are_the_references() {
    let expected = expected("expected_hf_parquet_detection.json");
    let pattern = folder().join("hf_parquet_detection/data/train-*.parquet");
    let options = ParquetOptions { split: Some("train".to_owned()), label_names: true, ..Default::default() };
    let source = Parquet::open(&[pattern], &options).unwrap();
    let names = ["circle", "square", "triangle", "license_plate"];
    assert_eq!(source.class_names("objects/category").unwrap(), names);
    let expected = expected["rows"].as_array().unwrap();
    assert_eq!(source.len(), expected.len());
    for (index, expected) in expected.iter().enumerate() {
        let mut row = to_json(&Value::Dict(source.get(index).unwrap()));
        assert_eq!(row["image"], expected["image"]["sha256"]);
        assert_eq!(row["image_path"], expected["image"]["path"]);
        for key in ["image_id", "width", "height"] {
            assert_eq!(row[key], expected[key]);
        }
        let labels = row["objects"].as_object_mut().unwrap().remove("category_name").unwrap();
        let categories = expected["objects"]["category"].as_array().unwrap();
        let named: Json = categories.iter().map(|class| names[class.as_u64().unwrap() as usize]).collect();
        assert_eq!(labels, named);
        assert_eq!(row["objects"], expected["objects"], "row {index}");
    }
}

#[test]
fn tfrecord_features_are_the_references() {
    let expected = expected("expected_tfrecord.json");
    let features = [
        ("image/caption", FeatureType::StrList),
        ("image/encoded", FeatureType::Bytes),
        ("image/filename", FeatureType::Str),
        ("image/format", FeatureType::Str),
        ("image/height", FeatureType::Int),
        ("image/object/bbox/xmax", FeatureType::FloatList),
        ("image/object/bbox/xmin", FeatureType::FloatList),
        ("image/object/bbox/ymax", FeatureType::FloatList),
        ("image/object/bbox/ymin", FeatureType::FloatList),
        ("image/object/class/label", FeatureType::IntList),
        ("image/object/class/text", FeatureType::StrList),
        ("image/width", FeatureType::Int),
    ];
    let features = features.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    let patterns = ["data.tfrecord-{00000..00001}-of-00002", "data_gz.tfrecord.gz"];
    let patterns = patterns.map(|pattern| folder().join("tfrecord").join(pattern));
    let source = TfRecord::open(&patterns, features).unwrap();
    let expected = expected["records"].as_array().unwrap();
    assert_eq!(source.len(), expected.len());
    for (index, expected) in expected.iter().enumerate() {
        let row = source.get(index).unwrap();
        assert!(source.locate(index).contains(expected["file"].as_str().unwrap()));
        let expected = expected["features"].as_object().unwrap();
        assert_eq!(row.len(), expected.len() + 1);
        for (name, feature) in expected {
            // One list of one kind: {"bytes_list": [..]}, files by their digest.
            let list = feature.as_object().unwrap().values().next().unwrap().as_array().unwrap();
            let list: Vec<&Json> = list.iter().map(|item| item.get("sha256").unwrap_or(item)).collect();
            match to_json(&row[name]) {
                Json::Array(items) => assert_eq!(items.iter().collect::<Vec<_>>(), list, "{name}"),
                value => assert_eq!(list, [&value], "{name}"),
            }
        }
    }
}

#[test]
fn tfds_splits_are_the_references() {
    let expected = expected("expected_tfds.json");
    for case in expected["splits"].as_array().unwrap() {
        let split = case["split"].as_str().unwrap();
        let options = TfdsOptions {
            name: "drawn_scenes".to_owned(),
            data_dir: Some(folder().join("tfds")),
            split: split.to_owned(),
            label_names: false,
        };
        let source = Tfds::open(options).unwrap();
        let classes = ["circle", "square", "triangle", "license_plate"];
        assert_eq!(source.class_names("objects/label").unwrap(), classes);
        assert_eq!(source.len() as u64, case["total_examples"].as_u64().unwrap(), "{split}");
        let rows = read_all(&source).unwrap();
        for (row, expected) in rows.iter().zip(case["examples"].as_array().unwrap()) {
            let Json::Object(expected) = expected else {
                assert_eq!(row["n"], *expected, "{split}");
                continue;
            };
            for (key, expected) in expected {
                let value = match key.as_str() {
                    "image_sha256" => &row["image"],
                    "bbox" => &row["objects"]["bbox"],
                    "object_labels" => &row["objects"]["label"],
                    key => &row[key],
                };
                assert_eq!(value, expected, "{key} of {} in {split}", row["tfds_id"]);
            }
        }
    }
}

/// What configs say, from a config beside the data, through the ops that take nested fields apart.
#[test]
fn configs_name_every_kind_of_source() {
    for (data, len, pp, arrays) in [
        (
            "{name: 'bv:tfds', data_dir: tfds/drawn_scenes/1.0.0, split: 'train[50%:]'}",
            9,
            "flatten",
            "objects/bbox [2, 4]",
        ),
        ("{name: drawn_scenes, data_dir: tfds, split: validation}", 6, "flatten|keep(\"n\")", "n []"),
        (
            "{name: 'bv:tfrecord', path: tfrecord/data.tfrecord-*, features: {image/width: int}}",
            24,
            "keep(\"image/width\")",
            "image/width []",
        ),
        (
            "{name: 'hf:parquet', path: hf_parquet_captions/data/*.parquet}",
            24,
            "keep(\"image\")|decode",
            "image [120, 100, 3]",
        ),
        (
            "{name: 'hf:parquet', path: hf_parquet_detection, split: 'train[:2]'}",
            2,
            "flatten",
            "objects/bbox [2, 4]",
        ),
        (
            "{name: webdataset, path: 'webdataset/shard-{000000..000001}.tar', rename: {image: png;jpg}}",
            24,
            "keep(\"image\")|decode",
            "image [75, 96, 3]",
        ),
    ] {
        let yaml = format!("input: {{data: {data}}}");
        let loaded =
            Config::parse(&yaml, &folder().join("run.yaml"), &[], &[]).unwrap_or_else(|e| panic!("{e}"));
        let again = Config::parse(&loaded.to_yaml(), &folder().join("run.yaml"), &[], &[]).unwrap();
        assert_eq!(again.config, loaded.config);
        let InputData::Source(data) = loaded.config.input.clone().unwrap().data else { panic!("{data}") };
        let source = setup::source(&data).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(source.len(), len, "{}", source.describe());
        let env = setup::pp_env(&loaded);
        let preprocess = setup::PpPreprocess::new(&loaded, &env, "input.pp", pp, None, 1000).unwrap();
        let processed = preprocess.run(source.get(0).unwrap(), 0).unwrap();
        let (name, dims) = arrays.split_once(' ').unwrap();
        match processed.arrays.get(name) {
            Some(array) => assert_eq!(format!("{:?}", array.dims()), dims, "{name}"),
            None => panic!("no {name} in {:?}", processed.arrays.keys()),
        }
    }
}

#[test]
fn webdataset_samples_are_the_references() {
    let expected = expected("expected_webdataset.json");
    let pattern = folder().join("webdataset/shard-{000000..000001}.tar");
    let source = WebDataset::open(&[pattern], &Default::default()).unwrap();
    let expected = expected["samples"].as_array().unwrap();
    assert_eq!(source.len(), expected.len());
    for (index, expected) in expected.iter().enumerate() {
        let row: Row = source.get(index).unwrap();
        assert_eq!(row["__key__"].to_string(), expected["key"].as_str().unwrap());
        assert!(source.locate(index).contains(expected["shard"].as_str().unwrap()));
        let fields = expected["fields"].as_object().unwrap();
        let keys: Vec<&String> = row.keys().skip(2).collect();
        assert_eq!(keys, fields.keys().collect::<Vec<_>>());
        for (name, field) in fields {
            let text = || field["text"].as_str().unwrap();
            match (&row[name], name.as_str()) {
                (Value::Bytes(bytes), _) => assert_eq!(sha256(bytes), field["sha256"].as_str().unwrap()),
                (Value::Str(value), "txt") => assert_eq!(value, text()),
                (Value::Int(value), "cls") => assert_eq!(value.to_string(), text()),
                (value, "json") => assert_eq!(to_json(value), serde_json::from_str::<Json>(text()).unwrap()),
                (value, name) => panic!("{name} is {value}"),
            }
        }
    }
}

/// Copies of real files with bytes changed, cut or inserted: reading may fail, but must not panic, hang or take
/// memory that the file has not. `PALIGEMMA_HOSTILE_ROUNDS` sets how many copies of each file there are.
#[test]
fn damaged_files_are_errors_and_nothing_worse() {
    let rounds =
        std::env::var("PALIGEMMA_HOSTILE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let dir = tempfile::tempdir().unwrap();
    let features: indexmap::IndexMap<_, _> = [("image/caption".to_owned(), FeatureType::StrList)].into();
    let all = |source: &dyn Source| (0..source.len()).filter(|&index| source.get(index).is_ok()).count();
    type Open<'a> = &'a dyn Fn(&Path) -> Option<usize>;
    let cases: [(&str, Open); 4] = [
        ("webdataset/shard-000000.tar", &|path| {
            Some(all(&WebDataset::open(&[path.to_owned()], &Default::default()).ok()?))
        }),
        ("hf_parquet_detection/data/train-00000-of-00001.parquet", &|path| {
            Some(all(&Parquet::open(&[path.to_owned()], &ParquetOptions::default()).ok()?))
        }),
        ("tfrecord/data.tfrecord-00000-of-00002", &|path| {
            Some(all(&TfRecord::open(&[path.to_owned()], features.clone()).ok()?))
        }),
        ("tfrecord/data_gz.tfrecord.gz", &|path| {
            Some(all(&TfRecord::open(&[path.to_owned()], features.clone()).ok()?))
        }),
    ];
    for (name, open) in cases {
        let bytes = fs::read(folder().join(name)).unwrap();
        let path = dir.path().join(Path::new(name).file_name().unwrap());
        fs::write(&path, &bytes).unwrap();
        let whole = open(&path).unwrap();
        let mut failed = 0;
        for round in 0..rounds {
            fs::write(&path, damaged(&bytes, round)).unwrap();
            failed += usize::from(open(&path) != Some(whole));
        }
        assert!(failed > 0, "no damage of {name} was noticed");
    }
}

fn damaged(bytes: &[u8], round: u64) -> Vec<u8> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(round);
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..5) {
        // Half of the places near an end, where the headers are.
        let at = match random.random_range(0..4) {
            0 => random.random_range(0..bytes.len().min(1024)),
            1 => bytes.len() - 1 - random.random_range(0..bytes.len().min(4096)),
            _ => random.random_range(0..bytes.len()),
        };
        match random.random_range(0..6) {
            0 => bytes.truncate(at.max(1)),
            1 => drop(bytes.splice(at..at, (0..16).map(|_| random.random::<u8>()))),
            2 => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
            _ => bytes[at] = random.random(),
        }
    }
    bytes
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
                assert_eq!(row["prefix"].as_str().unwrap().split(" ; ").count(), 4);
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
