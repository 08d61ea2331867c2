use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Error;
use super::lora::{lora_config, with_adapters};
use crate::array::{DType, HostArray};
use crate::checkpoint::{self, BaseFile, Fitted, Reader};
use crate::config::{self, Loaded};
use crate::graph::RematPolicy;
use crate::model::{GemmaConfig, LORA, PaliGemmaConfig, PoolType, PosEmb, QueryNorm, SiglipConfig};
use crate::params::{ParamSpec, ParamSpecs, Patterns};

/// The model that a config describes: published sizes by name, with what the config sets beside them.
///
/// # Errors
/// Unknown variants and settings that this program does not have, at their place in the config.
pub fn model_config(loaded: &Loaded) -> Result<PaliGemmaConfig, Error> {
    let config = &loaded.config;
    let img = img_config(loaded, &config.model.img, config.compute_dtype)?;
    let llm = llm_config(loaded, &config.model.llm, config.compute_dtype)?;
    if let Some(classes) = config.model.img.num_classes.filter(|&classes| classes != llm.width) {
        let message =
            format!("num_classes is {classes}, expected the language model's width of {}", llm.width);
        return Err(loaded.error_at("model.img.num_classes", message).into());
    }
    let Some(size) = config.model.image_size else {
        return Err(loaded
            .error_at("model", "model.image_size is needed: the side of images in pixels")
            .into());
    };
    let [rows, columns] = img.grid([size, size]);
    if rows * columns == 0 {
        let [height, width] = img.patch_size;
        let message = format!("model.image_size is {size}, expected at least a patch of {height}x{width}");
        return Err(loaded.error_at("model.image_size", message).into());
    }
    let mut model = PaliGemmaConfig { img, llm, image_size: [size, size], lora: None };
    model.lora = lora_config(loaded, &model.base_params())?;
    Ok(model)
}

fn img_config(loaded: &Loaded, img: &config::Img, compute: DType) -> Result<SiglipConfig, Error> {
    let unsupported =
        |key: &str, what: String| Error::from(loaded.error_at(&format!("model.img.{key}"), what));
    let pool_type = match img.pool_type {
        config::PoolType::None => PoolType::None,
        config::PoolType::Gap => PoolType::Gap,
        other => {
            let message = format!("pool_type {} is not part of PaliGemma, use none or gap", other.word());
            return Err(unsupported("pool_type", message));
        }
    };
    if img.dropout != 0.0 {
        return Err(unsupported(
            "dropout",
            "the image tower has no dropout: no PaliGemma recipe uses it".into(),
        ));
    }
    if img.rep_size {
        return Err(unsupported("rep_size", "rep_size is not part of PaliGemma".into()));
    }
    let base = match &img.variant {
        Some(name) => {
            Some(SiglipConfig::variant(name).map_err(|error| unsupported("variant", error.to_string()))?)
        }
        None => None,
    };
    let pick =
        |given: Option<usize>, of: fn(&SiglipConfig) -> usize| given.or(base.as_ref().map(of)).unwrap_or(0);
    let width = pick(img.width, |base| base.width);
    let num_heads = pick(img.num_heads, |base| base.num_heads);
    if num_heads == 0 || !width.is_multiple_of(num_heads) {
        return Err(unsupported(
            "num_heads",
            format!("{num_heads} heads do not divide the width of {width}"),
        ));
    }
    Ok(SiglipConfig {
        width,
        depth: pick(img.depth, |base| base.depth),
        mlp_dim: img.mlp_dim.or(base.as_ref().map(|base| base.mlp_dim)).unwrap_or(4 * width),
        num_heads,
        patch_size: img
            .patch_size
            .map(|size| [size.0, size.1])
            .or(base.as_ref().map(|base| base.patch_size))
            .unwrap_or([16, 16]),
        pool_type,
        posemb: match img.posemb {
            config::Posemb::Learn => PosEmb::Learn,
            config::Posemb::Sincos2d => PosEmb::SinCos2d,
        },
        dropout: 0.0,
        dtype_mm: narrower(img.dtype_mm, compute),
        remat_policy: remat_policy(img.remat_policy),
        head_zeroinit: img.head_zeroinit,
    })
}

