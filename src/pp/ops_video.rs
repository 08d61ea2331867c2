//! Ops on several images (big_vision's `pp/proj/paligemma/video.py`).

use rand::RngExt;

use super::args::Args;
use super::image::{DecodeOptions, decode};
use super::ops_general::constant;
use super::registry::{IMAGE, Map, Op, Run, map, run};
use super::resize::{Method, resize};
use super::spec::SyntaxError;
use super::value::{Strings, Value};
use super::{Env, Problem};
use crate::array::HostArray;

pub(super) const OPS: &[Op] = &[
    run(
        "video_decode(res)",
        "decode the frames in episodic_images to image f32[frames, res, res, 3]",
        video_decode,
    ),
    run(
        "video_ensure_shape(key, shape)",
        "fail unless an entry has this shape (None: any extent)",
        ensure_shape,
    ),
    run(
        "video_replicate_img(replicas, num_frames)",
        "repeat the frames of a short video, and keep the first num_frames",
        video_replicate_img,
    ),
    map(
        "video_choice(empty_fallback=None)",
        IMAGE,
        "take a random element, or the fallback (else 0 or \"\") of an empty array",
        video_choice,
    ),
    run(
        "stack_images(inkeys=(), outkey='image')",
        "stack equal arrays along a new first dimension",
        stack_images,
    ),
];

fn video_decode(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let [res, _] = args.size("res")?;
    Ok(Box::new(move |example, _| {
        let Value::List(frames) = example.require("episodic_images")? else {
            return Err(Problem::expected("a list of encoded frames", example.require("episodic_images")?));
        };
        let mut video: Vec<f32> = Vec::with_capacity(frames.len() * res * res * 3);
        for frame in frames {
            let Value::Bytes(encoded) = frame else { return Err(Problem::expected("encoded frames", frame)) };
            let frame =
                resize(&decode(encoded, &DecodeOptions::default())?, [res, res], Method::Bilinear, false)?;
            video.extend(frame.values::<f32>()?.iter().map(|&level| 2.0 * (level / 255.0) - 1.0));
        }
        let video = HostArray::new([frames.len(), res, res, 3], &video)?;
        example.insert("image", video);
        Ok(())
    }))
}

fn ensure_shape(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (key, shape) = (args.str("key")?, args.shape("shape")?);
    Ok(Box::new(move |example, _| {
        let value = example.require(&key)?;
        let dims = value.dims();
        let fits = |(&dim, extent): (&usize, &Option<i64>)| extent.is_none_or(|extent| extent == dim as i64);
        if dims.len() == shape.len() && dims.iter().zip(&shape).all(fits) {
            return Ok(());
        }
        let extent = |extent: &Option<i64>| extent.map_or("any".to_owned(), |extent| extent.to_string());
        let shape: Vec<String> = shape.iter().map(extent).collect();
        Err(Problem::Invalid(format!(
            "\"{key}\" is {}, not of shape [{}]",
            value.describe(),
            shape.join(",")
        )))
    }))
}

fn video_replicate_img(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (replicas, num_frames) = (args.usize("replicas")?, args.usize("num_frames")?);
    Ok(Box::new(move |example, _| {
        let video = example.require("image")?;
        let frames = video.dims().first().copied().unwrap_or(0);
        let indices: Vec<usize> = (0..replicas).flat_map(|_| 0..frames).take(num_frames).collect();
        let repeated = video.gather(&indices)?;
        example.insert("image", repeated);
        Ok(())
    }))
}

fn video_choice(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let fallback = constant(args.get("empty_fallback"));
    Ok(Box::new(move |value, rng| {
        let count: usize = value.dims().iter().product();
        if count > 0 {
            return value.reshaped(vec![count])?.row(rng.random_range(0..count as u64) as usize);
        }
        match (&value, &fallback) {
            (Value::Text(_), Some(text @ Value::Text(_))) => Ok(text.clone()),
            (Value::Text(_), None) => Ok(Value::Text(Strings::scalar(""))),
            (Value::Array(array), Some(Value::Array(number))) => Ok(Value::Array(number.cast(array.dtype()))),
            (Value::Array(array), None) => Ok(Value::Array(HostArray::scalar(0.0f64).cast(array.dtype()))),
            _ => Err(Problem::expected("an array of the type of empty_fallback", &value)),
        }
    }))
}

fn stack_images(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (inkeys, outkey) = (args.strs("inkeys")?, args.str("outkey")?);
    if inkeys.is_empty() {
        return Err(args.wrong("inkeys", "must not be empty"));
    }
    Ok(Box::new(move |example, _| {
        let mut rows = Vec::new();
        for key in &inkeys {
            let value = example.require(key)?;
            let dims = [&[1], &value.dims()[..]].concat();
            rows.push(value.clone().reshaped(dims)?);
        }
        let stacked = Value::concat(&rows.iter().collect::<Vec<_>>(), 0)?;
        example.insert(outkey.as_str(), stacked);
        Ok(())
    }))
}
