//! `tf.image.resize`, operation by operation in `f32`, so that results agree to the last bit wherever
//! TensorFlow does not fuse its multiplications.
//!
//! Sources: TensorFlow's `scale_and_translate_op.cc` (everything with `antialias`, and the kernels that have
//! no other form), `resize_bilinear_op.cc`, `resize_bicubic_op.cc`, `resize_area_op.cc` and
//! `resize_nearest_neighbor_op.cc`, all with half-pixel centers. Both passes of a resize read rows from left
//! to right; weights are computed once per row and column.

use std::str::FromStr;

use super::Problem;
use super::ops_general::to_f32;
use super::value::num_elements;
use super::wide::wide;
use crate::array::{DType, HostArray, Shape};

/// How pixels are combined; TensorFlow's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Bilinear,
    Nearest,
    Area,
    Bicubic,
    Lanczos3,
    Lanczos5,
    Gaussian,
    MitchellCubic,
}

impl Method {
    pub const NAMES: [&str; 8] =
        ["bilinear", "nearest", "area", "bicubic", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"];
}

impl FromStr for Method {
    type Err = Problem;

    fn from_str(name: &str) -> Result<Self, Problem> {
        Ok(match name {
            "bilinear" => Method::Bilinear,
            "nearest" => Method::Nearest,
            "area" => Method::Area,
            "bicubic" => Method::Bicubic,
            "lanczos3" => Method::Lanczos3,
            "lanczos5" => Method::Lanczos5,
            "gaussian" => Method::Gaussian,
            "mitchellcubic" => Method::MitchellCubic,
            _ => return Err(Problem::invalid(format!("unknown resize method \"{name}\""))),
        })
    }
}

/// Resizes an image of shape [height, width, channels] to `size` (height, width), as `f32`; `nearest` keeps
/// the type. `antialias` matters to all methods but `nearest` and `area`.
///
/// # Errors
/// When the array has another rank or is empty.
pub fn resize(
    image: &HostArray,
    size: [usize; 2],
    method: Method,
    antialias: bool,
) -> Result<HostArray, Problem> {
    let &[height, width, channels] = image.dims() else {
        return Err(Problem::invalid(format!(
            "cannot resize {}, an image is [height, width, channels]",
            image.shape()
        )));
    };
    if image.dims().contains(&0) || size.contains(&0) {
        let message = format!("cannot resize {} to {}x{}", image.shape(), size[0], size[1]);
        return Err(Problem::invalid(message));
    }
    num_elements(&[size[0], size[1], channels])?;
    if method == Method::Nearest {
        return nearest(image, [height, width], size);
    }
    let mut out = HostArray::zeros(Shape::new(DType::F32, [size[0], size[1], channels]));
    let pixels = out.values_mut::<f32>()?;
    match (image.values::<u8>(), image.values::<f32>()) {
        (Ok(values), _) => {
            Source { pixels: values, height, width, channels }.resize(size, method, antialias, pixels)
        }
        (_, Ok(values)) => {
            Source { pixels: values, height, width, channels }.resize(size, method, antialias, pixels)
        }
        _ => {
            Source { pixels: &to_f32(image), height, width, channels }
                .resize(size, method, antialias, pixels);
        }
    }
    Ok(out)
}

/// As [`resize`], in the type of the input: like the reference, clipped to its range and *truncated*.
pub fn resize_as_is(
    image: &HostArray,
    size: [usize; 2],
    method: Method,
    antialias: bool,
) -> Result<HostArray, Problem> {
    let resized = resize(image, size, method, antialias)?;
    match image.dtype() {
        DType::U8 if resized.dtype() == DType::F32 => {
            let mut out = HostArray::zeros(resized.shape().with_dtype(DType::U8));
            let from = resized.values::<f32>()?;
            // `as` saturates and rounds towards zero.
            out.bytes_mut().iter_mut().zip(from).for_each(|(to, &from)| *to = from as u8);
            Ok(out)
        }
        dtype => Ok(resized.cast(dtype)),
    }
}

/// A number of an image. Levels become `f32` where they are used, row by row: a whole image of them would not stay in
/// the cache.
trait Sample: Copy {
    fn to_f32(self) -> f32;
}

impl Sample for u8 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

impl Sample for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

struct Source<'a, T> {
    pixels: &'a [T],
    height: usize,
    width: usize,
    channels: usize,
}

