use super::super::{Mean, Metrics, as_score};
use super::{Judged, Truth, anls};

/// ANLS counts answers as wrong from this distance on.
const THETA: f64 = 0.5;

/// Answers that must be equal to a right one, or to several (`vqa.py`).
///
/// `acc` is 1 for an answer that three people gave, less for fewer: with less than three right answers in the data, even
/// a perfect one scores below 1 (`acc_any` does not). A single right answer counts in full.
#[derive(Debug, Clone, Default)]
pub struct Vqa {
    to_lower: bool,
    accuracy: Mean,
    accuracy_any: Mean,
    anls: Mean,
    num: usize,
}

impl Vqa {
    /// `to_lower`: whether texts are compared in lower case.
    pub fn new(to_lower: bool) -> Self {
        Vqa { to_lower, ..Vqa::default() }
    }

    pub fn add(&mut self, answer: &str, truth: Truth<'_>) -> Judged {
        self.judge(answer, truth).0
    }

    /// Also whether the answer is one of the right ones.
    pub(super) fn judge(&mut self, answer: &str, truth: Truth<'_>) -> (Judged, f64) {
        let normalized = |text: &str| if self.to_lower { text.to_lowercase() } else { text.to_owned() };
        let answer = normalized(answer);
        let (references, needed): (Vec<String>, f64) = match truth {
            Truth::One(reference) => (vec![normalized(reference)], 1.0),
            Truth::Several(references) => (references.iter().map(|text| normalized(text)).collect(), 3.0),
        };
        self.num += 1;
        let matches = references.iter().filter(|&reference| *reference == answer).count();
        let (accuracy, any) = ((matches as f64 / needed).min(1.0), as_score(matches > 0));
        let similarities = references.iter().map(|reference| anls(reference, &answer, THETA));
        let score = similarities.reduce(f64::max).map(|similarity| {
            self.accuracy.add(accuracy);
            self.accuracy_any.add(any);
            self.anls.add(similarity);
            accuracy
        });
        (Judged { answer, references, score }, any)
    }

    /// `acc`, `acc_any` and `anls` of the judged answers, if any; `num` of all.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = self.means();
        metrics.push(("num".into(), self.num as f64));
        metrics
    }

    pub(super) fn means(&self) -> Metrics {
        let means = [("acc", self.accuracy), ("acc_any", self.accuracy_any), ("anls", self.anls)];
        means.into_iter().filter_map(|(name, mean)| Some((name.to_owned(), mean.get()?))).collect()
    }

    pub(super) fn num(&self) -> usize {
        self.num
    }
}
