/// How much more recall counts than precision.
const BETA: f64 = 1.2;

/// Of the best precision and the best recall among references. Words are between single blanks, so that an empty caption
/// has one, empty, word.
pub(super) fn rouge_l(candidate: &str, references: &[String]) -> f64 {
    let candidate: Vec<&str> = candidate.split(' ').collect();
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in references {
        let reference: Vec<&str> = reference.split(' ').collect();
        let common = longest_common_subsequence(&candidate, &reference) as f64;
        precision = precision.max(common / candidate.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    let squared = BETA * BETA;
    (1.0 + squared) * precision * recall / (recall + squared * precision)
}

fn longest_common_subsequence(a: &[&str], b: &[&str]) -> usize {
    // Of the beginning of `a` so far with all beginnings of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (place, other) in b.iter().enumerate() {
            let above = lengths[place + 1];
            lengths[place + 1] = if word == other { diagonal + 1 } else { above.max(lengths[place]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}
