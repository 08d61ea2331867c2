//! One training step as one program: loss, gradients and the optimizer's update
//! (`update_fn` of `trainers/proj/paligemma/train.py`).

use crate::array::{DType, Shape};
use crate::autodiff::gradient;
use crate::graph::{self, Builder, Function, Value};
use crate::hlo::{Alias, EmitOptions};
use crate::model::{Examples, LossConfig, PaliGemmaConfig};
use crate::nn::Params;
use crate::optim::{Optimizer, sum_squares};
use crate::params::ParamSpecs;

/// What a step measures, in the order of its last result, `f32 [6]`.
pub const METRICS: [&str; 6] =
    ["training_loss", "avg_sup_seqlen", "max_sup_seqlen", "l2_grads", "l2_params", "l2_updates"];

/// Extents of the arrays of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBatch {
    pub batch_size: usize,
    /// Tokens per row, of which the model sees all but the last.
    pub text_len: usize,
}

/// The arguments of a step after parameters and state, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepInputs {
    Image,
    Text,
    MaskAr,
    MaskLoss,
    /// Values of the schedules at this step, `f32 [schedules]`.
    Schedules,
    /// Sum of the squares of the frozen parameters, `f32[]`.
    FrozenSumSquares,
    /// Generator state for dropout, `u64[2]`; the last argument, where the model has dropout.
    Dropout,
}

/// The program of a step. Its arguments are the trained parameters, the optimizer's state, the frozen
/// parameters and [`StepInputs`]; its results the new trained parameters, the new state and [`METRICS`].
#[derive(Debug, Clone)]
pub struct TrainStep {
    pub function: Function,
    pub num_trained: usize,
    pub num_state: usize,
    pub num_frozen: usize,
    pub has_dropout: bool,
}

impl TrainStep {
    /// Builds, differentiates and updates. `specs` holds all parameters in the types they are kept in.
    pub fn build(
        model: &PaliGemmaConfig,
        specs: &ParamSpecs,
        optimizer: &Optimizer,
        num_schedules: usize,
        loss: &LossConfig,
        batch: StepBatch,
    ) -> graph::Result<Self> {
        let b = Builder::new("train_step");
        let is_trained = |name: &str| optimizer.trained().iter().any(|trained| trained.name == name);
        let declare = |wanted: bool| -> graph::Result<Vec<(String, Value)>> {
            let chosen = specs.iter().filter(|spec| is_trained(&spec.name) == wanted);
            chosen.map(|spec| Ok((spec.name.clone(), b.parameter(&spec.name, spec.shape.clone())?))).collect()
        };
        let trained = declare(true)?;
        let state = optimizer
            .state()
            .iter()
            .map(|state| b.parameter(&format!("opt/{}", state.name), state.shape.clone()))
            .collect::<graph::Result<Vec<_>>>()?;
        let frozen = declare(false)?;

        let [height, width] = model.image_size;
        let tokens = Shape::new(DType::S32, [batch.batch_size, batch.text_len]);
        let image = b.parameter("image", Shape::new(DType::F32, [batch.batch_size, height, width, 3]))?;
        let text = b.parameter("text", tokens.clone())?;
        let mask_ar = b.parameter("mask_ar", tokens.clone())?;
        let mask_loss = b.parameter("mask_loss", tokens)?;
        let schedules = b.parameter("schedules", Shape::new(DType::F32, [num_schedules]))?;
        let frozen_sum_squares = b.parameter("frozen_sum_squares", Shape::scalar(DType::F32))?;
        let has_dropout = model.has_dropout();
        let dropout =
            if has_dropout { Some(b.parameter("dropout", Shape::new(DType::U64, [2]))?) } else { None };

        let examples = Examples { image: &image, text: &text, mask_ar: &mask_ar, mask_loss: &mask_loss };
        let params = Params::new(&b, trained.iter().chain(&frozen).cloned());
        let loss = model.loss(&params, &examples, dropout.as_ref(), loss)?;
        let values: Vec<Value> = trained.iter().map(|(_, value)| value.clone()).collect();
        let gradients = gradient(&loss.loss, &values)?;
        let update = optimizer.update(&values, &gradients, &state, &schedules)?;

        let l2_params = update.sum_squares_params.add(&frozen_sum_squares)?.sqrt()?;
        let metrics = Value::stack(
            &[
                &loss.loss,
                &loss.avg_sup_seqlen,
                &loss.max_sup_seqlen,
                &update.l2_grads,
                &l2_params,
                &update.l2_updates,
            ],
            0,
        )?;
        let outputs: Vec<&Value> =
            update.params.iter().chain(&update.state).chain(std::iter::once(&metrics)).collect();
        Ok(TrainStep {
            function: b.finish(&outputs)?,
            num_trained: trained.len(),
            num_state: state.len(),
            num_frozen: frozen.len(),
            has_dropout,
        })
    }

    /// Parameters and optimizer state are updated in place.
    pub fn emit_options(&self) -> EmitOptions {
        let in_place = self.num_trained + self.num_state;
        EmitOptions {
            aliases: (0..in_place).map(|i| Alias { parameter: i, output: i }).collect(),
            ..EmitOptions::default()
        }
    }
}

/// A program that adds up the squares of all frozen parameters, which no step changes; codes of few bits, which are no
/// numbers of their own, do not count.
pub(super) fn frozen_sum_squares(shapes: &[Shape]) -> graph::Result<Function> {
    let b = Builder::new("frozen_sum_squares");
    let values = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| b.parameter(&format!("param{i}"), shape.clone()))
        .collect::<graph::Result<Vec<_>>>()?;
    let floats: Vec<Value> = values.into_iter().filter(|value| value.dtype().is_float()).collect();
    b.finish(&[&sum_squares(&b, &floats)?])
}
