//! The pp language and the ops on text and general arrays, against recordings of big_vision.

use std::path::PathBuf;

use paligemma::array::{DType, HostArray};
use paligemma::pp::{Env, Example, Literal, Pipeline, Strings, Value, ops, spec};
use pretty_assertions::assert_eq;
use serde_json::Value as Json;

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/text")
}

fn json(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(data().join(name)).unwrap()).unwrap()
}

/// Ops that big_vision registers (its core and the PaliGemma ones) and this program does not have yet.
const MISSING: [&str; 5] =
    ["clip_i1k_label_names", "i21k_label_names", "lookup", "rag_tensor", "refcoco_mask2str"];

const REFERENCE_OPS: &str = "central_crop choice choice_no_replacement clip_i1k_label_names clip_value_range \
    coco_captions concat convert_to_video copy decode decode_jpeg_and_inception_crop draw_bbox drop flatten flip_lr \
    getidx i21k_label_names inception_crop keep lookup lower majority masked_concat onehot pad_to_shape rag_tensor \
    random_crop random_jpeg refcoco_mask2str reshape resize resize_long resize_r resize_small \
    sci_qa_choices_shuffle setdefault squeeze_last_dim stack_images strfmt strjoin tok tokenize tolen value_range \
    vgg_value_range video_choice video_decode video_ensure_shape video_replicate_img";

#[test]
fn the_ops_are_the_references() {
    let known: Vec<&str> = ops().map(|op| op.signature.name.as_str()).collect();
    let expected: Vec<&str> =
        REFERENCE_OPS.split_whitespace().filter(|name| !MISSING.contains(name)).collect();
    assert_eq!(known, expected);
}

/// What Python parses, though no op could take it; see the documentation of `pp::spec`.
const REFUSED: [&str; 5] =
    ["f(1+2j)", "f(**{'a': 1})", "f(...)", "f(99999999999999999999)", "f('\\N{BULLET}')"];

#[test]
fn sections_parse_as_in_python() {
    let recording = json("pp_parse.json");
    let mut refused = Vec::new();
    for case in recording["specs"].as_array().unwrap() {
        let section = case["spec"].as_str().unwrap();
        let parsed = spec::parse_section(section);
        if case.get("error").is_some() {
            assert!(parsed.is_err(), "{section:?} gave {parsed:?}");
            continue;
        }
        let Ok(call) = parsed else {
            refused.push(section);
            continue;
        };
        assert_eq!(call.name, case["name"].as_str().unwrap(), "{section:?}");
        let args = case["args"].as_array().unwrap();
        assert_eq!(call.args.len(), args.len(), "{section:?}");
        for ((got, _), expected) in call.args.iter().zip(args) {
            assert!(same(got, expected), "{section:?}: {got} is not {expected}");
        }
        let kwargs = case["kwargs"].as_array().unwrap();
        assert_eq!(call.kwargs.len(), kwargs.len(), "{section:?}");
        for ((name, got, _), expected) in call.kwargs.iter().zip(kwargs) {
            assert_eq!(name, expected[0].as_str().unwrap());
            assert!(same(got, &expected[1]), "{section:?}: {got} is not {expected}");
        }
    }
    assert_eq!(refused, REFUSED);
}

/// Whether a parsed literal is the recorded one.
fn same(got: &Literal, expected: &Json) -> bool {
    let list = |items: &[Literal], kind: &str| {
        let expected = expected.get(kind).and_then(Json::as_array);
        expected.is_some_and(|e| e.len() == items.len() && items.iter().zip(e).all(|(a, b)| same(a, b)))
    };
    match got {
        Literal::None => expected.is_null(),
        Literal::Bool(value) => expected.as_bool() == Some(*value),
        Literal::Str(text) => expected.as_str() == Some(text),
        Literal::Int(value) => expected["int"].as_i64() == Some(*value),
        Literal::Float(value) => {
            let repr = expected["float"].as_str().unwrap_or("nan");
            repr.parse::<f64>().unwrap().to_bits() == value.to_bits()
        }
        Literal::Bytes(bytes) => expected["bytes"].as_str() == Some(&format!("b'{}'", bytes.escape_ascii())),
        Literal::List(items) => list(items, "list"),
        Literal::Tuple(items) => list(items, "tuple"),
        Literal::Set(items) => list(items, "set"),
        Literal::Dict(pairs) => expected["dict"].as_array().is_some_and(|e| {
            let mut both = pairs.iter().zip(e);
            e.len() == pairs.len() && both.all(|((k, v), e)| same(k, &e[0]) && same(v, &e[1]))
        }),
    }
}

#[test]
fn pipelines_parse_as_in_big_vision() {
    let env = Env::new(data());
    for case in json("pp_parse.json")["pipelines"].as_array().unwrap() {
        let pp = case["pp"].as_str().unwrap();
        match (Pipeline::parse(pp, &env), case["ops"].as_array()) {
            (Ok(pipeline), Some(expected)) => {
                let expected: Vec<&str> = expected.iter().map(|op| op.as_str().unwrap()).collect();
                assert_eq!(pipeline.op_names().collect::<Vec<_>>(), expected, "{pp:?}");
            }
            (Err(_), None) => {}
            (parsed, _) => panic!("{pp:?} gave {parsed:?}, not {case}"),
        }
    }
}

