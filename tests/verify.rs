//! The model, its gradients, the trainer and decoding against recordings of big_vision.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use paligemma::runtime::{Client, ClientOptions, Plugin, PluginKind, PluginRequest};
use paligemma::verify::{self, Check, Measure, Options, Report, Row};
use serde_json::{Value, json};
use tempfile::TempDir;

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let plugin =
            Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap_or_else(|e| panic!("{e}"));
        Client::new(&plugin, &ClientOptions::default()).unwrap_or_else(|e| panic!("{e}"))
    })
}

fn recording(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model").join(case)
}

fn replay(dir: &Path, only: &[Check]) -> Result<Report, verify::Error> {
    verify::replay(&|| Ok(client()), dir, &Options { only: only.to_vec(), ..Options::default() })
}

/// Some files of a recording, to be damaged.
fn copy(case: &str, files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "params.npz", "batch.safetensors"].iter().chain(files) {
        fs::copy(recording(case).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn edit_json(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Adds to one element of an `f32` tensor.
fn perturb(path: &Path, tensor: &str, index: usize, by: f32) {
    let mut bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    let element = &mut bytes[8 + length + start + 4 * index..][..4];
    let value = f32::from_le_bytes(element.try_into().unwrap()) + by;
    element.copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

fn rows(report: &Report) -> Vec<&Row> {
    let checks = report.cases.iter().flat_map(|case| &case.checks);
    checks.flat_map(|check| &check.rows).collect()
}

fn failing(report: &Report) -> Vec<&str> {
    rows(report).into_iter().filter(|row| !row.passed()).map(|row| row.name.as_str()).collect()
}

const REPLAYED: [Check; 8] = [
    Check::Forward,
    Check::Loss,
    Check::Grads,
    Check::Sgd,
    Check::Adam,
    Check::Adafactor,
    Check::Decode,
    Check::Beam,
];

/// Replays a case; it has so many rows, so that nothing is left out unnoticed.
#[track_caller]
fn passes(case: &str, only: &[Check], chunk_tokens: usize, expected: usize) {
    let options = Options { only: only.to_vec(), chunk_tokens };
    let report = verify::replay(&|| Ok(client()), &recording(case), &options).unwrap();
    assert!(report.passed(), "{}", report.to_text(false));
    assert_eq!(report.cases[0].checks.len(), only.len());
    // Elements whose first gradient is noise, of either sign from machine to machine, have rows of their own.
    let is_counted = |row: &&Row| !row.name.ends_with(".first_gradient");
    assert_eq!(rows(&report).into_iter().filter(is_counted).count(), expected);
}

#[test]
fn gemma1_passes() {
    passes("gemma1", &REPLAYED, 0, 16 + 10 + 32 + 15 + 209 + 111 + 8 + 2);
}

#[test]
fn gemma2_passes() {
    passes("gemma2", &REPLAYED, 0, 18 + 12 + 34 + 27 + 93 + 115 + 12 + 2);
}

#[test]
fn gemma2_27b_passes() {
    passes("gemma2_27b", &REPLAYED, 0, 17 + 10 + 34 + 15 + 93 + 115 + 8 + 2);
}

#[test]
fn mha_passes() {
    passes("mha", &REPLAYED, 0, 19 + 10 + 31 + 14 + 87 + 109 + 8 + 2);
}

/// Sums of 56 and 167 arrays, and the 9 and 32 parameters that the runs changed.
#[test]
fn train_states_pass() {
    passes("checkpoint_bv", &[Check::Checkpoint], 0, 2 * (56 + 167) + 9 + 32);
}

#[test]
fn the_vision_tower_alone_passes() {
    passes("vit", &[Check::Vit], 0, 23 + 2 + 4);
}

/// Replays a folder of recordings that need no device, and says how many cases of each kind there were.
#[track_caller]
fn cases_without_a_device(folder: &str, only: &[Check]) -> Vec<(String, usize)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let no_client = || panic!("no check of {folder} needs a device");
    let report =
        verify::replay(&no_client, &dir, &Options { only: only.to_vec(), ..Options::default() }).unwrap();
    assert!(report.passed(), "{}", report.to_text(false));
    rows(&report).into_iter().map(|row| (row.name.clone(), row.shape.num_elements())).collect()
}

fn counts(expected: &[(&str, usize)]) -> Vec<(String, usize)> {
    expected.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn text_passes() {
    let expected = [
        ("spm_pieces", 1401),
        ("spm_encode ids", 380),
        ("spm_encode decoded", 380),
        ("spm_decode", 322),
        ("hf_encode tokenizers", 2),
        ("hf_encode gemma_like", 436),
        ("hf_encode paligemma_like", 436),
        ("hf_encode decoded", 436),
        ("bv_tokenizer encode", 116),
        ("bv_tokenizer decode", 60),
        ("bv_tokenizer decode_batch", 4),
        ("bv_tokenizer tokenizers", 11),
        ("notebook preprocess", 36),
        ("notebook postprocess", 36),
        ("pp_parse specs", 335),
        ("pp_parse specs that no op could take, refused", 5),
        ("pp_parse pipelines", 43),
        ("pp_ops signatures", 49),
        ("pp_text", 441),
        ("configs_e2e", 69),
    ];
    assert_eq!(cases_without_a_device("text", &[Check::Text]), counts(&expected));
}

#[test]
fn configs_pass() {
    assert_eq!(cases_without_a_device("text", &[Check::Configs]), counts(&[("configs_pp", 105 + 34)]));
}

#[test]
fn data_passes() {
    let expected = [
        ("jsonl rows", 46),
        ("jsonl errors", 4),
        ("imagefolder rows", 28),
        ("tfrecord features", 30),
        ("tfds rows", 26),
        ("tfds splits", 4),
        ("webdataset samples", 25),
        ("parquet captions", 25),
        ("parquet detection", 25),
        ("detection boxes", 72),
        ("detection texts", 144),
        ("detection big_vision_refcoco_loc", 52),
        ("detection pycocotools", 25),
        ("parquet detection texts", 49),
        ("parquet big_vision_refcoco_loc", 46),
    ];
    assert_eq!(cases_without_a_device("data", &[]), counts(&expected));
}

#[test]
fn metrics_pass() {
    let expected = [
        ("chartqa relaxed match", 454),
        ("chartqa numbers", 49),
        ("science_qa letters", 14),
        ("tallyqa number words", 30),
        ("vqa anls", 2 * 256),
        ("vqav2 texts", 600),
        ("evaluators metrics", 25),
        ("evaluators files", 23),
        ("evaluators errors", 5),
        ("captions cider", 107),
        ("captions rouge", 107),
        ("captions bleu-1", 107),
        ("captions bleu-2", 107),
        ("captions bleu-3", 107),
        ("captions bleu-4", 107),
        ("captions words", 189),
        ("captions evaluator", 6),
        ("detection stats", 48),
        ("detection per category", 27),
        ("box_iou coco", 60),
        ("box_iou reward", 60),
    ];
    assert_eq!(cases_without_a_device("metrics", &[Check::Metrics]), counts(&expected));
}

#[test]
fn schedules_pass() {
    let expected = [
        ("schedules", 4194),
        ("schedules with a square root", 75),
        ("schedules refused", 26),
        ("durations", 227),
        ("itstime", 362),
    ];
    assert_eq!(cases_without_a_device("schedule", &[]), counts(&expected));
}

#[test]
fn perplexities_pass() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/metrics");
    let report = replay(&dir, &[Check::Perplexity]).unwrap();
    assert!(report.passed(), "{}", report.to_text(false));
    assert_eq!(rows(&report).len(), 84);
}

#[test]
fn other_metrics_than_recorded_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/metrics");
    fs::copy(data.join("evaluators.json"), dir.path().join("evaluators.json")).unwrap();
    edit_json(dir.path(), "evaluators.json", |json| {
        json["cases"][5]["metrics"]["acc"] = json!(0.5);
        json["cases"][9]["json_out"][0]["answer"] = json!("2");
        json["cases"][29].as_object_mut().unwrap().remove("error");
        json["cases"][29]["metrics"] = json!({});
    });
    let report = replay(dir.path(), &[]).unwrap();
    let expected = [
        "evaluators metrics: vqa, case 5",
        "evaluators metrics",
        "evaluators files: chartqa, case 9",
        "evaluators files",
    ];
    let names = failing(&report);
    assert_eq!(names[..4], expected);
    assert!(names[4].starts_with("evaluators errors: tallyqa, case 29"), "{}", names[4]);
    fs::write(dir.path().join("evaluators.json"), "{\"cases\": [{\"evaluator\": \"vqa\"}]}").unwrap();
    let error = message(replay(dir.path(), &[]).unwrap_err());
    assert!(error.ends_with("evaluators.json: it lacks something that such a recording has"), "{error}");
}

/// Logits in chunks of positions, of which the last is not full.
#[test]
fn a_chunked_loss_passes_the_same_tolerances() {
    let checks = [Check::Loss, Check::Grads, Check::Sgd];
    passes("gemma1", &checks, 4, 10 + 32 + 15);
    passes("gemma2", &checks, 5, 12 + 34 + 27);
}

#[test]
fn one_perturbed_number_fails_and_is_named() {
    let dir = copy("mha", &["grads.safetensors", "loss.json"]);
    let name = "llm/layers/mlp/linear";
    perturb(&dir.path().join("grads.safetensors"), name, 7, 1e-2);
    let report = replay(dir.path(), &[Check::Grads]).unwrap();
    assert!(!report.passed());
    assert_eq!(failing(&report), [name]);
    let text = report.to_text(false);
    assert!(text.contains("  grads      1 of 31 FAILED\n"), "{text}");
    let line = text.lines().find(|line| line.ends_with("FAIL")).unwrap();
    assert!(line.contains(name) && line.contains("f32[2,56,32]"), "{text}");
    assert!(text.contains("FAILED: 1 of 1 checks"), "{text}");
    let json = report.to_json();
    assert_eq!(json["passed"], false);
    let row = json["cases"][0]["checks"][0]["rows"].as_array().unwrap();
    let row = row.iter().find(|row| row["passed"] == false).unwrap();
    assert_eq!((row["name"].as_str(), row["of"].as_str()), (Some(name), Some("of_max")));

    edit_json(dir.path(), "loss.json", |json| {
        let loss = json["train_label_smoothing_0.3"]["loss"].as_f64().unwrap();
        json["train_label_smoothing_0.3"]["loss"] = json!(loss * 1.00002);
    });
    let report = replay(dir.path(), &[Check::Loss]).unwrap();
    assert_eq!(failing(&report), ["train_label_smoothing_0.3.loss"]);
}

/// A frozen parameter that moved in the recording cannot hide behind a tolerance.
#[test]
fn what_is_not_trained_must_be_equal() {
    let report = replay(&recording("mha"), &[Check::Adam]).unwrap();
    let frozen: Vec<_> = rows(&report).into_iter().filter(|row| row.name.starts_with("adam.img/")).collect();
    assert_eq!(frozen.len(), 23);
    assert!(frozen.iter().all(|row| row.tolerance.measure == Measure::Exact && row.error == 0.0));
}

#[test]
fn a_check_that_is_not_there_is_an_error_that_lists_those_that_are() {
    let dir = copy("mha", &["loss.json", "grads.safetensors"]);
    let error = replay(dir.path(), &[Check::Loss, Check::Sgd]).unwrap_err().to_string();
    assert!(error.ends_with("does not hold the check sgd, it holds: loss, grads"), "{error}");
    let error = "sdg".parse::<Check>().unwrap_err().to_string();
    assert!(error.starts_with("unknown check \"sdg\", known are: forward, loss, "), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = replay(empty.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("is not a recording"), "{error}");
    let error = replay(&empty.path().join("none"), &[]).unwrap_err().to_string();
    assert!(error.starts_with("cannot read "), "{error}");
}

/// The message with its causes.
fn message(error: verify::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn damaged_recordings_say_what_is_wrong_with_them() {
    let dir = copy("mha", &["loss.json", "forward.safetensors", "sgd.json"]);
    let error = |check: Check| message(replay(dir.path(), &[check]).unwrap_err());
    let missing = error(Check::Sgd);
    assert!(missing.contains("sgd_batches.safetensors"), "{missing}");

    fs::write(dir.path().join("loss.json"), "{\"notebook\": {\"loss\": \"many\"}}").unwrap();
    let odd = error(Check::Loss);
    assert!(odd.contains("loss.json") && odd.contains("expected f64"), "{odd}");
    fs::write(dir.path().join("loss.json"), "{\"median\": {\"loss\": 1.0}}").unwrap();
    let unknown = error(Check::Loss);
    assert!(unknown.contains("unknown loss \"median\", known are: notebook"), "{unknown}");

    let file = dir.path().join("forward.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error_text = error(Check::Forward);
    assert!(error_text.contains("forward.safetensors"), "{error_text}");
    let at = bytes.windows(6).position(|window| window == b"\"zimg\"").unwrap();
    let mut renamed = bytes.clone();
    renamed[at + 3] = b'n';
    fs::write(&file, renamed).unwrap();
    let error_text = error(Check::Forward);
    assert!(error_text.ends_with("\n  missing zimg\n  unknown zing"), "{error_text}");

    for (edit, expected) in [
        (json!({"pool_type": "map"}), "unknown img.pool_type \"map\", known are: none, gap"),
        (json!({"dropout": 0.1}), "img.dropout is 0.1, this program replays only 0"),
        (json!({"num_heads": 0}), "img.num_heads is 0"),
        (json!({"width": 36}), "params.npz"),
    ] {
        let dir = copy("mha", &["forward.safetensors"]);
        let (key, value) = edit.as_object().unwrap().iter().next().unwrap();
        edit_json(dir.path(), "config.json", |json| json["img"][key] = value.clone());
        let error = message(replay(dir.path(), &[Check::Forward]).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    let dir = copy("mha", &["loss.json"]);
    edit_json(dir.path(), "config.json", |json| json["image_size"] = json!([42, 28]));
    let error = message(replay(dir.path(), &[Check::Loss]).unwrap_err());
    assert!(error.contains("pos_embedding"), "{error}");
}
