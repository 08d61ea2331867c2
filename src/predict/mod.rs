//! Answers to prompts about images, by a model that was loaded whole.
//!
//! A [`LoadedModel`] is what a checkpoint and its config give: sizes, parameters, tokenizer, preprocessing.
//! A [`Predictor`] keeps it on a device and turns [`Question`]s into [`Prediction`]s, in batches of which the
//! last is filled up, so that one program serves them all. Files and the terminal are the caller's.

mod input;
mod model;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use crate::array::{self, HostArray};
use crate::decode::{self, DecodeConfig, Decoder, Method, TokenMask};
use crate::detection::{Detections, parse_detections};
use crate::runtime::{self, Buffer, Device};
use crate::tokenizer::{self, Tokenizer};
use crate::{checkpoint, params, pp, setup};

use input::stack;
pub use input::{MIN_PROMPT_STEP, Preprocessing};
pub use model::{LoadedModel, config_for, find_config};
pub use tokens::token_mask;

/// A model that cannot be loaded, or a question that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setup(#[from] setup::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Params(#[from] params::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Decode(#[from] decode::Error),
    #[error(transparent)]
    Array(#[from] array::Error),
    #[error("there is no config.yaml beside {}, and {problem}; --config names the config of its model", checkpoint.display())]
    NoConfig { checkpoint: PathBuf, problem: String },
    #[error("{question} cannot be preprocessed")]
    Preprocess { question: String, source: pp::Error },
    #[error("preprocessing of {question} expects to leave {key} as {expected}, got {got}")]
    Input { question: String, key: &'static str, expected: String, got: String },
    #[error(
        "{question} has token {token} in its prompt, which is outside the model's vocabulary of {vocab_size}; the \
         tokenizer is not the model's"
    )]
    Vocabulary { question: String, token: i32, vocab_size: usize },
    #[error("the answer to {question} has a probability that is not a number; the parameters are damaged")]
    NotFinite { question: String },
    #[error(
        "token \"{name}\" {problem}; tokens are named by their text, as #108 by their number, or all at once as <loc> or \
         <seg>"
    )]
    TokenName { name: String, problem: String },
}

impl From<crate::config::Error> for Error {
    fn from(error: crate::config::Error) -> Self {
        Error::Setup(error.into())
    }
}

/// A prompt about an image.
#[derive(Debug, Clone)]
pub struct Question {
    /// What messages call it: the image's file.
    pub name: String,
    /// A file's content: JPEG, PNG, WebP, GIF or BMP.
    pub image: Vec<u8>,
    pub prompt: String,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Tokens that the tokenizer does not know appear as its unknown token.
    pub text: String,
    /// Token ids of the text, without the one that ended it.
    pub tokens: Vec<i32>,
    /// The log-probability of each token; behind them that of the end, where there was one.
    pub logp: Vec<f32>,
    /// Whether the model ended by itself, rather than at `max_decode_len`.
    pub is_finished: bool,
    /// The boxes in the text.
    pub detections: Detections,
}

impl Prediction {
    /// The log-probability of the whole answer, its end included.
    pub fn score(&self) -> f32 {
        self.logp.iter().sum()
    }
}

/// How questions are answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The most tokens of an answer.
    pub max_decode_len: usize,
    pub method: Method,
    /// Tokens that an answer may be of.
    pub mask_logits: TokenMask,
    /// Of samplers that draw: it gives the same answers again.
    pub seed: u64,
    /// Questions that are answered at once, at most.
    pub batch_size: usize,
}

/// A model on a device.
pub struct Predictor {
    decoder: Decoder,
    params: Vec<Buffer>,
    tokenizer: Arc<Tokenizer>,
    preprocessing: Preprocessing,
    batch_size: usize,
}

