//! Which PaliGemma a set of parameters is, from nothing but big_vision's names and shapes.

use std::fmt;

use super::Reader;
use crate::array::Shape;
use crate::model::{GemmaConfig, SiglipConfig};
use crate::params::ParamSpecs;

/// Rows of PaliGemma's embedding: 256 000 tokens of Gemma, 1024 locations, 128 segmentation codes.
pub const VOCAB_SIZE: usize = 257_152;

/// Sizes of the vision tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImgSizes {
    pub width: usize,
    pub depth: usize,
    pub mlp_dim: usize,
    pub num_heads: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: [usize; 2],
    pub num_channels: usize,
    /// Learned position embeddings, one for each patch; `None` where positions are computed.
    pub num_patches: Option<usize>,
}

/// Sizes of the decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmSizes {
    pub width: usize,
    pub depth: usize,
    pub mlp_dim: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Norms after attention and MLP, which Gemma 2 has.
    pub post_norms: bool,
}

/// Sizes of both towers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    pub img: ImgSizes,
    pub llm: LlmSizes,
}

/// A tensor without which sizes cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undetected {
    pub name: &'static str,
    /// What stands in its place, if anything does.
    pub got: Option<Vec<usize>>,
}

const Q: &str = "llm/layers/attn/q_einsum/w";
const KV: &str = "llm/layers/attn/kv_einsum/w";
/// Queries, keys and values in one, where there are as many key heads as heads.
const QKV: &str = "llm/layers/attn/qkv_einsum/w";

impl Sizes {
    /// Reads them from the shapes of a few parameters; the others are not looked at.
    pub(crate) fn of<'a>(find: &dyn Fn(&str) -> Option<&'a Shape>) -> Result<Sizes, Undetected> {
        let [patch_height, patch_width, num_channels, width] = dims(find, "img/embedding/kernel")?;
        let [depth, _, mlp_dim] = dims(find, "img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel")?;
        let query = "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel";
        let [_, _, num_heads, _] = dims(find, query)?;
        let posemb = "img/pos_embedding";
        let num_patches = match find(posemb) {
            Some(_) => Some(dims::<3>(find, posemb)?[1]),
            None => None,
        };
        let patch_size = [patch_height, patch_width];
        let img = ImgSizes { width, depth, mlp_dim, num_heads, patch_size, num_channels, num_patches };

        let [vocab_size, width] = dims(find, "llm/embedder/input_embedding")?;
        let [depth, mlp_dim, _] = dims(find, "llm/layers/mlp/linear")?;
        let (num_heads, num_kv_heads, head_dim) = if find(QKV).is_some() {
            let [_, _, heads, _, head_dim] = dims(find, QKV)?;
            (heads, heads, head_dim)
        } else {
            let [_, heads, _, head_dim] = dims(find, Q)?;
            (heads, dims::<5>(find, KV)?[2], head_dim)
        };
        let post_norms = find("llm/layers/post_attention_norm/scale").is_some();
        let llm =
            LlmSizes { width, depth, mlp_dim, num_heads, num_kv_heads, head_dim, vocab_size, post_norms };
        Ok(Sizes { img, llm })
    }
}

fn dims<'a, const RANK: usize>(
    find: &dyn Fn(&str) -> Option<&'a Shape>,
    name: &'static str,
) -> Result<[usize; RANK], Undetected> {
    let got = find(name).map(|shape| shape.dims().to_vec());
    let usable = got.as_deref().and_then(|dims| <[usize; RANK]>::try_from(dims).ok());
    usable.filter(|dims| !dims.contains(&0)).ok_or(Undetected { name, got })
}

impl ImgSizes {
    /// The size's published name, without the patch size.
    fn published(&self) -> Option<&'static str> {
        SiglipConfig::variants().find(|name| {
            SiglipConfig::variant(name).is_ok_and(|siglip| {
                siglip.width == self.width
                    && siglip.depth == self.depth
                    && siglip.mlp_dim == self.mlp_dim
                    && siglip.num_heads == self.num_heads
            })
        })
    }

    /// Height and width of square images in pixels, when the number of patches is that of one.
    pub fn image_size(&self) -> Option<[usize; 2]> {
        let num_patches = self.num_patches?;
        let side = num_patches.isqrt();
        (side * side == num_patches).then(|| self.patch_size.map(|patch| side * patch))
    }
}

impl LlmSizes {
    /// The size's published name.
    fn published(&self) -> Option<&'static str> {
        GemmaConfig::variants().find(|name| {
            GemmaConfig::variant(name).is_ok_and(|gemma| {
                gemma.width == self.width
                    && gemma.depth == self.depth
                    && gemma.mlp_dim == self.mlp_dim
                    && gemma.num_heads == self.num_heads
                    && gemma.num_kv_heads == self.num_kv_heads
                    && gemma.head_dim == self.head_dim
                    && gemma.post_norms == self.post_norms
            })
        })
    }
}

/// A PaliGemma of known sizes, and what its publishers call them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub sizes: Sizes,
    /// The decoder's name, such as `gemma2_2b`, if it is one of the published ones.
    pub llm: Option<&'static str>,
    /// The vision tower's name without the patch size, such as `So400m`.
    pub img: Option<&'static str>,
}

/// The variant of a checkpoint under big_vision's names; `None` when it is not a whole PaliGemma.
pub fn detect(reader: &dyn Reader) -> Option<Variant> {
    Sizes::of(&|name| reader.find(name)).ok().map(Variant::new)
}

