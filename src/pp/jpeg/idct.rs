//! Inverse DCTs, bit for bit those of libjpeg-turbo.
//!
//! The fast one is Arai, Agui and Nakajima's (five multiplications) with eight fractional bits, whose scale factors
//! are part of the multipliers that coefficients are dequantized with. The accurate one is Loeffler, Ligtenberg and
//! Moschytz's with thirteen. Both work on columns, then on rows.

use super::lanes::{I16x8, I32x8};

/// Coefficients or multipliers of one block, row by row.
pub(super) type Block = [i16; 64];

/// Which inverse DCT makes samples of coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idct {
    /// What libjpeg calls `JDCT_IFAST`, TensorFlow's default.
    Fast,
    /// What libjpeg calls `JDCT_ISLOW`, most other programs' default.
    Accurate,
}

impl Idct {
    /// What coefficients are multiplied with, given the quantization table.
    pub(super) fn multipliers(self, quantization: &[u16; 64]) -> Block {
        match self {
            Idct::Accurate => quantization.map(|value| value as i16),
            Idct::Fast => std::array::from_fn(|i| {
                let scaled = i32::from(quantization[i]) * scale(i / 8, i % 8);
                ((scaled + (1 << 11)) >> 12) as i16
            }),
        }
    }

    /// The samples of a block, at the beginning of `out`, whose rows are `stride` apart. All coefficients but the
    /// first must be zero if `is_flat`.
    #[inline(always)]
    pub(super) fn write(
        self,
        block: &Block,
        multipliers: &Block,
        is_flat: bool,
        out: &mut [u8],
        stride: usize,
    ) {
        let rows = if is_flat {
            [self.flat(block[0].wrapping_mul(multipliers[0])); 8]
        } else {
            let (values, factors) = (block.as_chunks::<8>().0, multipliers.as_chunks::<8>().0);
            let row = |i: usize| I16x8::from_array(values[i]) * I16x8::from_array(factors[i]);
            let columns = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
            match self {
                Idct::Fast => fast(columns),
                // libjpeg-turbo's shortcut, which matters where numbers overflow.
                Idct::Accurate if values[1..].iter().all(|row| *row == [0; 8]) => {
                    accurate_rows([columns[0].shl::<2>(); 8])
                }
                Idct::Accurate => accurate_rows(descale::<11>(accurate_pass(columns))),
            }
        };
        for (y, row) in rows.iter().enumerate() {
            out[y * stride..][..8].copy_from_slice(row);
        }
    }

    fn flat(self, dc: i16) -> [u8; 8] {
        let level = match self {
            Idct::Fast => dc >> 5,
            Idct::Accurate => ((i32::from(dc << 2) + (1 << 4)) >> 5) as i16,
        };
        [(level.clamp(-128, 127) + 128) as u8; 8]
    }
}

/// 2^14 times the scale factor of a coefficient.
fn scale(row: usize, column: usize) -> i32 {
    let factor = |k: usize| match k {
        0 => 1.0,
        k => (k as f64 * std::f64::consts::PI / 16.0).cos() * std::f64::consts::SQRT_2,
    };
    (factor(row) * factor(column) * 16384.0).round() as i32
}

#[inline(always)]
fn fast(columns: [I16x8; 8]) -> [[u8; 8]; 8] {
    let [a, b, c, d, e, f, g, h] = fast_pass(I16x8::transpose(fast_pass(columns)));
    let shifted = [
        a.shr::<5>(),
        b.shr::<5>(),
        c.shr::<5>(),
        d.shr::<5>(),
        e.shr::<5>(),
        f.shr::<5>(),
        g.shr::<5>(),
        h.shr::<5>(),
    ];
    samples(I16x8::transpose(shifted))
}

/// One dimension of the fast transform. Products are of numbers with two bits more and constants with 14.
#[inline(always)]
fn fast_pass(input: [I16x8; 8]) -> [I16x8; 8] {
    // 1.414, 1.847, 1.082 and -1.613 with eight fractional bits.
    const SQRT_2: i16 = 362 << 6;
    const C2: i16 = 473 << 6;
    const C2_MINUS_C6: i16 = 277 << 6;
    const C2_PLUS_C6_LESS_1: i16 = -((669 - 256) << 6);
    let [in0, in1, in2, in3, in4, in5, in6, in7] = input;

    let (sum04, difference04) = (in0 + in4, in0 - in4);
    let sum26 = in2 + in6;
    let turned26 = (in2 - in6).shl::<2>().mul_high(SQRT_2) - sum26;
    let (even0, even3) = (sum04 + sum26, sum04 - sum26);
    let (even1, even2) = (difference04 + turned26, difference04 - turned26);

    let (sum53, difference53) = (in5 + in3, in5 - in3);
    let (sum17, difference17) = (in1 + in7, in1 - in7);
    let odd7 = sum17 + sum53;
    let turned = (sum17 - sum53).shl::<2>().mul_high(SQRT_2);
    let (scaled53, scaled17) = (difference53.shl::<2>(), difference17.shl::<2>());
    let both = (scaled53 + scaled17).mul_high(C2);
    let odd6 = scaled53.mul_high(C2_PLUS_C6_LESS_1) - difference53 + both - odd7;
    let odd5 = turned - odd6;
    let odd4 = scaled17.mul_high(C2_MINUS_C6) - both + odd5;

    [
        even0 + odd7,
        even1 + odd6,
        even2 + odd5,
        even3 - odd4,
        even3 + odd4,
        even2 - odd5,
        even1 - odd6,
        even0 - odd7,
    ]
}

