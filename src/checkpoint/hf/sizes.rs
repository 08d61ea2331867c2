//! The sizes of a model from the shapes of Hugging Face's tensors.
//!
//! Shapes tell everything but how projections are divided into heads. That comes from the `config.json` beside the
//! files or, without one, from the published model that has just these shapes.

use std::collections::HashMap;

use super::Problem;
use super::config::HfConfig;
use super::names::{EMBEDDING_KEY, IMG_LAYERS, LLM_LAYERS};
use crate::array::Shape;
use crate::checkpoint::variant::{ImgSizes, LlmSizes, Sizes, VOCAB_SIZE};
use crate::model::{GemmaConfig, SiglipConfig};

/// Rows that Hugging Face adds to the embedding, for `<image>` and to have a multiple of 64.
pub(super) const ADDED_ROWS: usize = 64;

/// The shapes of a file's tensors, by the oldest generation of names.
pub(super) type Shapes<'a> = HashMap<&'a str, &'a Shape>;

pub(super) fn sizes_of(shapes: &Shapes<'_>, config: &HfConfig) -> Result<Sizes, Problem> {
    Ok(Sizes { img: img(shapes, config)?, llm: llm(shapes, config)? })
}

fn img(shapes: &Shapes<'_>, config: &HfConfig) -> Result<ImgSizes, Problem> {
    let embeddings = "vision_tower.vision_model.embeddings";
    let [width, num_channels, patch_height, patch_width] =
        dims(shapes, &format!("{embeddings}.patch_embedding.weight"))?;
    let [num_patches, _] = dims(shapes, &format!("{embeddings}.position_embedding.weight"))?;
    let [mlp_dim, _] = dims(shapes, &format!("{IMG_LAYERS}.0.mlp.fc1.weight"))?;
    let query = format!("{IMG_LAYERS}.0.self_attn.q_proj.weight");
    let [rows, _] = dims(shapes, &query)?;
    let depth = depth(shapes, IMG_LAYERS);
    let published = SiglipConfig::variants().filter_map(|name| SiglipConfig::variant(name).ok());
    let mut published = published
        .filter(|siglip| siglip.width == width && siglip.depth == depth && siglip.mlp_dim == mlp_dim);
    let field = "vision_config.num_attention_heads";
    let unknown = || Problem::Heads { tower: "vision tower", rows: vec![rows], field };
    let num_heads = config.img_num_heads.or(published.next().map(|siglip| siglip.num_heads));
    let num_heads = num_heads.ok_or_else(unknown)?;
    if !width.is_multiple_of(num_heads) {
        return Err(disagrees(shapes, field, num_heads, query));
    }
    let patch_size = [patch_height, patch_width];
    let num_patches = Some(num_patches);
    Ok(ImgSizes { width, depth, mlp_dim, num_heads, patch_size, num_channels, num_patches })
}

fn llm(shapes: &Shapes<'_>, config: &HfConfig) -> Result<LlmSizes, Problem> {
    let [rows, width] = dims(shapes, EMBEDDING_KEY)?;
    let [mlp_dim, _] = dims(shapes, &format!("{LLM_LAYERS}.0.mlp.gate_proj.weight"))?;
    let [query, key] = ["q_proj", "k_proj"].map(|name| format!("{LLM_LAYERS}.0.self_attn.{name}.weight"));
    let [query_rows, _] = dims(shapes, &query)?;
    let [key_rows, _] = dims(shapes, &key)?;
    let post_norms = shapes.contains_key(&*format!("{LLM_LAYERS}.0.pre_feedforward_layernorm.weight"));
    let depth = depth(shapes, LLM_LAYERS);

    // Any one of the three numbers gives the two others.
    let divided = |field, count: Option<usize>, rows: usize, name: &String| match count {
        Some(count) if !rows.is_multiple_of(count) => Err(disagrees(shapes, field, count, name.clone())),
        Some(count) => Ok(Some(rows / count)),
        None => Ok(None),
    };
    let head_field = "text_config.head_dim";
    let of_heads = divided("text_config.num_attention_heads", config.num_heads, query_rows, &query)?;
    let of_kv_heads = divided("text_config.num_key_value_heads", config.num_kv_heads, key_rows, &key)?;
    let published = GemmaConfig::variants().filter_map(|name| GemmaConfig::variant(name).ok());
    let published = published.filter(|gemma| {
        gemma.width == width
            && gemma.depth == depth
            && gemma.mlp_dim == mlp_dim
            && gemma.num_heads * gemma.head_dim == query_rows
            && gemma.num_kv_heads * gemma.head_dim == key_rows
            && gemma.post_norms == post_norms
    });
    let found = [config.head_dim, of_heads, of_kv_heads].into_iter().flatten();
    let found = found.chain(published.map(|gemma| gemma.head_dim)).next();
    let head_dim = found.ok_or_else(|| Problem::Heads {
        tower: "decoder",
        rows: vec![query_rows, key_rows],
        field: "text_config.num_attention_heads or head_dim",
    })?;
    for (count, rows, name) in [(of_heads, query_rows, &query), (of_kv_heads, key_rows, &key)] {
        if !rows.is_multiple_of(head_dim) || count.is_some_and(|count| count != head_dim) {
            return Err(disagrees(shapes, head_field, head_dim, name.clone()));
        }
    }
    let (num_heads, num_kv_heads) = (query_rows / head_dim, key_rows / head_dim);
    if !num_heads.is_multiple_of(num_kv_heads) {
        return Err(disagrees(shapes, head_field, head_dim, key));
    }
    let vocab_size = vocabulary(rows, config.image_token);
    Ok(LlmSizes { width, depth, mlp_dim, num_heads, num_kv_heads, head_dim, vocab_size, post_norms })
}

