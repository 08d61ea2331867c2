//! The pp language and the ops on text and general arrays. `tests/verify.rs` replays what big_vision made of them.

use std::path::PathBuf;

use paligemma::array::HostArray;
use paligemma::checkpoint;
use paligemma::pp::{Env, Example, Pipeline, Value, ops, spec};
use pretty_assertions::assert_eq;
use serde_json::Value as Json;

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/text")
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(data().join(name)).unwrap()).unwrap()
}

/// The names of big_vision's ops; `tests/verify.rs` compares the rest of their signatures.
#[test]
fn the_ops_are_the_references() {
    let recorded = json("pp_ops.json");
    let names = recorded.as_object().unwrap().keys();
    let expected: Vec<&str> = names.map(|name| name.strip_prefix("preprocess_ops.").unwrap()).collect();
    assert_eq!(ops().map(|op| op.signature.name.as_str()).collect::<Vec<_>>(), expected);
}

/// What Python parses, though no op could take it; see the documentation of `pp::spec`.
#[test]
fn sections_that_no_op_could_take_are_refused() {
    let sections = ["f(1+2j)", "f(**{'a': 1})", "f(...)", "f(99999999999999999999)", r"f('\N{BULLET}')"];
    for section in sections {
        assert!(spec::parse_section(section).is_err(), "{section}");
    }
}

fn run(pp: &str, env: &Env, example: Example) -> Example {
    Pipeline::parse(pp, env).and_then(|pipeline| pipeline.run(example, 0)).unwrap_or_else(|e| {
        let cause = std::error::Error::source(&e).map(ToString::to_string);
        panic!("{e}: {cause:?}")
    })
}

fn failure(pp: &str, env: &Env, example: Example) -> String {
    let error = Pipeline::parse(pp, env).and_then(|pipeline| pipeline.run(example, 0)).unwrap_err();
    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn texts(values: &[&str]) -> Value {
    Value::from(values.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
}

/// One object of RefCOCO, with a mask of one channel as the recording has it.
fn object(mask: &HostArray, bbox: [f32; 4], sentence: &str) -> Example {
    let rgb: Vec<u8> = mask.bytes().iter().flat_map(|&level| [level, 0, 255]).collect();
    let mut example = Example::new();
    example.insert("objects/mask", HostArray::new([mask.dims(), &[3]].concat(), &rgb).unwrap());
    example.insert("objects/bbox", bbox.as_slice());
    example.insert("objects/refs/sentence", sentence);
    example
}

const MASKS: &str = "refcoco_mask2str(model='vqvae_random.npz')";

#[test]
fn masks_become_the_references_tokens() {
    let folder = data().join("../masks");
    let env = Env::new(&folder);
    let recorded: Json =
        serde_json::from_slice(&std::fs::read(folder.join("segmentation.json")).unwrap()).unwrap();
    let masks = checkpoint::open(folder.join("segmentation.safetensors")).unwrap();
    let cases = recorded["mask2str"].as_array().unwrap();
    for case in cases {
        let mask = masks.read(case["mask"].as_str().unwrap()).unwrap();
        let bbox: [f32; 4] = std::array::from_fn(|edge| case["bbox"][edge].as_f64().unwrap() as f32);
        let prefix = case["prefix"].as_str().unwrap();
        let got = run(MASKS, &env, object(&mask, bbox, prefix));
        assert_eq!(got.get("prefix").unwrap().as_str(), Some(prefix));
        assert_eq!(got.get("suffix").unwrap().as_str(), case["suffix"].as_str(), "{case}");
    }
    assert_eq!(cases.len(), 10);
}

#[test]
fn masks_that_cannot_be_coded_are_explained() {
    let env = Env::new(data().join("../masks"));
    let mask = HostArray::new([4, 8], &[255u8; 32]).unwrap();
    let message = failure(MASKS, &env, object(&mask, [0.5, 0.0, 0.55, 1.0], "a"));
    assert_eq!(message, "box 0.5 0 0.55 1 has no pixel of mask u8[4,8,3]");
    let message = failure(MASKS, &env, object(&mask, [0.5, f32::NAN, 1.0, 1.0], "a"));
    assert_eq!(message, "expected a single box of four numbers (is `choice` missing?), got f32[4]");
    let mut several = object(&mask, [0.0, 0.0, 1.0, 1.0], "a");
    several.insert("objects/refs/sentence", texts(&["a", "b"]));
    let message = failure(MASKS, &env, several);
    assert_eq!(message, "expected a single sentence (is `choice` missing?), got strings of shape [2]");
    let message = failure("refcoco_mask2str('segmentation.json')", &env, Example::new());
    assert!(message.starts_with("refcoco_mask2str: `model` is unusable: "), "{message}");
}

#[test]
fn strings_are_looked_up_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::new(folder.path());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let words = || Example::from_iter([("x", texts(&["dog", "cat", "cow"]))]);
    write("lines.txt", "cat\ndog\r\n");
    let got = run("lookup('lines.txt', key='x')", &env, words());
    assert_eq!(got.get("x"), Some(&Value::from([1i64, 0, -1].as_slice())));
    write("pairs.txt", "cat\t7\ndog\t-3\ncat\t7\n");
    let got = run("lookup('pairs.txt', sep='\\t', inkey='x', outkey='y')", &env, words());
    assert_eq!(got.get("y"), Some(&Value::from([-3i32, 7, -1].as_slice())));
    // An npz may hold anything beside the names.
    let header = |descr: &str, shape: &str| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n");
        [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
    };
    let mut zip = zip::ZipWriter::new(std::fs::File::create(folder.path().join("names.npz")).unwrap());
    let wide: Vec<u8> = "cow dog".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    let names = [header("<U3", "(2,)"), [&wide[..12], &wide[16..]].concat()].concat();
    for (name, bytes) in [("fnames.npy", names), ("scores.npy", header("<c8", "(0,)"))] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, &bytes).unwrap();
    }
    zip.finish().unwrap();
    let got = run("lookup('names.npz', key='x')", &env, words());
    assert_eq!(got.get("x"), Some(&Value::from([1i64, -1, 0].as_slice())));

    let message = |pp: &str| failure(pp, &env, words()).replace(&format!("{}/", folder.path().display()), "");
    let first_line = |pp: &str| message(pp).lines().next().unwrap_or_default().to_owned();
    write("twice.txt", "cat\ncat\n");
    assert_eq!(first_line("lookup('twice.txt', key='x')"), "lookup: `mapping` gives \"cat\" both 0 and 1");
    assert_eq!(
        first_line("lookup('lines.txt', sep=',', key='x')"),
        "lookup: `mapping` needs a string, \",\" and an integer in each line, not in lines.txt:1"
    );
    let got = first_line("lookup('names.npz', 'fname', key='x')");
    assert!(got.contains("fnames"), "{got}");
    assert!(first_line("lookup('names.npz', 'scores', key='x')").ends_with("text is U or S, little-endian"));
}