#[inline(always)]
fn accurate_rows(rows: [I16x8; 8]) -> [[u8; 8]; 8] {
    samples(I16x8::transpose(descale::<18>(accurate_pass(I16x8::transpose(rows)))))
}

// `array::map` and `from_fn` are not always inlined, and cost more than the transforms then.

#[inline(always)]
fn samples([a, b, c, d, e, f, g, h]: [I16x8; 8]) -> [[u8; 8]; 8] {
    [
        a.to_samples(),
        b.to_samples(),
        c.to_samples(),
        d.to_samples(),
        e.to_samples(),
        f.to_samples(),
        g.to_samples(),
        h.to_samples(),
    ]
}

#[inline(always)]
fn descale<const BITS: i32>([a, b, c, d, e, f, g, h]: [I32x8; 8]) -> [I16x8; 8] {
    [
        a.descale::<BITS>(),
        b.descale::<BITS>(),
        c.descale::<BITS>(),
        d.descale::<BITS>(),
        e.descale::<BITS>(),
        f.descale::<BITS>(),
        g.descale::<BITS>(),
        h.descale::<BITS>(),
    ]
}

/// Constants of the accurate transforms, with thirteen fractional bits.
pub(super) mod accurate {
    pub const F0_298: i16 = 2446;
    pub const F0_390: i16 = 3196;
    pub const F0_541: i16 = 4433;
    pub const F0_765: i16 = 6270;
    pub const F0_899: i16 = 7373;
    pub const F1_175: i16 = 9633;
    pub const F1_501: i16 = 12299;
    pub const F1_847: i16 = 15137;
    pub const F1_961: i16 = 16069;
    pub const F2_053: i16 = 16819;
    pub const F2_562: i16 = 20995;
    pub const F3_072: i16 = 25172;
}

/// One dimension of the accurate transform, with thirteen fractional bits.
#[inline(always)]
fn accurate_pass(input: [I16x8; 8]) -> [I32x8; 8] {
    use accurate::*;
    let [in0, in1, in2, in3, in4, in5, in6, in7] = input;

    let turned2 = in2.dot(in6, F0_541, F0_541 - F1_847);
    let turned3 = in2.dot(in6, F0_541 + F0_765, F0_541);
    let (sum04, difference04) = ((in0 + in4).widen_shl_13(), (in0 - in4).widen_shl_13());
    let (even0, even3) = (sum04 + turned3, sum04 - turned3);
    let (even1, even2) = (difference04 + turned2, difference04 - turned2);

    let (sum37, sum15) = (in3 + in7, in1 + in5);
    let z3 = sum37.dot(sum15, F1_175 - F1_961, F1_175);
    let z4 = sum37.dot(sum15, F1_175, F1_175 - F0_390);
    let odd0 = in7.dot(in1, F0_298 - F0_899, -F0_899) + z3;
    let odd3 = in7.dot(in1, -F0_899, F1_501 - F0_899) + z4;
    let odd1 = in5.dot(in3, F2_053 - F2_562, -F2_562) + z4;
    let odd2 = in5.dot(in3, -F2_562, F3_072 - F2_562) + z3;

    [
        even0 + odd3,
        even1 + odd2,
        even2 + odd1,
        even3 + odd0,
        even3 - odd0,
        even2 - odd1,
        even1 - odd2,
        even0 - odd3,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The transform as it is defined.
    fn exact(block: &Block) -> [f64; 64] {
        use std::f64::consts::{FRAC_1_SQRT_2, PI};
        let factor = |k: usize| if k == 0 { FRAC_1_SQRT_2 } else { 1.0 };
        let wave = |k: usize, x: usize| factor(k) * ((2 * x + 1) as f64 * k as f64 * PI / 16.0).cos() / 2.0;
        std::array::from_fn(|at| {
            let (y, x) = (at / 8, at % 8);
            let terms = (0..64).map(|i| f64::from(block[i]) * wave(i / 8, y) * wave(i % 8, x));
            terms.sum::<f64>() + 128.0
        })
    }

    fn samples(idct: Idct, block: &Block, is_flat: bool) -> [u8; 64] {
        let mut out = [0; 64];
        idct.write(block, &idct.multipliers(&[1; 64]), is_flat, &mut out, 8);
        out
    }

    #[test]
    fn both_are_near_the_definition() {
        let mut state = 7u32;
        for round in 0..200 {
            let block: Block = std::array::from_fn(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let size = 400 / (1 + i as i32 * (1 + round % 50));
                ((state >> 8) as i32 % (2 * size + 1) - size) as i16
            });
            for (idct, most) in [(Idct::Accurate, 1.0), (Idct::Fast, 14.0)] {
                for (got, expected) in samples(idct, &block, false).into_iter().zip(exact(&block)) {
                    let difference = f64::from(got) - expected.clamp(0.0, 255.0);
                    assert!(difference.abs() <= most, "{idct:?}: {got} for {expected}");
                }
            }
        }
    }

    #[test]
    fn flat_blocks_need_no_transform() {
        for idct in [Idct::Fast, Idct::Accurate] {
            for dc in -2100..2100 {
                let mut block = [0; 64];
                block[0] = dc;
                assert_eq!(samples(idct, &block, true), samples(idct, &block, false), "{idct:?} {dc}");
            }
        }
    }
}
