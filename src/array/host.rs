use std::fmt;

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, IxDyn};

use super::{DType, Element, Error, Shape};

/// Bytes in this process's memory, row-major, with a [`Shape`].
#[derive(Clone, PartialEq)]
pub struct HostArray {
    shape: Shape,
    /// 64-bit words, so that a view as any element type is aligned.
    words: Vec<u64>,
}

impl HostArray {
    pub fn zeros(shape: Shape) -> Self {
        let words = vec![0; shape.num_bytes().div_ceil(8)];
        HostArray { shape, words }
    }

    /// # Errors
    /// When the number of values is not the product of `dims`.
    pub fn new<T: Element>(dims: impl Into<Box<[usize]>>, values: &[T]) -> Result<Self, Error> {
        HostArray::from_bytes(Shape::new(T::DTYPE, dims), bytemuck::cast_slice(values))
    }

    pub fn scalar<T: Element>(value: T) -> Self {
        let mut array = HostArray::zeros(Shape::scalar(T::DTYPE));
        array.bytes_mut().copy_from_slice(bytemuck::bytes_of(&value));
        array
    }

    /// Little-endian bytes, copied.
    ///
    /// # Errors
    /// When the number of bytes is not the shape's.
    pub fn from_bytes(shape: Shape, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != shape.num_bytes() {
            return Err(Error::WrongSize { shape, got: bytes.len() });
        }
        let mut array = HostArray::zeros(shape);
        array.bytes_mut().copy_from_slice(bytes);
        Ok(array)
    }

    pub fn from_ndarray<T: Element>(array: &ArrayD<T>) -> Self {
        let mut out = HostArray::zeros(Shape::new(T::DTYPE, array.shape()));
        let values: &mut [T] = bytemuck::cast_slice_mut(out.bytes_mut());
        values.iter_mut().zip(array.iter()).for_each(|(to, from)| *to = *from);
        out
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    pub fn dtype(&self) -> DType {
        self.shape.dtype()
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.shape.num_bytes()]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.shape.num_bytes()]
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// When the dtype is not `T`'s. A `pred` array reads as `u8`.
    pub fn values<T: Element>(&self) -> Result<&[T], Error> {
        self.check::<T>()?;
        Ok(bytemuck::cast_slice(self.bytes()))
    }

    /// As [`values`](Self::values), writable.
    pub fn values_mut<T: Element>(&mut self) -> Result<&mut [T], Error> {
        self.check::<T>()?;
        Ok(bytemuck::cast_slice_mut(self.bytes_mut()))
    }

