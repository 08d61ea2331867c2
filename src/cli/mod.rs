//! The command line: one file per verb.

pub mod data_synth;
pub mod devices;
