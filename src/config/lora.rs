//! Adapters: what is trained instead of the model itself.

use super::decode::{Decoder, Field, FilePath};
use super::node::{Kind, Node};
use super::schema::{BELOW_ONE, POSITIVE};
use super::values::Pattern;
use crate::array::DType;
use crate::config_section;
use crate::params::Quant;

config_section! {
    /// Adapters of low rank beside the model's kernels, which then are all that is trained.
    pub struct Lora {
        /// Rank of the adapters.
        pub rank: usize = 8, POSITIVE;
        /// What adapters' products are multiplied by, over the rank; null is the rank.
        pub alpha: Option<f64> = None, POSITIVE;
        /// Rate at which inputs of adapters are dropped in training.
        pub dropout: f64 = 0.0, BELOW_ONE;
        /// Kernels that have adapters: regexes over names within a tower, or a list of regexes over whole names.
        pub targets: LoraTargets = LoraTargets::default();
        /// Whether lengths of kernels are learned apart from their directions (DoRA).
        pub dora: bool = false;
        /// Adapters to start from: the workdir of a run with adapters, or a directory of PEFT's; null starts with
        /// ones that change nothing.
        pub init: Option<FilePath> = None;
    }
}

super::default_sections!(Lora);

/// Which kernels have adapters.
#[derive(Debug, Clone, PartialEq)]
pub enum LoraTargets {
    /// By names within the towers.
    Towers { img: Option<Pattern>, llm: Option<Pattern> },
    /// By whole names.
    Names(Vec<Pattern>),
}

config_section! {
    /// Kernels by tower.
    pub struct TowerTargets {
        /// Kernels of the image tower.
        pub img: Option<Pattern> = None;
        /// Kernels of the language model.
        pub llm: Option<Pattern> = None;
    }
}

impl Default for LoraTargets {
    /// Every kernel of the language model.
    fn default() -> Self {
        LoraTargets::Towers { img: None, llm: Some(Pattern::any()) }
    }
}

impl LoraTargets {
    /// The patterns as they stand in the config, each with the prefix of the names that it is about.
    pub fn patterns(&self) -> Vec<(&'static str, &Pattern)> {
        match self {
            LoraTargets::Names(patterns) => patterns.iter().map(|pattern| ("", pattern)).collect(),
            LoraTargets::Towers { img, llm } => {
                let towers = [("img/", img), ("llm/", llm)];
                towers.into_iter().filter_map(|(prefix, pattern)| Some((prefix, pattern.as_ref()?))).collect()
            }
        }
    }
}

impl Field for LoraTargets {
    fn type_name() -> String {
        "{img: regex, llm: regex}, or list of regexes".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<LoraTargets> {
        match &node.kind {
            Kind::Str(_) => Pattern::decode(node, decoder).map(|pattern| LoraTargets::Names(vec![pattern])),
            Kind::List(_) => Vec::decode(node, decoder).map(LoraTargets::Names),
            Kind::Map(_) => {
                let TowerTargets { img, llm } = TowerTargets::decode(node, decoder)?;
                Some(LoraTargets::Towers { img, llm })
            }
            _ => decoder.expected(node, "a mapping with img and llm, or a list of regexes"),
        }
    }

    fn encode(&self) -> Node {
        match self {
            LoraTargets::Names(patterns) => patterns.encode(),
            LoraTargets::Towers { img, llm } => TowerTargets { img: img.clone(), llm: llm.clone() }.encode(),
        }
    }
}

/// In what parameters are kept that are not trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrozenType {
    Float(DType),
    /// Kernels in few bits, the rest in bfloat16.
    Quant(Quant),
}

impl FrozenType {
    /// The type of what is not in few bits.
    pub fn dtype(self) -> DType {
        match self {
            FrozenType::Float(dtype) => dtype,
            FrozenType::Quant(_) => DType::BF16,
        }
    }

    pub fn quant(self) -> Option<Quant> {
        match self {
            FrozenType::Float(_) => None,
            FrozenType::Quant(quant) => Some(quant),
        }
    }
}

impl Field for FrozenType {
    fn type_name() -> String {
        "dtype, int8 or nf4".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<FrozenType> {
        let quants = [Quant::Int8, Quant::Nf4];
        match node.as_str().and_then(|word| quants.into_iter().find(|quant| quant.name() == word)) {
            Some(quant) => Some(FrozenType::Quant(quant)),
            None => match node.as_str().map(str::parse::<DType>) {
                Some(Ok(dtype)) if dtype.is_float() => Some(FrozenType::Float(dtype)),
                _ => {
                    decoder.expected(node, "a floating-point dtype (float32, bfloat16, float16), int8 or nf4")
                }
            },
        }
    }

    fn encode(&self) -> Node {
        match self {
            FrozenType::Float(dtype) => dtype.encode(),
            FrozenType::Quant(quant) => quant.name().into(),
        }
    }
}
