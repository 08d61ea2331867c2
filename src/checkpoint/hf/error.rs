use std::fmt::Write;
use std::path::PathBuf;

use crate::array::Shape;
use crate::tokenizer;

/// Why names of Hugging Face's and big_vision's do not translate.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("tensors of a PaliGemma are missing: {}; unknown are: {}", listed(.missing), listed(.unknown))]
    Names { missing: Vec<String>, unknown: Vec<String> },

    #[error(
        "no tensor has a name of PaliGemma's ({}); its names begin with vision_tower, multi_modal_projector \
         and language_model, with model. before them or not", listed(.unknown)
    )]
    Foreign { unknown: Vec<String> },

    #[error("tensor \"{name}\" expects the extents {expected:?}, which other tensors imply, got {got}")]
    Extents { name: String, expected: Vec<usize>, got: Shape },

    #[error("tensor \"{name}\" expects {rank} extents, none of them zero, got {got}")]
    Rank { name: String, rank: usize, got: Shape },

    #[error(
        "tensor \"{name}\" is {dtype}: quantised weights cannot be read; load the model unquantised and save it again"
    )]
    Quantised { name: String, dtype: crate::array::DType },

    #[error(
        "shapes do not tell the {tower}'s number of heads (its projections have {rows:?} rows); put the model's \
         config.json beside it, with {field}"
    )]
    Heads { tower: &'static str, rows: Vec<usize>, field: &'static str },

    #[error("config.json says {field} is {value}, which does not fit \"{name}\" of shape {shape}")]
    ConfigDisagrees { field: &'static str, value: usize, name: String, shape: Shape },

    #[error("{} is not JSON", .path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },

    #[error(
        "lm_head.weight differs from the embedding: big_vision's model has one array for both, so that this one \
         cannot be expressed"
    )]
    Untied,

    #[error(
        "it is not a whole PaliGemma: {name} {}", .got.as_ref().map_or("is missing".to_owned(), |dims| {
            format!("has the extents {dims:?}")
        })
    )]
    NotWhole { name: &'static str, got: Option<Vec<usize>> },

    #[error("transformers has no PaliGemma with {what}")]
    Inexpressible { what: String },

    #[error(
        "the tokenizer has {tokens} tokens (with locations and segmentation codes), the model's table only {rows} rows"
    )]
    TokenizerTooLarge { tokens: usize, rows: usize },

    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),

    #[error("{} is not the config of a PEFT adapter: {problem}", .path.display())]
    AdapterConfig { path: PathBuf, problem: String },

    #[error("an adapter with {what} cannot be merged; merge it with PEFT and save the whole model")]
    UnsupportedAdapter { what: String },

    #[error("the adapter changes what the model does not have: {}", listed(.names))]
    UnknownTargets { names: Vec<String> },

    #[error("the adapter's tensor \"{name}\" has no {partner}")]
    HalfAdapter { name: String, partner: &'static str },

    #[error("the adapter's base model \"{base}\" is no directory or file here: {hint}")]
    NoBase { base: String, hint: &'static str },
}

/// Names for a message: the first few, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 6;
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        write!(text, " and {} more", names.len() - SHOWN).expect("writing to a string cannot fail");
    }
    text
}