impl Predictor {
    /// Moves a model to a device.
    ///
    /// # Errors
    /// Where memory does not suffice.
    pub fn new(model: LoadedModel, options: &Options, device: &Device) -> Result<Self, Error> {
        let LoadedModel { config, params, tokenizer, preprocessing } = model;
        let decode = DecodeConfig {
            max_decode_len: options.max_decode_len,
            eos_token: tokenizer.eos(),
            method: options.method,
            mask_logits: options.mask_logits.clone(),
            seed: options.seed,
        };
        let decoder = Decoder::new(config, decode, device)?;
        // The host's copies go as soon as the device has read them.
        let upload = |(_, array)| device.client().upload_owned(array, device);
        let params = params.into_iter().map(upload).collect::<Result<_, _>>()?;
        Ok(Predictor { decoder, params, tokenizer, preprocessing, batch_size: options.batch_size.max(1) })
    }

    /// Answers questions, in their order.
    ///
    /// # Errors
    /// The first question that cannot be preprocessed; a failure of the device.
    pub fn predict(&mut self, questions: &[Question]) -> Result<Vec<Prediction>, Error> {
        let mut predictions = Vec::with_capacity(questions.len());
        for chunk in questions.chunks(self.batch_size) {
            let vocab_size = self.decoder.model().llm.vocab_size;
            let rows = self.preprocessing.rows(chunk, &self.tokenizer, vocab_size)?;
            // A last batch is filled up to the size of those before it, for which there is a program.
            let size = if questions.len() > self.batch_size { self.batch_size } else { chunk.len() };
            let prompts = stack(chunk, &rows, size, self.tokenizer.pad())?;
            let params: Vec<&Buffer> = self.params.iter().collect();
            let continuations = self.decoder.decode(&params, &prompts)?;
            for (index, question) in chunk.iter().enumerate() {
                let (tokens, logp) = continuations.row(index)?;
                predictions.push(self.prediction(question, tokens, logp)?);
            }
        }
        Ok(predictions)
    }

    /// Answers one question, and gives away the text of the answer as it comes: after the first token, then after
    /// each `num_steps` more. A character that is spelled by several tokens comes whole.
    ///
    /// # Errors
    /// As [`predict`](Self::predict), and for beam search and the best of several answers.
    pub fn predict_in_parts(
        &mut self,
        question: &Question,
        num_steps: usize,
        give: &mut dyn FnMut(&str),
    ) -> Result<Prediction, Error> {
        let vocab_size = self.decoder.model().llm.vocab_size;
        let rows = self.preprocessing.rows(std::slice::from_ref(question), &self.tokenizer, vocab_size)?;
        let prompts = stack(std::slice::from_ref(question), &rows, 1, self.tokenizer.pad())?;
        let params: Vec<&Buffer> = self.params.iter().collect();
        let tokenizer = self.tokenizer.clone();
        let mut text = tokenizer.stream();
        let mut num_given = 0;
        let mut parts = self.decoder.stream(&params, &prompts)?;
        let (tokens, logp) = loop {
            let (tokens, logp) = parts.so_far().row(0)?;
            for &token in &tokens[num_given..] {
                let is_known = usize::try_from(token).is_ok_and(|token| token < tokenizer.vocab_size());
                give(&text.push(if is_known { token } else { tokenizer.unk() })?);
            }
            num_given = tokens.len();
            if parts.is_done() {
                break (tokens.to_vec(), logp.to_vec());
            }
            parts.advance(num_steps.max(1))?;
        };
        give(&text.finish()?);
        self.prediction(question, &tokens, &logp)
    }

    fn prediction(&self, question: &Question, tokens: &[i32], logp: &[f32]) -> Result<Prediction, Error> {
        if logp.iter().any(|logp| !logp.is_finite()) {
            return Err(Error::NotFinite { question: question.name.clone() });
        }
        let text = self.tokenizer.decode_emitted(tokens)?;
        Ok(Prediction {
            detections: parse_detections(&text),
            text,
            tokens: tokens.to_vec(),
            logp: logp.to_vec(),
            is_finished: logp.len() > tokens.len(),
        })
    }
}

/// A question as arrays, without a batch dimension.
struct Row {
    image: HostArray,
    text: Vec<i32>,
    mask_input: Vec<i32>,
    mask_ar: Vec<i32>,
}
