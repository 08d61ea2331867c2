//! Config errors: all of them at once, each with its place and an excerpt.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::node::Span;

/// A config that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read config {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("expected key=value, got \"{0}\"")]
    Assignment(String),
    #[error("{}", list(.0))]
    Invalid(Vec<Diagnostic>),
}

impl Error {
    /// The single problems, empty when the file could not be read at all.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Error::Invalid(diagnostics) => diagnostics,
            _ => &[],
        }
    }
}

fn list(diagnostics: &[Diagnostic]) -> String {
    let all: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
    match all.as_slice() {
        [one] => one.clone(),
        all => format!("{} problems in the config\n\n{}", all.len(), all.join("\n\n")),
    }
}

/// The source of what `--set` and `--arg` say.
pub(super) const COMMAND_LINE: &str = "command line";

/// One problem: what, where, and the line in question with the place marked.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    /// The file that holds the mistake, or `command line`; empty for a default.
    pub source: String,
    /// Line and column, counted from 1; 0 when the place is not in a text.
    pub line: usize,
    pub column: usize,
    /// The config key, dotted (`evals.val.pp_fn`); empty at the top.
    pub key: String,
    pub message: String,
    /// The offending line and carets under the place, empty without a place.
    pub excerpt: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.message),
            _ if self.source == COMMAND_LINE => {
                write!(f, "{}: {}\n{}", self.source, self.message, self.excerpt)
            }
            line => write!(f, "{}:{line}:{}: {}\n{}", self.source, self.column, self.message, self.excerpt),
        }
    }
}

/// The texts that a config was made of, which [`Span`]s point into.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Origin {
    pub sources: Vec<Source>,
    /// The folder that paths may be relative to: the config file's.
    pub folder: PathBuf,
}

#[derive(Debug, PartialEq)]
pub(super) struct Source {
    pub name: String,
    pub text: String,
}

impl Origin {
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.sources.push(Source { name: name.into(), text: text.into() });
        self.sources.len() - 1
    }

    pub fn diagnostic(&self, problem: &Problem) -> Diagnostic {
        let Problem { span, key, message } = problem;
        let source = self.sources.get(span.source).filter(|_| span.line > 0);
        let (name, line) = match source {
            Some(source) => (source.name.clone(), source.text.lines().nth(span.line - 1).unwrap_or_default()),
            None => (String::new(), ""),
        };
        let excerpt = if source.is_some() { excerpt(line, *span) } else { String::new() };
        Diagnostic {
            source: name,
            line: span.line,
            column: span.column,
            key: key.clone(),
            message: message.clone(),
            excerpt,
        }
    }

    /// Where a span is, as `file:line:column`.
    pub fn place(&self, span: Span) -> Option<String> {
        let source = self.sources.get(span.source).filter(|_| span.line > 0)?;
        Some(format!("{}:{}:{}", source.name, span.line, span.column))
    }
}

fn excerpt(line: &str, span: Span) -> String {
    // Long lines (pp strings) are cut to a window around the place.
    const WIDTH: usize = 100;
    let chars: Vec<char> = line.chars().collect();
    let at = (span.column.max(1) - 1).min(chars.len());
    let start = if chars.len() <= WIDTH { 0 } else { at.saturating_sub(WIDTH / 3) };
    let end = chars.len().min(start + WIDTH);
    let shown: String = chars[start..end].iter().collect();
    let (before, after) = (if start > 0 { "..." } else { "" }, if end < chars.len() { "..." } else { "" });
    // Tabs stay tabs, so that the caret lines up in any terminal.
    let pad: String = chars[start..at].iter().map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
    let carets = "^".repeat(span.len.clamp(1, (end - at.min(end)).max(1)));
    let number = span.line.to_string();
    let gutter = " ".repeat(number.len());
    let indent = " ".repeat(before.len());
    format!("{gutter} |\n{number} | {before}{shown}{after}\n{gutter} | {indent}{pad}{carets}")
}

/// A problem found while decoding, before its text is looked up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Problem {
    pub span: Span,
    pub key: String,
    pub message: String,
}

pub(super) fn invalid(origin: &Arc<Origin>, mut problems: Vec<Problem>) -> Error {
    problems.sort_by_key(|p| (p.span.source, p.span.line, p.span.column));
    Error::Invalid(problems.iter().map(|problem| origin.diagnostic(problem)).collect())
}

/// `did you mean "a", "b" or "c"` for the known names nearest to `name`, else the list of all.
pub(crate) fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = nearest(name, &known);
    let (lead, names) = match near.is_empty() {
        false => ("did you mean", near),
        true if known.is_empty() => return "none is known here".to_owned(),
        // A list that long helps nobody.
        true if known.len() > 12 => return "no key here is like it (--help-config lists all)".to_owned(),
        true => ("known are", known),
    };
    let joiner = if lead == "known are" { " and " } else { " or " };
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{lead} {}{joiner}{last}", rest.join(", ")),
        _ => format!("{lead} {}", quoted.concat()),
    }
}

/// At most three known names that `name` is likely a misspelling of, nearest first.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let lower = name.to_lowercase();
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .map(|&other| (strsim::osa_distance(&lower, &other.to_lowercase()), other))
        .filter(|(distance, other)| {
            let longer = name.len().max(other.len());
            (*distance <= longer.div_ceil(3) && *distance < longer)
                || (name.len() >= 3 && other.contains(&lower))
        })
        .collect();
    near.sort_by_key(|(distance, _)| *distance);
    near.into_iter().take(3).map(|(_, other)| other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_name_the_nearest_or_everything() {
        let known = ["lr", "lr_mults", "wd", "wd_mults"];
        assert_eq!(suggest("lrr", known), "did you mean \"lr\"");
        assert_eq!(suggest("lr_mult", known), "did you mean \"lr_mults\" or \"wd_mults\"");
        assert_eq!(suggest("zzz", known), "known are \"lr\", \"lr_mults\", \"wd\" and \"wd_mults\"");
        assert_eq!(suggest("x", ["y"]), "known are \"y\"");
        assert_eq!(suggest("x", []), "none is known here");
    }

    #[test]
    fn excerpts_mark_the_place_and_cut_long_lines() {
        let span = Span { source: 0, line: 12, column: 5, len: 3 };
        assert_eq!(excerpt("a: [bcd]", span), "   |\n12 | a: [bcd]\n   |     ^^^");
        let long = format!("pp: {}X{}", "y".repeat(200), "z".repeat(200));
        let lines = excerpt(&long, Span { column: 205, len: 1, ..span });
        let lines: Vec<&str> = lines.lines().collect();
        assert!(lines[1].starts_with("12 | ...y") && lines[1].ends_with("z..."));
        assert_eq!(lines[1].chars().position(|c| c == 'X'), lines[2].chars().position(|c| c == '^'));
    }
}
