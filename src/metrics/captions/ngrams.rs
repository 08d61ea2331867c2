use indexmap::IndexMap;

use super::super::python;

/// N-grams of up to so many words.
pub(super) const ORDERS: usize = 4;

/// The words of a caption.
pub(super) fn words(caption: &str) -> Vec<&str> {
    python::words(caption).collect()
}

/// How often a caption has each n-gram of 1 to [`ORDERS`] words, in the order in which they first occur.
pub(super) fn counts<'a, 'w>(words: &'w [&'a str]) -> IndexMap<&'w [&'a str], usize> {
    let mut counts = IndexMap::new();
    for ngram in (1..=ORDERS).flat_map(|order| words.windows(order)) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}
