//! `features.json` of a TensorFlow data set: which features its rows have, and how an example holds them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value as Json;

use super::example::{self, Element, Feature};
use super::{Error, Row, read_file};
use crate::data::Value;

/// The features of a data set, in the order of their names in `features.json`.
#[derive(Debug)]
pub(super) struct Features {
    root: Vec<(String, Node)>,
}

#[derive(Debug)]
enum Node {
    Dict(Vec<(String, Node)>),
    Leaf(Leaf),
}

#[derive(Debug)]
struct Leaf {
    /// Name in the example: `objects/label`.
    path: String,
    element: Element,
    /// Extents of a value, the lengths of its sequences first; `None` is known from the value alone.
    dims: Vec<Option<usize>>,
    /// How many of `dims` are sequences. From two on, their lengths are stored beside the values.
    sequences: usize,
    packed: Option<Packed>,
    /// Names of the classes, where the feature is a class label.
    names: Vec<String>,
    with_names: bool,
}

/// Numbers stored as the bytes of a whole array.
#[derive(Debug, Clone, Copy)]
struct Packed {
    zlib: bool,
    number: fn(&[u8]) -> Value,
    width: usize,
}

impl Features {
    /// Reads `features.json` and the names of classes beside it. Features of kinds that rows cannot hold are
    /// left out with a warning.
    pub fn open(folder: &Path, label_names: bool) -> Result<Self, Error> {
        let path = folder.join("features.json");
        let describe = |problem: String| Error::BadFile { path: path.clone(), problem };
        let json: Json =
            serde_json::from_slice(&read_file(&path)?).map_err(|error| describe(error.to_string()))?;
        let reader = Reader { folder, label_names };
        match reader.node(&json, "", &mut Vec::new()).map_err(describe)? {
            Some(Node::Dict(root)) => Ok(Features { root }),
            _ => Err(describe("expected a dict of features (\"featuresDict\")".to_owned())),
        }
    }

    pub fn class_names(&self, path: &str) -> Option<&[String]> {
        let mut fields = &self.root;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            match &fields.iter().find(|(field, _)| field == name)?.1 {
                Node::Dict(inner) => fields = inner,
                Node::Leaf(leaf) if names.peek().is_none() && !leaf.names.is_empty() => {
                    return Some(&leaf.names);
                }
                Node::Leaf(_) => return None,
            }
        }
        None
    }

    /// # Errors
    /// When the example lacks a feature, or holds another type or number of values than the features say.
    pub fn row(&self, mut features: BTreeMap<String, Feature>) -> Result<Row, String> {
        dict(&self.root, &mut features)
    }
}

fn dict(fields: &[(String, Node)], features: &mut BTreeMap<String, Feature>) -> Result<Row, String> {
    let mut row = Row::new();
    for (name, node) in fields {
        match node {
            Node::Dict(inner) => {
                let inner = dict(inner, features)?;
                row.insert(name.clone(), Value::Dict(inner));
            }
            Node::Leaf(leaf) => {
                let value = leaf.value(features)?;
                if leaf.with_names {
                    row.insert(format!("{name}_name"), leaf.named(&value));
                }
                row.insert(name.clone(), value);
            }
        }
    }
    Ok(row)
}

struct Reader<'a> {
    folder: &'a Path,
    label_names: bool,
}

