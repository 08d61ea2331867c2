//! The model's two towers.

use super::decode::Decoder;
use super::node::Node;
use super::schema::{BELOW_ONE, NON_NEGATIVE, POSITIVE};
use super::values::Size;
use crate::array::DType;
use crate::{config_choice, config_section};

config_choice! {
    /// What the backward pass of a layer stack finds saved.
    pub enum RematPolicy {
        /// Everything is kept: fastest, largest.
        None = "none",
        /// Only layer inputs are kept, the rest is computed again.
        NothingSaveable = "nothing_saveable",
        /// Results of matrix products are kept.
        DotsSaveable = "dots_saveable",
        /// Results of matrix products without batch dimensions (weights times activations) are kept.
        DotsWithNoBatchDimsSaveable = "dots_with_no_batch_dims_saveable",
        /// As `none`, under the name of JAX's policy.
        EverythingSaveable = "everything_saveable",
    }
}

config_choice! {
    /// How image tokens become the tower's output.
    pub enum PoolType {
        /// Every token is kept, as PaliGemma does.
        None = "none",
        /// Average over tokens.
        Gap = "gap",
        /// Attention pooling.
        Map = "map",
        /// A class token.
        Tok = "tok",
    }
}

config_choice! {
    /// Position embeddings of image patches.
    pub enum Posemb {
        /// Learnt, one vector per patch.
        Learn = "learn",
        /// Fixed sines and cosines in two dimensions.
        Sincos2d = "sincos2d",
    }
}

config_choice! {
    /// The factor on queries before attention.
    pub enum QueryPreAttnNorm {
        /// One over the square root of `head_dim`.
        RsqrtHeadDim = "rsqrt_head_dim",
        /// One over the square root of width over heads (PaliGemma 2 28B).
        RsqrtEmbPerHead = "rsqrt_emb_per_head",
    }
}

config_section! {
    /// The model.
    pub struct Model {
        /// Side of the square input image in pixels; null takes it from what `input.pp` yields.
        pub image_size: Option<usize> = None, POSITIVE;
        /// The image tower, a SigLIP vision transformer.
        pub img: Img = Img::default();
        /// The language model, a Gemma decoder.
        pub llm: Llm = Llm::default();
    }
}

config_section! {
    /// The image tower. Keys that are null come from the variant.
    pub struct Img checked by check_img {
        /// Published size and patch (`So400m/14`, `B/16`, `mu/16`); null needs the sizes below.
        pub variant: Option<String> = Some("So400m/14".into());
        /// Width of the residual stream.
        pub width: Option<usize> = None, POSITIVE;
        /// Number of layers.
        pub depth: Option<usize> = None, POSITIVE;
        /// Hidden width of the MLP; null without a variant is 4 times `width`.
        pub mlp_dim: Option<usize> = None, POSITIVE;
        /// Attention heads.
        pub num_heads: Option<usize> = None, POSITIVE;
        /// Patch size in pixels.
        pub patch_size: Option<Size> = None;
        /// Width of the output; null takes the language model's width.
        pub num_classes: Option<usize> = None;
        /// How tokens become the output.
        pub pool_type: PoolType = PoolType::None;
        /// Position embeddings.
        pub posemb: Posemb = Posemb::Learn;
        /// Whether a hidden layer stands before the output.
        pub rep_size: bool = false;
        /// Whether the output layer starts at zero when it is not loaded.
        pub head_zeroinit: bool = true;
        /// Dropout rate.
        pub dropout: f64 = 0.0, BELOW_ONE;
        /// Whether layers run as a scan, which keeps programs small; parameters are stacked either way.
        pub scan: bool = true;
        /// What the backward pass finds saved, under `scan`.
        pub remat_policy: RematPolicy = RematPolicy::NothingSaveable;
        /// Type of matrix products.
        pub dtype_mm: DType = DType::F32;
    }
}

