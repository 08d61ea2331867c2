//! What becomes of gradients: clipping, moments, learning rates, weight decay, and the schedules that
//! scale them.
//!
//! The chain and its names are those of `big_vision/optax.py`. Parameters are spoken of by ordered lists
//! of patterns, of which the first that matches a name counts; a parameter without a schedule is frozen.
//! Schedules are evaluated on the host ([`schedule`]) and reach the step as numbers.

mod adafactor;
mod chain;
pub mod schedule;
mod transform;

pub use adafactor::Adafactor;
pub use chain::{Optimizer, OptimizerConfig, Trained, Update, sum_squares};
pub use transform::{Transform, TransformState};
