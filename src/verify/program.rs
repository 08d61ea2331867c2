//! Programs over a recording's parameters and batches.

use std::collections::HashMap;

use super::recording::Recording;
use super::sides::Side;
use super::{Error, Options};
use crate::array::{DType, HostArray, Shape};
use crate::exec;
use crate::graph::{self, Builder, Precision, Value};
use crate::model::{Examples, LossConfig, PaliGemmaConfig, TokenLoss};
use crate::nn::Params;
use crate::optim::Optimizer;
use crate::params::ParamSpecs;
use crate::runtime::{Client, CompileOptions, Executable};
use crate::train::{StepBatch, TrainState, TrainStep};

/// A recording on its way through a device.
pub(super) struct Session<'a> {
    client: &'a Client,
    options: &'a Options,
    pub recording: Recording,
    /// What `params.npz` holds, in the model's order.
    pub params: Vec<HostArray>,
}

impl<'a> Session<'a> {
    pub fn new(client: &'a Client, recording: Recording, options: &'a Options) -> Result<Self, Error> {
        let params = recording.params("params.npz")?;
        Ok(Session { client, options, recording, params })
    }

    /// Runs a program over parameters, which may have been rounded, and other arrays; see [`run`].
    pub fn run(
        &self,
        params: &[HostArray],
        inputs: &[(&str, &HostArray)],
        build: impl FnOnce(&Params, &[Value], &[Value]) -> graph::Result<Vec<Value>>,
    ) -> Result<Vec<HostArray>, Error> {
        run(self.client, &self.recording.specs, params, inputs, build)
    }

    /// As [`run`](Self::run), over a batch.
    pub fn run_batch(
        &self,
        params: &[HostArray],
        batch: &Batch,
        build: impl FnOnce(&Inputs) -> graph::Result<Vec<Value>>,
    ) -> Result<Vec<HostArray>, Error> {
        let names = ["image", "text", "mask_ar", "mask_loss"];
        let inputs: Vec<(&str, &HostArray)> = names.into_iter().zip(batch.arrays()).collect();
        self.run(params, &inputs, |model, params, inputs| {
            let [image, text, mask_ar, mask_loss] = inputs else {
                return Err(model
                    .builder()
                    .error(format!("expects a batch of 4 arrays, got {}", inputs.len())));
            };
            build(&Inputs {
                params: params.to_vec(),
                model: model.clone(),
                image: image.clone(),
                text: text.clone(),
                mask_ar: mask_ar.clone(),
                mask_loss: mask_loss.clone(),
            })
        })
    }

    /// Readies the trainer's step. `specs` has the types in which parameters are kept.
    pub fn trainer(
        &self,
        model: &PaliGemmaConfig,
        specs: &ParamSpecs,
        optimizer: &Optimizer,
        num_schedules: usize,
        label_smoothing: f64,
        batch: &Batch,
    ) -> Result<Trainer, Error> {
        let loss = self.loss_config(label_smoothing);
        let step = TrainStep::build(model, specs, optimizer, num_schedules, &loss, batch.size())?;
        let executable =
            exec::compile(self.client, &step.function, &step.emit_options(), &CompileOptions::default())?;
        let values = specs.iter().zip(&self.params).map(|(spec, value)| value.cast(spec.shape.dtype()));
        let device = &executable.devices()[0];
        let state = TrainState::new(device, specs, values.collect(), optimizer, |_| None)?;
        Ok(Trainer { step, executable, state })
    }

    fn loss_config(&self, label_smoothing: f64) -> LossConfig {
        LossConfig { label_smoothing, chunk_tokens: Some(self.options.chunk_tokens), ..Default::default() }
    }
}

/// Runs a program over the parameters of `specs` and other arrays. `build` gets the values of both, in their order.
pub(super) fn run(
    client: &Client,
    specs: &ParamSpecs,
    params: &[HostArray],
    inputs: &[(&str, &HostArray)],
    build: impl FnOnce(&Params, &[Value], &[Value]) -> graph::Result<Vec<Value>>,
) -> Result<Vec<HostArray>, Error> {
    let b = Builder::new("verify");
    // Recordings are of full f32 products, which are not every device's default.
    b.set_precision(Precision::Highest);
    let declare = |(name, array): (&str, &HostArray)| b.parameter(name, array.shape().clone());
    let values = specs.names().zip(params).map(declare).collect::<graph::Result<Vec<_>>>()?;
    let others = inputs.iter().copied().map(declare).collect::<graph::Result<Vec<_>>>()?;
    let by_name = Params::new(&b, specs.names().map(str::to_owned).zip(values.iter().cloned()));
    let outputs = build(&by_name, &values, &others)?;
    let function = b.finish(&outputs.iter().collect::<Vec<_>>())?;
    let arrays: Vec<&HostArray> = params.iter().chain(inputs.iter().map(|(_, array)| *array)).collect();
    Ok(exec::run_once(client, &function, &arrays)?)
}

/// The trainer's step, and what it carries.
pub(super) struct Trainer {
    step: TrainStep,
    executable: Executable,
    state: TrainState,
}

impl Trainer {
    /// Makes a step and returns what it measured, [`METRICS`](crate::train::METRICS) first.
    pub fn step(self, batch: &Batch, schedules: &HostArray) -> Result<(Self, HostArray), Error> {
        let Trainer { step, executable, state } = self;
        let (client, device) = (executable.client(), &executable.devices()[0]);
        let upload = |array: &HostArray| client.upload(array, device);
        let batch = batch.arrays().into_iter().map(upload).collect::<Result<_, _>>()?;
        let (state, metrics) = state.step(&step, &executable, batch, upload(schedules)?, None)?;
        Ok((Trainer { step, executable, state }, metrics.download()?))
    }

