use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use super::ngrams::{ORDERS, counts, words};
use super::{Image, Scores};

/// Width, in words, of the bell curve that punishes differences in length.
const SIGMA: f64 = 6.0;

/// How many images have an n-gram in their references, and the logarithm of how many images there are.
struct Frequencies<'a> {
    images: HashMap<Vec<&'a str>, usize>,
    log_total: f64,
}

/// The n-grams of a caption with their weights: how often they occur times how rare they are among images.
struct Vector<'w, 'a> {
    weights: [IndexMap<&'w [&'a str], f64>; ORDERS],
    norms: [f64; ORDERS],
    /// Pairs of words. The reference means to count words, and counts these.
    length: usize,
}

pub(super) fn cider(images: &[Image]) -> Scores {
    let frequencies = Frequencies::of(images);
    let score = |image: &Image| {
        let candidate = words(&image.candidate);
        let candidate = frequencies.vector(&candidate);
        let similarities = image.references.iter().map(|reference| {
            let reference = words(reference);
            candidate.similarity(&frequencies.vector(&reference))
        });
        10.0 * similarities.sum::<f64>() / (ORDERS * image.references.len()) as f64
    };
    Scores::mean(images.iter().map(score).collect())
}

impl<'a> Frequencies<'a> {
    fn of(images: &'a [Image]) -> Self {
        let mut total: HashMap<Vec<&str>, usize> = HashMap::new();
        for image in images {
            let references: Vec<Vec<&str>> = image.references.iter().map(|text| words(text)).collect();
            let held: HashSet<&[&str]> =
                references.iter().flat_map(|reference| counts(reference).into_keys()).collect();
            for ngram in held {
                match total.get_mut(ngram) {
                    Some(count) => *count += 1,
                    None => drop(total.insert(ngram.to_vec(), 1)),
                }
            }
        }
        Frequencies { images: total, log_total: (images.len() as f64).ln() }
    }

    fn vector<'w>(&self, words: &'w [&'a str]) -> Vector<'w, 'a> {
        let mut weights: [IndexMap<_, f64>; ORDERS] = Default::default();
        let mut norms = [0.0; ORDERS];
        for (ngram, count) in counts(words) {
            // What no reference has is as rare as what one has.
            let frequency = self.images.get(ngram).copied().unwrap_or(1) as f64;
            let weight = count as f64 * (self.log_total - frequency.ln());
            weights[ngram.len() - 1].insert(ngram, weight);
            norms[ngram.len() - 1] += weight * weight;
        }
        Vector { weights, norms: norms.map(f64::sqrt), length: words.len().saturating_sub(1) }
    }
}

impl Vector<'_, '_> {
    /// The sum over lengths of n-grams of the cosine between the candidate, cut down to what the reference has of each
    /// n-gram, and the reference.
    fn similarity(&self, reference: &Self) -> f64 {
        let difference = self.length as f64 - reference.length as f64;
        let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
        let of_order = |order: usize| {
            let other = &reference.weights[order];
            let product = |(ngram, weight): (&&[&str], &f64)| {
                other.get(ngram).map_or(0.0, |other| weight.min(*other) * other)
            };
            let sum: f64 = self.weights[order].iter().map(product).sum();
            let norm = self.norms[order] * reference.norms[order];
            penalty * if norm == 0.0 { sum } else { sum / norm }
        };
        (0..ORDERS).map(of_order).sum()
    }
}
