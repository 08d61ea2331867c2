//! `--set key.path=value`: changes to the parsed config before it is decoded.

use super::decode::Decoder;
use super::error::suggest;
use super::node::{Entry, Kind, Node, Span};
use super::steps::Duration;

/// Puts the YAML `text` at `path`. `column` is where `path` begins in the source that excerpts quote.
pub(super) fn set(
    root: &mut Node,
    path: &str,
    text: &str,
    source: usize,
    column: usize,
    decoder: &mut Decoder,
) {
    let at = |column, len: usize| Span { source, line: 1, column, len: len.max(1) };
    let (segments, value_column) = match segments(path) {
        Ok(segments) => (segments, column + path.chars().count() + 1),
        Err(message) => {
            decoder.problem::<()>(at(column, path.chars().count()), format!("--set {path}: {message}"));
            return;
        }
    };
    let mut value = match Node::parse(text, source) {
        Ok(value) => value,
        Err(error) => {
            let span = at(value_column, text.chars().count());
            decoder.problem::<()>(span, format!("--set {path}: {}", error.message));
            return;
        }
    };
    shift(&mut value, value_column);
    let mut node = root;
    for (index, (segment, offset)) in segments.iter().enumerate() {
        let span = at(column + offset, segment.chars().count());
        let last = index + 1 == segments.len();
        // What a missing or null section becomes; a last segment is overwritten below.
        if node.is_null() {
            *node = Node { kind: Kind::Map(Vec::new()), span };
        }
        let so_far = segments[..index].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
        let found = node.to_string();
        node = match &mut node.kind {
            Kind::Map(entries) => {
                if last {
                    drop_other_forms(entries, segment);
                }
                let index = entries.iter().position(|entry| entry.key == *segment).unwrap_or_else(|| {
                    if !last {
                        let hint = suggest(segment, entries.iter().map(|entry| entry.key.as_str()));
                        let key =
                            if so_far.is_empty() { segment.clone() } else { format!("{so_far}.{segment}") };
                        decoder.created.push((key, hint));
                    }
                    entries.push(Entry { key: segment.clone(), span, node: Node { kind: Kind::Null, span } });
                    entries.len() - 1
                });
                if last {
                    entries[index].span = span;
                }
                &mut entries[index].node
            }
            Kind::List(items) => {
                let len = items.len();
                match segment.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                    Some(item) => item,
                    None => {
                        let message =
                            format!("{so_far} is a list of {len}, \"{segment}\" is no index of it (from 0)");
                        decoder.problem::<()>(span, message);
                        return;
                    }
                }
            }
            _ => {
                decoder.problem::<()>(span, format!("{so_far} is {found}, it has no key \"{segment}\""));
                return;
            }
        };
    }
    *node = value;
}

/// A duration has one form: setting `total_steps` replaces `total_epochs`.
fn drop_other_forms(entries: &mut Vec<Entry>, key: &str) {
    let Some((name, suffix)) = key.rsplit_once('_') else { return };
    if Duration::SUFFIXES.contains(&suffix) {
        let others = Duration::SUFFIXES.iter().filter(|other| **other != suffix);
        let others: Vec<String> = others.map(|other| format!("{name}_{other}")).collect();
        entries.retain(|entry| !others.contains(&entry.key));
    }
}

/// Moves the spans of a value that was parsed alone to its place in `--set path=value`.
fn shift(node: &mut Node, column: usize) {
    let by = |span: &mut Span| {
        if span.line == 1 {
            span.column += column - 1;
        }
    };
    by(&mut node.span);
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| shift(item, column)),
        Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
            by(&mut entry.span);
            shift(&mut entry.node, column);
        }),
        _ => {}
    }
}

/// The dotted parts of a path with their offsets in characters; quotes protect dots (`evals."val.v2".type`).
fn segments(path: &str) -> Result<Vec<(String, usize)>, String> {
    let mut segments = vec![(String::new(), 0)];
    let mut quote = None;
    for (offset, c) in path.chars().enumerate() {
        let last = segments.len() - 1;
        match c {
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            '.' if quote.is_none() => segments.push((String::new(), offset + 1)),
            _ => segments[last].0.push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    if segments.iter().any(|(segment, _)| segment.is_empty()) {
        return Err("a part of the key between dots is empty".to_owned());
    }
    Ok(segments)
}
