use std::ffi::c_char;
use std::fmt;

use super::api;
use super::ffi::{self, Struct};

/// A value of the C API's `PJRT_NamedValue`: an option of a client or topology, an attribute of a plugin or
/// device, a figure of a cost analysis.
#[derive(Debug, Clone, PartialEq)]
pub enum NamedValue {
    Str(String),
    Int(i64),
    IntList(Vec<i64>),
    Float(f32),
    Bool(bool),
}

impl fmt::Display for NamedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamedValue::Str(value) => f.write_str(value),
            NamedValue::Int(value) => value.fmt(f),
            NamedValue::IntList(values) => write!(f, "{values:?}"),
            NamedValue::Float(value) => value.fmt(f),
            NamedValue::Bool(value) => value.fmt(f),
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for NamedValue {
            fn from(value: $type) -> Self {
                NamedValue::$variant(value.into())
            }
        })*
    };
}

from!(&str => Str, String => Str, i64 => Int, Vec<i64> => IntList, f32 => Float, bool => Bool);

/// The C form of a list of named values; it borrows the list.
pub(super) fn to_ffi(values: &[(String, NamedValue)]) -> Vec<ffi::PJRT_NamedValue> {
    values
        .iter()
        .map(|(name, value)| {
            let (kind, data, size) = match value {
                NamedValue::Str(text) => (
                    ffi::PJRT_NamedValue_kString,
                    ffi::PJRT_NamedValue_Value { string_value: text.as_ptr().cast::<c_char>() },
                    text.len(),
                ),
                NamedValue::Int(value) => {
                    (ffi::PJRT_NamedValue_kInt64, ffi::PJRT_NamedValue_Value { int64_value: *value }, 1)
                }
                NamedValue::IntList(values) => (
                    ffi::PJRT_NamedValue_kInt64List,
                    ffi::PJRT_NamedValue_Value { int64_array_value: values.as_ptr() },
                    values.len(),
                ),
                NamedValue::Float(value) => {
                    (ffi::PJRT_NamedValue_kFloat, ffi::PJRT_NamedValue_Value { float_value: *value }, 1)
                }
                NamedValue::Bool(value) => {
                    (ffi::PJRT_NamedValue_kBool, ffi::PJRT_NamedValue_Value { bool_value: *value }, 1)
                }
            };
            ffi::PJRT_NamedValue {
                struct_size: ffi::PJRT_NamedValue::SIZE,
                name: name.as_ptr().cast(),
                name_size: name.len(),
                r#type: kind,
                value: data,
                value_size: size,
                ..Struct::zeroed()
            }
        })
        .collect()
}

/// Copies a plugin's list. Values of a type that the C API did not have when this was written are left out.
///
/// # Safety
/// `values` is null or points to `count` named values of a plugin.
pub(super) unsafe fn from_ffi(
    values: *const ffi::PJRT_NamedValue,
    count: usize,
) -> Vec<(String, NamedValue)> {
    // SAFETY: promised by the caller, here and below: the union's field is the one that `type` names.
    let values = unsafe { api::slice(values, count) };
    let read = |value: &ffi::PJRT_NamedValue| unsafe {
        let (data, size) = (value.value, value.value_size);
        Some(match value.r#type {
            ffi::PJRT_NamedValue_kString => NamedValue::Str(api::string(data.string_value, size)),
            ffi::PJRT_NamedValue_kInt64 => NamedValue::Int(data.int64_value),
            ffi::PJRT_NamedValue_kInt64List => {
                NamedValue::IntList(api::slice(data.int64_array_value, size).to_vec())
            }
            ffi::PJRT_NamedValue_kFloat => NamedValue::Float(data.float_value),
            ffi::PJRT_NamedValue_kBool => NamedValue::Bool(data.bool_value),
            _ => return None,
        })
    };
    values
        .iter()
        // SAFETY: as above.
        .filter_map(|value| Some((unsafe { api::string(value.name, value.name_size) }, read(value)?)))
        .collect()
}
