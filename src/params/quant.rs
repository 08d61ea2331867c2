//! Kernels in few bits, for a base that is not trained: each block of neighbouring elements has a scale, by which
//! its codes are multiplied.
//!
//! Eight bits are the integers from -127 to 127 times a scale. Four bits are the sixteen values of NormalFloat
//! (Dettmers et al., "QLoRA", 2023, appendix E), which lie where a normal distribution has equal parts; two codes
//! share a byte, the first in its low half.

use rayon::prelude::*;

use crate::array::{DType, HostArray, Shape};

/// How a kernel is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    Int8,
    Nf4,
}

/// Elements that share a scale, where the elements of a layer are a multiple of it.
const BLOCK: usize = 64;

/// The values of the sixteen codes of four bits.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

impl Quant {
    pub const fn name(self) -> &'static str {
        match self {
            Quant::Int8 => "int8",
            Quant::Nf4 => "nf4",
        }
    }

    /// The kind that codes of this type are of.
    pub fn of_codes(dtype: DType) -> Option<Quant> {
        match dtype {
            DType::S8 => Some(Quant::Int8),
            DType::U8 => Some(Quant::Nf4),
            _ => None,
        }
    }

    /// Shapes of codes (those of the kernel, of which four bits halve the last) and of scales, `f32 [layers,
    /// blocks]`, of kernels with a leading axis of layers. `None` where it cannot be kept so: an odd last extent.
    pub fn shapes(self, kernel: &Shape) -> Option<(Shape, Shape)> {
        let (&layers, of_layer) = kernel.dims().split_first()?;
        let elements: usize = of_layer.iter().product();
        let mut dims = kernel.dims().to_vec();
        let dtype = match self {
            Quant::Int8 => DType::S8,
            Quant::Nf4 => {
                let last = dims.last_mut().filter(|last| last.is_multiple_of(2))?;
                *last /= 2;
                DType::U8
            }
        };
        let scales = Shape::new(DType::F32, [layers, elements / block_of(elements)]);
        Some((Shape::new(dtype, dims), scales))
    }

    /// The shape of a kernel from that of its codes.
    pub fn kernel_shape(self, codes: &Shape, dtype: DType) -> Shape {
        let mut dims = codes.dims().to_vec();
        if let (Quant::Nf4, Some(last)) = (self, dims.last_mut()) {
            *last *= 2;
        }
        Shape::new(dtype, dims)
    }

    /// Codes and scales of a kernel, with the shapes of [`shapes`](Self::shapes); `None` where that gives none.
    pub fn quantise(self, kernel: &HostArray) -> Option<(HostArray, HostArray)> {
        let (code_shape, scale_shape) = self.shapes(kernel.shape())?;
        let kernel = kernel.cast(DType::F32);
        let values: &[f32] = kernel.values().ok()?;
        let block = values.len() / scale_shape.num_elements().max(1);
        let (mut codes, mut scales) = (HostArray::zeros(code_shape), HostArray::zeros(scale_shape));
        let code_block = codes.bytes().len() / scales.shape().num_elements().max(1);
        let blocks = values.par_chunks(block.max(1)).zip(scales.values_mut::<f32>().ok()?);
        blocks.zip(codes.bytes_mut().par_chunks_mut(code_block.max(1))).for_each(
            |((values, scale), codes)| {
                let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                match self {
                    Quant::Int8 => {
                        *scale = largest / 127.0;
                        let factor = if largest == 0.0 { 0.0 } else { 127.0 / largest };
                        let pairs = codes.iter_mut().zip(values);
                        pairs.for_each(|(code, value)| *code = (value * factor).round() as i8 as u8);
                    }
                    Quant::Nf4 => {
                        *scale = largest;
                        let factor = if largest == 0.0 { 0.0 } else { 1.0 / largest };
                        let pairs = codes.iter_mut().zip(values.chunks_exact(2));
                        pairs.for_each(|(code, pair)| {
                            *code = nearest(pair[0] * factor) | nearest(pair[1] * factor) << 4;
                        });
                    }
                }
            },
        );
        Some((codes, scales))
    }

    /// The kernel that codes and scales stand for, in `f32`.
    pub fn dequantise(self, codes: &HostArray, scales: &HostArray) -> HostArray {
        let mut kernel = HostArray::zeros(self.kernel_shape(codes.shape(), DType::F32));
        let num_blocks = scales.shape().num_elements().max(1);
        let block = kernel.shape().num_elements() / num_blocks;
        let code_block = codes.bytes().len() / num_blocks;
        let scales = scales.to_f64();
        let Ok(values) = kernel.values_mut::<f32>() else { return kernel };
        let blocks = values.par_chunks_mut(block.max(1)).zip(codes.bytes().par_chunks(code_block.max(1)));
        blocks.zip(&scales).for_each(|((values, codes), &scale)| match self {
            Quant::Int8 => {
                let pairs = values.iter_mut().zip(codes);
                pairs.for_each(|(value, &code)| *value = f32::from(code as i8) * scale as f32);
            }
            Quant::Nf4 => values.chunks_exact_mut(2).zip(codes).for_each(|(pair, &code)| {
                pair[0] = NF4[usize::from(code & 15)] * scale as f32;
                pair[1] = NF4[usize::from(code >> 4)] * scale as f32;
            }),
        });
        kernel
    }
}

