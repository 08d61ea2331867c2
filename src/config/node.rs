//! A parsed YAML document in which every value knows where it stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_yaml::Spanned;

/// Where a value stands: a source, and a line and column in it counted from 1 (0: nowhere, as for defaults).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    pub(super) source: usize,
    pub(super) line: usize,
    pub(super) column: usize,
    /// Characters that the excerpt's carets underline.
    pub(super) len: usize,
}

/// A YAML value with its place. Equality compares values only.
#[derive(Debug, Clone)]
pub struct Node {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// What a [`Node`] holds. Maps keep their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a map.
#[derive(Debug, Clone)]
pub struct Entry {
    pub(super) key: String,
    pub(super) span: Span,
    pub(super) node: Node,
}

impl Entry {
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn node(&self) -> &Node {
        &self.node
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.kind == other.kind
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.key == other.key && self.node == other.node
    }
}

impl From<Kind> for Node {
    fn from(kind: Kind) -> Node {
        Node { kind, span: Span::default() }
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Node {
        Kind::Str(text.to_owned()).into()
    }
}

impl Node {
    /// Reads one YAML 1.2 document. Only `true` and `false` are booleans; `no`, `off` and `1_000` are
    /// strings. Duplicate keys, several documents, unknown tags, depth over 32 and runaway aliases are
    /// errors.
    pub(super) fn parse(text: &str, source: usize) -> Result<Node, Box<ParseError>> {
        let options = serde_yaml::options! {
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            reject_unsupported_tags: true,
            non_finite_float_policy: serde_yaml::options::NonFiniteFloatPolicy::PassThrough,
            with_snippet: false,
            budget: serde_yaml::budget! { max_nodes: 100_000, max_depth: 32 },
        };
        let raw: Spanned<Raw> = serde_yaml::from_str_with_options(text, options).map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            let message = error.to_string();
            // The position is reported apart from the message.
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            let message = message.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
            let span = Span { source, line: line as usize, column: column as usize, len: 1 };
            Box::new(ParseError { span, message })
        })?;
        Ok(raw.into_node(source))
    }

    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    pub fn span(&self) -> Span {
        self.span
    }

    pub fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// Where a key of this map stands, or the map itself when it has no such key.
    pub fn key_span(&self, key: &str) -> Span {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|e| e.key == key).map_or(self.span, |e| e.span),
            _ => self.span,
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => (*value).into(),
            Kind::Int(value) => (*value).into(),
            Kind::Float(value) => (*value).into(),
            Kind::Str(value) => value.as_str().into(),
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Map(entries) => entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect(),
        }
    }
}

/// The value as an error message names it: `the string "abc"`, `a list of 3`.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Null => f.write_str("null"),
            Kind::Bool(value) => write!(f, "the boolean {value}"),
            Kind::Int(value) => write!(f, "the integer {value}"),
            Kind::Float(value) => write!(f, "the number {value}"),
            Kind::Str(value) if value.chars().count() > 40 => {
                write!(f, "the string {:?}", value.chars().take(37).collect::<String>() + "...")
            }
            Kind::Str(value) => write!(f, "the string {value:?}"),
            Kind::List(items) => write!(f, "a list of {}", items.len()),
            Kind::Map(entries) => match entries.first() {
                None => f.write_str("an empty mapping"),
                Some(entry) => write!(f, "a mapping ({}: ...)", entry.key),
            },
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            Kind::Null => serializer.serialize_unit(),
            Kind::Bool(value) => serializer.serialize_bool(*value),
            Kind::Int(value) => serializer.serialize_i64(*value),
            Kind::Float(value) => serializer.serialize_f64(*value),
            Kind::Str(value) => serializer.serialize_str(value),
            Kind::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Kind::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|entry| map.serialize_entry(&entry.key, &entry.node))?;
                map.end()
            }
        }
    }
}

/// A document that is not YAML, or not YAML that a config may hold.
#[derive(Debug)]
pub(super) struct ParseError {
    pub span: Span,
    pub message: String,
}

