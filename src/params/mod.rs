//! What a model's parameters are called, how large they are and where their first values come from.
//!
//! Names are big_vision's flat names (`llm/layers/attn/q_einsum/w`), letter for letter. This module owns
//! the list of them ([`ParamSpecs`]), the ordered regex lists by which configs speak about them
//! ([`Patterns`]), flax's initialisers ([`Init`]), what the axes of kernels mean ([`Kernel`]) and how kernels are kept
//! in few bits ([`Quant`]). It knows nothing of files (see `checkpoint`), of graphs
//! or of what a model computes.

pub mod init;
mod kernel;
mod nearest;
pub mod pattern;
mod quant;
mod spec;

pub use init::{Distribution, FanMode, Init, VarianceScaling};
pub use kernel::{Kernel, KernelDims};
pub(crate) use nearest::hint as nearest_hint;
pub use nearest::nearest;
pub use pattern::{Assignment, Patterns, Unused};
pub use quant::{NF4, Quant};
pub use spec::{ParamSpec, ParamSpecs};

use crate::array::Shape;

/// A mistake in parameter names, in patterns over them, or in an initialiser.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "parameter name \"{name}\" is not a path: it must be non-empty parts joined by single slashes, \
         without a slash at either end"
    )]
    BadName { name: String },

    #[error("parameter \"{name}\" is declared twice")]
    DuplicateName { name: String },

    #[error("\"{name}\" is a parameter and also the parent of parameter \"{child}\"")]
    ParameterAndParent { name: String, child: String },

    #[error("no parameter is called \"{name}\"{}", nearest::hint(.nearest))]
    UnknownName { name: String, nearest: Vec<String> },

    #[error(
        "pattern \"{pattern}\" starts with a slash and can match nothing: parameter names have no leading \
         slash, write \"{}\"", .pattern.trim_start_matches('/')
    )]
    LeadingSlash { pattern: String },

    #[error(
        "pattern \"{pattern}\" is not a regex of this program (look-around and back-references are not \
         supported; the first match wins, so an exception goes before the general rule)"
    )]
    BadPattern {
        pattern: String,
        #[source]
        source: Box<regex::Error>,
    },

    #[error(
        "no pattern covers {} parameter(s); add a pattern that matches the whole name, or a last \".*\":{}",
        .names.len(), nearest::bullets(.names)
    )]
    Uncovered { names: Vec<String> },

    #[error(
        "parameter \"{name}\" of shape {shape} has no fans: variance scaling needs two dimensions or more"
    )]
    NoFans { name: String, shape: Shape },

    #[error("axis {axis} of the initialiser of \"{name}\" is outside its shape {shape}")]
    BadAxis { name: String, shape: Shape, axis: isize },

    #[error("{name} of shape {shape} cannot be kept as {}: its last extent is odd", .quant.name())]
    NotQuantisable { name: String, shape: Shape, quant: Quant },

    #[error("parameter \"{name}\" of shape {shape} cannot be initialised by {init}: it is not a float")]
    NotFloat { name: String, shape: Shape, init: &'static str },
}
