//! What a config feeds the model, example by example: what `paligemma data preview` shows.
//!
//! Rows of a source come in the order of a training and with its random numbers, so without a mixture the first
//! ones are those of its first batch. Beside what the ops made of a row it is noted what they cut off.

#[cfg(test)]
mod tests;
mod tokens;

use std::borrow::Cow;
use std::sync::Arc;

use image::RgbImage;

use crate::array::{DType, HostArray};
use crate::config::{self, InputData, Loaded, MixedSource};
use crate::data::{self, Loader, LoaderOptions, PreprocessError, Processed, Row, Shuffle, Source, Stream};
use crate::detection::parse_detections;
use crate::pp::{self, Env, Pipeline};
use crate::report::preview::{Example, Lengths, Part, Preview, Role, Token};
use crate::setup;
use crate::tokenizer::Tokenizer;

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Examples shown from each source.
    pub num_examples: usize,
    /// Rows of each source whose lengths are counted, at least those shown.
    pub num_rows: usize,
    /// Evaluations to look at instead of the training data.
    pub evals: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setup(#[from] setup::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Error::Setup(error.into())
    }
}

/// One source with its preprocessing.
struct Feed<'a> {
    /// Key in the config, for people.
    name: String,
    source: Arc<dyn Source>,
    /// Key and text of the pp string.
    pp: (String, Cow<'a, str>),
    shuffle: Shuffle,
    /// Whether answers are trained on.
    is_training: bool,
}

/// Reads and preprocesses the first rows of a config's sources.
///
/// # Errors
/// When the config is wrong or a source cannot be read. Rows that cannot be preprocessed are part of the
/// result.
pub fn preview(loaded: &Loaded, options: &Options) -> Result<Preview, Error> {
    let env = setup::pp_env(loaded);
    let parts = feeds(loaded, options)?;
    let parts = parts.into_iter().map(|feed| look(loaded, &env, feed, options));
    Ok(Preview { config: loaded.path.display().to_string(), parts: parts.collect::<Result<_, _>>()? })
}

fn feeds<'a>(loaded: &'a Loaded, options: &Options) -> Result<Vec<Feed<'a>>, Error> {
    let config = &loaded.config;
    if !options.evals.is_empty() {
        return options.evals.iter().map(|name| eval_feed(loaded, name)).collect();
    }
    let input = config.input.as_ref().ok_or_else(|| {
        loaded.error_at("input", "there is no input to look at; --eval names an evaluation")
    })?;
    let sections: Vec<(String, Cow<MixedSource>)> = match &input.data {
        InputData::Source(data) => vec![("input".to_owned(), Cow::Owned(setup::alone(input, data)))],
        InputData::Mixture(weights) => {
            let named = weights.iter().filter_map(|(name, _)| Some((name, input.sources.0.get(name)?)));
            named.map(|(name, section)| (format!("input.{name}"), Cow::Borrowed(section))).collect()
        }
    };
    sections
        .into_iter()
        .map(|(name, section)| {
            Ok(Feed {
                source: setup::source(&section.data)?,
                pp: (format!("{name}.pp"), section.pp.clone().into()),
                shuffle: setup::shuffle(&section),
                is_training: true,
                name,
            })
        })
        .collect()
}

fn eval_feed<'a>(loaded: &'a Loaded, name: &str) -> Result<Feed<'a>, Error> {
    let evals = &loaded.config.evals;
    let Some(eval) = evals.get(name) else {
        let known: Vec<&str> = evals.iter().map(|(name, _)| name).collect();
        let known = if known.is_empty() { "the config has none".to_owned() } else { known.join(", ") };
        let message = format!("there is no evaluation \"{name}\": {known}");
        return Err(loaded.error_at("evals", message).into());
    };
    Ok(Feed {
        name: format!("evals.{name}"),
        source: setup::eval_source(eval)?,
        pp: (format!("evals.{name}.pp_fn"), eval.pp_fn.as_str().into()),
        shuffle: Shuffle::InOrder,
        is_training: false,
    })
}

/// Name of the text that says how many tokens there were before `tolen`.
const LENGTH: &str = "_length";
/// Name of the text that says why a row could not be preprocessed.
const FAILURE: &str = "_failure";

