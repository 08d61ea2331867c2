//! The one table between the two projects' names.
//!
//! A parameter of big_vision's holds all layers of its tower along the first axis, and some hold two or three
//! matrices along the next (keys and values, the two halves of a gated MLP). Hugging Face keeps one tensor for each.
//! So a parameter is a row of *slots* of equal size, layer by layer and part by part, and each slot is one tensor
//! there, up to its [`Layout`].

use super::layout::{Layout, Transpose};
use crate::checkpoint::variant::{ImgSizes, LlmSizes, Sizes};

/// One parameter with all tensors that it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// big_vision's name.
    pub name: String,
    /// big_vision's extents.
    pub dims: Vec<usize>,
    /// big_vision's extents of one slot.
    pub slot_dims: Vec<usize>,
    /// Hugging Face's names, in the order of the slots in memory.
    pub keys: Vec<String>,
    pub layout: Layout,
}

impl Entry {
    /// The extents of each tensor of Hugging Face's.
    pub fn hf_dims(&self) -> Vec<usize> {
        self.layout.hf_dims(&self.slot_dims)
    }

    /// From a slot's order of elements to the tensor's.
    pub fn steps(&self) -> Vec<Transpose> {
        self.layout.steps(&self.slot_dims)
    }
}

/// The name of the embedding, which is also the output layer, in big_vision.
pub(super) const EMBEDDING: &str = "llm/embedder/input_embedding";
/// The same in Hugging Face.
pub(super) const EMBEDDING_KEY: &str = "language_model.model.embed_tokens.weight";

/// For which models a row stands in the table.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// The patches' positions are learned.
    Positions,
    Gemma1,
    Gemma2,
    /// Fewer key heads than heads.
    Grouped,
    /// As many key heads as heads.
    MultiHead,
}

/// Extents of one slot.
#[derive(Clone, Copy)]
enum Axis {
    One,
    PatchHeight,
    PatchWidth,
    Channels,
    Patches,
    ImgWidth,
    ImgMlp,
    ImgHeads,
    ImgHeadDim,
    Vocabulary,
    Width,
    Mlp,
    Heads,
    KvHeads,
    HeadDim,
}

struct Row {
    name: &'static str,
    slot: &'static [Axis],
    layout: Layout,
    /// One for each part.
    keys: &'static [&'static str],
    when: When,
}

const fn row(
    name: &'static str,
    slot: &'static [Axis],
    layout: Layout,
    keys: &'static [&'static str],
    when: When,
) -> Row {
    Row { name, slot, layout, keys, when }
}

const INPUT: Layout = Layout::Dense { inputs: 1 };
const INPUT_HEADS: Layout = Layout::Dense { inputs: 2 };

#[rustfmt::skip]
const WHOLE: [Row; 9] = {
    use Axis::*;
    use Layout::{Flat, Rows};
    use When::*;
    [
        row("img/embedding/kernel", &[PatchHeight, PatchWidth, Channels, ImgWidth], Layout::Patches, &["vision_tower.vision_model.embeddings.patch_embedding.weight"], Always),
        row("img/embedding/bias", &[ImgWidth], Flat, &["vision_tower.vision_model.embeddings.patch_embedding.bias"], Always),
        row("img/pos_embedding", &[One, Patches, ImgWidth], Rows, &["vision_tower.vision_model.embeddings.position_embedding.weight"], Positions),
        row("img/Transformer/encoder_norm/scale", &[ImgWidth], Flat, &["vision_tower.vision_model.post_layernorm.weight"], Always),
        row("img/Transformer/encoder_norm/bias", &[ImgWidth], Flat, &["vision_tower.vision_model.post_layernorm.bias"], Always),
        row("img/head/kernel", &[ImgWidth, Width], INPUT, &["multi_modal_projector.linear.weight"], Always),
        row("img/head/bias", &[Width], Flat, &["multi_modal_projector.linear.bias"], Always),
        row(EMBEDDING, &[Vocabulary, Width], Rows, &[EMBEDDING_KEY], Always),
        row("llm/final_norm/scale", &[Width], Flat, &["language_model.model.norm.weight"], Always),
    ]
};

