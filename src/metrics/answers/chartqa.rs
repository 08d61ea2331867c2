use super::super::{Mean, Metrics, as_score, python};
use super::Judged;

/// How far, of the right number, a number may be from it.
const MAX_RELATIVE_ERROR: f64 = 0.05;

/// Answers about charts, where a number may be off by 5 % (`chartqa.py`, <https://arxiv.org/abs/2203.10244>). The score
/// of an answer is the relaxed one.
#[derive(Debug, Clone, Default)]
pub struct ChartQa {
    to_lower: bool,
    accuracy: Mean,
    relaxed: Mean,
}

impl ChartQa {
    /// `to_lower`: whether texts are compared in lower case.
    pub fn new(to_lower: bool) -> Self {
        ChartQa { to_lower, ..ChartQa::default() }
    }

    pub fn add(&mut self, answer: &str, truth: &str) -> Judged {
        let normalized = |text: &str| if self.to_lower { text.to_lowercase() } else { text.to_owned() };
        let (answer, truth) = (normalized(answer), normalized(truth));
        self.accuracy.add(as_score(answer == truth));
        let relaxed = as_score(relaxed_match(&truth, &answer));
        self.relaxed.add(relaxed);
        Judged { answer, references: vec![truth], score: Some(relaxed) }
    }

    /// `acc`, `relaxed_acc` and `num`.
    pub fn metrics(&self) -> Metrics {
        let means = [("acc", self.accuracy), ("relaxed_acc", self.relaxed)];
        let means = means.into_iter().filter_map(|(name, mean)| Some((name.to_owned(), mean.get()?)));
        means.chain([("num".to_owned(), self.accuracy.count as f64)]).collect()
    }
}

/// A number as Python's `float` reads it, or a percentage as a fraction. `1,000` is no number.
pub fn to_float(text: &str) -> Option<f64> {
    match text.ends_with('%') {
        true => python::float(text.trim_end_matches('%')).map(|percent| percent / 100.0),
        false => python::float(text),
    }
}

/// Whether two numbers are within 5 % of the target, or two texts equal. A target of 0 is compared as a text.
pub fn relaxed_match(target: &str, prediction: &str) -> bool {
    match (to_float(prediction), to_float(target)) {
        (Some(got), Some(expected)) if expected != 0.0 => {
            (got - expected).abs() / expected.abs() <= MAX_RELATIVE_ERROR
        }
        _ => prediction == target,
    }
}
