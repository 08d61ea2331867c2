//! Layers as functions from values and parameters to values, with flax's numerics.
//!
//! Nothing here owns a parameter or knows a model. [`Params`] finds values under big_vision's names; the
//! functions compute what the flax modules of the same name compute, including where they widen types.

mod attention;
mod dropout;
mod kernel;
mod layers;
mod numerics;
mod params;

pub use attention::{AttentionMask, Rope, multi_head_attention};
pub use dropout::{Dropout, dropout};
pub use layers::{dense, dense_general, gelu, layer_norm, patch_embedding, rms_norm};
pub use numerics::{log_sum_exp, promote, softmax};
pub use params::{LORA_ALPHA, Params, part_of, scan_layers};
