//! Eight 16-bit integers at once: what an inverse DCT computes with.
//!
//! Arithmetic wraps and packing saturates, as in SSE2, which is used where every machine has it; elsewhere arrays do
//! the same. Results on damaged files, whose coefficients overflow, are thereby libjpeg-turbo's on x86-64 too.

#[cfg(not(target_arch = "x86_64"))]
pub(super) use arrays::{I16x8, I32x8};
#[cfg(target_arch = "x86_64")]
pub(super) use sse2::{I16x8, I32x8};

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::*;
    use std::ops::{Add, Mul, Sub};

    /// Eight 16-bit integers.
    #[derive(Clone, Copy)]
    pub struct I16x8(__m128i);

    /// Eight 32-bit integers.
    #[derive(Clone, Copy)]
    pub struct I32x8(__m128i, __m128i);

    /// Names instructions of SSE2, which every x86-64 has, as safe functions.
    macro_rules! instructions {
        ($($name:ident: $instruction:ident),* $(,)?) => { $(
            #[inline(always)]
            fn $name(a: __m128i, b: __m128i) -> __m128i {
                // SAFETY: SSE2 is a part of x86-64.
                unsafe { $instruction(a, b) }
            }
        )* };
        ($($name:ident::<BITS>: $instruction:ident),* $(,)?) => { $(
            #[inline(always)]
            fn $name<const BITS: i32>(a: __m128i) -> __m128i {
                // SAFETY: SSE2 is a part of x86-64.
                unsafe { $instruction::<BITS>(a) }
            }
        )* };
    }

    instructions! {
        add_16: _mm_add_epi16,
        sub_16: _mm_sub_epi16,
        mul_low_16: _mm_mullo_epi16,
        mul_high_16: _mm_mulhi_epi16,
        add_32: _mm_add_epi32,
        sub_32: _mm_sub_epi32,
        mul_and_add_pairs: _mm_madd_epi16,
        pack_32: _mm_packs_epi32,
        pack_16: _mm_packs_epi16,
        low_16: _mm_unpacklo_epi16,
        high_16: _mm_unpackhi_epi16,
        low_32: _mm_unpacklo_epi32,
        high_32: _mm_unpackhi_epi32,
        low_64: _mm_unpacklo_epi64,
        high_64: _mm_unpackhi_epi64,
        xor: _mm_xor_si128,
    }

    instructions! {
        shl_16::<BITS>: _mm_slli_epi16,
        shr_16::<BITS>: _mm_srai_epi16,
        shr_32::<BITS>: _mm_srai_epi32,
    }

    impl I16x8 {
        #[inline(always)]
        pub fn from_array(values: [i16; 8]) -> Self {
            I16x8(bytemuck::cast(values))
        }

        #[inline(always)]
        pub fn to_array(self) -> [i16; 8] {
            bytemuck::cast(self.0)
        }

        /// The high half of the products with a constant.
        #[inline(always)]
        pub fn mul_high(self, constant: i16) -> Self {
            I16x8(mul_high_16(self.0, bytemuck::cast([constant; 8])))
        }

        #[inline(always)]
        pub fn shl<const BITS: i32>(self) -> Self {
            I16x8(shl_16::<BITS>(self.0))
        }

        #[inline(always)]
        pub fn shr<const BITS: i32>(self) -> Self {
            I16x8(shr_16::<BITS>(self.0))
        }

        /// `self * a + other * b`.
        #[inline(always)]
        pub fn dot(self, other: Self, a: i16, b: i16) -> I32x8 {
            let factors = bytemuck::cast([a, b, a, b, a, b, a, b]);
            let (low, high) = (low_16(self.0, other.0), high_16(self.0, other.0));
            I32x8(mul_and_add_pairs(low, factors), mul_and_add_pairs(high, factors))
        }

        /// `self << 13`, without loss.
        #[inline(always)]
        pub fn widen_shl_13(self) -> I32x8 {
            let zero = bytemuck::cast([0i16; 8]);
            I32x8(shr_32::<3>(low_16(zero, self.0)), shr_32::<3>(high_16(zero, self.0)))
        }

        /// Rows to columns.
        #[inline(always)]
        pub fn transpose(rows: [Self; 8]) -> [Self; 8] {
            let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
            // Of pairs of rows, then of fours: columns 0 and 1, 2 and 3, 4 and 5, 6 and 7.
            let four = |a: Self, b: Self, c: Self, d: Self| {
                let (ab, cd) = ((low_16(a.0, b.0), high_16(a.0, b.0)), (low_16(c.0, d.0), high_16(c.0, d.0)));
                (low_32(ab.0, cd.0), high_32(ab.0, cd.0), low_32(ab.1, cd.1), high_32(ab.1, cd.1))
            };
            let (upper, lower) = (four(r0, r1, r2, r3), four(r4, r5, r6, r7));
            [
                I16x8(low_64(upper.0, lower.0)),
                I16x8(high_64(upper.0, lower.0)),
                I16x8(low_64(upper.1, lower.1)),
                I16x8(high_64(upper.1, lower.1)),
                I16x8(low_64(upper.2, lower.2)),
                I16x8(high_64(upper.2, lower.2)),
                I16x8(low_64(upper.3, lower.3)),
                I16x8(high_64(upper.3, lower.3)),
            ]
        }

        /// As samples, whose zero is 128, cut to their range.
        #[inline(always)]
        pub fn to_samples(self) -> [u8; 8] {
            let [samples, _] =
                bytemuck::cast::<_, [[u8; 8]; 2]>(xor(pack_16(self.0, self.0), bytemuck::cast([128u8; 16])));
            samples
        }
    }

    impl I32x8 {
        /// Divides by a power of two, rounding halves up, and cuts to 16 bits.
        #[inline(always)]
        pub fn descale<const BITS: i32>(self) -> I16x8 {
            let half = bytemuck::cast([1i32 << (BITS - 1); 4]);
            I16x8(pack_32(shr_32::<BITS>(add_32(self.0, half)), shr_32::<BITS>(add_32(self.1, half))))
        }
    }

    impl Add for I16x8 {
        type Output = Self;
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            I16x8(add_16(self.0, other.0))
        }
    }

    impl Sub for I16x8 {
        type Output = Self;
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            I16x8(sub_16(self.0, other.0))
        }
    }

    impl Mul for I16x8 {
        type Output = Self;
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            I16x8(mul_low_16(self.0, other.0))
        }
    }

    impl Add for I32x8 {
        type Output = Self;
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            I32x8(add_32(self.0, other.0), add_32(self.1, other.1))
        }
    }

    impl Sub for I32x8 {
        type Output = Self;
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            I32x8(sub_32(self.0, other.0), sub_32(self.1, other.1))
        }
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod arrays {
    use std::array::from_fn;
    use std::ops::{Add, Mul, Sub};

    /// Eight 16-bit integers.
    #[derive(Clone, Copy)]
    pub struct I16x8([i16; 8]);

    /// Eight 32-bit integers.
    #[derive(Clone, Copy)]
    pub struct I32x8([i32; 8]);

    impl I16x8 {
        #[inline(always)]
        pub fn from_array(values: [i16; 8]) -> Self {
            I16x8(values)
        }

        #[inline(always)]
        pub fn to_array(self) -> [i16; 8] {
            self.0
        }

        /// The high half of the products with a constant.
        #[inline(always)]
        pub fn mul_high(self, constant: i16) -> Self {
            I16x8(self.0.map(|value| ((i32::from(value) * i32::from(constant)) >> 16) as i16))
        }

        #[inline(always)]
        pub fn shl<const BITS: i32>(self) -> Self {
            I16x8(self.0.map(|value| value << BITS))
        }

        #[inline(always)]
        pub fn shr<const BITS: i32>(self) -> Self {
            I16x8(self.0.map(|value| value >> BITS))
        }

        /// `self * a + other * b`.
        #[inline(always)]
        pub fn dot(self, other: Self, a: i16, b: i16) -> I32x8 {
            let product = |value: i16, factor: i16| i32::from(value) * i32::from(factor);
            I32x8(from_fn(|i| product(self.0[i], a).wrapping_add(product(other.0[i], b))))
        }

        /// `self << 13`, without loss.
        #[inline(always)]
        pub fn widen_shl_13(self) -> I32x8 {
            I32x8(self.0.map(|value| i32::from(value) << 13))
        }

        /// Rows to columns.
        #[inline(always)]
        pub fn transpose(rows: [Self; 8]) -> [Self; 8] {
            from_fn(|column| I16x8(from_fn(|row| rows[row].0[column])))
        }

        /// As samples, whose zero is 128, cut to their range.
        #[inline(always)]
        pub fn to_samples(self) -> [u8; 8] {
            self.0.map(|value| (value.clamp(-128, 127) + 128) as u8)
        }
    }

    impl I32x8 {
        /// Divides by a power of two, rounding halves up, and cuts to 16 bits.
        #[inline(always)]
        pub fn descale<const BITS: i32>(self) -> I16x8 {
            let (least, most) = (i32::from(i16::MIN), i32::from(i16::MAX));
            let shift = |value: i32| value.wrapping_add(1 << (BITS - 1)) >> BITS;
            I16x8(self.0.map(|value| shift(value).clamp(least, most) as i16))
        }
    }

    impl Add for I16x8 {
        type Output = Self;
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            I16x8(from_fn(|i| self.0[i].wrapping_add(other.0[i])))
        }
    }

    impl Sub for I16x8 {
        type Output = Self;
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            I16x8(from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
        }
    }

    impl Mul for I16x8 {
        type Output = Self;
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            I16x8(from_fn(|i| self.0[i].wrapping_mul(other.0[i])))
        }
    }

    impl Add for I32x8 {
        type Output = Self;
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            I32x8(from_fn(|i| self.0[i].wrapping_add(other.0[i])))
        }
    }

    impl Sub for I32x8 {
        type Output = Self;
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            I32x8(from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{arrays, sse2};

    /// Both forms on the same numbers, extremes among them.
    #[test]
    fn sse2_and_arrays_agree() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = (state >> 16) as i16;
            [value, value >> 6, i16::MIN, i16::MAX][(state >> 8 & 7).min(3) as usize]
        };
        for _ in 0..500 {
            let rows: [[i16; 8]; 8] = std::array::from_fn(|_| std::array::from_fn(|_| next()));
            let (a, b) = (rows.map(sse2::I16x8::from_array), rows.map(arrays::I16x8::from_array));
            macro_rules! agree {
                ($v:ident, $of:expr) => {{
                    let of_sse2 = {
                        let $v = a;
                        $of
                    };
                    let of_arrays = {
                        let $v = b;
                        $of
                    };
                    assert_eq!(of_sse2.to_samples(), of_arrays.to_samples(), stringify!($of));
                }};
            }
            agree!(v, v[0] + v[1]);
            agree!(v, v[0] - v[1]);
            agree!(v, (v[0] * v[1]).shr::<8>());
            agree!(v, v[2].mul_high(-26_409).shr::<3>());
            agree!(v, v[2].shl::<2>().shr::<5>());
            agree!(v, v[3].dot(v[4], 10_703, -15_137).descale::<18>());
            agree!(v, (v[3].dot(v[4], 4433, 2446) - v[5].widen_shl_13()).descale::<11>().shr::<7>());
            agree!(v, (v[3].dot(v[4], -7373, 9633) + v[6].widen_shl_13()).descale::<18>());
            let transposed = sse2::I16x8::transpose(a).map(sse2::I16x8::to_array);
            assert_eq!(transposed, arrays::I16x8::transpose(b).map(arrays::I16x8::to_array));
        }
    }
}
