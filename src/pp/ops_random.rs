//! Ops that draw random numbers (from big_vision's `pp/ops_general.py`, `pp/ops_image.py`,
//! `pp/proj/paligemma/sciqa_ops.py` and `pp/proj/paligemma/robustness.py`). Their results have the reference's distribution, not its numbers.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::args::Args;
use super::image::{DecodeOptions, decode};
use super::jpeg::{Idct, Pixels, degrade};
use super::literal::Literal;
use super::ops_image::{crop, image, method};
use super::registry::{IMAGE, Map, Op, Run, map, run};
use super::resize::{Method, resize_as_is};
use super::spec::SyntaxError;
use super::value::Value;
use super::{Env, Example, Problem};
use crate::array::{DType, HostArray};

pub(super) const OPS: &[Op] = &[
    run(
        "choice(n='single', key=None, fewer_ok=False, inkey=None, outkey=None)",
        "take one random row, or n, or between [min, max], the same of all keys, in their order",
        choice,
    ),
    run(
        "choice_no_replacement(key=None, inkey=None, outkey=None)",
        "take one row, the same of all keys, such that all rows of the example `_id` come up before any \
         repeats; `_epoch` tells how often the example came before, without it a row is drawn at random",
        choice_no_replacement,
    ),
    run(
        "sci_qa_choices_shuffle(choice_str_inkey='choices', ans_inkey='answer', \
         indexed_choices_outkey='indexed_choices', indexed_answer_outkey='indexed_answer')",
        "shuffle answers into \"(A) banana, (B) apple\" and store the letter of the right one",
        sci_qa_choices_shuffle,
    ),
    map("flip_lr()", IMAGE, "mirror every other image", |_, _| {
        Ok(Box::new(|value, rng| if rng.random_bool(0.5) { mirror(&value) } else { Ok(value) }))
    }),
    map(
        "resize_r(size)",
        IMAGE,
        "resize to a size or (height, width) by a random one of five methods, with or without antialias",
        resize_r,
    ),
    map(
        "random_jpeg(p)",
        IMAGE,
        "with probability p, write a u8 image as a JPEG file of a quality of 75 to 95 and read it again, with either \
         inverse DCT",
        random_jpeg,
    ),
    map("random_crop(crop_size)", IMAGE, "cut a size or (height, width) out of a random place", random_crop),
    map(
        "inception_crop(size=None, area_min=5, area_max=100, method='bilinear', antialias=False)",
        IMAGE,
        "cut out a random part of an area in percent and an aspect ratio of 3/4 to 1.33, and resize it",
        |args, _| {
            let crop = inception_crop(args, [0.75, 1.33])?;
            Ok(Box::new(move |value, rng| crop(image(&value)?.0, rng)))
        },
    ),
    map(
        "decode_jpeg_and_inception_crop(size=None, area_min=5, area_max=100, ratio_min=0.75, ratio_max=1.33, \
         method='bilinear', antialias=False)",
        IMAGE,
        "decode an image file, cut out a random part of an area in percent and an aspect ratio, and resize it",
        |args, _| {
            let crop =
                inception_crop(args, [args.float("ratio_min")? as f32, args.float("ratio_max")? as f32])?;
            Ok(Box::new(move |value, rng| match &value {
                Value::Bytes(encoded) => crop(&decode(encoded, &DecodeOptions::default())?, rng),
                other => Err(Problem::expected("the bytes of an image file", other)),
            }))
        },
    ),
];

/// Keys that are read, and keys that are written; `{key}` in the latter stands for the former.
fn key_pairs(args: &Args) -> Result<Vec<(String, String)>, SyntaxError> {
    let of = |name: &str| -> Result<Vec<String>, SyntaxError> {
        let name = if args.is_none(name) { "key" } else { name };
        if args.is_none(name) {
            Err(args.error("needs `key`, or `inkey` and `outkey`"))
        } else {
            args.strs(name)
        }
    };
    let (inkeys, outkeys) = (of("inkey")?, of("outkey")?);
    if inkeys.len() != outkeys.len() || inkeys.is_empty() {
        return Err(args.error(format!("has {} keys to read and {} to write", inkeys.len(), outkeys.len())));
    }
    let pairs = inkeys.into_iter().zip(outkeys);
    Ok(pairs.map(|(inkey, outkey)| (inkey.clone(), outkey.replace("{key}", &inkey))).collect())
}

