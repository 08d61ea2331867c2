//! `paligemma convert` and `inspect`: every format to every other, mistakes, damage, full disks, interruption.

#[path = "support/small_disk.rs"]
mod small_disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use assert_cmd::Command;
use paligemma::array::{DType, HostArray};
use paligemma::checkpoint::{npz, open, open_as_is};
use paligemma::convert::{Error, Options, Plan};
use serde_json::Value;
use tempfile::TempDir;

fn recording(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model").join(model).join("params.npz")
}

fn paligemma(folder: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paligemma"));
    command.current_dir(folder).env_remove("PALIGEMMA_LOG").args(args).output().unwrap()
}

/// Runs a command that must work, and gives what it says on standard error.
fn works(folder: &Path, args: &[&str]) -> String {
    let output = paligemma(folder, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {stderr}");
    stderr
}

/// Runs a command that must fail with a code, say so in words and leave nothing behind.
fn fails(folder: &Path, args: &[&str], code: i32, words: &[&str]) {
    let before = names(folder);
    let output = paligemma(folder, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for words in words {
        assert!(stderr.contains(words), "{args:?} does not say {words:?}: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(names(folder), before, "{args:?} left something behind");
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (open(a).unwrap(), open(b).unwrap());
    assert_eq!(a.names().len(), b.names().len());
    for name in a.names() {
        assert!(a.read(name).unwrap() == b.read(name).unwrap(), "{name} differs");
    }
}

/// A copy of a recording's parameters in a folder of its own.
fn folder_with(model: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(recording(model), folder.path().join("params.npz")).unwrap();
    folder
}

#[test]
fn every_format_leads_to_every_other_and_back() {
    for model in ["gemma1", "gemma2", "gemma2_27b", "mha"] {
        let folder = folder_with(model);
        let formats = ["a.npz", "b.safetensors", "hugging-face", "checkpoint.bv-000000001"];
        for first in formats {
            works(folder.path(), &["convert", "params.npz", first]);
            assert_same(&recording(model), &folder.path().join(first));
        }
        // Between the formats, one model is as good as another.
        let pairs = if model == "gemma2" { &formats[..] } else { &[] };
        for from in pairs {
            for to in pairs {
                // The name of an array directory is its own, so every pair has a folder.
                let pair = folder.path().join(format!("{from}-{to}"));
                fs::create_dir(&pair).unwrap();
                works(&pair, &["convert", &format!("../{from}"), to]);
                assert_same(&recording(model), &pair.join(to));
            }
        }
    }
}

#[test]
fn a_conversion_says_what_it_found() {
    let folder = folder_with("gemma2");
    let said = works(folder.path(), &["convert", "params.npz", "out"]);
    assert!(said.contains("out is complete"), "{said}");
    assert!(said.contains("PaliGemma 2, 42 px"), "{said}");
    assert!(said.contains("provides all of 34 parameters"), "{said}");
    assert_eq!(
        names(&folder.path().join("out")),
        ["config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"]
    );

    let said =
        works(folder.path(), &["convert", "params.npz", "some.npz", "--only", "img/.*|llm/final_norm/scale"]);
    assert!(said.contains("tensors     24"), "{said}");
    let said = works(folder.path(), &["convert", "some.npz", "again.npz"]);
    assert!(!said.contains("model "), "a part of a model is none: {said}");
}

#[test]
fn floats_are_rounded_and_shards_are_small() {
    let folder = folder_with("gemma1");
    works(folder.path(), &["convert", "params.npz", "half.npz", "--dtype", "bfloat16"]);
    let (full, half) = (open(recording("gemma1")).unwrap(), open(folder.path().join("half.npz")).unwrap());
    for name in full.names() {
        assert!(half.read(name).unwrap() == full.read(name).unwrap().cast(DType::BF16), "{name}");
    }
    let out = ["convert", "half.npz", "sharded", "--shard-gb", "0.00005"];
    works(folder.path(), &out);
    let files = names(&folder.path().join("sharded"));
    assert!(files.iter().filter(|name| name.ends_with(".safetensors")).count() > 2, "{files:?}");
    assert!(files.contains(&"model.safetensors.index.json".to_owned()));
    works(folder.path(), &["convert", "sharded", "back.npz"]);
    assert_same(&folder.path().join("half.npz"), &folder.path().join("back.npz"));
    assert!(folder.path().join("half.npz").metadata().unwrap().len() < 180_000);
}

#[test]
fn what_a_training_changed_joins_its_base() {
    let folder = folder_with("gemma2");
    works(
        folder.path(),
        &["convert", "params.npz", "attn.npz", "--only", "llm/layers/attn/.*", "--dtype", "f16"],
    );
    let words = ["a Hugging Face directory holds a whole model", "--base"];
    fails(folder.path(), &["convert", "attn.npz", "hf"], 2, &words);
    works(folder.path(), &["convert", "attn.npz", "hf", "--base", "params.npz", "--dtype", "float32"]);
    let joined = open(folder.path().join("hf")).unwrap();
    let (attn, base) = (open(folder.path().join("attn.npz")).unwrap(), open(recording("gemma2")).unwrap());
    for name in base.names() {
        let expected = if attn.find(name).is_some() { attn.read(name) } else { base.read(name) };
        assert!(joined.read(name).unwrap() == expected.unwrap().cast(DType::F32), "{name}");
    }
}

#[test]
fn mistakes_are_named_and_leave_nothing() {
    let folder = folder_with("gemma1");
    let folder_path = folder.path();
    fs::write(folder_path.join("there.npz"), "precious").unwrap();
    fs::create_dir(folder_path.join("empty")).unwrap();
    let convert = |source, target, more: &[&'static str], code, words: &[&str]| {
        fails(folder_path, &[&["convert", source, target], more].concat(), code, words);
    };
    convert("params.npz", "there.npz", &[], 2, &["there.npz exists already", "remove it"]);
    assert_eq!(fs::read(folder_path.join("there.npz")).unwrap(), b"precious");
    convert("params.npz", "x.bin", &[], 2, &["does not say what to convert to", "--to npz|hf|native|bv"]);
    convert("params.npz", "x", &["--to", "onnx"], 2, &["unknown format", "npz, hf, native, bv"]);
    convert("params.npz", "x.npz", &["--dtype", "int8"], 2, &["bfloat16, float16"]);
    convert("params.npz", "x.npz", &["--only", "llm/x"], 2, &["nothing is selected", "img/"]);
    convert("params.npz", "x.npz", &["--only", "llm/("], 2, &["llm/("]);
    convert("params.npz:txt", "x.npz", &[], 2, &["no part \"txt\"", "img, llm"]);
    convert("nowhere.npz", "x.npz", &[], 1, &["cannot open", "nowhere.npz"]);
    convert("there.npz", "x.npz", &[], 2, &["is not a checkpoint"]);
    convert("empty", "x.npz", &[], 2, &["is not a checkpoint", "the directory holds none"]);
    convert("params.npz", "missing/x.npz", &[], 1, &["cannot create", "missing"]);
}

#[test]
fn damage_in_the_source_leaves_no_target() {
    let folder = folder_with("gemma1");
    let whole = fs::read(folder.path().join("params.npz")).unwrap();
    fs::write(folder.path().join("truncated.npz"), &whole[..whole.len() - 1000]).unwrap();
    let mut flipped = whole.clone();
    // Within the data of some tensor, far from any header.
    let middle = whole.len() / 2;
    flipped[middle] ^= 1;
    fs::write(folder.path().join("flipped.npz"), flipped).unwrap();
    for target in ["x.npz", "x.safetensors", "x", "checkpoint.bv-000000007"] {
        fails(folder.path(), &["convert", "truncated.npz", target], 1, &["truncated.npz"]);
        fails(folder.path(), &["convert", "flipped.npz", target], 1, &["is damaged", "checksum"]);
    }
    fails(folder.path(), &["inspect", "flipped.npz"], 1, &["is damaged", "checksum"]);
    works(folder.path(), &["inspect", "flipped.npz", "--no-stats"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let Some(disk) = small_disk::SmallDisk::mount(400) else { return };
    disk.fill_up_to(200);
    let source = recording("gemma2");
    let source = source.to_str().unwrap();
    for target in ["x.npz", "x.safetensors", "x"] {
        fails(disk.path(), &["convert", source, target], 1, &["cannot write", "No space left on device"]);
    }
    disk.make_room();
    works(disk.path(), &["convert", source, "x.npz"]);
    assert_same(&recording("gemma2"), &disk.path().join("x.npz"));
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let folder = folder_with("gemma1");
    for target in ["x.npz", "x.safetensors", "x", "checkpoint.bv-000000001"] {
        let path = folder.path().join(target);
        let plan = Plan::new(&folder.path().join("params.npz"), &path, &Options::default()).unwrap();
        let interrupt = AtomicBool::new(false);
        let mut written = 0;
        // As Ctrl-C does in the middle.
        let ended = plan.run(&interrupt, |bytes| {
            written += bytes;
            interrupt.store(written > 100_000, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        assert_eq!(names(folder.path()), ["params.npz"]);
    }
}

#[test]
fn inspection_shows_tensors_and_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = npz::Writer::create(&folder.path().join("odd.npz")).unwrap();
    let values = [1.5f32, f32::NAN, -2.0, f32::INFINITY];
    writer.write("params/llm/w", &HostArray::new([2, 2], &values).unwrap()).unwrap();
    writer.write("opt/count", &HostArray::scalar(7i32)).unwrap();
    writer.finish().unwrap();
    let output = paligemma(folder.path(), &["-q", "inspect", "odd.npz"]);
    let text = String::from_utf8(output.stdout).unwrap();
    insta::assert_snapshot!(text);

    let output = paligemma(folder.path(), &["-q", "inspect", "odd.npz", "--json", "--as-is"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["num_parameters"], 5);
    assert_eq!(json["variant"], Value::Null);
    let names: Vec<&str> =
        json["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["params/llm/w", "opt/count"]);
    let tensor = &json["tensors"][0];
    assert_eq!(
        (&tensor["min"], &tensor["max"], &tensor["mean"]),
        (&(-2.0).into(), &1.5.into(), &(-0.25).into())
    );
    assert_eq!((&tensor["num_nan"], &tensor["num_infinite"]), (&1.into(), &1.into()));

    // Every name of a file of Hugging Face's, as it stands there.
    let exported = folder_with("gemma1");
    works(exported.path(), &["convert", "params.npz", "hf"]);
    let raw = open_as_is(exported.path().join("hf")).unwrap();
    assert!(raw.names().contains(&"language_model.model.embed_tokens.weight"));
    let output = paligemma(exported.path(), &["inspect", "hf", "--json", "--only", "embed", "--no-stats"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["variant"].as_str().unwrap().starts_with("PaliGemma, 28 px"), "{json}");
    assert_eq!(json["tensors"].as_array().unwrap().len(), 4);
}