    /// The same, with the momentum of `sides` negated.
    pub fn with_other_sides(
        self,
        specs: &ParamSpecs,
        optimizer: &Optimizer,
        sides: &[Side],
    ) -> Result<Self, Error> {
        if sides.is_empty() {
            return Ok(self);
        }
        let mut arrays: HashMap<String, HostArray> = self.state.start_copy()?.wait()?.into_iter().collect();
        for side in sides {
            if let Some(momentum) = arrays.get_mut(&format!("opt/ema/{}", side.param)) {
                let mut values = momentum.to_f64();
                values[side.element] = -values[side.element];
                let negated = HostArray::new(momentum.dims(), &values)?;
                *momentum = negated.cast(momentum.dtype());
            }
        }
        let device = &self.executable.devices()[0];
        let saved = |name: &str| arrays.get(&format!("opt/{name}")).cloned().map(Ok);
        let state = TrainState::new(device, specs, self.params()?, optimizer, saved)?;
        Ok(Trainer { state, ..self })
    }

    /// All parameters as they are now, in the model's order.
    pub fn params(&self) -> Result<Vec<HostArray>, Error> {
        self.state.params().into_iter().map(|buffer| Ok(buffer.download()?)).collect()
    }
}

/// What a program computes from.
pub(super) struct Inputs {
    /// In the model's order.
    pub params: Vec<Value>,
    /// The same by name.
    pub model: Params,
    /// `[B, H, W, 3]`.
    pub image: Value,
    /// `s32 [B, T]`, as are the masks.
    pub text: Value,
    pub mask_ar: Value,
    pub mask_loss: Value,
}

impl Inputs {
    /// The trainer's loss of the batch.
    #[track_caller]
    pub fn loss(
        &self,
        session: &Session,
        config: &PaliGemmaConfig,
        label_smoothing: f64,
    ) -> graph::Result<TokenLoss> {
        let Inputs { model, image, text, mask_ar, mask_loss, .. } = self;
        let examples = Examples { image, text, mask_ar, mask_loss };
        config.loss(model, &examples, None, &session.loss_config(label_smoothing))
    }
}

/// A training batch.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    image: HostArray,
    text: HostArray,
    mask_ar: HostArray,
    mask_loss: HostArray,
}

impl Batch {
    /// The batch of a file.
    ///
    /// # Errors
    /// When its arrays are not a batch of the recording's model.
    pub fn read(recording: &Recording, file: &str) -> Result<Self, Error> {
        let batch = Batch::read_any(recording, file)?;
        batch.check(recording, file, 0)?;
        Ok(batch)
    }

    /// The batches of a file, in which they are stacked along a leading axis.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when there is none.
    pub fn read_stacked(recording: &Recording, file: &str) -> Result<Vec<Self>, Error> {
        let stacked = Batch::read_any(recording, file)?;
        let steps = stacked.check(recording, file, 1)?;
        let pick = |array: &HostArray, step: usize| {
            let shape = array.shape().with_dims(&array.dims()[1..]);
            let size = shape.num_bytes();
            HostArray::from_bytes(shape, &array.bytes()[step * size..(step + 1) * size])
        };
        let batch = |step| -> Result<Batch, Error> {
            Ok(Batch {
                image: pick(&stacked.image, step)?,
                text: pick(&stacked.text, step)?,
                mask_ar: pick(&stacked.mask_ar, step)?,
                mask_loss: pick(&stacked.mask_loss, step)?,
            })
        };
        (0..steps).map(batch).collect()
    }

    fn read_any(recording: &Recording, file: &str) -> Result<Self, Error> {
        let reader = recording.tensors(file)?;
        Ok(Batch {
            image: reader.read("image")?,
            text: reader.read("text")?,
            mask_ar: reader.read("mask_ar")?,
            mask_loss: reader.read("mask_loss")?,
        })
    }

    /// That shapes and types are those of a batch, below `leading` more axes; returns the extent of the first
    /// axis.
    fn check(&self, recording: &Recording, file: &str, leading: usize) -> Result<usize, Error> {
        let odd = |message: String| Error::Unsupported { path: recording.path(file), message };
        let text = self.text.shape();
        let is_text =
            text.dtype() == DType::S32 && text.rank() == leading + 2 && text.dims()[leading + 1] > 1;
        if !is_text || text.num_elements() == 0 {
            return Err(odd(format!(
                "text has the shape {text}, expected some s32 rows of 2 tokens or more"
            )));
        }
        let [height, width] = recording.config.image_size;
        let image = [&text.dims()[..=leading], &[height, width, 3]].concat();
        let image = Shape::new(DType::F32, image);
        recording.expect_shape(file, "image", &self.image, &image)?;
        recording.expect_shape(file, "mask_ar", &self.mask_ar, text)?;
        recording.expect_shape(file, "mask_loss", &self.mask_loss, text)?;
        Ok(text.dims()[0])
    }

    /// Examples, and tokens of each.
    pub fn size(&self) -> StepBatch {
        StepBatch { batch_size: self.text.dims()[0], text_len: self.text.dims()[1], micro_batches: 1 }
    }

    fn arrays(&self) -> [&HostArray; 4] {
        [&self.image, &self.text, &self.mask_ar, &self.mask_loss]
    }
}
