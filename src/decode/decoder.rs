//! Programs of decoding on a device.

use std::collections::HashMap;
use std::num::NonZero;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{ConfigError, DecodeConfig, PromptValues, decode};
use crate::array::{self, DType, HostArray, Shape};
use crate::exec;
use crate::graph::{self, Builder, Function, Value};
use crate::hlo::EmitOptions;
use crate::model::{PaliGemmaConfig, Taps};
use crate::nn::Params;
use crate::params::{self, Kernel};
use crate::runtime::{self, Arg, Buffer, CompileOptions, Device, Executable, Parting};

/// Prompts that cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("decoding expects {name} as {expected}, got {got}")]
    PromptShape { name: &'static str, expected: Shape, got: Shape },
    #[error("decoding expects parameter {name} as {expected}, got {got}")]
    ParamShape { name: String, expected: Shape, got: Shape },
    #[error("decoding expects {expected} parameters, got {got}")]
    ParamCount { expected: usize, got: usize },
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    pub(super) eos_token: i32,
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
    pub(super) device: Device,
    /// Whether the loop over tokens gets each layer's weights as arguments of their own: on the CPU. There a layer that is
    /// cut out of a stack is a copy, and in products of single rows the cut becomes part of one slow loop.
    unrolls: bool,
    /// Into how many matrices kernels are cut then, at least, where rows are single. Each product of a vector runs on one
    /// thread; and only one with an argument of the program, no view of it, is none of a slow loop's many operations.
    pieces: usize,
    /// The parameters as the model has them; those that are floats may come in any float type.
    params: Vec<(String, Shape)>,
    programs: HashMap<(Part, Signature), Executable>,
    /// Batches so far, which get different random numbers.
    num_batches: u64,
}

/// What a program does of decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Whole,
    /// The first token, and what goes on from there.
    Start,
    /// Some more tokens.
    Continue,
}

/// What a program is compiled for; the size of images is the model's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    batch: usize,
    pub prompt_len: usize,
    param_dtypes: Vec<DType>,
}

impl Decoder {
    /// # Errors
    /// When prompts cannot be continued so, or the model's parameters have no consistent names.
    pub fn new(model: PaliGemmaConfig, config: DecodeConfig, device: &Device) -> Result<Self, Error> {
        config.check(model.llm.vocab_size)?;
        let specs = model.params()?;
        let params = specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
        Ok(Decoder {
            model,
            config,
            device: device.clone(),
            unrolls: device.client().platform_name() == "cpu" && device.client().makes_views(),
            pieces: pieces(),
            params,
            programs: HashMap::new(),
            num_batches: 0,
        })
    }

    pub fn model(&self) -> &PaliGemmaConfig {
        &self.model
    }

    pub fn config(&self) -> &DecodeConfig {
        &self.config
    }

    /// Begins again with the random numbers of a seed, whatever was drawn before.
    pub fn reseed(&mut self, seed: u64) {
        self.config.seed = seed;
        self.num_batches = 0;
    }

    /// Continues a batch of prompts and waits for the end. `params` are in the order of
    /// [`PaliGemmaConfig::params`], of any float types.
    ///
    /// # Errors
    /// Where a shape is not the model's; where the program does not compile or fails.
    pub fn decode(&mut self, params: &[&Buffer], prompts: &PromptBatch) -> Result<Continuations, Error> {
        let signature = self.signature(params, prompts)?;
        let inputs = self.upload(prompts)?;
        let results = self.run(Part::Whole, signature, params, inputs.iter().map(Arg::Keep))?;
        let [tokens, logp, num_steps] = download([&results[0], &results[1], &results[2]])?;
        let num_steps = num_steps.values::<i32>()?[0] as usize;
        Ok(Continuations { tokens, logp, num_steps, eos_token: self.config.eos_token })
    }

    /// The program that [`decode`](Self::decode) runs for these arguments, compiled if it was not yet.
    pub fn executable(&mut self, params: &[&Buffer], prompts: &PromptBatch) -> Result<&Executable, Error> {
        let signature = self.signature(params, prompts)?;
        self.program(Part::Whole, signature)
    }

