//! What flows through a pipeline: examples, which are ordered maps from names to values.

use std::fmt;

use super::Problem;
use crate::array::{Element, HostArray, Shape};

/// One entry of an [`Example`].
#[derive(Clone, PartialEq)]
pub enum Value {
    /// Numbers and booleans of any rank; images are `u8` or `f32` of shape [height, width, channels].
    Array(HostArray),
    /// Text of any rank; a single string has no dimensions.
    Text(Strings),
    /// An encoded image or the like.
    Bytes(Vec<u8>),
    /// A nested example (`captions/text` before `flatten`).
    Dict(Example),
    /// Values that need not be alike, such as the encoded frames of a video.
    List(Vec<Value>),
}

/// Strings in row-major order with their extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strings {
    dims: Vec<usize>,
    values: Vec<String>,
}

impl Strings {
    pub fn scalar(text: impl Into<String>) -> Self {
        Strings { dims: Vec::new(), values: vec![text.into()] }
    }

    /// # Errors
    /// When the number of strings is not the product of `dims`.
    pub fn new(dims: impl Into<Vec<usize>>, values: Vec<String>) -> Result<Self, Problem> {
        let dims = dims.into();
        if dims.iter().product::<usize>() != values.len() {
            return Err(Problem::invalid(format!("{} strings cannot have shape {dims:?}", values.len())));
        }
        Ok(Strings { dims, values })
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    pub fn values(&self) -> &[String] {
        &self.values
    }

    pub fn map(&self, f: impl FnMut(&String) -> String) -> Self {
        Strings { dims: self.dims.clone(), values: self.values.iter().map(f).collect() }
    }
}

impl Value {
    /// The text, if it is one string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(Strings { dims, values }) if dims.is_empty() => values.first().map(String::as_str),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&HostArray> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// A single number, as `i64` (floats are truncated).
    pub fn as_i64(&self) -> Option<i64> {
        let array = self.as_array().filter(|array| array.dims().is_empty())?;
        match array.values::<i64>() {
            Ok(values) => values.first().copied(),
            Err(_) => array.to_f64().first().map(|&value| value as i64),
        }
    }

    /// Extents; single strings, bytes and dicts have none, lists one.
    pub fn dims(&self) -> Vec<usize> {
        match self {
            Value::Array(array) => array.dims().to_vec(),
            Value::Text(text) => text.dims.clone(),
            Value::Bytes(_) | Value::Dict(_) => Vec::new(),
            Value::List(items) => vec![items.len()],
        }
    }

    /// What it is, for messages: `u8[64,64,3]`, `string[2]`, …
    pub fn describe(&self) -> String {
        match self {
            Value::Array(array) => array.shape().to_string(),
            Value::Text(text) if text.dims.is_empty() => "a string".to_owned(),
            Value::Text(text) => format!("strings of shape {:?}", text.dims),
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Dict(_) => "a dict".to_owned(),
            Value::List(items) => format!("a list of {}", items.len()),
        }
    }

    /// The same elements under other extents.
    pub(super) fn reshaped(self, dims: Vec<usize>) -> Result<Value, Problem> {
        match self {
            Value::Array(array) => Ok(Value::Array(array.reshaped(dims)?)),
            Value::Text(text) => Ok(Value::Text(Strings::new(dims, text.values)?)),
            other => Err(Problem::expected("an array or strings", &other)),
        }
    }

    /// The rows `indices` of the leading dimension.
    pub(super) fn gather(&self, indices: &[usize]) -> Result<Value, Problem> {
        let dims = self.dims();
        let Some((&rows, inner)) = dims.split_first() else {
            return Err(Problem::expected("a vector or array", self));
        };
        if let Some(index) = indices.iter().find(|&&index| index >= rows) {
            return Err(Problem::invalid(format!("index {index} is outside of {}", self.describe())));
        }
        let out_dims: Vec<usize> = [indices.len()].into_iter().chain(inner.iter().copied()).collect();
        num_elements(&out_dims)?;
        let len: usize = inner.iter().product();
        Ok(match self {
            Value::Array(array) => {
                let size = len * array.dtype().num_bytes();
                let rows = indices.iter().flat_map(|&index| &array.bytes()[index * size..(index + 1) * size]);
                let bytes: Vec<u8> = rows.copied().collect();
                Value::Array(HostArray::from_bytes(Shape::new(array.dtype(), out_dims), &bytes)?)
            }
            Value::Text(text) => {
                let rows = indices.iter().flat_map(|&index| &text.values[index * len..(index + 1) * len]);
                Value::Text(Strings::new(out_dims, rows.cloned().collect())?)
            }
            Value::List(items) => Value::List(indices.iter().map(|&index| items[index].clone()).collect()),
            Value::Bytes(_) | Value::Dict(_) => return Err(Problem::expected("a vector or array", self)),
        })
    }

    /// Row `index` of the leading dimension, without that dimension.
    pub(super) fn row(&self, index: usize) -> Result<Value, Problem> {
        match self.gather(&[index])? {
            Value::List(mut items) => Ok(items.swap_remove(0)),
            rows => {
                let dims = rows.dims()[1..].to_vec();
                rows.reshaped(dims)
            }
        }
    }

