//! `paligemma predict` with a tiny recorded model: its answers are noise, but always the same noise.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use image::{Rgb, RgbImage};
use paligemma::array::HostArray;
use paligemma::checkpoint::{Store, npz};
use paligemma::config::Config;
use paligemma::decode::{Method, TokenMask};
use paligemma::predict::{LoadedModel, Options, Prediction, Predictor, Question, config_for};
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
    let (method, mask_logits) = (Method::GREEDY, TokenMask::default());
    let options = Options { max_decode_len: 9, method, mask_logits, seed: 0, batch_size };
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

/// Standard output of a run that must succeed.
#[track_caller]
fn answer(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn answers_come_in_parts_are_drawn_searched_for_and_of_allowed_tokens() {
    let folder = folder();
    let folder = folder.path();
    let ask = ["--prompt", "describe", "--image", "red.png", "blue.png"];
    let run = |args: &[&str]| answer(command(folder).args(ask).args(args));
    let drawn = |seed: &str| run(&["--sampler", "temperature(1.5)", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    assert_eq!(run(&["--stream"]), run(&["--batch-size", "1"]));

    let tokens = |args: &[&str]| -> Vec<Vec<i64>> {
        let lines = run(&[args, &["--json"]].concat());
        let line = |line: &str| serde_json::from_str::<Json>(line).unwrap()["tokens"].clone();
        let ids = |tokens: Json| tokens.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        lines.lines().map(line).map(ids).collect()
    };
    let greedy = tokens(&[]);
    let banned: Vec<String> = greedy.iter().map(|tokens| format!("#{}", tokens[0])).collect();
    let mut ban = vec!["--ban"];
    ban.extend(banned.iter().map(String::as_str));
    for tokens in tokens(&ban) {
        assert!(!tokens.contains(&greedy[0][0]) && !tokens.contains(&greedy[1][0]), "{tokens:?}");
    }
    for tokens in tokens(&["--allow", "#7", "#9", "--beam-size", "2"]) {
        assert!(tokens.iter().all(|token| [7, 9].contains(token)), "{tokens:?}");
    }
    let best = ["--set", "predict.best_of_n=4", "--set", "predict.sampler=top_k(5)"];
    assert_eq!(tokens(&best), tokens(&["--sampler", "top_k(5)", "--num-samples", "4"]));
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
    fails(command(folder).args(ask).args(sampler), 2, "unknown sampler \"best\", known are: greedy, temp");
    let greedy_best = ["red.png", "--num-samples", "3"];
    fails(command(folder).args(ask).args(greedy_best), 2, "best of 3 continuations are all the same");
    let token = ["red.png", "--ban", "#300"];
    fails(command(folder).args(ask).args(token), 2, "token \"#300\" is no number from 0 to 299");
    let both = ["red.png", "--set", "predict.beam_size=2", "--set", "predict.sampler=top_k(3)"];
    fails(command(folder).args(ask).args(both), 2, "beam search does not draw");
    let streamed = ["red.png", "--beam-size", "2", "--stream"];
    fails(command(folder).args(ask).args(streamed), 2, "cannot be streamed");
    let wider = ["red.png", "--set", "model.llm.mlp_dim=65"];
    fails(command(folder).args(ask).args(wider), 2, "llm/layers/mlp/gating_einsum");
    let mut no_config = Command::cargo_bin("paligemma").unwrap();
    no_config.current_dir(folder).args(["predict", "--checkpoint", "no/where"]).args(ask).arg("red.png");
    fails(&mut no_config, 1, "cannot open no/where");
    let params = checkpoint();
    let mut no_config = Command::cargo_bin("paligemma").unwrap();
    no_config.current_dir(folder.join("..")).args(["predict", "--checkpoint", params.to_str().unwrap()]);
    fails(no_config.args(ask).arg(folder.join("red.png")), 2, "--config names the config of its model");
}

#[test]
fn a_checkpoint_that_is_damaged_or_of_another_model_gives_an_error_and_no_answer() {
    let folder = folder();
    let original = fs::read(checkpoint()).unwrap();
    let damaged = folder.path().join("damaged.npz");
    // What is done to the archive, the code and the message.
    let flip = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let renamed = |from: &str, to: &str| {
        let (mut bytes, from) = (original.clone(), from.as_bytes());
        let places: Vec<usize> =
            (0..bytes.len() - from.len()).filter(|&i| bytes[i..].starts_with(from)).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|i| bytes[i..i + from.len()].copy_from_slice(to.as_bytes()));
        bytes
    };
    let cases = [
        (original[..original.len() - 7].to_vec(), 1, "is not a complete zip archive"),
        (flip(original.clone()), 1, "is damaged: its checksum is"),
        (renamed("'fortran_order'", "'fortran-order'"), 1, "is malformed"),
        (renamed("'<f4'", "'>f4'"), 1, "is big-endian"),
        (renamed("LayerNorm_1/bias", "LayerNorm_0/bias"), 1, "holds two entries of the same name"),
        (renamed("final_norm", "Final_norm"), 2, "1 are missing, 1 are unexpected"),
        (renamed("'<f4'", "'<i4'"), 2, "have another shape"),
        (
            renamed("(300, 40)", "(40, 300)"),
            2,
            "input_embedding: the model has f32[300,40], the checkpoint f32[40,300]",
        ),
        (b"\x80\x04\x95 a pickle".to_vec(), 2, "it is a Python pickle"),
        (Vec::new(), 2, "it is empty"),
    ];
    for (bytes, code, expected) in cases {
        fs::write(&damaged, bytes).unwrap();
        refused(folder.path(), &damaged, code, expected);
    }
    refused(folder.path(), &folder.path().join("absent.npz"), 1, "cannot open");
    refused(folder.path(), folder.path(), 2, "the directory holds none");
}

#[test]
fn a_training_checkpoint_that_is_damaged_gives_an_error_and_no_answer() {
    let folder = folder();
    let reader = paligemma::checkpoint::open(checkpoint()).unwrap();
    let params =
        reader.names().into_iter().map(|name| (format!("params/{name}"), reader.read(name).unwrap()));
    let params: Vec<_> = params.collect();
    let edit = |path: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    type Damage<'a> = &'a dyn Fn(&Path, &Path);
    let cases: [(Damage, &str); 9] = [
        (&|_, state| fs::remove_file(state).unwrap(), "cannot open"),
        (
            &|_, state| fs::write(state, &fs::read(state).unwrap()[1..]).unwrap(),
            "is truncated or overwritten",
        ),
        (
            &|manifest, _| edit(manifest, "\"blake3\": \"", "\"blake3\": \"x"),
            "is damaged: its blake3 digest is",
        ),
        (&|manifest, _| edit(manifest, "\"f32\"", "\"s32\""), "disagree about tensor"),
        (&|manifest, _| edit(manifest, "\"version\": 1", "\"version\": 9"), "this program reads"),
        (
            &|manifest, _| edit(manifest, "\"step\": 1", "\"step\": -1"),
            "is not a manifest of a training checkpoint",
        ),
        (&|manifest, _| fs::write(manifest, "").unwrap(), "is not a manifest of a training checkpoint"),
        (&|manifest, _| fs::remove_file(manifest).unwrap(), "has no manifest.json"),
        (&|manifest, _| fs::remove_dir_all(manifest.parent().unwrap()).unwrap(), "has no manifest.json"),
    ];
    for (damage, expected) in cases {
        let run = tempfile::tempdir_in(&folder).unwrap();
        let store = Store::open(run.path()).unwrap();
        let path = store.save(1, params.clone(), Json::Null, false).unwrap();
        damage(&path.join("manifest.json"), &path.join("state-00001-of-00001.safetensors"));
        refused(folder.path(), run.path(), 1, expected);
    }
}

/// `predict` with a checkpoint must end with this code and message, and answer nothing.
fn refused(folder: &Path, checkpoint: &Path, code: i32, expected: &str) {
    let mut command = Command::cargo_bin("paligemma").unwrap();
    command.current_dir(folder).args([
        "predict",
        "--config",
        "config.yaml",
        "--image",
        "red.png",
        "--prompt",
        "describe",
    ]);
    let output = command.arg("--checkpoint").arg(checkpoint).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(expected) && !stderr.contains("panicked"), "{expected:?} is not in {stderr}");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), b"".as_slice()), "{stderr}");
}

#[test]
fn a_checkpoint_without_a_config_is_known_by_its_shapes_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = config_for(&checkpoint(), None).unwrap_err().to_string();
    assert!(error.contains("there is no config.yaml beside"), "{error}");
    assert!(error.contains("nobody published a PaliGemma, 28 px (llm: width 40"), "{error}");
    assert!(error.contains("--config names the config of its model"), "{error}");
    let mut writer = npz::Writer::create(&folder.path().join("part.npz")).unwrap();
    writer.write("llm/final_norm/scale", &HostArray::scalar(1f32)).unwrap();
    writer.finish().unwrap();
    let error = config_for(&folder.path().join("part.npz"), None).unwrap_err().to_string();
    assert!(error.contains("its shapes are not those of a PaliGemma"), "{error}");
}
