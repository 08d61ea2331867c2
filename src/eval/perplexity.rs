//! Negative log-likelihood of texts (`evaluators/proj/paligemma/perplexity.py`).

use super::{Error, Evaluator, Outcome, Shared, array};
use crate::array::{DType, HostArray, Shape};
use crate::config::Eval;
use crate::config_section;
use crate::data::{self, Batch, MASK};
use crate::exec;
use crate::graph::{self, Builder, Function, Value};
use crate::hlo::EmitOptions;
use crate::model::{Examples, LossConfig, PaliGemmaConfig};
use crate::nn::Params;
use crate::runtime::{Arg, Buffer, CompileOptions, Device, Executable};

config_section! {
    /// Arguments of the perplexity evaluator.
    pub struct Args {
        /// Batch entry that holds the tokens; only `text` is known here.
        pub key: String = "text".into();
        /// Whether each position predicts the next token; PaliGemma's always do.
        pub shift_labels: bool = true;
    }
}

pub(super) struct Perplexity {
    eval: String,
    model: PaliGemmaConfig,
    device: Device,
    /// The program, for the shapes and parameter types it was compiled for.
    compiled: Option<(Vec<Shape>, Executable)>,
}

impl Perplexity {
    pub(super) fn new(name: &str, spec: &Eval, shared: &Shared<'_>) -> Result<Self, Error> {
        let args: Args = spec.args.parse()?;
        if args.key != "text" || !args.shift_labels {
            let message = "perplexity of PaliGemma expects key: text and shift_labels: true";
            return Err(shared.loaded.error_at(&format!("evals.{name}"), message).into());
        }
        Ok(Perplexity {
            eval: name.to_owned(),
            model: shared.model.clone(),
            device: shared.device.clone(),
            compiled: None,
        })
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
        for batch in examples {
            let batch = batch?;
            let text = array(&batch, &self.eval, "text")?;
            // Without a mask every token counts, the prompt's and the padding's too, as in the reference.
            let ones = HostArray::new(text.dims(), &vec![1i32; text.shape().num_elements()])?;
            let mask_loss = batch.arrays.get("mask_loss").unwrap_or(&ones);
            let inputs =
                [array(&batch, &self.eval, "image")?, text, array(&batch, &self.eval, "mask_ar")?, mask_loss];
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
            let real = batch.arrays.get(MASK).map(HostArray::bytes);
            for (row, (loss, tokens)) in
                losses.values::<f32>()?.iter().zip(counts.values::<f32>()?).enumerate()
            {
                if real.is_none_or(|real| real[row] != 0) {
                    average += f64::from(*loss);
                    sum += f64::from(*loss) * f64::from(*tokens);
                    count += 1;
                }
            }
        }
        let mean = |total: f64| total / count.max(1) as f64;
        Ok(Outcome {
            metrics: vec![("sum".into(), mean(sum)), ("avg".into(), mean(average))],
            predictions: vec![],
        })
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