impl<'a, T: Sample> Source<'a, T> {
    fn row(&self, y: usize) -> &'a [T] {
        let len = self.width * self.channels;
        &self.pixels[y * len..(y + 1) * len]
    }

    fn resize(&self, size: [usize; 2], method: Method, antialias: bool, out: &mut [f32]) {
        let (height, width) = (self.height, self.width);
        match (method, kernel(method)) {
            (Method::Bilinear, _) if !antialias => bilinear(self, size, out),
            (Method::Bicubic, _) if !antialias => {
                let [rows, columns] = [cubic_taps(height, size[0]), cubic_taps(width, size[1])];
                rows_then_columns(self, &rows, &columns, out);
            }
            (_, Some(kernel)) => {
                let rows = kernel_taps(height, size[0], kernel, antialias);
                let columns = kernel_taps(width, size[1], kernel, antialias);
                rows_then_columns(self, &rows, &columns, out);
            }
            (_, None) => area(self, size, out),
        }
    }
}

/// For each output position, the first input position and the weights of it and those after it.
struct Taps {
    starts: Vec<usize>,
    /// Where the weights of each output position begin, and where the last ones end.
    offsets: Vec<usize>,
    weights: Vec<f32>,
}

impl Taps {
    fn with_capacity(len: usize) -> Self {
        Taps { starts: Vec::with_capacity(len), offsets: vec![0], weights: Vec::new() }
    }

    fn push(&mut self, start: usize, weights: impl IntoIterator<Item = f32>) {
        self.starts.push(start);
        self.weights.extend(weights);
        self.offsets.push(self.weights.len());
    }

    fn at(&self, i: usize) -> (usize, &[f32]) {
        (self.starts[i], &self.weights[self.offsets[i]..self.offsets[i + 1]])
    }

    fn len(&self) -> usize {
        self.starts.len()
    }
}

fn rows_then_columns<T: Sample>(source: &Source<T>, rows: &Taps, columns: &Taps, out: &mut [f32]) {
    // One number more than a row has: pixels of three are read in fours.
    let mut row = vec![0.0f32; source.width * source.channels + 1];
    for (y, out) in out.chunks_exact_mut(columns.len() * source.channels).enumerate() {
        let (start, weights) = rows.at(y);
        row.fill(0.0);
        let (fours, rest) = weights.as_chunks::<4>();
        for (k, &weights) in fours.iter().enumerate() {
            let first = start + 4 * k;
            let rows =
                [source.row(first), source.row(first + 1), source.row(first + 2), source.row(first + 3)];
            add_four_rows(rows, weights, &mut row);
        }
        for (y, &weight) in (start + 4 * fours.len()..).zip(rest) {
            add_row(source.row(y), weight, &mut row);
        }
        weigh_columns(&row, columns, source.channels, out);
    }
}

wide! {
    fn add_row<T: Sample>(pixels: &[T], weight: f32, sums: &mut [f32]) {
        for (sum, pixel) in sums.iter_mut().zip(pixels) {
            *sum += pixel.to_f32() * weight;
        }
    }
}

wide! {
    /// One after the other: the order of sums is TensorFlow's.
    fn add_four_rows<T: Sample>(rows: [&[T]; 4], weights: [f32; 4], sums: &mut [f32]) {
        let [a, b, c, d] = rows;
        for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            let [a, b, c, d] = [a.to_f32(), b.to_f32(), c.to_f32(), d.to_f32()];
            *sum = *sum + a * weights[0] + b * weights[1] + c * weights[2] + d * weights[3];
        }
    }
}

fn weigh_columns<T: Sample>(row: &[T], columns: &Taps, channels: usize, out: &mut [f32]) {
    match channels {
        1 => weigh_grays(row, columns, out),
        3 => weigh_colours(row, columns, out),
        _ => {
            for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                let (start, weights) = columns.at(x);
                out.fill(0.0);
                for (pixel, &weight) in row[start * channels..].chunks_exact(channels).zip(weights) {
                    out.iter_mut().zip(pixel).for_each(|(sum, pixel)| *sum += pixel.to_f32() * weight);
                }
            }
        }
    }
}

