use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;

use super::Error;
use super::step::{TrainStep, frozen_sum_squares};
use crate::array::{HostArray, Shape};
use crate::checkpoint::{self, Reader};
use crate::exec::{self, compile};
use crate::hlo::EmitOptions;
use crate::optim::Optimizer;
use crate::params::ParamSpecs;
use crate::runtime::{Arg, Buffer, Client, CompileOptions, Device, Download, Executable};

/// Everything that training carries from step to step, on the device.
#[derive(Debug)]
pub struct TrainState {
    names: Names,
    trained: Vec<Buffer>,
    optimizer: Vec<Buffer>,
    /// Shared with whoever saves them, at his own pace: no step changes them.
    frozen: Arc<Vec<Buffer>>,
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
        Ok(TrainState { names, trained, optimizer: moments, frozen: Arc::new(frozen), frozen_sum_squares })
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

    /// Starts to copy what training changes to the host, under `params/` and `opt/`, and waits for nothing.
    ///
    /// The next step may be started at once. It takes these buffers over, but writes to their memory only
    /// when the copies that were started before it are done: the plugin counts a copy among the uses that a
    /// donated buffer must have behind it.
    pub fn start_copy(&self) -> Result<StateCopy, exec::Error> {
        let params = self.names.trained.iter().map(|name| format!("params/{name}")).zip(&self.trained);
        let moments = self.names.optimizer.iter().map(|name| format!("opt/{name}")).zip(&self.optimizer);
        let start = |(name, buffer): (String, &Buffer)| Ok((name, buffer.start_download()?));
        Ok(StateCopy(params.chain(moments).map(start).collect::<Result<_, exec::Error>>()?))
    }

    /// The frozen parameters, under `params/`, copied from the device as they are asked for.
    pub fn frozen(&self) -> FrozenOnDevice {
        let names = self.names.frozen.iter().map(|name| format!("params/{name}"));
        let index = names.enumerate().map(|(i, name)| (name, i)).collect();
        FrozenOnDevice { index, buffers: Arc::clone(&self.frozen) }
    }
}

/// Copies of a state's changing part that are under way.
pub struct StateCopy(Vec<(String, Download)>);

impl StateCopy {
    /// Waits for all of them; on any thread.
    ///
    /// # Errors
    /// The error of the step that was to give the state, or of a copy.
    pub fn wait(self) -> Result<Vec<(String, HostArray)>, exec::Error> {
        self.0.into_iter().map(|(name, download)| Ok((name, download.wait()?))).collect()
    }
}

/// Parameters that no step changes, where they are.
pub struct FrozenOnDevice {
    index: IndexMap<String, usize>,
    buffers: Arc<Vec<Buffer>>,
}

impl Reader for FrozenOnDevice {
    fn path(&self) -> &Path {
        Path::new("the device's memory")
    }

    fn names(&self) -> Vec<&str> {
        self.index.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.index.get(name).map(|&i| self.buffers[i].shape())
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), checkpoint::Error> {
        let array = self.read(name)?;
        if out.len() != array.bytes().len() {
            let (name, shape) = (name.to_owned(), array.shape().clone());
            return Err(checkpoint::Error::WrongSize { name, shape, got: out.len() });
        }
        out.copy_from_slice(array.bytes());
        Ok(())
    }

    fn read(&self, name: &str) -> Result<HostArray, checkpoint::Error> {
        self.shape(name)?;
        let buffer = &self.buffers[self.index[name]];
        buffer.download().map_err(|error| checkpoint::Error::State(error.into()))
    }
}

fn sum_of(client: &Client, buffers: &[Buffer]) -> Result<Buffer, exec::Error> {
    let shapes: Vec<Shape> = buffers.iter().map(|buffer| buffer.shape().clone()).collect();
    let function = frozen_sum_squares(&shapes)?;
    let executable = compile(client, &function, &EmitOptions::default(), &CompileOptions::default())?;
    let mut results = executable.execute(buffers.iter().map(Arg::Keep).collect())?;
    results.pop().ok_or(exec::Error::NoResult)
}