/// The number of rows that all keys have.
fn num_rows(example: &Example, keys: &[(String, String)]) -> Result<usize, Problem> {
    let mut rows = None;
    for (key, _) in keys {
        let value = example.require(key)?;
        let Some(&len) = value.dims().first() else {
            return Err(Problem::Invalid(format!(
                "\"{key}\" is {}, there is nothing to choose from",
                value.describe()
            )));
        };
        if rows.is_some_and(|rows| rows != len) {
            return Err(Problem::Invalid(format!("\"{key}\" has {len} rows, \"{}\" has others", keys[0].0)));
        }
        rows = Some(len);
    }
    rows.ok_or_else(|| Problem::invalid("no keys to choose from"))
}

enum Amount {
    Single,
    Exactly(usize),
    Between(usize, usize),
}

fn choice(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let keys = key_pairs(args)?;
    let count = |literal: &Literal| match literal {
        Literal::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    let n = args.get("n");
    let amount = match (n, n.items()) {
        (Literal::Str(word), _) if word == "single" => Some(Amount::Single),
        (_, Some([low, high])) => match (count(low), count(high)) {
            (Some(low), Some(high)) if low <= high => Some(Amount::Between(low, high)),
            _ => None,
        },
        (n, _) => count(n).map(Amount::Exactly),
    };
    let amount = amount.ok_or_else(|| args.wrong("n", "must be \"single\", a number or [min, max]"))?;
    let fewer_ok = args.bool("fewer_ok")?;
    Ok(Box::new(move |example, rng| {
        let rows = num_rows(example, &keys)?;
        // With an exact number, the reference asks for that many even if fewer_ok is set.
        let least = match amount {
            Amount::Single => 1,
            Amount::Exactly(n) => n,
            Amount::Between(_, _) if fewer_ok => 0,
            Amount::Between(low, _) => low,
        };
        if rows < least {
            return Err(Problem::Invalid(format!(
                "cannot choose {least} of {rows} rows of \"{}\"",
                keys[0].0
            )));
        }
        let take = match amount {
            Amount::Single => {
                let row = rng.random_range(0..rows as u64) as usize;
                return for_each_key(example, &keys, |value| value.row(row));
            }
            Amount::Exactly(n) => n,
            Amount::Between(low, high) => rng.random_range(low as u64..=high as u64) as usize,
        };
        let mut indices: Vec<usize> = (0..rows).collect();
        indices.shuffle(rng);
        indices.truncate(take);
        // The order of the rows may mean something.
        indices.sort_unstable();
        for_each_key(example, &keys, |value| value.gather(&indices))
    }))
}

fn for_each_key(
    example: &mut Example,
    keys: &[(String, String)],
    choose: impl Fn(&Value) -> Result<Value, Problem>,
) -> Result<(), Problem> {
    for (inkey, outkey) in keys {
        let chosen = choose(example.require(inkey)?)?;
        example.insert(outkey.as_str(), chosen);
    }
    Ok(())
}

fn choice_no_replacement(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let keys = key_pairs(args)?;
    Ok(Box::new(move |example, rng| {
        let rows = num_rows(example, &keys)? as u64;
        if rows == 0 {
            return Err(Problem::Invalid(format!("\"{}\" has no rows", keys[0].0)));
        }
        let id = example.require("_id")?;
        let id = match (id.as_i64(), id.as_str()) {
            (Some(id), _) => id as u64,
            (_, Some(id)) => blake3_prefix(id),
            _ => return Err(Problem::expected("a number or a string in \"_id\"", id)),
        };
        let epoch = match example.get("_epoch") {
            Some(epoch) => {
                let number = epoch.as_i64().and_then(|epoch| u64::try_from(epoch).ok());
                number.ok_or_else(|| Problem::expected("a number in \"_epoch\"", epoch))?
            }
            None => rng.random_range(0..rows),
        };
        // The order of the rows belongs to the example, and changes with every round.
        let mut order: Vec<usize> = (0..rows as usize).collect();
        let mut shuffle = ChaCha8Rng::seed_from_u64(id);
        shuffle.set_stream(epoch / rows);
        order.shuffle(&mut shuffle);
        let row = order[(epoch % rows) as usize];
        for_each_key(example, &keys, |value| value.row(row))
    }))
}

fn blake3_prefix(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    hash.as_bytes()[..8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn sci_qa_choices_shuffle(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (choices_key, answer_key) = (args.str("choice_str_inkey")?, args.str("ans_inkey")?);
    let (choices_outkey, answer_outkey) =
        (args.str("indexed_choices_outkey")?, args.str("indexed_answer_outkey")?);
    Ok(Box::new(move |example, rng| {
        let choices = match example.require(&choices_key)? {
            Value::Text(text) if text.dims().len() == 1 && text.values().len() <= 26 => text.values(),
            other => return Err(Problem::expected("a vector of at most 26 strings", other)),
        };
        let answer = example.require(&answer_key)?;
        let answer = answer.as_i64().ok_or_else(|| Problem::expected("the number of a choice", answer))?;
        let mut order: Vec<usize> = (0..choices.len()).collect();
        order.shuffle(rng);
        let listed = ('A'..='Z').zip(&order).map(|(letter, &i)| format!("({letter}) {}", choices[i]));
        let listed = listed.collect::<Vec<_>>().join(", ");
        // An answer that is not among the choices has no letter.
        let right = ('A'..='Z').zip(&order).find(|(_, i)| **i as i64 == answer);
        let right = right.map_or(String::new(), |(letter, _)| letter.to_string());
        example.insert(choices_outkey.as_str(), listed);
        example.insert(answer_outkey.as_str(), right);
        Ok(())
    }))
}

fn mirror(value: &Value) -> Result<Value, Problem> {
    let (array, [_, width, channels]) = image(value)?;
    let pixel = (channels * array.dtype().num_bytes()).max(1);
    let rows = array.bytes().chunks_exact((width * pixel).max(1));
    let bytes: Vec<u8> = rows.flat_map(|row| row.rchunks_exact(pixel)).flatten().copied().collect();
    Ok(Value::Array(HostArray::from_bytes(array.shape().clone(), &bytes)?))
}

fn resize_r(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let size = args.size("size")?;
    const METHODS: [Method; 5] =
        [Method::Bilinear, Method::Bicubic, Method::Lanczos3, Method::Area, Method::MitchellCubic];
    Ok(Box::new(move |value, rng| {
        let method = METHODS[rng.random_range(0..METHODS.len() as u64) as usize];
        let antialias = rng.random_bool(0.5);
        Ok(Value::Array(resize_as_is(image(&value)?.0, size, method, antialias)?))
    }))
}

fn random_jpeg(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let p = args.float("p")?;
    if !(0.0..=1.0).contains(&p) {
        return Err(args.wrong("p", "must be a probability, between 0 and 1"));
    }
    Ok(Box::new(move |value, rng| {
        if !rng.random_bool(p) {
            return Ok(value);
        }
        let idct = if rng.random_bool(0.5) { Idct::Fast } else { Idct::Accurate };
        let quality = rng.random_range(75..=95u32);
        let (array, [height, width, channels]) = image(&value)?;
        if array.dtype() != DType::U8 {
            return Err(Problem::expected("a u8 image, as `decode` makes it", &value));
        }
        let pixels = Pixels { height, width, channels, samples: array.bytes().to_vec() };
        let degraded =
            degrade(&pixels, quality, idct).map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(Value::Array(HostArray::new(array.dims(), &degraded.samples)?))
    }))
}

fn random_crop(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let size = args.size("crop_size")?;
    Ok(Box::new(move |value, rng| {
        let (array, [height, width, _]) = image(&value)?;
        if size[0] > height || size[1] > width {
            let message = format!("cannot cut {}x{} pixels out of {}", size[0], size[1], array.shape());
            return Err(Problem::Invalid(message));
        }
        let mut offset = |free: usize| rng.random_range(0..=free as u64) as usize;
        crop(array, [offset(height - size[0]), offset(width - size[1])], size)
    }))
}

type CropFn = Box<dyn Fn(&HostArray, &mut ChaCha8Rng) -> Result<Value, Problem> + Send + Sync>;

fn inception_crop(args: &Args, ratio: [f32; 2]) -> Result<CropFn, SyntaxError> {
    let size = if args.is_none("size") { None } else { Some(args.size("size")?) };
    let area = [args.float("area_min")? as f32 / 100.0, args.float("area_max")? as f32 / 100.0];
    let in_order = 0.0 < area[0] && area[0] <= area[1] && area[1] <= 1.0;
    let ratios_in_order = 0.0 < ratio[0] && ratio[0] <= ratio[1];
    if !(in_order && ratios_in_order) {
        return Err(args.error("areas must be percentages above 0, ratios above 0, each in ascending order"));
    }
    let (method, antialias) = method(args)?;
    Ok(Box::new(move |array, rng| {
        let &[height, width, _] = array.dims() else {
            return Err(Problem::Invalid(format!("{} is no image", array.shape())));
        };
        let [y, x, h, w] = sample_window(height, width, area, ratio, rng);
        let cut = crop(array, [y, x], [h, w])?;
        match (size, &cut) {
            (Some(size), Value::Array(cut)) => Ok(Value::Array(resize_as_is(cut, size, method, antialias)?)),
            _ => Ok(cut),
        }
    }))
}

/// Offset and extent of a random window, `GenerateRandomCrop` of sample_distorted_bounding_box_op.cc: up to
/// 100 tries, then the whole image.
fn sample_window(
    height: usize,
    width: usize,
    area: [f32; 2],
    ratio: [f32; 2],
    rng: &mut ChaCha8Rng,
) -> [usize; 4] {
    let pixels = (height * width) as f32;
    let [least, most] = area.map(|part| part * pixels);
    for _ in 0..100 {
        let aspect = ratio[0] + rng.random::<f32>() * (ratio[1] - ratio[0]);
        let low = (least / aspect).sqrt().round_ties_even() as usize;
        let mut high = (most / aspect).sqrt().round_ties_even() as usize;
        let across = |h: usize| (h as f32 * aspect).round_ties_even() as usize;
        if across(high) > width {
            high = ((width as f32 + 0.5 - 1e-7) / aspect) as usize;
            high -= usize::from(across(high) > width);
        }
        high = high.min(height);
        let mut h = low.min(high);
        h += if h < high { rng.random_range(0..=(high - h) as u64) as usize } else { 0 };
        // Rounding may have left the range of areas.
        if ((h * across(h)) as f32) < least {
            h += 1;
        }
        if (h * across(h)) as f32 > most {
            h = h.saturating_sub(1);
        }
        let w = across(h);
        let fits = h <= height && w <= width && h > 0 && w > 0;
        if fits && (least..=most).contains(&((h * w) as f32)) {
            let mut offset = |free: usize| rng.random_range(0..=free as u64) as usize;
            return [offset(height - h), offset(width - w), h, w];
        }
    }
    [0, 0, height, width]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_inside_and_keep_their_area() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            let [y, x, h, w] = sample_window(37, 90, [0.05, 1.0], [0.75, 1.33], &mut rng);
            assert!(y + h <= 37 && x + w <= 90);
            assert!((h * w) as f32 >= 0.05 * 37.0 * 90.0);
        }
    }
}
