use std::path::Path;
use std::sync::Arc;

use super::Error;
use crate::array::{DType, HostArray, Shape};
use crate::config::{self, ClassChoice, FilePath, Loaded};
use crate::data::{
    Annotations, Classes, Coco, DetectOptions, DetectionSource, FeatureType, Field, Fields, First, Frames,
    FramesOptions, HubDataset, ImageFolder, Jsonl, JsonlOptions, Mock, Parquet, ParquetOptions, Preprocess,
    PreprocessError, Processed, Row, Source, TfRecord, Tfds, TfdsOptions, Value, Voc, VocOptions, WebDataset,
    Yolo, roboflow,
};
use crate::pp::{Env, Example, Pipeline, Strings};
use crate::tokenizer::{Tokenizer, advice_for_missing};

/// The rows that a config names.
pub fn source(source: &config::Source) -> Result<Arc<dyn Source>, Error> {
    Ok(match source {
        config::Source::Jsonl(jsonl) => {
            let folder = |(key, path): &(String, FilePath)| (key.clone(), path.as_path().to_owned());
            let fopen_keys = jsonl.fopen_keys.0.iter().map(folder).collect();
            let options = JsonlOptions { fopen_keys, start: jsonl.start, stop: jsonl.stop };
            Arc::new(Jsonl::open(jsonl.fname.as_path(), options)?)
        }
        config::Source::TfRecord(tfrecord) => {
            let feature = |(name, kind): &(String, config::FeatureKind)| (name.clone(), feature_type(*kind));
            let features = tfrecord.features.0.iter().map(feature).collect();
            Arc::new(TfRecord::open(&tfrecord.path.0, features)?)
        }
        config::Source::Tfds(tfds) => Arc::new(Tfds::open(TfdsOptions {
            name: tfds.dataset.clone(),
            data_dir: tfds.data_dir.as_ref().map(|folder| folder.as_path().to_owned()),
            split: tfds.split.clone(),
            label_names: tfds.label_names,
        })?),
        config::Source::Parquet(parquet) => {
            let options = ParquetOptions {
                split: parquet.split.clone(),
                columns: parquet.columns.clone(),
                label_names: parquet.label_names,
            };
            let files = match &parquet.repo {
                None => parquet.path.0.clone(),
                Some(repo) => {
                    HubDataset::new(repo, &parquet.revision).download(&parquet.files, &[".parquet"])?
                }
            };
            Arc::new(Parquet::open(&files, &options)?)
        }
        config::Source::WebDataset(webdataset) => {
            let rename = webdataset.rename.0.iter().cloned().collect();
            Arc::new(WebDataset::open(&webdataset.path.0, &rename)?)
        }
        config::Source::Mock(mock) => Arc::new(Mock::new(mock.rows, mock.seed as u64)),
        config::Source::ImageFolder(folder) => {
            let all = ImageFolder::open(folder.path.as_path())?;
            Arc::new(all.between(folder.start, folder.stop))
        }
        config::Source::Coco(coco) => {
            let images = coco.images.as_ref().map(|path| path.as_path().to_owned());
            boxes(Box::new(Coco::open(coco.path.as_path(), images)?), &coco.detect)?
        }
        config::Source::Yolo(yolo) => {
            boxes(Box::new(Yolo::open(yolo.path.as_path(), &yolo.split)?), &yolo.detect)?
        }
        config::Source::Voc(voc) => {
            let options = VocOptions { one_based: voc.one_based };
            boxes(Box::new(Voc::open(voc.path.as_path(), &voc.split, options)?), &voc.detect)?
        }
        config::Source::Roboflow(export) => Arc::new(roboflow(export.path.as_path(), &export.split)?),
        config::Source::Frames(frames) => {
            let options = FramesOptions {
                key: frames.key.clone(),
                folder: frames.folder.as_path().to_owned(),
                outkey: frames.outkey.clone(),
                num_frames: frames.num_frames,
                stride: frames.stride,
            };
            Arc::new(Frames::open(frames.fname.as_path(), options)?)
        }
    })
}

/// The rows of an evaluation.
pub fn eval_source(eval: &config::Eval) -> Result<Arc<dyn Source>, Error> {
    let source = source(&eval.data)?;
    Ok(match eval.max_examples {
        Some(most) if most < source.len() => Arc::new(First::new(source, most)),
        _ => source,
    })
}

fn feature_type(kind: config::FeatureKind) -> FeatureType {
    use config::FeatureKind;
    match kind {
        FeatureKind::Bytes => FeatureType::Bytes,
        FeatureKind::Str => FeatureType::Str,
        FeatureKind::Int => FeatureType::Int,
        FeatureKind::Float => FeatureType::Float,
        FeatureKind::BytesList => FeatureType::BytesList,
        FeatureKind::StrList => FeatureType::StrList,
        FeatureKind::IntList => FeatureType::IntList,
        FeatureKind::FloatList => FeatureType::FloatList,
    }
}

