//! Published sizes, by big_vision's names.

use super::{GemmaConfig, PoolType, PosEmb, QueryNorm, SiglipConfig};
use crate::array::DType;
use crate::graph::RematPolicy;

/// A variant that nobody published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} variant \"{name}\", known are: {known}")]
pub struct UnknownVariant {
    kind: &'static str,
    name: String,
    known: String,
}

impl UnknownVariant {
    fn new<'a>(kind: &'static str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        UnknownVariant { kind, name: name.into(), known: known.collect::<Vec<_>>().join(", ") }
    }
}

struct Gemma {
    name: &'static str,
    width: usize,
    depth: usize,
    mlp_dim: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    query_norm: QueryNorm,
    /// Gemma 2 has soft-caps and norms after the branches.
    is_second: bool,
}

#[rustfmt::skip]
const GEMMA: [Gemma; 5] = {
    use QueryNorm::*;
    [
        Gemma { name: "gemma_2b", width: 2048, depth: 18, mlp_dim: 16_384, num_heads: 8, num_kv_heads: 1, head_dim: 256, query_norm: RsqrtHeadDim, is_second: false },
        Gemma { name: "gemma_7b", width: 3072, depth: 28, mlp_dim: 24_576, num_heads: 16, num_kv_heads: 16, head_dim: 256, query_norm: RsqrtHeadDim, is_second: false },
        Gemma { name: "gemma2_2b", width: 2304, depth: 26, mlp_dim: 9_216, num_heads: 8, num_kv_heads: 4, head_dim: 256, query_norm: RsqrtHeadDim, is_second: true },
        Gemma { name: "gemma2_9b", width: 3584, depth: 42, mlp_dim: 14_336, num_heads: 16, num_kv_heads: 8, head_dim: 256, query_norm: RsqrtHeadDim, is_second: true },
        Gemma { name: "gemma2_27b", width: 4608, depth: 46, mlp_dim: 36_864, num_heads: 32, num_kv_heads: 16, head_dim: 128, query_norm: RsqrtEmbPerHead, is_second: true },
    ]
};

impl GemmaConfig {
    /// The names that [`variant`](Self::variant) knows.
    pub fn variants() -> impl Iterator<Item = &'static str> {
        GEMMA.iter().map(|gemma| gemma.name)
    }

    /// A published size (`get_config` of `models/ppp/gemma.py`), with its own vocabulary of 256 000.
    pub fn variant(name: &str) -> Result<Self, UnknownVariant> {
        let known = GemmaConfig::variants();
        let gemma = GEMMA.iter().find(|gemma| gemma.name == name);
        let gemma = gemma.ok_or_else(|| UnknownVariant::new("llm", name, known))?;
        Ok(GemmaConfig {
            width: gemma.width,
            depth: gemma.depth,
            mlp_dim: gemma.mlp_dim,
            num_heads: gemma.num_heads,
            num_kv_heads: gemma.num_kv_heads,
            head_dim: gemma.head_dim,
            vocab_size: 256_000,
            query_pre_attn_norm: gemma.query_norm,
            attn_logits_softcap: if gemma.is_second { 50.0 } else { 0.0 },
            final_logits_softcap: if gemma.is_second { 30.0 } else { 0.0 },
            post_norms: gemma.is_second,
            dropout: 0.0,
            remat_policy: RematPolicy::NothingSaveable,
            embed_dtype: DType::F32,
            cache_dtype: DType::BF16,
        })
    }
}

/// Name, width, depth, mlp_dim, heads (Table 2 of <https://arxiv.org/abs/2106.04560>).
const VIT: [(&str, usize, usize, usize, usize); 13] = [
    ("mu", 32, 1, 128, 2),
    ("Ti", 192, 12, 768, 3),
    ("S", 384, 12, 1536, 6),
    ("M", 512, 12, 2048, 8),
    ("B", 768, 12, 3072, 12),
    ("L", 1024, 24, 4096, 16),
    ("So400m", 1152, 27, 4304, 16),
    ("H", 1280, 32, 5120, 16),
    ("g", 1408, 40, 6144, 16),
    ("g-opt", 1536, 40, 6144, 16),
    ("G", 1664, 48, 8192, 16),
    ("G-opt", 1536, 48, 8192, 16),
    ("e", 1792, 56, 15360, 16),
];

impl SiglipConfig {
    /// The names that [`variant`](Self::variant) knows, without patch sizes.
    pub fn variants() -> impl Iterator<Item = &'static str> {
        VIT.iter().map(|(name, ..)| *name)
    }

    /// A published size such as `So400m/14` or `B` (`decode_variant` of `models/vit.py`); without a
    /// patch size it is 16.
    pub fn variant(name: &str) -> Result<Self, UnknownVariant> {
        let (size, patch) = match name.split_once('/') {
            Some((size, patch)) => (size, patch.parse::<usize>().ok().filter(|&patch| patch > 0)),
            None => (name, Some(16)),
        };
        let known = SiglipConfig::variants();
        let found = VIT.iter().find(|(name, ..)| *name == size).zip(patch);
        let Some((&(_, width, depth, mlp_dim, num_heads), patch)) = found else {
            return Err(UnknownVariant::new("img", name, known));
        };
        Ok(SiglipConfig {
            width,
            depth,
            mlp_dim,
            num_heads,
            patch_size: [patch, patch],
            pool_type: PoolType::Gap,
            posemb: PosEmb::Learn,
            dropout: 0.0,
            dtype_mm: DType::F32,
            remat_policy: RematPolicy::NothingSaveable,
            head_zeroinit: true,
        })
    }
}
