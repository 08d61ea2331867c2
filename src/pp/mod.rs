//! Preprocessing: big_vision's pp strings.
//!
//! A [`Pipeline`] is parsed once from a string such as
//! `decode|resize(224, antialias=True)|value_range(-1, 1)|strfmt("caption en", outkey="prefix")|…` and then
//! turns any number of [`Example`]s into model inputs, from any number of threads. Ops have big_vision's
//! names, arguments, defaults and results; [`ops`] lists them. All randomness comes from the seed that is
//! given with each example, so the same seed gives the same result on any machine.
//!
//! This module knows nothing of where examples come from, of batches or of models.
//!
//! ```
//! use paligemma::pp::{Env, Example, Pipeline};
//!
//! let pipeline = Pipeline::parse(r#"strfmt("detect {what}", outkey="prefix")|drop("what")"#, &Env::new("."))?;
//! let example = pipeline.run(Example::from_iter([("what", "cat")]), 0)?;
//! assert_eq!(example.get("prefix").and_then(|value| value.as_str()), Some("detect cat"));
//! # Ok::<(), paligemma::pp::Error>(())
//! ```

mod args;
mod env;
mod format;
mod image;
mod jpeg;
mod literal;
mod nearest;
mod ops_files;
mod ops_general;
mod ops_image;
mod ops_random;
mod ops_text;
mod ops_tokens;
mod ops_video;
mod pipeline;
mod registry;
pub mod resize;
pub mod spec;
mod value;
mod wide;

pub use args::{Param, Signature};
pub use env::Env;
pub use image::{DecodeOptions, decode};
pub use literal::Literal;
pub use pipeline::Pipeline;
pub use registry::{OpInfo, ops};
pub use value::{Example, Strings, Value};

use crate::{array, tokenizer};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pp string is wrong at byte `at`.
    #[error("{message}\n{}", excerpt(pp, *at))]
    Parse { pp: String, at: usize, message: String },
    /// An op cannot work on this example. `op` is its section of the pp string, counted from 0.
    #[error("pp op {index} `{op}` failed")]
    Run { op: String, index: usize, source: Problem },
}

