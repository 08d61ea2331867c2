//! Programs of decoding on a device.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{DecodeConfig, PromptValues, decode};
use crate::array::{self, DType, HostArray, Shape};
use crate::exec;
use crate::graph::{self, Builder, Function};
use crate::hlo::EmitOptions;
use crate::model::{PaliGemmaConfig, Taps};
use crate::nn::Params;
use crate::params;
use crate::runtime::{self, Arg, Buffer, CompileOptions, Device, Executable};

/// Prompts that cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("decoding expects {name} as {expected}, got {got}")]
    PromptShape { name: &'static str, expected: Shape, got: Shape },
    #[error("decoding expects parameter {name} with extents {expected:?}, got {got}")]
    ParamShape { name: String, expected: Vec<usize>, got: Shape },
    #[error("decoding expects {expected} parameters, got {got}")]
    ParamCount { expected: usize, got: usize },
    #[error(transparent)]
    Params(#[from] params::Error),
    #[error(transparent)]
    Exec(#[from] exec::Error),
    #[error(transparent)]
    Array(#[from] array::Error),
}

impl From<graph::Error> for Error {
    fn from(error: graph::Error) -> Self {
        Error::Exec(error.into())
    }
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Self {
        Error::Exec(error.into())
    }
}

/// A batch of images and prompts, with the shapes of [`PromptValues`].
#[derive(Debug, Clone)]
pub struct PromptBatch {
    pub image: HostArray,
    pub text: HostArray,
    pub mask_input: HostArray,
    pub mask_ar: HostArray,
    pub mask: HostArray,
}

/// What was emitted after each prompt of a batch.
#[derive(Debug, Clone)]
pub struct Continuations {
    /// `s32 [B, max_decode_len]`, 0 from `num_steps` on.
    pub tokens: HostArray,
    /// `f32 [B, max_decode_len]`: the log-probability of each token, 0 from `num_steps` on.
    pub logp: HostArray,
    /// Tokens emitted for each row, whether it had ended or not.
    pub num_steps: usize,
    eos_token: i32,
}

impl Continuations {
    /// Tokens of one row up to its end, the end-of-sequence token not included, and the log-probability of
    /// each; behind them that of the end, where the row came to one.
    ///
    /// # Errors
    /// When an array was exchanged for one of another type.
    pub fn row(&self, index: usize) -> Result<(&[i32], &[f32]), array::Error> {
        let max_len = self.tokens.dims()[1];
        let emitted = index * max_len..index * max_len + self.num_steps;
        let (tokens, logp) = (&self.tokens.values()?[emitted.clone()], &self.logp.values()?[emitted]);
        let end = tokens.iter().position(|&token| token == self.eos_token);
        Ok(match end {
            Some(end) => (&tokens[..end], &logp[..=end]),
            None => (tokens, logp),
        })
    }
}

/// Continues prompts with one model on one device. A program is compiled for each shape of batch that comes,
/// and kept. Parameters stay their owner's, so that those of a running training can be used.
#[derive(Debug)]
pub struct Decoder {
    model: PaliGemmaConfig,
    config: DecodeConfig,
    device: Device,
    param_dims: Vec<(String, Vec<usize>)>,
    programs: HashMap<Signature, Executable>,
}

/// What a program is compiled for; the size of images is the model's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Signature {
    batch: usize,
    prompt_len: usize,
    param_dtypes: Vec<DType>,
}

impl Decoder {
    /// # Errors
    /// When the model's parameters have no consistent names.
    pub fn new(model: PaliGemmaConfig, config: DecodeConfig, device: &Device) -> Result<Self, Error> {
        let specs = model.params()?;
        let param_dims = specs.iter().map(|spec| (spec.name.clone(), spec.shape.dims().to_vec())).collect();
        Ok(Decoder { model, config, device: device.clone(), param_dims, programs: HashMap::new() })
    }

    pub fn model(&self) -> &PaliGemmaConfig {
        &self.model
    }

    pub fn config(&self) -> &DecodeConfig {
        &self.config
    }

    /// Continues a batch of prompts and waits for the end. `params` are in the order of
    /// [`PaliGemmaConfig::params`], of any float types.
    ///
    /// # Errors
    /// Where a shape is not the model's; where the program does not compile or fails.
    pub fn decode(&mut self, params: &[&Buffer], prompts: &PromptBatch) -> Result<Continuations, Error> {
        let signature = self.signature(params, prompts)?;
        let device = self.device.clone();
        let PromptBatch { image, text, mask_input, mask_ar, mask } = prompts;
        let upload = |array: &HostArray| device.client().upload(array, &device);
        let inputs = [image, text, mask_input, mask_ar, mask]
            .into_iter()
            .map(upload)
            .collect::<Result<Vec<_>, _>>()?;
        let args = params.iter().copied().chain(&inputs).map(Arg::Keep).collect();
        let results = self.program(signature)?.execute(args)?;
        let downloads = results.iter().map(Buffer::start_download).collect::<Result<Vec<_>, _>>()?;
        let mut arrays = downloads.into_iter().map(|download| download.wait());
        let mut next = || arrays.next().expect("the program has three results");
        let (tokens, logp, num_steps) = (next()?, next()?, next()?);
        let num_steps = num_steps.values::<i32>()?[0] as usize;
        Ok(Continuations { tokens, logp, num_steps, eos_token: self.config.eos_token })
    }

    /// The program that [`decode`](Self::decode) runs for these arguments, compiled if it was not yet.
    pub fn executable(&mut self, params: &[&Buffer], prompts: &PromptBatch) -> Result<&Executable, Error> {
        let signature = self.signature(params, prompts)?;
        self.program(signature)
    }

    fn program(&mut self, signature: Signature) -> Result<&Executable, Error> {
        match self.programs.entry(signature) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let function = function(&self.model, &self.config, entry.key(), &self.param_dims)?;
                let (emit, options) = (EmitOptions::default(), CompileOptions::default());
                let executable = exec::compile(self.device.client(), &function, &emit, &options)?;
                Ok(entry.insert(executable))
            }
        }
    }

    fn signature(&self, params: &[&Buffer], prompts: &PromptBatch) -> Result<Signature, Error> {
        if params.len() != self.param_dims.len() {
            return Err(Error::ParamCount { expected: self.param_dims.len(), got: params.len() });
        }
        for ((name, dims), buffer) in self.param_dims.iter().zip(params) {
            if buffer.shape().dims() != dims || !buffer.shape().dtype().is_float() {
                let (name, expected, got) = (name.clone(), dims.clone(), buffer.shape().clone());
                return Err(Error::ParamShape { name, expected, got });
            }
        }
        let [batch, prompt_len] = match prompts.text.dims() {
            &[batch, prompt_len] => [batch, prompt_len],
            dims => [dims.first().copied().unwrap_or(1), dims.get(1).copied().unwrap_or(1)],
        };
        let shapes = PromptShapes::new(&self.model, batch, prompt_len);
        let given = [
            ("image", &prompts.image, &shapes.image),
            ("text", &prompts.text, &shapes.text),
            ("mask_input", &prompts.mask_input, &shapes.text),
            ("mask_ar", &prompts.mask_ar, &shapes.text),
            ("_mask", &prompts.mask, &shapes.mask),
        ];
        for (name, array, expected) in given {
            if array.shape() != expected {
                return Err(Error::PromptShape {
                    name,
                    expected: expected.clone(),
                    got: array.shape().clone(),
                });
            }
        }
        let param_dtypes = params.iter().map(|buffer| buffer.shape().dtype()).collect();
        Ok(Signature { batch, prompt_len, param_dtypes })
    }
}

