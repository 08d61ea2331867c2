use std::fmt;
use std::str::FromStr;

use crate::graph::{Result, Value};

/// How a token is chosen among the logits of the next position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampler {
    /// The most likely token, of equals the first.
    #[default]
    Greedy,
}

/// A sampler that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown sampler \"{name}\", known are: greedy")]
pub struct UnknownSampler {
    name: String,
}

impl Sampler {
    /// Tokens `s32 [B]` for logits `f32 [B, V]`.
    #[track_caller]
    pub(super) fn choose(self, logits: &Value) -> Result<Value> {
        match self {
            Sampler::Greedy => logits.argmax(1),
        }
    }
}

impl FromStr for Sampler {
    type Err = UnknownSampler;

    /// The form of big_vision's `paligemma_sampler` registry.
    fn from_str(name: &str) -> std::result::Result<Self, UnknownSampler> {
        match name {
            "greedy" => Ok(Sampler::Greedy),
            _ => Err(UnknownSampler { name: name.into() }),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sampler::Greedy => f.write_str("greedy"),
        }
    }
}
