//! Graphs as XLA programs: emission of a [`Function`](crate::graph::Function) as an `HloModuleProto`,
//! the format that every PJRT plugin compiles, and a readable text of it.
//!
//! Emission is deterministic: the same function gives the same bytes, whatever built it before. The
//! module's size does not depend on the length of its loops.

mod control;
mod convert;
mod cpu;
mod emit;
#[cfg(test)]
mod properties;
pub mod proto;
mod sharding;
#[cfg(test)]
mod tests;
mod text;

pub use emit::{Alias, EmitOptions, Error, Module, emit};