/// A set with boxes as rows.
fn boxes(set: Box<dyn Annotations>, detect: &config::Detect) -> Result<Arc<dyn Source>, Error> {
    let options = DetectOptions {
        prefix: detect.prefix.clone(),
        classes: match &detect.classes {
            ClassChoice::All => Classes::All,
            ClassChoice::Present => Classes::Present,
            ClassChoice::Only(names) => Classes::Only(names.clone()),
        },
        loc: detect.loc.options(),
        skip_difficult: detect.skip_difficult,
        drop_empty: detect.drop_empty,
    };
    Ok(Arc::new(DetectionSource::new(set, options)?))
}

/// Where pp strings of this config look for files: beside the config, and beside its tokenizer.
pub fn pp_env(loaded: &Loaded) -> Env {
    let folder = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
    let env = Env::new(folder(&loaded.path));
    match &loaded.config.tokenizer {
        Some(path) => env.with_tokenizers(folder(path.as_path())),
        None => env,
    }
}

/// The tokenizer of the config.
///
/// # Errors
/// When the config names none or one that is not there, or it cannot be read.
pub fn tokenizer(loaded: &Loaded) -> Result<Arc<Tokenizer>, Error> {
    match &loaded.config.tokenizer {
        Some(path) if !path.as_path().exists() => {
            let path = path.as_path();
            let message = format!("there is no file {}; {}", path.display(), advice_for_missing(path));
            Err(loaded.error_at("tokenizer", message).into())
        }
        Some(path) => Ok(Arc::new(Tokenizer::open(path.as_path())?)),
        None => Err(loaded
            .error_at("tokenizer", "tokenizer is needed: a SentencePiece model or tokenizer.json")
            .into()),
    }
}

/// A pp string as the data loader runs it: rows become examples, and the arrays and texts of the result
/// are kept.
pub struct PpPreprocess {
    pipeline: Pipeline,
    /// Arrays that the model takes; `None` keeps all.
    keep: Option<&'static [&'static str]>,
    /// Keys that must be there, and beside which nothing is kept.
    keep_only: Option<Vec<String>>,
    /// Whether what is no array of `keep` is kept for an evaluation.
    with_fields: bool,
    vocab_size: usize,
}

impl PpPreprocess {
    /// # Errors
    /// When the pp string is wrong; `key` is its place in the config.
    pub fn new(
        loaded: &Loaded,
        env: &Env,
        key: &str,
        pp: &str,
        keep: Option<&'static [&'static str]>,
        vocab_size: usize,
    ) -> Result<Self, Error> {
        let pipeline = Pipeline::parse(pp, env).map_err(|error| loaded.error_at(key, error.to_string()))?;
        Ok(PpPreprocess { pipeline, keep, keep_only: None, with_fields: false, vocab_size })
    }

    /// Keeps nothing but these keys of a result, which must all be there; `None` keeps all.
    pub fn keep_only(mut self, keys: Option<&[String]>) -> Self {
        self.keep_only = keys.map(<[String]>::to_vec);
        self
    }

    /// Keeps also, for an evaluation, what is no array that the model takes.
    pub fn with_fields(mut self) -> Self {
        self.with_fields = true;
        self
    }

    fn is_kept(&self, key: &str) -> bool {
        self.keep_only.as_ref().is_none_or(|kept| kept.iter().any(|kept| kept == key))
    }

    fn check_tokens(&self, text: &HostArray) -> Result<(), PreprocessError> {
        let ids: &[i32] = text.values()?;
        match ids.iter().find(|&&id| id < 0 || id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(id) => Err(format!(
                "token {id} is outside the model's vocabulary of {}; the tokenizer is not the model's",
                self.vocab_size
            )
            .into()),
        }
    }
}

impl Preprocess for PpPreprocess {
    fn run(&self, row: Row, seed: u64) -> Result<Processed, PreprocessError> {
        let example = example_of(row);
        let result = self.pipeline.run(example, seed)?;
        let mut wanted = self.keep_only.iter().flatten();
        if let Some(missing) = wanted.find(|key| result.get(key).is_none()) {
            let got: Vec<&str> = result.iter().map(|(key, _)| key).collect();
            return Err(format!("keep_only names \"{missing}\", pp leaves only: {}", got.join(", ")).into());
        }
        let mut processed = Processed::default();
        for (key, value) in result.into_iter().filter(|(key, _)| self.is_kept(key)) {
            match value {
                crate::pp::Value::Array(array)
                    if self.keep.is_none_or(|keep| keep.contains(&key.as_str())) =>
                {
                    if key == "text" {
                        self.check_tokens(&array)?;
                    }
                    processed.arrays.insert(key, array);
                }
                _ if self.with_fields => add_field(&mut processed.fields, &key, &value),
                // Numbers beside the arrays that the model takes are answers or ids: text for people.
                crate::pp::Value::Array(array) if array.dims().is_empty() => {
                    processed.strings.insert(key, number(&array));
                }
                _ => {
                    if let Some(text) = value.as_str() {
                        processed.strings.insert(key, text.to_owned());
                    }
                }
            }
        }
        Ok(processed)
    }
}