    /// The arguments of a batch behind the parameters, with random numbers of its own.
    pub(super) fn upload(&mut self, prompts: &PromptBatch) -> Result<Vec<Buffer>, Error> {
        let PromptBatch { image, text, mask_input, mask_ar, mask } = prompts;
        let mut arrays = vec![image, text, mask_input, mask_ar, mask];
        let random_state;
        if self.config.method.draws() {
            let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
            rng.set_stream(self.num_batches);
            random_state = HostArray::new([2], &[rng.next_u64(), 0])?;
            arrays.push(&random_state);
        }
        self.num_batches += 1;
        let upload = |array: &HostArray| self.device.client().upload(array, &self.device);
        Ok(arrays.into_iter().map(upload).collect::<Result<_, _>>()?)
    }

    /// Runs a program with parameters and what follows them.
    pub(super) fn run<'a>(
        &mut self,
        part: Part,
        signature: Signature,
        params: &[&Buffer],
        rest: impl Iterator<Item = Arg<'a>>,
    ) -> Result<Vec<Buffer>, Error> {
        let program = self.describe(part, &signature);
        let stacks: Vec<(&Buffer, Parting)> =
            program.unstacked().map(|Unstacked { param, parting, .. }| (params[param], parting)).collect();
        let executable = self.program(part, signature)?;
        let results = Buffer::with_parts(&stacks, |parts| {
            let params = params.iter().map(|param| Arg::Keep(param));
            let mut args: Vec<Arg> = params.chain(parts.iter().map(Arg::Keep)).collect();
            rest.for_each(|arg| args.push(arg));
            executable.execute(args)
        });
        Ok(results??)
    }

    fn program(&mut self, part: Part, signature: Signature) -> Result<&Executable, Error> {
        let key = (part, signature);
        if !self.programs.contains_key(&key) {
            let program = self.describe(part, &key.1);
            let (function, emit) = match part {
                Part::Whole => (program.whole()?, EmitOptions::default()),
                Part::Start => (program.start()?, EmitOptions::default()),
                Part::Continue => program.continuation()?,
            };
            let options = CompileOptions::default();
            let executable = exec::compile(self.device.client(), &function, &emit, &options)?;
            self.programs.insert(key.clone(), executable);
        }
        Ok(&self.programs[&key])
    }

    fn describe<'a>(&'a self, part: Part, signature: &'a Signature) -> Program<'a> {
        Program {
            model: &self.model,
            config: &self.config,
            signature,
            params: &self.params,
            unrolls: self.unrolls && part != Part::Start,
            pieces: if signature.batch * self.config.method.rows_each() == 1 { self.pieces } else { 1 },
        }
    }

    pub(super) fn signature(&self, params: &[&Buffer], prompts: &PromptBatch) -> Result<Signature, Error> {
        if params.len() != self.params.len() {
            return Err(Error::ParamCount { expected: self.params.len(), got: params.len() });
        }
        for ((name, expected), buffer) in self.params.iter().zip(params) {
            let (got, dtype) = (buffer.shape(), expected.dtype());
            let is_of_type = if dtype.is_float() { got.dtype().is_float() } else { got.dtype() == dtype };
            if got.dims() != expected.dims() || !is_of_type {
                let (name, expected, got) = (name.clone(), expected.clone(), got.clone());
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

/// Twice as many as there are threads, so that all threads are busy to the end; few enough for programs to stay small.
fn pieces() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    (2 * threads).next_power_of_two().min(16)
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

/// Copies of buffers on the host.
pub(super) fn download<const N: usize>(buffers: [&Buffer; N]) -> Result<[HostArray; N], Error> {
    let downloads = buffers.map(Buffer::start_download);
    let arrays = downloads.into_iter().map(|download| download?.wait()).collect::<Result<Vec<_>, _>>()?;
    Ok(arrays.try_into().expect("there is one array for each buffer"))
}

/// What programs are built from.
pub(super) struct Program<'a> {
    pub model: &'a PaliGemmaConfig,
    pub config: &'a DecodeConfig,
    pub signature: &'a Signature,
    params: &'a [(String, Shape)],
    unrolls: bool,
    /// Into how many pieces kernels are cut.
    pieces: usize,
}

/// A parameter whose parts a program also takes one by one.
struct Unstacked {
    /// Its place among the parameters.
    param: usize,
    parting: Parting,
    count: usize,
    part: Shape,
}

impl Program<'_> {
    fn param_shapes(&self) -> impl Iterator<Item = (&String, Shape)> {
        let params = self.params.iter().zip(&self.signature.param_dtypes);
        params.map(|((name, shape), &dtype)| (name, Shape::new(dtype, shape.dims())))
    }

    /// None where weights take fewer bits than activations: what widens a layer's weights would run ahead of the loop, and
    /// all of them would be in memory at their full width.
    fn unstacked(&self) -> impl Iterator<Item = Unstacked> {
        let is_stack = |name: &str| PaliGemmaConfig::decoder_stack_axes(name).is_some();
        let width = self.model.llm.embed_dtype.num_bytes();
        let mut stacks = self.param_shapes().filter(|(name, _)| is_stack(name));
        let unrolls = self.unrolls && stacks.all(|(_, shape)| shape.dtype().num_bytes() >= width);
        let params = self.param_shapes().enumerate().filter(move |_| unrolls);
        params.filter_map(|(param, (name, shape))| {
            let parting = |pieces: usize| -> Option<Parting> {
                let axes = PaliGemmaConfig::decoder_stack_axes(name)?;
                let Some(kernel) = Kernel::find(name).filter(|_| self.pieces > 1) else {
                    return Some(Parting { axes, pieces: 1, rows: 0 });
                };
                let axes = 1 + kernel.num_counting_axes();
                let num_matrices: usize = shape.dims().get(1..axes)?.iter().product();
                Some(Parting { axes, pieces: (pieces / num_matrices).max(1), rows: kernel.num_inputs() })
            };
            [self.pieces, 1].into_iter().filter_map(parting).find_map(|parting| {
                let (count, part) = parting.parts_of(&shape)?;
                Some(Unstacked { param, parting, count, part })
            })
        })
    }

    /// The model's parameters as the first arguments of a program, and their parts behind them.
    pub fn params(&self, b: &Builder) -> graph::Result<Params> {
        let declare = |(name, shape): (&String, Shape)| Ok((name.clone(), b.parameter(name, shape)?));
        let params = Params::new(b, self.param_shapes().map(declare).collect::<graph::Result<Vec<_>>>()?);
        let layers = self.unstacked().map(|Unstacked { param, count, part, .. }| {
            let name = &self.params[param].0;
            let declare = |index| b.parameter(&format!("{name}/{index}"), part.clone());
            Ok((name.clone(), (0..count).map(declare).collect::<graph::Result<_>>()?))
        });
        Ok(params.with_layers(layers.collect::<graph::Result<Vec<_>>>()?))
    }

    /// How many arguments [`params`](Self::params) declares.
    pub fn num_params(&self) -> usize {
        self.params.len() + self.unstacked().map(|unstacked| unstacked.count).sum::<usize>()
    }

    /// The arguments behind them: [`Decoder::upload`].
    pub fn prompts(&self, b: &Builder) -> graph::Result<(PromptValues, Option<Value>)> {
        let shapes = PromptShapes::new(self.model, self.signature.batch, self.signature.prompt_len);
        let prompts = PromptValues {
            image: b.parameter("image", shapes.image)?,
            text: b.parameter("text", shapes.text.clone())?,
            mask_input: b.parameter("mask_input", shapes.text.clone())?,
            mask_ar: b.parameter("mask_ar", shapes.text)?,
            mask: b.parameter("_mask", shapes.mask)?,
        };
        let random = || b.parameter("random_state", Shape::new(DType::U64, [2]));
        Ok((prompts, self.config.method.draws().then(random).transpose()?))
    }

    /// `(parameters…, image, text, mask_input, mask_ar, _mask[, random_state]) -> (tokens, logp, num_steps)`.
    fn whole(&self) -> graph::Result<Function> {
        let b = Builder::new("decode");
        let params = self.params(&b)?;
        let (prompts, random) = self.prompts(&b)?;
        let decoded = decode(self.model, &params, &prompts, random.as_ref(), self.config, &mut Taps::none())?;
        b.finish(&[&decoded.tokens, &decoded.logp, &decoded.num_steps])
    }
}
