use super::super::{Mean, Metrics, as_score};
use super::{Error, Judged, number_word_to_numeral};

/// The largest count that has an accuracy of its own; data with larger ones is refused.
pub const LARGEST_COUNT: usize = 15;

/// Counts of objects, as numbers or as English words (`tallyqa.py`; CountBenchQA uses it as well).
#[derive(Debug, Clone, Default)]
pub struct TallyQa {
    all: Mean,
    simple: Mean,
    complex: Mean,
    by_count: [Mean; LARGEST_COUNT + 1],
}

impl TallyQa {
    /// `is_simple`: 1 or 0, or `None` where questions are not split into simple and complex ones.
    ///
    /// # Errors
    /// When the truth is not a count that is kept apart.
    pub fn add(&mut self, answer: &str, truth: &str, is_simple: Option<bool>) -> Result<Judged, Error> {
        let truth = number_word_to_numeral(truth);
        let count = (0..=LARGEST_COUNT).find(|count| count.to_string() == truth);
        let count = count.ok_or_else(|| Error::Count { got: truth.clone() })?;
        let answer = number_word_to_numeral(answer);
        let score = as_score(answer == truth);
        self.all.add(score);
        match is_simple {
            Some(true) => self.simple.add(score),
            Some(false) => self.complex.add(score),
            None => {}
        }
        self.by_count[count].add(score);
        Ok(Judged { answer, references: vec![truth], score: Some(score) })
    }

    /// `acc` and `num` of all, and where they occur `acc/simple`, `num/simple`, the same of `complex`, and `acc/count_N`
    /// and `num/count_N` of each count.
    pub fn metrics(&self) -> Metrics {
        let by_count =
            self.by_count.iter().enumerate().map(|(count, mean)| (format!("/count_{count}"), *mean));
        let parts = [("", self.all), ("/simple", self.simple), ("/complex", self.complex)];
        let parts = parts.map(|(name, mean)| (name.to_owned(), mean)).into_iter().chain(by_count);
        let known = parts.filter_map(|(name, mean)| Some((name, mean.get()?, mean.count)));
        let pair = |(name, accuracy, count): (String, f64, usize)| {
            [(format!("acc{name}"), accuracy), (format!("num{name}"), count as f64)]
        };
        known.flat_map(pair).collect()
    }
}