impl Reader<'_> {
    /// `sequences` are the lengths of the sequences that the feature stands in.
    fn node(
        &self,
        json: &Json,
        path: &str,
        sequences: &mut Vec<Option<usize>>,
    ) -> Result<Option<Node>, String> {
        let class = json["pythonClassName"].as_str().unwrap_or_default();
        let scalar = |element| Ok(Some(Node::Leaf(leaf(path, element, sequences, Vec::new()))));
        if let Some(features) = json["featuresDict"]["features"].as_object() {
            let mut fields = Vec::new();
            for (name, feature) in features {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                if let Some(node) = self.node(feature, &inner, sequences)? {
                    fields.push((name.clone(), node));
                }
            }
            return Ok(Some(Node::Dict(fields)));
        }
        if let Some(sequence) = json.get("sequence") {
            sequences.push(sequence["length"].as_str().and_then(|length| length.parse().ok()));
            let node = self.node(&sequence["feature"], path, sequences);
            sequences.pop();
            return node;
        }
        if json.get("text").is_some() {
            return scalar(Element::Str);
        }
        if json.get("image").is_some() || json.get("labeledImage").is_some() {
            return scalar(Element::Bytes);
        }
        if json.get("video").is_some() {
            sequences.push(None);
            let node = Node::Leaf(leaf(path, Element::Bytes, sequences, Vec::new()));
            sequences.pop();
            return Ok(Some(node));
        }
        if json.get("classLabel").is_some() {
            let mut leaf = leaf(path, Element::Int, sequences, Vec::new());
            leaf.names = self.names(path)?;
            leaf.with_names = self.label_names && !leaf.names.is_empty();
            return Ok(Some(Node::Leaf(leaf)));
        }
        if let Some(translation) = json.get("translation") {
            let languages = translation["languages"]
                .as_array()
                .filter(|_| translation["variableLanguagesPerExample"].as_bool() != Some(true));
            let language = |language: &Json| {
                let language = language.as_str()?;
                let inner = leaf(&format!("{path}/{language}"), Element::Str, sequences, Vec::new());
                Some((language.to_owned(), Node::Leaf(inner)))
            };
            if let Some(languages) = languages {
                return Ok(Some(Node::Dict(languages.iter().filter_map(language).collect())));
            }
        }
        for kind in ["tensor", "boundingBox", "audio"] {
            if let Some(tensor) = json.get(kind) {
                return self.tensor(tensor, path, sequences);
            }
        }
        tracing::warn!("feature \"{path}\" is left out: rows cannot hold features of the kind {class}");
        Ok(None)
    }

    fn tensor(&self, json: &Json, path: &str, sequences: &[Option<usize>]) -> Result<Option<Node>, String> {
        let dtype = json["dtype"].as_str().unwrap_or("float32");
        let element = match dtype {
            "string" | "object" => Element::Str,
            "bool" => Element::Bool,
            _ if dtype.contains("int") => Element::Int,
            _ if dtype.contains("float") => Element::Float,
            _ => return Err(format!("feature \"{path}\" has the dtype \"{dtype}\", which is not read")),
        };
        let dims = json["shape"]["dimensions"].as_array().map_or(&[][..], Vec::as_slice);
        let dims = dims.iter().map(|dim| dim.as_str().and_then(|text| text.parse().ok())).collect();
        let mut leaf = leaf(path, element, sequences, dims);
        let encoding = json["encoding"].as_str().unwrap_or("none");
        if let ("bytes" | "zlib", Some((width, number))) = (encoding, packed_number(dtype)) {
            leaf.packed = Some(Packed { zlib: encoding == "zlib", number, width });
        } else if encoding == "bytes" || encoding == "zlib" {
            return Err(format!(
                "feature \"{path}\" holds the bytes of \"{dtype}\" arrays, which are not read"
            ));
        }
        // One extent can be told from the number of values; the lengths of nested sequences are stored.
        let (stored, knowable) = if leaf.sequences > 1 { (leaf.sequences, 0) } else { (0, 1) };
        if leaf.dims.iter().skip(stored).filter(|dim| dim.is_none()).count() > knowable {
            tracing::warn!("feature \"{path}\" is left out: several of its extents are unknown");
            return Ok(None);
        }
        Ok(Some(Node::Leaf(leaf)))
    }

    /// One name a line in `objects-label.labels.txt`; none where there is no such file.
    fn names(&self, path: &str) -> Result<Vec<String>, String> {
        let file = self.folder.join(format!("{}.labels.txt", path.replace('/', "-")));
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(format!("cannot read {}: {error}", file.display())),
        }
    }
}

fn leaf(path: &str, element: Element, sequences: &[Option<usize>], dims: Vec<Option<usize>>) -> Leaf {
    Leaf {
        path: path.to_owned(),
        element,
        dims: sequences.iter().copied().chain(dims).collect(),
        sequences: sequences.len(),
        packed: None,
        names: Vec::new(),
        with_names: false,
    }
}

/// The value of a number from its bytes.
type Unpack = fn(&[u8]) -> Value;

/// How a number of a dtype lies in bytes: its width, and its value.
fn packed_number(dtype: &str) -> Option<(usize, Unpack)> {
    macro_rules! number {
        ($type:ty, $variant:ident) => {
            Some((size_of::<$type>(), |bytes| {
                let bytes = bytes.try_into().expect("chunks have the width of the number");
                Value::$variant(<$type>::from_le_bytes(bytes).into())
            }))
        };
    }
    match dtype {
        "uint8" => number!(u8, Int),
        "int8" => number!(i8, Int),
        "uint16" => number!(u16, Int),
        "int16" => number!(i16, Int),
        "uint32" => number!(u32, Int),
        "int32" => number!(i32, Int),
        "int64" => number!(i64, Int),
        "float32" => number!(f32, Float),
        "float64" => number!(f64, Float),
        "bool" => Some((1, |bytes| Value::Bool(bytes[0] != 0))),
        _ => None,
    }
}

