//! Encoded images to pixels.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::Problem;
use super::jpeg::{self, Idct};
use crate::array::{DType, HostArray, Shape};

/// How [`decode`] reads an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// 1 (gray), 3, 4 (with alpha) or 0 for what the file has.
    pub channels: usize,
    /// Decode JPEG files with an accurate inverse DCT, as most programs do, instead of TensorFlow's fast one.
    pub accurate: bool,
    /// Turn the image as its Exif block says, instead of ignoring that as the reference does.
    pub exif: bool,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        DecodeOptions { channels: 3, accurate: false, exif: false }
    }
}

/// Pixels of a JPEG, PNG, WebP, GIF (its first frame) or BMP file as `u8[height, width, channels]`.
///
/// As `tf.io.decode_image` does it, alpha is dropped, not blended, palettes are applied, 16-bit samples keep their
/// high byte, and colour profiles are ignored. JPEG files come out bit for bit as there.
///
/// # Errors
/// When the file is of another kind, or damaged or cut anywhere.
pub fn decode(encoded: &[u8], options: &DecodeOptions) -> Result<HostArray, Problem> {
    let (array, orientation) = match image::guess_format(encoded) {
        Ok(ImageFormat::Jpeg) => decode_jpeg(encoded, options)?,
        Ok(format) => decode_other(encoded, format, options)?,
        Err(_) if encoded.is_empty() => return Err(Problem::Image("the file is empty".to_owned())),
        Err(_) => {
            let message = "the file is none of JPEG, PNG, WebP, GIF and BMP";
            return Err(Problem::Image(message.to_owned()));
        }
    };
    match orientation {
        Some(orientation) if options.exif => turn(&array, orientation),
        _ => Ok(array),
    }
}

fn decode_jpeg(encoded: &[u8], options: &DecodeOptions) -> Result<(HostArray, Option<Orientation>), Problem> {
    if options.channels == 4 {
        return Err(Problem::Image("a JPEG file has no alpha channel".to_owned()));
    }
    let idct = if options.accurate { Idct::Accurate } else { Idct::Fast };
    let pixels = jpeg::decode(encoded, options.channels, idct);
    let pixels = pixels.map_err(|error| Problem::Image(error.to_string()))?;
    let orientation = if options.exif { jpeg::exif(encoded) } else { None };
    let shape = [pixels.height, pixels.width, pixels.channels];
    Ok((HostArray::new(shape, &pixels.samples)?, orientation.and_then(Orientation::from_exif_chunk)))
}

fn decode_other(
    encoded: &[u8],
    format: ImageFormat,
    options: &DecodeOptions,
) -> Result<(HostArray, Option<Orientation>), Problem> {
    let fail = |error: image::ImageError| Problem::Image(error.to_string());
    let mut decoder = ImageReader::with_format(Cursor::new(encoded), format).into_decoder().map_err(fail)?;
    let mut limits = Limits::default();
    limits.reserve(decoder.total_bytes()).map_err(fail)?;
    decoder.set_limits(limits).map_err(fail)?;
    let orientation = if options.exif { decoder.orientation().ok() } else { None };
    let image = DynamicImage::from_decoder(decoder).map_err(fail)?;
    let (height, width) = (image.height() as usize, image.width() as usize);
    let (native, pixels) = samples(image)?;
    let channels = if options.channels == 0 { native } else { options.channels };
    let pixels = if native == channels { pixels } else { convert(&pixels, native, channels)? };
    Ok((HostArray::new([height, width, channels], &pixels)?, orientation))
}

/// Whether a file is one that the reference's `decode(precise=True)` takes.
pub(super) fn is_jpeg_or_png(encoded: &[u8]) -> bool {
    matches!(image::guess_format(encoded), Ok(ImageFormat::Jpeg | ImageFormat::Png))
}

/// An image as it is meant to be seen.
fn turn(array: &HostArray, orientation: Orientation) -> Result<HostArray, Problem> {
    let &[height, width, channels] = array.dims() else {
        return Err(Problem::Image(format!("{} is no image", array.shape())));
    };
    // Whether rows become columns, and which of the image's own axes then run backwards.
    let (transposed, up, left) = match orientation {
        Orientation::NoTransforms => return Ok(array.clone()),
        Orientation::FlipHorizontal => (false, false, true),
        Orientation::Rotate180 => (false, true, true),
        Orientation::FlipVertical => (false, true, false),
        Orientation::Rotate90FlipH => (true, false, false),
        Orientation::Rotate90 => (true, true, false),
        Orientation::Rotate270FlipH => (true, true, true),
        Orientation::Rotate270 => (true, false, true),
    };
    let [out_height, out_width] = if transposed { [width, height] } else { [height, width] };
    let mut out = HostArray::zeros(Shape::new(DType::U8, [out_height, out_width, channels]));
    for (at, pixel) in out.bytes_mut().chunks_exact_mut(channels).enumerate() {
        let (y, x) = (at / out_width, at % out_width);
        let (y, x) = if transposed { (x, y) } else { (y, x) };
        let y = if up { height - 1 - y } else { y };
        let x = if left { width - 1 - x } else { x };
        pixel.copy_from_slice(&array.bytes()[(y * width + x) * channels..][..channels]);
    }
    Ok(out)
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

/// Weights of red, green and blue in gray, of 32768: 0.299 and 0.587 cut to 15 bits, as libpng has them. It
/// truncates sums.
const LUMA: [u32; 3] = [9797, 19234, 3737];

/// Pixels of `from` channels as pixels of `to`.
fn convert(pixels: &[u8], from: usize, to: usize) -> Result<Vec<u8>, Problem> {
    let gray = |rgb: [u8; 3]| {
        let sum: u32 = LUMA.iter().zip(rgb).map(|(weight, level)| weight * u32::from(level)).sum();
        (sum >> 15) as u8
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientations_are_those_of_the_image_crate() {
        let pixels: Vec<u8> = (0..3 * 5 * 3).collect();
        let array = HostArray::new([3, 5, 3], &pixels).unwrap();
        for orientation in (1..=8).filter_map(Orientation::from_exif) {
            let mut image = DynamicImage::ImageRgb8(image::RgbImage::from_raw(5, 3, pixels.clone()).unwrap());
            image.apply_orientation(orientation);
            let turned = turn(&array, orientation).unwrap();
            assert_eq!(turned.dims()[..2], [image.height() as usize, image.width() as usize]);
            assert_eq!(turned.bytes(), image.as_bytes(), "{orientation:?}");
        }
    }

    #[test]
    fn what_is_no_image_says_so() {
        let message = |encoded: &[u8]| decode(encoded, &DecodeOptions::default()).unwrap_err().to_string();
        assert_eq!(message(b""), "cannot decode image: the file is empty");
        let expected = "cannot decode image: the file is none of JPEG, PNG, WebP, GIF and BMP";
        assert_eq!(message(b"some text"), expected);
        let expected = "cannot decode image: the JPEG file ends in its header, it is cut";
        assert_eq!(message(&[0xFF, 0xD8, 0xFF, 0xE0]), expected);
    }
}
