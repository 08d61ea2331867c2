//! What a model can do, measured on examples: evaluators by big_vision's names, run during training and
//! alone.
//!
//! An [`Evaluation`] owns the examples, their preprocessing and the compiled programs, so that running it
//! again costs only the model's work. Parameters are lent to it on the device. Evaluators that let the model
//! answer share one way from batches to answers (`answered`); what differs is a [`Judge`], which sees one
//! answer after the other and knows nothing of devices. The formulas are those of [`crate::metrics`].

mod answered;
mod answers;
mod captions;
mod cards;
mod detection;
mod hardest;
mod judge;
mod model;
mod output;
mod perplexity;
mod segmentation;
mod storepreds;
mod table;
#[cfg(test)]
mod tests;

pub use cards::hardest;
pub use judge::{Answer, Example, Judge, OutFile, Verdict, Verdicts};
pub use output::write;
pub use table::{Kind, find, names};

use std::sync::Arc;

use image::{RgbImage, RgbaImage};
use serde_json::{Map, Value as Json};

use crate::array::{self, HostArray};
use crate::config::{Eval, EvalCache, Loaded};
use crate::data::{self, Batch, Loader, LoaderOptions, Remainder, Source};
use crate::model::PaliGemmaConfig;
use crate::pp::Env;
use crate::runtime::{Buffer, Device};
use crate::setup::{self, PpPreprocess};
use crate::tokenizer::Tokenizer;
use crate::{decode, exec, metrics, vqvae};

/// An evaluation that cannot be set up or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setup(#[from] setup::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Exec(#[from] exec::Error),
    #[error(transparent)]
    Decode(#[from] decode::Error),
    #[error(transparent)]
    Array(#[from] array::Error),
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::Error),
    #[error("evaluation {eval} expects its pp_fn to leave \"{key}\", got only {got}")]
    MissingKey { eval: String, key: &'static str, got: String },
    #[error("evaluation {eval} expects \"{key}\" of row {row} as {expected}, got {got}")]
    Field { eval: String, row: usize, key: String, expected: &'static str, got: String },
    #[error("evaluation {eval} cannot judge the answer to row {row}")]
    Answer { eval: String, row: usize, source: metrics::answers::Error },
    #[error("evaluation {eval} cannot sum up its answers")]
    Answers { eval: String, source: metrics::answers::Error },
    #[error("evaluation {eval} cannot score captions")]
    Captions { eval: String, source: metrics::captions::Error },
    #[error("evaluation {eval} cannot decode masks")]
    Masks { eval: String, source: Box<vqvae::Error> },
    #[error("cannot write {}", path.display())]
    Write { path: std::path::PathBuf, source: std::io::Error },
}

impl From<crate::config::Error> for Error {
    fn from(error: crate::config::Error) -> Self {
        Error::Setup(error.into())
    }
}

/// What one run of an evaluation found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Names with the evaluation's prefix.
    pub metrics: Vec<(String, f64)>,
    /// One entry per example, in their order.
    pub predictions: Vec<Prediction>,
    /// Numbers of the predictions that are worst by the evaluator's own score, worst first. These have pictures.
    pub hardest: Vec<usize>,
    /// Files that the reference's evaluator writes.
    pub files: Vec<OutFile>,
}

/// What the model said of one example, or how likely it found what is to be said.
#[derive(Debug, Clone, Default)]
pub struct Prediction {
    /// Number of the row in its source.
    pub row: usize,
    pub prompt: String,
    /// `None` where the model was not asked to answer.
    pub answer: Option<String>,
    /// What it should have said; several answers may be right.
    pub references: Vec<String>,
    pub correct: Option<bool>,
    /// How good the answer is by the evaluator's measure, usually from 0 to 1; `None` where it has none.
    pub score: Option<f64>,
    /// Mean loss of the text that is to be said.
    pub loss: Option<f64>,
    /// The picture as the model saw it, for the first examples and the hardest.
    pub picture: Option<RgbImage>,
    /// What the answer marks in the picture, and what is to be marked; of the picture's size.
    pub masks: Option<Masks>,
    /// What else is written down of the answer.
    pub notes: Map<String, Json>,
}

/// Marked pixels, coloured; the others are transparent.
#[derive(Debug, Clone)]
pub struct Masks {
    pub answer: Option<RgbaImage>,
    pub reference: RgbaImage,
}

impl Prediction {
    /// Worse examples come first in this order; `None` has no place in it.
    fn rank(&self) -> Option<f64> {
        self.score.or(self.loss.map(|loss| -loss)).filter(|rank| !rank.is_nan())
    }
}

/// How examples are judged.
trait Evaluator {
    fn run(
        &mut self,
        examples: &mut dyn Iterator<Item = Result<Batch, data::Error>>,
        params: &[&Buffer],
    ) -> Result<Outcome, Error>;
}

/// An evaluation of a config, ready to run any number of times.
pub struct Evaluation {
    pub name: String,
    /// Put before the names of its metrics.
    pub prefix: String,
    pub spec: Eval,
    source: Arc<dyn Source>,
    preprocess: Arc<PpPreprocess>,
    batch_size: usize,
    evaluator: Box<dyn Evaluator>,
    /// The batches, where the config wants them kept.
    cached: Option<Vec<Batch>>,
}

/// What all evaluations of a run share.
pub struct Shared<'a> {
    pub loaded: &'a Loaded,
    pub model: &'a PaliGemmaConfig,
    pub device: &'a Device,
    pub env: &'a Env,
    pub tokenizer: &'a Arc<Tokenizer>,
    /// Examples whose pictures are kept.
    pub num_pictures: usize,
}

