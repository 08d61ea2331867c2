//! What pp strings refer to outside of themselves: files, tokenizers and mask encoders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::args::Signature;
use super::literal::Literal;
use super::spec::{SyntaxError, parse_section};
use crate::tokenizer::{Tokenizer, advice_for_missing};
use crate::vqvae;

/// Folders to look in, and what was opened so far. Keep one for all pipelines of a run.
#[derive(Debug)]
pub struct Env {
    base: PathBuf,
    tokenizers: Vec<PathBuf>,
    opened: Mutex<HashMap<String, Arc<Tokenizer>>>,
    encoders: Mutex<HashMap<String, Arc<vqvae::Encoder>>>,
}

impl Env {
    /// Relative paths in pp strings are looked up in `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Env {
            base: base.into(),
            tokenizers: Vec::new(),
            opened: Mutex::default(),
            encoders: Mutex::default(),
        }
    }

    /// Also looks for files in `folder`: by the path that the string gives, then by its last part
    /// alone, so that big_vision's `gs://big_vision/gemma_tokenizer.model` finds a local copy.
    pub fn with_tokenizers(mut self, folder: impl Into<PathBuf>) -> Self {
        self.tokenizers.push(folder.into());
        self
    }

    /// The tokenizer that a big_vision string names, opened at most once: `gemma(tokensets=["loc", "seg"])`,
    /// `gemma(tokensets=("loc",), model="tokenizer.model")` or `sp("tokenizer.model")`. Files can be
    /// SentencePiece models or `tokenizer.json`.
    ///
    /// # Errors
    /// At the byte of `spec` that is wrong.
    pub fn tokenizer(&self, spec: &str) -> Result<Arc<Tokenizer>, SyntaxError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(spec) {
            return Ok(known.clone());
        }
        let tokenizer = Arc::new(self.open(spec)?);
        opened.insert(spec.to_owned(), tokenizer.clone());
        Ok(tokenizer)
    }

    fn open(&self, spec: &str) -> Result<Tokenizer, SyntaxError> {
        let call = parse_section(spec)?;
        let line = match call.name.as_str() {
            "gemma" => "gemma(tokensets=(), model='gs://big_vision/gemma_tokenizer.model')",
            "sp" => "sp(model, tokensets=())",
            name => {
                let message = format!("unknown tokenizer `{name}`, known are: gemma, sp");
                return Err(SyntaxError { at: call.at, message });
            }
        };
        let args = Signature::parse(line)?.bind(call)?;
        let (model, sets) = (args.str("model")?, args.strs("tokensets")?);
        let path = self.find(&model).map_err(|missing| {
            let name = Path::new(&model).file_name().unwrap_or(model.as_ref());
            let place = self.tokenizers.last().unwrap_or(&self.base).join(name);
            let advice = advice_for_missing(place.strip_prefix(".").unwrap_or(&place));
            args.wrong("model", format!("{missing}; {advice}"))
        })?;
        let opened = Tokenizer::open(&path).map_err(|error| args.wrong("model", with_sources(&error)))?;
        if matches!(args.get("tokensets"), Literal::Str(_)) {
            return Err(args.wrong("tokensets", "must be a list, such as (\"loc\", \"seg\")"));
        }
        opened.with_tokensets(&sets).map_err(|error| args.wrong("tokensets", with_sources(&error)))
    }

    /// The encoder of masks that `model` names, opened at most once; see [`vqvae::find`].
    ///
    /// # Errors
    /// When there is no such file, or it is unusable.
    pub fn mask_encoder(&self, model: &str) -> Result<Arc<vqvae::Encoder>, vqvae::Error> {
        let mut encoders = self.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = encoders.get(model) {
            return Ok(known.clone());
        }
        let encoder = Arc::new(vqvae::Encoder::open(&vqvae::find(model, self.folders())?)?);
        encoders.insert(model.to_owned(), encoder.clone());
        Ok(encoder)
    }

    /// Where files are looked for.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.base).chain(&self.tokenizers).map(PathBuf::as_path)
    }

    /// The file that `name` names, or where it was looked for.
    pub(super) fn find(&self, name: &str) -> Result<PathBuf, String> {
        let last = Path::new(name).file_name().map(PathBuf::from);
        let paths = [Some(PathBuf::from(name)).filter(|_| !name.contains("://")), last];
        let paths: Vec<&PathBuf> = paths.iter().flatten().collect();
        let mut places = paths.iter().flat_map(|path| self.folders().map(move |folder| folder.join(path)));
        places.find(|place| place.exists()).ok_or_else(|| {
            let mut folders: Vec<_> = self.folders().map(|folder| folder.display().to_string()).collect();
            folders.dedup();
            format!("names file \"{name}\", which is not in {}", folders.join(" or "))
        })
    }
}

/// An error and its causes, as the end of a sentence about what could not be opened.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    format!("is unusable: {text}")
}
