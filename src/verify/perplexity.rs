//! Recordings of the loss of tokens under given logits, as the perplexity evaluator and the trainer sum it up.

use std::path::Path;

use serde::Deserialize;

use super::program::run;
use super::recording::read_json;
use super::tolerance::LOSS;
use super::{Error, Row};
use crate::array::HostArray;
use crate::checkpoint;
use crate::model::LossConfig;
use crate::params::ParamSpecs;
use crate::runtime::Client;

pub(super) const FILE: &str = "perplexity.json";
const TENSORS_FILE: &str = "perplexity.safetensors";

#[derive(Debug, Deserialize)]
struct Recorded {
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    /// The tensor of logits, `f32 [B, T, V]`.
    logits: String,
    labels: Vec<Vec<i32>>,
    /// Whether logits at a position are for the label behind it.
    shift_labels: bool,
    mask_loss: Option<Vec<Vec<i32>>>,
    /// Labels that do not count.
    pad_token: Option<i32>,
    out: Out,
    xent: Vec<Xent>,
}

/// Of the evaluator.
#[derive(Debug, Deserialize)]
struct Out {
    sum: Vec<f32>,
    avg: Vec<f32>,
}

/// Of the trainer's loss, where all labels count that the mask names.
#[derive(Debug, Deserialize)]
struct Xent {
    label_smoothing: f64,
    normalize: bool,
    per_example: Vec<f32>,
    mean: f64,
}

pub(super) fn perplexity(client: &Client, dir: &Path) -> Result<Vec<Row>, Error> {
    let path = dir.join(FILE);
    let recorded: Recorded = read_json(&path)?;
    let tensors = checkpoint::open(dir.join(TENSORS_FILE))?;
    let mut rows = Vec::new();
    for case in &recorded.cases {
        let logits = tensors.read(&case.logits)?;
        let &[batch, length, vocab] = logits.dims() else {
            let message = format!("{} has the shape {}, expected three extents", case.logits, logits.shape());
            return Err(Error::Unsupported { path, message });
        };
        let first = usize::from(case.shift_labels);
        let targets: Vec<i32> = case.labels.iter().flat_map(|row| row.iter().skip(first)).copied().collect();
        let mask: Vec<f32> = match &case.mask_loss {
            Some(mask) => mask.iter().flat_map(|row| row.iter().skip(first)).map(|&on| on as f32).collect(),
            None => vec![1.0; targets.len()],
        };
        let is_padding = |label: &i32| case.pad_token == Some(*label);
        let without_padding: Vec<f32> =
            mask.iter().zip(&targets).map(|(on, label)| if is_padding(label) { 0.0 } else { *on }).collect();
        let loss = |mask: &[f32], label_smoothing: f64| -> Result<(HostArray, HostArray), Error> {
            let config = LossConfig { label_smoothing, ..LossConfig::default() };
            // Activations that are the logits, under a table that leaves them as they are.
            let identity: Vec<f32> =
                (0..vocab * vocab).map(|at| f32::from(u8::from(at % (vocab + 1) == 0))).collect();
            let inputs = [
                ("logits", &logits),
                ("table", &HostArray::new([vocab, vocab], &identity)?),
                ("targets", &HostArray::new([batch, length], &targets)?),
                ("mask", &HostArray::new([batch, length], mask)?),
            ];
            let outputs = run(client, &ParamSpecs::default(), &[], &inputs, |_, _, inputs| {
                let loss = config.build(&inputs[0], &inputs[1], &inputs[2], &inputs[3])?;
                let sum = loss.per_example.mul(&inputs[3].reduce_sum(&[1])?)?;
                Ok(vec![sum, loss.per_example])
            })?;
            match <[HostArray; 2]>::try_from(outputs) {
                Ok([sum, average]) => Ok((sum, average)),
                Err(_) => Err(crate::exec::Error::NoResult.into()),
            }
        };
        let compare = |name: String, got: &HostArray, expected: &[f32]| -> Result<Row, Error> {
            Row::tensor(name, got, &HostArray::new([expected.len()], expected)?, LOSS)
        };
        let (sum, average) = loss(&without_padding, 0.0)?;
        rows.push(compare(format!("{} sum", case.logits), &sum, &case.out.sum)?);
        rows.push(compare(format!("{} avg", case.logits), &average, &case.out.avg)?);
        for xent in &case.xent {
            let (sum, average) = loss(&mask, xent.label_smoothing)?;
            let got = if xent.normalize { average } else { sum };
            let name = format!(
                "{} xent {} {}",
                case.logits,
                xent.label_smoothing,
                if xent.normalize { "avg" } else { "sum" }
            );
            rows.push(compare(name.clone(), &got, &xent.per_example)?);
            let mean = got.to_f64().iter().sum::<f64>() / batch as f64;
            rows.push(Row::number(format!("{name} mean"), mean, xent.mean, LOSS));
        }
    }
    Ok(rows)
}