impl Variant {
    pub fn new(sizes: Sizes) -> Self {
        Variant { llm: sizes.llm.published(), img: sizes.img.published(), sizes }
    }

    /// The variant that a model's parameters make up.
    pub fn of_specs(specs: &ParamSpecs) -> Option<Self> {
        Sizes::of(&|name| specs.find(name).map(|spec| &spec.shape)).ok().map(Variant::new)
    }

    /// 1 or 2: the generation of the Gemma inside.
    pub fn generation(&self) -> usize {
        if self.sizes.llm.post_norms { 2 } else { 1 }
    }

    /// `3B`, `10B` or `28B`, as the whole model is called where Google published it.
    pub fn size(&self) -> Option<&'static str> {
        if self.img != Some("So400m") || self.sizes.img.patch_size != [14, 14] {
            return None;
        }
        match self.llm? {
            "gemma_2b" | "gemma2_2b" => Some("3B"),
            "gemma2_9b" => Some("10B"),
            "gemma2_27b" => Some("28B"),
            _ => None,
        }
    }

    /// Height and width of images in pixels, where the position embeddings tell it.
    pub fn image_size(&self) -> Option<[usize; 2]> {
        self.sizes.img.image_size()
    }
}

/// `PaliGemma 2 3B, 224 px (gemma2_2b, So400m/14)`; sizes that nobody published are spelled out, in the words of
/// a config's `model`.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { img, llm } = &self.sizes;
        f.write_str(if llm.post_norms { "PaliGemma 2" } else { "PaliGemma" })?;
        if let Some(size) = self.size() {
            write!(f, " {size}")?;
        }
        match self.image_size() {
            Some([height, width]) if height == width => write!(f, ", {height} px (")?,
            Some([height, width]) => write!(f, ", {height}x{width} px (")?,
            None => f.write_str(" (")?,
        }
        match self.llm {
            Some(name) => f.write_str(name)?,
            None => write!(
                f,
                "llm: width {}, depth {}, mlp_dim {}, num_heads {}, num_kv_heads {}, head_dim {}",
                llm.width, llm.depth, llm.mlp_dim, llm.num_heads, llm.num_kv_heads, llm.head_dim
            )?,
        }
        if llm.vocab_size != VOCAB_SIZE {
            write!(f, ", vocab_size {}", llm.vocab_size)?;
        }
        match self.img {
            Some(name) => write!(f, ", {name}")?,
            None => write!(
                f,
                "; img: width {}, depth {}, mlp_dim {}, num_heads {}, patch ",
                img.width, img.depth, img.mlp_dim, img.num_heads
            )?,
        }
        let separator = if self.img.is_some() { "/" } else { "" };
        match img.patch_size {
            [height, width] if height == width => write!(f, "{separator}{height})"),
            [height, width] => write!(f, "{separator}{height}x{width})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PaliGemmaConfig, PoolType};

    fn published(llm: &str, side: usize, vocab_size: usize) -> PaliGemmaConfig {
        let img = SiglipConfig { pool_type: PoolType::None, ..SiglipConfig::variant("So400m/14").unwrap() };
        let llm = GemmaConfig { vocab_size, ..GemmaConfig::variant(llm).unwrap() };
        PaliGemmaConfig { img, llm, image_size: [side, side], lora: None }
    }

    fn variant(config: &PaliGemmaConfig) -> Variant {
        Variant::of_specs(&config.params().unwrap()).unwrap()
    }

    #[test]
    fn published_models_have_their_names() {
        let name = |llm: &str, side| variant(&published(llm, side, VOCAB_SIZE)).to_string();
        assert_eq!(name("gemma_2b", 224), "PaliGemma 3B, 224 px (gemma_2b, So400m/14)");
        assert_eq!(name("gemma2_2b", 448), "PaliGemma 2 3B, 448 px (gemma2_2b, So400m/14)");
        assert_eq!(name("gemma2_9b", 896), "PaliGemma 2 10B, 896 px (gemma2_9b, So400m/14)");
        assert_eq!(name("gemma2_27b", 224), "PaliGemma 2 28B, 224 px (gemma2_27b, So400m/14)");
        // One that can be built, and that nobody released.
        assert_eq!(name("gemma_7b", 224), "PaliGemma, 224 px (gemma_7b, So400m/14)");
        let own = variant(&published("gemma2_2b", 224, 300));
        assert_eq!(own.to_string(), "PaliGemma 2 3B, 224 px (gemma2_2b, vocab_size 300, So400m/14)");
        assert_eq!(own.sizes.llm.vocab_size, 300);
    }

    #[test]
    fn own_sizes_are_spelled_out() {
        let mut config = published("gemma2_2b", 28, VOCAB_SIZE);
        config.llm.depth = 3;
        config.img.width = 32;
        config.img.patch_size = [14, 7];
        config.image_size = [28, 14];
        assert_eq!(
            variant(&config).to_string(),
            "PaliGemma 2, 28x14 px (llm: width 2304, depth 3, mlp_dim 9216, num_heads 8, num_kv_heads 4, \
             head_dim 256; img: width 32, depth 27, mlp_dim 4304, num_heads 16, patch 14x7)"
        );
        // Six patches are no square.
        config.image_size = [28, 21];
        assert_eq!(variant(&config).image_size(), None);
    }

    #[test]
    fn a_part_of_a_model_is_none() {
        let config = published("gemma_2b", 224, 100);
        let specs = ParamSpecs::new(config.llm.params()).unwrap();
        assert_eq!(Variant::of_specs(&specs), None);
    }
}
