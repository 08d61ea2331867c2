//! Continuations of prompts, decoded on the device.
//!
//! One program embeds images and prompts, fills the key/value cache and emits tokens in a loop whose carry
//! is the cache: nothing comes back to the host between tokens. The loop ends when every row has emitted
//! the end-of-sequence token. [`Decoder`] keeps a model's parameters on the device and one such program for
//! each shape of batch; [`decode`] is the graph alone.
//!
//! What is emitted, and the log-probability given with it, is that of `_decode_with_logp` in big_vision's
//! `trainers/proj/paligemma/predict_fns.py`. This module refuses text: it knows token ids only.

mod decoder;
mod program;
mod sampler;

pub use decoder::{Continuations, Decoder, Error, PromptBatch};
pub use program::{Decoded, PromptValues, decode};
pub use sampler::{Sampler, UnknownSampler};

/// How prompts are continued.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeConfig {
    /// The most tokens that are emitted for a row; at least 1.
    pub max_decode_len: usize,
    /// The token that ends a row. It counts as emitted.
    pub eos_token: i32,
    pub sampler: Sampler,
}
