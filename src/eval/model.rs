//! Answers of a model on a device (`pred: decode`).

use std::sync::Arc;

use super::answered::Answerer;
use super::judge::Answer;
use super::{Context, Error, array, text_of};
use crate::array::{DType, HostArray, Shape};
use crate::config_section;
use crate::data::{Batch, MASK};
use crate::decode::{DecodeConfig, Decoder, PromptBatch, Sampler, UnknownSampler};
use crate::runtime::Buffer;
use crate::tokenizer::Tokenizer;

config_section! {
    /// Arguments of `pred: decode`.
    pub struct DecodeArgs {
        /// Tokens that are generated at most.
        pub max_decode_len: usize = 32;
        /// How tokens are chosen.
        pub sampler: String = "greedy".into();
    }
}

/// What `pred` can be, where a model answers.
const PREDS: [&str; 2] = ["decode", "decode_with_logp"];

pub(super) struct ModelAnswers {
    eval: String,
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
}

impl ModelAnswers {
    pub fn new(context: &Context<'_>) -> Result<Self, Error> {
        let Context { name, spec, shared, tokenizer } = context;
        if !PREDS.contains(&spec.pred.as_str()) {
            let message = format!(
                "an evaluator of answers expects pred: {}, got \"{}\"",
                PREDS.join(" or "),
                spec.pred
            );
            return Err(context.wrong("pred", message));
        }
        let DecodeArgs { max_decode_len, sampler } = spec.pred_kw.parse()?;
        if max_decode_len == 0 {
            return Err(context.wrong("pred_kw", "max_decode_len is 0, expected at least 1"));
        }
        let sampler: Sampler =
            sampler.parse().map_err(|error: UnknownSampler| context.wrong("pred_kw", error.to_string()))?;
        let config = DecodeConfig { max_decode_len, eos_token: tokenizer.eos(), sampler };
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
