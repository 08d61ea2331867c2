//! Programs as data: operations over statically shaped values, checked as they are written.
//!
//! A [`Builder`] is an arena of [`Node`]s; a [`Value`] is a cheap handle to one result of a node that
//! knows its shape. Every operation infers its result's shape at once and fails at the call that is
//! wrong, naming the operation, the shapes, the scope and the line. [`Builder::finish`] turns what was
//! built into an immutable [`Function`], which [`hlo`](crate::hlo) emits and control flow
//! ([`Builder::scan`], [`Builder::while_loop`], [`Builder::conditional`]) takes as bodies.
//!
//! Operations carry XLA's names and semantics. Element-wise ones broadcast as numpy does, by explicit
//! `broadcast_in_dim` nodes; element types are never converted silently. This module knows nothing of
//! models, gradients or devices.
//!
//! ```
//! use paligemma::array::{DType, Shape};
//! use paligemma::graph::Builder;
//!
//! let b = Builder::new("main");
//! let x = b.parameter("x", Shape::new(DType::F32, [8, 4]))?;
//! let w = b.parameter("w", Shape::new(DType::F32, [4, 2]))?;
//! let y = x.einsum("bi,io->bo", &w)?.tanh()?;
//! assert_eq!(y.shape().to_string(), "f32[8,2]");
//!
//! let error = w.einsum("bi,io->bo", &x).unwrap_err().to_string();
//! assert!(error.starts_with("einsum \"bi,io->bo\" expects equal extents for axis 'i', got 2 and 8"), "{error}");
//! # Ok::<(), paligemma::graph::Error>(())
//! ```

mod builder;
mod control;
mod einsum;
mod elementwise;
mod error;
mod function;
mod index;
mod infer;
mod layout;
mod op;
mod random;
mod reduce;
mod sharding;

pub use builder::{Builder, ScopeGuard, Value};
pub use control::{Branch, RematPolicy, ScanOptions};
pub use error::{Error, Result};
pub use function::{Function, Node, NodeId, Output};
pub(crate) use infer::infer;
pub use op::{
    BinaryOp, Comparison, CustomCall, DotDims, GatherDims, Op, PadDim, Precision, ReduceOp, RngAlgorithm,
    ScanSpec, ScatterDims, ScatterOp, SliceDim, UnaryOp,
};
pub use sharding::Sharding;