/// How many of the embedding's rows are big_vision's. The others are `<image>` and padding, and nothing that a
/// model has learnt.
fn vocabulary(rows: usize, image_token: Option<usize>) -> usize {
    match image_token {
        Some(image) if image > 0 && image < rows && rows - image <= ADDED_ROWS => image,
        _ if rows > VOCAB_SIZE => {
            if rows > VOCAB_SIZE + ADDED_ROWS {
                let extra = rows - VOCAB_SIZE;
                tracing::warn!(
                    "the embedding has {extra} rows beyond PaliGemma's {VOCAB_SIZE}, leaving them out"
                );
            }
            VOCAB_SIZE
        }
        _ => rows,
    }
}

/// One more than the highest layer; with gaps, names will be missing.
fn depth(shapes: &Shapes<'_>, layers: &str) -> usize {
    let index = |name: &&str| {
        let (index, _) = name.strip_prefix(layers)?.strip_prefix('.')?.split_once('.')?;
        index.parse::<usize>().ok()
    };
    // A layer of a well-formed model has several tensors: a number beyond that is not one to make a list for.
    let highest = shapes.keys().filter_map(index).filter(|&index| index < shapes.len()).max();
    highest.map_or(0, |highest| highest + 1)
}

fn dims<const RANK: usize>(shapes: &Shapes<'_>, name: &str) -> Result<[usize; RANK], Problem> {
    let missing = || Problem::Names { missing: vec![name.to_owned()], unknown: vec![] };
    let shape = *shapes.get(name).ok_or_else(missing)?;
    let dims = <[usize; RANK]>::try_from(shape.dims()).ok().filter(|dims| !dims.contains(&0));
    dims.ok_or_else(|| Problem::Rank { name: name.to_owned(), rank: RANK, got: shape.clone() })
}

fn disagrees(shapes: &Shapes<'_>, field: &'static str, value: usize, name: String) -> Problem {
    let shape = shapes[&*name].clone();
    Problem::ConfigDisagrees { field, value, name, shape }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_rows_are_told_from_learnt_ones() {
        assert_eq!(vocabulary(257_152, None), 257_152);
        assert_eq!(vocabulary(257_216, None), 257_152);
        assert_eq!(vocabulary(257_216, Some(257_152)), 257_152);
        // Beyond what Hugging Face adds: somebody's own tokens.
        assert_eq!(vocabulary(257_300, Some(257_152)), 257_152);
        assert_eq!(vocabulary(300, None), 300);
        assert_eq!(vocabulary(364, Some(300)), 300);
        // An image token among the others is none of the added ones.
        assert_eq!(vocabulary(364, Some(5)), 364);
        assert_eq!(vocabulary(64, Some(0)), 64);
        // Own vocabularies that are larger than PaliGemma's round-trip too.
        assert_eq!(vocabulary(257_280, Some(257_216)), 257_216);
    }
}
