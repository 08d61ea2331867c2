//! What a model can do, measured on examples: evaluators by big_vision's names, run during training and
//! alone.
//!
//! An [`Evaluation`] owns the examples, their preprocessing and the compiled programs, so that running it
//! again costs only the model's work. Parameters are lent to it on the device.

mod perplexity;
mod vqa;

use std::sync::Arc;

use image::RgbImage;

use crate::array::{self, HostArray};
use crate::config::{Eval, Loaded};
use crate::data::{self, Batch, Loader, LoaderOptions, Remainder, Source};
use crate::model::PaliGemmaConfig;
use crate::pp::Env;
use crate::runtime::{Buffer, Device};
use crate::setup::{self, PpPreprocess};
use crate::tokenizer::Tokenizer;
use crate::{decode, exec};

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
}

impl From<crate::config::Error> for Error {
    fn from(error: crate::config::Error) -> Self {
        Error::Setup(error.into())
    }
}

/// What one run of an evaluation found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Names without the evaluation's prefix.
    pub metrics: Vec<(String, f64)>,
    /// One entry per example, in their order.
    pub predictions: Vec<Prediction>,
}

/// What the model said of one example.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Number of the row in its source.
    pub row: usize,
    pub prompt: String,
    pub answer: String,
    /// What it should have said; several answers may be right.
    pub references: Vec<String>,
    pub correct: Option<bool>,
    /// The picture as the model saw it, for the first examples only.
    pub picture: Option<RgbImage>,
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

/// Names of evaluators, as configs write them; the last part alone is enough.
const EVALUATORS: [&str; 2] = ["proj.paligemma.perplexity", "proj.paligemma.transfers.vqa"];

impl Evaluation {
    /// # Errors
    /// Unknown evaluators and arguments, a wrong pp string, missing files.
    pub fn new(name: &str, spec: &Eval, shared: &Shared<'_>) -> Result<Self, Error> {
        let loaded = shared.loaded;
        let key = |key: &str| format!("evals.{name}.{key}");
        let kind = spec.kind.as_deref().unwrap_or(name);
        let evaluator: Box<dyn Evaluator> = match kind.rsplit('.').next().unwrap_or(kind) {
            "perplexity" => Box::new(perplexity::Perplexity::new(name, spec, shared)?),
            "vqa" => Box::new(vqa::Vqa::new(name, spec, shared)?),
            _ => {
                let known = EVALUATORS.join(", ");
                let message = format!("unknown evaluator \"{kind}\", known are: {known}");
                return Err(loaded.error_at(&key("type"), message).into());
            }
        };
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
            preprocess: Arc::new(preprocess),
            batch_size: loaded.config.eval_batch_size(spec),
            spec: spec.clone(),
            evaluator,
        })
    }

    /// Judges all examples. `params` are in the model's order.
    pub fn run(&mut self, params: &[&Buffer]) -> Result<Outcome, Error> {
        let options = LoaderOptions {
            batch_size: self.batch_size,
            shuffle: false,
            epochs: Some(1),
            remainder: Remainder::Pad,
            prefetch: self.spec.prefetch.max(1),
            ..LoaderOptions::default()
        };
        let mut loader = Loader::new(self.source.clone(), self.preprocess.clone(), options)?;
        let mut outcome = self.evaluator.run(&mut loader, params)?;
        outcome.metrics.iter_mut().for_each(|(name, _)| name.insert_str(0, &self.prefix));
        Ok(outcome)
    }
}

/// Arrays that models and losses take; all else that a pp string leaves is for the evaluator to read.
pub const MODEL_INPUTS: [&str; 5] = ["image", "text", "mask_ar", "mask_loss", "mask_input"];

/// An array of a batch.
fn array<'a>(batch: &'a Batch, eval: &str, key: &'static str) -> Result<&'a HostArray, Error> {
    batch.arrays.get(key).ok_or_else(|| {
        let got: Vec<&str> = batch.arrays.keys().chain(batch.strings.keys()).map(String::as_str).collect();
        Error::MissingKey { eval: eval.to_owned(), key, got: got.join(", ") }
    })
}

/// A row of images `f32 [B, H, W, 3]` in [-1, 1], as a picture.
fn picture(images: &HostArray, row: usize) -> Option<RgbImage> {
    let &[_, height, width, 3] = images.dims() else { return None };
    let size = height * width * 3;
    let pixels = images.values::<f32>().ok()?.get(row * size..(row + 1) * size)?;
    let bytes = pixels.iter().map(|&v| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes)
}
