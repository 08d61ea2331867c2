use super::Error;
use super::step::{TrainStep, frozen_sum_squares};
use crate::array::{HostArray, Shape};
use crate::checkpoint;
use crate::exec::{self, compile};
use crate::hlo::EmitOptions;
use crate::optim::Optimizer;
use crate::params::ParamSpecs;
use crate::runtime::{Arg, Buffer, Client, CompileOptions, Device, Executable};

/// Everything that training carries from step to step, on the device.
#[derive(Debug)]
pub struct TrainState {
    names: Names,
    trained: Vec<Buffer>,
    optimizer: Vec<Buffer>,
    frozen: Vec<Buffer>,
    frozen_sum_squares: Buffer,
}

#[derive(Debug)]
struct Names {
    trained: Vec<String>,
    optimizer: Vec<String>,
    frozen: Vec<String>,
    /// Of every parameter, in the model's order.
    is_trained: Vec<bool>,
}

impl TrainState {
    /// Uploads parameters, in the order and types of `specs`. The optimizer's arrays are those
    /// that were `saved` under their names, and zeros elsewhere.
    pub fn new(
        device: &Device,
        specs: &ParamSpecs,
        values: Vec<HostArray>,
        optimizer: &Optimizer,
        saved: impl Fn(&str) -> Option<Result<HostArray, checkpoint::Error>>,
    ) -> Result<Self, Error> {
        let client = device.client();
        let is_trained = |name: &str| optimizer.trained().iter().any(|trained| trained.name == name);
        let (mut trained, mut frozen) = (Vec::new(), Vec::new());
        let is_trained = specs.iter().map(|spec| is_trained(&spec.name)).collect();
        let mut names = Names { trained: vec![], optimizer: vec![], frozen: vec![], is_trained };
        for (i, (spec, value)) in specs.iter().zip(values).enumerate() {
            let (names, buffers) = match names.is_trained[i] {
                true => (&mut names.trained, &mut trained),
                false => (&mut names.frozen, &mut frozen),
            };
            names.push(spec.name.clone());
            buffers.push(client.upload_owned(value, device)?);
        }
        let mut moments = Vec::new();
        for array in optimizer.state() {
            let value = match saved(&array.name) {
                // The type of moments is a setting that may have changed.
                Some(value) => value.map(|value| match value.dtype() == array.shape.dtype() {
                    true => value,
                    false => value.cast(array.shape.dtype()),
                })?,
                None => HostArray::zeros(array.shape),
            };
            moments.push(client.upload_owned(value, device)?);
            names.optimizer.push(array.name);
        }
        let frozen_sum_squares = sum_of(client, &frozen)?;
        Ok(TrainState { names, trained, optimizer: moments, frozen, frozen_sum_squares })
    }

    /// Starts a step, which takes this state over and gives the next one and the step's metrics. The host
    /// does not wait. `batch` are image, text, mask_ar and mask_loss.
    pub fn step(
        self,
        step: &TrainStep,
        executable: &Executable,
        batch: Vec<Buffer>,
        schedules: Buffer,
        dropout: Option<Buffer>,
    ) -> Result<(Self, Buffer), exec::Error> {
        let TrainState { names, trained, optimizer, frozen, frozen_sum_squares } = self;
        let mut args: Vec<Arg> = trained.into_iter().chain(optimizer).map(Arg::Donate).collect();
        args.extend(frozen.iter().map(Arg::Keep));
        args.extend(batch.into_iter().chain([schedules]).map(Arg::Donate));
        args.push(Arg::Keep(&frozen_sum_squares));
        args.extend(dropout.map(Arg::Donate));
        let mut results = executable.execute(args)?;
        let metrics = results.pop().ok_or(exec::Error::NoResult)?;
        let optimizer = results.split_off(step.num_trained);
        Ok((TrainState { names, trained: results, optimizer, frozen, frozen_sum_squares }, metrics))
    }

    /// All parameters in the model's order, lent for an evaluation.
    pub fn params(&self) -> Vec<&Buffer> {
        let (mut trained, mut frozen) = (self.trained.iter(), self.frozen.iter());
        let next = |&is_trained: &bool| if is_trained { trained.next() } else { frozen.next() };
        self.names.is_trained.iter().filter_map(next).collect()
    }

    /// Copies what training changes to the host, under `params/` and `opt/`; waits for the device.
    pub fn changing(&self) -> Result<Vec<(String, HostArray)>, exec::Error> {
        let params = self.names.trained.iter().map(|name| format!("params/{name}")).zip(&self.trained);
        let moments = self.names.optimizer.iter().map(|name| format!("opt/{name}")).zip(&self.optimizer);
        download(params.chain(moments))
    }

    /// Copies the frozen parameters to the host, under `params/`.
    pub fn frozen(&self) -> Result<Vec<(String, HostArray)>, exec::Error> {
        download(self.names.frozen.iter().map(|name| format!("params/{name}")).zip(&self.frozen))
    }
}

/// Starts all copies before it waits for the first.
fn download<'a>(
    buffers: impl Iterator<Item = (String, &'a Buffer)>,
) -> Result<Vec<(String, HostArray)>, exec::Error> {
    let started = buffers
        .map(|(name, buffer)| Ok((name, buffer.start_download()?)))
        .collect::<Result<Vec<_>, exec::Error>>()?;
    started.into_iter().map(|(name, download)| Ok((name, download.wait()?))).collect()
}

fn sum_of(client: &Client, buffers: &[Buffer]) -> Result<Buffer, exec::Error> {
    let shapes: Vec<Shape> = buffers.iter().map(|buffer| buffer.shape().clone()).collect();
    let function = frozen_sum_squares(&shapes)?;
    let executable = compile(client, &function, &EmitOptions::default(), &CompileOptions::default())?;
    let mut results = executable.execute(buffers.iter().map(Arg::Keep).collect())?;
    results.pop().ok_or(exec::Error::NoResult)
}
