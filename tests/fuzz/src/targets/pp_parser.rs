//! pp strings, which are parsed and, where no number in them asks for much memory, run on a small example.

use std::sync::LazyLock;

use paligemma::array::HostArray;
use paligemma::pp::{Env, Error, Example, Pipeline, Value, spec};

use super::test_data;

/// Opened once, since every string asks for the same tokenizer.
static ENV: LazyLock<Env> = LazyLock::new(|| Env::new(test_data("text")));

pub fn run(data: &[u8]) -> Option<()> {
    let pp = std::str::from_utf8(data).ok()?;
    let calls = spec::parse(pp);
    if let Err(error) = &calls {
        assert!(error.at <= pp.len(), "an error behind the end of {pp:?}");
    }
    let pipeline = match Pipeline::parse(pp, &ENV) {
        Ok(pipeline) => pipeline,
        Err(error) => {
            // The excerpt with its caret is made here.
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let calls = calls.expect("a pipeline has sections that parse");
    assert!(pipeline.op_names().eq(calls.iter().map(|call| call.name.as_str())));
    if is_small(pp) {
        let outcome = |seed| pipeline.run(example(), seed).map_err(describe);
        assert!(outcome(7) == outcome(7), "{pp:?} gives two results for one seed");
    }
    Some(())
}

/// Whether no number has more than two digits: extents of 16 million are legal, and slow.
fn is_small(pp: &str) -> bool {
    let longest = pp.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(|word| {
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        if is_number { word.len() } else { 0 }
    });
    longest.max().unwrap_or(0) <= 2 && pp.len() < 400
}

fn describe(error: Error) -> String {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", cause.unwrap_or_default())
}

fn example() -> Example {
    let mut example = Example::new();
    let pixels: Vec<u8> = (0..5 * 7 * 3).collect();
    example.insert("image", HostArray::new([5, 7, 3], &pixels).expect("as many pixels as the shape has"));
    example.insert("bbox", [0.1f32, 0.2, 0.7, 0.9].as_slice());
    example.insert("text", "A cat");
    example.insert("texts", vec!["a".to_owned(), "b c".to_owned()]);
    example.insert("label", 1);
    example.insert("labels", [1i64, 2].as_slice());
    example.insert("nested", Value::Dict(Example::from_iter([("text", "x")])));
    example
}

/// Most ops, with arguments of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        r#"resize(8, antialias=True)|value_range(-1, 1)|keep("image", 'text')"#,
        "strfmt('caption {text} {label}', outkey='prefix')|drop('bbox')|copy('text', \"b\")",
        r#"tok(key='text', bos='yes', model='gemma(tokensets=("loc", "seg"), model="tokenizer.model")')|tolen(9, pad_value=0, key='text')"#,
        "copy('labels', 'b')|masked_concat(['labels', 'b'], outkey='y', mask_ar=[0, 1], mask_loss=[0.5, 1])",
        "flatten|lower(key='texts')|strjoin(', ', key='texts')|setdefault('z', [1, 2])",
        "inception_crop(4, 10, method='area')|flip_lr|random_crop((2, 3))|central_crop(2)",
        "draw_bbox|pad_to_shape((9, None, 3), where='both')|reshape([-1])|squeeze_last_dim(key='x')",
        "choice(n=[1, 2], key='texts')|concat(['labels', 'labels'], axis=0)|onehot(7, multi=False)",
        "rag_tensor(key='texts')|video_replicate_img(2, 3)|stack_images(['image', 'image'])",
        "majority(key='labels')|getidx('texts', 'label')|resize_small(4)|resize_long(6)|vgg_value_range",
    ]
    .map(|pp| pp.as_bytes().to_vec())
    .to_vec()
}
