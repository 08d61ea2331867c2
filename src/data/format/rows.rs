//! Rows of any source as annotated pictures.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::source::detection::{image_extent, image_extent_of};
use super::super::{Annotated, Annotations, Error, ImageFile, Object, Row, Source, Value};
use crate::detection::{LocOptions, parse_unclamped};

/// What the four numbers of a box are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BoxFormat {
    /// Left, top, width and height, in pixels: COCO, and most sets on the Hugging Face hub
    #[default]
    Xywh,
    /// Left, top, right and bottom, in pixels
    Xyxy,
    /// Top, left, bottom and right, as fractions of the picture: TFDS
    Yxyx,
}

/// Which keys of the rows say what. Keys within keys are joined by dots.
#[derive(Debug, Clone)]
pub struct RowOptions {
    pub image_key: String,
    /// Folder that is put before pictures named by a path.
    pub folder: PathBuf,
    pub bbox_key: String,
    pub category_key: String,
    pub box_format: BoxFormat,
    /// Names of classes that are given as numbers.
    pub class_names: Vec<String>,
    /// Key of an answer in PaliGemma's words, read where there are no boxes.
    pub suffix_key: String,
    /// How location tokens in such answers are meant.
    pub suffix_loc: LocOptions,
    pub caption_key: Option<String>,
    pub label_key: Option<String>,
}

impl Default for RowOptions {
    fn default() -> Self {
        RowOptions {
            image_key: "image".to_owned(),
            folder: PathBuf::new(),
            bbox_key: "objects.bbox".to_owned(),
            category_key: "objects.category".to_owned(),
            box_format: BoxFormat::default(),
            class_names: Vec::new(),
            suffix_key: "suffix".to_owned(),
            suffix_loc: LocOptions::default(),
            caption_key: None,
            label_key: None,
        }
    }
}

/// Any source as [`Annotations`]: JSON lines, Parquet files, folders of labelled pictures.
pub struct RowSet {
    source: Arc<dyn Source>,
    options: RowOptions,
    /// The file of each row's picture, where the source knows it: it then need not be copied.
    paths: Option<Box<dyn Fn(usize) -> Option<PathBuf> + Send + Sync>>,
}

impl RowSet {
    pub fn new(source: Arc<dyn Source>, options: RowOptions) -> Self {
        RowSet { source, options, paths: None }
    }

    /// With the files of the pictures by row.
    pub fn with_paths(mut self, paths: impl Fn(usize) -> Option<PathBuf> + Send + Sync + 'static) -> Self {
        self.paths = Some(Box::new(paths));
        self
    }

    fn bad(&self, index: usize, problem: String) -> Error {
        Error::BadRow { row: self.source.locate(index), problem }
    }

    fn image(&self, row: &Row, index: usize) -> Result<ImageFile, Error> {
        if let Some(path) = self.paths.as_ref().and_then(|paths| paths(index)) {
            return Ok(ImageFile::Path(path));
        }
        let key = &self.options.image_key;
        match find(row, key) {
            Some(Value::Bytes(bytes)) => Ok(ImageFile::Bytes(bytes.clone())),
            Some(Value::Str(name)) => Ok(ImageFile::Path(self.options.folder.join(name))),
            // The hub's images are a dict of their bytes and their path.
            Some(Value::Dict(image)) => match (image.get("bytes"), image.get("path")) {
                (Some(Value::Bytes(bytes)), _) => Ok(ImageFile::Bytes(bytes.clone())),
                (_, Some(Value::Str(name))) => Ok(ImageFile::Path(self.options.folder.join(name))),
                _ => Err(self.bad(index, format!("\"{key}\" has neither bytes nor a path"))),
            },
            Some(other) => {
                let problem = format!("\"{key}\" should be an image or its path, got {}", other.kind());
                Err(self.bad(index, problem))
            }
            None => Err(self.bad(index, format!("there is no \"{key}\", only {}", keys(row)))),
        }
    }

    /// Height and width in pixels: as the row says, or else as the picture does.
    fn extent(&self, row: &Row, image: &ImageFile, index: usize) -> Result<[f64; 2], Error> {
        let side = |key: &str| row.get(key).and_then(number).filter(|side| *side > 0.0);
        if let (Some(height), Some(width)) = (side("height"), side("width")) {
            return Ok([height, width]);
        }
        let at = || self.source.locate(index);
        match image {
            ImageFile::Path(path) => image_extent(path, at),
            ImageFile::Bytes(bytes) => image_extent_of(bytes, at),
        }
    }