fn llm_config(loaded: &Loaded, llm: &config::Llm, compute: DType) -> Result<GemmaConfig, Error> {
    let unsupported =
        |key: &str, what: String| Error::from(loaded.error_at(&format!("model.llm.{key}"), what));
    if llm.norm_eps.is_some_and(|eps| eps != 1e-6) {
        return Err(unsupported("norm_eps", "norm_eps is 1e-6 in every Gemma, whatever is set".into()));
    }
    if !llm.dropout_bdims.is_empty() {
        return Err(unsupported(
            "dropout_bdims",
            "dropout_bdims is not supported: every float is drawn alone".into(),
        ));
    }
    let base = match &llm.variant {
        Some(name) => {
            Some(GemmaConfig::variant(name).map_err(|error| unsupported("variant", error.to_string()))?)
        }
        None => None,
    };
    let pick =
        |given: Option<usize>, of: fn(&GemmaConfig) -> usize| given.or(base.as_ref().map(of)).unwrap_or(0);
    let cap =
        |given: Option<f64>, of: fn(&GemmaConfig) -> f64| given.or(base.as_ref().map(of)).unwrap_or(0.0);
    let num_heads = pick(llm.num_heads, |base| base.num_heads);
    let num_kv_heads = pick(llm.num_kv_heads, |base| base.num_kv_heads);
    if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
        let message = format!("{num_kv_heads} key heads do not divide {num_heads} heads");
        return Err(unsupported("num_kv_heads", message));
    }
    let head_dim = pick(llm.head_dim, |base| base.head_dim);
    if !head_dim.is_multiple_of(2) {
        return Err(unsupported("head_dim", format!("head_dim is {head_dim}, expected an even number")));
    }
    Ok(GemmaConfig {
        width: pick(llm.width, |base| base.width),
        depth: pick(llm.depth, |base| base.depth),
        mlp_dim: pick(llm.mlp_dim, |base| base.mlp_dim),
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size: llm.vocab_size,
        query_pre_attn_norm: match llm.query_pre_attn_norm {
            Some(config::QueryPreAttnNorm::RsqrtHeadDim) => QueryNorm::RsqrtHeadDim,
            Some(config::QueryPreAttnNorm::RsqrtEmbPerHead) => QueryNorm::RsqrtEmbPerHead,
            None => base.as_ref().map_or(QueryNorm::RsqrtHeadDim, |base| base.query_pre_attn_norm),
        },
        attn_logits_softcap: cap(llm.attn_logits_softcap, |base| base.attn_logits_softcap),
        final_logits_softcap: cap(llm.final_logits_softcap, |base| base.final_logits_softcap),
        post_norms: llm.post_norms.or(base.as_ref().map(|base| base.post_norms)).unwrap_or(false),
        dropout: llm.dropout,
        remat_policy: remat_policy(llm.remat_policy),
        embed_dtype: narrower(llm.embed_dtype, compute),
        cache_dtype: llm.cache_dtype.unwrap_or(narrower(llm.embed_dtype, compute)),
    })
}

/// A tower's own type, where it is set to something else than the default.
fn narrower(own: DType, compute: DType) -> DType {
    if own == DType::F32 { compute } else { own }
}

fn remat_policy(policy: config::RematPolicy) -> RematPolicy {
    match policy {
        config::RematPolicy::None | config::RematPolicy::EverythingSaveable => {
            RematPolicy::EverythingSaveable
        }
        config::RematPolicy::NothingSaveable => RematPolicy::NothingSaveable,
        config::RematPolicy::DotsSaveable => RematPolicy::DotsSaveable,
        config::RematPolicy::DotsWithNoBatchDimsSaveable => RematPolicy::DotsWithNoBatchDimsSaveable,
    }
}

/// The parameters in the types that they are kept in: `f32` where trained, `frozen` elsewhere. What belongs to other
/// parameters, and codes, which are no floats, keep their own.
pub fn param_dtypes(
    specs: &ParamSpecs,
    frozen: DType,
    is_trained: impl Fn(&str) -> bool,
) -> Result<ParamSpecs, Error> {
    let kept = |spec: &ParamSpec| {
        let is_part = [LORA, "quant"].iter().any(|root| spec.name.split('/').next() == Some(root));
        let dtype = match is_part || !spec.shape.dtype().is_float() {
            true => spec.shape.dtype(),
            false if is_trained(&spec.name) => DType::F32,
            false => frozen,
        };
        ParamSpec { shape: spec.shape.with_dtype(dtype), ..spec.clone() }
    };
    Ok(ParamSpecs::new(specs.iter().map(kept).collect::<Vec<_>>())?)
}

