//! Typed, shaped host memory: the vocabulary that every other module shares.
//!
//! Four nouns are kept apart throughout the crate: a [`Shape`] is a list of extents with an element
//! type, a [`HostArray`] is bytes in this process with a shape, a [`runtime::Buffer`](crate::runtime)
//! is memory on a device, and a [`graph::Value`](crate::graph) is the result of an operation in a
//! program that has not run yet.

mod dtype;
mod host;
mod shape;

pub use dtype::{DType, Element};
pub use host::HostArray;
pub use shape::Shape;

/// A request for an array's contents that its dtype or size cannot satisfy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("array of shape {shape} was read as {wanted}")]
    WrongDType { shape: Shape, wanted: DType },
    #[error("shape {shape} needs {} bytes, got {got}", shape.num_bytes())]
    WrongSize { shape: Shape, got: usize },
    #[error("unknown dtype \"{0}\", known are: pred, s8, u8, u16, s32, u32, s64, u64, f16, bf16, f32, f64")]
    UnknownDType(String),
}
