//! The sides that a recording took where rounding decides.
//!
//! Adafactor's first update of an element that is not factored is the sign of its gradient, however small that is.
//! A gradient that is all rounding noise has either sign, in two compilations of one program: the parameter then
//! takes another way, and the losses with it. Such elements are found by their gradient, and the run is replayed
//! with the sign that the recording had.

use super::Error;
use super::compare::Row;
use super::program::{Batch, Session};
use super::tolerance::{NOISE_OF_MAX, Tolerance};
use crate::array::HostArray;
use crate::autodiff::gradient;
use crate::checkpoint::Reader;

/// An element that went the other way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Side {
    pub param: String,
    pub element: usize,
    /// Its first gradient, in units of the parameter's largest one.
    of_max: f64,
}

impl Side {
    /// The row that shows how small the gradient was.
    pub fn row(&self, run: &str) -> Result<Row, Error> {
        let got = HostArray::scalar(self.of_max);
        let name = format!("{run}.{}[{}].first_gradient", self.param, self.element);
        Row::tensor(name, &got, &HostArray::scalar(0.0f64), Tolerance::bound(NOISE_OF_MAX))
    }
}

/// The elements of `got` that ended elsewhere than in the recording, by more than `distance`, after a first gradient
/// that was noise.
pub(super) fn other_sides(
    session: &Session,
    label_smoothing: f64,
    first: &Batch,
    got: &[HostArray],
    recorded: &dyn Reader,
    distance: f64,
) -> Result<Vec<Side>, Error> {
    let recording = &session.recording;
    let gradients = session.run_batch(&session.params, first, |inputs| {
        gradient(&inputs.loss(session, &recording.config, label_smoothing)?.loss, &inputs.params)
    })?;
    let mut sides = Vec::new();
    for ((name, gradient), got) in recording.specs.names().zip(&gradients).zip(got) {
        if recorded.find(name).is_none() {
            continue;
        }
        let (gradient, got, recorded) = (gradient.to_f64(), got.to_f64(), recorded.read(name)?.to_f64());
        let largest = gradient.iter().fold(0.0f64, |max, value| max.max(value.abs()));
        for (element, (got, recorded)) in got.iter().zip(&recorded).enumerate() {
            let of_max = gradient[element].abs() / largest;
            if (got - recorded).abs() > distance && of_max <= NOISE_OF_MAX {
                sides.push(Side { param: name.to_owned(), element, of_max });
            }
        }
    }
    Ok(sides)
}
