//! Recorded evaluators (tests/data/metrics/README.md) through the way from batches to metrics; only the model is a
//! stand-in that says what the recording lists.

use std::path::Path;
use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::{Value as Json, json};

use super::answered::{Answered, Answerer};
use super::captions::CocoCaption;
use super::detection::DetectionJudge;
use super::judge::{Answer, Judge};
use super::segmentation::SegmentationJudge;
use super::storepreds::StorePreds;
use super::{Error, Evaluator, Outcome, answers, captions, detection, storepreds};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::Reader;
use crate::checkpoint::safetensors::Safetensors;
use crate::data::{Batch, Field, Fields, MASK};
use crate::detection::{Detection, format_detections};
use crate::runtime::Buffer;
use crate::tokenizer::{self, Tokenizer};
use crate::vqvae::Decoder;

const BATCH: usize = 4;

/// Says what is to be said of each row.
struct Says(Vec<Answer>);

impl Answerer for Says {
    fn answer(&mut self, batch: &Batch, _: &[&Buffer]) -> Result<Vec<Option<(String, Answer)>>, Error> {
        let answer = |id: &Option<usize>| Some(("prompt".to_owned(), self.0[(*id)?].clone()));
        Ok(batch.ids.iter().map(answer).collect())
    }
}

fn recorded(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn masks_file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/masks").join(name)
}

/// Rows in batches, of which the last is filled up with padding.
fn batches(rows: &[Fields]) -> Vec<Batch> {
    let batch = |(number, rows): (usize, &[Fields])| {
        let mut arrays = indexmap::IndexMap::new();
        arrays.insert("image".into(), HostArray::zeros(Shape::new(DType::F32, [BATCH, 2, 2, 3])));
        let real: Vec<u8> = (0..BATCH).map(|i| u8::from(i < rows.len())).collect();
        let mask = HostArray::from_bytes(Shape::new(DType::Pred, [BATCH]), &real).unwrap();
        arrays.insert(MASK.into(), mask);
        let mut fields = rows.to_vec();
        fields.resize(BATCH, Fields::new());
        let ids = (0..BATCH).map(|i| (i < rows.len()).then_some(number * BATCH + i)).collect();
        let strings = indexmap::IndexMap::new();
        Batch { arrays, strings, fields, ids, position_after: 0, num_skipped: 0 }
    };
    rows.chunks(BATCH).enumerate().map(batch).collect()
}

fn run(judge: Box<dyn Judge>, rows: &[Fields], said: Vec<Answer>) -> Result<Outcome, Error> {
    let mut evaluator =
        Answered { eval: "val".into(), answerer: Box::new(Says(said)), judge, num_pictures: 2 };
    let batches = batches(rows);
    // A second run finds the same: nothing is left of the first.
    let first = evaluator.run(&mut batches.iter().cloned().map(Ok), &[])?;
    let second = evaluator.run(&mut batches.into_iter().map(Ok), &[])?;
    assert_eq!(first.metrics, second.metrics);
    Ok(second)
}

fn says(text: &str) -> Answer {
    Answer { text: text.to_owned(), ..Answer::default() }
}

/// A recorded example's fields, without what the model said.
fn fields_of(example: &Json) -> Fields {
    let entries = example.as_object().unwrap().iter().filter(|(key, _)| *key != "prediction");
    let field = |value: &Json| match value {
        Json::String(text) => Field::Text(text.clone()),
        Json::Array(texts) => Field::Texts(texts.iter().map(|t| t.as_str().unwrap().to_owned()).collect()),
        number => Field::Array(HostArray::scalar(number.as_i64().unwrap())),
    };
    entries.map(|(key, value)| (key.clone(), field(value))).collect()
}

fn assert_metrics(outcome: &Outcome, expected: &Json, tolerance: f64, case: &str) {
    let expected: Vec<(String, f64)> = expected
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.clone(), value.as_f64().unwrap()))
        .collect();
    let mut names: Vec<&String> = outcome.metrics.iter().map(|(name, _)| name).collect();
    let mut wanted: Vec<&String> = expected.iter().map(|(name, _)| name).collect();
    names.sort();
    wanted.sort();
    assert_eq!(names, wanted, "{case}");
    for (name, value) in &expected {
        let got = outcome.metrics.iter().find(|(known, _)| known == name).unwrap().1;
        assert!((got - value).abs() <= tolerance, "{case}: {name} is {got}, recorded {value}");
    }
}