/// Under `img/Transformer/encoderblock/` and `vision_tower.vision_model.encoder.layers.N.`
#[rustfmt::skip]
const IMG_LAYER: [Row; 16] = {
    use Axis::*;
    use Layout::Flat;
    use When::*;
    [
        row("LayerNorm_0/scale", &[ImgWidth], Flat, &["layer_norm1.weight"], Always),
        row("LayerNorm_0/bias", &[ImgWidth], Flat, &["layer_norm1.bias"], Always),
        row("LayerNorm_1/scale", &[ImgWidth], Flat, &["layer_norm2.weight"], Always),
        row("LayerNorm_1/bias", &[ImgWidth], Flat, &["layer_norm2.bias"], Always),
        row("MlpBlock_0/Dense_0/kernel", &[ImgWidth, ImgMlp], INPUT, &["mlp.fc1.weight"], Always),
        row("MlpBlock_0/Dense_0/bias", &[ImgMlp], Flat, &["mlp.fc1.bias"], Always),
        row("MlpBlock_0/Dense_1/kernel", &[ImgMlp, ImgWidth], INPUT, &["mlp.fc2.weight"], Always),
        row("MlpBlock_0/Dense_1/bias", &[ImgWidth], Flat, &["mlp.fc2.bias"], Always),
        row("MultiHeadDotProductAttention_0/query/kernel", &[ImgWidth, ImgHeads, ImgHeadDim], INPUT, &["self_attn.q_proj.weight"], Always),
        row("MultiHeadDotProductAttention_0/query/bias", &[ImgHeads, ImgHeadDim], Flat, &["self_attn.q_proj.bias"], Always),
        row("MultiHeadDotProductAttention_0/key/kernel", &[ImgWidth, ImgHeads, ImgHeadDim], INPUT, &["self_attn.k_proj.weight"], Always),
        row("MultiHeadDotProductAttention_0/key/bias", &[ImgHeads, ImgHeadDim], Flat, &["self_attn.k_proj.bias"], Always),
        row("MultiHeadDotProductAttention_0/value/kernel", &[ImgWidth, ImgHeads, ImgHeadDim], INPUT, &["self_attn.v_proj.weight"], Always),
        row("MultiHeadDotProductAttention_0/value/bias", &[ImgHeads, ImgHeadDim], Flat, &["self_attn.v_proj.bias"], Always),
        row("MultiHeadDotProductAttention_0/out/kernel", &[ImgHeads, ImgHeadDim, ImgWidth], INPUT_HEADS, &["self_attn.out_proj.weight"], Always),
        row("MultiHeadDotProductAttention_0/out/bias", &[ImgWidth], Flat, &["self_attn.out_proj.bias"], Always),
    ]
};

/// Under `llm/layers/` and `language_model.model.layers.N.`
///
/// The norm before the MLP has two names: Gemma 1 has no norm after attention, and Hugging Face called this one by
/// what it comes after. In Gemma 2 that name means another.
#[rustfmt::skip]
const LLM_LAYER: [Row; 11] = {
    use Axis::*;
    use Layout::{Flat, Heads as IntoHeads};
    use When::*;
    [
        row("attn/q_einsum/w", &[Heads, Width, HeadDim], IntoHeads, &["self_attn.q_proj.weight"], Grouped),
        row("attn/kv_einsum/w", &[KvHeads, Width, HeadDim], IntoHeads, &["self_attn.k_proj.weight", "self_attn.v_proj.weight"], Grouped),
        row("attn/qkv_einsum/w", &[Heads, Width, HeadDim], IntoHeads, &["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"], MultiHead),
        row("attn/attn_vec_einsum/w", &[Heads, HeadDim, Width], INPUT_HEADS, &["self_attn.o_proj.weight"], Always),
        row("mlp/gating_einsum", &[Width, Mlp], INPUT, &["mlp.gate_proj.weight", "mlp.up_proj.weight"], Always),
        row("mlp/linear", &[Mlp, Width], INPUT, &["mlp.down_proj.weight"], Always),
        row("pre_attention_norm/scale", &[Width], Flat, &["input_layernorm.weight"], Always),
        row("pre_ffw_norm/scale", &[Width], Flat, &["post_attention_layernorm.weight"], Gemma1),
        row("pre_ffw_norm/scale", &[Width], Flat, &["pre_feedforward_layernorm.weight"], Gemma2),
        row("post_attention_norm/scale", &[Width], Flat, &["post_attention_layernorm.weight"], Gemma2),
        row("post_ffw_norm/scale", &[Width], Flat, &["post_feedforward_layernorm.weight"], Gemma2),
    ]
};

