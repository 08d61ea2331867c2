//! "Did you mean": the known names that look most like a wrong one.

use std::fmt::Write;

/// How alike two names must be (1 is equal, 0 has nothing in common) for one to be worth suggesting.
const ALIKE: f64 = 0.6;

/// At most three of `known` that resemble `name`, the most alike first.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|other| (strsim::normalized_levenshtein(name, other), other))
        .filter(|&(score, _)| score >= ALIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, other)| other.to_owned()).collect()
}

/// `, nearest are: a, b` for the end of a message, empty when there is nothing to suggest.
pub(crate) fn hint(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!(", nearest: {}", nearest.join(", ")) }
}

/// One indented line per name.
pub(crate) fn bullets(names: &[String]) -> String {
    names.iter().fold(String::new(), |mut text, name| {
        write!(text, "\n  {name}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_names_come_first_and_strangers_not_at_all() {
        let known = ["llm/layers/mlp/linear", "llm/layers/attn/q_einsum/w", "llm/layers/attn/kv_einsum/w"];
        assert_eq!(nearest("llm/layers/attn/v_einsum/w", known), [known[2], known[1]]);
        assert_eq!(nearest("zzz", known), Vec::<String>::new());
    }
}
