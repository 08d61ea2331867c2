use std::path::PathBuf;

use indexmap::IndexMap;
use rayon::prelude::*;

use super::example::{self, Element};
use super::places::{Place, Places};
use super::shards::{Shards, expand, is_gzip};
use super::{Error, Row, Source, fingerprint_of_records, out_of_range, records};
use crate::data::Value;

/// What a feature of a TFRecord file is in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureType {
    Bytes,
    Str,
    Int,
    Float,
    BytesList,
    StrList,
    IntList,
    FloatList,
}

impl FeatureType {
    const fn element(self) -> (Element, bool) {
        match self {
            FeatureType::Bytes => (Element::Bytes, false),
            FeatureType::Str => (Element::Str, false),
            FeatureType::Int => (Element::Int, false),
            FeatureType::Float => (Element::Float, false),
            FeatureType::BytesList => (Element::Bytes, true),
            FeatureType::StrList => (Element::Str, true),
            FeatureType::IntList => (Element::Int, true),
            FeatureType::FloatList => (Element::Float, true),
        }
    }
}

/// TFRecord files of `tf.train.Example` messages, plain or compressed with gzip.
///
/// Opening reads the lengths of all records and keeps their places; rows are read, and checked against their
/// checksums, when asked for. Compressed files are unpacked to an unnamed file in `TMPDIR` first. Each row
/// begins with an `id`, its number as text, unless a feature is called so.
#[derive(Debug)]
pub struct TfRecord {
    shards: Shards,
    features: IndexMap<String, FeatureType>,
    rows: Places,
}

impl TfRecord {
    /// `patterns` are files, folders, globs and names with braces; `features` says which features rows have,
    /// in which order. One value is needed for each that is no list; lists may be absent.
    ///
    /// # Errors
    /// When files are missing or damaged, or no features are named: the message lists those of the first
    /// record.
    pub fn open(patterns: &[PathBuf], features: IndexMap<String, FeatureType>) -> Result<Self, Error> {
        let mut shards =
            Shards::new(expand(patterns, &[".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrec"])?);
        shards.unpack(|_, first| is_gzip(first) && !records::begins_record(first))?;
        let rows: Vec<Places> = (0..shards.len())
            .into_par_iter()
            .map(|shard| records::index(&shards, shard))
            .collect::<Result<_, _>>()?;
        let rows = Places::concat(records::SPACING, rows);
        let source = TfRecord { shards, features, rows };
        if source.features.is_empty() {
            return Err(Error::Options { problem: source.suggestion()? });
        }
        Ok(source)
    }

    /// What there is to declare, in the config's words.
    fn suggestion(&self) -> Result<String, Error> {
        let Some(first) = self.rows.get(0) else {
            return Err(Error::Empty { source_name: self.describe() });
        };
        let features = example::parse(&records::read(&self.shards, first.extent)?)
            .map_err(|problem| Error::BadRow { row: self.locate(0), problem })?;
        let line = |(name, feature): (&String, &example::Feature)| {
            let kind = feature.kind.as_ref();
            let element = kind.map_or("bytes", |kind| kind.guess().name());
            let list = if kind.is_none_or(|kind| kind.len() != 1) { "_list" } else { "" };
            format!("\n  {name}: {element}{list}")
        };
        let lines: String = features.iter().map(line).collect();
        Ok(format!(
            "no features are declared; {} has, where the other rows are like it\nfeatures:{lines}",
            self.locate(0)
        ))
    }
}

impl Source for TfRecord {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let Place { extent, .. } = self.rows.get(index).ok_or_else(|| out_of_range(self, index))?;
        let bad = |problem| Error::BadRow { row: self.locate(index), problem };
        let mut features = example::parse(&records::read(&self.shards, extent)?).map_err(bad)?;
        let mut row = Row::from([("id".to_owned(), Value::Str(index.to_string()))]);
        for (name, feature_type) in &self.features {
            let (element, is_list) = feature_type.element();
            let mut values = example::elements(name, features.remove(name), element).map_err(bad)?;
            let value = match (is_list, values.len()) {
                (true, _) => Value::List(values),
                (false, 1) => values.remove(0),
                (false, 0) => {
                    return Err(bad(format!("feature \"{name}\" is missing or empty, expected one value")));
                }
                (false, count) => {
                    let problem =
                        format!("feature \"{name}\" has {count} values, expected one; declare a list");
                    return Err(bad(problem));
                }
            };
            row.insert(name.clone(), value);
        }
        Ok(row)
    }

    fn describe(&self) -> String {
        let first = self.shards.path(0).display();
        format!("tfrecord {first} ({} files, {} rows)", self.shards.len(), self.rows.len())
    }

    fn locate(&self, index: usize) -> String {
        match self.rows.get(index) {
            Some(Place { extent, number }) => {
                format!("{} (record {number})", self.shards.path(extent.shard as usize).display())
            }
            None => format!("row {index} of {}", self.describe()),
        }
    }

    fn fingerprint(&self) -> u64 {
        fingerprint_of_records(&self.shards, self.rows.extents())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use prost::Message;

    use super::example::{BytesList, Example, Feature, Features, Int64List, Kind};
    use super::*;

    fn record(features: &[(&str, Kind)]) -> Vec<u8> {
        let feature =
            features.iter().map(|(name, kind)| ((*name).to_owned(), Feature { kind: Some(kind.clone()) }));
        let example = Example { features: Some(Features { feature: feature.collect() }) };
        records::frame(&example.encode_to_vec())
    }

    fn text(values: &[&str]) -> Kind {
        Kind::Bytes(BytesList { value: values.iter().map(|text| text.as_bytes().to_vec()).collect() })
    }

    #[test]
    fn features_are_what_was_declared_or_the_message_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tfrecord");
        let numbers = Kind::Ints(Int64List { value: vec![1, 2] });
        let bytes = [
            record(&[
                ("caption", text(&["a"])),
                ("n", numbers.clone()),
                ("image", Kind::Bytes(BytesList { value: vec![vec![255]] })),
            ]),
            record(&[("caption", text(&["a", "b"])), ("n", numbers)]),
            record(&[]),
            records::frame(b"\xff\xff"),
        ];
        fs::write(&path, bytes.concat()).unwrap();
        let folder = format!("{}/", dir.path().display());
        let message = |error: Error| error.to_string().replace(&folder, "");
        let open = |features: &[(&str, FeatureType)]| {
            let features = features.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
            TfRecord::open(std::slice::from_ref(&path), features)
        };
        assert_eq!(
            message(open(&[]).unwrap_err()),
            "no features are declared; a.tfrecord (record 0) has, where the other rows are like it\n\
             features:\n  caption: string\n  image: bytes\n  n: int_list"
        );
        let source = open(&[("n", FeatureType::IntList), ("caption", FeatureType::Str)]).unwrap();
        let row = source.get(0).unwrap();
        assert_eq!(row.keys().collect::<Vec<_>>(), ["id", "n", "caption"]);
        assert_eq!(row["n"], Value::List(vec![1i64.into(), 2i64.into()]));
        let message = |index| message(source.get(index).unwrap_err());
        assert_eq!(
            message(1),
            "a.tfrecord (record 1): feature \"caption\" has 2 values, expected one; declare a list"
        );
        assert_eq!(
            message(2),
            "a.tfrecord (record 2): feature \"caption\" is missing or empty, expected one value"
        );
        assert!(message(3).starts_with("a.tfrecord (record 3): the record is no tf.train.Example: "));
        assert!(matches!(source.get(4), Err(Error::OutOfRange { .. })));
    }
}
