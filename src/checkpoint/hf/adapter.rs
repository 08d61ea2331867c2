use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use regex::Regex;
use serde::Deserialize;

use super::config::read_json;
use super::names::{Key, key};
use super::own::MAGNITUDE;
use super::{Problem, in_file};
use crate::checkpoint::safetensors::Safetensors;
use crate::checkpoint::{Error, Reader};

pub(super) const CONFIG_NAME: &str = "adapter_config.json";
const WEIGHTS_NAME: &str = "adapter_model.safetensors";

/// A LoRA adapter as PEFT saves it: for some layers two thin matrices whose product is added to the weights, for
/// some others, perhaps, whole new weights.
///
/// Its tensors may have the prefixes of any version of transformers. Refused are adapters of convolutions and
/// embeddings, and initialisations that also change the base model.
pub struct Adapter {
    pub(super) directory: PathBuf,
    pub(super) base: Option<String>,
    pub(super) weights: Box<dyn Reader>,
    /// What happens to weights, by Hugging Face's oldest names (`….q_proj.weight`).
    pub(super) changes: IndexMap<String, Change>,
}

/// What an adapter does to one tensor; names are those of the adapter's file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// `weight + scale · b · a`, with `a` of `[rank, in]` and `b` of `[out, rank]`; with a magnitude of `[out]`, its
    /// rows made as long as that says.
    Add {
        a: String,
        b: String,
        scale: f32,
        magnitude: Option<String>,
    },
    Replace {
        tensor: String,
    },
}

#[derive(Deserialize)]
struct Config {
    peft_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    lora_bias: bool,
    rank_pattern: Option<BTreeMap<String, usize>>,
    alpha_pattern: Option<BTreeMap<String, f64>>,
    init_lora_weights: Option<serde_json::Value>,
    layer_replication: Option<serde_json::Value>,
}

impl Adapter {
    /// Whether a directory holds an adapter.
    pub fn is_in(directory: &Path) -> bool {
        directory.join(CONFIG_NAME).is_file() && Adapter::weights_path(directory).is_file()
    }

    /// Where an adapter's directory has its tensors.
    pub fn weights_path(directory: &Path) -> PathBuf {
        directory.join(WEIGHTS_NAME)
    }

