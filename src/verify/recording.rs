//! Where a recording's files are and what they hold.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Check, Error};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::{self, Reader};
use crate::graph::RematPolicy;
use crate::model::{GemmaConfig, PaliGemmaConfig, PoolType, PosEmb, QueryNorm, SiglipConfig};
use crate::params::{ParamSpecs, Patterns};

/// The files of a recording's parts; one of them shows that a folder is such a recording.
pub(super) const fn files_of<const N: usize, Replay>(
    parts: &[(&'static str, Replay); N],
) -> [&'static str; N] {
    let mut files = [""; N];
    let mut part = 0;
    while part < N {
        files[part] = parts[part].0;
        part += 1;
    }
    files
}

/// A folder that holds something to replay.
#[derive(Debug, Clone)]
pub(super) struct Case {
    dir: PathBuf,
    name: String,
    held: Vec<Check>,
}

impl Case {
    /// The folder itself, or those directly below it in the order of their names.
    pub fn find(dir: &Path) -> Result<Vec<Self>, Error> {
        let io = |source| Error::Io { path: dir.to_owned(), source };
        let dir = dir.canonicalize().map_err(io)?;
        if let Some(case) = Case::at(&dir) {
            return Ok(vec![case]);
        }
        let mut below = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io)? {
            below.extend(Case::at(&entry.map_err(io)?.path()));
        }
        if below.is_empty() {
            return Err(Error::NotARecording { path: dir });
        }
        below.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(below)
    }

    fn at(dir: &Path) -> Option<Self> {
        let is_held = |check: &Check| check.files().iter().any(|file| dir.join(file).is_file());
        let held: Vec<Check> = Check::ALL.into_iter().filter(is_held).collect();
        let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
        (!held.is_empty()).then(|| Case { dir: dir.to_owned(), name, held })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The checks whose files are there.
    pub fn held(&self) -> &[Check] {
        &self.held
    }
}

/// The recording of one model.
#[derive(Debug)]
pub(super) struct Recording {
    dir: PathBuf,
    pub config: PaliGemmaConfig,
    pub specs: ParamSpecs,
}

impl Recording {
    pub fn open(case: &Case) -> Result<Self, Error> {
        let file = "config.json";
        let path = case.dir.join(file);
        let recorded: RecordedConfig = read_json(&path)?;
        let config = recorded.model().map_err(|message| Error::Unsupported { path, message })?;
        let specs = config.params()?;
        Ok(Recording { dir: case.dir.clone(), config, specs })
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub fn has(&self, file: &str) -> bool {
        self.path(file).is_file()
    }

    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, Error> {
        read_json(&self.path(file))
    }

    pub fn tensors(&self, file: &str) -> Result<Box<dyn Reader>, Error> {
        Ok(checkpoint::open(self.path(file))?)
    }

    /// All parameters in the model's order, as `f32`.
    pub fn params(&self, file: &str) -> Result<Vec<HostArray>, Error> {
        let reader = self.tensors(file)?;
        let loaded = checkpoint::load_params(&self.specs, reader.as_ref(), &Patterns::default())?;
        Ok(loaded.values.into_iter().flatten().collect())
    }

    /// That an array of a file has the shape that the rest of the recording asks for.
    pub fn expect_shape(
        &self,
        file: &str,
        name: &str,
        array: &HostArray,
        expected: &Shape,
    ) -> Result<(), Error> {
        if array.shape() == expected {
            return Ok(());
        }
        let message = format!("{name} has the shape {}, expected {expected}", array.shape());
        Err(Error::Unsupported { path: self.path(file), message })
    }
}

/// That a file holds tensors of just these names.
pub(super) fn expect_names<'a>(
    reader: &dyn Reader,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), Error> {
    let names: Vec<&str> = names.into_iter().collect();
    let held = reader.names();
    let without = |these: &[&str], others: &[&str]| -> Vec<String> {
        these.iter().filter(|name| !others.contains(name)).map(|&name| name.to_owned()).collect()
    };
    let (missing, unknown) = (without(&names, &held), without(&held, &names));
    if missing.is_empty() && unknown.is_empty() {
        return Ok(());
    }
    Err(Error::OtherTensors { path: reader.path().to_owned(), missing, unknown })
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// `config.json`: the dimensions of a model in big_vision's words.
#[derive(Debug, Deserialize)]
struct RecordedConfig {
    llm: RecordedGemma,
    img: RecordedVit,
    image_size: [usize; 2],
}

#[derive(Debug, Deserialize)]
struct RecordedGemma {
    width: usize,
    depth: usize,
    mlp_dim: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    query_pre_attn_norm: String,
    attn_logits_softcap: f64,
    final_logits_softcap: f64,
    post_norms: bool,
    norm_eps: f64,
    rope_max_wavelength: f64,
    embed_dtype: String,
    dropout: f64,
}

#[derive(Debug, Deserialize)]
struct RecordedVit {
    width: usize,
    depth: usize,
    mlp_dim: usize,
    num_heads: usize,
    patch_size: [usize; 2],
    pool_type: String,
    posemb: String,
    num_classes: usize,
    layer_norm_eps: f64,
    dropout: f64,
    dtype_mm: String,
}

impl RecordedConfig {
    fn model(&self) -> Result<PaliGemmaConfig, String> {
        let (llm, img) = (&self.llm, &self.img);
        // What the model has as constants.
        let constants = [
            ("llm.norm_eps", llm.norm_eps, 1e-6),
            ("llm.rope_max_wavelength", llm.rope_max_wavelength, 10_000.0),
            ("llm.dropout", llm.dropout, 0.0),
            ("img.layer_norm_eps", img.layer_norm_eps, 1e-6),
            ("img.dropout", img.dropout, 0.0),
            ("img.num_classes", img.num_classes as f64, llm.width as f64),
        ];
        if let Some((name, got, expected)) = constants.into_iter().find(|(_, got, expected)| got != expected)
        {
            return Err(format!("{name} is {got}, this program replays only {expected}"));
        }
        for (name, value) in [
            ("llm.width", llm.width),
            ("llm.depth", llm.depth),
            ("llm.num_heads", llm.num_heads),
            ("llm.num_kv_heads", llm.num_kv_heads),
            ("img.width", img.width),
            ("img.depth", img.depth),
            ("img.num_heads", img.num_heads),
            ("img.patch_size", img.patch_size[0].min(img.patch_size[1])),
        ] {
            if value == 0 {
                return Err(format!("{name} is 0"));
            }
        }
        let dtype = |name: &str| name.parse::<DType>().map_err(|error| error.to_string());
        Ok(PaliGemmaConfig {
            image_size: self.image_size,
            lora: None,
            img: SiglipConfig {
                width: img.width,
                depth: img.depth,
                mlp_dim: img.mlp_dim,
                num_heads: img.num_heads,
                patch_size: img.patch_size,
                pool_type: match img.pool_type.as_str() {
                    "none" => PoolType::None,
                    "gap" => PoolType::Gap,
                    other => return Err(format!("unknown img.pool_type \"{other}\", known are: none, gap")),
                },
                posemb: match img.posemb.as_str() {
                    "learn" => PosEmb::Learn,
                    "sincos2d" => PosEmb::SinCos2d,
                    other => {
                        return Err(format!("unknown img.posemb \"{other}\", known are: learn, sincos2d"));
                    }
                },
                dropout: 0.0,
                dtype_mm: dtype(&img.dtype_mm)?,
                remat_policy: RematPolicy::NothingSaveable,
                head_zeroinit: true,
            },
            llm: GemmaConfig {
                width: llm.width,
                depth: llm.depth,
                mlp_dim: llm.mlp_dim,
                num_heads: llm.num_heads,
                num_kv_heads: llm.num_kv_heads,
                head_dim: llm.head_dim,
                vocab_size: llm.vocab_size,
                query_pre_attn_norm: llm.query_pre_attn_norm.parse::<QueryNorm>()?,
                attn_logits_softcap: llm.attn_logits_softcap,
                final_logits_softcap: llm.final_logits_softcap,
                post_norms: llm.post_norms,
                dropout: 0.0,
                remat_policy: RematPolicy::NothingSaveable,
                embed_dtype: dtype(&llm.embed_dtype)?,
                cache_dtype: DType::F32,
            },
        })
    }
}
