//! The macros in which the schema is written. One declaration gives the struct with its documentation, the
//! decoder, the writer and the rows of the reference, so key, default and meaning cannot part.

use std::marker::PhantomData;

use super::error::suggest;
use super::node::{Entry, Kind, Node};

pub use super::decode::{Decoder, Field, Member, Nothing, Remaining, Rest, Row};

/// A condition on a number, in the words of error messages and the reference.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    pub says: &'static str,
    pub holds: fn(f64) -> bool,
}

pub const POSITIVE: Check = Check { says: "greater than 0", holds: |v| v > 0.0 };
pub const NON_NEGATIVE: Check = Check { says: "at least 0", holds: |v| v >= 0.0 };
/// A probability that must leave something over.
pub const BELOW_ONE: Check = Check { says: "at least 0 and less than 1", holds: |v| (0.0..1.0).contains(&v) };
pub const SHARE: Check = Check { says: "greater than 0 and at most 1", holds: |v| v > 0.0 && v <= 1.0 };

/// Numbers inside a value, for [`Check`]s.
pub trait Numbers {
    fn all(&self, holds: fn(f64) -> bool) -> bool;
}

impl Numbers for f64 {
    fn all(&self, holds: fn(f64) -> bool) -> bool {
        holds(*self)
    }
}

impl Numbers for usize {
    fn all(&self, holds: fn(f64) -> bool) -> bool {
        holds(*self as f64)
    }
}

impl<T: Numbers> Numbers for Option<T> {
    fn all(&self, holds: fn(f64) -> bool) -> bool {
        self.as_ref().is_none_or(|value| value.all(holds))
    }
}

impl<T: Numbers> Numbers for Vec<T> {
    fn all(&self, holds: fn(f64) -> bool) -> bool {
        self.iter().all(|value| value.all(holds))
    }
}

/// A [`Check`] bound to the type of the field it is for.
pub struct Bound<T> {
    pub says: &'static str,
    pub holds: fn(&T) -> bool,
}

/// A section's map with none of its keys claimed.
pub fn open<'a>(node: &'a Node, decoder: &mut Decoder) -> Option<Remaining<'a>> {
    match &node.kind {
        Kind::Map(entries) => Some(Remaining { entries: entries.iter().collect(), span: node.span }),
        Kind::Null if decoder.key().is_empty() => Some(Remaining { entries: Vec::new(), span: node.span }),
        _ => decoder.expected(node, "a mapping"),
    }
}

/// Claims and decodes one field; `default` is absent for a required one.
pub fn field<T: Member>(
    key: &str,
    default: Option<fn() -> T>,
    bound: Option<Bound<T>>,
    remaining: &mut Remaining<'_>,
    decoder: &mut Decoder,
) -> Option<T> {
    let claimed = remaining.entries.iter().find(|entry| entry.key == key).copied();
    // What is mistaken has been reported and goes on as its default, so that other mistakes are found as
    // well.
    let value = match T::take(key, remaining, decoder) {
        Some(Some(value)) => value,
        None => return default.map(|default| default()),
        Some(None) => {
            if let Some(default) = default {
                return Some(default());
            }
            let section = decoder.key();
            let hint = decoder.created.iter().find(|(created, _)| *created == section);
            let hint = hint.map_or(String::new(), |(_, hint)| format!(", and exists only by --set: {hint}"));
            let place = if section.is_empty() { "the config".to_owned() } else { section };
            return decoder.problem(remaining.span, format!("{place} lacks the key \"{key}\"{hint}"));
        }
    };
    match (bound, claimed) {
        (Some(bound), Some(entry)) if !(bound.holds)(&value) => {
            decoder.within(key, |decoder| {
                decoder.expected::<()>(&entry.node, &format!("a number {}", bound.says));
            });
            default.map(|default| default())
        }
        _ => Some(value),
    }
}

/// Hands what is left over to the section's rest.
pub fn rest<T: Rest>(
    _: PhantomData<T>,
    remaining: &mut Remaining<'_>,
    known: &[String],
    decoder: &mut Decoder,
) -> T {
    T::take_rest(remaining, known, decoder)
}

/// Adds a field's rows to the reference.
pub fn document<T: Member>(
    prefix: &str,
    key: &str,
    default: Option<fn() -> T>,
    bound: Option<Bound<T>>,
    meaning: &str,
    rows: &mut Vec<Row>,
) {
    let first = rows.len();
    T::document(prefix, key, default.map(|default| default()).as_ref(), meaning.trim(), rows);
    if let (Some(bound), Some(row)) = (bound, rows.get_mut(first)) {
        row.type_name = format!("{}, {}", row.type_name, bound.says);
    }
}

pub fn map(entries: Vec<Entry>) -> Node {
    Kind::Map(entries).into()
}