    /// Reads the adapter in a directory; weights are looked at when they are merged.
    ///
    /// # Errors
    /// When a file is missing or malformed, or the adapter is of a kind that cannot be merged.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(CONFIG_NAME);
        let config = Config::deserialize(read_json(&path)?).map_err(|error| {
            let problem = error.to_string();
            in_file(directory)(Problem::AdapterConfig { path, problem })
        })?;
        let weights = Safetensors::open(&Adapter::weights_path(directory))?;
        let changes = config.check().and_then(|()| changes(&weights, &config)).map_err(in_file(directory))?;
        let base = config.base_model_name_or_path;
        Ok(Adapter { directory: directory.to_owned(), base, weights: Box::new(weights), changes })
    }

    /// The directory or file of the model that it was trained on, as `base_model_name_or_path` says; relative to
    /// where this process runs, or to the adapter.
    ///
    /// # Errors
    /// When there is no such path: adapters usually name a model on the hub.
    pub fn base(&self) -> Result<PathBuf, Error> {
        let base = self.base.as_deref().filter(|base| !base.is_empty()).unwrap_or_default();
        let candidates = [PathBuf::from(base), self.directory.join(base)];
        let found = candidates.into_iter().find(|path| !base.is_empty() && path.exists());
        let hint = "download the model and set base_model_name_or_path in adapter_config.json to where it is";
        let no_base = |hint| in_file(&self.directory)(Problem::NoBase { base: base.to_owned(), hint });
        let found = found.ok_or_else(|| no_base(hint))?;
        if Adapter::is_in(&found) {
            return Err(no_base("it is an adapter itself, merge that one first"));
        }
        Ok(found)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Config {
    fn check(&self) -> Result<(), Problem> {
        let unsupported = |what: &str| Err(Problem::UnsupportedAdapter { what: what.to_owned() });
        if let Some(kind) = self.peft_type.as_deref().filter(|kind| !kind.eq_ignore_ascii_case("lora")) {
            return unsupported(&format!("peft_type {kind}"));
        }
        if self.lora_bias {
            return unsupported("lora_bias");
        }
        if self.layer_replication.as_ref().is_some_and(|value| !value.is_null()) {
            return unsupported("layer_replication");
        }
        // These take away from the base model what the adapter begins with.
        let init = self.init_lora_weights.as_ref().and_then(|init| init.as_str()).unwrap_or_default();
        if ["pissa", "olora", "corda", "loftq"].iter().any(|kind| init.starts_with(kind)) {
            return unsupported(&format!("init_lora_weights {init}"));
        }
        if self.fan_in_fan_out {
            tracing::warn!("fan_in_fan_out means nothing for PaliGemma's layers, and is taken as false");
        }
        Ok(())
    }

    /// What the product of a module's matrices is multiplied by, when they have this rank.
    fn scale(&self, module: &str, rank: usize) -> Result<f32, Problem> {
        let wanted = pattern(self.rank_pattern.as_ref(), module)?.unwrap_or(self.r);
        if wanted != rank {
            let what = format!("rank {rank} for {module}, where its config says {wanted},");
            return Err(Problem::UnsupportedAdapter { what });
        }
        let alpha = pattern(self.alpha_pattern.as_ref(), module)?.unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        Ok((alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32)
    }
}

/// The value of the first key that matches the end of a module's name, as a regex of whole words.
fn pattern<T: Copy>(patterns: Option<&BTreeMap<String, T>>, module: &str) -> Result<Option<T>, Problem> {
    for (key, value) in patterns.into_iter().flatten() {
        let regex = Regex::new(&format!(r"^(.*\.)?(?:{key})$"));
        let regex = regex.map_err(|_| Problem::UnsupportedAdapter { what: format!("pattern \"{key}\"") })?;
        if regex.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// The tensor of magnitudes beside `lora_A`, whose name ends in `suffix`: PEFT has written it under several names.
fn magnitude(weights: &Safetensors, a: &str, suffix: &str) -> Option<String> {
    let module = a.strip_suffix(suffix)?.strip_suffix(".lora_A.")?;
    let names =
        ["", ".weight", ".default", ".default.weight"].map(|end| format!("{module}.{MAGNITUDE}{end}"));
    names.into_iter().find(|name| weights.find(name).is_some())
}

/// Whether two changes of one tensor are the same one under two names.
fn is_same(weights: &Safetensors, one: &Change, other: &Change) -> bool {
    let are_equal = |one: &str, other: &str| matches!((weights.read(one), weights.read(other)), (Ok(one), Ok(other)) if one == other);
    match (one, other) {
        (
            Change::Add { a, b, scale, magnitude },
            Change::Add { a: a2, b: b2, scale: scale2, magnitude: m2 },
        ) => {
            let are_magnitudes_equal = match (magnitude, m2) {
                (Some(one), Some(other)) => are_equal(one, other),
                (one, other) => one == other,
            };
            scale == scale2 && are_equal(a, a2) && are_equal(b, b2) && are_magnitudes_equal
        }
        (Change::Replace { tensor }, Change::Replace { tensor: other }) => are_equal(tensor, other),
        _ => false,
    }
}

fn changes(weights: &Safetensors, config: &Config) -> Result<IndexMap<String, Change>, Problem> {
    let mut changes = IndexMap::new();
    let mut unknown = Vec::new();
    let names = weights.names();
    for &name in &names {
        let inner = name.strip_prefix("base_model.model.").unwrap_or(name);
        let inner = inner.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".");
        let (module, change) = if let Some((module, suffix)) = inner.split_once(".lora_A.") {
            let b = name.replace(".lora_A.", ".lora_B.");
            let Some(b_shape) = weights.find(&b) else {
                return Err(Problem::HalfAdapter { name: name.to_owned(), partner: "lora_B" });
            };
            let rank = weights.find(name).and_then(|a| a.dims().first().copied()).unwrap_or(0);
            if !matches!(suffix, "weight" | "default.weight") || b_shape.rank() != 2 || rank == 0 {
                unknown.push(name.to_owned());
                continue;
            }
            let scale = config.scale(module, rank)?;
            let magnitude = magnitude(weights, name, suffix);
            if config.use_dora != magnitude.is_some() {
                return Err(Problem::HalfAdapter { name: name.to_owned(), partner: MAGNITUDE });
            }
            (format!("{module}.weight"), Change::Add { a: name.to_owned(), b, scale, magnitude })
        } else if inner.contains(".lora_B.") {
            if weights.find(&name.replace(".lora_B.", ".lora_A.")).is_none() {
                return Err(Problem::HalfAdapter { name: name.to_owned(), partner: "lora_A" });
            }
            continue;
        } else if inner.split('.').any(|word| word == MAGNITUDE) && config.use_dora {
            continue;
        } else {
            (inner, Change::Replace { tensor: name.to_owned() })
        };
        match key(&module) {
            Key::Parameter(canonical) => {
                let known = changes.get(&canonical);
                if known.is_some_and(|known| !is_same(weights, known, &change)) {
                    return Err(Problem::UnsupportedAdapter { what: format!("two changes of {module}") });
                }
                changes.entry(canonical).or_insert(change);
            }
            _ => unknown.push(name.to_owned()),
        }
    }
    if !unknown.is_empty() {
        return Err(Problem::UnknownTargets { names: unknown });
    }
    Ok(changes)
}
