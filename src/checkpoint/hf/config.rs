//! The JSON files beside the weights: what of them is read, and what is written.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::tokenizer::{self, Ids};
use super::{Export, Problem, in_file};
use crate::array::DType;
use crate::checkpoint::variant::Sizes;
use crate::checkpoint::{Error, Reader};
use crate::model::{GemmaConfig, QueryNorm};

/// Name and content.
pub(super) type File = (String, Vec<u8>);

pub(super) const CONFIG_NAME: &str = "config.json";

/// What shapes do not tell, from a `config.json`. A file that lacks something leaves it open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HfConfig {
    pub img_num_heads: Option<usize>,
    pub num_heads: Option<usize>,
    pub num_kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    /// The id of `<image>`, which follows the ids of big_vision's vocabulary.
    pub image_token: Option<usize>,
}

impl HfConfig {
    /// Reads the `config.json` in a folder; without one, nothing is known.
    ///
    /// # Errors
    /// When the file cannot be read or is not JSON.
    pub fn beside(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(CONFIG_NAME);
        if !path.is_file() {
            return Ok(HfConfig::default());
        }
        let value = read_json(&path)?;
        let number = |section: &str, field: &str| {
            let number = value.get(section)?.get(field)?.as_u64().filter(|&number| number > 0)?;
            usize::try_from(number).ok()
        };
        let image_token = ["image_token_index", "image_token_id"].iter().find_map(|field| value.get(field));
        Ok(HfConfig {
            img_num_heads: number("vision_config", "num_attention_heads"),
            num_heads: number("text_config", "num_attention_heads"),
            num_kv_heads: number("text_config", "num_key_value_heads"),
            head_dim: number("text_config", "head_dim"),
            image_token: image_token.and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok()),
        })
    }
}

pub(super) fn read_json(path: &Path) -> Result<Value, Error> {
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|source| in_file(path)(Problem::Json { path: path.to_owned(), source }))
}

/// What the files beside the weights say that the weights do not. What is `None` is as the model was published,
/// or as Gemma of its generation has it.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// Soft cap on attention logits; 0 for none.
    pub attn_logits_softcap: Option<f64>,
    /// Soft cap on the logits of decoding; 0 for none, as transfers of PaliGemma 2 are trained.
    pub final_logits_softcap: Option<f64>,
    pub query_pre_attn_norm: Option<QueryNorm>,
    /// The type that the weights are written in, where that is not the export's own.
    pub dtype: Option<DType>,
    /// A `tokenizer.model`, a `tokenizer.json`, or a folder that holds one of them.
    pub tokenizer: Option<PathBuf>,
}

/// The files that transformers wants beside the weights, by name: `config.json`, `generation_config.json`,
/// `preprocessor_config.json` and, when a tokenizer is given, its files.
///
/// Images are resized bilinearly, as big_vision does in training; transformers' own files of PaliGemma say bicubic.
///
/// # Errors
/// When transformers cannot express the model, or the tokenizer cannot be read or does not fit.
pub fn extra_files(export: &Export, options: &FileOptions) -> Result<Vec<File>, Error> {
    let fail = in_file(options.tokenizer.as_deref().unwrap_or(export.path()));
    let vocab_size = export.variant().sizes.llm.vocab_size;
    let tokenizer = options.tokenizer.as_deref().map(|path| tokenizer::files(path, vocab_size)).transpose();
    let (ids, tokenizer_files) = tokenizer.map_err(fail)?.unwrap_or_default();
    let config = model_config(export, options, &ids).map_err(in_file(export.path()))?;
    let generation = json!({
        "_from_model_config": true,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
    });
    let mut files = vec![
        (CONFIG_NAME.to_owned(), pretty(&config)),
        ("generation_config.json".to_owned(), pretty(&generation)),
        ("preprocessor_config.json".to_owned(), pretty(&preprocessor_config(&config))),
    ];
    files.extend(tokenizer_files);
    Ok(files)
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn preprocessor_config(config: &Value) -> Value {
    const BILINEAR: u8 = 2;
    let side = &config["vision_config"]["image_size"];
    json!({
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "PaliGemmaProcessor",
        "image_seq_length": config["vision_config"]["num_image_tokens"],
        "do_convert_rgb": true,
        "do_resize": true,
        "size": {"height": side, "width": side},
        "resample": BILINEAR,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    })
}

/// Names of torch's types.
fn torch_dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        DType::F64 => "float64",
        _ => "float32",
    }
}

