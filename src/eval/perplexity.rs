//! Negative log-likelihood of texts (`evaluators/proj/paligemma/perplexity.py`).

use std::sync::Arc;

use super::hardest::Collector;
use super::{Context, Error, Evaluator, Outcome, Prediction, array, is_real, picture, text_of};
use crate::array::{DType, HostArray, Shape};
use crate::config_section;
use crate::data::{self, Batch};
use crate::exec;
use crate::graph::{self, Builder, Function, Value};
use crate::hlo::EmitOptions;
use crate::model::{Examples, LossConfig, PaliGemmaConfig};
use crate::nn::Params;
use crate::runtime::{Arg, Buffer, CompileOptions, Device, Executable};
use crate::tokenizer::Tokenizer;

config_section! {
    /// Arguments of the perplexity evaluator.
    pub struct Args {
        /// Batch entry that holds the tokens; only `text` is known here.
        pub key: String = "text".into();
        /// Whether each position predicts the next token; PaliGemma's always do.
        pub shift_labels: bool = true;
        /// A token that does not count where it is to be predicted.
        pub pad_token: Option<i64> = None;
    }
}

pub(super) struct Perplexity {
    eval: String,
    model: PaliGemmaConfig,
    device: Device,
    tokenizer: Arc<Tokenizer>,
    pad_token: Option<i64>,
    num_pictures: usize,
    /// The program, for the shapes and parameter types it was compiled for.
    compiled: Option<(Vec<Shape>, Executable)>,
}

/// What `pred` can be: the reference's name, and the default of all evaluators.
const PREDS: [&str; 2] = ["logits", "predict"];

impl Perplexity {
    pub(super) fn new(context: &Context<'_>) -> Result<Self, Error> {
        let Context { name, spec, shared, tokenizer } = context;
        let Args { key, shift_labels, pad_token } = spec.args.parse()?;
        if key != "text" || !shift_labels {
            let message = "perplexity of PaliGemma expects key: text and shift_labels: true";
            return Err(shared.loaded.error_at(&format!("evals.{name}"), message).into());
        }
        if !PREDS.contains(&spec.pred.as_str()) {
            let message = format!("perplexity expects pred: logits, got \"{}\"", spec.pred);
            return Err(context.wrong("pred", message));
        }
        Ok(Perplexity {
            eval: (*name).to_owned(),
            model: shared.model.clone(),
            device: shared.device.clone(),
            tokenizer: tokenizer.clone(),
            pad_token,
            num_pictures: shared.num_pictures,
            compiled: None,
        })
    }

    /// Which tokens count. Without a mask all do, the prompt's and the padding's too, as in the reference.
    fn mask_loss(&self, batch: &Batch, text: &HostArray) -> Result<HostArray, Error> {
        let mask = match batch.arrays.get("mask_loss") {
            Some(mask) => mask.clone(),
            None => HostArray::new(text.dims(), &vec![1i32; text.shape().num_elements()])?,
        };
        let Some(pad) = self.pad_token else { return Ok(mask) };
        let mut counted = mask.cast(DType::S32);
        for (counts, &token) in counted.values_mut::<i32>()?.iter_mut().zip(text.values::<i32>()?) {
            if i64::from(token) == pad {
                *counts = 0;
            }
        }
        Ok(counted)
    }

    fn executable(&mut self, shapes: Vec<Shape>) -> Result<&Executable, Error> {
        if self.compiled.as_ref().is_none_or(|(known, _)| *known != shapes) {
            let function = function(&self.model, &shapes).map_err(exec::Error::from)?;
            let client = self.device.client();
            let executable =
                exec::compile(client, &function, &EmitOptions::default(), &CompileOptions::default())?;
            self.compiled = Some((shapes, executable));
        }
        let (_, executable) = self.compiled.as_ref().expect("it was just compiled");
        Ok(executable)
    }
}

