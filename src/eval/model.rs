//! Answers of a model on a device (`pred: decode`).

use std::sync::Arc;

use super::answered::Answerer;
use super::judge::Answer;
use super::{Context, Error, array, text_of};
use crate::array::{DType, HostArray, Shape};
use crate::config_section;
use crate::data::{Batch, MASK};
use crate::decode::{ConfigError, DecodeConfig, Decoder, Method, PromptBatch, Sampler, SamplerError};
use crate::predict::token_mask;
use crate::runtime::Buffer;
use crate::tokenizer::Tokenizer;

config_section! {
    /// Arguments of `pred: decode` and `pred: decode_with_logp`.
    pub struct DecodeArgs {
        /// Tokens that are generated at most.
        pub max_decode_len: usize = 32;
        /// How tokens are chosen.
        pub sampler: String = "greedy".into();
        /// How many answers are drawn, of which the likeliest is taken.
        pub best_of_n: usize = 1;
        /// Every how many tokens the reference looks for the end; here nobody waits for that.
        pub eos_look_behind: usize = 0;
        /// Tokens that are not to be said, by text (`<noise>`, `<eos>`), number (`#108`), or all of `<loc>` or `<seg>`.
        pub ban: Vec<String> = vec![];
        /// Tokens of which alone answers are made, and the end.
        pub allow: Vec<String> = vec![];
    }
}

config_section! {
    /// Arguments of `pred: beam_decode`.
    pub struct BeamArgs {
        /// Tokens that are generated at most.
        pub max_decode_len: usize = 32;
        /// Beginnings of answers that are followed.
        pub beam_size: usize;
        /// As for `decode`.
        pub ban: Vec<String> = vec![];
        /// As for `decode`.
        pub allow: Vec<String> = vec![];
    }
}

/// What `pred` can be, where a model answers.
const PREDS: [&str; 3] = ["decode", "decode_with_logp", "beam_decode"];

pub(super) struct ModelAnswers {
    eval: String,
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
}

impl ModelAnswers {
    pub fn new(context: &Context<'_>) -> Result<Self, Error> {
        let Context { name, spec, shared, tokenizer } = context;
        let (method, max_decode_len, ban, allow) = match spec.pred.as_str() {
            "decode" | "decode_with_logp" => {
                let args: DecodeArgs = spec.pred_kw.parse()?;
                let sampler: Sampler = (args.sampler.parse())
                    .map_err(|error: SamplerError| context.wrong("pred_kw", error.to_string()))?;
                let method = Method::Sample { sampler, best_of_n: args.best_of_n };
                (method, args.max_decode_len, args.ban, args.allow)
            }
            "beam_decode" => {
                let BeamArgs { max_decode_len, beam_size, ban, allow } = spec.pred_kw.parse()?;
                (Method::Beam { beam_size }, max_decode_len, ban, allow)
            }
            other => {
                let known = PREDS.join(", ");
                let message =
                    format!("an evaluator of answers expects as pred one of {known}, got \"{other}\"");
                return Err(context.wrong("pred", message));
            }
        };
        let vocab_size = shared.model.llm.vocab_size;
        let mask_logits = token_mask(tokenizer, vocab_size, &ban, &allow)
            .map_err(|error| context.wrong("pred_kw", error.to_string()))?;
        let seed = shared.loaded.config.seed;
        let eos_token = tokenizer.eos();
        let config = DecodeConfig { max_decode_len, eos_token, method, mask_logits, seed };
        config.check(vocab_size).map_err(|error: ConfigError| context.wrong("pred_kw", error.to_string()))?;
        Ok(ModelAnswers {
            eval: (*name).to_owned(),
            tokenizer: tokenizer.clone(),
            decoder: Decoder::new(shared.model.clone(), config, shared.device)?,
        })
    }

    fn prompts(&self, batch: &Batch) -> Result<PromptBatch, Error> {
        let text = array(batch, &self.eval, "text")?;
        let all = Shape::new(DType::Pred, [text.dims()[0]]);
        let mask = match batch.arrays.get(MASK) {
            Some(mask) => mask.clone(),
            None => HostArray::from_bytes(all.clone(), &vec![1; all.num_elements()])?,
        };
        Ok(PromptBatch {
            image: array(batch, &self.eval, "image")?.clone(),
            text: text.clone(),
            mask_input: array(batch, &self.eval, "mask_input")?.clone(),
            mask_ar: array(batch, &self.eval, "mask_ar")?.clone(),
            mask,
        })
    }
}

impl Answerer for ModelAnswers {
    fn answer(&mut self, batch: &Batch, params: &[&Buffer]) -> Result<Vec<Option<(String, Answer)>>, Error> {
        let prompts = self.prompts(batch)?;
        let decoded = self.decoder.decode(params, &prompts)?;
        let answer = |(row, id): (usize, &Option<usize>)| {
            if id.is_none() {
                return Ok(None);
            }
            let prompt = text_of(&self.tokenizer, &prompts.text, &prompts.mask_input, row, true)?;
            let (tokens, logp) = decoded.row(row)?;
            let text = self.tokenizer.decode_emitted(tokens)?;
            let answer = Answer { text, tokens: tokens.to_vec(), logp: logp.to_vec() };
            Ok(Some((prompt.trim_end_matches('\n').to_owned(), answer)))
        };
        batch.ids.iter().enumerate().map(answer).collect()
    }
}