#[test]
fn recorded_evaluators_of_answers_give_the_same_metrics_and_files() {
    let mut compared = 0;
    for (number, case) in recorded("metrics/evaluators.json")["cases"].as_array().unwrap().iter().enumerate()
    {
        let evaluator = case["evaluator"].as_str().unwrap();
        let name = format!("case {number}, {evaluator}");
        let to_lower = case["options"]["to_lower"].as_bool().unwrap_or(false);
        let judge: Box<dyn Judge> = match answers::of_recording(evaluator, to_lower) {
            Some(judge) => Box::new(judge),
            None => {
                assert_eq!(evaluator, "storepreds");
                let id_key = case["options"]["id_key"].as_str().unwrap().to_owned();
                let preds_outfile = "{workdir}/{name}_{split}_preds.json".into();
                Box::new(StorePreds::new(storepreds::Args { preds_outfile, annot_outfile: None, id_key }))
            }
        };
        let examples = case["examples"].as_array().unwrap();
        let rows: Vec<Fields> = examples.iter().map(fields_of).collect();
        let said = examples.iter().map(|example| says(example["prediction"].as_str().unwrap())).collect();
        let outcome = run(judge, &rows, said);
        if case.get("error").is_some() {
            assert!(outcome.is_err(), "{name}: recorded as an error");
            continue;
        }
        let outcome = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_metrics(&outcome, &case["metrics"], 1e-12, &name);
        assert_eq!(outcome.predictions.len(), rows.len(), "{name}");
        if let Some(json_out) = case["json_out"].as_array() {
            assert_eq!(&outcome.files[0].rows, json_out, "{name}");
        }
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn recorded_captions_give_the_same_scores() {
    let recorded = recorded("metrics/captions_raw.json")["evaluate"].clone();
    let caption = |row: &Json| row["caption"].as_str().unwrap().to_owned();
    let of_image = |id: &Json| {
        let rows = recorded["annotations"].as_array().unwrap().iter();
        Field::Texts(rows.filter(|row| row["image_id"] == *id).map(caption).collect())
    };
    let results = recorded["predictions"].as_array().unwrap();
    let row = |row: &Json| {
        let id = Field::Text(row["image_id"].as_str().unwrap().to_owned());
        Fields::from([("image/id".to_owned(), id), ("captions".to_owned(), of_image(&row["image_id"]))])
    };
    let rows: Vec<Fields> = results.iter().map(row).collect();
    let args = captions::Args {
        metrics: ["cider", "rouge", "bleu-4"].map(str::to_owned).to_vec(),
        preds_outfile: Some("p".into()),
        annot_outfile: Some("a".into()),
    };
    let said = results.iter().map(|row| says(&caption(row))).collect();
    let outcome = run(Box::new(CocoCaption::new(args)), &rows, said).unwrap();
    let value = |name: &str| outcome.metrics.iter().find(|(known, _)| known == name).unwrap().1;
    let scores = &recorded["scores"];
    for name in ["cider", "rouge"] {
        assert!((value(name) - scores[name].as_f64().unwrap()).abs() < 1e-9, "{name} {}", value(name));
    }
    for (order, expected) in scores["bleu-4"].as_array().unwrap().iter().enumerate() {
        let got = value(&format!("bleu-{}", order + 1));
        assert!((got - expected.as_f64().unwrap()).abs() < 1e-9, "bleu-{} {got}", order + 1);
    }
    assert_eq!(outcome.files[0].rows, *results);
    assert_eq!(outcome.files[1].rows.len(), recorded["annotations"].as_array().unwrap().len());
}

#[test]
fn recorded_segmentations_give_the_same_metrics() {
    let recorded = recorded("masks/segmentation.json");
    let arrays = Safetensors::open(&masks_file("segmentation.safetensors")).unwrap();
    let decoder = Arc::new(Decoder::open(&masks_file("vqvae_random.npz")).unwrap());
    let first = [&recorded["loc0"], &recorded["seg0"]].map(|id| id.as_i64().unwrap() as i32);
    let examples = recorded["evaluator"]["examples"].as_array().unwrap();
    let numbers =
        |list: &Json| list.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let row = |example: &Json| {
        let mask = arrays.read(example["mask"].as_str().unwrap()).unwrap();
        let bbox = HostArray::new([4], &numbers(&example["bbox"])).unwrap();
        Fields::from([
            ("objects/mask".to_owned(), Field::Array(mask)),
            ("objects/bbox".to_owned(), Field::Array(bbox)),
        ])
    };
    let answer = |example: &Json| {
        let tokens = numbers(&example["tokens"]).into_iter().map(|id| id as i32).collect();
        Answer { tokens, ..Answer::default() }
    };
    let rows: Vec<Fields> = examples.iter().map(row).collect();
    let judge = || Box::new(SegmentationJudge::new(&[0.5, 0.75], decoder.clone(), first));
    let evaluate = |said: Vec<Answer>, num_pictures: usize| {
        let batches = batches(&rows[..said.len()]);
        let (eval, answerer) = ("val".to_owned(), Box::new(Says(said)));
        let mut evaluator = Answered { eval, answerer, judge: judge(), num_pictures };
        evaluator.run(&mut batches.into_iter().map(Ok), &[]).unwrap()
    };
    let outcome = evaluate(examples.iter().map(answer).collect(), 1);
    assert_metrics(&outcome, &recorded["evaluator"]["metrics_all"], 1e-3, "all");
    for ((example, fields), prediction) in examples.iter().zip(&rows).zip(&outcome.predictions) {
        let Field::Array(mask) = &fields["objects/mask"] else { panic!("a mask") };
        let area = mask.to_f64().iter().filter(|pixel| **pixel > 0.0).count() as f64;
        // Rounding may decide about two pixels, which are then missing in one mask and too much in the other.
        let difference = prediction.score.unwrap() - example["metrics"]["miou"].as_f64().unwrap();
        assert!(difference.abs() <= 4.0 / area, "row {} differs by {difference}", prediction.row);
    }
    let shown = &outcome.predictions[outcome.hardest[0]];
    assert!(shown.masks.is_some() && shown.picture.is_some());

    let cut = |example: &Json| Answer { tokens: answer(example).tokens[..12].to_vec(), ..Answer::default() };
    let outcome = evaluate(examples[..4].iter().map(cut).collect(), 0);
    assert_metrics(&outcome, &recorded["evaluator"]["metrics_first4_12_tokens"], 0.0, "cut answers");
}

/// A tokenizer with location tokens.
fn loc_tokenizer() -> Arc<Tokenizer> {
    let texts = ["red circle ; blue square", "green star"];
    let options = tokenizer::build::Options { vocab_size: 1400, num_loc: 1024, num_seg: 0 };
    Arc::new(Tokenizer::from_bytes(&tokenizer::build::build(texts, &options).unwrap()).unwrap())
}

fn object(bins: [u16; 4], label: &str) -> Detection {
    let [y1, x1, y2, x2] = bins;
    Detection { y1, x1, y2, x2, label: label.into() }
}

fn detect_args(score: detection::Score, nms: Option<f64>) -> detection::Args {
    detection::Args { score, nms, loc: Default::default(), per_class: true, outfile: Some("d".into()) }
}

/// Runs a detection of one picture, the tokens of which have these log-probabilities by the object they are of.
fn detected(args: detection::Args, truth: &[Detection], said: &[(Detection, f32)]) -> Outcome {
    let tokenizer = loc_tokenizer();
    let mut answer = Answer::default();
    for (number, (object, logp)) in said.iter().enumerate() {
        let text = if number == 0 { object.to_string() } else { format!(" ; {object}") };
        let whole = answer.text.clone() + &text;
        let tokens = tokenizer.encode(&whole);
        let first = answer.tokens.len();
        answer.logp.extend(tokens[first..].iter().map(|&id| {
            let (loc, count) = tokenizer.loc().unwrap();
            if (loc..loc + count as i32).contains(&id) { -9.0 } else { *logp }
        }));
        (answer.text, answer.tokens) = (whole, tokens);
    }
    let fields = Fields::from([("suffix".to_owned(), Field::Text(format_detections(truth)))]);
    run(Box::new(DetectionJudge::new(args, tokenizer)), &[fields], vec![answer]).unwrap()
}

fn value(outcome: &Outcome, name: &str) -> Option<f64> {
    outcome.metrics.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
}

#[test]
fn boxes_that_the_model_is_sure_of_come_first() {
    let [circle, elsewhere] =
        [object([100, 100, 400, 400], "red circle"), object([600, 600, 900, 900], "red circle")];
    let said = |first: f32, second: f32| [(elsewhere.clone(), first), (circle.clone(), second)];
    let truth = std::slice::from_ref(&circle);
    // Precisions are sums of a hundred and one parts.
    let ap = |args, said: &[(Detection, f32)]| {
        (value(&detected(args, truth, said), "mAP").unwrap() * 1e9).round() / 1e9
    };
    // The wrong box is written first: with its class less likely, it does no harm.
    assert_eq!(ap(detect_args(detection::Score::Class, None), &said(-2.0, -0.1)), 1.0);
    assert_eq!(ap(detect_args(detection::Score::Class, None), &said(-0.1, -2.0)), 0.5);
    assert_eq!(ap(detect_args(detection::Score::None, None), &said(-2.0, -0.1)), 0.5);

    let outcome = detected(detect_args(detection::Score::Class, None), truth, &said(-2.0, -0.1));
    assert!(value(&outcome, "AP/red circle").unwrap() > 1.0 - 1e-9);
    assert_eq!(value(&outcome, "boxes"), Some(2.0));
    assert_eq!(value(&outcome, "invalid"), Some(0.0));
    // One of two is right, one is too much.
    assert_eq!(outcome.predictions[0].score, Some(2.0 / 3.0));
    let rows = &outcome.files[0].rows;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["category"], json!("red circle"));
    assert!(rows[0]["score"].as_f64().unwrap() > rows[1]["score"].as_f64().unwrap());
}

#[test]
fn repeated_boxes_can_be_dropped() {
    let circle = object([100, 100, 400, 400], "red circle");
    let near = object([105, 100, 400, 400], "red circle");
    let said = [(circle.clone(), -0.5), (near, -0.1)];
    let truth = [circle];
    let all = detected(detect_args(detection::Score::Class, None), &truth, &said);
    let kept = detected(detect_args(detection::Score::Class, Some(0.8)), &truth, &said);
    assert_eq!((value(&all, "boxes"), value(&kept, "boxes")), (Some(2.0), Some(1.0)));
}

#[test]
fn boxes_of_sets_are_taken_before_those_of_texts() {
    let tokenizer = loc_tokenizer();
    let corners = [100.0, 100.0, 400.0, 400.0].map(|bin| bin / 1023.0);
    let text = object([100, 100, 400, 400], "red circle").to_string();
    let fields = Fields::from([
        ("suffix".to_owned(), Field::Text(String::new())),
        ("objects/bbox".to_owned(), Field::Array(HostArray::new([1, 4], &corners).unwrap())),
        ("objects/label".to_owned(), Field::Texts(vec!["red circle".into()])),
    ]);
    let empty = Fields::from([("objects/bbox".to_owned(), Field::Texts(vec![]))]);
    let answer = Answer { tokens: tokenizer.encode(&text), logp: vec![-0.5; 64], text };
    let judge = DetectionJudge::new(detect_args(detection::Score::Class, None), tokenizer);
    let outcome = run(Box::new(judge), &[fields, empty], vec![answer, Answer::default()]).unwrap();
    assert!(value(&outcome, "mAP").unwrap() > 1.0 - 1e-9);
    assert_eq!(value(&outcome, "num"), Some(2.0));
    assert_eq!(outcome.predictions[1].score, Some(1.0), "nothing is there, and nothing is said to be");
}

#[test]
fn what_an_example_lacks_is_named() {
    let judge = || Box::new(answers::of_recording("chartqa", false).unwrap());
    let rows = [Fields::from([("answr".to_owned(), Field::Text("1".into()))])];
    let error = run(judge(), &rows, vec![says("1")]).unwrap_err().to_string();
    assert_eq!(error, "evaluation val expects its pp_fn to leave \"answer\", got only answr");
    let rows = [Fields::from([("answer".to_owned(), Field::Texts(vec![]))])];
    let error = run(judge(), &rows, vec![says("1")]).unwrap_err().to_string();
    assert_eq!(error, "evaluation val expects \"answer\" of row 0 as a text, got 0 texts");
}