wide! {
    fn weigh_grays<T: Sample>(row: &[T], columns: &Taps, out: &mut [f32]) {
        for (x, out) in out.iter_mut().enumerate() {
            let (start, weights) = columns.at(x);
            *out = row[start..].iter().zip(weights).fold(0.0, |sum, (pixel, weight)| sum + pixel.to_f32() * weight);
        }
    }
}

wide! {
    /// Three channels at a time, and a fourth number that is thrown away. The last pixels of `row` may lack it.
    fn weigh_colours<T: Sample>(row: &[T], columns: &Taps, out: &mut [f32]) {
        for (x, out) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (start, weights) = columns.at(x);
            let pixels = &row[3 * start..];
            let mut sums = [0.0f32; 4];
            for (k, &weight) in weights.iter().enumerate() {
                let pixel = match pixels.get(3 * k..3 * k + 4) {
                    Some(&[r, g, b, next]) => [r, g, b, next],
                    _ => [pixels[3 * k], pixels[3 * k + 1], pixels[3 * k + 2], pixels[3 * k]],
                };
                for (sum, pixel) in sums.iter_mut().zip(pixel) {
                    *sum += pixel.to_f32() * weight;
                }
            }
            out.copy_from_slice(&sums[..3]);
        }
    }
}

/// A resampling kernel: its radius and its value at a distance.
type Kernel = (f32, fn(f32) -> f32);

fn kernel(method: Method) -> Option<Kernel> {
    match method {
        Method::Bilinear => Some((1.0, |x| (1.0 - x).max(0.0))),
        Method::Bicubic => Some((2.0, |x| match x {
            x if x >= 2.0 => 0.0,
            x if x >= 1.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            x => (1.5 * x - 2.5) * x * x + 1.0,
        })),
        Method::MitchellCubic => Some((2.0, |x| match x {
            x if x >= 2.0 => 0.0,
            x if x >= 1.0 => (((-7.0 / 18.0) * x + 2.0) * x - 10.0 / 3.0) * x + 16.0 / 9.0,
            x => ((7.0 / 6.0) * x - 2.0) * x * x + 8.0 / 9.0,
        })),
        Method::Gaussian => Some((1.5, |x| {
            const SIGMA: f32 = 0.5;
            if x >= 1.5 { 0.0 } else { (-x * x / (2.0 * SIGMA * SIGMA)).exp() }
        })),
        Method::Lanczos3 => Some((3.0, |x| lanczos(x, 3.0))),
        Method::Lanczos5 => Some((5.0, |x| lanczos(x, 5.0))),
        Method::Nearest | Method::Area => None,
    }
}

fn lanczos(x: f32, radius: f32) -> f32 {
    use std::f32::consts::PI;
    if x > radius {
        return 0.0;
    }
    // Near zero the quotient is numerically useless.
    if x <= 1e-3 {
        return 1.0;
    }
    radius * (PI * x).sin() * (PI * x / radius).sin() / (PI * PI * x * x)
}

/// Sums below this are not normalised.
const TINY: f32 = 1000.0 * f32::MIN_POSITIVE;

/// `ComputeSpansCore` of scale_and_translate_op.cc.
fn kernel_taps(input: usize, output: usize, (radius, kernel): Kernel, antialias: bool) -> Taps {
    let scale = output as f32 / input as f32;
    let inverse = (1.0 / f64::from(scale)) as f32;
    let stretch = if antialias { inverse.max(1.0) } else { 1.0 };
    let one_over_stretch = 1.0 / stretch;
    let mut taps = Taps::with_capacity(output);
    for x in 0..output {
        let sample = (x as f32 + 0.5) * inverse;
        let last = input as i64 - 1;
        let begin = ((sample - radius * stretch - 0.5).ceil() as i64).clamp(0, last);
        let end = ((sample + radius * stretch - 0.5).floor() as i64).clamp(0, last) + 1;
        let weight = |i: i64| kernel((((i as f32) + 0.5 - sample) * one_over_stretch).abs());
        let weights: Vec<f32> = (begin..end).map(weight).collect();
        let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        let normalize = if sum.abs() >= TINY { 1.0 / sum } else { 0.0 };
        taps.push(begin as usize, weights.iter().map(|weight| weight * normalize));
    }
    taps
}

