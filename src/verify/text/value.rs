//! Values as recordings write them.

use serde_json::Value as Json;

use crate::array::{DType, HostArray};
use crate::pp::{Example, Literal, Strings, Value};

/// A recorded dict of values; `None` where it is not written as it should be.
pub(super) fn example(recorded: &Json) -> Option<Example> {
    recorded.as_object()?.iter().map(|(key, entry)| Some((key.as_str(), value(entry)?))).collect()
}

/// `{"dtype", "shape", "value"}`, `{"dict"}`, `{"list"}` or `{"tuple"}`. A ragged array of one row is an array with a
/// first dimension of extent 1, as the op that makes it here has it.
pub(super) fn value(recorded: &Json) -> Option<Value> {
    if let Some(entries) = recorded.get("dict") {
        return Some(Value::Dict(example(entries)?));
    }
    if let Some(items) = recorded.get("list").or(recorded.get("tuple")) {
        return Some(Value::List(items.as_array()?.iter().map(value).collect::<Option<_>>()?));
    }
    let content = &recorded["value"];
    let dims = match recorded.get("shape") {
        Some(shape) => shape_of(shape)?,
        None => extents(content),
    };
    let mut leaves = Vec::new();
    collect(content, &mut leaves);
    let dtype = recorded["dtype"].as_str()?;
    if dtype == "string" {
        let texts = leaves.iter().map(|leaf| Some(leaf.as_str()?.to_owned())).collect::<Option<_>>()?;
        return Strings::new(dims, texts).ok().map(Value::Text);
    }
    let dtype: DType = dtype.parse().ok()?;
    if dtype == DType::S64 {
        let numbers: Vec<i64> = leaves.iter().map(|leaf| leaf.as_i64()).collect::<Option<_>>()?;
        return HostArray::new(dims, &numbers).ok().map(Value::Array);
    }
    let number = |leaf: &&Json| match leaf {
        Json::Bool(value) => Some(f64::from(u8::from(*value))),
        Json::String(text) => text.parse().ok(),
        leaf => leaf.as_f64(),
    };
    let numbers: Vec<f64> = leaves.iter().map(number).collect::<Option<_>>()?;
    Some(Value::Array(HostArray::new(dims, &numbers).ok()?.cast(dtype)))
}

pub(super) fn shape_of(shape: &Json) -> Option<Vec<usize>> {
    shape.as_array()?.iter().map(|extent| usize::try_from(extent.as_u64()?).ok()).collect()
}

fn extents(content: &Json) -> Vec<usize> {
    let mut dims = Vec::new();
    let mut inner = Some(content);
    while let Some(Json::Array(items)) = inner {
        dims.push(items.len());
        inner = items.first();
    }
    dims
}

fn collect<'j>(value: &'j Json, leaves: &mut Vec<&'j Json>) {
    match value {
        Json::Array(items) => items.iter().for_each(|item| collect(item, leaves)),
        leaf => leaves.push(leaf),
    }
}

/// Whether two values are the same, where numbers that are none are equal.
pub(super) fn same_value(got: &Value, expected: &Value) -> bool {
    match (got, expected) {
        (Value::Array(a), Value::Array(b)) => {
            let same = |(a, b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan();
            a.shape() == b.shape() && (a == b || a.to_f64().iter().zip(&b.to_f64()).all(same))
        }
        (got, expected) => got == expected,
    }
}

/// Whether a parsed literal is the recorded one: JSON's null, booleans and strings, `{"int"}`, `{"float": repr}`,
/// `{"list" | "tuple" | "set"}` or `{"dict": [[key, value], …]}`.
pub(super) fn same_literal(got: &Literal, expected: &Json) -> bool {
    let same_list = |items: &[Literal], kind: &str| {
        let expected = expected.get(kind).and_then(Json::as_array);
        let all = |expected: &Vec<Json>| items.iter().zip(expected).all(|(a, b)| same_literal(a, b));
        expected.is_some_and(|expected| expected.len() == items.len() && all(expected))
    };
    match got {
        Literal::None => expected.is_null(),
        Literal::Bool(value) => expected.as_bool() == Some(*value),
        Literal::Str(text) => expected.as_str() == Some(text),
        Literal::Int(value) => expected["int"].as_i64() == Some(*value),
        Literal::Float(value) => {
            let expected = expected["float"].as_str().and_then(|repr| repr.parse::<f64>().ok());
            expected.is_some_and(|expected| expected.to_bits() == value.to_bits())
        }
        Literal::Bytes(bytes) => expected["bytes"].as_str() == Some(&format!("b'{}'", bytes.escape_ascii())),
        Literal::List(items) => same_list(items, "list"),
        Literal::Tuple(items) => same_list(items, "tuple"),
        Literal::Set(items) => same_list(items, "set"),
        Literal::Dict(pairs) => expected["dict"].as_array().is_some_and(|expected| {
            let mut both = pairs.iter().zip(expected);
            expected.len() == pairs.len()
                && both
                    .all(|((key, value), pair)| same_literal(key, &pair[0]) && same_literal(value, &pair[1]))
        }),
    }
}