impl Leaf {
    fn value(&self, features: &mut BTreeMap<String, Feature>) -> Result<Value, String> {
        if self.sequences > 1 {
            return self.ragged(features);
        }
        let path = &self.path;
        let element = if self.packed.is_some() { Element::Bytes } else { self.element };
        let feature = features.remove(path);
        let mut values = match self.elements(path, feature, element)? {
            values if self.packed.is_none() => values,
            values => self.unpack(values)?,
        };
        if self.dims.is_empty() {
            return match values.len() {
                1 => Ok(values.remove(0)),
                0 => Err(format!("feature \"{path}\" is missing or empty")),
                count => Err(format!("feature \"{path}\" has {count} values, expected one")),
            };
        }
        shaped(values, &self.dims).map_err(|problem| format!("feature \"{path}\" {problem}"))
    }

    /// Texts of a tensor need not be UTF-8.
    fn elements(&self, name: &str, feature: Option<Feature>, element: Element) -> Result<Vec<Value>, String> {
        match element {
            Element::Str => {
                let values = example::elements(name, feature, Element::Bytes)?;
                let text = |value: Value| match value {
                    Value::Bytes(bytes) => match String::from_utf8(bytes) {
                        Ok(text) => Value::Str(text),
                        Err(error) => Value::Bytes(error.into_bytes()),
                    },
                    other => other,
                };
                Ok(values.into_iter().map(text).collect())
            }
            element => example::elements(name, feature, element),
        }
    }

    fn unpack(&self, values: Vec<Value>) -> Result<Vec<Value>, String> {
        /// Far beyond any label or box; an image has a feature of its own.
        const MAX_BYTES: u64 = 1 << 28;
        let Some(Packed { zlib, number, width }) = self.packed else { return Ok(values) };
        let mut numbers = Vec::new();
        for bytes in values.iter().filter_map(Value::as_bytes) {
            let mut inflated = Vec::new();
            let bytes = if zlib {
                let mut decoder = flate2::read::ZlibDecoder::new(bytes).take(MAX_BYTES);
                decoder
                    .read_to_end(&mut inflated)
                    .map_err(|error| format!("feature \"{}\" is no zlib data: {error}", self.path))?;
                &inflated
            } else {
                bytes
            };
            if bytes.len() % width != 0 {
                let problem = format!("{} bytes are no whole numbers of {width}", bytes.len());
                return Err(format!("feature \"{}\": {problem}", self.path));
            }
            numbers.extend(bytes.chunks_exact(width).map(number));
        }
        Ok(numbers)
    }

    /// Sequences of sequences: the values in a row, and the lengths of each level but the first.
    fn ragged(&self, features: &mut BTreeMap<String, Feature>) -> Result<Value, String> {
        let path = &self.path;
        let flat = format!("{path}/ragged_flat_values");
        let feature = features.remove(&flat);
        let values = self.elements(&flat, feature, self.element)?;
        let inner = &self.dims[self.sequences..];
        let mut level = match inner {
            [] => values,
            inner => {
                let dims: Vec<Option<usize>> = [None].into_iter().chain(inner.iter().copied()).collect();
                match shaped(values, &dims).map_err(|problem| format!("feature \"{path}\" {problem}"))? {
                    Value::List(items) => items,
                    other => vec![other],
                }
            }
        };
        for depth in (0..self.sequences - 1).rev() {
            let name = format!("{path}/ragged_row_lengths_{depth}");
            let lengths = example::elements(&name, features.remove(&name), Element::Int)?;
            let mut rest = level.into_iter();
            let mut groups = Vec::new();
            for length in lengths {
                let Value::Int(length) = length else { continue };
                let wanted = usize::try_from(length).unwrap_or(usize::MAX);
                if wanted > rest.len() {
                    return Err(format!("feature \"{path}\": its row lengths exceed its values"));
                }
                groups.push(Value::List(rest.by_ref().take(wanted).collect()));
            }
            if rest.len() > 0 {
                return Err(format!("feature \"{path}\" has {} values beyond its row lengths", rest.len()));
            }
            level = groups;
        }
        Ok(Value::List(level))
    }

    /// The classes' names in place of their numbers; a number without a class (-1 in test sets) has none.
    fn named(&self, value: &Value) -> Value {
        match value {
            Value::List(items) => Value::List(items.iter().map(|item| self.named(item)).collect()),
            Value::Int(class) => {
                let name = usize::try_from(*class).ok().and_then(|class| self.names.get(class));
                Value::Str(name.cloned().unwrap_or_default())
            }
            other => other.clone(),
        }
    }
}

