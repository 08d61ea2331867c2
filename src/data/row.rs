use std::fmt;

use indexmap::IndexMap;

/// One example as a [`Source`](super::Source) stores it: named fields, in the source's order.
pub type Row = IndexMap<String, Value>;

/// The value of one field. What is null has no field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Str(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// The content of a file, such as an encoded image.
    Bytes(Vec<u8>),
    List(Vec<Value>),
    /// Named fields within a field; the pp op `flatten` makes them `outer/inner`.
    Dict(Row),
}

impl Value {
    /// The kind of value, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Value::Str(_) => "string",
            Value::Int(_) => "integer",
            Value::Float(_) => "float",
            Value::Bool(_) => "bool",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Dict(_) => "dict",
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Reads JSON; the error is what the value contained that a row cannot hold.
    pub(super) fn from_json(value: serde_json::Value) -> Result<Self, &'static str> {
        use serde_json::Value as Json;
        Ok(match value {
            Json::String(text) => Value::Str(text),
            Json::Bool(flag) => Value::Bool(flag),
            Json::Number(number) => match number.as_i64() {
                Some(int) => Value::Int(int),
                // Integers beyond 64 bits lose their low digits here, as in any JSON reader with doubles.
                None => Value::Float(number.as_f64().ok_or("a number out of range")?),
            },
            Json::Array(items) => {
                Value::List(items.into_iter().map(Value::from_json).collect::<Result<_, _>>()?)
            }
            Json::Null => return Err("null"),
            Json::Object(fields) => {
                let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
                let field = |(name, value)| Value::from_json(value).map(|value| (name, value));
                Value::Dict(fields.map(field).collect::<Result<_, _>>()?)
            }
        })
    }
}

impl fmt::Display for Value {
    /// Strings bare, bytes as their number, everything else as in JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Str(text) => f.write_str(text),
            Value::Int(int) => int.fmt(f),
            Value::Float(float) => float.fmt(f),
            Value::Bool(flag) => flag.fmt(f),
            Value::Bytes(bytes) => write!(f, "<{} bytes>", bytes.len()),
            Value::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    item.fmt(f)?;
                }
                f.write_str("]")
            }
            Value::Dict(fields) => {
                f.write_str("{")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{name}: {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

macro_rules! from {
    ($($rust:ty => $variant:ident),*) => {
        $(impl From<$rust> for Value { fn from(value: $rust) -> Self { Value::$variant(value.into()) } })*
    };
}

from!(String => Str, &str => Str, i64 => Int, f64 => Float, bool => Bool, Vec<u8> => Bytes, Vec<Value> => List, Row => Dict);