/// What is in a dict is named as the op `flatten` names it. Bytes are no use to an evaluation.
fn add_field(fields: &mut Fields, key: &str, value: &crate::pp::Value) {
    use crate::pp::Value;
    let field = match value {
        Value::Array(array) => Field::Array(array.clone()),
        Value::Text(text) if text.dims().is_empty() => Field::Text(text.values().concat()),
        Value::Text(text) => Field::Texts(text.values().to_vec()),
        Value::Dict(inner) => {
            return inner.iter().for_each(|(name, value)| add_field(fields, &format!("{key}/{name}"), value));
        }
        Value::Bytes(_) | Value::List(_) => return,
    };
    fields.insert(key.to_owned(), field);
}

fn number(array: &HostArray) -> String {
    let value = array.to_f64().first().copied().unwrap_or(f64::NAN);
    if array.dtype() == DType::Pred { (value != 0.0).to_string() } else { value.to_string() }
}

/// A row as preprocessing takes it.
pub fn example_of(row: Row) -> Example {
    row.into_iter().map(|(key, value)| (key, pp_value(value))).collect()
}

fn pp_value(value: Value) -> crate::pp::Value {
    match value {
        Value::Str(text) => text.as_str().into(),
        Value::Int(int) => HostArray::scalar(int).into(),
        Value::Float(float) => HostArray::scalar(float).into(),
        Value::Bool(flag) => HostArray::scalar(u8::from(flag)).cast(DType::Pred).into(),
        Value::Bytes(bytes) => crate::pp::Value::Bytes(bytes),
        Value::List(items) => list(items),
        Value::Dict(fields) => crate::pp::Value::Dict(example_of(fields)),
    }
}

/// Lists of alike scalars, and lists of lists of one length, become arrays, as TensorFlow makes them.
fn list(items: Vec<Value>) -> crate::pp::Value {
    let texts: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    let strings = texts.and_then(|texts| Strings::new([texts.len()], texts).ok());
    if let Some(strings) = strings {
        return crate::pp::Value::Text(strings);
    }
    let ints: Option<Vec<i64>> =
        items.iter().map(|item| if let Value::Int(int) = item { Some(*int) } else { None }).collect();
    if let Some(ints) = ints {
        return crate::pp::Value::from(ints.as_slice());
    }
    let floats: Option<Vec<f64>> = items
        .iter()
        .map(|item| match item {
            Value::Int(int) => Some(*int as f64),
            Value::Float(float) => Some(*float),
            _ => None,
        })
        .collect();
    match floats {
        Some(floats) => crate::pp::Value::from(floats.as_slice()),
        None => {
            let items: Vec<crate::pp::Value> = items.into_iter().map(pp_value).collect();
            stack(&items).unwrap_or(crate::pp::Value::List(items))
        }
    }
}

/// One array of arrays, or one block of texts of texts, where all have the same extents; numbers of several
/// types become `f64`.
fn stack(items: &[crate::pp::Value]) -> Option<crate::pp::Value> {
    use crate::pp::Value;
    let inner = items.first()?.dims();
    if items.iter().any(|item| item.dims() != inner) {
        return None;
    }
    let dims: Vec<usize> = [items.len()].into_iter().chain(inner).collect();
    let arrays: Option<Vec<&HostArray>> = items.iter().map(Value::as_array).collect();
    if let Some(arrays) = arrays {
        let first = arrays.first()?.dtype();
        let dtype = if arrays.iter().all(|array| array.dtype() == first) { first } else { DType::F64 };
        let bytes: Vec<u8> = arrays.iter().flat_map(|array| array.cast(dtype).bytes().to_vec()).collect();
        return HostArray::from_bytes(Shape::new(dtype, dims), &bytes).ok().map(Value::Array);
    }
    let texts = items.iter().map(|item| match item {
        Value::Text(text) => Some(text.values()),
        _ => None,
    });
    let texts: Vec<&[String]> = texts.collect::<Option<_>>()?;
    Strings::new(dims, texts.concat()).ok().map(Value::Text)
}
