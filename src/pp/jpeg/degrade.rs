//! What is left of an image that is written as a JPEG file and read again.
//!
//! Only the loss is computed: entropy coding loses nothing. It is that of TensorFlow's `encode_jpeg`, bit for bit:
//! colours at half the size, libjpeg's accurate forward DCT and its tables.

use super::colour::Conversion;
use super::frame::{Frame, Plane};
use super::header::{ComponentHeader, FrameHeader};
use super::idct::{Idct, accurate};
use super::lanes::{I16x8, I32x8};
use super::{Error, Pixels};

/// ITU-T T.81, annex K.1, row by row.
const LUMINANCE: [u16; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17,
    22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78,
    87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
/// Its first four rows and columns; all others are 99.
const CHROMINANCE: [[u16; 4]; 4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]];

/// Writes and reads an image of 1 or 3 channels, at a quality of 1 to 100.
///
/// # Errors
/// When the image is empty, larger than JPEG files can be, or of another number of channels.
pub fn degrade(image: &Pixels, quality: u32, idct: Idct) -> Result<Pixels, Error> {
    let Pixels { height, width, channels, .. } = *image;
    if !(1..1 << 16).contains(&height) || !(1..1 << 16).contains(&width) || ![1, 3].contains(&channels) {
        return Err(Error::Unsupported(format!("{height}x{width} pixels of {channels} channels")));
    }
    let component =
        |id, side| ComponentHeader { id, across: side, down: side, quantization: usize::from(id > 1) };
    let components = match channels {
        1 => vec![component(1, 1)],
        _ => vec![component(1, 2), component(2, 1), component(3, 1)],
    };
    let header = FrameHeader { is_progressive: false, height, width, components };
    let mut frame = Frame::of(&header, idct);
    frame.buffer_coefficients();
    for (at, plane) in frame.planes.iter_mut().enumerate() {
        let table = table(plane.header.quantization > 0, quality);
        plane.multipliers = idct.multipliers(&table);
        transform(plane, &component_samples(image, at, plane), &table);
    }
    frame.transform_coefficients();
    let conversion = if channels == 1 { Conversion::Gray } else { Conversion::RgbOfYcc };
    conversion.convert(&frame)
}

/// libjpeg's quantization table for a quality.
fn table(is_chrominance: bool, quality: u32) -> [u16; 64] {
    let quality = quality.clamp(1, 100);
    let percent = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    std::array::from_fn(|at| {
        let base = match (is_chrominance, at / 8, at % 8) {
            (false, ..) => LUMINANCE[at],
            (true, row @ ..4, column @ ..4) => CHROMINANCE[row][column],
            _ => 99,
        };
        ((u32::from(base) * percent + 50) / 100).clamp(1, 255) as u16
    })
}

/// All samples of the blocks of one component, as many in a row as the plane stores. What lies beyond the image
/// repeats its edge.
fn component_samples(image: &Pixels, component: usize, plane: &Plane) -> Vec<u8> {
    let stride = 8 * plane.stored_across;
    let sample = |y: usize, x: usize| {
        let at = (y.min(image.height - 1) * image.width + x.min(image.width - 1)) * image.channels;
        match image.samples[at..at + image.channels] {
            [r, g, b] => ycc([r, g, b], component),
            _ => image.samples[at],
        }
    };
    let is_halved = component > 0;
    let value = |at: usize| {
        let (y, x) = ((at / stride).min(plane.height - 1), at % stride);
        if !is_halved {
            return sample(y, x);
        }
        // Rounded up and down by turns.
        let bias = 1 + (x % 2) as u32;
        let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(i, j)| u32::from(sample(2 * y + i, 2 * x + j)));
        ((four.iter().sum::<u32>() + bias) >> 2) as u8
    };
    (0..plane.samples.len()).map(value).collect()
}

/// Luma and the differences of colours, with sixteen fractional bits.
fn ycc(rgb: [u8; 3], component: usize) -> u8 {
    const WEIGHTS: [[i32; 3]; 3] = [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]];
    let offset = if component == 0 { 1 << 15 } else { (128 << 16) + (1 << 15) - 1 };
    let sum: i32 = WEIGHTS[component].iter().zip(rgb).map(|(weight, level)| weight * i32::from(level)).sum();
    ((sum + offset) >> 16) as u8
}

/// Quantized coefficients of all blocks.
fn transform(plane: &mut Plane, samples: &[u8], table: &[u16; 64]) {
    let stride = 8 * plane.stored_across;
    for (at, block) in plane.coefficients.iter_mut().enumerate() {
        let (y, x) = (at / plane.stored_across, at % plane.stored_across);
        let rows: [I16x8; 8] = std::array::from_fn(|i| {
            let row = &samples[(8 * y + i) * stride + 8 * x..][..8];
            I16x8::from_array(std::array::from_fn(|j| i16::from(row[j]) - 128))
        });
        let passed = forward_pass::<11>(I16x8::transpose(rows), true);
        let values = forward_pass::<15>(I16x8::transpose(passed), false);
        let values = values.map(I16x8::to_array);
        for ((to, &value), &step) in block.iter_mut().zip(values.as_flattened()).zip(table) {
            // The transform's results are eight times the coefficients.
            let (value, step) = (i32::from(value), 8 * i32::from(step));
            let size = (value.abs() + step / 2) / step;
            *to = (if value < 0 { -size } else { size }) as i16;
        }
    }
}

