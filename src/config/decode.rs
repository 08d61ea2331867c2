//! From parsed YAML to typed values: collects every mistake on the way instead of stopping at the first.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::error::{Origin, Problem, nearest, suggest};
use super::node::{Entry, Kind, Node, Span};
use super::steps::Duration;
use crate::array::DType;

/// Where decoding stands in the config, and the mistakes so far.
#[derive(Debug)]
pub struct Decoder {
    pub(super) origin: Arc<Origin>,
    path: Vec<String>,
    pub(super) problems: Vec<Problem>,
    /// Keys that exist only because `--set` named something inside them, with what may have been meant.
    pub(super) created: Vec<(String, String)>,
}

impl Decoder {
    pub(super) fn new(origin: Arc<Origin>, path: Vec<String>) -> Self {
        Decoder { origin, path, problems: Vec::new(), created: Vec::new() }
    }

    /// The dotted key that is being decoded.
    pub fn key(&self) -> String {
        self.path.join(".")
    }

    /// Whether `name`, a key of the section that is being decoded, has been found good so far. Checks of
    /// several keys ask first: a mistaken key stands there with its default.
    pub fn is_good(&self, name: &str) -> bool {
        let key = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key()) };
        let inside = |problem: &Problem| {
            problem.key.strip_prefix(&key).is_some_and(|p| p.is_empty() || p.starts_with('.'))
        };
        !self.problems.iter().any(inside)
    }

    pub(super) fn path(&self) -> &[String] {
        &self.path
    }

    /// Records a mistake. `None` is returned for the value that cannot be had.
    pub fn problem<T>(&mut self, span: Span, message: impl Into<String>) -> Option<T> {
        let (key, message) = (self.key(), message.into());
        self.problems.push(Problem { span, key, message });
        None
    }

    pub(super) fn expected<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        let key = self.key();
        let name = if key.is_empty() { "the config".to_owned() } else { key };
        self.problem(node.span, format!("{name} is {node}, expected {expected}"))
    }

    /// Decodes with `step` appended to the key.
    pub(super) fn within<T>(&mut self, step: &str, decode: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step.to_owned());
        let value = decode(self);
        self.path.pop();
        value
    }
}

/// A value that a config key can have.
pub trait Field: Sized {
    /// What the reference and error messages call it: `integer`, `list of string`.
    fn type_name() -> String;

    /// Reads the value; on a mistake, records it in `decoder` and returns `None`.
    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self>;

    /// The YAML that reads back as this value.
    fn encode(&self) -> Node;

    /// Rows of the keys inside this value, for sections.
    fn document(_prefix: &str, _rows: &mut Vec<Row>) {}
}

/// One key of the reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Dotted key, with placeholders for chosen names (`evals.NAME.type`).
    pub key: String,
    pub type_name: String,
    /// As YAML; `None` when the key must be given.
    pub default: Option<String>,
    pub meaning: String,
}

/// The entries of a map that no field has claimed yet.
#[derive(Debug)]
pub struct Remaining<'a> {
    pub(super) entries: Vec<&'a Entry>,
    /// The map itself, for mistakes that concern it as a whole.
    pub(super) span: Span,
}

impl<'a> Remaining<'a> {
    pub(super) fn take(&mut self, key: &str) -> Option<&'a Entry> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(index))
    }
}

/// How a field takes its keys out of its section: one key, or a family of keys.
pub trait Member: Sized {
    /// `Some(None)` when the keys are absent, `None` when they were wrong.
    fn take(key: &str, remaining: &mut Remaining<'_>, decoder: &mut Decoder) -> Option<Option<Self>>;

    fn put(&self, key: &str, entries: &mut Vec<Entry>);

    /// The keys that this member claims, for suggestions.
    fn keys(key: &str) -> Vec<String> {
        vec![key.to_owned()]
    }

    fn document(prefix: &str, key: &str, default: Option<&Self>, meaning: &str, rows: &mut Vec<Row>);
}

pub(super) fn entry(key: &str, node: Node) -> Entry {
    Entry { key: key.to_owned(), span: Span::default(), node }
}

/// One line of YAML.
pub(super) fn inline(node: &Node) -> String {
    match &node.kind {
        // JSON is YAML, and quotes strings only where the reference wants to show them.
        Kind::List(_) | Kind::Map(_) => node.to_json().to_string(),
        _ => serde_yaml::to_string(node).unwrap_or_default().trim_end().to_owned(),
    }
}

impl<T: Field> Member for T {
    fn take(key: &str, remaining: &mut Remaining<'_>, decoder: &mut Decoder) -> Option<Option<T>> {
        let Some(entry) = remaining.take(key) else { return Some(None) };
        decoder.within(key, |decoder| T::decode(&entry.node, decoder)).map(Some)
    }

