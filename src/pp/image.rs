//! Encoded images to pixels.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, ImageReader};

use super::Problem;
use crate::array::HostArray;

/// Pixels of a JPEG, PNG, WebP, GIF (its first frame) or BMP file as `u8[height, width, channels]`.
///
/// `channels` is 1 (gray), 3, 4 (with alpha) or 0 for what the file has. As `tf.io.decode_image` does it,
/// alpha is dropped, not blended, palettes are applied, 16-bit samples keep their high byte, and EXIF
/// rotations and colour profiles are ignored.
///
/// # Errors
/// When the file is of another kind, or damaged or cut anywhere.
pub fn decode(encoded: &[u8], channels: usize) -> Result<HostArray, Problem> {
    let fail = |error: image::ImageError| Problem::Image(error.to_string());
    let reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format();
    let reader = reader.map_err(|error| Problem::Image(error.to_string()))?;
    let is_jpeg = reader.format() == Some(ImageFormat::Jpeg);
    if is_jpeg && !encoded.windows(2).any(|pair| pair == [0xFF, 0xD9]) {
        // The decoder fills what is missing with gray.
        return Err(Problem::Image("the JPEG file has no end marker, it is cut".to_owned()));
    }
    if is_jpeg && channels == 4 {
        return Err(Problem::Image("a JPEG file has no alpha channel".to_owned()));
    }
    let image = reader.decode().map_err(fail)?;
    let (height, width) = (image.height() as usize, image.width() as usize);
    let (native, pixels) = samples(image)?;
    let channels = if channels == 0 { native } else { channels };
    // libpng truncates the luma, libjpeg rounds it.
    let round = if is_jpeg { 1 << 14 } else { 0 };
    let pixels = if native == channels { pixels } else { convert(&pixels, native, channels, round)? };
    Ok(HostArray::new([height, width, channels], &pixels)?)
}

/// Whether a file is one that the reference's `decode(precise=True)` takes.
pub(super) fn is_jpeg_or_png(encoded: &[u8]) -> bool {
    matches!(image::guess_format(encoded), Ok(ImageFormat::Jpeg | ImageFormat::Png))
}

/// 8-bit samples and their number per pixel.
fn samples(image: DynamicImage) -> Result<(usize, Vec<u8>), Problem> {
    let high_bytes = |samples: Vec<u16>| samples.into_iter().map(|sample| (sample >> 8) as u8).collect();
    Ok(match image {
        DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (2, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
        DynamicImage::ImageRgba8(image) => (4, image.into_raw()),
        DynamicImage::ImageLuma16(image) => (1, high_bytes(image.into_raw())),
        DynamicImage::ImageLumaA16(image) => (2, high_bytes(image.into_raw())),
        DynamicImage::ImageRgb16(image) => (3, high_bytes(image.into_raw())),
        DynamicImage::ImageRgba16(image) => (4, high_bytes(image.into_raw())),
        other => return Err(Problem::Image(format!("pixels of type {:?} are not supported", other.color()))),
    })
}

/// Weights of red, green and blue in gray, of 32768: 0.299 and 0.587 cut to 15 bits, as libpng has them.
const LUMA: [u32; 3] = [9797, 19234, 3737];

/// Pixels of `from` channels as pixels of `to`; `round` is added to gray levels before their last 15 bits go.
fn convert(pixels: &[u8], from: usize, to: usize, round: u32) -> Result<Vec<u8>, Problem> {
    let gray = |rgb: [u8; 3]| {
        let sum: u32 = LUMA.iter().zip(rgb).map(|(weight, level)| weight * u32::from(level)).sum();
        ((sum + round) >> 15) as u8
    };
    let mut out = Vec::with_capacity(pixels.len() / from * to);
    for pixel in pixels.chunks_exact(from) {
        let (rgb, alpha) = match *pixel {
            [gray] => ([gray; 3], 255),
            [gray, alpha] => ([gray; 3], alpha),
            [r, g, b] => ([r, g, b], 255),
            [r, g, b, alpha] => ([r, g, b], alpha),
            _ => return Err(Problem::Image(format!("{from} channels are not supported"))),
        };
        match to {
            1 if from < 3 => out.push(rgb[0]),
            1 => out.push(gray(rgb)),
            2 => out.extend([if from < 3 { rgb[0] } else { gray(rgb) }, alpha]),
            3 => out.extend(rgb),
            4 => out.extend([rgb[0], rgb[1], rgb[2], alpha]),
            _ => return Err(Problem::Image(format!("cannot make {to} channels"))),
        }
    }
    Ok(out)
}
