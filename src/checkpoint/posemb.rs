//! Position embeddings for another resolution, as `resample_posemb` of big_vision's `models/vit.py` makes them.

use crate::array::{DType, HostArray, Shape};

/// The side of a square grid of `count` patches.
pub(crate) fn side(count: usize) -> Option<usize> {
    let side = count.isqrt();
    (side > 0 && side * side == count).then_some(side)
}

/// Interpolates `[1, from·from, width]` position embeddings bilinearly to `[1, to·to, width]`, in `f32`.
///
/// This is `scipy.ndimage.zoom` of order 1: the corner points of both grids lie on each other. For some pairs of
/// sides, such as 16 and 30, scipy finds the last row and column beyond the edge, by the last bit, and makes them
/// zero; here they are what they should be. No published resolution is among these.
pub(crate) fn resample(old: &HostArray, from: usize, to: usize) -> HostArray {
    let (values, width) = (old.to_f64(), old.dims()[2]);
    let points = axis(from, to);
    let mut new = HostArray::zeros(Shape::new(DType::F32, [1, to * to, width]));
    let out: &mut [f32] = bytemuck::cast_slice_mut(new.bytes_mut());
    let mut out = out.iter_mut();
    let row = |y: usize, x: usize| &values[(y * from + x) * width..][..width];
    for y in &points {
        for x in &points {
            let corners = [
                (row(y.low, x.low), 1.0 - y.part, 1.0 - x.part),
                (row(y.low, x.high), 1.0 - y.part, x.part),
                (row(y.high, x.low), y.part, 1.0 - x.part),
                (row(y.high, x.high), y.part, x.part),
            ];
            for (channel, to) in out.by_ref().take(width).enumerate() {
                // In scipy's order, so that the last bits agree.
                *to = corners.iter().map(|(row, y, x)| row[channel] * y * x).sum::<f64>() as f32;
            }
        }
    }
    new
}

/// Where a point of the new grid lies on the old one.
struct Point {
    low: usize,
    high: usize,
    /// Distance from `low`, in units of the old grid.
    part: f64,
}

fn axis(from: usize, to: usize) -> Vec<Point> {
    // A single point lies on the first one.
    let step = if to > 1 { (from - 1) as f64 / (to - 1) as f64 } else { 1.0 };
    let point = |i: usize| {
        let at = (i as f64 * step).min((from - 1) as f64);
        let low = at.floor() as usize;
        Point { low, high: (low + 1).min(from - 1), part: at - at.floor() }
    };
    (0..to).map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::open;
    use std::path::Path;

    #[test]
    fn recordings_of_scipy_are_met_to_the_last_bit() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model/vit/resample_posemb.safetensors");
        let recorded = open(path).unwrap();
        for (from, to) in [(4, 6), (4, 7), (6, 4), (16, 32)] {
            let read = |side: &str| recorded.read(&format!("{from}to{to}.{side}")).unwrap();
            let (old, new) = (read("old"), read("new"));
            let got = resample(&old, from, to);
            assert_eq!(got.shape(), new.shape());
            assert_eq!(got.to_f64(), new.to_f64(), "{from} to {to}");
        }
    }

    #[test]
    fn only_squares_have_sides() {
        assert_eq!([0, 1, 8, 256, 257].map(side), [None, Some(1), None, Some(16), None]);
        // From one point, and to one.
        let one = HostArray::new([1, 1, 1], &[3f32]).unwrap();
        assert_eq!(resample(&one, 1, 2).to_f64(), [3.0; 4]);
        assert_eq!(resample(&resample(&one, 1, 3), 3, 1).to_f64(), [3.0]);
    }
}