    /// Joins values along `axis`; all other extents and the types must agree.
    pub(super) fn concat(values: &[&Value], axis: i64) -> Result<Value, Problem> {
        let Some(first) = values.first() else { return Err(Problem::invalid("nothing to join")) };
        let mut dims = first.dims();
        let rank = dims.len();
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis })
            .ok()
            .filter(|&axis| axis < rank)
            .ok_or_else(|| Problem::invalid(format!("axis {axis} is not one of {}", first.describe())))?;
        for value in values {
            let others = value.dims();
            let agree = others.len() == rank && (0..rank).all(|i| i == axis || others[i] == dims[i]);
            if !agree {
                let (a, b) = (first.describe(), value.describe());
                return Err(Problem::invalid(format!("cannot join {a} and {b} along axis {axis}")));
            }
        }
        let outer: usize = dims[..axis].iter().product();
        let block = |value: &Value| value.dims()[axis..].iter().product::<usize>();
        dims[axis] = values.iter().map(|value| value.dims()[axis]).sum();
        match first {
            Value::Array(array) => {
                let dtype = array.dtype();
                let mut bytes = Vec::new();
                for row in 0..outer {
                    for value in values {
                        let size = block(value) * dtype.num_bytes();
                        let part = value.as_array().filter(|array| array.dtype() == dtype);
                        let part = part.ok_or_else(|| Problem::expected("arrays of one type", value))?;
                        bytes.extend(&part.bytes()[row * size..(row + 1) * size]);
                    }
                }
                Ok(Value::Array(HostArray::from_bytes(Shape::new(dtype, dims), &bytes)?))
            }
            Value::Text(_) => {
                let mut strings = Vec::new();
                for row in 0..outer {
                    for value in values {
                        let size = block(value);
                        let Value::Text(text) = value else {
                            return Err(Problem::expected("strings", value));
                        };
                        strings.extend_from_slice(&text.values[row * size..(row + 1) * size]);
                    }
                }
                Ok(Value::Text(Strings::new(dims, strings)?))
            }
            other => Err(Problem::expected("arrays or strings", other)),
        }
    }
}

/// The number of elements of an array of extents `dims`, unless that is more than any input can need: a slip
/// in a pp string must not exhaust the memory.
pub(super) fn num_elements(dims: &[usize]) -> Result<usize, Problem> {
    const MOST: usize = 1 << 31;
    let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    count
        .filter(|&count| count <= MOST)
        .ok_or_else(|| Problem::invalid(format!("an array of shape {dims:?} is larger than {MOST} elements")))
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) if text.dims.is_empty() => write!(f, "{:?}", text.values[0]),
            Value::Text(text) => write!(f, "{:?}", text.values),
            Value::Dict(example) => example.fmt(f),
            Value::List(items) => items.fmt(f),
            other => f.write_str(&other.describe()),
        }
    }
}

impl From<HostArray> for Value {
    fn from(array: HostArray) -> Self {
        Value::Array(array)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(Strings::scalar(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(Strings::scalar(text))
    }
}

/// A vector of strings.
impl From<Vec<String>> for Value {
    fn from(values: Vec<String>) -> Self {
        Value::Text(Strings { dims: vec![values.len()], values })
    }
}

macro_rules! scalars {
    ($($rust:ty),*) => { $(impl From<$rust> for Value {
        fn from(value: $rust) -> Self { Value::Array(HostArray::scalar(value)) }
    })* };
}

scalars!(i32, i64, f32, f64);

/// A vector of numbers.
impl<T: Element> From<&[T]> for Value {
    fn from(values: &[T]) -> Self {
        let mut array = HostArray::zeros(Shape::new(T::DTYPE, [values.len()]));
        array.bytes_mut().copy_from_slice(bytemuck::cast_slice(values));
        Value::Array(array)
    }
}

/// Named values in the order in which they were first inserted, as in a Python dict.
#[derive(Clone, Default, PartialEq)]
pub struct Example {
    // Examples have some ten entries: a scan beats hashing.
    entries: Vec<(String, Value)>,
}

impl Example {
    pub fn new() -> Self {
        Example::default()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets `key`, which keeps its place if it is there already. Returns the value it had.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.entries.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => Some(std::mem::replace(old, value)),
            None => {
                self.entries.push((key, value));
                None
            }
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        Some(self.entries.remove(at).1)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.entries.retain(|(key, _)| keep(key));
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`, or an error that lists the keys there are.
    pub(super) fn require(&self, key: &str) -> Result<&Value, Problem> {
        self.get(key).ok_or_else(|| self.missing(key))
    }

    /// Takes the value of `key` for changing: it is moved out if `into` is the same key (where a placeholder
    /// stays), else copied.
    pub(super) fn take(&mut self, key: &str, into: &str) -> Result<Value, Problem> {
        if key != into {
            return self.require(key).cloned();
        }
        let slot = self.entries.iter_mut().find(|(known, _)| known == key);
        match slot {
            Some((_, value)) => Ok(std::mem::replace(value, Value::List(Vec::new()))),
            None => Err(self.missing(key)),
        }
    }

    fn missing(&self, key: &str) -> Problem {
        Problem::MissingKey { key: key.to_owned(), known: self.keys().map(str::to_owned).collect() }
    }
}

impl IntoIterator for Example {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Example {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut example = Example::new();
        entries.into_iter().for_each(|(key, value)| drop(example.insert(key, value)));
        example
    }
}

impl fmt::Debug for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
