//! Components to gray or red, green and blue.

use super::frame::Frame;
use super::header::Header;
use super::upsample::{Scratch, Upsample};
use super::{Error, Pixels};
use crate::pp::wide::wide;

/// What the components are, and what is made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversion {
    /// The first component, which is gray.
    Gray,
    GrayOfRgb,
    RgbOfGray,
    RgbOfYcc,
    Rgb,
    RgbOfCmyk {
        is_inverted: bool,
    },
    RgbOfYcck {
        is_inverted: bool,
    },
}

impl Conversion {
    /// For 1 or 3 channels, or 0 for as many of these as the file has. What three or four components are, files tell
    /// by their JFIF or Adobe marker; else it is guessed as libjpeg does.
    pub fn new(header: &Header, channels: usize) -> Result<Self, Error> {
        let components = header.frame.as_ref().map_or(&[][..], |frame| &frame.components);
        let is_inverted = header.adobe_transform.is_some();
        let to_rgb = match (components.len(), header.adobe_transform) {
            (1, _) => Conversion::RgbOfGray,
            (3, _) if header.has_jfif => Conversion::RgbOfYcc,
            (3, Some(0)) => Conversion::Rgb,
            (3, None) if components.iter().map(|component| component.id).eq(*b"RGB") => Conversion::Rgb,
            (3, _) => Conversion::RgbOfYcc,
            (4, None | Some(0)) => Conversion::RgbOfCmyk { is_inverted },
            (4, Some(_)) => Conversion::RgbOfYcck { is_inverted },
            (count, _) => return Err(Error::Unsupported(format!("{count} components"))),
        };
        Ok(match (channels, to_rgb) {
            (0 | 1, Conversion::RgbOfGray) | (1, Conversion::RgbOfYcc) => Conversion::Gray,
            (1, Conversion::Rgb) => Conversion::GrayOfRgb,
            (1, _) => return Err(Error::Unsupported("four inks, decoded to gray,".to_owned())),
            (0 | 3, to_rgb) => to_rgb,
            (channels, _) => return Err(Error::Unsupported(format!("{channels} channels"))),
        })
    }

    pub fn convert(self, frame: &Frame) -> Result<Pixels, Error> {
        let channels = if matches!(self, Conversion::Gray | Conversion::GrayOfRgb) { 1 } else { 3 };
        let planes = if self == Conversion::Gray { &frame.planes[..1] } else { &frame.planes[..] };
        let upsamples = planes.iter().map(|plane| Upsample::new(frame, plane));
        let upsamples = upsamples.collect::<Result<Vec<Upsample>, Error>>()?;
        let mut scratch: [Scratch; 4] = Default::default();
        let (height, width) = (frame.height, frame.width);
        let mut samples = vec![0; height * width * channels];
        for (y, out) in samples.chunks_exact_mut(width * channels).enumerate() {
            let mut rows: [&[u8]; 4] = [&[]; 4];
            for (((row, plane), upsample), scratch) in
                rows.iter_mut().zip(planes).zip(&upsamples).zip(&mut scratch)
            {
                *row = upsample.row(plane, y, width, scratch);
            }
            self.row(rows, out);
        }
        Ok(Pixels { height, width, channels, samples })
    }

    fn row(self, [a, b, c, d]: [&[u8]; 4], out: &mut [u8]) {
        let pixels = out.as_chunks_mut::<3>().0;
        match self {
            Conversion::Gray => out.copy_from_slice(a),
            Conversion::RgbOfGray => pixels.iter_mut().zip(a).for_each(|(pixel, &gray)| *pixel = [gray; 3]),
            Conversion::Rgb => interleave(a, b, c, pixels),
            Conversion::RgbOfYcc => ycc_to_rgb(a, b, c, pixels),
            Conversion::GrayOfRgb => {
                for (((gray, &r), &g), &b) in out.iter_mut().zip(a).zip(b).zip(c) {
                    *gray = luma([r, g, b]);
                }
            }
            Conversion::RgbOfCmyk { is_inverted } => {
                interleave(a, b, c, pixels);
                print(pixels, d, is_inverted);
            }
            Conversion::RgbOfYcck { is_inverted } => {
                ycc_to_rgb(a, b, c, pixels);
                pixels.as_flattened_mut().iter_mut().for_each(|ink| *ink = 255 - *ink);
                print(pixels, d, is_inverted);
            }
        }
    }
}

/// 0.299, 0.587 and 0.114, of 65536.
fn luma(rgb: [u8; 3]) -> u8 {
    let [r, g, b] = rgb.map(u32::from);
    ((19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16) as u8
}

/// Cyan, magenta and yellow to red, green and blue, with black. Adobe's inks are inverted.
fn print(pixels: &mut [[u8; 3]], black: &[u8], is_inverted: bool) {
    for (pixel, &black) in pixels.iter_mut().zip(black) {
        let light = |ink: u8| u32::from(if is_inverted { ink } else { 255 - ink });
        *pixel = pixel.map(|ink| (light(black) * light(ink) / 255) as u8);
    }
}

wide! {
    fn interleave(a: &[u8], b: &[u8], c: &[u8], pixels: &mut [[u8; 3]]) {
        for (((pixel, &a), &b), &c) in pixels.iter_mut().zip(a).zip(b).zip(c) {
            *pixel = [a, b, c];
        }
    }
}

wide! {
    /// With sixteen fractional bits, of which products need one less where a factor is even.
    fn ycc_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], pixels: &mut [[u8; 3]]) {
        const R_CR: i32 = 91881;
        const G_CB: i32 = -22554;
        const G_CR: i32 = -46802;
        const B_CB: i32 = 116130;
        const HALF: i32 = 1 << 15;
        for (((pixel, &y), &cb), &cr) in pixels.iter_mut().zip(y).zip(cb).zip(cr) {
            let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
            let r = y + ((R_CR * cr + HALF) >> 16);
            let g = y + ((G_CB * cb + G_CR * cr + HALF) >> 16);
            let b = y + ((B_CB * cb + HALF) >> 16);
            *pixel = [r.clamp(0, 255) as u8, g.clamp(0, 255) as u8, b.clamp(0, 255) as u8];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours() {
        let (y, cb, cr) =
            ([0, 255, 76, 150, 29, 128], [128, 128, 85, 44, 255, 128], [128, 128, 255, 21, 107, 128]);
        let mut pixels = [[0; 3]; 6];
        ycc_to_rgb(&y, &cb, &cr, &mut pixels);
        let expected = [[0, 0, 0], [255, 255, 255], [254, 0, 0], [0, 255, 1], [0, 0, 254], [128, 128, 128]];
        assert_eq!(pixels, expected);
        let mut inks = [[255, 128, 0]];
        print(&mut inks, &[128], true);
        assert_eq!(inks, [[128, 64, 0]]);
        let mut inks = [[255, 128, 0]];
        print(&mut inks, &[0], false);
        assert_eq!(inks, [[0, 127, 255]]);
    }
}
