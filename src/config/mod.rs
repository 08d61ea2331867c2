//! The config of a run: big_vision's keys with their meaning, in YAML, typed and checked.
//!
//! ```yaml
//! args: {res: 224, text_len: 128}        # --arg res=448
//! input:
//!   data: {name: "bv:jsonl", fname: train.jsonl, fopen_keys: {image: photos}}
//!   pp: decode|resize({res})|value_range(-1, 1)|strfmt("caption {lang}", outkey="prefix")
//!   batch_size: 32
//! total_epochs: 15                       # or total_steps, total_examples
//! model_init: pt_{res}
//! ```
//!
//! A file goes through four steps: it is parsed into [`Node`]s that know their line and column; `--set`
//! changes them; declared arguments are put into strings (`args.rs`); the result is decoded into [`Config`].
//! Mistakes are collected and reported together, each with an excerpt ([`Error`]). The schema is declared
//! once, with [`config_section!`](crate::config_section): struct, decoder, writer and [`reference()`] come
//! from one place.
//!
//! This module knows names, types and ranges. What a name stands for (an optimizer, an evaluator, a model
//! variant, a pp op) is checked by its owner, which reports back through [`Kwargs::parse`] and
//! [`Loaded::error_at`].

mod args;
mod decode;
mod detection;
mod error;
mod evals;
mod input;
mod load;
mod lora;
mod model;
mod modes;
mod node;
mod overrides;
mod presets;
mod reference;
mod run;
mod schedule;
pub mod schema;
mod steps;
mod values;
mod watch;

pub use decode::{FilePath, Named};
pub use detection::{ClassChoice, Coco, Detect, Frames, Loc, Roboflow, Voc, Yolo};
pub use error::{Diagnostic, Error};
pub use evals::{Eval, EvalCache};
pub use input::{
    FeatureKind, FilePatterns, FopenKeys, ImageFolder, Input, InputData, Jsonl, MixedSource, MixedSources,
    Parquet, ShuffleReach, Source, TfRecord, Tfds, WebDataset,
};
pub use load::{Loaded, split_assignment};
pub use lora::{FrozenType, Lora, LoraTargets, TowerTargets};
pub use model::{Img, Llm, Model, PoolType, Posemb, QueryPreAttnNorm, RematPolicy};
pub use modes::Mode;
pub use node::{Entry, Kind, Node, Span};
pub use presets::Preset;
pub use reference::reference;
pub use run::{Config, Device, DeviceKind, Loss, ModelLoad, Predict, Reduction, Report, TowerLoad};
pub use schedule::{DecayType, ScheduleSpec};
pub use steps::{Duration, Horizon, StepsError, When, itstime};
pub use values::{Axes, Kwargs, ModelInit, Pattern, Rules, Size, Towers};
pub use watch::{CkptBest, EarlyStop, Goal, ReduceOnPlateau, ThresholdMode};

/// A section none of whose keys is set.
fn default_section<T: schema::Field>() -> T {
    let mut decoder = decode::Decoder::new(Default::default(), Vec::new());
    T::decode(&Kind::Map(Vec::new()).into(), &mut decoder).expect("every key of this section has a default")
}

/// `Default` for sections that have no required key, from the defaults of their keys.
macro_rules! default_sections {
    ($($name:ident),*) => { $(
        impl Default for $name {
            fn default() -> Self {
                $crate::config::default_section()
            }
        }
    )* };
}

use default_sections;

#[cfg(test)]
mod tests;