    pub fn view<T: Element>(&self) -> Result<ArrayViewD<'_, T>, Error> {
        let view = ArrayViewD::from_shape(IxDyn(self.dims()), self.values::<T>()?);
        Ok(view.expect("the byte length was checked against the shape"))
    }

    /// The same bytes under other extents.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(self, dims: impl Into<Box<[usize]>>) -> Result<Self, Error> {
        let shape = self.shape.with_dims(dims);
        if shape.num_elements() != self.shape.num_elements() {
            return Err(Error::WrongSize { shape, got: self.shape.num_bytes() });
        }
        Ok(HostArray { shape, words: self.words })
    }

    /// Every element as `f64`, for statistics and comparisons.
    pub fn to_f64(&self) -> Vec<f64> {
        let mut values = Vec::with_capacity(self.shape.num_elements());
        self.for_each_f64(|v| values.push(v));
        values
    }

    fn for_each_f64(&self, mut f: impl FnMut(f64)) {
        fn each<T: Element>(bytes: &[u8], f: impl FnMut(T)) {
            bytemuck::cast_slice::<u8, T>(bytes).iter().copied().for_each(f);
        }
        let bytes = self.bytes();
        match self.dtype() {
            DType::Pred | DType::U8 => each::<u8>(bytes, |v| f(f64::from(v))),
            DType::U16 => each::<u16>(bytes, |v| f(f64::from(v))),
            DType::S8 => each::<i8>(bytes, |v| f(f64::from(v))),
            DType::S32 => each::<i32>(bytes, |v| f(f64::from(v))),
            DType::U32 => each::<u32>(bytes, |v| f(f64::from(v))),
            DType::S64 => each::<i64>(bytes, |v| f(v as f64)),
            DType::U64 => each::<u64>(bytes, |v| f(v as f64)),
            DType::F16 => each::<f16>(bytes, |v| f(f64::from(v))),
            DType::BF16 => each::<bf16>(bytes, |v| f(f64::from(v))),
            DType::F32 => each::<f32>(bytes, |v| f(f64::from(v))),
            DType::F64 => each::<f64>(bytes, f),
        }
    }

    /// Converts the elements, rounding to nearest even where precision is lost; integers saturate, and
    /// `pred` means "not zero".
    pub fn cast(&self, dtype: DType) -> HostArray {
        if dtype == self.dtype() {
            return self.clone();
        }
        let mut out = HostArray::zeros(self.shape.with_dtype(dtype));
        if self.cast_float(&mut out) {
            return out;
        }
        fn fill<T: Element>(out: &mut [u8], source: &HostArray, f: impl Fn(f64) -> T) {
            let mut out = bytemuck::cast_slice_mut::<u8, T>(out).iter_mut();
            source.for_each_f64(|v| {
                if let Some(to) = out.next() {
                    *to = f(v);
                }
            });
        }
        let bytes = out.bytes_mut();
        match dtype {
            DType::Pred => fill::<u8>(bytes, self, |v| (v != 0.0) as u8),
            DType::U8 => fill::<u8>(bytes, self, |v| v as u8),
            DType::U16 => fill::<u16>(bytes, self, |v| v as u16),
            DType::S8 => fill::<i8>(bytes, self, |v| v as i8),
            DType::S32 => fill::<i32>(bytes, self, |v| v as i32),
            DType::U32 => fill::<u32>(bytes, self, |v| v as u32),
            DType::S64 => fill::<i64>(bytes, self, |v| v as i64),
            DType::U64 => fill::<u64>(bytes, self, |v| v as u64),
            DType::F16 => fill::<f16>(bytes, self, |v| f16::from_f32(to_odd_f32(v))),
            DType::BF16 => fill::<bf16>(bytes, self, |v| bf16::from_f32(to_odd_f32(v))),
            DType::F32 => fill::<f32>(bytes, self, |v| v as f32),
            DType::F64 => fill::<f64>(bytes, self, |v| v),
        }
        out
    }

    /// The casts that whole checkpoints go through, without the way over f64. They are all exact or rounded
    /// once, so the results are the same.
    fn cast_float(&self, out: &mut HostArray) -> bool {
        fn each<A: Element, B: Element>(from: &HostArray, to: &mut HostArray, f: impl Fn(A) -> B) {
            let from = bytemuck::cast_slice::<u8, A>(from.bytes());
            let to = bytemuck::cast_slice_mut::<u8, B>(to.bytes_mut());
            to.iter_mut().zip(from).for_each(|(to, from)| *to = f(*from));
        }
        match (self.dtype(), out.dtype()) {
            (DType::F32, DType::BF16) => each(self, out, bf16::from_f32),
            (DType::F32, DType::F16) => each(self, out, f16::from_f32),
            (DType::BF16, DType::F32) => each(self, out, bf16::to_f32),
            (DType::F16, DType::F32) => each(self, out, f16::to_f32),
            _ => return false,
        }
        true
    }

    fn check<T: Element>(&self) -> Result<(), Error> {
        let pred_as_bytes = self.dtype() == DType::Pred && T::DTYPE == DType::U8;
        if self.dtype() == T::DTYPE || pred_as_bytes {
            return Ok(());
        }
        Err(Error::WrongDType { shape: self.shape.clone(), wanted: T::DTYPE })
    }
}

/// Rounds to odd: an inexact result has its last bit set, so that rounding it again, to fewer bits, gives
/// what one rounding would. (`half`'s own conversions from f64 drop the lower half of the mantissa and then
/// mistake values just above a tie for the tie.)
fn to_odd_f32(v: f64) -> f32 {
    let nearest = v as f32;
    let back = f64::from(nearest);
    if back == v || !nearest.is_finite() {
        return nearest;
    }
    let towards_zero = nearest.to_bits() - u32::from(back.abs() > v.abs());
    f32::from_bits(towards_zero | 1)
}

impl fmt::Debug for HostArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostArray({})", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_and_reject_other_dtypes() {
        let array = HostArray::new([2, 2], &[1.0f32, -2.0, 3.5, 0.0]).unwrap();
        assert_eq!(array.values::<f32>().unwrap(), [1.0, -2.0, 3.5, 0.0]);
        assert_eq!(array.view::<f32>().unwrap()[[1, 0]], 3.5);
        let error = array.values::<i32>().unwrap_err();
        assert_eq!(error.to_string(), "array of shape f32[2,2] was read as s32");
        let error = HostArray::new([3], &[1u8]).unwrap_err();
        assert_eq!(error.to_string(), "shape u8[3] needs 3 bytes, got 1");
    }

    #[test]
    fn casts_round_to_nearest_even() {
        let array = HostArray::new([3], &[1.0f32, 1.0 + 1.0 / 256.0, f32::MAX]).unwrap();
        let cast = array.cast(DType::BF16);
        assert_eq!(cast.to_f64(), [1.0, 1.0, f64::INFINITY]);
        assert_eq!(array.cast(DType::Pred).bytes(), [1, 1, 1]);
        // Just above a tie between two bfloat16, by the last bit of an f32 and of an f64; and the tie.
        let tie = 1.0 + f64::from(f32::EPSILON) * (1 << 15) as f64;
        let array = HostArray::new([4], &[tie + f64::from(f32::EPSILON), tie.next_up(), tie, -tie.next_up()]);
        let array = array.unwrap();
        assert_eq!(array.cast(DType::BF16).to_f64(), [1.0078125, 1.0078125, 1.0, -1.0078125]);
        assert_eq!(array.cast(DType::F32).cast(DType::BF16).to_f64(), [1.0078125, 1.0, 1.0, -1.0]);
    }
}
