//! Arrow columns as row values: which types there are, and what Hugging Face's `datasets` says about them.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use serde_json::Value as Json;

use super::Row;
use crate::data::Value;

/// What a column, or a part of one, becomes.
#[derive(Debug, Clone, PartialEq)]
enum Form {
    /// A number, a truth value, text or bytes, as Arrow's type says.
    Scalar,
    /// An integer that counts these names.
    Label(Vec<String>),
    List(Box<Form>),
    Struct(Vec<(String, Form)>),
    /// `datasets` stores images so: a struct of `bytes`, or else the `path` of a file.
    File,
}

/// The columns of a table that rows are made of, in the table's order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Columns {
    columns: Vec<(String, Form)>,
    label_names: bool,
}

impl Columns {
    /// Takes the columns that `wanted` names, or all; also gives their numbers in the schema.
    ///
    /// # Errors
    /// When there is no such column, or rows cannot hold it. Without `wanted`, columns that rows cannot hold
    /// are left out with a warning.
    pub fn of(
        schema: &arrow_schema::Schema,
        wanted: Option<&[String]>,
        label_names: bool,
    ) -> Result<(Self, Vec<usize>), String> {
        let about: Json = schema
            .metadata()
            .get("huggingface")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let about = &about["info"]["features"];
        if let Some(missing) =
            wanted.into_iter().flatten().find(|name| schema.column_with_name(name).is_none())
        {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(format!("there is no column \"{missing}\", only {}", names.join(", ")));
        }
        let (mut columns, mut numbers) = (Vec::new(), Vec::new());
        for (number, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            if wanted.is_some_and(|wanted| !wanted.contains(name)) {
                continue;
            }
            match form(field.data_type(), &about[name.as_str()]) {
                Ok(form) => {
                    columns.push((name.clone(), form));
                    numbers.push(number);
                }
                Err(problem) if wanted.is_some() => return Err(format!("column \"{name}\" {problem}")),
                Err(problem) => tracing::warn!("column \"{name}\" is left out: it {problem}"),
            }
        }
        Ok((Columns { columns, label_names }, numbers))
    }

    /// The names of the classes of a column, or of a part of one (`objects/category`).
    pub fn class_names(&self, path: &str) -> Option<&[String]> {
        let mut fields = &self.columns;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let mut form = &fields.iter().find(|(field, _)| field == name)?.1;
            while let Form::List(inner) = form {
                form = inner;
            }
            match form {
                Form::Struct(inner) => fields = inner,
                Form::Label(classes) if names.peek().is_none() => return Some(classes),
                _ => return None,
            }
        }
        None
    }

    /// Row `index` of a batch with these columns. `folder` is where the files lie that the row only names.
    ///
    /// # Errors
    /// When a list holds nulls, a number is out of range or a file cannot be read.
    pub fn row(&self, batch: &RecordBatch, index: usize, folder: &Path) -> Result<Row, String> {
        let reader = Reader { folder, label_names: self.label_names };
        let mut row = Row::new();
        for ((name, form), column) in self.columns.iter().zip(batch.columns()) {
            reader
                .put(&mut row, name, form, column.as_ref(), index)
                .map_err(|problem| format!("column \"{name}\" {problem}"))?;
        }
        Ok(row)
    }
}

/// The error goes on after the column's name.
fn form(data_type: &DataType, about: &Json) -> Result<Form, String> {
    let is_sequence = matches!(about["_type"].as_str(), Some("Sequence" | "List" | "LargeList"));
    Ok(match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            let about = match about {
                Json::Array(items) => items.first().unwrap_or(&Json::Null),
                about if is_sequence => &about["feature"],
                // A sequence of dicts is stored as a dict of sequences, and described as it was meant.
                about => about,
            };
            Form::List(Box::new(form(item.data_type(), about)?))
        }
        DataType::Struct(fields) if is_file(fields) => Form::File,
        DataType::Struct(fields) => {
            let about = if is_sequence { &about["feature"] } else { about };
            let field = |field: &arrow_schema::FieldRef| {
                let name = field.name().clone();
                form(field.data_type(), &about[name.as_str()]).map(|form| (name, form))
            };
            Form::Struct(fields.iter().map(field).collect::<Result<_, _>>()?)
        }
        DataType::Dictionary(_, values) => match form(values, about)? {
            Form::List(_) | Form::Struct(_) | Form::File => return Err(unsupported(data_type)),
            form => form,
        },
        data_type if data_type.is_integer() => match about["names"].as_array() {
            Some(names) if about["_type"] == "ClassLabel" => {
                Form::Label(names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect())
            }
            _ => Form::Scalar,
        },
        DataType::Boolean
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => Form::Scalar,
        other => return Err(unsupported(other)),
    })
}

fn unsupported(data_type: &DataType) -> String {
    format!("has the type {data_type}, which rows cannot hold")
}

fn is_file(fields: &arrow_schema::Fields) -> bool {
    let is_bytes = |data_type: &DataType| {
        matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    };
    let is_text =
        |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    fields.len() == 2
        && fields.find("bytes").is_some_and(|(_, field)| is_bytes(field.data_type()))
        && fields.find("path").is_some_and(|(_, field)| is_text(field.data_type()))
}