/// All parameters of a model of these sizes, in big_vision's order.
pub(super) fn entries(sizes: &Sizes) -> Vec<Entry> {
    let rows = |rows: &'static [Row]| rows.iter().filter(|row| row.is_in(sizes));
    let whole = rows(&WHOLE).map(|row| Entry {
        name: row.name.to_owned(),
        dims: row.slot_dims(sizes),
        slot_dims: row.slot_dims(sizes),
        keys: row.keys.iter().map(|&key| key.to_owned()).collect(),
        layout: row.layout,
    });
    let stacked = |row: &Row, name: &str, prefix: &str, depth: usize| {
        let slot_dims = row.slot_dims(sizes);
        let parts = Some(row.keys.len()).filter(|&parts| parts > 1);
        let layers = (0..depth).flat_map(|layer| row.keys.iter().map(move |key| (layer, key)));
        Entry {
            name: format!("{name}/{}", row.name),
            dims: [depth].into_iter().chain(parts).chain(slot_dims.iter().copied()).collect(),
            slot_dims,
            keys: layers.map(|(layer, key)| format!("{prefix}.{layer}.{key}")).collect(),
            layout: row.layout,
        }
    };
    let img =
        rows(&IMG_LAYER).map(|row| stacked(row, "img/Transformer/encoderblock", IMG_LAYERS, sizes.img.depth));
    let llm = rows(&LLM_LAYER).map(|row| stacked(row, "llm/layers", LLM_LAYERS, sizes.llm.depth));
    let mut entries: Vec<Entry> = whole.chain(img).chain(llm).collect();
    entries.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
    entries
}

/// Where Hugging Face keeps the layers of the towers.
pub(super) const IMG_LAYERS: &str = "vision_tower.vision_model.encoder.layers";
pub(super) const LLM_LAYERS: &str = "language_model.model.layers";

impl Row {
    fn is_in(&self, sizes: &Sizes) -> bool {
        let Sizes { img, llm } = sizes;
        match self.when {
            When::Always => true,
            When::Positions => img.num_patches.is_some(),
            When::Gemma1 => !llm.post_norms,
            When::Gemma2 => llm.post_norms,
            When::Grouped => llm.num_kv_heads != llm.num_heads,
            When::MultiHead => llm.num_kv_heads == llm.num_heads,
        }
    }

    fn slot_dims(&self, sizes: &Sizes) -> Vec<usize> {
        let ImgSizes { width, mlp_dim, num_heads, patch_size: [patch_height, patch_width], .. } = sizes.img;
        let llm: &LlmSizes = &sizes.llm;
        let dim = |axis: &Axis| match axis {
            Axis::One => 1,
            Axis::PatchHeight => patch_height,
            Axis::PatchWidth => patch_width,
            Axis::Channels => sizes.img.num_channels,
            Axis::Patches => sizes.img.num_patches.unwrap_or(0),
            Axis::ImgWidth => width,
            Axis::ImgMlp => mlp_dim,
            Axis::ImgHeads => num_heads,
            Axis::ImgHeadDim => width / num_heads,
            Axis::Vocabulary => llm.vocab_size,
            Axis::Width => llm.width,
            Axis::Mlp => llm.mlp_dim,
            Axis::Heads => llm.num_heads,
            Axis::KvHeads => llm.num_kv_heads,
            Axis::HeadDim => llm.head_dim,
        };
        self.slot.iter().map(dim).collect()
    }
}

/// What a name of Hugging Face's stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A parameter, under the name that transformers gave it up to 4.51.
    Parameter(String),
    /// The output layer, which is the embedding again.
    Output,
    /// A buffer that can be computed.
    Buffer,
    Foreign,
}

