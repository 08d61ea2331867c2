//! Python literals, the arguments of ops.

use std::fmt;

/// A value as a pp string spells it.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Literal>),
    Tuple(Vec<Literal>),
    /// In the order written, without repeats.
    Set(Vec<Literal>),
    /// In the order of the first appearance of each key.
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Literal::None => "None",
            Literal::Bool(_) => "a boolean",
            Literal::Int(_) => "an integer",
            Literal::Float(_) => "a float",
            Literal::Str(_) => "a string",
            Literal::Bytes(_) => "bytes",
            Literal::List(_) => "a list",
            Literal::Tuple(_) => "a tuple",
            Literal::Set(_) => "a set",
            Literal::Dict(_) => "a dict",
        }
    }

    /// The items of a list or tuple.
    pub fn items(&self) -> Option<&[Literal]> {
        match self {
            Literal::List(items) | Literal::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Literal::Int(value) => Some(value as f64),
            Literal::Float(value) => Some(value),
            Literal::Bool(value) => Some(f64::from(u8::from(value))),
            _ => None,
        }
    }

    pub(super) fn is_hashable(&self) -> bool {
        match self {
            Literal::List(_) | Literal::Set(_) | Literal::Dict(_) => false,
            Literal::Tuple(items) => items.iter().all(Literal::is_hashable),
            _ => true,
        }
    }

    /// Python's `==`, by which `1`, `1.0` and `True` are the same key.
    fn same_key(&self, other: &Literal) -> bool {
        match (self.as_f64(), other.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => self == other,
        }
    }
}

/// `dict[key] = value`
pub(super) fn set_item(dict: &mut Vec<(Literal, Literal)>, key: Literal, value: Literal) {
    match dict.iter_mut().find(|(known, _)| known.same_key(&key)) {
        Some((_, old)) => *old = value,
        None => dict.push((key, value)),
    }
}

/// `set.add(item)`
pub(super) fn push_unique(set: &mut Vec<Literal>, item: Literal) {
    if !set.iter().any(|known| known.same_key(&item)) {
        set.push(item);
    }
}

/// As Python prints it, nearly: strings have Rust's escapes.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open: &str, items: &[Literal], close: &str| {
            f.write_str(open)?;
            for (i, item) in items.iter().enumerate() {
                write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
            }
            f.write_str(close)
        };
        match self {
            Literal::None => f.write_str("None"),
            Literal::Bool(value) => f.write_str(if *value { "True" } else { "False" }),
            Literal::Int(value) => write!(f, "{value}"),
            Literal::Float(value) => write!(f, "{value:?}"),
            Literal::Str(text) => write!(f, "{text:?}"),
            Literal::Bytes(bytes) => write!(f, "b\"{}\"", bytes.escape_ascii()),
            Literal::List(items) => list(f, "[", items, "]"),
            Literal::Tuple(items) => list(f, "(", items, if items.len() == 1 { ",)" } else { ")" }),
            Literal::Set(items) if items.is_empty() => f.write_str("set()"),
            Literal::Set(items) => list(f, "{", items, "}"),
            Literal::Dict(pairs) => {
                f.write_str("{")?;
                for (i, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}