struct Reader<'a> {
    folder: &'a Path,
    label_names: bool,
}

impl Reader<'_> {
    /// Puts a field into a row, with the class's name or the file's path beside it; null is no field.
    fn put(
        &self,
        row: &mut Row,
        name: &str,
        form: &Form,
        array: &dyn Array,
        at: usize,
    ) -> Result<(), String> {
        let Some(value) = self.value(form, array, at)? else { return Ok(()) };
        if self.label_names
            && let Some(named) = named(form, &value)
        {
            row.insert(format!("{name}_name"), named);
        }
        if *form == Form::File
            && let Some(path) = file_path(array, at)?
        {
            row.insert(format!("{name}_path"), Value::Str(path));
        }
        row.insert(name.to_owned(), value);
        Ok(())
    }

    fn value(&self, form: &Form, array: &dyn Array, at: usize) -> Result<Option<Value>, String> {
        if array.is_null(at) {
            return Ok(None);
        }
        Ok(Some(match form {
            Form::Scalar | Form::Label(_) => match scalar(array, at)? {
                Some(value) => value,
                None => return Ok(None),
            },
            Form::List(item) => {
                let items = match array.data_type() {
                    DataType::LargeList(_) => array.as_list::<i64>().value(at),
                    DataType::FixedSizeList(..) => array.as_fixed_size_list().value(at),
                    _ => array.as_list::<i32>().value(at),
                };
                let value = |at| match self.value(item, items.as_ref(), at)? {
                    Some(value) => Ok(value),
                    None => Err(format!("holds null as item {at} of a list, which a row cannot")),
                };
                Value::List((0..items.len()).map(value).collect::<Result<_, _>>()?)
            }
            Form::Struct(fields) => {
                let (array, mut row) = (array.as_struct(), Row::new());
                for ((name, form), column) in fields.iter().zip(array.columns()) {
                    self.put(&mut row, name, form, column.as_ref(), at)?;
                }
                Value::Dict(row)
            }
            Form::File => return self.file(array, at),
        }))
    }

    /// The bytes of a file: those in the table, or those of the file that it names.
    fn file(&self, array: &dyn Array, at: usize) -> Result<Option<Value>, String> {
        let bytes = part(array, "bytes")?;
        if let Some(value) = self.value(&Form::Scalar, bytes, at)? {
            return Ok(Some(value));
        }
        let Some(path) = file_path(array, at)? else { return Ok(None) };
        let path = self.folder.join(path);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(Value::Bytes(bytes))),
            Err(error) => Err(format!("names the file {}, which cannot be read: {error}", path.display())),
        }
    }
}

fn part<'a>(array: &'a dyn Array, name: &str) -> Result<&'a dyn Array, String> {
    let column = array.as_struct().column_by_name(name);
    column.map(|column| column.as_ref()).ok_or_else(|| format!("lacks its part \"{name}\""))
}

fn file_path(array: &dyn Array, at: usize) -> Result<Option<String>, String> {
    let path = part(array, "path")?;
    if array.is_null(at) || path.is_null(at) {
        return Ok(None);
    }
    Ok(scalar(path, at)?.and_then(|value| value.as_str().map(str::to_owned)))
}

/// `None` is null, which an entry of a dictionary may be though its key is not.
fn scalar(array: &dyn Array, at: usize) -> Result<Option<Value>, String> {
    macro_rules! number {
        ($type:ty, $variant:ident) => {
            Value::$variant(array.as_primitive::<$type>().value(at).into())
        };
    }
    Ok(Some(match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(at)),
        DataType::Int8 => number!(Int8Type, Int),
        DataType::Int16 => number!(Int16Type, Int),
        DataType::Int32 => number!(Int32Type, Int),
        DataType::Int64 => number!(Int64Type, Int),
        DataType::UInt8 => number!(UInt8Type, Int),
        DataType::UInt16 => number!(UInt16Type, Int),
        DataType::UInt32 => number!(UInt32Type, Int),
        DataType::UInt64 => {
            let value = array.as_primitive::<UInt64Type>().value(at);
            Value::Int(i64::try_from(value).map_err(|_| format!("holds {value}, over 63 bits"))?)
        }
        DataType::Float16 => Value::Float(array.as_primitive::<Float16Type>().value(at).to_f64()),
        DataType::Float32 => number!(Float32Type, Float),
        DataType::Float64 => number!(Float64Type, Float),
        DataType::Utf8 => array.as_string::<i32>().value(at).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(at).into(),
        DataType::Utf8View => array.as_string_view().value(at).into(),
        DataType::Binary => array.as_binary::<i32>().value(at).to_vec().into(),
        DataType::LargeBinary => array.as_binary::<i64>().value(at).to_vec().into(),
        DataType::BinaryView => array.as_binary_view().value(at).to_vec().into(),
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().value(at).to_vec().into(),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = match scalar(dictionary.keys(), at)? {
                Some(Value::Int(key)) => usize::try_from(key).ok(),
                _ => None,
            };
            let values = dictionary.values();
            match key.filter(|&key| key < values.len()) {
                Some(key) if values.is_null(key) => return Ok(None),
                Some(key) => return scalar(values.as_ref(), key),
                None => return Err("holds a key that its dictionary lacks".to_owned()),
            }
        }
        other => return Err(unsupported(other)),
    }))
}