#[test]
fn labels_get_the_names_of_their_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("i21k_label_names.txt"), "tench\ngoldfish\n").unwrap();
    let env = Env::new(folder.path());
    let labels = || Example::from_iter([("label", Value::from([1i64, 0].as_slice()))]);
    let got = run("i21k_label_names", &env, labels());
    assert_eq!(got.get("labels"), Some(&texts(&["goldfish", "tench"])));
    let message = failure("copy('labels', 'label')|i21k_label_names", &env, got);
    assert_eq!(message, "expected numbers of classes, got strings of shape [2]");
    let message = failure("i21k_label_names", &env, Example::from_iter([("label", 2)]));
    assert!(message.starts_with("class 2 is not one of 2 in "), "{message}");
}

#[test]
fn a_ragged_row_has_one_more_dimension() {
    let env = Env::new(".");
    let got = run("rag_tensor(key='x')", &env, Example::from_iter([("x", texts(&["a", "b"]))]));
    assert_eq!(got.get("x").unwrap().dims(), [1, 2]);
    let message = failure("rag_tensor(key='x')", &env, Example::from_iter([("x", 2)]));
    assert_eq!(message, "expected at least one dimension, got s32[]");
}

#[test]
fn random_ops_repeat_with_their_seed_and_reach_everything() {
    let env = Env::new(".");
    let rows =
        || Example::from_iter([("x", Value::from(vec!["a".to_owned(), "b".into(), "c".into(), "d".into()]))]);
    let pipeline = Pipeline::parse("choice(key='x')", &env).unwrap();
    let drawn: Vec<_> = (0..64).map(|seed| pipeline.run(rows(), seed).unwrap()).collect();
    for (seed, example) in (0..).zip(&drawn) {
        assert_eq!(pipeline.run(rows(), seed).unwrap(), *example);
    }
    for letter in ["a", "b", "c", "d"] {
        assert!(drawn.iter().any(|example| example.get("x").unwrap().as_str() == Some(letter)));
    }
    // An op draws the same whatever stands before it does with its numbers.
    let longer = Pipeline::parse("choice(inkey='x', outkey='y')|choice(n=2, key='x')", &env).unwrap();
    let other = Pipeline::parse("copy('x', 'y')|choice(n=2, key='x')", &env).unwrap();
    assert_eq!(longer.run(rows(), 3).unwrap().get("x"), other.run(rows(), 3).unwrap().get("x"));
}

#[test]
fn without_replacement_every_row_comes_once_a_round() {
    let pipeline = Pipeline::parse("choice_no_replacement(key='x')", &Env::new(".")).unwrap();
    let mut rounds = Vec::new();
    for round in 0..3 {
        let mut seen: Vec<String> = (0..4)
            .map(|i| {
                let mut example = Example::new();
                example.insert("x", vec!["a".to_owned(), "b".into(), "c".into(), "d".into()]);
                example.insert("_id", 5);
                example.insert("_epoch", round * 4 + i);
                let example = pipeline.run(example, 99).unwrap();
                example.get("x").unwrap().as_str().unwrap().to_owned()
            })
            .collect();
        rounds.push(seen.concat());
        seen.sort();
        assert_eq!(seen, ["a", "b", "c", "d"]);
    }
    assert!(rounds[0] != rounds[1] || rounds[1] != rounds[2]);
}

#[test]
fn pipelines_are_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Pipeline::parse("keep('a')", &Env::new(".")).unwrap());
    shared(&Env::new("."));
}

proptest::proptest! {
    #[test]
    fn no_string_makes_the_parser_panic(pp in "\\PC{0,60}|[a-z(){}\\[\\]'\"=,.|0-9_+\\- \\\\\n#]{0,60}") {
        let _ = spec::parse(&pp);
    }
}