fn model_config(export: &Export, options: &FileOptions, ids: &Ids) -> Result<Value, Problem> {
    let Sizes { img, llm } = &export.variant().sizes;
    let image_size = match (img.patch_size, export.variant().image_size()) {
        ([patch, width], Some([size, _])) if patch == width => size,
        _ => {
            let num_patches = img.num_patches.unwrap_or(0);
            let [height, width] = img.patch_size;
            let what = format!("{num_patches} patches of {height}x{width} pixels, images are square");
            return Err(Problem::Inexpressible { what });
        }
    };
    let dtype = torch_dtype(options.dtype.unwrap_or(export.dtype()));
    let vision = json!({
        "model_type": "siglip_vision_model",
        "hidden_size": img.width,
        "intermediate_size": img.mlp_dim,
        "num_hidden_layers": img.depth,
        "num_attention_heads": img.num_heads,
        "num_channels": img.num_channels,
        "patch_size": img.patch_size[0],
        "image_size": image_size,
        "num_image_tokens": img.num_patches,
        "projection_dim": llm.width,
        "projector_hidden_act": "gelu_fast",
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "attention_dropout": 0.0,
        "vision_use_head": false,
        "torch_dtype": dtype,
    });
    Ok(json!({
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "torch_dtype": dtype,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
        "image_token_index": llm.vocab_size,
        "ignore_index": -100,
        "hidden_size": llm.width,
        "projection_dim": llm.width,
        "_vocab_size": llm.vocab_size,
        "tie_word_embeddings": true,
        "text_config": text_config(export, options, dtype)?,
        "vision_config": vision,
    }))
}

fn text_config(export: &Export, options: &FileOptions, dtype: &str) -> Result<Value, Problem> {
    let variant = export.variant();
    let Sizes { img, llm } = &variant.sizes;
    let published = variant.llm.and_then(|name| GemmaConfig::variant(name).ok());
    let default_cap = |cap: f64| if llm.post_norms { cap } else { 0.0 };
    let attention_cap = options.attn_logits_softcap.unwrap_or(default_cap(50.0));
    let final_cap = options.final_logits_softcap.unwrap_or(default_cap(30.0));
    let norm = published.map_or(QueryNorm::RsqrtHeadDim, |gemma| gemma.query_pre_attn_norm);
    let norm = options.query_pre_attn_norm.unwrap_or(norm);
    // Queries are divided by the root of this number.
    let query_scale = match norm {
        QueryNorm::RsqrtHeadDim => llm.head_dim,
        QueryNorm::RsqrtEmbPerHead if llm.width.is_multiple_of(llm.num_heads) => llm.width / llm.num_heads,
        QueryNorm::RsqrtEmbPerHead => {
            let what =
                format!("a width of {} over {} heads, which does not divide", llm.width, llm.num_heads);
            return Err(Problem::Inexpressible { what });
        }
    };
    let mut config = json!({
        "model_type": if llm.post_norms { "gemma2" } else { "gemma" },
        "hidden_size": llm.width,
        "intermediate_size": llm.mlp_dim,
        "num_hidden_layers": llm.depth,
        "num_attention_heads": llm.num_heads,
        "num_key_value_heads": llm.num_kv_heads,
        "head_dim": llm.head_dim,
        "vocab_size": export.rows(),
        "num_image_tokens": img.num_patches,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": MAX_POSITIONS,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "use_bidirectional_attention": true,
        "tie_word_embeddings": true,
        "use_cache": true,
        "torch_dtype": dtype,
    });
    if llm.post_norms {
        config["query_pre_attn_scalar"] = query_scale.into();
        config["attn_logit_softcapping"] = cap(attention_cap);
        config["final_logit_softcapping"] = cap(final_cap);
        config["sliding_window"] = sliding_window(img.num_patches.unwrap_or(0)).into();
        return Ok(config);
    }
    let what = if attention_cap != 0.0 || final_cap != 0.0 {
        "soft caps on Gemma 1's logits".to_owned()
    } else if query_scale != llm.head_dim {
        "another scale of Gemma 1's queries than the root of head_dim".to_owned()
    } else {
        return Ok(config);
    };
    Err(Problem::Inexpressible { what })
}

const MAX_POSITIONS: usize = 8192;

fn cap(cap: f64) -> Value {
    if cap == 0.0 { Value::Null } else { cap.into() }
}

/// How far every other layer of Gemma 2 sees in transformers. In big_vision all see everything; Gemma's own window
/// is kept where it makes no difference, which with images of 896 pixels it does.
fn sliding_window(num_image_tokens: usize) -> usize {
    const WINDOW: usize = 4096;
    const TEXT: usize = 1024;
    let length = num_image_tokens + TEXT;
    if length > WINDOW { MAX_POSITIONS.max(length) } else { WINDOW }
}
