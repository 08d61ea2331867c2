//! Ordered lists of (regex, value) over parameter names: freezing, learning-rate multipliers, weight decay
//! and sharding are all said this way.
//!
//! As in big_vision (`utils.py`, `make_mask_trees`), a pattern must match the *whole* name and the first
//! pattern that matches decides.
//!
//! ```
//! use paligemma::params::Patterns;
//!
//! let trained = Patterns::new([("llm/layers/attn/.*", true), (".*", false)])?;
//! assert_eq!(trained.get("llm/layers/attn/q_einsum/w"), Some(&true));
//! assert_eq!(trained.get("img/embedding/kernel"), Some(&false));
//! # Ok::<(), paligemma::params::Error>(())
//! ```

use regex::Regex;

use super::Error;

/// An ordered list of rules; see the module's documentation.
#[derive(Debug, Clone)]
pub struct Patterns<V> {
    rules: Vec<Rule<V>>,
}

#[derive(Debug, Clone)]
struct Rule<V> {
    text: String,
    regex: Regex,
    value: V,
}

impl<V> Default for Patterns<V> {
    /// The list without rules, which matches nothing.
    fn default() -> Self {
        Patterns { rules: Vec::new() }
    }
}

impl<V> Patterns<V> {
    /// # Errors
    /// When a pattern starts with a slash or is not a regex.
    pub fn new<S: AsRef<str>>(rules: impl IntoIterator<Item = (S, V)>) -> Result<Self, Error> {
        let rule = |(text, value): (S, V)| {
            let text = text.as_ref().to_owned();
            let regex = compile(&text)?;
            Ok(Rule { text, regex, value })
        };
        Ok(Patterns { rules: rules.into_iter().map(rule).collect::<Result<_, Error>>()? })
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Patterns and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.rules.iter().map(|rule| (rule.text.as_str(), &rule.value))
    }

    /// The value of the first pattern that matches the whole name.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.position(name).map(|i| &self.rules[i].value)
    }

    /// Which pattern decides about a name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.rules.iter().position(|rule| rule.regex.is_match(name))
    }

    /// Applies the list to all names at once, and notes what did not take part.
    pub fn assign<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Assignment<'_, V> {
        let mut decided = vec![0usize; self.rules.len()];
        let mut shadowed = vec![0usize; self.rules.len()];
        let mut values = Vec::new();
        let mut uncovered = Vec::new();
        for name in names {
            let mut matching = (0..self.rules.len()).filter(|&i| self.rules[i].regex.is_match(name));
            let first = matching.next();
            match first {
                Some(i) => decided[i] += 1,
                None => uncovered.push(name.to_owned()),
            }
            matching.for_each(|i| shadowed[i] += 1);
            values.push(first.map(|i| &self.rules[i].value));
        }
        let unused = (0..self.rules.len())
            .filter(|&i| decided[i] == 0)
            .map(|i| Unused { pattern: self.rules[i].text.clone(), shadowed: shadowed[i] })
            .collect();
        Assignment { values, uncovered, unused }
    }
}

/// What a list of patterns says about a list of names.
#[derive(Debug, Clone)]
pub struct Assignment<'p, V> {
    /// For every name, in the order given, the value of the first pattern that matches it.
    pub values: Vec<Option<&'p V>>,
    /// The names that no pattern matches.
    pub uncovered: Vec<String>,
    /// The patterns that decide about no name. Whether that is a mistake only the caller knows: a frozen
    /// part that does not exist is one, a general default that never applies is not.
    pub unused: Vec<Unused>,
}

/// A pattern that decided about no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    pub pattern: String,
    /// How many names it would have matched, had no earlier pattern taken them. Zero: it matches nothing.
    pub shadowed: usize,
}

impl<'p, V> Assignment<'p, V> {
    /// The values, when every name has one.
    ///
    /// # Errors
    /// Lists all names that no pattern covers.
    pub fn all(self) -> Result<Vec<&'p V>, Error> {
        if !self.uncovered.is_empty() {
            return Err(Error::Uncovered { names: self.uncovered });
        }
        Ok(self.values.into_iter().flatten().collect())
    }
}

fn compile(pattern: &str) -> Result<Regex, Error> {
    if pattern.starts_with('/') {
        return Err(Error::LeadingSlash { pattern: pattern.to_owned() });
    }
    let bad = |source| Error::BadPattern { pattern: pattern.to_owned(), source: Box::new(source) };
    // Alone first: "a)(b" would only become valid inside the group that makes it match the whole name.
    Regex::new(pattern).map_err(bad)?;
    Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] =
        ["img/embedding/kernel", "img/pos_embedding", "llm/embedder/input_embedding", "llm/final_norm/scale"];

    #[test]
    fn the_whole_name_must_match() {
        let patterns =
            Patterns::new([("img", 0), ("img/.*/kernel$", 1), ("a|llm", 2), ("llm/.*", 3)]).unwrap();
        assert_eq!(NAMES.map(|name| patterns.get(name).copied()), [Some(1), None, Some(3), Some(3)]);
        assert_eq!(patterns.get("llm"), Some(&2));
        assert_eq!(patterns.get("llm/final_norm/scale\n"), None);
    }

    #[test]
    fn the_first_match_wins_and_what_decides_nothing_is_reported() {
        let patterns = Patterns::new([(".*embedding", 'e'), ("img/pos.*", 'p'), ("image/.*", 'i')]).unwrap();
        let assignment = patterns.assign(NAMES);
        assert_eq!(assignment.values, [None, Some(&'e'), Some(&'e'), None]);
        assert_eq!(
            assignment.unused,
            [
                Unused { pattern: "img/pos.*".into(), shadowed: 1 },
                Unused { pattern: "image/.*".into(), shadowed: 0 }
            ]
        );
        assert_eq!(
            assignment.all().unwrap_err().to_string(),
            "no pattern covers 2 parameter(s); add a pattern that matches the whole name, or a last \
             \".*\":\n  img/embedding/kernel\n  llm/final_norm/scale"
        );
    }

    #[test]
    fn common_mistakes_are_explained() {
        let message = |pattern: &str| Patterns::new([(pattern, ())]).unwrap_err().to_string();
        assert!(message("/img/.*").ends_with("write \"img/.*\""));
        assert!(message("(?!llm).*").contains("look-around"));
        assert!(message("a)(b").contains("is not a regex"));
        assert!(message("img/(").contains("is not a regex"));
    }

    #[test]
    fn a_covering_list_gives_every_value() {
        let patterns = Patterns::new([("img/.*", None), (".*", Some(2.0))]).unwrap();
        assert_eq!(patterns.assign(NAMES).all().unwrap(), [&None, &None, &Some(2.0), &Some(2.0)]);
        assert!(Patterns::<()>::default().assign([]).all().unwrap().is_empty());
    }
}