/// Nested lists of the extents `dims`, of which one may be unknown.
fn shaped(values: Vec<Value>, dims: &[Option<usize>]) -> Result<Value, String> {
    let count = values.len();
    let known: usize = dims.iter().flatten().product();
    let unknown = dims.iter().any(Option::is_none);
    let fits = match unknown {
        true => known > 0 && count.is_multiple_of(known),
        false => count == known,
    };
    if !fits {
        let shape: Vec<String> = dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
        return Err(format!("has {count} values, which do not fit its shape [{}]", shape.join(", ")));
    }
    let dims: Vec<usize> = dims.iter().map(|dim| dim.unwrap_or(count / known.max(1))).collect();
    let mut level = values;
    for &size in dims[1..].iter().rev() {
        let mut items = level.into_iter();
        let mut groups = Vec::new();
        while items.len() > 0 {
            groups.push(Value::List(items.by_ref().take(size).collect()));
        }
        level = groups;
    }
    Ok(Value::List(level))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::example::{BytesList, FloatList, Int64List, Kind};
    use super::*;

    fn open(json: Json, files: &[(&str, &str)]) -> Result<Features, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("features.json"), json.to_string()).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        Features::open(dir.path(), true).map_err(|error| error.to_string())
    }

    fn ints(values: &[i64]) -> Feature {
        Feature { kind: Some(Kind::Ints(Int64List { value: values.to_vec() })) }
    }

    fn bytes(value: &[u8]) -> Feature {
        Feature { kind: Some(Kind::Bytes(BytesList { value: vec![value.to_vec()] })) }
    }

    fn row(features: &Features, values: Vec<(&str, Feature)>) -> Result<String, String> {
        let values = values.into_iter().map(|(name, feature)| (name.to_owned(), feature)).collect();
        features.row(values).map(|row| Value::Dict(row).to_string())
    }

    #[test]
    fn nested_sequences_arrays_and_labels() {
        let label = json!({"classLabel": {"numClasses": "2"}});
        let tensor = |dtype: &str, encoding: &str, dims: &[&str]| json!({"tensor": {"dtype": dtype, "encoding": encoding, "shape": {"dimensions": dims}}});
        let sequence = |feature: Json| json!({"sequence": {"feature": feature, "length": "-1"}});
        let features = open(
            json!({"featuresDict": {"features": {
                "label": label,
                "words": sequence(sequence(tensor("int32", "none", &[]))),
                "points": sequence(sequence(tensor("float32", "none", &["2"]))),
                "grid": tensor("int64", "none", &["2", "2"]),
                "packed": tensor("int16", "bytes", &["-1"]),
                "flag": tensor("bool", "none", &[]),
                "strange": {"pythonClassName": "x.Graph", "graph": {}},
            }}}),
            &[("label.labels.txt", "cat\ndog\n")],
        )
        .unwrap();
        assert_eq!(features.class_names("label").unwrap(), ["cat", "dog"]);
        assert_eq!(features.class_names("grid"), None);
        let floats = Feature { kind: Some(Kind::Floats(FloatList { value: vec![1.0, 2.0, 3.0, 4.0] })) };
        let values = || {
            vec![
                ("label", ints(&[1])),
                ("words/ragged_flat_values", ints(&[1, 2, 3])),
                ("words/ragged_row_lengths_0", ints(&[2, 0, 1])),
                ("points/ragged_flat_values", floats.clone()),
                ("points/ragged_row_lengths_0", ints(&[0, 2])),
                ("grid", ints(&[1, 2, 3, 4])),
                ("packed", bytes(&[1, 0, 255, 255])),
                ("flag", ints(&[0])),
            ]
        };
        assert_eq!(
            row(&features, values()).unwrap(),
            "{label_name: dog, label: 1, words: [[1, 2], [], [3]], points: [[], [[1, 2], [3, 4]]], \
             grid: [[1, 2], [3, 4]], packed: [1, -1], flag: false}"
        );
        let damaged = |name: &str, feature: Feature| {
            let mut values = values();
            values.iter_mut().find(|(other, _)| *other == name).unwrap().1 = feature;
            row(&features, values).unwrap_err()
        };
        assert_eq!(
            damaged("grid", ints(&[1])),
            "feature \"grid\" has 1 values, which do not fit its shape [2, 2]"
        );
        assert_eq!(damaged("label", ints(&[])), "feature \"label\" is missing or empty");
        assert_eq!(
            damaged("words/ragged_row_lengths_0", ints(&[-1])),
            "feature \"words\": its row lengths exceed its values"
        );
        assert_eq!(
            damaged("words/ragged_row_lengths_0", ints(&[2])),
            "feature \"words\" has 1 values beyond its row lengths"
        );
        assert_eq!(damaged("packed", bytes(&[1])), "feature \"packed\": 1 bytes are no whole numbers of 2");
    }

    #[test]
    fn what_is_no_description_is_an_error() {
        assert!(
            open(json!({}), &[]).unwrap_err().ends_with("expected a dict of features (\"featuresDict\")")
        );
        let complex = json!({"featuresDict": {"features": {"a": {"tensor": {"dtype": "complex64"}}}}});
        assert!(
            open(complex, &[])
                .unwrap_err()
                .ends_with("feature \"a\" has the dtype \"complex64\", which is not read")
        );
    }
}