/// The size of blocks of so many elements: the largest divisor of [`BLOCK`] that fits.
fn block_of(elements: usize) -> usize {
    let mut block = BLOCK;
    while !elements.is_multiple_of(block) {
        block /= 2;
    }
    block
}

/// The code whose value is the nearest.
fn nearest(value: f32) -> u8 {
    let above = NF4.partition_point(|&known| known < value).min(15);
    let below = above.saturating_sub(1);
    (if value - NF4[below] <= NF4[above] - value { below } else { above }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Init;

    fn kernel(dims: &[usize]) -> HostArray {
        Init::Normal { stddev: 0.02 }.draw("w", &Shape::new(DType::F32, dims), 3).unwrap()
    }

    /// Root mean square of the difference, over that of the kernel.
    fn relative_error(quant: Quant, kernel: &HostArray) -> f64 {
        let (codes, scales) = quant.quantise(kernel).unwrap();
        let (got, wanted) = (quant.dequantise(&codes, &scales).to_f64(), kernel.to_f64());
        let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = sum(&mut got.iter().zip(&wanted).map(|(a, b)| a - b));
        (error / sum(&mut wanted.iter().copied())).sqrt()
    }

    #[test]
    fn errors_are_those_of_the_number_of_bits() {
        let kernel = kernel(&[3, 8, 64, 32]);
        // Blocks of 64 normal numbers reach 2.4 standard deviations: 2.4 / 127 / sqrt(12) = 0.0055 is expected.
        let int8 = relative_error(Quant::Int8, &kernel);
        assert!((0.004..0.007).contains(&int8), "{int8}");
        let nf4 = relative_error(Quant::Nf4, &kernel);
        assert!((0.07..0.11).contains(&nf4), "{nf4}");
    }

    #[test]
    fn no_element_is_off_by_more_than_half_a_step_of_its_block() {
        let kernel = kernel(&[2, 40, 6]);
        let (codes, scales) = Quant::Int8.quantise(&kernel).unwrap();
        // 240 elements are no multiple of 64, but of 16.
        assert_eq!((codes.dims(), scales.dims()), (&[2, 40, 6][..], &[2, 15][..]));
        let got = Quant::Int8.dequantise(&codes, &scales).to_f64();
        for (i, (got, wanted)) in got.iter().zip(kernel.to_f64()).enumerate() {
            let step = scales.to_f64()[i / 16];
            assert!((got - wanted).abs() <= step * 0.500_01, "{i}: {got} for {wanted}");
        }
    }

    #[test]
    fn codes_of_four_bits_are_the_nearest_values() {
        for (code, value) in NF4.into_iter().enumerate() {
            assert_eq!(usize::from(nearest(value)), code);
        }
        assert_eq!([nearest(-2.0), nearest(0.03), nearest(0.05), nearest(2.0)], [0, 7, 8, 15]);
        let (codes, scales) = Quant::Nf4.quantise(&kernel(&[2, 8, 8])).unwrap();
        assert_eq!((codes.dtype(), codes.dims(), scales.dims()), (DType::U8, &[2, 8, 4][..], &[2, 1][..]));
        assert_eq!(Quant::Nf4.shapes(&Shape::new(DType::F32, [2, 8, 3])), None);
    }

    #[test]
    fn zeros_stay_zeros() {
        let zeros = HostArray::zeros(Shape::new(DType::F32, [1, 64]));
        for quant in [Quant::Int8, Quant::Nf4] {
            let (codes, scales) = quant.quantise(&zeros).unwrap();
            assert_eq!(quant.dequantise(&codes, &scales), zeros);
        }
    }
}