/// Reads a name as any version of transformers writes it.
///
/// | version | towers are called |
/// | --- | --- |
/// | to 4.51 | `vision_tower.vision_model.*`, `language_model.model.*`, `language_model.lm_head.weight` |
/// | 4.52 to 5.0 | `model.vision_tower.vision_model.*`, `model.language_model.*`, `lm_head.weight` |
/// | later | `model.vision_tower.*`, the others likewise |
pub(super) fn key(name: &str) -> Key {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let canonical = if let Some(rest) = name.strip_prefix("vision_tower.") {
        format!("vision_tower.vision_model.{}", rest.strip_prefix("vision_model.").unwrap_or(rest))
    } else if let Some(rest) = name.strip_prefix("language_model.") {
        if rest == "lm_head.weight" {
            return Key::Output;
        }
        format!("language_model.model.{}", rest.strip_prefix("model.").unwrap_or(rest))
    } else if name == "lm_head.weight" {
        return Key::Output;
    } else if name.starts_with("multi_modal_projector.") {
        name.to_owned()
    } else {
        return Key::Foreign;
    };
    let is_buffer = canonical.ends_with(".position_ids") || canonical.ends_with(".inv_freq");
    if is_buffer { Key::Buffer } else { Key::Parameter(canonical) }
}

/// Whether a file with these names comes from Hugging Face's side: words that big_vision's names lack, joined by
/// dots.
pub(crate) fn is_hf<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    const WORDS: [&str; 5] =
        ["vision_tower", "language_model", "multi_modal_projector", "embed_tokens", "self_attn"];
    names.into_iter().any(|name| {
        !name.contains('/') && name.contains('.') && name.split('.').any(|word| WORDS.contains(&word))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::checkpoint::variant::Variant;
    use crate::model::{GemmaConfig, PaliGemmaConfig, PoolType, SiglipConfig};

    /// The model knows its parameters' names by itself; the table must know the same.
    #[test]
    fn the_table_holds_all_parameters_of_every_model() {
        let img = SiglipConfig { pool_type: PoolType::None, ..SiglipConfig::variant("So400m/14").unwrap() };
        for variant in GemmaConfig::variants() {
            let llm = GemmaConfig::variant(variant).unwrap();
            let config = PaliGemmaConfig { img: img.clone(), llm, image_size: [224, 224], lora: None };
            let specs = config.params().unwrap();
            let sizes = Variant::of_specs(&specs).unwrap().sizes;
            let entries = entries(&sizes);
            let ours: Vec<_> = specs.iter().map(|spec| (spec.name.as_str(), spec.shape.dims())).collect();
            let table: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), &*entry.dims)).collect();
            assert_eq!(table, ours, "{variant}");
            let keys: Vec<_> = entries.iter().flat_map(|entry| &entry.keys).collect();
            assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "{variant}");
            assert!(keys.iter().all(|name| key(name) == Key::Parameter((*name).clone())));
            for entry in &entries {
                let slot: usize = entry.slot_dims.iter().product();
                assert_eq!(slot * entry.keys.len(), entry.dims.iter().product::<usize>());
                assert_eq!(slot, entry.hf_dims().iter().product::<usize>());
            }
        }
    }

    #[test]
    fn every_generation_of_prefixes_is_understood() {
        let q = Key::Parameter("language_model.model.layers.3.self_attn.q_proj.weight".to_owned());
        for prefix in ["language_model.model.", "model.language_model.", "language_model."] {
            assert_eq!(key(&format!("{prefix}layers.3.self_attn.q_proj.weight")), q);
        }
        let norm = Key::Parameter("vision_tower.vision_model.post_layernorm.bias".to_owned());
        for prefix in
            ["vision_tower.vision_model.", "model.vision_tower.vision_model.", "model.vision_tower."]
        {
            assert_eq!(key(&format!("{prefix}post_layernorm.bias")), norm);
        }
        for name in ["lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight"] {
            assert_eq!(key(name), Key::Output);
        }
        assert_eq!(key("vision_tower.vision_model.embeddings.position_ids"), Key::Buffer);
        assert_eq!(key("transformer.h.0.attn.weight"), Key::Foreign);
        assert!(is_hf(["a", "model.layers.0.self_attn.q_proj.weight"]));
        assert!(!is_hf(["llm/layers/self_attn.w", "self_attn", "img/embedding/kernel"]));
    }
}
