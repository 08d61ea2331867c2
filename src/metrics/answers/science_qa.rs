use super::super::{Mean, Metrics, as_score};
use super::Judged;

/// Stands for the letter of a sentence without one.
const FAILED: &str = "failed";
const SENTENCE: &str = "the answer is ";

/// Choices among lettered options (`science_qa.py`). Where neither the answer nor the truth names a letter, the answer
/// counts as right.
#[derive(Debug, Clone, Default)]
pub struct ScienceQa {
    accuracy: Mean,
    failed: Mean,
    num: usize,
}

impl ScienceQa {
    /// `truth`: the right sentence, `None` where it is not known.
    pub fn add(&mut self, answer: &str, truth: Option<&str>) -> Judged {
        let letter = |text: &str| chosen_letter(text).map_or_else(|| FAILED.to_owned(), String::from);
        let answer = letter(answer);
        self.num += 1;
        let references: Vec<String> = truth.map(letter).into_iter().collect();
        let score = references.first().map(|reference| as_score(answer == *reference));
        if let Some(score) = score {
            self.accuracy.add(score);
            self.failed.add(as_score(answer == FAILED));
        }
        Judged { answer, references, score }
    }

    /// `acc` and `parsefail` (the part of answers without a letter) of the judged answers, if any; `num` of all.
    pub fn metrics(&self) -> Metrics {
        let means = [("acc", self.accuracy), ("parsefail", self.failed)];
        let means = means.into_iter().filter_map(|(name, mean)| Some((name.to_owned(), mean.get()?)));
        means.chain([("num".to_owned(), self.num as f64)]).collect()
    }
}

/// The letter from a to z of a text that begins with "The answer is X.", in any case.
pub fn chosen_letter(text: &str) -> Option<char> {
    let lower = text.to_lowercase();
    let mut rest = lower.strip_prefix(SENTENCE)?.chars();
    let letter = rest.next().filter(char::is_ascii_lowercase)?;
    (rest.next() == Some('.')).then_some(letter)
}
