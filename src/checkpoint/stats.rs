//! What the elements of a tensor are like.

use rayon::prelude::*;

use super::{Error, Reader};
use crate::array::{HostArray, Shape};

/// Statistics over the elements that are finite, and how many are not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    /// `+∞` where no element is finite.
    pub min: f64,
    /// `-∞` where no element is finite.
    pub max: f64,
    sum: f64,
    pub num_finite: usize,
    pub num_nan: usize,
    pub num_infinite: usize,
}

impl Stats {
    const NONE: Stats = Stats {
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        sum: 0.0,
        num_finite: 0,
        num_nan: 0,
        num_infinite: 0,
    };

    /// Reads a tensor, a piece at a time and several at once.
    ///
    /// # Errors
    /// When there is no such tensor, or it is damaged or unreadable.
    pub fn of(reader: &dyn Reader, name: &str) -> Result<Self, Error> {
        const PIECE: usize = 8 << 20;
        let dtype = reader.shape(name)?.dtype();
        let owned;
        let bytes = match reader.borrow(name)? {
            Some(bytes) => bytes,
            None => {
                owned = reader.read(name)?;
                owned.bytes()
            }
        };
        let piece = |(index, bytes): (usize, &[u8])| {
            let mut array = HostArray::zeros(Shape::new(dtype, [bytes.len() / dtype.num_bytes()]));
            array.bytes_mut().copy_from_slice(bytes);
            reader.release_range(name, index * PIECE..index * PIECE + bytes.len());
            array.to_f64().into_iter().fold(Stats::NONE, Stats::with)
        };
        // Pieces are joined in their order: the same file gives the same digits.
        let pieces: Vec<Stats> = bytes.par_chunks(PIECE).enumerate().map(piece).collect();
        Ok(pieces.into_iter().fold(Stats::NONE, Stats::join))
    }

    /// The mean of the finite elements; NaN when there is none.
    pub fn mean(&self) -> f64 {
        self.sum / self.num_finite as f64
    }

    fn with(self, value: f64) -> Self {
        if value.is_nan() {
            return Stats { num_nan: self.num_nan + 1, ..self };
        }
        if value.is_infinite() {
            return Stats { num_infinite: self.num_infinite + 1, ..self };
        }
        Stats {
            min: self.min.min(value),
            max: self.max.max(value),
            sum: self.sum + value,
            num_finite: self.num_finite + 1,
            ..self
        }
    }

    fn join(self, other: Self) -> Self {
        Stats {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            sum: self.sum + other.sum,
            num_finite: self.num_finite + other.num_finite,
            num_nan: self.num_nan + other.num_nan,
            num_infinite: self.num_infinite + other.num_infinite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{npz, open};

    #[test]
    fn elements_that_are_not_finite_are_counted_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let mut writer = npz::Writer::create(&path).unwrap();
        let odd = [1.0, f32::NAN, -3.0, f32::INFINITY, f32::NAN, 5.0];
        writer.write("odd", &HostArray::new([2, 3], &odd).unwrap()).unwrap();
        let many: Vec<i32> = (0..5_000_000).collect();
        writer.write("many", &HostArray::new([many.len()], &many).unwrap()).unwrap();
        writer.write("none", &HostArray::new([0], &[0f32; 0]).unwrap()).unwrap();
        writer.finish().unwrap();
        let reader = open(&path).unwrap();
        let stats = |name| Stats::of(reader.as_ref(), name).unwrap();

        let odd = stats("odd");
        assert_eq!((odd.min, odd.max, odd.mean()), (-3.0, 5.0, 1.0));
        assert_eq!((odd.num_finite, odd.num_nan, odd.num_infinite), (3, 2, 1));
        let many = stats("many");
        assert_eq!((many.min, many.max, many.mean()), (0.0, 4_999_999.0, 2_499_999.5));
        assert!(stats("none").mean().is_nan());
    }
}
