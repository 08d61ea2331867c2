//! Sets of pictures with boxes: COCO, YOLO and Pascal VOC files, as training rows and for `data format`.
//!
//! A reader is an [`Annotations`]: it indexes the set when it is opened and gives one [`Annotated`] picture at
//! a time, without reading pixels. [`DetectionSource`] makes rows of them.

mod coco;
mod texts;
mod voc;
mod yolo;

pub use coco::Coco;
pub(in crate::data) use texts::detect_texts;
pub use texts::{Classes, DetectOptions};
pub use voc::{Voc, VocOptions};
pub use yolo::Yolo;

use std::path::{Path, PathBuf};
use std::{fs, io};

use image::ImageReader;

use super::imagefolder::{EXTENSIONS, collect_images};
use super::{Error, Row, Source, file_name, fingerprint, list, read_file};
use crate::data::Value;

/// A picture and what people marked in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotated {
    /// The set's own name for it: COCO's image id, else the file's name.
    pub id: String,
    pub image: ImageFile,
    /// Height and width that the corners are relative to: the picture's in pixels, or ones.
    pub extent: [f64; 2],
    pub objects: Vec<Object>,
    pub captions: Vec<String>,
    /// What the picture as a whole is labelled with: a class, or how many there are of something.
    pub label: Option<String>,
    /// Stretches of an answer in PaliGemma's words that could not be read as objects.
    pub num_invalid: usize,
}

impl Annotated {
    /// A picture without annotations or a name, whose corners are fractions.
    pub fn new(image: ImageFile) -> Self {
        Annotated {
            id: String::new(),
            image,
            extent: [1.0; 2],
            objects: Vec::new(),
            captions: Vec::new(),
            label: None,
            num_invalid: 0,
        }
    }
}

/// Where an encoded picture is.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageFile {
    Path(PathBuf),
    /// Within a larger file.
    Bytes(Vec<u8>),
}

/// A marked object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// y1 x1 y2 x2, from the upper left corner of the picture; they may lie outside of it.
    pub corners: [f64; 4],
    pub label: String,
    /// VOC's `difficult` and COCO's `iscrowd`: evaluations leave these out.
    pub is_difficult: bool,
}

/// A set of annotated pictures that can be read in any order, from several threads.
pub trait Annotations: Send + Sync {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of all classes, in the set's order; empty when the set does not say.
    fn classes(&self) -> &[String];

    /// # Errors
    /// When the picture has no size and its file cannot be read, or `index` is not below
    /// [`len`](Self::len).
    fn annotated(&self, index: usize) -> Result<Annotated, Error>;

    /// The file's name of picture `index`, or another name that it keeps; without reading anything.
    fn name(&self, index: usize) -> String {
        index.to_string()
    }

    /// What this set is, for logs.
    fn describe(&self) -> String;

    /// Where picture `index` is annotated, for messages.
    fn locate(&self, index: usize) -> String;
}

/// Annotated pictures as training rows.
///
/// Each has `id` (its number, as text), `image_id`, `image` (the encoded bytes), `objects` with `bbox` (y1 x1
/// y2 x2 as fractions, as TFDS has them) and `label` (names), and `prefix` and `suffix` in PaliGemma's words.
pub struct DetectionSource {
    set: Box<dyn Annotations>,
    options: DetectOptions,
}

impl DetectionSource {
    /// # Errors
    /// When the options name classes that the set does not have.
    pub fn new(set: Box<dyn Annotations>, options: DetectOptions) -> Result<Self, Error> {
        options.check(set.classes()).map_err(|problem| Error::Options { problem })?;
        Ok(DetectionSource { set, options })
    }
}

impl Source for DetectionSource {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let annotated = self.set.annotated(index)?;
        let texts = detect_texts(&annotated, self.set.classes(), &self.options);
        let image = match annotated.image {
            ImageFile::Bytes(bytes) => bytes,
            ImageFile::Path(path) => read_image(&path, || self.set.locate(index))?,
        };
        let [height, width] = annotated.extent;
        let fractions = |[y1, x1, y2, x2]: [f64; 4]| {
            Value::List([y1 / height, x1 / width, y2 / height, x2 / width].map(Value::Float).to_vec())
        };
        let objects = annotated.objects.iter();
        let boxes = objects.clone().map(|object| fractions(object.corners)).collect();
        let labels = objects.map(|object| Value::Str(object.label.clone())).collect();
        let objects =
            [("bbox".to_owned(), Value::List(boxes)), ("label".to_owned(), Value::List(labels))].into();
        Ok(Row::from([
            ("id".to_owned(), Value::Str(index.to_string())),
            ("image_id".to_owned(), Value::Str(annotated.id)),
            ("image".to_owned(), Value::Bytes(image)),
            ("objects".to_owned(), Value::Dict(objects)),
            ("prefix".to_owned(), Value::Str(texts.prefix)),
            ("suffix".to_owned(), Value::Str(texts.suffix)),
        ]))
    }

    fn describe(&self) -> String {
        self.set.describe()
    }

    fn locate(&self, index: usize) -> String {
        self.set.locate(index)
    }

    fn fingerprint(&self) -> u64 {
        fingerprint((0..self.set.len()).map(|index| self.set.name(index)))
    }
}

/// The file of a picture that is annotated at `at`.
pub(crate) fn read_image(path: &Path, at: impl FnOnce() -> String) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::ImageFile { at: at(), image: path.to_owned(), source })
}

/// Height and width in pixels, from the file's header alone. As everywhere in this program, EXIF rotations are
/// not applied.
pub(crate) fn image_extent(path: &Path, at: impl FnOnce() -> String) -> Result<[f64; 2], Error> {
    let opened = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let extent = opened.and_then(|reader| reader.into_dimensions().map_err(io::Error::other));
    match extent {
        Ok((width, height)) => Ok([f64::from(height), f64::from(width)]),
        Err(source) => Err(Error::ImageFile { at: at(), image: path.to_owned(), source }),
    }
}

/// As [`image_extent`], of a picture that is no file of its own.
pub(crate) fn image_extent_of(encoded: &[u8], at: impl FnOnce() -> String) -> Result<[f64; 2], Error> {
    let reader = ImageReader::new(io::Cursor::new(encoded)).with_guessed_format();
    let extent = reader.and_then(|reader| reader.into_dimensions().map_err(io::Error::other));
    match extent {
        Ok((width, height)) => Ok([f64::from(height), f64::from(width)]),
        Err(error) => Err(Error::BadRow { row: at(), problem: format!("cannot read its image: {error}") }),
    }
}

/// A size that a set states; zeros and negative numbers stand for not knowing.
fn stated_extent(height: Option<f64>, width: Option<f64>) -> Option<[f64; 2]> {
    let good = |side: Option<f64>| side.filter(|side| side.is_finite() && *side > 0.0);
    Some([good(height)?, good(width)?])
}

fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = read_file(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
        Error::BadLine { path: path.to_owned(), line, problem: "not UTF-8".to_owned() }
    })
}

fn out_of_range(set: &dyn Annotations, index: usize) -> Error {
    Error::OutOfRange { source_name: set.describe(), index, len: set.len() }
}