    fn objects(
        &self,
        row: &Row,
        boxes: &Value,
        extent: [f64; 2],
        index: usize,
    ) -> Result<Vec<Object>, Error> {
        let RowOptions { bbox_key, category_key, .. } = &self.options;
        let bad = |problem: String| self.bad(index, problem);
        let boxes = boxes
            .as_list()
            .ok_or_else(|| bad(format!("\"{bbox_key}\" should be a list of boxes, got {}", boxes.kind())))?;
        let labels = match find(row, category_key) {
            Some(Value::List(labels)) if labels.len() == boxes.len() => labels,
            Some(Value::List(labels)) => {
                let (boxes, labels) = (boxes.len(), labels.len());
                return Err(bad(format!("there are {boxes} boxes, but {labels} of \"{category_key}\"")));
            }
            Some(other) => {
                return Err(bad(format!("\"{category_key}\" should be a list, got {}", other.kind())));
            }
            None if boxes.is_empty() => return Ok(Vec::new()),
            None => {
                let keys = keys(row);
                return Err(bad(format!("there is no \"{category_key}\" with classes, only {keys}")));
            }
        };
        let object = |(corners, label): (&Value, &Value)| {
            let numbers: Option<Vec<f64>> = corners.as_list().map(|c| c.iter().filter_map(number).collect());
            let numbers = numbers.and_then(|numbers| <[f64; 4]>::try_from(numbers).ok());
            let [a, b, c, d] =
                numbers.ok_or_else(|| bad(format!("a box should be four numbers, got {corners}")))?;
            let corners = match self.options.box_format {
                BoxFormat::Xywh => [b, a, b + d, a + c],
                BoxFormat::Xyxy => [b, a, d, c],
                BoxFormat::Yxyx => [a * extent[0], b * extent[1], c * extent[0], d * extent[1]],
            };
            let label = self.class(label).map_err(bad)?;
            Ok(Object { corners, label, is_difficult: false })
        };
        boxes.iter().zip(labels).map(object).collect()
    }

    fn class(&self, label: &Value) -> Result<String, String> {
        let names = &self.options.class_names;
        match label {
            Value::Str(name) => Ok(name.clone()),
            Value::Int(_) if names.is_empty() => {
                Err("classes are numbers; --class-names says what they are called".to_owned())
            }
            Value::Int(number) => {
                let name = usize::try_from(*number).ok().and_then(|number| names.get(number));
                name.cloned().ok_or_else(|| format!("class {number} is none of {} names", names.len()))
            }
            other => Err(format!("a class should be a name or a number, got {}", other.kind())),
        }
    }
}

impl Annotations for RowSet {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn classes(&self) -> &[String] {
        &self.options.class_names
    }

    fn annotated(&self, index: usize) -> Result<Annotated, Error> {
        let row = self.source.get(index)?;
        let options = &self.options;
        let image = self.image(&row, index)?;
        let id = row.get("id").map_or_else(|| index.to_string(), Value::to_string);
        let mut annotated = Annotated { id, extent: [1.0; 2], ..Annotated::new(image) };
        if let Some(boxes) = find(&row, &options.bbox_key) {
            if options.box_format != BoxFormat::Yxyx {
                annotated.extent = self.extent(&row, &annotated.image, index)?;
            }
            annotated.objects = self.objects(&row, boxes, annotated.extent, index)?;
        } else if let Some(answer) = find(&row, &options.suffix_key).and_then(Value::as_str) {
            let (found, invalid) = parse_unclamped(answer);
            let scale = f64::from(u16::from(options.suffix_loc.scale));
            annotated.num_invalid = invalid;
            annotated.objects = found
                .into_iter()
                .map(|(bins, label)| Object {
                    corners: bins.map(|bin| f64::from(bin) / scale),
                    label,
                    is_difficult: false,
                })
                .collect();
        }
        if let Some(value) = options.caption_key.as_ref().and_then(|key| find(&row, key)) {
            annotated.captions = match value {
                Value::List(texts) => texts.iter().map(Value::to_string).collect(),
                text => vec![text.to_string()],
            };
        }
        if let Some(value) = options.label_key.as_ref().and_then(|key| find(&row, key)) {
            annotated.label = Some(match value {
                Value::Int(_) if !options.class_names.is_empty() => {
                    self.class(value).map_err(|problem| self.bad(index, problem))?
                }
                value => value.to_string(),
            });
        }
        Ok(annotated)
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn locate(&self, index: usize) -> String {
        self.source.locate(index)
    }
}

/// The value at a key, or at keys within keys joined by dots.
fn find<'a>(row: &'a Row, key: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(key) {
        return Some(value);
    }
    let (outer, inner) = key.split_once('.')?;
    match row.get(outer)? {
        Value::Dict(fields) => find(fields, inner),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(int) => Some(*int as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}

fn keys(row: &Row) -> String {
    let mut keys = Vec::new();
    for (key, value) in row {
        match value {
            Value::Dict(fields) => keys.extend(fields.keys().map(|inner| format!("{key}.{inner}"))),
            _ => keys.push(key.clone()),
        }
    }
    keys.join(", ")
}