    fn put(&self, key: &str, entries: &mut Vec<Entry>) {
        entries.push(entry(key, self.encode()));
    }

    fn document(prefix: &str, key: &str, default: Option<&T>, meaning: &str, rows: &mut Vec<Row>) {
        let key = format!("{prefix}{key}");
        let mut inner = Vec::new();
        <T as Field>::document(&format!("{key}."), &mut inner);
        // A section's default is told by the rows of its keys.
        let default = if inner.is_empty() || T::type_name().starts_with("map of") {
            default.map(|value| inline(&value.encode()))
        } else {
            default.map(|value| if value.encode().is_null() { "null".to_owned() } else { String::new() })
        };
        rows.push(Row { key, type_name: T::type_name(), default, meaning: meaning.to_owned() });
        rows.append(&mut inner);
    }
}

impl Member for Duration {
    fn take(key: &str, remaining: &mut Remaining<'_>, decoder: &mut Decoder) -> Option<Option<Duration>> {
        let mut duration = Duration::NONE;
        let mut set: Option<&Entry> = None;
        let mut good = true;
        let mut present = false;
        let forms =
            [&mut duration.steps, &mut duration.examples, &mut duration.epochs, &mut duration.percent];
        for (suffix, form) in Duration::SUFFIXES.iter().zip(forms) {
            let name = format!("{key}_{suffix}");
            let Some(entry) = remaining.take(&name) else { continue };
            present = true;
            let value = decoder.within(&name, |decoder| {
                let value = Option::<f64>::decode(&entry.node, decoder)?;
                if *suffix == "percent" && value.is_some_and(|v| v > 1.0) {
                    return decoder.expected(&entry.node, "a number from 0 to 1 (a share of the training)");
                }
                Some(value.filter(|v| *v >= 0.0))
            });
            let Some(value) = value else {
                good = false;
                continue;
            };
            *form = value;
            if value.is_some()
                && let Some(other) = set.replace(entry)
            {
                let message = format!("{name} and {} say the same thing, only one can be set", other.key);
                decoder.within(&name, |decoder| decoder.problem::<()>(entry.span, message));
                good = false;
            }
        }
        if !good {
            return None;
        }
        Some(present.then_some(duration))
    }

    fn put(&self, key: &str, entries: &mut Vec<Entry>) {
        let before = entries.len();
        for (suffix, value) in Duration::SUFFIXES.iter().zip(self.forms()) {
            if let Some(value) = value {
                entries.push(entry(&format!("{key}_{suffix}"), value.encode()));
            }
        }
        if entries.len() == before {
            entries.push(entry(&format!("{key}_steps"), Kind::Null.into()));
        }
    }

    fn keys(key: &str) -> Vec<String> {
        Duration::SUFFIXES.iter().map(|suffix| format!("{key}_{suffix}")).collect()
    }

    fn document(prefix: &str, key: &str, default: Option<&Self>, meaning: &str, rows: &mut Vec<Row>) {
        let default = default.map(|value| {
            let mut entries = Vec::new();
            value.put(key, &mut entries);
            match entries.as_slice() {
                [entry] if entry.node.is_null() => "null".to_owned(),
                entries => entries.iter().map(|e| format!("{}: {}", e.key, inline(&e.node))).collect(),
            }
        });
        let key = format!("{prefix}{}", Duration::keys(key).join(", "));
        rows.push(Row { key, type_name: "duration".to_owned(), default, meaning: meaning.to_owned() });
    }
}

/// Every entry that no key of the section claims: names chosen by the user, or arguments for someone else.
pub trait Rest: Sized {
    fn take_rest(remaining: &mut Remaining<'_>, known: &[String], decoder: &mut Decoder) -> Self;
    fn put_rest(&self, entries: &mut Vec<Entry>);
    fn document_rest(prefix: &str, meaning: &str, rows: &mut Vec<Row>);
}

/// The usual rest: none. What is left over is a mistake.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nothing;

impl Rest for Nothing {
    fn take_rest(remaining: &mut Remaining<'_>, known: &[String], decoder: &mut Decoder) -> Self {
        for entry in remaining.entries.drain(..) {
            unknown_key(entry, known, decoder);
        }
        Nothing
    }