/// One dimension of Loeffler, Ligtenberg and Moschytz's transform, which takes `BITS` fractional bits off; compare the
/// inverse.
fn forward_pass<const BITS: i32>(input: [I16x8; 8], is_first: bool) -> [I16x8; 8] {
    use accurate::*;
    let [in0, in1, in2, in3, in4, in5, in6, in7] = input;
    let (sum07, odd7) = (in0 + in7, in0 - in7);
    let (sum16, odd6) = (in1 + in6, in1 - in6);
    let (sum25, odd5) = (in2 + in5, in2 - in5);
    let (sum34, odd4) = (in3 + in4, in3 - in4);

    let (outer, outer_difference) = (sum07 + sum34, sum07 - sum34);
    let (inner, inner_difference) = (sum16 + sum25, sum16 - sum25);
    // The first pass leaves two bits for the second to take off.
    let whole =
        |value: I16x8| if is_first { value.shl::<2>() } else { value.dot(value, 1, 0).descale::<2>() };
    let turned2 = outer_difference.dot(inner_difference, F0_541 + F0_765, F0_541);
    let turned6 = outer_difference.dot(inner_difference, F0_541, F0_541 - F1_847);

    let (sum46, sum57) = (odd4 + odd6, odd5 + odd7);
    let z3 = sum46.dot(sum57, F1_175 - F1_961, F1_175);
    let z4 = sum46.dot(sum57, F1_175, F1_175 - F0_390);
    let turned7 = odd4.dot(odd7, F0_298 - F0_899, -F0_899) + z3;
    let turned1 = odd4.dot(odd7, -F0_899, F1_501 - F0_899) + z4;
    let turned5 = odd5.dot(odd6, F2_053 - F2_562, -F2_562) + z4;
    let turned3 = odd5.dot(odd6, -F2_562, F3_072 - F2_562) + z3;

    let descale = I32x8::descale::<BITS>;
    [
        whole(outer + inner),
        descale(turned1),
        descale(turned2),
        descale(turned3),
        whole(outer - inner),
        descale(turned5),
        descale(turned6),
        descale(turned7),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_the_quality() {
        assert_eq!(table(false, 50), LUMINANCE);
        assert_eq!(table(false, 100), [1; 64]);
        assert_eq!(table(true, 75)[..9], [9, 9, 12, 24, 50, 50, 50, 50, 9]);
        assert_eq!(table(true, 0), table(true, 1));
        assert_eq!(table(true, 1), [255; 64]);
    }

    /// Digests of what `tf.image.adjust_jpeg_quality` of TensorFlow 2.21 makes of decoded images.
    #[test]
    fn losses_are_those_of_tensorflow() {
        use sha2::{Digest, Sha256};
        let (colour, gray) = (("grad_37x53.png", 3), ("gray_90x120.png", 1));
        for ((file, channels), quality, idct, expected) in [
            (colour, 75, Idct::Fast, "0cc7cab6ce06899ca88662099bd8c3fefc60d28838f4fe6000b83a5ad4eebb7d"),
            (colour, 90, Idct::Accurate, "82a20316119249a85a2f35ec8c63c24bd236ed6f78388e781bec3d8b0f4769c2"),
            (colour, 20, Idct::Fast, "a1da3afa41c183e6941324661efd72552360695381401b522fc8b9d24c5c95d2"),
            (gray, 75, Idct::Fast, "b362a302626926226828d9dec28d7028763c5024e2d442cc5e462642002f1834"),
            (gray, 90, Idct::Accurate, "75e413206a7147da562e496b9fed088fd3bc041acc05af298d45de422077cc08"),
            (gray, 20, Idct::Fast, "b64e47107417194876cd1bef447c8a39cc0a88ebf7d5ae2a5336491315c33c3a"),
        ] {
            let path = format!("{}/tests/data/image/files/{file}", env!("CARGO_MANIFEST_DIR"));
            let options = crate::pp::DecodeOptions { channels, ..Default::default() };
            let image = crate::pp::decode(&std::fs::read(path).unwrap(), &options).unwrap();
            let (height, width) = (image.dims()[0], image.dims()[1]);
            let pixels = Pixels { height, width, channels, samples: image.bytes().to_vec() };
            let degraded = degrade(&pixels, quality, idct).unwrap();
            let digest: String =
                Sha256::digest(&degraded.samples).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, expected, "{file} {quality} {idct:?}");
        }
    }

    #[test]
    fn flat_images_survive() {
        let image = Pixels { height: 13, width: 9, channels: 3, samples: [120, 130, 140].repeat(13 * 9) };
        for idct in [Idct::Fast, Idct::Accurate] {
            let degraded = degrade(&image, 95, idct).unwrap();
            assert_eq!((degraded.height, degraded.width, degraded.channels), (13, 9, 3));
            assert!(degraded.samples.iter().zip(&image.samples).all(|(a, b)| a.abs_diff(*b) <= 3));
        }
        let wrong = Pixels { channels: 2, ..image };
        assert!(degrade(&wrong, 95, Idct::Fast).is_err());
    }
}