/// `GetWeightsAndIndices` of resize_bicubic_op.cc: Keys' cubic from a table of 1024 steps.
fn cubic_taps(input: usize, output: usize) -> Taps {
    const STEPS: f64 = 1024.0;
    const A: f64 = -0.5;
    let near = |x: f64| (((A + 2.0) * x - (A + 3.0)) * x * x + 1.0) as f32;
    let far = |x: f64| (((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A) as f32;
    let scale = input as f32 / output as f32;
    let mut taps = Taps::with_capacity(output);
    for x in 0..output {
        let at = (x as f32 + 0.5) * scale - 0.5;
        let left = at.floor();
        let step = f64::from(((at - left) * STEPS as f32).round_ties_even());
        let (t, u) = (step / STEPS, (STEPS - step) / STEPS);
        let weights = [far(t + 1.0), near(t), near(u), far(u + 1.0)];
        let first = left as i64 - 1;
        let inside = |k: &usize| (0..input as i64).contains(&(first + *k as i64));
        let kept: Vec<usize> = (0..4).filter(inside).collect();
        let sum = kept.iter().fold(0.0, |sum, &k| sum + weights[k]);
        let normalize = if sum.abs() >= TINY { 1.0 / sum } else { 1.0 };
        taps.push(first.max(0) as usize, kept.into_iter().map(|k| weights[k] * normalize));
    }
    taps
}

/// Lower and upper input position and the way between them, `compute_interpolation_weights` of
/// resize_bilinear_op.cc.
fn lerps(input: usize, output: usize) -> Vec<(usize, usize, f32)> {
    let scale = input as f32 / output as f32;
    let lerp = |x: usize| {
        let at = (x as f32 + 0.5) * scale - 0.5;
        let last = input - 1;
        (at.floor().max(0.0) as usize, (at.ceil().max(0.0) as usize).min(last), at - at.floor())
    };
    (0..output).map(lerp).collect()
}

fn bilinear<T: Sample>(source: &Source<T>, size: [usize; 2], out: &mut [f32]) {
    let (rows, columns) = (lerps(source.height, size[0]), lerps(source.width, size[1]));
    let len = size[1] * source.channels;
    // Rows come in order: what was the lower one is often asked for again.
    let mut known = [(usize::MAX, vec![0.0; len]), (usize::MAX, vec![0.0; len])];
    for (out, &(top, bottom, lerp)) in out.chunks_exact_mut(len).zip(&rows) {
        if known[1].0 == top {
            known.swap(0, 1);
        }
        for (slot, y) in known.iter_mut().zip([top, bottom]) {
            if slot.0 != y {
                lerp_columns(source.row(y), &columns, source.channels, &mut slot.1);
                slot.0 = y;
            }
        }
        let [(_, top), (_, bottom)] = &known;
        lerp_rows(top, bottom, lerp, out);
    }
}

wide! {
    fn lerp_rows(top: &[f32], bottom: &[f32], lerp: f32, out: &mut [f32]) {
        for ((out, &top), &bottom) in out.iter_mut().zip(top).zip(bottom) {
            *out = top + (bottom - top) * lerp;
        }
    }
}

wide! {
    fn lerp_columns<T: Sample>(row: &[T], columns: &[(usize, usize, f32)], channels: usize, out: &mut [f32]) {
        let between = |left: T, right: T, lerp: f32| {
            let (left, right) = (left.to_f32(), right.to_f32());
            left + (right - left) * lerp
        };
        if channels == 3 {
            let pixels = row.as_chunks::<3>().0;
            for (out, &(left, right, lerp)) in out.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
                let (a, b) = (pixels[left], pixels[right]);
                *out = [between(a[0], b[0], lerp), between(a[1], b[1], lerp), between(a[2], b[2], lerp)];
            }
            return;
        }
        for (out, &(left, right, lerp)) in out.chunks_exact_mut(channels).zip(columns) {
            for (channel, out) in out.iter_mut().enumerate() {
                *out = between(row[left * channels + channel], row[right * channels + channel], lerp);
            }
        }
    }
}

/// How much of each input position an output position covers, resize_area_op.cc.
fn area_taps(input: usize, output: usize) -> Taps {
    let scale = input as f32 / output as f32;
    let mut taps = Taps::with_capacity(output);
    for x in 0..output {
        let (from, to) = (x as f32 * scale, (x + 1) as f32 * scale);
        let weight = |i: usize| {
            let (left, right) = (i as f32, (i + 1) as f32);
            match (left < from, right > to) {
                (true, true) => scale,
                (true, false) => right - from,
                (false, true) => to - left,
                (false, false) => 1.0,
            }
        };
        let (begin, end) = (from.floor() as usize, to.ceil() as usize);
        // Rounding can reach one position past the end, which counts as the last one again.
        let mut weights: Vec<f32> = (begin..end.min(input)).map(weight).collect();
        if end > input
            && let Some(last) = weights.last_mut()
        {
            *last += weight(end - 1);
        }
        taps.push(begin, weights);
    }
    taps
}

fn area<T: Sample>(source: &Source<T>, size: [usize; 2], out: &mut [f32]) {
    let (rows, columns) = (area_taps(source.height, size[0]), area_taps(source.width, size[1]));
    let scale = |input: usize, output: usize| input as f32 / output as f32;
    let normalize = 1.0 / (scale(source.height, size[0]) * scale(source.width, size[1]));
    let len = size[1] * source.channels;
    let mut sums = vec![0.0; len];
    let mut known = (usize::MAX, vec![0.0; len]);
    for (y, out) in out.chunks_exact_mut(len).enumerate() {
        let (start, weights) = rows.at(y);
        sums.fill(0.0);
        for (row, &weight) in (start..).zip(weights) {
            if known.0 != row {
                weigh_columns(source.row(row), &columns, source.channels, &mut known.1);
                known.0 = row;
            }
            sums.iter_mut().zip(&known.1).for_each(|(sum, &value)| *sum += value * weight);
        }
        out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = sum * normalize);
    }
}

