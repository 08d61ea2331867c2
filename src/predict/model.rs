//! From a checkpoint and its config to a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Error, Preprocessing};
use crate::array::HostArray;
use crate::checkpoint::variant::{self, Variant};
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

/// A config, in YAML, for a checkpoint that has none: the published model that its shapes say it is, with the
/// tokenizer given or, without one, that beside the checkpoint.
///
/// # Errors
/// When the checkpoint cannot be read, or is of no published size, or there is no tokenizer.
pub fn config_for(checkpoint: &Path, tokenizer: Option<&Path>) -> Result<String, Error> {
    let reader = checkpoint::open(checkpoint)?;
    let no_config = |problem: String| Error::NoConfig { checkpoint: checkpoint.to_owned(), problem };
    let variant = variant::detect(reader.as_ref())
        .ok_or_else(|| no_config("its shapes are not those of a PaliGemma".to_owned()))?;
    let model = published_model(&variant).map_err(no_config)?;
    let tokenizer = match tokenizer {
        Some(path) => path.to_owned(),
        None => find_tokenizer(checkpoint).ok_or_else(|| {
            let names = TOKENIZERS.join(", ");
            no_config(format!("there is no tokenizer beside it ({names}); --tokenizer names one"))
        })?,
    };
    let tokenizer = std::path::absolute(&tokenizer).unwrap_or(tokenizer);
    // JSON is YAML.
    Ok(format!("{:#}\n", json!({ "tokenizer": tokenizer, "model": model })))
}

/// A config's `model`, or why there is none.
fn published_model(variant: &Variant) -> Result<Value, String> {
    let (Some(img), Some(llm), Some([side, width])) = (variant.img, variant.llm, variant.image_size()) else {
        return Err(format!("nobody published a {variant}"));
    };
    if side != width {
        return Err(format!("images of {side}x{width} pixels are not square"));
    }
    let [patch, _] = variant.sizes.img.patch_size;
    // Transfers of PaliGemma 2 are trained without the cap on logits that its decoder had before.
    Ok(json!({
        "image_size": side,
        "img": {"variant": format!("{img}/{patch}"), "pool_type": "none"},
        "llm": {"variant": llm, "vocab_size": variant.sizes.llm.vocab_size, "final_logits_softcap": 0.0},
    }))
}

/// How tokenizers are called that come with PaliGemma.
const TOKENIZERS: [&str; 3] = ["paligemma_tokenizer.model", "tokenizer.model", "tokenizer.json"];

fn find_tokenizer(checkpoint: &Path) -> Option<PathBuf> {
    let folders = [Some(checkpoint), checkpoint.parent()];
    let paths = folders.into_iter().flatten().flat_map(|folder| TOKENIZERS.map(|name| folder.join(name)));
    paths.into_iter().find(|path| path.is_file())
}

impl LoadedModel {
    /// Reads the parameters of `checkpoint`, which may be of any format that [`checkpoint::open`] knows, for
    /// the model of a config.
    ///
    /// # Errors
    /// Where the config lacks a tokenizer or an image size, or has no such model; where the checkpoint is
    /// damaged or of another model: then with all names that do not fit.
    pub fn open(checkpoint: &Path, loaded: &Loaded) -> Result<Self, Error> {
        // Checkpoints are opened with their adapters merged.
        let config = PaliGemmaConfig { lora: None, ..setup::model_config(loaded)? };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::{GemmaConfig, PoolType, SiglipConfig};

    #[test]
    fn a_published_model_is_known_by_its_shapes() {
        for (llm, side) in [("gemma_2b", 224), ("gemma2_2b", 448), ("gemma2_9b", 896), ("gemma2_27b", 224)] {
            let model = PaliGemmaConfig {
                img: SiglipConfig {
                    pool_type: PoolType::None,
                    ..SiglipConfig::variant("So400m/14").unwrap()
                },
                llm: GemmaConfig { vocab_size: 257_152, ..GemmaConfig::variant(llm).unwrap() },
                image_size: [side, side],
                lora: None,
            };
            let specs = model.params().unwrap();
            let text = json!({ "model": published_model(&Variant::of_specs(&specs).unwrap()).unwrap() });
            let loaded = Config::parse(&text.to_string(), Path::new("config.yaml"), &[], &[]).unwrap();
            let found = setup::model_config(&loaded).unwrap();
            assert_eq!(found.llm.final_logits_softcap, 0.0);
            let (found, wanted) = (found.params().unwrap(), specs);
            assert!(found.iter().zip(wanted.iter()).all(|(a, b)| (&a.name, &a.shape) == (&b.name, &b.shape)));
            assert_eq!(found.len(), wanted.len());
        }
    }
}
