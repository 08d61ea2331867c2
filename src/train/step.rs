//! One training step as one program: loss, gradients and the optimizer's update
//! (`update_fn` of `trainers/proj/paligemma/train.py`).

use crate::array::{DType, Shape};
use crate::autodiff::gradient;
use crate::graph::{self, Builder, Function, ScanOptions, Value};
use crate::hlo::{Alias, EmitOptions};
use crate::model::{Examples, LossConfig, PaliGemmaConfig, Reduction, TokenLoss};
use crate::nn::Params;
use crate::optim::{Optimizer, sum_squares};
use crate::params::ParamSpecs;

/// What a step measures, in the order of its last result, `f32 [6 + 2 * trained]`. Behind these, it holds the sum of
/// squares of each trained parameter's gradient, and of its new value: where a number went wrong, they tell whose.
pub const METRICS: [&str; 6] =
    ["training_loss", "avg_sup_seqlen", "max_sup_seqlen", "l2_grads", "l2_params", "l2_updates"];

/// Extents of the arrays of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBatch {
    pub batch_size: usize,
    /// Tokens per row, of which the model sees all but the last.
    pub text_len: usize,
    /// Equal parts that the batch is cut into, of whose gradients the mean is the batch's.
    pub micro_batches: usize,
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
    /// Generator state for dropout, `u64[2]`, or one for each of several micro-batches, `u64 [micro_batches, 2]`; the
    /// last argument, where the model has dropout.
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
    pub micro_batches: usize,
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
        let dropout = match (has_dropout, batch.micro_batches) {
            (false, _) => None,
            (true, 1) => Some(b.parameter("dropout", Shape::new(DType::U64, [2]))?),
            (true, parts) => Some(b.parameter("dropout", Shape::new(DType::U64, [parts, 2]))?),
        };

        let values: Vec<Value> = trained.iter().map(|(_, value)| value.clone()).collect();
        let examples = Examples { image: &image, text: &text, mask_ar: &mask_ar, mask_loss: &mask_loss };
        let inner = Differentiated { model, loss, named: trained.iter().chain(&frozen).cloned().collect() };
        let measured = match batch.micro_batches {
            1 => inner.whole(&b, trained.len(), &examples, dropout.as_ref())?,
            parts => inner.in_parts(&b, trained.len(), &examples, dropout.as_ref(), parts)?,
        };
        let update = optimizer.update(&values, &measured.gradients, &state, &schedules)?;

        let l2_params = update.sum_squares_params.add(&frozen_sum_squares)?.sqrt()?;
        let mut metrics = vec![
            &measured.loss,
            &measured.avg_sup_seqlen,
            &measured.max_sup_seqlen,
            &update.l2_grads,
            &l2_params,
            &update.l2_updates,
        ];
        metrics.extend(update.squares_grads.iter().chain(&update.squares_params));
        let metrics = Value::stack(&metrics, 0)?;
        let outputs: Vec<&Value> =
            update.params.iter().chain(&update.state).chain(std::iter::once(&metrics)).collect();
        Ok(TrainStep {
            function: b.finish(&outputs)?,
            num_trained: trained.len(),
            num_state: state.len(),
            num_frozen: frozen.len(),
            has_dropout,
            micro_batches: batch.micro_batches,
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

/// A model's loss over the parameters of a step.
struct Differentiated<'a> {
    model: &'a PaliGemmaConfig,
    loss: &'a LossConfig,
    /// All parameters, those that are trained first.
    named: Vec<(String, Value)>,
}

/// What the examples of a step say.
struct Measured {
    loss: Value,
    avg_sup_seqlen: Value,
    max_sup_seqlen: Value,
    /// Of the loss, by the trained parameters.
    gradients: Vec<Value>,
}

impl Differentiated<'_> {
    /// All examples at once.
    fn whole(
        &self,
        b: &Builder,
        num_trained: usize,
        examples: &Examples<'_>,
        dropout: Option<&Value>,
    ) -> graph::Result<Measured> {
        let params = Params::new(b, self.named.iter().cloned());
        let TokenLoss { loss, avg_sup_seqlen, max_sup_seqlen, .. } =
            self.model.loss(&params, examples, dropout, self.loss)?;
        let values: Vec<Value> = self.named[..num_trained].iter().map(|(_, value)| value.clone()).collect();
        let gradients = gradient(&loss, &values)?;
        Ok(Measured { loss, avg_sup_seqlen, max_sup_seqlen, gradients })
    }

    /// As [`whole`](Self::whole), for equal parts of the examples one after the other: the activations of one part are
    /// in memory at a time, and a sum of gradients besides. `dropout` has a state for each part, `u64 [parts, 2]`.
    fn in_parts(
        &self,
        b: &Builder,
        num_trained: usize,
        examples: &Examples<'_>,
        dropout: Option<&Value>,
        parts: usize,
    ) -> graph::Result<Measured> {
        let &Examples { image, text, mask_ar, mask_loss } = examples;
        let (rows, length) = (text.dims()[0], text.dims()[1]);
        let cut = |x: &Value| x.reshape(&[&[parts, rows / parts], &x.dims()[1..]].concat());
        let mut xs =
            [image, text, mask_ar, mask_loss].into_iter().map(cut).collect::<graph::Result<Vec<_>>>()?;
        xs.extend(dropout.cloned());
        let targets = mask_loss.slice_in_dim(1, 1, length)?.convert(DType::F32)?;
        let num_targets = targets.sum_all()?.max_scalar(1.0)?;

        let zero = b.scalar(DType::F32, 0.0)?;
        let mut init = vec![zero.clone(), zero.clone(), zero];
        for (_, value) in &self.named[..num_trained] {
            init.push(b.zeros(value.shape())?);
        }
        let (sums, _) = b.scan(parts, &init, &xs, ScanOptions::default(), |b, sums, xs| {
            // A gradient is taken within one program, so the parameters become arguments of the loop's body.
            let own = |(name, value): &(String, Value)| Ok((name.clone(), b.own(value)?));
            let named = self.named.iter().map(own).collect::<graph::Result<Vec<_>>>()?;
            let params = Params::new(b, named.iter().cloned());
            let examples = Examples { image: &xs[0], text: &xs[1], mask_ar: &xs[2], mask_loss: &xs[3] };
            let loss = self.model.loss(&params, &examples, xs.get(4), self.loss)?;
            let avg_sup_seqlen = loss.avg_sup_seqlen.div_scalar(parts as f64)?;
            // What the loss of this part adds to that of all.
            let share = match self.loss.reduction {
                Reduction::Example => loss.loss.div_scalar(parts as f64)?,
                Reduction::Token => {
                    let targets = loss.avg_sup_seqlen.mul_scalar((rows / parts) as f64)?.max_scalar(1.0)?;
                    loss.loss.mul(&targets.div(&num_targets)?)?
                }
            };
            let values: Vec<Value> = named[..num_trained].iter().map(|(_, value)| value.clone()).collect();
            let gradients = gradient(&share, &values)?;
            let mut next =
                vec![sums[0].add(&share)?, sums[1].add(&avg_sup_seqlen)?, sums[2].max(&loss.max_sup_seqlen)?];
            for (sum, gradient) in sums[3..].iter().zip(&gradients) {
                next.push(sum.add(gradient)?);
            }
            Ok((next, vec![]))
        })?;
        let [loss, avg_sup_seqlen, max_sup_seqlen] = [0, 1, 2].map(|i| sums[i].clone());
        Ok(Measured { loss, avg_sup_seqlen, max_sup_seqlen, gradients: sums[3..].to_vec() })
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
