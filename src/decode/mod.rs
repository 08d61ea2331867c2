//! Continuations of prompts, decoded on the device.
//!
//! One program embeds images and prompts, fills the key/value cache and emits tokens in a loop whose carry
//! is the cache: nothing comes back to the host between tokens. The loop ends when every row has emitted
//! the end-of-sequence token. [`Decoder`] keeps a model's parameters on the device and one such program for
//! each shape of batch; [`decode`] is the graph alone.
//!
//! What is emitted, and the log-probability given with it, is that of `_decode_with_logp` in big_vision's
//! `trainers/proj/paligemma/predict_fns.py`. This module refuses text: it knows token ids only.

mod beam;
mod config;
mod decoder;
mod program;
mod sample;
mod sampler;
mod stream;

pub use config::{ConfigError, DecodeConfig, Method, TokenMask};
pub use decoder::{Continuations, Decoder, Error, PromptBatch};
pub use program::{Decoded, PromptValues, decode};
pub use sampler::{Sampler, SamplerError};
pub use stream::Stream;
