use std::fs;
use std::path::Path;

use pretty_assertions::assert_eq;

use super::*;
use crate::config::Config;
use crate::tokenizer::build;

/// A config over the YOLO set of the tests, with a tokenizer made for it.
fn preview_of(changes: &[(&str, &str)], options: &Options) -> Result<Preview, String> {
    let dir = tempfile::tempdir().unwrap();
    let texts = ["detect circle ; square ; triangle ; license_plate"];
    let model = build::build(texts, &build::Options { vocab_size: 1400, num_loc: 1024, num_seg: 0 }).unwrap();
    fs::write(dir.path().join("tokenizer.model"), model).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/data/yolo");
    let mut text = r#"
input:
  data: {name: yolo, path: DATA}
  pp: >-
    decode|resize(16)|value_range(-1, 1)|tok(key="prefix", bos="yes", model='sp("tokenizer.model")')|tok(key="suffix", eos="yes", model='sp("tokenizer.model")')|masked_concat(["prefix", "suffix"], mask_ar=[0, 1], mask_loss=[0, 1])|tolen(64, pad_value=0, key="text")|tolen(64, pad_value=1, key="mask_ar")|tolen(64, pad_value=0, key="mask_loss")|keep("image", "text", "mask_ar", "mask_loss")
  batch_size: 4
total_steps: 1
model: {image_size: 16}
"#
    .replace("DATA", &data.display().to_string());
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let path = dir.path().join("c.yaml");
    let loaded = Config::parse(&text, &path, &[], &[]).map_err(|error| error.to_string())?;
    preview(&loaded, options).map_err(|error| error.to_string())
}

fn options() -> Options {
    Options { num_examples: 2, num_rows: 100, evals: Vec::new() }
}

#[test]
fn examples_are_what_the_model_gets() {
    let preview = preview_of(&[], &options()).unwrap();
    let part = &preview.parts[0];
    assert_eq!((part.name.as_str(), part.examples.len(), part.num_failed), ("input", 2, 0));
    assert_eq!((part.lengths.len(), part.lengths.room), (20, Some(64)));
    let example = &part.examples[0];
    assert!(example.name.ends_with("yolo/images/train/000000.jpg"), "{}", example.name);
    assert_eq!(example.prompt, "detect circle ; square ; triangle ; license_plate");
    let answer =
        "<loc0847><loc0655><loc1023><loc1023> square ; <loc0000><loc0000><loc1023><loc1023> license_plate";
    assert_eq!(example.answer, answer);
    assert_eq!(example.num_boxes, 2);
    assert!(example.image.starts_with("f32[16,16,3] from "), "{}", example.image);
    let picture = example.picture.as_ref().unwrap();
    assert_eq!((picture.width(), picture.height()), (16, 16));
    assert_eq!(example.problems, [""; 0]);
    assert_eq!(example.tokens.len(), 64);
    assert_eq!(example.tokens[0].text, "<bos>");
    assert!(example.tokens.iter().any(|token| token.text == "<loc0847>" && token.role == Role::Trained));
    assert_eq!(example.tokens[63].role, Role::Padding);
}

#[test]
fn what_is_wrong_is_said() {
    let changes = [
        ("tolen(64", "tolen(24"),
        ("resize(16)", "resize(8)"),
        (
            ", eos=\"yes\", model='sp(\"tokenizer.model\")')|masked",
            ", model='sp(\"tokenizer.model\")')|masked",
        ),
    ];
    let preview = preview_of(&changes, &options()).unwrap();
    let part = &preview.parts[0];
    assert_eq!(part.lengths.num_cut(), part.lengths.len(), "a prompt alone is longer");
    let problems = part.examples[0].problems.join("\n");
    for expected in [
        "image is f32[8,8,3], but model.image_size is 16",
        "tokens do not fit into 24 and are cut off",
        "the answer does not end with the end token",
    ] {
        assert!(problems.contains(expected), "{problems}");
    }

    let preview = preview_of(&[("key=\"prefix\", bos", "key=\"prefx\", bos")], &options()).unwrap();
    let part = &preview.parts[0];
    assert_eq!((part.num_failed, part.examples.len()), (20, 2));
    assert!(part.examples[0].problems[0].contains("example has no key \"prefx\""));

    let evals = Options { evals: vec!["val".into()], ..options() };
    assert!(
        preview_of(&[], &evals).unwrap_err().contains("there is no evaluation \"val\": the config has none")
    );
    let error = preview_of(&[("path: ", "split: test, path: ")], &options()).unwrap_err();
    assert!(error.contains("there is no split test, only train, val"), "{error}");
}

#[test]
fn pixels_of_any_range_become_pictures() {
    let array = |values: &[f32]| HostArray::new([1, 2, 3], values).unwrap();
    let levels = |values: &[f32]| picture(&array(values)).unwrap().into_raw();
    assert_eq!(levels(&[-1.0, 0.0, 1.0, 0.5, 0.5, 0.5])[..3], [0, 128, 255]);
    assert_eq!(levels(&[0.0, 128.0, 255.0, 3.0, 3.0, 3.0])[..3], [0, 128, 255]);
    assert_eq!(levels(&[-2.0, 0.0, 2.0, 0.0, 0.0, 0.0])[..3], [0, 128, 255]);
    let video = HostArray::new([2, 1, 1, 3], &[0u8, 0, 0, 9, 9, 9]).unwrap();
    let strip = picture(&video).unwrap();
    assert_eq!((strip.width(), strip.height(), strip.into_raw()), (2, 1, vec![0, 0, 0, 9, 9, 9]));
    assert!(picture(&HostArray::new([2], &[0u8, 1]).unwrap()).is_none());
}
