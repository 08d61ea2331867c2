//! `paligemma predict` with a tiny recorded model: its answers are noise, but always the same noise.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use image::{Rgb, RgbImage};
use paligemma::config::Config;
use paligemma::decode::Sampler;
use paligemma::predict::{LoadedModel, Options, Prediction, Predictor, Question};
use paligemma::runtime::{Client, ClientOptions, Plugin, PluginKind, PluginRequest};
use paligemma::tokenizer::build;
use serde_json::Value as Json;
use tempfile::TempDir;

const CONFIG: &str = "
tokenizer: tokenizer.model
model:
  image_size: 28
  img: {variant: null, width: 32, depth: 2, mlp_dim: 56, num_heads: 2, patch_size: 14}
  llm: {variant: null, width: 40, depth: 2, mlp_dim: 64, num_heads: 4, num_kv_heads: 1, head_dim: 16, vocab_size: 300}
predict: {max_decode_len: 9}
";

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model/gemma1/params.npz")
}

/// A folder with a config, a tokenizer and images.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.yaml"), CONFIG).unwrap();
    let options = build::Options { vocab_size: 290, num_loc: 4, num_seg: 0 };
    let tokenizer = build::build(["describe detect cat dog"], &options).unwrap();
    fs::write(folder.path().join("tokenizer.model"), tokenizer).unwrap();
    for (name, colour) in [("red.png", [250, 30, 20]), ("blue.png", [10, 40, 230])] {
        let picture = RgbImage::from_fn(40, 30, |x, y| {
            let [r, g, b] = colour;
            Rgb([r, g.max((x * 3) as u8), b.max((y * 5) as u8)])
        });
        picture.save(folder.path().join(name)).unwrap();
    }
    folder
}

fn question(folder: &Path, image: &str, prompt: &str) -> Question {
    let image = fs::read(folder.join(image)).unwrap();
    Question { name: "an image".into(), image, prompt: prompt.into() }
}

fn predictor(folder: &Path, batch_size: usize) -> Predictor {
    let loaded = Config::load(&folder.join("config.yaml"), &[], &[]).unwrap();
    let model = LoadedModel::open(&checkpoint(), &loaded).unwrap();
    let plugin = Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap();
    let client = Client::new(&plugin, &ClientOptions::cpu_devices(1)).unwrap();
    let options = Options { max_decode_len: 9, sampler: Sampler::Greedy, batch_size };
    Predictor::new(model, &options, &client.devices()[0]).unwrap()
}

#[test]
fn answers_do_not_depend_on_the_batch_they_are_in() {
    let folder = folder();
    let folder = folder.path();
    // Three questions in batches of two: the last batch is filled up. The second prompt needs more padding.
    let questions = [
        question(folder, "red.png", "describe"),
        question(folder, "blue.png", "detect cat ; dog ; cat ; dog and another dog"),
        question(folder, "blue.png", "describe"),
    ];
    let together = predictor(folder, 2).predict(&questions).unwrap();
    let mut one_by_one = predictor(folder, 1);
    for (question, together) in questions.iter().zip(&together) {
        let alone = one_by_one.predict(std::slice::from_ref(question)).unwrap();
        assert_eq!(alone[0].tokens, together.tokens);
        assert_eq!(alone[0].text, together.text);
        let far = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-4;
        assert!(!alone[0].logp.iter().zip(&together.logp).any(far), "{alone:?} {together:?}");
        assert_eq!(together.logp.len(), together.tokens.len() + usize::from(together.is_finished));
    }
    let tokens = |prediction: &Prediction| prediction.tokens.clone();
    assert_ne!(tokens(&together[0]), tokens(&together[1]), "the model sees no difference");
}

fn command(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("paligemma").unwrap();
    command.current_dir(folder).args(["-q", "predict", "--kind", "cpu", "--config", "config.yaml"]);
    command.arg("--checkpoint").arg(checkpoint());
    command
}

#[test]
fn the_command_prints_what_the_library_predicts_and_draws_it() {
    let folder = folder();
    let folder = folder.path();
    let images = ["--image", "red.png", "blue.png", "--prompt", "describe"];
    let output = command(folder).args(images).args(["--json", "--draw", "out.png"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let questions = [question(folder, "red.png", "describe"), question(folder, "blue.png", "describe")];
    let predictions = predictor(folder, 8).predict(&questions).unwrap();
    assert_eq!(lines.len(), 2);
    for ((line, prediction), image) in lines.iter().zip(&predictions).zip(["red.png", "blue.png"]) {
        assert_eq!(line["image"], image);
        assert_eq!(line["prompt"], "describe");
        assert_eq!(line["text"], prediction.text);
        assert_eq!(line["tokens"], serde_json::json!(prediction.tokens));
        assert_eq!(line["is_finished"], prediction.is_finished);
        assert!((line["score"].as_f64().unwrap() - f64::from(prediction.score())).abs() < 1e-3);
    }
    for name in ["out.1.png", "out.2.png"] {
        let drawn = image::open(folder.join(name)).unwrap();
        // 40 pixels are drawn eightfold, with the caption below.
        assert!(drawn.width() == 320 && drawn.height() > 240, "{}x{}", drawn.width(), drawn.height());
    }
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let folder = folder();
    let folder = folder.path();
    let fails = |command: &mut Command, code: i32, told: &str| {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(told), "{text}");
    };
    let ask = ["--prompt", "describe", "--image"];
    fails(command(folder).args(ask).arg("none.png"), 1, "cannot read image none.png");
    fs::write(folder.join("cut.png"), b"\x89PNG\r\n").unwrap();
    fails(command(folder).args(ask).arg("cut.png"), 1, "cut.png cannot be preprocessed");
    let sampler = ["red.png", "--sampler", "best"];
    fails(command(folder).args(ask).args(sampler), 2, "unknown sampler \"best\", known are: greedy");
    let wider = ["red.png", "--set", "model.llm.mlp_dim=65"];
    fails(command(folder).args(ask).args(wider), 1, "llm/layers/mlp/gating_einsum");
    let mut no_config = Command::cargo_bin("paligemma").unwrap();
    no_config.current_dir(folder).args(["predict", "--checkpoint", "no/where"]).args(ask).arg("red.png");
    fails(&mut no_config, 2, "--config names the config of its model");
}