    fn put_rest(&self, _entries: &mut Vec<Entry>) {}

    fn document_rest(_prefix: &str, _meaning: &str, _rows: &mut Vec<Row>) {}
}

pub(super) fn unknown_key(entry: &Entry, known: &[String], decoder: &mut Decoder) {
    let section = decoder.key();
    let place = if section.is_empty() { String::new() } else { format!(" in {section}") };
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = match nearest(&entry.key, &names).is_empty() {
        true => super::reference::elsewhere(&entry.key).unwrap_or_else(|| suggest(&entry.key, names)),
        false => suggest(&entry.key, names),
    };
    let message = format!("unknown key \"{}\"{place}, {hint}", entry.key);
    decoder.within(&entry.key, |decoder| decoder.problem::<()>(entry.span, message));
}

impl Field for bool {
    fn type_name() -> String {
        "boolean".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<bool> {
        match &node.kind {
            Kind::Bool(value) => Some(*value),
            _ => decoder.expected(node, "true or false"),
        }
    }

    fn encode(&self) -> Node {
        Kind::Bool(*self).into()
    }
}

macro_rules! integers {
    ($($type:ty => $expected:literal),*) => { $(
        impl Field for $type {
            fn type_name() -> String {
                "integer".into()
            }

            fn decode(node: &Node, decoder: &mut Decoder) -> Option<$type> {
                match &node.kind {
                    Kind::Int(value) => match <$type>::try_from(*value) {
                        Ok(value) => Some(value),
                        Err(_) => decoder.expected(node, $expected),
                    },
                    Kind::Str(text) if text.parse::<i64>().is_ok() => {
                        decoder.expected(node, concat!($expected, " without quotes"))
                    }
                    _ => decoder.expected(node, $expected),
                }
            }

            fn encode(&self) -> Node {
                match i64::try_from(*self) {
                    Ok(value) => Kind::Int(value).into(),
                    Err(_) => Kind::Float(*self as f64).into(),
                }
            }
        }
    )* };
}

integers!(usize => "an integer of at least 0", u64 => "an integer of at least 0", i64 => "an integer");

impl Field for f64 {
    fn type_name() -> String {
        "number".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<f64> {
        match &node.kind {
            Kind::Int(value) => Some(*value as f64),
            Kind::Float(value) if value.is_finite() => Some(*value),
            Kind::Float(_) => decoder.expected(node, "a finite number"),
            Kind::Str(text) if text.parse::<f64>().is_ok() => {
                decoder.expected(node, "a number without quotes")
            }
            _ => decoder.expected(node, "a number"),
        }
    }

    fn encode(&self) -> Node {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match self.fract() == 0.0 && self.abs() < EXACT && !(*self == 0.0 && self.is_sign_negative()) {
            true => Kind::Int(*self as i64).into(),
            false => Kind::Float(*self).into(),
        }
    }
}

impl Field for String {
    fn type_name() -> String {
        "string".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<String> {
        match &node.kind {
            Kind::Str(text) => Some(text.clone()),
            Kind::Int(_) | Kind::Float(_) | Kind::Bool(_) => {
                decoder.expected(node, "a string (put it in quotes)")
            }
            _ => decoder.expected(node, "a string"),
        }
    }

    fn encode(&self) -> Node {
        self.as_str().into()
    }
}

impl Field for DType {
    fn type_name() -> String {
        "dtype".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<DType> {
        const EXPECTED: &str = "a floating-point dtype (float32, bfloat16, float16 or float64)";
        match node.as_str().map(DType::from_str) {
            Some(Ok(dtype)) if dtype.is_float() => Some(dtype),
            _ => decoder.expected(node, EXPECTED),
        }
    }

    fn encode(&self) -> Node {
        match self {
            DType::BF16 => "bfloat16".into(),
            DType::F16 => "float16".into(),
            DType::F32 => "float32".into(),
            DType::F64 => "float64".into(),
            other => other.name().into(),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn type_name() -> String {
        format!("{} or null", T::type_name())
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Option<T>> {
        if node.is_null() { Some(None) } else { T::decode(node, decoder).map(Some) }
    }

    fn encode(&self) -> Node {
        self.as_ref().map_or(Kind::Null.into(), T::encode)
    }

    fn document(prefix: &str, rows: &mut Vec<Row>) {
        <T as Field>::document(prefix, rows);
    }
}

impl<T: Field> Field for Vec<T> {
    fn type_name() -> String {
        format!("list of {}", T::type_name())
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Vec<T>> {
        let Kind::List(items) = &node.kind else {
            return decoder.expected(node, &format!("a {}", Self::type_name()));
        };
        let decode = |(i, item): (usize, &Node)| decoder.within(&i.to_string(), |d| T::decode(item, d));
        // Every item is decoded, so that every mistake is found, before the first failure empties the result.
        let items: Vec<Option<T>> = items.iter().enumerate().map(decode).collect();
        items.into_iter().collect()
    }

    fn encode(&self) -> Node {
        Kind::List(self.iter().map(T::encode).collect()).into()
    }
}

/// A list of two.
impl<A: Field, B: Field> Field for (A, B) {
    fn type_name() -> String {
        format!("[{}, {}]", A::type_name(), B::type_name())
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<(A, B)> {
        let Kind::List(items) = &node.kind else { return decoder.expected(node, &Self::type_name()) };
        let [a, b] = items.as_slice() else { return decoder.expected(node, &Self::type_name()) };
        let a = decoder.within("0", |decoder| A::decode(a, decoder));
        let b = decoder.within("1", |decoder| B::decode(b, decoder));
        Some((a?, b?))
    }

    fn encode(&self) -> Node {
        Kind::List(vec![self.0.encode(), self.1.encode()]).into()
    }

    fn document(prefix: &str, rows: &mut Vec<Row>) {
        <B as Field>::document(prefix, rows);
    }
}

/// Values under names that the user chooses, in the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<T> Named<T> {
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An entry that is `null` is dropped: `--set evals.val=null` switches it off.
impl<T: Field> Field for Named<T> {
    fn type_name() -> String {
        format!("map of {}", T::type_name())
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<Self> {
        let entries = match &node.kind {
            Kind::Map(entries) => entries.as_slice(),
            Kind::Null => &[],
            _ => return decoder.expected(node, &format!("a {}", Self::type_name())),
        };
        let decode = |entry: &Entry| {
            let value = decoder.within(&entry.key, |decoder| T::decode(&entry.node, decoder));
            value.map(|value| (entry.key.clone(), value))
        };
        let items: Vec<_> = entries.iter().filter(|entry| !entry.node.is_null()).map(decode).collect();
        items.into_iter().collect::<Option<Vec<_>>>().map(Named)
    }

    fn encode(&self) -> Node {
        Kind::Map(self.0.iter().map(|(name, value)| entry(name, value.encode())).collect()).into()
    }

    fn document(prefix: &str, rows: &mut Vec<Row>) {
        <T as Field>::document(&format!("{prefix}NAME."), rows);
    }
}

/// A path, as it is opened: relative to the working directory where that exists, else to the config file's
/// folder where that exists, else as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl FilePath {
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// The text with its path resolved as [`FilePath`] tells; a `:suffix` (as in `model.npz:img`) is left alone.
pub(super) fn resolve_path(text: &str, folder: &Path) -> String {
    let beside = folder.join(text);
    let (file, _) = text.rsplit_once(':').unwrap_or((text, ""));
    let found = |path: &str| !path.is_empty() && (Path::new(path).exists() || folder.join(path).exists());
    if Path::new(text).exists() || folder.as_os_str().is_empty() {
        return text.to_owned();
    }
    // A train state of big_vision by its name without the step.
    let is_state = |path: &Path| path.with_file_name(format!("{}-LAST", file_name(path))).exists();
    if is_state(Path::new(text)) {
        return text.to_owned();
    }
    let exists = beside.exists() || is_state(&beside) || (found(file) && !Path::new(file).exists());
    match beside.to_str() {
        Some(beside) if exists && !text.is_empty() => beside.to_owned(),
        _ => text.to_owned(),
    }
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

impl Field for FilePath {
    fn type_name() -> String {
        "path".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<FilePath> {
        match node.as_str() {
            Some("") | None => decoder.expected(node, "a path"),
            Some(text) => Some(FilePath(resolve_path(text, &decoder.origin.folder).into())),
        }
    }

    fn encode(&self) -> Node {
        self.0.to_string_lossy().as_ref().into()
    }
}
