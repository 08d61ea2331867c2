//! `paligemma` fine-tunes, evaluates, runs and converts PaliGemma 1 and 2 (a SigLIP vision tower and a
//! Gemma decoder) on CPU, GPU and TPU. A graph builder with shape inference and autodiff writes XLA HLO,
//! and PJRT plugins compile and run it; there is no Python in the process.
//!
//! Imports point one way: `cli → train, eval → model, optim, checkpoint → nn → autodiff → graph`; `hlo`
//! reads `graph`; `runtime` knows bytes of HLO and buffers, nothing of models; `data`, `pp` and
//! `tokenizer` know nothing of XLA.

pub mod array;
pub mod autodiff;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod convert;
pub mod data;
pub mod decode;
pub mod detection;
pub mod eval;
pub mod exec;
pub mod graph;
pub mod hlo;
pub mod metrics;
pub mod model;
pub mod nn;
pub mod optim;
pub mod panics;
pub mod params;
pub mod pp;
pub mod predict;
pub mod preview;
pub mod report;
pub mod runtime;
pub mod setup;
pub mod tokenizer;
pub mod train;
pub mod verify;
pub mod vqvae;
