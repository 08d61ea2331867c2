//! Ops that need a file: tables of names and numbers (big_vision's `pp/ops_general.py` and `pp/ops_text.py`), and
//! masks as tokens (`pp/proj/paligemma/segmentation.py`).

use std::collections::HashMap;
use std::path::Path;

use super::args::Args;
use super::env::with_sources;
use super::ops_general::to_f32;
use super::registry::{IMAGE, Map, Op, Run, map, run};
use super::resize::{Method, resize};
use super::spec::SyntaxError;
use super::value::{Example, Strings, Value};
use super::{Env, Problem};
use crate::array::{DType, HostArray};
use crate::checkpoint::npz;
use crate::tokenizer::{NUM_LOC, loc_token, seg_token};
use crate::vqvae;

/// Keys of ops from numbers of classes to their names.
const LABELS: [Option<&str>; 2] = [Some("label"), Some("labels")];

pub(super) const OPS: &[Op] = &[
    map(
        "lookup(mapping, npzkey='fnames', sep=None)",
        IMAGE,
        "the number of each string (-1 for unknown ones) in a file: its line, or what follows it behind sep in its \
         line, or its place in array npzkey of an npz",
        lookup,
    ),
    map(
        "clip_i1k_label_names()",
        LABELS,
        "names of ImageNet classes, from file clip_i1k_label_names.txt with one name per line",
        |args, env| label_names(args, env, "CLIP_IMAGENET_CLASS_NAMES"),
    ),
    map(
        "i21k_label_names()",
        LABELS,
        "names of ImageNet-21k classes, from file i21k_label_names.txt with one name per line",
        |args, env| label_names(args, env, "IMAGENET21k_CLASS_NAMES"),
    ),
    run(
        "refcoco_mask2str(model='oi')",
        "from objects/mask, objects/bbox (y1 x1 y2 x2, fractions) and objects/refs/sentence of one object: the \
         sentence as prefix, and as suffix 4 <loc…> and 16 <seg…> tokens, made by the mask VQ-VAE of a file",
        refcoco_mask2str,
    ),
];

fn read_text(args: &Args, name: &str, path: &Path) -> Result<String, SyntaxError> {
    let text = std::fs::read_to_string(path);
    text.map_err(|error| {
        args.wrong(name, format!("names file {}, which is unreadable: {error}", path.display()))
    })
}

/// Python's `str.splitlines`.
fn lines(text: &str) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        lines.push(&rest[..end]);
        let after = &rest[end..];
        let width =
            if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        rest = &after[width..];
    }
    lines
}

fn lookup(args: &Args, env: &Env) -> Result<Map, SyntaxError> {
    let mapping = args.str("mapping")?;
    let path = env.find(&mapping).map_err(|missing| args.wrong("mapping", missing))?;
    let sep = if args.is_none("sep") { None } else { Some(args.str("sep")?) };
    // Numbers of places are 64-bit, numbers that a file gives 32-bit, as in the reference.
    let mut dtype = DType::S64;
    let mut pairs: Vec<(String, i64)> = Vec::new();
    if mapping.ends_with(".npz") {
        let names = npz::read_strings(&path, &args.str("npzkey")?);
        let names = names.map_err(|error| args.wrong("mapping", with_sources(&error)))?;
        pairs.extend(names.into_iter().zip(0..));
    } else if let Some(sep) = sep {
        if sep.is_empty() {
            return Err(args.wrong("sep", "must not be empty"));
        }
        dtype = DType::S32;
        let text = read_text(args, "mapping", &path)?;
        for (line, number) in lines(&text).into_iter().zip(1..) {
            let pair =
                line.split_once(&sep).and_then(|(key, value)| Some((key, value.trim().parse::<i32>().ok()?)));
            let (key, value) = pair.ok_or_else(|| {
                let place = format!("{}:{number}", path.display());
                args.wrong(
                    "mapping",
                    format!("needs a string, {sep:?} and an integer in each line, not in {place}"),
                )
            })?;
            pairs.push((key.to_owned(), i64::from(value)));
        }
    } else {
        let text = read_text(args, "mapping", &path)?;
        pairs.extend(lines(&text).into_iter().map(str::to_owned).zip(0..));
    }
    let mut table = HashMap::with_capacity(pairs.len());
    for (key, value) in pairs {
        if let Some(&other) = table.get(&key).filter(|&&other| other != value) {
            return Err(args.wrong("mapping", format!("gives {key:?} both {other} and {value}")));
        }
        table.insert(key, value);
    }
    Ok(Box::new(move |value, _| {
        let Value::Text(text) = &value else { return Err(Problem::expected("strings", &value)) };
        let numbers: Vec<i64> =
            text.values().iter().map(|key| table.get(key).copied().unwrap_or(-1)).collect();
        Ok(Value::Array(HostArray::new(text.dims(), &numbers)?.cast(dtype)))
    }))
}