struct PromptShapes {
    image: Shape,
    /// Of `text`, `mask_input` and `mask_ar`.
    text: Shape,
    mask: Shape,
}

impl PromptShapes {
    fn new(model: &PaliGemmaConfig, batch: usize, prompt_len: usize) -> Self {
        let [height, width] = model.image_size;
        PromptShapes {
            image: Shape::new(DType::F32, [batch, height, width, 3]),
            text: Shape::new(DType::S32, [batch, prompt_len]),
            mask: Shape::new(DType::Pred, [batch]),
        }
    }
}

/// `(parameters…, image, text, mask_input, mask_ar, _mask) -> (tokens, logp, num_steps)`.
fn function(
    model: &PaliGemmaConfig,
    config: &DecodeConfig,
    signature: &Signature,
    param_dims: &[(String, Vec<usize>)],
) -> graph::Result<Function> {
    let b = Builder::new("decode");
    let params = param_dims
        .iter()
        .zip(&signature.param_dtypes)
        .map(|((name, dims), &dtype)| {
            Ok((name.clone(), b.parameter(name, Shape::new(dtype, dims.as_slice()))?))
        })
        .collect::<graph::Result<Vec<_>>>()?;
    let params = Params::new(&b, params);
    let shapes = PromptShapes::new(model, signature.batch, signature.prompt_len);
    let prompts = PromptValues {
        image: b.parameter("image", shapes.image)?,
        text: b.parameter("text", shapes.text.clone())?,
        mask_input: b.parameter("mask_input", shapes.text.clone())?,
        mask_ar: b.parameter("mask_ar", shapes.text)?,
        mask: b.parameter("_mask", shapes.mask)?,
    };
    let decoded = decode(model, &params, &prompts, config, &mut Taps::none())?;
    b.finish(&[&decoded.tokens, &decoded.logp, &decoded.num_steps])
}