/// The checkpoints that [`initial_params`] reads, for a training checkpoint to refer to.
///
/// # Errors
/// When one is named that is not known, or a workdir among them holds no checkpoint.
pub fn init_files(loaded: &Loaded) -> Result<Vec<BaseFile>, Error> {
    let files = match &loaded.config.model_init {
        None => vec![],
        Some(config::ModelInit::Whole(path)) => vec![(None, path)],
        Some(config::ModelInit::Towers { img, llm }) => {
            let towers = [("img", img), ("llm", llm)];
            towers.into_iter().filter_map(|(tower, path)| Some((Some(tower), path.as_ref()?))).collect()
        }
    };
    let file = |(tower, path): (Option<&str>, &String)| {
        let path = checkpoint::locate(published(loaded, path)?)?;
        Ok(BaseFile { path, tower: tower.map(str::to_owned) })
    };
    files.into_iter().map(file).collect()
}

/// The first values of all parameters, in the order and types of `specs`: from `model_init`, or drawn.
///
/// As in big_vision, each tower may come from a checkpoint of its own, and a tower without one is drawn. Position
/// embeddings of another resolution are interpolated, and a vocabulary may grow; see [`checkpoint::fit`].
///
/// # Errors
/// When a checkpoint cannot be read or does not fit: then with all names that do not.
pub fn initial_params(loaded: &Loaded, specs: &ParamSpecs) -> Result<Vec<HostArray>, Error> {
    let model = model_config(loaded)?;
    let Some(lora) = &model.lora else { return base_values(loaded, specs) };
    let base = base_specs(&model, specs)?;
    let values = base_values(loaded, &base)?;
    with_adapters(loaded, lora, specs, base.names().map(str::to_owned).zip(values).collect())
}