fn look(loaded: &Loaded, env: &Env, feed: Feed<'_>, options: &Options) -> Result<Part, Error> {
    let (key, pp) = &feed.pp;
    let pipeline = Pipeline::parse(pp, env).map_err(|error| loaded.error_at(key, error.to_string()))?;
    let tokenizer = tokens::tokenizer_of(pp, env, loaded)?;
    let looker = Looker {
        tokenizer,
        image_size: loaded.config.model.image_size,
        vocab_size: setup::model_config(loaded).ok().map(|model| model.llm.vocab_size),
        is_training: feed.is_training,
    };
    let source = feed.source.clone();
    let num_rows = options.num_rows.max(options.num_examples).min(source.len());
    let observe = move |row: Row, seed: u64| Ok::<_, PreprocessError>(observed(&pipeline, row, seed));
    let stream = Stream {
        name: String::new(),
        source: source.clone(),
        preprocess: Arc::new(observe),
        weight: 1.0,
        shuffle: feed.shuffle,
        skip_errors: false,
    };
    let loader_options =
        LoaderOptions { seed: loaded.config.seed, epochs: Some(1), ..LoaderOptions::default() };
    let loader = Loader::of_streams(vec![stream], loader_options)?;
    let mut part = Part {
        name: feed.name,
        source: source.describe(),
        is_shuffled: feed.shuffle != Shuffle::InOrder,
        examples: Vec::new(),
        lengths: Lengths::default(),
        num_failed: 0,
    };
    for batch in loader.take(num_rows) {
        let mut batch = batch?;
        let name =
            batch.ids.first().copied().flatten().map_or_else(String::new, |index| source.locate(index));
        let text = |key: &str| batch.strings.get(key).and_then(|texts| texts.first().cloned());
        if let Some(failure) = text(FAILURE) {
            part.num_failed += 1;
            if part.examples.len() < options.num_examples {
                part.examples.push(Example { name, problems: vec![failure], ..Example::default() });
            }
            continue;
        }
        let length = text(LENGTH).and_then(|text| text.parse().ok());
        let row = |array: &HostArray| {
            // Batches here are of one row each.
            let dims = array.dims().get(1..).unwrap_or_default().to_vec();
            array.clone().reshaped(dims).ok()
        };
        let tokens = batch.arrays.get("text").and_then(row);
        if let Some(tokens) = &tokens {
            let room = tokens.dims().first().copied().unwrap_or(0);
            let length = length.unwrap_or(room);
            part.lengths.add(length, text(LENGTH).map(|_| room));
        }
        if part.examples.len() < options.num_examples {
            let image = batch.arrays.swap_remove("image").as_ref().and_then(row);
            let mask = |key: &str| batch.arrays.get(key).and_then(row);
            let masks = tokens::Masks { ar: mask("mask_ar"), loss: mask("mask_loss") };
            part.examples.push(looker.example(name, image.as_ref(), tokens.as_ref(), &masks, length));
        }
    }
    Ok(part)
}

/// What the ops make of a row: all its arrays, and notes about it.
fn observed(pipeline: &Pipeline, row: Row, seed: u64) -> Processed {
    let mut processed = Processed::default();
    let (mut before, mut length) = (None, None);
    let result = pipeline.run_observed(setup::example_of(row), seed, |op, example| {
        if op == "tolen" {
            length = length.or(before);
        }
        before =
            example.get("text").and_then(pp::Value::as_array).and_then(|text| text.dims().first().copied());
    });
    match result {
        Ok(example) => {
            for (key, value) in example.iter() {
                if let pp::Value::Array(array) = value {
                    processed.arrays.insert(key.to_owned(), array.clone());
                }
            }
            if let Some(length) = length {
                processed.strings.insert(LENGTH.to_owned(), length.to_string());
            }
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            processed.strings.insert(FAILURE.to_owned(), text);
        }
    }
    processed
}

/// Makes examples for people of what the model is given.
struct Looker {
    tokenizer: Option<Arc<Tokenizer>>,
    image_size: Option<usize>,
    vocab_size: Option<usize>,
    is_training: bool,
}

impl Looker {
    fn example(
        &self,
        name: String,
        image: Option<&HostArray>,
        text: Option<&HostArray>,
        masks: &tokens::Masks,
        length: Option<usize>,
    ) -> Example {
        let mut example = Example { name, ..Example::default() };
        match image {
            Some(array) => {
                example.image = describe(array);
                example.picture = picture(array);
                self.check_image(array, &mut example.problems);
            }
            None => example.problems.push("there is no \"image\"".to_owned()),
        }
        let ids = text.and_then(|text| text.values::<i32>().ok());
        match (ids, &self.tokenizer) {
            (None, _) => example.problems.push("there is no \"text\" of token ids".to_owned()),
            (Some(ids), tokenizer) => {
                let roles = masks.roles(ids.len(), length, ids, tokenizer.as_ref().map(|t| t.pad()));
                self.read(ids, &roles, tokenizer.as_deref(), &mut example);
                self.check_tokens(ids, &roles, length, &mut example);
            }
        }
        example
    }