fn nearest(image: &HostArray, from: [usize; 2], size: [usize; 2]) -> Result<HostArray, Problem> {
    let positions = |input: usize, output: usize| -> Vec<usize> {
        let scale = input as f32 / output as f32;
        (0..output).map(|x| (((x as f32 + 0.5) * scale).floor() as usize).min(input - 1)).collect()
    };
    let (rows, columns) = (positions(from[0], size[0]), positions(from[1], size[1]));
    let channels = image.dims()[2];
    let pixel = channels * image.dtype().num_bytes();
    let bytes = image.bytes();
    let mut out = Vec::with_capacity(size[0] * size[1] * pixel);
    for y in rows {
        for &x in &columns {
            out.extend_from_slice(&bytes[(y * from[1] + x) * pixel..][..pixel]);
        }
    }
    Ok(HostArray::from_bytes(Shape::new(image.dtype(), [size[0], size[1], channels]), &out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> HostArray {
        let pixels: Vec<u8> = (0..height * width * 3).map(|i| (i * 7 % 256) as u8).collect();
        HostArray::new([height, width, 3], &pixels).unwrap()
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let image = ramp(9, 7);
        for name in ["bilinear", "nearest", "area", "bicubic", "lanczos3", "lanczos5"] {
            let resized = resize_as_is(&image, [9, 7], name.parse().unwrap(), true).unwrap();
            let largest =
                resized.to_f64().iter().zip(image.to_f64()).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
            assert!(largest <= 1.0, "{name}");
        }
        assert_eq!(resize_as_is(&image, [9, 7], Method::Bilinear, true).unwrap(), image);
    }

    #[test]
    fn flat_images_stay_flat() {
        let image = HostArray::new([5, 8, 1], &[77.0f32; 40]).unwrap();
        for name in Method::NAMES {
            for antialias in [false, true] {
                for size in [[3, 3], [11, 2], [1, 1], [5, 20]] {
                    let resized = resize(&image, size, name.parse().unwrap(), antialias).unwrap();
                    assert_eq!(resized.dims(), [size[0], size[1], 1]);
                    assert!(resized.to_f64().iter().all(|v| (v - 77.0).abs() < 1e-3), "{name} {size:?}");
                }
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let flat = HostArray::new([4], &[0u8; 4]).unwrap();
        assert!(resize(&flat, [2, 2], Method::Area, false).is_err());
        let empty = HostArray::new([0, 4, 3], &[0u8; 0]).unwrap();
        assert!(resize(&empty, [2, 2], Method::Bilinear, true).is_err());
    }
}
