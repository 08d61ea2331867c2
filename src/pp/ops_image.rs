//! Ops on images that draw no random numbers (big_vision's `pp/ops_image.py` and
//! `pp/proj/paligemma/widgetcap.py`).

use super::args::Args;
use super::image::{DecodeOptions, decode, is_jpeg_or_png};
use super::ops_general::to_f32;
use super::registry::{IMAGE, Map, Op, Run, map, run};
use super::resize::{Method, resize, resize_as_is};
use super::spec::SyntaxError;
use super::value::{Value, num_elements};
use super::{Env, Problem};
use crate::array::{DType, HostArray, Shape};

pub(super) const OPS: &[Op] = &[
    map(
        "decode(channels=3, precise=False, exif=False)",
        IMAGE,
        "decode an image file to u8[height, width, channels]. JPEG files are decoded with the reference's fast \
         inverse DCT, or with precise as most other programs do, which differs by up to 11 levels; exif turns the \
         image as its Exif block says, which the reference ignores",
        decode_op,
    ),
    map(
        "resize(size, method='bilinear', antialias=False, as_float=False)",
        IMAGE,
        "resize to a size or (height, width); as_float keeps fractions, as the fine-tuning notebook does, \
         where the reference truncates u8 images to whole levels",
        resize_op,
    ),
    map(
        "resize_small(smaller_size, method='area', antialias=False)",
        IMAGE,
        "resize to a length of the smaller side, keeping the aspect ratio",
        |args, _| resize_side(args, "smaller_size", |height, width| height.min(width)),
    ),
    map(
        "resize_long(longer_size, method='area', antialias=True)",
        IMAGE,
        "resize to a length of the longer side, keeping the aspect ratio",
        |args, _| resize_side(args, "longer_size", |height, width| height.max(width)),
    ),
    map(
        "central_crop(crop_size=None)",
        IMAGE,
        "cut a size or (height, width), or the largest square, out of the middle",
        central_crop,
    ),
    map(
        "vgg_value_range(mean=(123.675, 116.28, 103.53), std=(58.395, 57.120000000000005, 57.375))",
        IMAGE,
        "subtract VGG's mean colour and divide by the standard deviation, as f32",
        |args, _| normalize(args, args.floats("mean")?, args.floats("std")?),
    ),
    map(
        "clip_value_range()",
        IMAGE,
        "subtract CLIP's mean colour and divide by the standard deviation",
        |args, _| {
            let mean = [0.48145466, 0.4578275, 0.40821073].map(|v: f64| (v * 255.0) as f32);
            let std = [0.26862954, 0.26130258, 0.27577711].map(|v: f64| (v * 255.0) as f32);
            normalize(args, mean.to_vec(), std.to_vec())
        },
    ),
    map(
        "convert_to_video(num_frames)",
        IMAGE,
        "make an image the first of num_frames frames, the others being zero",
        convert_to_video,
    ),
    run(
        "draw_bbox(image_key='image', bbox_key='bbox')",
        "draw one box (y1 x1 y2 x2, fractions) in red",
        draw_bbox,
    ),
];

/// An image and its height, width and channels.
pub(super) fn image(value: &Value) -> Result<(&HostArray, [usize; 3]), Problem> {
    let array = value.as_array();
    let found = array.and_then(|array| Some((array, <[usize; 3]>::try_from(array.dims()).ok()?)));
    found.ok_or_else(|| {
        Problem::expected("an image of shape [height, width, channels] (is `decode` missing?)", value)
    })
}

/// The rectangle of `height` x `width` pixels at (`y`, `x`).
pub(super) fn crop(
    array: &HostArray,
    [y, x]: [usize; 2],
    [height, width]: [usize; 2],
) -> Result<Value, Problem> {
    let &[full_height, full_width, channels] = array.dims() else {
        return Err(Problem::invalid(format!("{} is no image", array.shape())));
    };
    if y + height > full_height || x + width > full_width {
        let message = format!("cannot cut {height}x{width} pixels at {y}, {x} out of {}", array.shape());
        return Err(Problem::invalid(message));
    }
    let pixel = channels * array.dtype().num_bytes();
    let mut out = HostArray::zeros(Shape::new(array.dtype(), [height, width, channels]));
    if width * pixel > 0 {
        let rows = out.bytes_mut().chunks_exact_mut(width * pixel).zip(y..);
        rows.for_each(|(to, y)| {
            to.copy_from_slice(&array.bytes()[(y * full_width + x) * pixel..][..width * pixel])
        });
    }
    Ok(Value::Array(out))
}

pub(super) fn method(args: &Args) -> Result<(Method, bool), SyntaxError> {
    let name = args.word("method", &Method::NAMES)?;
    let method = name.parse().map_err(|error| args.wrong("method", error))?;
    Ok((method, args.bool("antialias")?))
}

fn decode_op(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let (channels, precise, exif) = (args.usize("channels")?, args.bool("precise")?, args.bool("exif")?);
    if ![0, 1, 3, 4].contains(&channels) {
        return Err(args.wrong("channels", "must be 0, 1, 3 or 4"));
    }
    Ok(Box::new(move |value, _| {
        let Value::Bytes(encoded) = &value else {
            return Err(Problem::expected("the bytes of an image file", &value));
        };
        if precise && !is_jpeg_or_png(encoded) {
            return Err(Problem::Image("precise=True reads JPEG and PNG files only".to_owned()));
        }
        Ok(Value::Array(decode(encoded, &DecodeOptions { channels, accurate: precise, exif })?))
    }))
}

