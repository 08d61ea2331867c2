//! Losses of one batch, and their gradients.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::program::{Batch, Session};
use super::recording::expect_names;
use super::tolerance::{EXACT, GRADS, LOSS, MEAN_LENGTH, ZERO_GRADIENT, has_zero_gradient};
use super::{Error, Row};
use crate::array::HostArray;
use crate::autodiff::gradient;

pub(super) const LOSS_FILE: &str = "loss.json";
pub(super) const GRADS_FILE: &str = "grads.safetensors";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedLoss {
    loss: f64,
    per_example: Option<Vec<f64>>,
    avg_sup_seqlen: Option<f64>,
    max_sup_seqlen: Option<f64>,
}

/// How a recorded loss came about, told by its name.
struct Variant {
    label_smoothing: f64,
    params: &'static str,
}

impl Variant {
    fn parse(name: &str) -> Option<Self> {
        let (label_smoothing, params) = match name {
            "notebook" => (0.0, "params.npz"),
            "notebook_params_bf16_as_f32" => (0.0, "params.bf16.npz"),
            "notebook_params_f16_as_f32" => (0.0, "params.f16.npz"),
            _ => (name.strip_prefix("train_label_smoothing_")?.parse().ok()?, "params.npz"),
        };
        Some(Variant { label_smoothing, params })
    }
}

pub(super) fn losses(session: &Session) -> Result<Vec<Row>, Error> {
    let recording = &session.recording;
    let recorded: BTreeMap<String, RecordedLoss> = recording.json(LOSS_FILE)?;
    let batch = Batch::read(recording, "batch.safetensors")?;
    let mut rows = Vec::new();
    for (name, recorded) in &recorded {
        let variant = Variant::parse(name).ok_or_else(|| Error::Unsupported {
            path: recording.path(LOSS_FILE),
            message: format!(
                "unknown loss \"{name}\", known are: notebook, train_label_smoothing_NUMBER, \
                notebook_params_bf16_as_f32, notebook_params_f16_as_f32"
            ),
        })?;
        let params = recording.params(variant.params)?;
        let got = session.run_batch(&params, &batch, |inputs| {
            let loss = inputs.loss(session, &recording.config, variant.label_smoothing)?;
            Ok(vec![loss.loss, loss.per_example, loss.avg_sup_seqlen, loss.max_sup_seqlen])
        })?;
        let number = |i: usize| got[i].to_f64()[0];
        rows.push(Row::number(format!("{name}.loss"), number(0), recorded.loss, LOSS));
        if let Some(per_example) = &recorded.per_example {
            // Recorded from an evaluation in f64.
            let recorded = HostArray::new([per_example.len()], per_example)?;
            let got = got[1].cast(recorded.dtype());
            rows.push(Row::tensor(format!("{name}.per_example"), &got, &recorded, LOSS)?);
        }
        let lengths =
            [("avg", recorded.avg_sup_seqlen, MEAN_LENGTH), ("max", recorded.max_sup_seqlen, EXACT)];
        for (i, (kind, recorded, tolerance)) in lengths.into_iter().enumerate() {
            if let Some(recorded) = recorded {
                rows.push(Row::number(
                    format!("{name}.{kind}_sup_seqlen"),
                    number(2 + i),
                    recorded,
                    tolerance,
                ));
            }
        }
    }
    Ok(rows)
}

pub(super) fn gradients(session: &Session) -> Result<Vec<Row>, Error> {
    let recording = &session.recording;
    let batch = Batch::read(recording, "batch.safetensors")?;
    let recorded = recording.tensors(GRADS_FILE)?;
    expect_names(recorded.as_ref(), recording.specs.names())?;
    let gradients = session.run_batch(&session.params, &batch, |inputs| {
        gradient(&inputs.loss(session, &recording.config, 0.0)?.loss, &inputs.params)
    })?;
    let row = |(name, got): (&str, &HostArray)| match has_zero_gradient(name) {
        true => Row::tensor(name, got, &HostArray::zeros(got.shape().clone()), ZERO_GRADIENT),
        false => Row::tensor(name, got, &recorded.read(name)?, GRADS),
    };
    recording.specs.names().zip(&gradients).map(row).collect()
}
