use super::super::{Mean, Metrics, as_score};
use super::Judged;

/// Whether an object is in an image, yes or no (`pope.py`). Answers are compared in lower case, with the truth as it is.
#[derive(Debug, Clone, Default)]
pub struct Pope {
    accuracy: Mean,
    valid: Mean,
}

impl Pope {
    pub fn add(&mut self, answer: &str, truth: &str) -> Judged {
        let answer = answer.to_lowercase();
        let score = as_score(answer == truth);
        self.accuracy.add(score);
        self.valid.add(as_score(answer == "yes" || answer == "no"));
        Judged { answer, references: vec![truth.to_owned()], score: Some(score) }
    }

    /// `acc`, `valid_percent` (the part, from 0 to 1, of answers that are yes or no) and `num`.
    pub fn metrics(&self) -> Metrics {
        let means = [("acc", self.accuracy), ("valid_percent", self.valid)];
        let means = means.into_iter().filter_map(|(name, mean)| Some((name.to_owned(), mean.get()?)));
        means.chain([("num".to_owned(), self.accuracy.count as f64)]).collect()
    }
}