config_section! {
    /// The language model. Keys that are null come from the variant.
    pub struct Llm checked by check_llm {
        /// Published size (`gemma_2b`, `gemma2_2b`, `gemma2_9b`, `gemma2_27b`); null needs the sizes below.
        pub variant: Option<String> = Some("gemma_2b".into());
        /// Width of the residual stream.
        pub width: Option<usize> = None, POSITIVE;
        /// Number of layers.
        pub depth: Option<usize> = None, POSITIVE;
        /// Hidden width of the gated MLP.
        pub mlp_dim: Option<usize> = None, POSITIVE;
        /// Query heads.
        pub num_heads: Option<usize> = None, POSITIVE;
        /// Key and value heads; divides `num_heads`.
        pub num_kv_heads: Option<usize> = None, POSITIVE;
        /// Width of one head.
        pub head_dim: Option<usize> = None, POSITIVE;
        /// Added to the mean square in RMS norms; null is 1e-6.
        pub norm_eps: Option<f64> = None, POSITIVE;
        /// Rows of the embedding: 256000 tokens, 1024 locations and 128 segmentation codes.
        pub vocab_size: usize = 257_152, POSITIVE;
        /// Soft cap on the logits of cached decoding, 0 for none; transfers of PaliGemma 2 set 0.
        pub final_logits_softcap: Option<f64> = None, NON_NEGATIVE;
        /// Soft cap on attention logits, 0 for none.
        pub attn_logits_softcap: Option<f64> = None, NON_NEGATIVE;
        /// Whether norms also follow attention and MLP (Gemma 2).
        pub post_norms: Option<bool> = None;
        /// The factor on queries before attention.
        pub query_pre_attn_norm: Option<QueryPreAttnNorm> = None;
        /// Dropout rate.
        pub dropout: f64 = 0.0, BELOW_ONE;
        /// Axes of the activations along which one draw of dropout is shared.
        pub dropout_bdims: Vec<usize> = Vec::new();
        /// Type of the key and value cache; null takes the activations'.
        pub cache_dtype: Option<DType> = None;
        /// Type of the embedded tokens and of the activations that follow.
        pub embed_dtype: DType = DType::F32;
        /// Whether layers run as a scan, which keeps programs small; parameters are stacked either way.
        pub scan: bool = true;
        /// What the backward pass finds saved, under `scan`.
        pub remat_policy: RematPolicy = RematPolicy::NothingSaveable;
    }
}

super::default_sections!(Model, Img, Llm);

fn lacking(sizes: &[(&'static str, bool)], node: &Node, decoder: &mut Decoder) {
    let missing = sizes.iter().filter(|(name, given)| !given && decoder.is_good(name));
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let message = format!("{} has no variant and lacks {}", decoder.key(), missing.join(", "));
        decoder.problem::<()>(node.span, message);
    }
}

fn check_img(img: &Img, node: &Node, decoder: &mut Decoder) {
    if img.variant.is_none() {
        let sizes = [
            ("width", img.width.is_some()),
            ("depth", img.depth.is_some()),
            ("num_heads", img.num_heads.is_some()),
            ("patch_size", img.patch_size.is_some()),
        ];
        lacking(&sizes, node, decoder);
    }
}

fn check_llm(llm: &Llm, node: &Node, decoder: &mut Decoder) {
    if llm.variant.is_none() {
        let sizes = [
            ("width", llm.width.is_some()),
            ("depth", llm.depth.is_some()),
            ("mlp_dim", llm.mlp_dim.is_some()),
            ("num_heads", llm.num_heads.is_some()),
            ("num_kv_heads", llm.num_kv_heads.is_some()),
            ("head_dim", llm.head_dim.is_some()),
        ];
        lacking(&sizes, node, decoder);
    }
    if let (Some(heads), Some(kv_heads)) = (llm.num_heads, llm.num_kv_heads)
        && heads % kv_heads != 0
    {
        let message =
            format!("{} has {heads} heads over {kv_heads} kv heads, which does not divide", decoder.key());
        decoder.problem::<()>(node.span, message);
    }
}
