use std::fmt;

use super::DType;

/// Extents of a dense row-major array and the type of its elements. A scalar has no dimensions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    dtype: DType,
    dims: Box<[usize]>,
}

impl Shape {
    pub fn new(dtype: DType, dims: impl Into<Box<[usize]>>) -> Self {
        Shape { dtype, dims: dims.into() }
    }

    pub fn scalar(dtype: DType) -> Self {
        Shape::new(dtype, [])
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    pub fn is_scalar(&self) -> bool {
        self.dims.is_empty()
    }

    pub fn num_elements(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn num_bytes(&self) -> usize {
        self.num_elements() * self.dtype.num_bytes()
    }

    /// The same extents with another element type.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Shape { dtype, dims: self.dims.clone() }
    }

    /// The same element type with other extents.
    pub fn with_dims(&self, dims: impl Into<Box<[usize]>>) -> Self {
        Shape { dtype: self.dtype, dims: dims.into() }
    }
}

/// `f32[2,3]`, as XLA prints it.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.dims.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
