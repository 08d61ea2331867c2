use std::collections::HashMap;

use super::ngrams::{ORDERS, counts, words};
use super::{Image, Scores};

/// Keep scores of captions without n-grams finite, and at 0; the reference's.
const SMALL: f64 = 1e-9;
const TINY: f64 = 1e-15;

/// What a score is computed from, of a caption or of all.
#[derive(Debug, Clone, Copy, Default)]
struct Statistics {
    /// N-grams of the candidate by their length, and those that a reference has as well.
    guessed: [usize; ORDERS],
    correct: [usize; ORDERS],
    /// Words of the candidate and of the reference closest in length.
    length: usize,
    reference_length: usize,
}

pub(super) fn bleu(images: &[Image]) -> [Scores; ORDERS] {
    let statistics: Vec<Statistics> = images.iter().map(Statistics::of).collect();
    let all = statistics.iter().fold(Statistics::default(), |sum, one| sum.plus(one));
    let corpus = if images.is_empty() { [0.0; ORDERS] } else { all.scores() };
    let per_image: Vec<[f64; ORDERS]> = statistics.iter().map(Statistics::scores).collect();
    std::array::from_fn(|order| Scores {
        corpus: corpus[order],
        per_image: per_image.iter().map(|scores| scores[order]).collect(),
    })
}

impl Statistics {
    fn of(image: &Image) -> Self {
        let candidate = words(&image.candidate);
        let references: Vec<Vec<&str>> = image.references.iter().map(|text| words(text)).collect();
        let length = candidate.len();
        let mut largest: HashMap<&[&str], usize> = HashMap::new();
        for reference in &references {
            for (ngram, count) in counts(reference) {
                let largest = largest.entry(ngram).or_default();
                *largest = count.max(*largest);
            }
        }
        let mut correct = [0; ORDERS];
        for (ngram, count) in counts(&candidate) {
            correct[ngram.len() - 1] += largest.get(ngram).map_or(0, |&largest| count.min(largest));
        }
        let lengths = references.iter().map(Vec::len);
        let reference_length = lengths.min_by_key(|&other| (other.abs_diff(length), other)).unwrap_or(0);
        let guessed = std::array::from_fn(|order| length.saturating_sub(order));
        Statistics { guessed, correct, length, reference_length }
    }

    fn plus(self, other: &Self) -> Self {
        let sum = |a: [usize; ORDERS], b: [usize; ORDERS]| std::array::from_fn(|order| a[order] + b[order]);
        Statistics {
            guessed: sum(self.guessed, other.guessed),
            correct: sum(self.correct, other.correct),
            length: self.length + other.length,
            reference_length: self.reference_length + other.reference_length,
        }
    }

    /// Geometric means of the precisions of up to 1, 2, 3 and 4 words, less a penalty for what is too short.
    fn scores(&self) -> [f64; ORDERS] {
        let ratio = (self.length as f64 + TINY) / (self.reference_length as f64 + SMALL);
        let penalty = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0;
        std::array::from_fn(|order| {
            product *= (self.correct[order] as f64 + TINY) / (self.guessed[order] as f64 + SMALL);
            f64::powf(product, 1.0 / (order as f64 + 1.0)) * penalty
        })
    }
}
