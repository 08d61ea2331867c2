use super::super::as_score;

/// Levenshtein distance in code points: insertions, deletions and replacements.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // Distances of the beginning of `a` so far from all beginnings of `b`.
    let mut distances: Vec<usize> = (0..=b.len()).collect();
    for (row, c) in a.chars().enumerate() {
        let mut diagonal = distances[0];
        distances[0] = row + 1;
        for (column, &other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(c != other);
            diagonal = distances[column + 1];
            distances[column + 1] = replaced.min(diagonal + 1).min(distances[column] + 1);
        }
    }
    distances[b.len()]
}

/// Average normalized Levenshtein similarity of one answer (equation 1 of <https://arxiv.org/abs/1907.00490>): 1 less
/// the distance as a part of the longer text, or 0 from `theta` (usually 0.5) on.
pub fn anls(target: &str, prediction: &str, theta: f64) -> f64 {
    if target.is_empty() {
        return as_score(prediction.is_empty());
    }
    let longer = target.chars().count().max(prediction.chars().count());
    let distance = edit_distance(target, prediction) as f64 / longer as f64;
    if distance < theta { 1.0 - distance } else { 0.0 }
}

const NUMBER_WORDS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// The number that a word in lower case stands for, also 0 for "none".
pub(super) fn number_of_word(word: &str) -> Option<usize> {
    if word == "none" { Some(0) } else { NUMBER_WORDS.iter().position(|&known| known == word) }
}

/// An English number word up to twenty, in any case, as digits ("none" is 0); any other text as it is.
pub fn number_word_to_numeral(text: &str) -> String {
    number_of_word(&text.to_lowercase()).map_or_else(|| text.to_owned(), |number| number.to_string())
}
