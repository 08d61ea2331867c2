//! Suggestions for misspelt names.

/// `, did you mean a or b?` with up to three names that are spelt alike, or nothing.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut scored: Vec<_> = known.map(|known| (distance(name, known), known)).collect();
    let limit = name.chars().count() / 3 + 1;
    scored.retain(|&(distance, known)| {
        distance <= limit || known.len() > 3 && name.contains(known) || name.len() > 3 && known.contains(name)
    });
    scored.sort();
    let names: Vec<_> = scored.iter().take(3).map(|&(_, known)| format!("`{known}`")).collect();
    if names.is_empty() { String::new() } else { format!(", did you mean {}?", names.join(" or ")) }
}

/// Levenshtein distance without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near() {
        let known = || ["resize", "resize_small", "decode", "keep"].into_iter();
        assert_eq!(nearest("resize_sm", known()), ", did you mean `resize` or `resize_small`?");
        assert_eq!(nearest("decoed", known()), ", did you mean `decode`?");
        assert_eq!(nearest("xylophone", known()), "");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