impl Evaluator for Perplexity {
    fn run(
        &mut self,
        examples: &mut dyn Iterator<Item = Result<Batch, data::Error>>,
        params: &[&Buffer],
    ) -> Result<Outcome, Error> {
        let (mut sum, mut average, mut count) = (0.0, 0.0, 0usize);
        let mut collector = Collector::new(self.num_pictures);
        for batch in examples {
            let batch = batch?;
            let text = array(&batch, &self.eval, "text")?;
            let mask_loss = self.mask_loss(&batch, text)?;
            let inputs = [
                array(&batch, &self.eval, "image")?,
                text,
                array(&batch, &self.eval, "mask_ar")?,
                &mask_loss,
            ];
            let shapes = params.iter().map(|buffer| buffer.shape()).chain(inputs.map(HostArray::shape));
            let shapes: Vec<Shape> = shapes.cloned().collect();
            let device = self.device.clone();
            let upload = |input| device.client().upload(input, &device).map_err(exec::Error::from);
            let buffers = inputs.into_iter().map(upload).collect::<Result<Vec<_>, _>>()?;
            let args = params.iter().copied().chain(&buffers).map(Arg::Keep).collect();
            let results = self.executable(shapes)?.execute(args).map_err(exec::Error::from)?;
            let [losses, counts] = results.as_slice() else { return Err(exec::Error::NoResult.into()) };
            let losses = losses.download().map_err(exec::Error::from)?;
            let counts = counts.download().map_err(exec::Error::from)?;
            let images = array(&batch, &self.eval, "image")?;
            let values = losses.values::<f32>()?.iter().zip(counts.values::<f32>()?);
            for (index, (loss, tokens)) in values.enumerate().filter(|(index, _)| is_real(&batch, *index)) {
                average += f64::from(*loss);
                sum += f64::from(*loss) * f64::from(*tokens);
                count += 1;
                let Some(row) = batch.ids.get(index).copied().flatten() else { continue };
                let prediction = Prediction { row, loss: Some(f64::from(*loss)), ..Prediction::default() };
                let mut failure = None;
                collector.add(prediction, |prediction| {
                    let text = |wanted| self.text(text, &mask_loss, index, wanted);
                    match text(false).and_then(|prompt| Ok((prompt, text(true)?))) {
                        Ok((prompt, reference)) => {
                            (prediction.prompt, prediction.references) = (prompt, vec![reference]);
                        }
                        Err(error) => failure = Some(error),
                    }
                    prediction.picture = picture(images, index);
                });
                if let Some(error) = failure {
                    return Err(error);
                }
            }
        }
        let mean = |total: f64| total / count.max(1) as f64;
        let (predictions, hardest) = collector.finish();
        Ok(Outcome {
            metrics: vec![("sum".into(), mean(sum)), ("avg".into(), mean(average))],
            predictions,
            hardest,
            files: Vec::new(),
        })
    }
}

impl Perplexity {
    /// The tokens that count, or the others, without padding.
    fn text(&self, text: &HostArray, mask: &HostArray, row: usize, wanted: bool) -> Result<String, Error> {
        let mask = mask.cast(DType::S32);
        Ok(text_of(&self.tokenizer, text, &mask, row, wanted)?.trim().to_owned())
    }
}

/// `(parameters…, image, text, mask_ar, mask_loss) -> (mean loss of each example, its tokens)`, `f32 [B]`.
fn function(model: &PaliGemmaConfig, shapes: &[Shape]) -> graph::Result<Function> {
    let b = Builder::new("perplexity");
    let specs = model.params().map_err(|error| b.error(error.to_string()))?;
    let params = specs.iter().zip(shapes).map(|(spec, shape)| {
        Ok((spec.name.clone(), b.parameter(&spec.name, spec.shape.with_dtype(shape.dtype()))?))
    });
    let params = Params::new(&b, params.collect::<graph::Result<Vec<_>>>()?);
    let inputs = ["image", "text", "mask_ar", "mask_loss"].iter().zip(&shapes[specs.len()..]);
    let inputs = inputs
        .map(|(name, shape)| b.parameter(name, shape.clone()))
        .collect::<graph::Result<Vec<Value>>>()?;
    let [image, text, mask_ar, mask_loss] = inputs.as_slice() else {
        return Err(b.error("perplexity expects four inputs".into()));
    };
    let loss =
        model.loss(&params, &Examples { image, text, mask_ar, mask_loss }, None, &LossConfig::default())?;
    let supervised = mask_loss.slice_in_dim(1, 1, mask_loss.dims()[1])?;
    let tokens = supervised.convert(DType::F32)?.reduce_sum(&[1])?;
    b.finish(&[&loss.per_example, &tokens])
}