/// Why an op cannot work on an example.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("example has no key \"{key}\"{}; its keys are: {}",
        nearest::nearest(key, known.iter().map(String::as_str)), known.join(", "))]
    MissingKey { key: String, known: Vec<String> },
    #[error("expected {expected}, got {got}")]
    Unexpected { expected: &'static str, got: String },
    #[error("cannot decode image: {0}")]
    Image(String),
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Array(#[from] array::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
}

impl Problem {
    fn expected(expected: &'static str, got: &Value) -> Self {
        Problem::Unexpected { expected, got: got.describe() }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Problem::Invalid(message.into())
    }
}

/// The part of `pp` around byte `at`, with a caret under it.
fn excerpt(pp: &str, at: usize) -> String {
    const BEFORE: usize = 50;
    const AFTER: usize = 40;
    let at = (0..=at.min(pp.len())).rev().find(|&i| pp.is_char_boundary(i)).unwrap_or(0);
    let line_begin = pp[..at].rfind('\n').map_or(0, |i| i + 1);
    let line_end = pp[at..].find('\n').map_or(pp.len(), |i| at + i);
    let before: Vec<char> = pp[line_begin..at].chars().collect();
    let after: Vec<char> = pp[at..line_end].chars().collect();
    let cut = before.len().saturating_sub(BEFORE);
    let (left, right) = (if cut > 0 { "…" } else { "" }, if after.len() > AFTER { "…" } else { "" });
    // A tab would move the text away from the caret.
    let plain = |c: &char| if c.is_control() { ' ' } else { *c };
    let shown: String = before[cut..].iter().chain(after.iter().take(AFTER)).map(plain).collect();
    let caret = " ".repeat(left.chars().count() + before.len() - cut);
    format!("  {left}{shown}{right}\n  {caret}^")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_at_the_spot() {
        let env = Env::new(".");
        let show = |pp: &str| Pipeline::parse(pp, &env).unwrap_err().to_string();
        insta::assert_snapshot!(show("decode|resise(8)"), @r##"
        unknown pp op `resise`, did you mean `resize` or `reshape` or `resize_r`?
          decode|resise(8)
                 ^
        "##);
        insta::assert_snapshot!(show("decode|resize(8, metod='area')"), @r##"
        resize: has no argument `metod`, did you mean `method`?
          decode|resize(8, metod='area')
                           ^
        "##);
        insta::assert_snapshot!(show("decode|resize('8')"), @r##"
        resize: `size` must be a size or a pair (height, width), not "8"
          decode|resize('8')
                        ^
        "##);
        insta::assert_snapshot!(show("decode |resize(8)"), @r##"
        unknown pp op `decode `, remove the blank behind the name
          decode |resize(8)
          ^
        "##);
        insta::assert_snapshot!(show("decode| resize(8)"), @r##"
        a section may not begin with a blank
          decode| resize(8)
                 ^
        "##);
        insta::assert_snapshot!(show("strfmt(\"a|b\")"), @r##"
        string has no end in its section (sections are cut at every `|`)
          strfmt("a|b")
                 ^
        "##);
        insta::assert_snapshot!(show("resize(224//2)"), @r##"
        only literal values are allowed, nothing is computed
          resize(224//2)
                    ^
        "##);
        insta::assert_snapshot!(show("tok(key='x', model='gemma(model=\"nope.model\")')"), @r##"
        tok: `model` is no tokenizer: gemma: `model` names file "nope.model", which is not in .; `paligemma data tokenizer ROWS.jsonl --out nope.model` makes a small one for a model that is trained from nothing; PaliGemma's own is paligemma_tokenizer.model, beside its checkpoints and at https://storage.googleapis.com/big_vision/paligemma_tokenizer.model
          tok(key='x', model='gemma(model="nope.model")')
                       ^
        "##);
        insta::assert_snapshot!(show("decode|resize(\n\t224,\n\tantialas=True)|keep('image')"), @r##"
        resize: has no argument `antialas`, did you mean `antialias`?
           antialas=True)|keep('image')
           ^
        "##);
        insta::assert_snapshot!(show("lookup('classes.txt', key='label')"), @r##"
        lookup: `mapping` names file "classes.txt", which is not in .
          lookup('classes.txt', key='label')
                 ^
        "##);
        insta::assert_snapshot!(show("clip_i1k_label_names"), @r##"
        clip_i1k_label_names: names file "clip_i1k_label_names.txt", which is not in .; write the names that big_vision has as CLIP_IMAGENET_CLASS_NAMES in datasets/imagenet/class_names.py into it, one per line
          clip_i1k_label_names
          ^
        "##);
        insta::assert_snapshot!(show("decode|refcoco_mask2str"), @r##"
        refcoco_mask2str: `model` is unusable: there is no "vae-oid.npz" in .; download it from https://storage.googleapis.com/big_vision/paligemma/vae-oid.npz, or name its place in the environment variable PALIGEMMA_VAE_OID
          decode|refcoco_mask2str
                 ^
        "##);
        insta::assert_snapshot!(show("tolen(4, pad_value=0)"), @r##"
        tolen: needs `key`, or `inkey` and `outkey`
          tolen(4, pad_value=0)
          ^
        "##);
    }

    #[test]
    fn long_strings_are_cut_around_the_caret() {
        let pp = format!("{}|nope|{}", "keep('abc')|".repeat(10), "keep('abc')|".repeat(10));
        let text = excerpt(&pp, 121);
        let (line, caret) = text.split_once('\n').unwrap();
        let column = caret.chars().position(|c| c == '^').unwrap();
        assert_eq!(line.chars().skip(column).take(4).collect::<String>(), "nope");
        assert!(line.chars().count() < 100);
    }

    #[test]
    fn failures_name_op_and_keys() {
        let pipeline = Pipeline::parse("keep('prefix')|lower(key='prefx')", &Env::new(".")).unwrap();
        let error = pipeline.run(Example::from_iter([("prefix", "A")]), 0).unwrap_err();
        assert_eq!(error.to_string(), "pp op 1 `lower(key='prefx')` failed");
        let source = std::error::Error::source(&error).unwrap().to_string();
        let expected = "example has no key \"prefx\", did you mean `prefix`?; its keys are: prefix";
        assert_eq!(source, expected);
    }
}
