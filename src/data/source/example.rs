//! `tf.train.Example`, the message that TFRecord files of data sets hold, and its features as row values.
//! Field numbers and types are those of TensorFlow's `example.proto` and `feature.proto`.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

use crate::data::Value;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Example {
    #[prost(message, optional, tag = "1")]
    pub features: Option<Features>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Features {
    #[prost(btree_map = "string, message", tag = "1")]
    pub feature: BTreeMap<String, Feature>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Feature {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Kind {
    #[prost(message, tag = "1")]
    Bytes(BytesList),
    #[prost(message, tag = "2")]
    Floats(FloatList),
    #[prost(message, tag = "3")]
    Ints(Int64List),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BytesList {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub value: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FloatList {
    #[prost(float, repeated, tag = "1")]
    pub value: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Int64List {
    #[prost(int64, repeated, tag = "1")]
    pub value: Vec<i64>,
}

/// What the elements of a feature are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Bytes,
    /// Bytes that are UTF-8.
    Str,
    Int,
    Float,
    Bool,
}

impl Element {
    pub const fn name(self) -> &'static str {
        match self {
            Element::Bytes => "bytes",
            Element::Str => "string",
            Element::Int => "int",
            Element::Float => "float",
            Element::Bool => "bool",
        }
    }
}

impl Kind {
    pub fn len(&self) -> usize {
        match self {
            Kind::Bytes(list) => list.value.len(),
            Kind::Floats(list) => list.value.len(),
            Kind::Ints(list) => list.value.len(),
        }
    }

    /// The elements as they are most likely meant, for messages.
    pub fn guess(&self) -> Element {
        match self {
            Kind::Bytes(list) if list.value.iter().all(|bytes| str::from_utf8(bytes).is_ok()) => Element::Str,
            Kind::Bytes(_) => Element::Bytes,
            Kind::Floats(_) => Element::Float,
            Kind::Ints(_) => Element::Int,
        }
    }
}

/// The features of a serialized example.
///
/// # Errors
/// When the bytes are no `tf.train.Example`.
pub(super) fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Feature>, String> {
    let example =
        Example::decode(bytes).map_err(|error| format!("the record is no tf.train.Example: {error}"))?;
    Ok(example.features.unwrap_or_default().feature)
}

/// The elements of a feature; one that is absent or empty has none.
///
/// # Errors
/// When the feature holds elements of another type, or text that is not UTF-8.
pub(super) fn elements(name: &str, feature: Option<Feature>, element: Element) -> Result<Vec<Value>, String> {
    let Some(kind) = feature.and_then(|feature| feature.kind) else { return Ok(Vec::new()) };
    let guess = kind.guess();
    Ok(match (kind, element) {
        (Kind::Bytes(list), Element::Bytes) => list.value.into_iter().map(Value::Bytes).collect(),
        (Kind::Bytes(list), Element::Str) => {
            let text = |bytes: Vec<u8>| {
                String::from_utf8(bytes).map(Value::Str).map_err(|error| {
                    let at = error.utf8_error().valid_up_to();
                    format!("feature \"{name}\" is no text: byte {at} is not UTF-8; declare it as bytes")
                })
            };
            list.value.into_iter().map(text).collect::<Result<_, _>>()?
        }
        (Kind::Floats(list), Element::Float) => {
            list.value.into_iter().map(|float| Value::Float(float.into())).collect()
        }
        (Kind::Ints(list), Element::Int) => list.value.into_iter().map(Value::Int).collect(),
        (Kind::Ints(list), Element::Bool) => {
            list.value.into_iter().map(|int| Value::Bool(int != 0)).collect()
        }
        // Writers give an empty list the type they like.
        (kind, _) if kind.len() == 0 => Vec::new(),
        _ => {
            return Err(format!(
                "feature \"{name}\" holds elements of type {}, expected {}",
                guess.name(),
                element.name()
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_checked_against_their_type() {
        let bytes = |value: &[&[u8]]| {
            let list = BytesList { value: value.iter().map(|bytes| bytes.to_vec()).collect() };
            Some(Feature { kind: Some(Kind::Bytes(list)) })
        };
        assert_eq!(elements("a", None, Element::Int).unwrap(), []);
        assert_eq!(elements("a", bytes(&[]), Element::Int).unwrap(), []);
        assert_eq!(elements("a", bytes(&[b"x"]), Element::Str).unwrap(), [Value::from("x")]);
        assert_eq!(
            elements("a", bytes(&[b"x"]), Element::Int).unwrap_err(),
            "feature \"a\" holds elements of type string, expected int"
        );
        assert_eq!(
            elements("a", bytes(&[b"x\xff"]), Element::Str).unwrap_err(),
            "feature \"a\" is no text: byte 1 is not UTF-8; declare it as bytes"
        );
        let ints = Some(Feature { kind: Some(Kind::Ints(Int64List { value: vec![2, 0] })) });
        assert_eq!(elements("a", ints, Element::Bool).unwrap(), [Value::Bool(true), Value::Bool(false)]);
    }
}