#[test]
fn ops_give_the_references_results() {
    let env = Env::new(data());
    let recording = json("pp_text.json");
    let cases = recording["cases"].as_array().unwrap();
    let mut skipped = Vec::new();
    let mut compared = 0;
    for case in cases {
        let pp = case["pp"].as_str().unwrap();
        let name = pp.split(['(', '|']).next().unwrap();
        if MISSING.contains(&name) {
            skipped.push(name);
            continue;
        }
        let result = Pipeline::parse(pp, &env).and_then(|pipeline| pipeline.run(example(&case["data"]), 7));
        match (result, case.get("out")) {
            (Ok(got), Some(expected)) => {
                let order: Vec<&str> =
                    case["key_order"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
                assert_eq!(got.keys().collect::<Vec<_>>(), order, "{pp:?}");
                for (key, expected) in expected.as_object().unwrap() {
                    assert_eq!(got.get(key), Some(&value(expected)), "{pp:?}: {key}");
                }
            }
            (Err(_), None) => {}
            (result, _) => panic!("{pp:?} gave {result:?}, not {case}"),
        }
        compared += 1;
    }
    assert_eq!(skipped, ["rag_tensor"]);
    assert_eq!(compared, 440);
}

#[test]
fn the_transfers_strings_give_the_references_results() {
    let env = Env::new(data());
    let recording = json("configs_e2e.json");
    let file = |name: &str| Value::Bytes(std::fs::read(data().join(name)).unwrap());
    let decode = Pipeline::parse("decode|copy('image', 'image_left')", &env).unwrap();
    let mut decoded = Example::new();
    decoded.insert("image", file("example.png"));
    let decoded = decode.run(decoded, 0).unwrap();
    let image = decoded.get("image").unwrap().as_array().unwrap();

    let mut compared = 0;
    for case in recording["cases"].as_array().unwrap() {
        let (config, pp) = (case["config"].as_str().unwrap(), case["pp"].as_str().unwrap());
        let mut input = example(&recording["example"]);
        if let Some(changed) = case.get("override") {
            example(changed).into_iter().for_each(|(key, value)| drop(input.insert(key, value)));
        }
        let is_video = pp.contains("video_decode");
        input.insert("image", file("example.png"));
        input.insert("image_left", image.clone());
        input.insert("image_right", flipped(image));
        let frames = (0..3).map(|i| file(&format!("example_frame{i}.jpg"))).collect();
        input.insert("episodic_images", Value::List(frames));
        let got = Pipeline::parse(pp, &env).and_then(|pipeline| pipeline.run(input, 0));
        let got = got.unwrap_or_else(|error| panic!("{config}: {error}"));
        let expected = case["out"].as_object().unwrap();
        assert_eq!(got.len(), expected.len(), "{config}: {pp}");
        for (key, expected) in expected {
            let entry = got.get(key).unwrap();
            let Some(mean) = expected.get("mean").and_then(Json::as_f64) else {
                assert_eq!(entry, &value(expected), "{config}: {key}");
                continue;
            };
            let array = entry.as_array().unwrap();
            let extents = expected["shape"].as_array().unwrap().iter();
            assert!(extents.map(|extent| extent.as_u64().unwrap() as usize).eq(array.dims().iter().copied()));
            let values = array.to_f64();
            let average = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - average).powi(2)).sum::<f64>() / values.len() as f64;
            // Frames of videos are JPEG files, which the reference decodes a little darker.
            let tolerance = if is_video { 1e-2 } else { 1e-3 };
            assert!((average - mean).abs() < tolerance, "{config}: {average} {mean}");
            assert!((variance.sqrt() - expected["std"].as_f64().unwrap()).abs() < tolerance, "{config}");
        }
        compared += 1;
    }
    assert_eq!(compared, 69);
}

fn flipped(image: &HostArray) -> Value {
    let row = image.dims()[1] * 3;
    let rows = image.bytes().chunks_exact(row);
    let bytes: Vec<u8> = rows.flat_map(|row| row.rchunks_exact(3)).flatten().copied().collect();
    Value::Array(HostArray::new(image.dims(), &bytes).unwrap())
}

fn example(recorded: &Json) -> Example {
    recorded.as_object().unwrap().iter().map(|(key, entry)| (key.as_str(), value(entry))).collect()
}

/// A recorded value.
fn value(recorded: &Json) -> Value {
    if recorded.get("dict").is_some() {
        return Value::Dict(example(&recorded["dict"]));
    }
    if let Some(items) = recorded.get("list").or(recorded.get("tuple")) {
        return Value::List(items.as_array().unwrap().iter().map(value).collect());
    }
    let extents = recorded["shape"].as_array().unwrap().iter();
    let dims: Vec<usize> = extents.map(|extent| extent.as_u64().unwrap() as usize).collect();
    let mut leaves = Vec::new();
    collect(&recorded["value"], &mut leaves);
    let dtype = recorded["dtype"].as_str().unwrap();
    if dtype == "string" {
        let texts = leaves.iter().map(|leaf| leaf.as_str().unwrap().to_owned()).collect();
        return Value::Text(Strings::new(dims, texts).unwrap());
    }
    let dtype: DType = dtype.parse().unwrap();
    if dtype == DType::S64 {
        let numbers: Vec<i64> = leaves.iter().map(|leaf| leaf.as_i64().unwrap()).collect();
        return Value::Array(HostArray::new(dims, &numbers).unwrap());
    }
    let number = |leaf: &&Json| match leaf {
        Json::Bool(value) => f64::from(u8::from(*value)),
        Json::String(text) => text.parse().unwrap(),
        leaf => leaf.as_f64().unwrap(),
    };
    let numbers: Vec<f64> = leaves.iter().map(number).collect();
    Value::Array(HostArray::new(dims, &numbers).unwrap().cast(dtype))
}

fn collect<'j>(value: &'j Json, leaves: &mut Vec<&'j Json>) {
    match value {
        Json::Array(items) => items.iter().for_each(|item| collect(item, leaves)),
        leaf => leaves.push(leaf),
    }
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
