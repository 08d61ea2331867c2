//! Numbers that are none end a run, and leave what is needed to find out why.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use super::{Error, METRICS};
use crate::checkpoint::safetensors;
use crate::data::Loader;
use crate::optim::Trained;

/// A step whose numbers are not finite.
#[derive(Debug)]
pub struct NotFinite {
    pub step: u64,
    /// The first of the step's measurements that is not: the loss comes before gradients, parameters and updates.
    pub metric: &'static str,
    pub value: f64,
    /// In the model's order: the trained parameters whose gradients are not finite or, where all gradients are, those
    /// whose new values are not.
    pub params: Vec<String>,
    pub in_gradients: bool,
    /// Where the examples of the batch are written.
    pub rows: Vec<String>,
    /// The file with the arrays of the batch, or why there is none.
    pub batch: Result<PathBuf, String>,
}

/// Parameters and rows that a message lists.
const MAX_LISTED: usize = 4;

impl NotFinite {
    /// Looks through what a step measured (see [`METRICS`]).
    pub(super) fn find(step: u64, values: &[f64], trained: &[Trained]) -> Option<Box<Self>> {
        let (metric, &value) = METRICS.into_iter().zip(values).find(|(_, value)| !value.is_finite())?;
        let (gradients, params) = values.get(METRICS.len()..).unwrap_or_default().split_at(trained.len());
        let bad = |squares: &[f64]| -> Vec<String> {
            let bad = trained.iter().zip(squares).filter(|(_, squares)| !squares.is_finite());
            bad.map(|(param, _)| param.name.clone()).collect()
        };
        let of_gradients = bad(gradients);
        let in_gradients = !of_gradients.is_empty();
        let params = if in_gradients { of_gradients } else { bad(params) };
        let (rows, batch) = (Vec::new(), Err("it was not looked for".to_owned()));
        Some(Box::new(NotFinite { step, metric, value, params, in_gradients, rows, batch }))
    }

    /// Makes the batch once more, after which the run stood at `position`, and writes it to the workdir.
    pub(super) fn with_batch(mut self: Box<Self>, loader: &Loader, position: u64, workdir: &Path) -> Error {
        let path = workdir.join(format!("nan-step-{}.safetensors", self.step));
        self.batch = match loader.batch_before(position) {
            Err(error) => Err(error.to_string()),
            Ok(batch) => {
                self.rows = batch.ids.iter().flatten().map(|&row| loader.locate(row)).collect();
                let metadata = BTreeMap::from([("rows".to_owned(), self.rows.join("\n"))]);
                let written = safetensors::write(&path, &batch.arrays, &metadata);
                written.map(|_| path).map_err(|error| error.to_string())
            }
        };
        Error::NotFinite(self)
    }
}

impl Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} became {} at step {}", self.metric, self.value, self.step)?;
        if !self.params.is_empty() {
            let what = if self.in_gradients { "gradients" } else { "new values" };
            write!(f, ", the {what} of {} are not finite", listed(&self.params))?;
        }
        write!(
            f,
            "; the last checkpoint before it is unharmed. Lower lr, set grad_clip_norm, or look at the batch: "
        )?;
        match &self.batch {
            Ok(path) => {
                write!(f, "its arrays are in {}, its rows are {}", path.display(), listed(&self.rows))
            }
            Err(why) => write!(f, "it could not be saved ({why})"),
        }
    }
}

impl std::error::Error for NotFinite {}

/// The first names of a list, and how many more there are.
fn listed(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_LISTED);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{DType, Shape};

    #[test]
    fn gradients_are_blamed_before_parameters_and_nothing_without_need() {
        let trained: Vec<Trained> = ["a", "b", "c"]
            .map(|name| {
                let shape = Shape::new(DType::F32, [1]);
                Trained { name: name.into(), shape, schedule: 0, lr_mult: 1.0, wd: 0.0 }
            })
            .into();
        let nan = f64::NAN;
        let find = |values: [f64; 12]| NotFinite::find(7, &values, &trained);
        assert!(find([1.0; 12]).is_none());
        let found = find([1.0, 2.0, 2.0, nan, nan, nan, 1.0, nan, f64::INFINITY, nan, nan, nan]).unwrap();
        assert_eq!((found.metric, found.in_gradients), ("l2_grads", true));
        assert_eq!(found.params, ["b", "c"]);
        let found = find([1.0, 2.0, 2.0, 1.0, f64::INFINITY, 1.0, 1.0, 1.0, 1.0, 1.0, nan, 1.0]).unwrap();
        assert_eq!(found.params, ["b"]);
        assert!(
            found.to_string().starts_with(
                "l2_params became inf at step 7, the new values of b are not finite; the last checkpoint"
            ),
            "{found}"
        );
        // A frozen parameter alone.
        let found = find([nan, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]).unwrap();
        assert!(found.to_string().starts_with("training_loss became NaN at step 7; the last"), "{found}");
    }
}
