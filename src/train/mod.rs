//! Training: the step as one program, the state that it carries on the device, and the loop around it.

mod state;
mod step;

pub use state::TrainState;
pub use step::{METRICS, StepBatch, StepInputs, TrainStep};