/// The first values of parameters of the model itself.
fn base_values(loaded: &Loaded, specs: &ParamSpecs) -> Result<Vec<HostArray>, Error> {
    let config = &loaded.config;
    let load = [("img", &config.model_load.img_load_kw), ("llm", &config.model_load.llm_load_kw)];
    let mut found = HashMap::new();
    match &config.model_init {
        None => {}
        Some(config::ModelInit::Whole(path)) => {
            let rules = load.iter().flat_map(|(tower, load)| {
                load.dont_load.iter().map(move |pattern| format!("{tower}/(?:{})", pattern.as_str()))
            });
            let reader = checkpoint::open(published(loaded, path)?)?;
            found.extend(read(loaded, reader, specs, rules.collect())?);
        }
        Some(config::ModelInit::Towers { img, llm }) => {
            for ((tower, load), path) in load.into_iter().zip([img, llm]) {
                let Some(path) = path else { continue };
                let reader = checkpoint::open_tower(published(loaded, path)?, tower)?;
                let prefix = format!("{tower}/");
                let own = specs.iter().filter_map(|spec| {
                    Some(ParamSpec { name: spec.name.strip_prefix(&prefix)?.to_owned(), ..spec.clone() })
                });
                let own = ParamSpecs::new(own.collect::<Vec<_>>())?;
                let rules = load.dont_load.iter().map(|pattern| pattern.as_str().to_owned()).collect();
                let values = read(loaded, reader, &own, rules)?;
                found.extend(values.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
            }
        }
    }
    let values: Vec<(&ParamSpec, Option<HostArray>)> =
        specs.iter().map(|spec| (spec, found.remove(&spec.name))).collect();
    let draw = |spec: &ParamSpec| spec.init(config.seed);
    let values = values.into_par_iter();
    Ok(values.map(|(spec, value)| value.map_or_else(|| draw(spec), Ok)).collect::<Result<_, _>>()?)
}

/// The parameters of a model's base, as floats: in the types that `specs` has them in, except those that it has in
/// few bits.
fn base_specs(model: &PaliGemmaConfig, specs: &ParamSpecs) -> Result<ParamSpecs, Error> {
    let kept = |spec: ParamSpec| {
        let dtype = specs.find(&spec.name).map(|kept| kept.shape.dtype()).filter(|dtype| dtype.is_float());
        ParamSpec { shape: spec.shape.with_dtype(dtype.unwrap_or(DType::F32)), ..spec }
    };
    Ok(ParamSpecs::new(model.base_params().into_iter().map(kept).collect::<Vec<_>>())?)
}

/// Loads what `specs` wants from one checkpoint, except for what `dont_load` matches, and says what was done.
fn read(
    loaded: &Loaded,
    reader: Box<dyn Reader>,
    specs: &ParamSpecs,
    dont_load: Vec<String>,
) -> Result<Vec<(String, HostArray)>, Error> {
    let model = model_config(loaded)?;
    let grid = model.img.grid(model.image_size);
    let Fitted { reader, notes } = checkpoint::fit(reader, specs, grid, Some(loaded.config.seed));
    let dont_load = Patterns::new(dont_load.into_iter().map(|pattern| (pattern, ())))?;
    let found = checkpoint::load_params(specs, reader.as_ref(), &dont_load)?;
    tracing::info!("{}", found.report);
    for (name, how) in notes.iter().filter(|(name, _)| found.report.applied.contains(name)) {
        tracing::info!("{}: {name} {how}", reader.path().display());
    }
    let values = specs.names().map(str::to_owned).zip(found.values);
    Ok(values.filter_map(|(name, value)| Some((name, value?))).collect())
}

/// The variable that names the folder of published checkpoints, as in big_vision.
const PUBLISHED_FOLDER: &str = "BV_GEMMA_DIR";

/// The file that `model_init` means: a path, or the name of a published checkpoint (`pt_224`, `pt_3b_448`), which
/// lies in the folder that `BV_GEMMA_DIR` names.
fn published(loaded: &Loaded, text: &str) -> Result<PathBuf, Error> {
    let (name, part) = text.split_once(':').map_or((text, ""), |(name, part)| (name, part));
    let Some(file) = published_file(name).filter(|_| !Path::new(text).exists()) else {
        return Ok(text.into());
    };
    let Some(folder) = std::env::var_os(PUBLISHED_FOLDER) else {
        let message = format!(
            "model_init {name} is the name of a published checkpoint: set the variable {PUBLISHED_FOLDER} to the \
             folder that holds {file}, or give the file's path"
        );
        return Err(loaded.error_at("model_init", message).into());
    };
    let colon = if part.is_empty() { "" } else { ":" };
    Ok(Path::new(&folder).join(format!("{file}{colon}{part}")))
}

/// big_vision's `VANITY_NAMES` (`models/proj/paligemma/paligemma.py`).
fn published_file(name: &str) -> Option<String> {
    let of_first = |rest: &str| {
        let resolution = rest.trim_end_matches(".bf16").trim_end_matches(".f16");
        let format = &rest[resolution.len()..];
        let is_known = ["224", "448", "896"].contains(&resolution) && ["", ".bf16", ".f16"].contains(&format);
        is_known.then(|| format!("{name}.npz"))
    };
    let of_second = |rest: &str| {
        let (size, resolution) = rest.split_once('_')?;
        let is_known = ["3b", "10b", "28b"].contains(&size) && ["224", "448", "896"].contains(&resolution);
        is_known.then(|| format!("{name}.bf16.npz"))
    };
    let rest = name.strip_prefix("pt_")?;
    of_first(rest).or_else(|| of_second(rest))
}

#[cfg(test)]
mod tests {
    use super::published_file;

    #[test]
    fn published_names_are_big_visions() {
        let file = |name: &str| published_file(name).unwrap_or_default();
        assert_eq!(file("pt_224"), "pt_224.npz");
        assert_eq!(file("pt_896.bf16"), "pt_896.bf16.npz");
        assert_eq!(file("pt_448.f16"), "pt_448.f16.npz");
        assert_eq!(file("pt_28b_448"), "pt_28b_448.bf16.npz");
        for name in
            ["pt_3b_224.f16", "pt_225", "pt_4b_224", "pt_224.f32", "mix_224", "pt_224.f16.bf16", "pt_"]
        {
            assert_eq!(published_file(name), None, "{name}");
        }
    }
}