/// A [`Node`] as the YAML crate hands it over.
enum Raw {
    Scalar(Kind),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

trait IntoNode {
    fn into_node(self, source: usize) -> Node;
}

fn span_of<T>(value: &Spanned<T>, source: usize) -> Span {
    let at = &value.referenced;
    let len = at.span().len().max(1) as usize;
    Span { source, line: at.line() as usize, column: at.column() as usize, len }
}

impl IntoNode for Spanned<Raw> {
    fn into_node(self, source: usize) -> Node {
        let mut span = span_of(&self, source);
        let kind = match self.value {
            Raw::Scalar(kind) => kind,
            Raw::List(items) => {
                span.len = 1;
                Kind::List(items.into_iter().map(|item| item.into_node(source)).collect())
            }
            Raw::Map(entries) => {
                span.len = 1;
                let entry = |(key, value): (Spanned<String>, Spanned<Raw>)| {
                    let span = span_of(&key, source);
                    Entry { key: key.value, span, node: value.into_node(source) }
                };
                Kind::Map(entries.into_iter().map(entry).collect())
            }
        };
        Node { kind, span }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Kind::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Kind::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Kind::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Kind::Int(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Raw, E> {
        let value =
            i64::try_from(value).map_err(|_| E::custom(format!("integer {value} is out of range")))?;
        self.visit_i64(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Kind::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Kind::Str(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(yaml: &str) -> Kind {
        Node::parse(yaml, 0).unwrap().kind
    }

    fn text(value: &str) -> Kind {
        Kind::Str(value.to_owned())
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        assert_eq!(value("1e-5"), Kind::Float(1e-5));
        assert_eq!(value("1E5"), Kind::Float(1e5));
        assert_eq!(value("-.5"), Kind::Float(-0.5));
        assert_eq!(value(".inf"), Kind::Float(f64::INFINITY));
        assert_eq!(value("+1"), Kind::Int(1));
        assert_eq!(value("true"), Kind::Bool(true));
        assert_eq!(value("~"), Kind::Null);
        assert_eq!(value(""), Kind::Null);
        for word in ["no", "off", "y", "yes", "on", "010", "1_000", "12:30", "2024-01-01"] {
            assert_eq!(value(word), text(word), "{word}");
        }
        assert_eq!(value("\"1\""), text("1"));
    }

    #[test]
    fn anchors_and_merges_are_expanded() {
        let node = Node::parse("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n", 0).unwrap();
        assert_eq!(node.get("a"), node.get("b"));
        assert_eq!(node.get("c").unwrap().get("q").unwrap().kind, Kind::Int(3));
        assert_eq!(node.get("c").unwrap().get("p").unwrap().kind, Kind::Int(1));
    }

    #[test]
    fn hostile_documents_are_errors() {
        let error = |yaml: &str| Node::parse(yaml, 0).unwrap_err().message;
        assert!(error("a: 1\na: 2\n").starts_with("duplicate mapping key: a"));
        assert!(error("a: 1\n---\nb: 2\n").contains("multiple YAML documents"));
        assert!(error("a: &x [*x]").contains("recursive"));
        assert!(error("a: !!python/object x").contains("tag"));
        assert!(error("a: 18446744073709551615").contains("out of range"));
        assert!(error(&("[".repeat(5000) + &"]".repeat(5000))).contains("limit"));
        assert!(
            error(&(0..100).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>()).contains("depth")
        );
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert!(error(&bomb).contains("budget"), "{}", error(&bomb));
    }

    #[test]
    fn a_place_is_kept_for_every_key_and_value() {
        let node = Node::parse("a:\n  bé: [1, xyz]\n", 3).unwrap();
        let Kind::Map(entries) = &node.get("a").unwrap().kind else { panic!("a map") };
        assert_eq!(entries[0].span, Span { source: 3, line: 2, column: 3, len: 2 });
        let Kind::List(items) = &entries[0].node.kind else { panic!("a list") };
        assert_eq!(items[1].span, Span { source: 3, line: 2, column: 11, len: 3 });
    }

    fn any_node() -> impl Strategy<Value = Node> {
        let scalar = prop_oneof![
            Just(Kind::Null),
            any::<bool>().prop_map(Kind::Bool),
            any::<i64>().prop_map(Kind::Int),
            any::<f64>().prop_filter("NaN is not equal to itself", |v| !v.is_nan()).prop_map(Kind::Float),
            "[ -~\n\t\u{e9}]{0,12}".prop_map(Kind::Str),
            prop::sample::select(vec![
                "no", "1e-5", "null", "~", "010", "- a", "{x}", "a: b", "0x1", "true", ".nan"
            ])
            .prop_map(text),
        ];
        scalar.prop_map(Node::from).prop_recursive(3, 20, 4, |inner| {
            let key = "[a-z/_. :{#-]{1,6}";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| Kind::List(items).into()),
                prop::collection::btree_map(key, inner, 0..4).prop_map(|map| {
                    let entry = |(key, node)| Entry { key, span: Span::default(), node };
                    Kind::Map(map.into_iter().map(entry).collect()).into()
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(node in any_node()) {
            let yaml = serde_yaml::to_string(&node).unwrap();
            prop_assert_eq!(Node::parse(&yaml, 0).unwrap(), node, "{}", yaml);
        }

        #[test]
        fn no_text_panics(text in "[ -~\n]{0,60}") {
            let _ = Node::parse(&text, 0);
        }
    }
}