/// `source` is what big_vision calls the names.
fn label_names(args: &Args, env: &Env, source: &'static str) -> Result<Map, SyntaxError> {
    let file = format!("{}.txt", args.name());
    let path = env.find(&file).map_err(|missing| {
        args.error(format!(
            "{missing}; write the names that big_vision has as {source} in \
            datasets/imagenet/class_names.py into it, one per line"
        ))
    })?;
    let text = std::fs::read_to_string(&path)
        .map_err(|error| args.error(format!("file {} is unreadable: {error}", path.display())))?;
    let names: Vec<String> = lines(&text).into_iter().map(str::to_owned).collect();
    Ok(Box::new(move |value, _| {
        let labels = value.as_array().ok_or_else(|| Problem::expected("numbers of classes", &value))?;
        let name = |label: f64| {
            let name = (label >= 0.0).then(|| names.get(label as usize)).flatten();
            name.cloned().ok_or_else(|| {
                Problem::invalid(format!("class {label} is not one of {} in {}", names.len(), path.display()))
            })
        };
        let names = labels.to_f64().into_iter().map(name).collect::<Result<_, _>>()?;
        Ok(Value::Text(Strings::new(labels.dims(), names)?))
    }))
}

fn refcoco_mask2str(args: &Args, env: &Env) -> Result<Run, SyntaxError> {
    let encoder =
        env.mask_encoder(&args.str("model")?).map_err(|error| args.wrong("model", with_sources(&error)))?;
    Ok(Box::new(move |example, _| {
        let sentence = example.require("objects/refs/sentence")?.clone();
        if sentence.as_str().is_none() {
            return Err(Problem::expected("a single sentence (is `choice` missing?)", &sentence));
        }
        let bbox = example.require("objects/bbox")?;
        let corners = bbox.as_array().map(to_f32).and_then(|corners| <[f32; 4]>::try_from(corners).ok());
        let corners = corners.filter(|corners| corners.iter().all(|corner| corner.is_finite()));
        let corners = corners
            .ok_or_else(|| Problem::expected("a single box of four numbers (is `choice` missing?)", bbox))?;
        let pixels = mask_in_box(example, corners)?;
        // Coordinates are numbers of bins from 0 to 1023.
        let most = (NUM_LOC - 1) as f32;
        let bins = corners.map(|corner| (corner * most).round_ties_even().clamp(0.0, most) as usize);
        let codes = encoder.encode(&pixels);
        let mut suffix: String = bins.map(loc_token).concat();
        codes.iter().for_each(|&code| suffix.push_str(&seg_token(usize::from(code))));
        example.insert("prefix", sentence);
        example.insert("suffix", suffix);
        Ok(())
    }))
}

/// What `objects/mask` has inside of a box, of the size that masks are coded in and from 0 to 1.
fn mask_in_box(example: &Example, [y1, x1, y2, x2]: [f32; 4]) -> Result<[f32; vqvae::NUM_PIXELS], Problem> {
    let value = example.require("objects/mask")?;
    let wrong = || Problem::expected("a single mask u8[height,width,3] (is `choice` missing?)", value);
    let mask = value.as_array().filter(|mask| mask.dtype() == DType::U8).ok_or_else(wrong)?;
    let &[height, width, 3] = mask.dims() else { return Err(wrong()) };
    let rows = slice(y1, y2, height);
    let columns = slice(x1, x2, width);
    let cut: Vec<u8> = rows
        .clone()
        .flat_map(|y| {
            mask.bytes()[y * width * 3..][..width * 3].chunks_exact(3).skip(columns.start).take(columns.len())
        })
        .map(|pixel| pixel[0])
        .collect();
    if cut.is_empty() {
        let message = format!("box {y1} {x1} {y2} {x2} has no pixel of mask {}", mask.shape());
        return Err(Problem::invalid(message));
    }
    let cut = HostArray::new([rows.len(), columns.len(), 1], &cut)?;
    let resized = resize(&cut, [vqvae::SIDE; 2], Method::Bilinear, true)?;
    let mut pixels = [0.0; vqvae::NUM_PIXELS];
    pixels.iter_mut().zip(resized.values::<f32>()?).for_each(|(pixel, level)| *pixel = level / 255.0);
    Ok(pixels)
}

/// The pixels between two edges, which are fractions of `extent`; as Python slices, negative ones count from the end.
fn slice(begin: f32, end: f32, extent: usize) -> std::ops::Range<usize> {
    let place = |fraction: f32| {
        let place = (extent as f32 * fraction).round_ties_even() as i64;
        let place = if place < 0 { place + extent as i64 } else { place };
        place.clamp(0, extent as i64) as usize
    };
    let (begin, end) = (place(begin), place(end));
    begin..end.max(begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_python_ends_them() {
        assert_eq!(lines("a\nb\r\nc\rd\u{2028}e\x0b\x1cf\n"), ["a", "b", "c", "d", "e", "", "f"]);
        assert_eq!(lines("\n\n"), ["", ""]);
        assert!(lines("").is_empty());
    }

    #[test]
    fn slices_are_pythons() {
        assert_eq!(slice(0.25, 0.75, 10), 2..8);
        assert_eq!(slice(0.0, 1.7, 10), 0..10);
        assert_eq!(slice(-0.3, 1.0, 10), 7..10);
        assert!(slice(0.5, 0.2, 10).is_empty());
    }
}