    /// The texts that the tokens stand for.
    fn read(&self, ids: &[i32], roles: &[Role], tokenizer: Option<&Tokenizer>, example: &mut Example) {
        let spelt = |&id: &i32| {
            let piece = tokenizer.and_then(|tokenizer| tokenizer.id_to_piece(id));
            piece.unwrap_or_else(|| format!("#{id}"))
        };
        example.tokens = ids
            .iter()
            .zip(roles)
            .map(|(id, &role)| Token { text: tokens::shown(&spelt(id)), role })
            .collect();
        let Some(tokenizer) = tokenizer else { return };
        let text_of = |wanted: &dyn Fn(Role) -> bool| {
            let ids: Vec<i32> =
                ids.iter().zip(roles).filter(|(_, role)| wanted(**role)).map(|(id, _)| *id).collect();
            tokenizer.decode_emitted(&ids).unwrap_or_default()
        };
        example.prompt = text_of(&|role| role == Role::Prefix || role == Role::Causal);
        example.answer = text_of(&|role| role == Role::Trained);
        let found = parse_detections(&example.answer);
        let has_locations = example.answer.contains("<loc");
        example.num_boxes = found.objects.len();
        if has_locations && found.invalid > 0 {
            let message = format!("{} parts of the answer are no boxes", found.invalid);
            example.problems.push(message);
        }
        if has_locations && tokenizer.loc().is_none() {
            let message = "the tokenizer has no location tokens, boxes are spelt in characters";
            example.problems.push(message.to_owned());
        }
    }

    fn check_image(&self, array: &HostArray, problems: &mut Vec<String>) {
        let is_picture = matches!(array.dims(), [_, _, 3] | [_, _, _, 3]) && array.dtype() == DType::F32;
        let sides: Vec<usize> = array.dims().iter().rev().skip(1).take(2).copied().collect();
        match self.image_size {
            _ if !is_picture => problems.push(format!("image is {}, expected f32 [.., 3]", array.shape())),
            Some(size) if sides.iter().any(|&side| side != size) => {
                problems.push(format!("image is {}, but model.image_size is {size}", array.shape()));
            }
            _ => {}
        }
    }

    fn check_tokens(&self, ids: &[i32], roles: &[Role], length: Option<usize>, example: &mut Example) {
        if let Some(lost) = length.and_then(|length| length.checked_sub(ids.len())).filter(|&lost| lost > 0) {
            example.problems.push(format!("{lost} tokens do not fit into {} and are cut off", ids.len()));
        }
        let trained = roles.iter().rposition(|role| *role == Role::Trained);
        match (trained, &self.tokenizer) {
            (None, _) if self.is_training => {
                example.problems.push("no token is trained on: mask_loss is 0 everywhere".to_owned());
            }
            (Some(last), Some(tokenizer)) if self.is_training && ids[last] != tokenizer.eos() => {
                example.problems.push("the answer does not end with the end token".to_owned());
            }
            _ => {}
        }
        let unknown = |id: &&i32| self.tokenizer.as_ref().is_some_and(|tokenizer| **id == tokenizer.unk());
        let num_unknown = ids.iter().filter(unknown).count();
        if num_unknown > 0 {
            example.problems.push(format!("{num_unknown} tokens are unknown to the tokenizer"));
        }
        let limit = self.vocab_size.and_then(|size| i32::try_from(size).ok());
        if let Some(id) = ids.iter().find(|&&id| id < 0 || limit.is_some_and(|limit| id >= limit)) {
            example.problems.push(format!("token {id} is outside the model's vocabulary"));
        }
    }
}

/// Shape, type and range.
fn describe(array: &HostArray) -> String {
    let values = array.to_f64();
    let fold = |f: fn(f64, f64) -> f64| values.iter().copied().reduce(f).unwrap_or(f64::NAN);
    let number = crate::report::units::number;
    format!("{} from {} to {}", array.shape(), number(fold(f64::min)), number(fold(f64::max)))
}

/// Pixels as a picture: those in [-1, 1] or [0, 255] as they are meant, others stretched over all levels.
/// Frames of a video stand side by side.
fn picture(array: &HostArray) -> Option<RgbImage> {
    let (frames, height, width) = match *array.dims() {
        [height, width, 3] => (1, height, width),
        [frames, height, width, 3] => (frames, height, width),
        _ => return None,
    };
    let values = array.to_f64();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // A little beyond is what resizing leaves.
    let (from, to) = match (low, high) {
        _ if array.dtype() == DType::U8 => (0.0, 255.0),
        (low, high) if low >= -1.05 && high <= 1.05 => (-1.0, 1.0),
        (low, high) if low >= 0.0 && high <= 255.0 => (0.0, 255.0),
        range => range,
    };
    let level = |value: f64| ((value - from) / (to - from) * 255.0).round().clamp(0.0, 255.0) as u8;
    let mut picture = RgbImage::new((frames * width) as u32, height as u32);
    for (number, pixel) in values.chunks_exact(3).enumerate() {
        let (frame, within) = (number / (height * width), number % (height * width));
        let (y, x) = (within / width, frame * width + within % width);
        let pixel = image::Rgb([level(pixel[0]), level(pixel[1]), level(pixel[2])]);
        picture.put_pixel(x as u32, y as u32, pixel);
    }
    Some(picture)
}
