//! JPEG files to pixels, bit for bit as TensorFlow and libjpeg-turbo decode them.
//!
//! Baseline, extended sequential and progressive files with Huffman codes and 8-bit samples, of one (gray), three
//! (YCbCr, RGB) or four (CMYK, YCCK) components. The reference trains on what the *fast* inverse DCT of libjpeg gives,
//! which differs from the accurate one by up to 11 levels; the common Rust decoders have neither that one nor
//! libjpeg's interpolation of subsampled colours, and bindings to libjpeg need an assembler and CMake to be as fast.
//! So this is a decoder of our own, in safe code.
//!
//! Damaged files are read as libjpeg reads them: bad codes and missing segments give wrong or gray blocks, as the
//! reference's pixels have them; but a file that ends before its end marker is an error, and so is a header that makes
//! no sense. Arithmetic codes, 12-bit samples, lossless and hierarchical files are refused.

mod bits;
mod colour;
mod degrade;
mod frame;
mod header;
mod huffman;
mod idct;
mod lanes;
mod scan;
mod smooth;
mod upsample;

pub use degrade::degrade;
pub use idct::Idct;

use frame::Frame;
use header::{Header, Next};

/// What is wrong with a JPEG file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the JPEG file ends in {part}, it is cut")]
    Cut { part: &'static str },
    #[error("the JPEG file is damaged: {0}")]
    Damaged(String),
    #[error("JPEG files with {0} are not supported")]
    Unsupported(String),
}

/// A decoded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Row by row, channels side by side.
    pub samples: Vec<u8>,
}

/// No image has more samples: TensorFlow's limit.
const MOST_SAMPLES: u64 = 1 << 29;

/// Decodes a file to 1 (gray) or 3 channels, or 0 for as many of these as it has. Its orientation and colour
/// profile are ignored.
///
/// # Errors
/// When the file is cut, damaged beyond what libjpeg reads, or of a kind that is not supported.
pub fn decode(encoded: &[u8], channels: usize, idct: Idct) -> Result<Pixels, Error> {
    let mut header = Header::new(encoded)?;
    let Next::Scan(mut scan) = header.next()? else {
        return Err(Error::Damaged("it has no image".to_owned()));
    };
    let mut frame = Frame::new(&header, idct)?;
    let conversion = colour::Conversion::new(&header, channels)?;
    if frame.is_progressive() || scan.components.len() < frame.num_components() {
        frame.buffer_coefficients();
        loop {
            scan::read(&mut header, &mut frame, &scan)?;
            match header.next()? {
                Next::Scan(next) => scan = next,
                Next::End => break,
            }
        }
        frame.transform_coefficients();
    } else {
        scan::read(&mut header, &mut frame, &scan)?;
        if let Next::Scan(_) = header.next()? {
            return Err(Error::Damaged("a second scan follows one that has all components".to_owned()));
        }
    }
    conversion.convert(&frame)
}

/// The Exif block of a file: what follows the mark `Exif`, up to the first scan.
pub(super) fn exif(encoded: &[u8]) -> Option<&[u8]> {
    let mut header = Header::new(encoded).ok()?;
    header.next().ok()?;
    header.exif
}