/// Declares a section of the config: a struct whose fields read `key: Type = default`, with the meaning as
/// doc comment. Without a default the key is required.
///
/// `, CHECK` after the default bounds a number, `as "key"` names the key where Rust's own name must differ,
/// `checked by f` after the struct's name calls `f(&section, &node, &mut decoder)` for mistakes that concern
/// several keys, and a last `rest name: Type = "meaning"` takes the keys that no field claims.
///
/// ```
/// paligemma::config_section! {
///     /// Arguments of an evaluator.
///     pub struct Perplexity {
///         /// Batch entry that holds the tokens.
///         pub key: String = "text".into();
///         /// Token that does not count.
///         pub pad_token: Option<i64> = None;
///     }
/// }
/// ```
#[macro_export]
macro_rules! config_section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident $(checked by $checker:path)? {
            $(
                $(#[doc = $meaning:literal])+
                pub $field:ident $(as $key:literal)? : $type:ty $(= $default:expr $(, $check:path)?)?;
            )*
            $( rest $rest:ident: $rest_type:ty = $rest_meaning:literal; )?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $meaning])+ pub $field: $type, )*
            $( #[doc = $rest_meaning] pub $rest: $rest_type, )?
        }

        impl $crate::config::schema::Field for $name {
            fn type_name() -> String {
                "section".into()
            }

            fn decode(
                node: &$crate::config::Node,
                decoder: &mut $crate::config::schema::Decoder,
            ) -> Option<Self> {
                use $crate::config::schema;
                let mut remaining = schema::open(node, decoder)?;
                let known: Vec<String> = [
                    $( <$type as schema::Member>::keys($crate::config_section!(@key $field $($key)?)), )*
                ].concat();
                $(
                    let $field = schema::field::<$type>(
                        $crate::config_section!(@key $field $($key)?),
                        $crate::config_section!(@default $type $(= $default)?),
                        $crate::config_section!(@bound $type $($(, $check)?)?),
                        &mut remaining,
                        decoder,
                    );
                )*
                let rest = $crate::config_section!(@rest $($rest_type)?);
                let _rest = schema::rest(rest, &mut remaining, &known, decoder);
                let section = $name { $( $field: $field?, )* $( $rest: _rest, )? };
                $( $checker(&section, node, decoder); )?
                Some(section)
            }

            fn encode(&self) -> $crate::config::Node {
                use $crate::config::schema;
                let mut entries = Vec::new();
                $(
                    let key = $crate::config_section!(@key $field $($key)?);
                    schema::Member::put(&self.$field, key, &mut entries);
                )*
                $( schema::Rest::put_rest(&self.$rest, &mut entries); )?
                schema::map(entries)
            }

            fn document(prefix: &str, rows: &mut Vec<$crate::config::schema::Row>) {
                use $crate::config::schema;
                $(
                    schema::document::<$type>(
                        prefix,
                        $crate::config_section!(@key $field $($key)?),
                        $crate::config_section!(@default $type $(= $default)?),
                        $crate::config_section!(@bound $type $($(, $check)?)?),
                        concat!($($meaning),+),
                        rows,
                    );
                )*
                $( <$rest_type as schema::Rest>::document_rest(prefix, $rest_meaning, rows); )?
            }
        }
    };
    (@key $field:ident $key:literal) => { $key };
    (@key $field:ident) => { stringify!($field) };
    (@default $type:ty) => { None };
    (@default $type:ty = $default:expr) => { Some((|| $default) as fn() -> $type) };
    (@bound $type:ty) => { None };
    (@bound $type:ty, $check:path) => {
        Some(schema::Bound {
            says: $check.says,
            holds: |value: &$type| schema::Numbers::all(value, $check.holds),
        })
    };
    (@rest $type:ty) => { ::std::marker::PhantomData::<$type> };
    (@rest) => { ::std::marker::PhantomData::<$crate::config::schema::Nothing> };
}

/// Declares an enum of words: the variants with their spelling in the config.
#[macro_export]
macro_rules! config_choice {
    (
        $(#[doc = $about:literal])*
        pub enum $name:ident { $( $(#[doc = $meaning:literal])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $meaning])* $variant, )+ }

        impl $name {
            /// Every word, as configs spell them.
            pub const WORDS: &[&str] = &[$($word),+];

            pub const fn word(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }
        }

        impl $crate::config::schema::Field for $name {
            fn type_name() -> String {
                Self::WORDS.join(" \\| ")
            }

            fn decode(
                node: &$crate::config::Node,
                decoder: &mut $crate::config::schema::Decoder,
            ) -> Option<Self> {
                match node.as_str() {
                    $( Some($word) => Some($name::$variant), )+
                    _ => $crate::config::schema::unknown_word(node, Self::WORDS, decoder),
                }
            }

            fn encode(&self) -> $crate::config::Node {
                self.word().into()
            }
        }
    };
}

/// Reports a word that is none of `words`.
pub fn unknown_word<T>(node: &Node, words: &[&str], decoder: &mut Decoder) -> Option<T> {
    match node.as_str() {
        Some(word) => {
            let message = format!("{} is {node}, {}", decoder.key(), suggest(word, words.iter().copied()));
            decoder.problem(node.span, message)
        }
        None => decoder.expected(node, &format!("one of {}", words.join(", "))),
    }
}