fn resize_op(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let (size, as_float) = (args.size("size")?, args.bool("as_float")?);
    let (method, antialias) = method(args)?;
    Ok(Box::new(move |value, _| {
        let (array, _) = image(&value)?;
        let resized = match as_float {
            true => resize(array, size, method, antialias)?.cast(DType::F32),
            false => resize_as_is(array, size, method, antialias)?,
        };
        Ok(Value::Array(resized))
    }))
}

fn resize_side(args: &Args, size: &str, side: fn(usize, usize) -> usize) -> Result<Map, SyntaxError> {
    let wanted = args.usize(size)?;
    let (method, antialias) = method(args)?;
    Ok(Box::new(move |value, _| {
        let (array, [height, width, _]) = image(&value)?;
        let factor = wanted as f32 / side(height, width) as f32;
        let size = [height, width].map(|side| (side as f32 * factor).round_ties_even() as usize);
        Ok(Value::Array(resize_as_is(array, size, method, antialias)?))
    }))
}

fn central_crop(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let size = if args.is_none("crop_size") { None } else { Some(args.size("crop_size")?) };
    Ok(Box::new(move |value, _| {
        let (array, [height, width, _]) = image(&value)?;
        let size = size.unwrap_or([height.min(width); 2]);
        let offset = [height.saturating_sub(size[0]) / 2, width.saturating_sub(size[1]) / 2];
        crop(array, offset, size)
    }))
}

fn normalize(args: &Args, mean: Vec<f32>, std: Vec<f32>) -> Result<Map, SyntaxError> {
    if mean.is_empty() || mean.len() != std.len() {
        return Err(args.error("mean and standard deviation must have one value per channel"));
    }
    Ok(Box::new(move |value, _| {
        let (array, [.., channels]) = image(&value)?;
        if channels != mean.len() && mean.len() != 1 {
            return Err(Problem::invalid(format!(
                "{} channels were given for {}",
                mean.len(),
                array.shape()
            )));
        }
        let mut out = to_f32(array);
        for pixel in out.chunks_mut(mean.len()) {
            pixel.iter_mut().zip(mean.iter().zip(&std)).for_each(|(v, (mean, std))| *v = (*v - mean) / std);
        }
        Ok(Value::Array(HostArray::new(array.dims(), &out)?))
    }))
}

fn convert_to_video(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let frames = args.usize("num_frames")?;
    if frames == 0 {
        return Err(args.wrong("num_frames", "must be at least 1"));
    }
    Ok(Box::new(move |value, _| {
        let (array, [height, width, channels]) = image(&value)?;
        num_elements(&[frames, height, width, channels])?;
        let mut out = HostArray::zeros(Shape::new(array.dtype(), [frames, height, width, channels]));
        out.bytes_mut()[..array.bytes().len()].copy_from_slice(array.bytes());
        Ok(Value::Array(out))
    }))
}

/// `draw_bounding_box_op.cc`: one pixel wide, nothing outside of the image, the result is f32.
fn draw_bbox(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (image_key, bbox_key) = (args.str("image_key")?, args.str("bbox_key")?);
    const RED: [f32; 3] = [255.0, 0.0, 0.0];
    Ok(Box::new(move |example, _| {
        let bbox = example.require(&bbox_key)?;
        let corners = bbox.as_array().map(to_f32).and_then(|corners| <[f32; 4]>::try_from(corners).ok());
        let [y1, x1, y2, x2] = corners.ok_or_else(|| Problem::expected("a box of four numbers", bbox))?;
        let (array, [height, width, channels]) = image(example.require(&image_key)?)?;
        if channels != 3 {
            return Err(Problem::invalid(format!("boxes are drawn on colour images, not {}", array.shape())));
        }
        let mut pixels = to_f32(array);
        let dims = array.dims().to_vec();
        let scaled = |fraction: f32, extent: usize| (fraction * (extent as f32 - 1.0)) as i64;
        let (top, bottom) = (scaled(y1, height), scaled(y2, height));
        let (left, right) = (scaled(x1, width), scaled(x2, width));
        let inside = |v: i64, extent: usize| usize::try_from(v).ok().filter(|&v| v < extent);
        if top <= bottom && left <= right {
            let mut paint = |y: i64, x: i64| {
                if let (Some(y), Some(x)) = (inside(y, height), inside(x, width)) {
                    pixels[(y * width + x) * 3..][..3].copy_from_slice(&RED);
                }
            };
            for x in left.max(0)..=right.min(width as i64 - 1) {
                [top, bottom].into_iter().for_each(|y| paint(y, x));
            }
            for y in top.max(0)..=bottom.min(height as i64 - 1) {
                [left, right].into_iter().for_each(|x| paint(y, x));
            }
        }
        example.insert(image_key.as_str(), HostArray::new(dims, &pixels)?);
        Ok(())
    }))
}
