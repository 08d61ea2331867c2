//! Values with a shape of their own: rules over parameter names, free arguments, initialisation.

use std::sync::Arc;

use regex::Regex;

use super::decode::{Decoder, Field, Remaining, Rest, Row, resolve_path, unknown_key};
use super::error::{Error, Origin, invalid, nearest};
use super::node::{Entry, Kind, Node, Span};
use crate::config_section;

/// A regular expression that a whole parameter name (`llm/layers/attn/q_einsum/w`) must match.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// # Errors
    /// When `text` is not a regular expression.
    pub fn new(text: &str) -> Result<Pattern, regex::Error> {
        // Compiled alone first, so that errors point into the user's text and not into the wrapping.
        Regex::new(text)?;
        Ok(Pattern { text: text.to_owned(), regex: Regex::new(&format!("^(?:{text})$"))? })
    }

    /// The pattern that matches every name.
    pub fn any() -> Pattern {
        Pattern::new(".*").expect("it is a regular expression")
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_match(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Field for Pattern {
    fn type_name() -> String {
        "regex".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Pattern> {
        let text = String::decode(node, decoder)?;
        Pattern::new(&text).map_or_else(
            |error| {
                let error = error.to_string();
                // The last line of the parser's message is the reason; the rest draws the pattern once more.
                let reason =
                    error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                decoder.problem(node.span, format!("{} is not a regular expression: {reason}", decoder.key()))
            },
            Some,
        )
    }

    fn encode(&self) -> Node {
        self.text.as_str().into()
    }
}

/// An ordered list of `[regex, value]`: the first pattern that matches a parameter's whole name decides. A
/// value alone stands for `[[".*", value]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules<T>(pub Vec<(Pattern, T)>);

impl<T> Rules<T> {
    /// Rules from patterns that are known to be good.
    ///
    /// # Panics
    /// When a pattern is not a regular expression: this is for constants of the program.
    pub fn of(rules: Vec<(&str, T)>) -> Rules<T> {
        let compiled = |text| Pattern::new(text).expect("patterns in the program are regular expressions");
        Rules(rules.into_iter().map(|(text, value)| (compiled(text), value)).collect())
    }

    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(name)).map(|(_, value)| value)
    }
}

impl<T: Field> Field for Rules<T> {
    fn type_name() -> String {
        format!("list of [regex, {0}], or one {0} for all", T::type_name())
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Rules<T>> {
        match &node.kind {
            Kind::List(_) => Vec::decode(node, decoder).map(Rules),
            _ => T::decode(node, decoder).map(|value| Rules::of(vec![(".*", value)])),
        }
    }

    fn encode(&self) -> Node {
        self.0.encode()
    }

    fn document(prefix: &str, rows: &mut Vec<Row>) {
        T::document(prefix, rows);
    }
}

/// Arguments for something that the config does not know itself: an optimizer, an evaluator, a predict
/// function. Whoever takes them declares a [`config_section!`](crate::config_section) and calls
/// [`parse`](Self::parse).
#[derive(Debug, Clone, Default)]
pub struct Kwargs {
    entries: Vec<Entry>,
    span: Span,
    path: Vec<String>,
    origin: Arc<Origin>,
}

impl PartialEq for Kwargs {
    fn eq(&self, other: &Kwargs) -> bool {
        self.entries == other.entries
    }
}

impl Kwargs {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Reads the arguments as the section that `T` declares.
    ///
    /// # Errors
    /// All unknown keys and wrong values, with their places in the config.
    pub fn parse<T: Field>(&self) -> Result<T, Error> {
        let mut decoder = Decoder::new(self.origin.clone(), self.path.clone());
        let node = Node { kind: Kind::Map(self.entries.clone()), span: self.span };
        match T::decode(&node, &mut decoder) {
            Some(value) if decoder.problems.is_empty() => Ok(value),
            _ => Err(invalid(&self.origin, decoder.problems)),
        }
    }

    fn new(entries: Vec<Entry>, span: Span, decoder: &Decoder) -> Kwargs {
        Kwargs { entries, span, path: decoder.path().to_vec(), origin: decoder.origin.clone() }
    }
}

impl Field for Kwargs {
    fn type_name() -> String {
        "map of arguments".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Kwargs> {
        match &node.kind {
            Kind::Map(entries) => Some(Kwargs::new(entries.clone(), node.span, decoder)),
            Kind::Null => Some(Kwargs::new(Vec::new(), node.span, decoder)),
            _ => decoder.expected(node, "a mapping of arguments"),
        }
    }

    fn encode(&self) -> Node {
        Kind::Map(self.entries.clone()).into()
    }
}

/// As the rest of a section: arguments beside the keys that the section knows. One that is nearly a known key
/// is a mistake, since it would be passed on in silence.
impl Rest for Kwargs {
    fn take_rest(remaining: &mut Remaining<'_>, known: &[String], decoder: &mut Decoder) -> Kwargs {
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        let (mistaken, passed): (Vec<&Entry>, Vec<&Entry>) = remaining.entries.drain(..).partition(|entry| {
            let near = nearest(&entry.key, &names).first().map(|name| strsim::osa_distance(name, &entry.key));
            near.is_some_and(|distance| distance <= if entry.key.len() >= 6 { 2 } else { 1 })
        });
        mistaken.into_iter().for_each(|entry| unknown_key(entry, known, decoder));
        Kwargs::new(passed.into_iter().cloned().collect(), remaining.span, decoder)
    }

    fn put_rest(&self, entries: &mut Vec<Entry>) {
        entries.extend(self.entries.iter().cloned());
    }

    fn document_rest(prefix: &str, meaning: &str, rows: &mut Vec<Row>) {
        let (key, meaning) = (format!("{prefix}*"), meaning.to_owned());
        rows.push(Row { key, type_name: "any".into(), default: Some(String::new()), meaning });
    }
}

/// What initial parameters come from: one checkpoint for the whole model, or one for each tower.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelInit {
    /// A file, or one of the reference's names for published checkpoints (`pt_224`, `pt_3b_448`).
    Whole(String),
    Towers {
        img: Option<String>,
        llm: Option<String>,
    },
}

config_section! {
    /// Initial parameters by tower.
    pub struct Towers {
        /// Checkpoint of the image tower.
        pub img: Option<String> = None;
        /// Checkpoint of the language model.
        pub llm: Option<String> = None;
    }
}

impl Field for ModelInit {
    fn type_name() -> String {
        "checkpoint, or {img: checkpoint, llm: checkpoint}".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<ModelInit> {
        let resolve = |text: &String, decoder: &Decoder| resolve_path(text, &decoder.origin.folder);
        match &node.kind {
            Kind::Str(text) if !text.is_empty() => Some(ModelInit::Whole(resolve(text, decoder))),
            Kind::Map(_) => {
                let towers = Towers::decode(node, decoder)?;
                let resolve = |text: Option<String>| text.map(|text| resolve(&text, decoder));
                Some(ModelInit::Towers { img: resolve(towers.img), llm: resolve(towers.llm) })
            }
            _ => decoder.expected(node, "a checkpoint, or a mapping with img and llm"),
        }
    }

    fn encode(&self) -> Node {
        match self {
            ModelInit::Whole(text) => text.encode(),
            ModelInit::Towers { img, llm } => Towers { img: img.clone(), llm: llm.clone() }.encode(),
        }
    }
}

/// The mesh axes that a logical axis is laid over: none, one, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axes(pub Vec<String>);

impl Field for Axes {
    fn type_name() -> String {
        "mesh axis, list of them, or null".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Axes> {
        match &node.kind {
            Kind::Null => Some(Axes(Vec::new())),
            Kind::Str(axis) => Some(Axes(vec![axis.clone()])),
            Kind::List(_) => Vec::decode(node, decoder).map(Axes),
            _ => decoder.expected(node, "a mesh axis, a list of them, or null"),
        }
    }

    fn encode(&self) -> Node {
        match self.0.as_slice() {
            [axis] => axis.encode(),
            axes => axes.to_vec().encode(),
        }
    }
}

/// A height and a width in pixels; one integer stands for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize, pub usize);

impl Field for Size {
    fn type_name() -> String {
        "integer or [height, width]".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Size> {
        let size = match &node.kind {
            Kind::Int(side) => usize::try_from(*side).ok().map(|side| Size(side, side)),
            Kind::List(_) => {
                <(usize, usize)>::decode(node, decoder).map(|(height, width)| Size(height, width))
            }
            _ => None,
        };
        match size.filter(|size| size.0 > 0 && size.1 > 0) {
            None => decoder.expected(node, "an integer greater than 0, or [height, width]"),
            size => size,
        }
    }

    fn encode(&self) -> Node {
        if self.0 == self.1 { self.0.encode() } else { (self.0, self.1).encode() }
    }
}
