//! Everything evaluators compute, as functions of texts, boxes, masks and numbers: the scores of captions, answers,
//! detections and segmentations, with the numbers of big_vision's evaluators and of the packages behind them
//! (pycocoevalcap, pycocotools).
//!
//! Nothing here knows of models, graphs, batches or files. What is judged one by one has an accumulator with an `add`
//! and a `metrics` (or `scores`); the names and the order of metrics are the reference's. Oddities of the reference are
//! kept, since published numbers have them, and said where they are.
//!
//! ```
//! use paligemma::metrics::answers::{Truth, Vqa};
//!
//! let mut vqa = Vqa::new(true);
//! let judged = vqa.add("Two", Truth::One("two"));
//! assert_eq!(judged.score, Some(1.0));
//! assert_eq!(vqa.metrics()[0], ("acc".to_owned(), 1.0));
//! ```

pub mod answers;
pub mod captions;
pub mod detection;
mod python;
pub mod segmentation;

/// Names, without an evaluation's prefix, and values.
pub type Metrics = Vec<(String, f64)>;

/// A mean in the making.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// `None` of nothing.
    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// 1 for what holds.
fn as_score(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}
