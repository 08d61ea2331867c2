//! What Python's `str` and `float` do and Rust's do not: the reference's numbers depend on them.

use std::sync::LazyLock;

use regex::Regex;

/// Whether Python's `str.split` and `str.strip` take a character for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.split()`.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Whether a character is a decimal digit of any script, as `\d` of Python's `re`.
pub(super) fn is_digit(c: char) -> bool {
    static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d$").expect("the pattern is valid"));
    c.is_ascii_digit() || (!c.is_ascii() && DIGIT.is_match(c.encode_utf8(&mut [0; 4])))
}

/// The value of a decimal digit of any script. Unicode keeps the ten digits of a script in a row, and such rows begin
/// where no digit is before, or behind another whole row.
fn digit_value(c: char) -> Option<u32> {
    if !is_digit(c) {
        return None;
    }
    let before = |c: &char| char::from_u32(u32::from(*c) - 1).filter(|&c| is_digit(c));
    let place = std::iter::successors(Some(c), before).count() - 1;
    u32::try_from(place % 10).ok()
}

/// Python's `float(text)`: blanks around, `_` between digits, digits of any script, `nan` and `inf`.
pub(super) fn float(text: &str) -> Option<f64> {
    let ascii: Option<String> = text
        .trim_matches(is_space)
        .chars()
        .map(|c| {
            if c.is_ascii() { Some(c) } else { digit_value(c).and_then(|value| char::from_digit(value, 10)) }
        })
        .collect();
    let ascii = ascii?;
    let bytes = ascii.as_bytes();
    let is_digit_at =
        |place: Option<usize>| place.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let underscores = (0..bytes.len()).filter(|&at| bytes[at] == b'_');
    for at in underscores {
        if !is_digit_at(at.checked_sub(1)) || !is_digit_at(Some(at + 1)) {
            return None;
        }
    }
    ascii.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        for (text, expected) in [
            (" 1_0.5 ", Some(10.5)),
            ("\u{1c}5.\u{3000}", Some(5.0)),
            (".5e-1", Some(0.05)),
            ("+Infinity", Some(f64::INFINITY)),
            ("𝟗𝟘٣", Some(903.0)),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("1_.5", None),
            ("in_f", None),
            ("1e", None),
            ("½", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(float(text), expected, "{text}");
        }
        assert!(float("-NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn words_are_between_pythons_white_space() {
        assert_eq!(words(" a\u{1f}b\u{a0}\tc ").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(is_digit('٣') && !is_digit('²') && !is_digit('x'));
    }
}
