//! Subsampled components at the size of the image, as libjpeg's "fancy upsampling" makes them: weights of 3/4 and 1/4
//! in each direction that is halved, rounded up and down by turns.

use super::Error;
use super::frame::{Frame, Plane};
use crate::pp::wide::wide;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upsample {
    None,
    /// Twice as wide.
    Across,
    /// Twice as high.
    Down,
    Both,
    /// Every sample several times.
    Repeat {
        across: usize,
        down: usize,
    },
}

/// Rows that are reused.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    sums: Vec<u16>,
    out: Vec<u8>,
}

impl Upsample {
    /// # Errors
    /// When the component's sampling is no whole fraction of the largest.
    pub fn new(frame: &Frame, plane: &Plane) -> Result<Self, Error> {
        let (across, down) = (frame.across / plane.header.across, frame.down / plane.header.down);
        if across * plane.header.across != frame.across || down * plane.header.down != frame.down {
            return Err(Error::Unsupported("sampling factors that do not divide each other".to_owned()));
        }
        // Narrower ones are too narrow for libjpeg's interpolation.
        let is_wide = plane.width > 2;
        Ok(match (across, down) {
            (1, 1) => Upsample::None,
            (2, 1) if is_wide => Upsample::Across,
            (1, 2) => Upsample::Down,
            (2, 2) if is_wide => Upsample::Both,
            _ => Upsample::Repeat { across, down },
        })
    }

    /// Row `y` of the image, which is `width` wide.
    pub fn row<'a>(self, plane: &'a Plane, y: usize, width: usize, scratch: &'a mut Scratch) -> &'a [u8] {
        let Scratch { sums, out } = scratch;
        out.resize(width + 4, 0);
        // Of two rows of the image from one of the plane, the upper one also has something of the row above.
        let neighbour = |y: usize| {
            if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(plane.height - 1) }
        };
        match self {
            Upsample::None => return &plane.row(y)[..width],
            Upsample::Across => {
                sums.resize(plane.width + 2, 0);
                sums[1..=plane.width]
                    .iter_mut()
                    .zip(plane.row(y))
                    .for_each(|(to, &from)| *to = u16::from(from));
                interpolate::<2>(sums, 1, out);
            }
            Upsample::Down => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                let (near, far) = (plane.row(y / 2), plane.row(neighbour(y)));
                for ((out, &near), &far) in out.iter_mut().zip(near).zip(far) {
                    *out = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
                }
            }
            Upsample::Both => {
                sums.resize(plane.width + 2, 0);
                blend(plane.row(y / 2), plane.row(neighbour(y)), &mut sums[1..]);
                interpolate::<4>(sums, 8, out);
            }
            Upsample::Repeat { across, down } => {
                for (out, &sample) in out.chunks_mut(across).zip(plane.row(y / down)) {
                    out.fill(sample);
                }
            }
        }
        &out[..width]
    }
}

wide! {
    fn blend(near: &[u8], far: &[u8], sums: &mut [u16]) {
        for ((sum, &near), &far) in sums.iter_mut().zip(near).zip(far) {
            *sum = 3 * u16::from(near) + u16::from(far);
        }
    }
}

/// Two samples of each number but the first and last, which repeat their neighbours. Of `SHIFT` fractional bits, two
/// come from the weights; `left_bias` rounds the left one of each pair, and the right one is rounded the other way.
fn interpolate<const SHIFT: u32>(sums: &mut [u16], left_bias: u16, out: &mut [u8]) {
    let last = sums.len() - 1;
    sums[0] = sums[1];
    sums[last] = sums[last - 1];
    let right_bias = (1 << SHIFT) - 1 - left_bias;
    interpolate_pairs::<SHIFT>(sums, left_bias, right_bias, out);
}

wide! {
    fn interpolate_pairs<const SHIFT: u32>(sums: &[u16], left_bias: u16, right_bias: u16, out: &mut [u8]) {
        let count = sums.len() - 2;
        let (before, here, after) = (&sums[..count], &sums[1..=count], &sums[2..]);
        let pairs = out.as_chunks_mut::<2>().0;
        for (((pair, &before), &here), &after) in pairs.iter_mut().zip(before).zip(here).zip(after) {
            let (left, right) = (3 * here + before + left_bias, 3 * here + after + right_bias);
            *pair = [(left >> SHIFT) as u8, (right >> SHIFT) as u8];
        }
    }
}