/// What an evaluator is made from.
struct Context<'a> {
    name: &'a str,
    spec: &'a Eval,
    shared: &'a Shared<'a>,
    /// That of the evaluation, which need not be the run's.
    tokenizer: Arc<Tokenizer>,
}

impl Context<'_> {
    /// A mistake in the evaluation's own section of the config.
    fn wrong(&self, key: &str, message: impl Into<String>) -> Error {
        self.shared.loaded.error_at(&format!("evals.{}.{key}", self.name), message).into()
    }
}

impl Evaluation {
    /// # Errors
    /// Unknown evaluators and arguments, a wrong pp string, missing files.
    pub fn new(name: &str, spec: &Eval, shared: &Shared<'_>) -> Result<Self, Error> {
        let loaded = shared.loaded;
        let key = |key: &str| format!("evals.{name}.{key}");
        let tokenizer = match &spec.tokenizer {
            None => shared.tokenizer.clone(),
            Some(text) => (shared.env.tokenizer(text))
                .map_err(|error| loaded.error_at(&key("tokenizer"), error.message))?,
        };
        let kind = spec.kind.as_deref().unwrap_or(name);
        let context = Context { name, spec, shared, tokenizer };
        let known = find(kind).ok_or_else(|| {
            let message = format!("unknown evaluator \"{kind}\", known are: {}", names().join(", "));
            loaded.error_at(&key("type"), message)
        })?;
        let evaluator = known.evaluator(&context)?;
        let vocab_size = shared.model.llm.vocab_size;
        let preprocess = PpPreprocess::new(
            loaded,
            shared.env,
            &key("pp_fn"),
            &spec.pp_fn,
            Some(&MODEL_INPUTS),
            vocab_size,
        )?;
        Ok(Evaluation {
            name: name.to_owned(),
            prefix: spec.prefix.clone().unwrap_or_else(|| format!("{name}/")),
            source: setup::eval_source(spec)?,
            preprocess: Arc::new(preprocess.with_fields()),
            batch_size: loaded.config.eval_batch_size(spec),
            spec: spec.clone(),
            evaluator,
            cached: None,
        })
    }

    /// Examples that a run judges.
    pub fn num_examples(&self) -> usize {
        self.source.len()
    }

    /// Judges all examples. `params` are in the model's order.
    pub fn run(&mut self, params: &[&Buffer]) -> Result<Outcome, Error> {
        let mut outcome = match &self.cached {
            Some(batches) => self.evaluator.run(&mut batches.iter().cloned().map(Ok), params)?,
            None if self.spec.cache == EvalCache::FinalData => {
                let batches = self.loader()?.collect::<Result<Vec<_>, _>>()?;
                let batches = self.cached.insert(batches);
                self.evaluator.run(&mut batches.iter().cloned().map(Ok), params)?
            }
            None => {
                let mut loader = self.loader()?;
                self.evaluator.run(&mut loader, params)?
            }
        };
        outcome.metrics.iter_mut().for_each(|(name, _)| name.insert_str(0, &self.prefix));
        Ok(outcome)
    }

    fn loader(&self) -> Result<Loader, Error> {
        let options = LoaderOptions {
            batch_size: self.batch_size,
            shuffle: false,
            epochs: Some(1),
            remainder: Remainder::Pad,
            prefetch: self.spec.prefetch.max(1),
            ..LoaderOptions::default()
        };
        Ok(Loader::new(self.source.clone(), self.preprocess.clone(), options)?)
    }
}

/// Arrays that models and losses take; all else that a pp string leaves is for the evaluator to read.
pub const MODEL_INPUTS: [&str; 5] = ["image", "text", "mask_ar", "mask_loss", "mask_input"];

/// An array of a batch.
fn array<'a>(batch: &'a Batch, eval: &str, key: &'static str) -> Result<&'a HostArray, Error> {
    batch.arrays.get(key).ok_or_else(|| {
        let fields = batch.fields.first().into_iter().flat_map(|fields| fields.keys());
        let got: Vec<&str> = batch.arrays.keys().chain(fields).map(String::as_str).collect();
        Error::MissingKey { eval: eval.to_owned(), key, got: got.join(", ") }
    })
}

/// Whether each row of a batch is real rather than padding.
fn is_real(batch: &Batch, row: usize) -> bool {
    let mask = batch.arrays.get(data::MASK).map(HostArray::bytes);
    mask.is_none_or(|mask| mask.get(row).is_some_and(|&real| real != 0))
}

/// A row of images `f32 [B, H, W, 3]` in [-1, 1], as a picture.
fn picture(images: &HostArray, row: usize) -> Option<RgbImage> {
    let &[_, height, width, 3] = images.dims() else { return None };
    let size = height * width * 3;
    let pixels = images.values::<f32>().ok()?.get(row * size..(row + 1) * size)?;
    let bytes = pixels.iter().map(|&v| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes)
}

/// The tokens of a row of `s32 [B, T]` whose `mask` is not zero (or is, with `wanted` false), as text.
fn text_of(
    tokenizer: &Tokenizer,
    text: &HostArray,
    mask: &HostArray,
    row: usize,
    wanted: bool,
) -> Result<String, Error> {
    let length = text.dims().get(1).copied().unwrap_or(0);
    let of_row = row * length..(row + 1) * length;
    let (tokens, mask) = (&text.values::<i32>()?[of_row.clone()], &mask.values::<i32>()?[of_row]);
    let chosen = tokens.iter().zip(mask).filter(|(_, mask)| (**mask != 0) == wanted);
    let chosen: Vec<i32> = chosen.map(|(token, _)| *token).filter(|&id| id != tokenizer.eos()).collect();
    Ok(tokenizer.decode_emitted(&chosen)?)
}
