//! From a checkpoint and its config to a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, Preprocessing};
use crate::array::HostArray;
use crate::checkpoint::{self, Fitted};
use crate::config::Loaded;
use crate::model::PaliGemmaConfig;
use crate::params::{ParamSpec, ParamSpecs, Patterns};
use crate::pp::Pipeline;
use crate::setup;
use crate::tokenizer::{NUM_LOC, NUM_SEG, Tokenizer};

/// A model, ready to go to a device.
#[derive(Debug)]
pub struct LoadedModel {
    pub config: PaliGemmaConfig,
    /// In the order of [`PaliGemmaConfig::params`], in the types that the checkpoint has.
    pub params: Vec<(String, HostArray)>,
    pub tokenizer: Arc<Tokenizer>,
    pub preprocessing: Preprocessing,
}

/// The config that belongs to a checkpoint: `config.yaml` in the workdir of its run, which is the path itself
/// or the folder around it.
pub fn find_config(checkpoint: &Path) -> Option<PathBuf> {
    let folders = [Some(checkpoint), checkpoint.parent()];
    folders.into_iter().flatten().map(|folder| folder.join("config.yaml")).find(|path| path.is_file())
}

impl LoadedModel {
    /// Reads the parameters of `checkpoint`, which may be of any format that [`checkpoint::open`] knows, for
    /// the model of a config.
    ///
    /// # Errors
    /// Where the config lacks a tokenizer or an image size, or has no such model; where the checkpoint is
    /// damaged or of another model: then with all names that do not fit.
    pub fn open(checkpoint: &Path, loaded: &Loaded) -> Result<Self, Error> {
        let config = setup::model_config(loaded)?;
        let preprocessing = preprocessing(&config, loaded)?;
        let tokenizer = setup::tokenizer(loaded)?;
        let tokenizer = with_locations(tokenizer, config.llm.vocab_size)?;
        let all = config.params()?;
        let grid = config.img.grid(config.image_size);
        let Fitted { reader, notes } = checkpoint::fit(checkpoint::open(checkpoint)?, &all, grid, None);
        notes.iter().for_each(|(name, how)| tracing::info!("{name} {how}"));
        let as_stored = |spec: &ParamSpec| {
            let stored = reader.find(&spec.name).map(|shape| shape.dtype()).filter(|dtype| dtype.is_float());
            let dtype = stored.unwrap_or(spec.shape.dtype());
            ParamSpec { shape: spec.shape.with_dtype(dtype), ..spec.clone() }
        };
        let specs = ParamSpecs::new(all.iter().map(as_stored).collect::<Vec<_>>())?;
        let found = checkpoint::load_params(&specs, reader.as_ref(), &Patterns::new::<&str>([])?)?;
        let names = specs.names().map(str::to_owned);
        let params = names.zip(found.values.into_iter().flatten()).collect();
        Ok(LoadedModel { config, params, tokenizer, preprocessing })
    }
}

/// As the config's `predict.pp_fn` has it; without one, images are decoded and resized as the reference does
/// for evaluation.
fn preprocessing(model: &PaliGemmaConfig, loaded: &Loaded) -> Result<Preprocessing, Error> {
    let env = setup::pp_env(loaded);
    let parse = |pp: &str| {
        Pipeline::parse(pp, &env).map_err(|error| loaded.error_at("predict.pp_fn", error.to_string()))
    };
    Ok(match &loaded.config.predict.pp_fn {
        Some(pp) => Preprocessing::Whole(parse(pp)?),
        None => {
            let [height, width] = model.image_size;
            let pp = format!("decode|resize(({height}, {width}), antialias=True)|value_range(-1, 1)");
            Preprocessing::Image(parse(&pp)?)
        }
    })
}

/// Gemma's own tokenizer lacks the location and segmentation tokens, which in PaliGemma's vocabulary follow
/// right behind it.
fn with_locations(tokenizer: Arc<Tokenizer>, vocab_size: usize) -> Result<Arc<Tokenizer>, Error> {
    let is_gemmas = tokenizer.loc().is_none() && tokenizer.vocab_size() + NUM_LOC + NUM_SEG == vocab_size;
    Ok(if is_gemmas { Arc::new(tokenizer.with_tokensets(&["loc", "seg"])?) } else { tokenizer })
}