/// The names in place of the numbers, where the form has names; a number without one (-1 in test sets) has
/// an empty name.
fn named(form: &Form, value: &Value) -> Option<Value> {
    match (form, value) {
        (Form::Label(names), Value::Int(class)) => {
            let name = usize::try_from(*class).ok().and_then(|class| names.get(class));
            Some(Value::Str(name.cloned().unwrap_or_default()))
        }
        (Form::List(item), Value::List(items)) if has_names(item) => {
            Some(Value::List(items.iter().filter_map(|value| named(item, value)).collect()))
        }
        _ => None,
    }
}

fn has_names(form: &Form) -> bool {
    match form {
        Form::Label(_) => true,
        Form::List(item) => has_names(item),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{Int32Builder, ListBuilder, StringDictionaryBuilder};
    use arrow_array::types::Int8Type;
    use arrow_array::{ArrayRef, BinaryArray, Date32Array, StringArray, StructArray, UInt64Array};
    use arrow_schema::{Field, Fields, Schema};
    use serde_json::json;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>, about: Json) -> RecordBatch {
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let about = json!({"info": {"features": about}}).to_string();
        let schema = Schema::new_with_metadata(
            fields,
            std::collections::HashMap::from([("huggingface".to_owned(), about)]),
        );
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array)| array).collect()).unwrap()
    }

    #[test]
    fn values_of_many_types() {
        let mut words = StringDictionaryBuilder::<Int8Type>::new();
        words.append_value("a");
        words.append_null();
        let mut labels = ListBuilder::new(Int32Builder::new());
        labels.append_value([Some(1), Some(-1)]);
        labels.append_value([Some(0), None]);
        let names = json!(["cat", "dog"]);
        let label = json!({"_type": "ClassLabel", "names": names});
        let labels: ArrayRef = Arc::new(labels.finish());
        let objects = StructArray::new(
            Fields::from(vec![Field::new("category", labels.data_type().clone(), true)]),
            vec![labels],
            None,
        );
        let batch = batch(
            vec![
                ("word", Arc::new(words.finish())),
                ("objects", Arc::new(objects)),
                ("big", Arc::new(UInt64Array::from(vec![3, u64::MAX]))),
                ("day", Arc::new(Date32Array::from(vec![1, 2]))),
            ],
            json!({"objects": {"_type": "Sequence", "feature": {"category": label}}}),
        );
        let schema = batch.schema();
        let (columns, numbers) = Columns::of(&schema, None, true).unwrap();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(columns.class_names("objects/category").unwrap(), ["cat", "dog"]);
        assert_eq!(columns.class_names("objects"), None);
        assert_eq!(
            Value::Dict(columns.row(&batch, 0, Path::new("")).unwrap()).to_string(),
            "{word: a, objects: {category_name: [dog, ], category: [1, -1]}, big: 3}"
        );
        assert_eq!(
            columns.row(&batch, 1, Path::new("")).unwrap_err(),
            "column \"objects\" holds null as item 1 of a list, which a row cannot"
        );
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            Columns::of(&schema, Some(&names), false).map(|(columns, _)| columns)
        };
        let big = batch.project(&[2]).unwrap();
        let error = of(&["big"]).unwrap().row(&big, 1, Path::new("")).unwrap_err();
        assert_eq!(error, "column \"big\" holds 18446744073709551615, over 63 bits");
        assert_eq!(of(&["no"]).unwrap_err(), "there is no column \"no\", only word, objects, big, day");
        assert_eq!(of(&["day"]).unwrap_err(), "column \"day\" has the type Date32, which rows cannot hold");
    }

    #[test]
    fn images_are_bytes_or_the_file_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.png"), b"file").unwrap();
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"table"[..]), None, None, None]));
        let paths: ArrayRef =
            Arc::new(StringArray::from(vec![Some("a.png"), Some("b.png"), Some("c.png"), None]));
        let fields = vec![
            Field::new("bytes", bytes.data_type().clone(), true),
            Field::new("path", paths.data_type().clone(), true),
        ];
        let image = StructArray::new(Fields::from(fields), vec![bytes, paths], None);
        let batch = batch(vec![("image", Arc::new(image))], json!({"image": {"_type": "Image"}}));
        let (columns, _) = Columns::of(&batch.schema(), None, false).unwrap();
        let row = |index| columns.row(&batch, index, dir.path());
        assert_eq!(row(0).unwrap()["image"], Value::Bytes(b"table".to_vec()));
        assert_eq!(row(0).unwrap()["image_path"].as_str(), Some("a.png"));
        assert_eq!(row(1).unwrap()["image"], Value::Bytes(b"file".to_vec()));
        assert!(row(2).unwrap_err().contains("c.png, which cannot be read: "));
        assert!(row(3).unwrap().is_empty());
    }
}
