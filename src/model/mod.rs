//! PaliGemma: a SigLIP vision tower whose output tokens are a prefix of a Gemma decoder's input.
//!
//! The models are big_vision's (`models/vit.py`, `models/ppp/gemma.py`, `models/proj/paligemma`), with
//! its names, shapes and initialisers of parameters, computed as there. Layers are always stacked and
//! run under a scan, so programs do not grow with depth.

mod gemma;
mod lora;
mod loss;
mod paligemma;
mod siglip;
mod taps;
mod variant;

pub use gemma::{GemmaConfig, KvCache, QueryNorm};
pub use lora::{LORA, LoraConfig, is_quantised, scale_name};
pub use loss::{LossConfig, Reduction, TokenLoss};
pub use paligemma::{Examples, Forward, PaliGemmaConfig, Prompt};
pub use siglip::{PoolType, PosEmb, SiglipConfig};
pub use taps::Taps;
pub use variant::UnknownVariant;
