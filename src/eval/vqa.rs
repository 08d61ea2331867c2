//! Decoded answers against given ones (`evaluators/proj/paligemma/transfers/vqa.py`).

use std::sync::Arc;

use super::{Error, Evaluator, Outcome, Prediction, Shared, array, picture};
use crate::array::{DType, HostArray, Shape};
use crate::config::Eval;
use crate::config_section;
use crate::data::{self, Batch, MASK};
use crate::decode::{DecodeConfig, Decoder, Method, PromptBatch, Sampler, SamplerError};
use crate::runtime::Buffer;
use crate::tokenizer::Tokenizer;

config_section! {
    /// Arguments of the vqa evaluator.
    pub struct Args {
        /// Whether answers are compared in lower case.
        pub to_lower: bool = false;
    }
}

config_section! {
    /// Arguments of `pred: decode`.
    pub struct DecodeArgs {
        /// Tokens that are generated at most.
        pub max_decode_len: usize = 32;
        /// How tokens are chosen.
        pub sampler: String = "greedy".into();
    }
}

pub(super) struct Vqa {
    eval: String,
    to_lower: bool,
    num_pictures: usize,
    tokenizer: Arc<Tokenizer>,
    decoder: Decoder,
}

impl Vqa {
    pub(super) fn new(name: &str, spec: &Eval, shared: &Shared<'_>) -> Result<Self, Error> {
        let Args { to_lower } = spec.args.parse()?;
        let DecodeArgs { max_decode_len, sampler } = spec.pred_kw.parse()?;
        let at = |key: &str, message: String| shared.loaded.error_at(&format!("evals.{name}.{key}"), message);
        if spec.pred != "decode" {
            let message = format!("vqa expects pred: decode, got \"{}\"", spec.pred);
            return Err(at("pred", message).into());
        }
        let sampler: Sampler =
            sampler.parse().map_err(|error: SamplerError| at("pred_kw", error.to_string()))?;
        let method = Method::Sample { sampler, best_of_n: 1 };
        let config = DecodeConfig { method, ..DecodeConfig::greedy(max_decode_len, shared.tokenizer.eos()) };
        Ok(Vqa {
            eval: name.to_owned(),
            to_lower,
            num_pictures: shared.num_pictures,
            tokenizer: shared.tokenizer.clone(),
            decoder: Decoder::new(shared.model.clone(), config, shared.device)?,
        })
    }

    fn normalized(&self, text: &str) -> String {
        if self.to_lower { text.to_lowercase() } else { text.to_owned() }
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

    /// The prompt of a row, as text.
    fn prompt(&self, prompts: &PromptBatch, row: usize) -> Result<String, Error> {
        let length = prompts.text.dims()[1];
        let of_row = row * length..(row + 1) * length;
        let tokens = &prompts.text.values::<i32>()?[of_row.clone()];
        let valid = &prompts.mask_input.values::<i32>()?[of_row];
        let shown: Vec<i32> =
            tokens.iter().zip(valid).filter(|(_, valid)| **valid != 0).map(|(token, _)| *token).collect();
        Ok(self.tokenizer.decode(&shown)?.trim_end_matches('\n').to_owned())
    }
}

impl Evaluator for Vqa {
    fn run(
        &mut self,
        examples: &mut dyn Iterator<Item = Result<Batch, data::Error>>,
        params: &[&Buffer],
    ) -> Result<Outcome, Error> {
        let mut predictions: Vec<Prediction> = Vec::new();
        for batch in examples {
            let batch = batch?;
            let prompts = self.prompts(&batch)?;
            let decoded = self.decoder.decode(params, &prompts)?;
            let answers = batch.strings.get("answer");
            for (row, id) in batch.ids.iter().enumerate() {
                let Some(id) = id else { continue };
                let answer = self.normalized(&self.tokenizer.decode_emitted(decoded.row(row)?.0)?);
                let references: Vec<String> =
                    answers.iter().map(|texts| self.normalized(&texts[row])).collect();
                let correct = (!references.is_empty()).then(|| references.contains(&answer));
                let keep_picture = predictions.len() < self.num_pictures;
                predictions.push(Prediction {
                    row: *id,
                    prompt: self.prompt(&prompts, row)?,
                    answer,
                    references,
                    correct,
                    picture: if keep_picture { picture(&prompts.image, row) } else { None },
                });
            }
        }
        let judged: Vec<bool> = predictions.iter().filter_map(|prediction| prediction.correct).collect();
        let mut metrics = vec![("num".to_owned(), predictions.len() as f64)];
        if !judged.is_empty() {
            let right = judged.iter().filter(|correct| **correct).count();
            metrics.insert(0, ("acc".into(), right as f64 / judged.len() as f64));
        }
        Ok(Outcome { metrics, predictions })
    }
}
