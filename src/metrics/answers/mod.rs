//! Short answers to questions about images (`evaluators/proj/paligemma/transfers/` of big_vision): each evaluator is an
//! accumulator that judges answers one by one.
//!
//! [`Vqa`] serves all sets with one or several right answers (GQA, AI2D, OCR-VQA, OK-VQA, DocVQA, ...), [`VqaV2`] the
//! official evaluation of VQAv2, [`RsVqa`] also splits by question, [`ChartQa`], [`ScienceQa`], [`TallyQa`] (with
//! CountBenchQA) and [`Pope`] read answers as numbers, letters, counts, and yes or no.

mod chartqa;
mod pope;
mod rsvqa;
mod science_qa;
mod tallyqa;
#[cfg(test)]
mod tests;
mod text;
mod vqa;
mod vqav2;

pub use chartqa::{ChartQa, relaxed_match, to_float};
pub use pope::Pope;
pub use rsvqa::RsVqa;
pub use science_qa::{ScienceQa, chosen_letter};
pub use tallyqa::{LARGEST_COUNT, TallyQa};
pub use text::{anls, edit_distance, number_word_to_numeral};
pub use vqa::Vqa;
pub use vqav2::{VqaV2, postprocess, strip_space};

/// The right answer or answers of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth<'a> {
    /// The batch entry `answer`.
    One(&'a str),
    /// The batch entry `answers`. If empty, the question is counted but not judged.
    Several(&'a [String]),
}

/// An answer after judgement, as evaluators write it down.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The answer as it was compared.
    pub answer: String,
    /// What it was compared with.
    pub references: Vec<String>,
    /// From 0 to 1, what counts for the evaluator's main metric; `None` where there was nothing to compare with.
    pub score: Option<f64>,
}

/// Why answers cannot be judged; the reference's evaluators fail as well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("VQAv2 compares with {} answers of people, got only {got}", vqav2::NUM_ANSWERS)]
    TooFewAnswers { got: usize },
    #[error("unknown {what} \"{got}\", known are: {}", .known.join(", "))]
    UnknownType { what: &'static str, got: String, known: &'static [&'static str] },
    #[error(
        "the right count is \"{got}\", expected a whole number from 0 to {LARGEST_COUNT} or its English word"
    )]
    Count { got: String },
    #[error("RSVQA averages over types of questions, which need entries \"answers\" and not \"answer\"")]
    NoTypes,
}
