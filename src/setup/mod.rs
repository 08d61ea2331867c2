//! From a config to the parts of a run: the model, the optimizer, the device. What training, evaluation
//! and prediction have in common stands here, and what a config's words mean to their owners.

mod data;
mod device;
mod input;
mod lora;
mod model;
mod optimizer;

pub use data::{PpPreprocess, eval_source, example_of, pp_env, source, tokenizer};
pub use device::{client, client_of, plugin_request};
pub use input::{alone, shuffle, streams};
pub use lora::lora_config;
pub use model::{init_files, initial_params, model_config, param_dtypes};
pub use optimizer::{Schedules, optimizer, transform};

use crate::{checkpoint, config, data as sources, params, runtime, tokenizer as tokens};

/// A part of a run that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Params(#[from] params::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Data(#[from] sources::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokens::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
}
