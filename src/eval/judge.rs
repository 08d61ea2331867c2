//! The part of an evaluator that knows what a good answer is.

use image::RgbImage;
use serde_json::{Map, Value as Json, json};

use super::{Error, Masks};
use crate::array::{DType, HostArray};
use crate::data::{Field, Fields};
use crate::metrics::Metrics;
use crate::metrics::answers::Judged;

/// What the model said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Up to the token that ends it.
    pub text: String,
    /// Ids of the text's tokens, without the one that ended it.
    pub tokens: Vec<i32>,
    /// The log-probability of each token; behind them that of the end, where there was one.
    pub logp: Vec<f32>,
}

/// One example and the answer to it.
pub struct Example<'a> {
    /// The evaluation's name, for messages.
    pub eval: &'a str,
    /// Number of the row in its source.
    pub row: usize,
    /// What is known of it.
    pub fields: &'a Fields,
    pub answer: &'a Answer,
    /// Height and width of the picture as the model saw it.
    pub extent: [usize; 2],
}

/// What became of one answer.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The answer as it was compared.
    pub answer: String,
    pub references: Vec<String>,
    pub correct: Option<bool>,
    pub score: Option<f64>,
    /// What the evaluator writes down of it.
    pub json: Map<String, Json>,
}

/// A file of an evaluator, as the reference writes them: a list in JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct OutFile {
    /// The path, in which `{workdir}`, `{name}`, `{split}` and `{step}` stand for these of the run.
    pub template: String,
    pub rows: Vec<Json>,
}

/// All answers' metrics, and files.
#[derive(Debug, Default)]
pub struct Verdicts {
    pub metrics: Metrics,
    pub files: Vec<OutFile>,
}

/// Judges answers one by one.
pub trait Judge {
    /// Forgets all answers: a run begins.
    fn start(&mut self);

    /// # Errors
    /// When the example lacks what it is to be judged by.
    fn judge(&mut self, example: &Example<'_>) -> Result<Verdict, Error>;

    /// What an answer marks in `picture`, and what is to be marked.
    ///
    /// # Errors
    /// When masks cannot be decoded.
    fn masks(&self, _example: &Example<'_>, _picture: &RgbImage) -> Result<Option<Masks>, Error> {
        Ok(None)
    }

    /// Sums up; `rows` are what was written down of each answer.
    ///
    /// # Errors
    /// When all answers together make no sense.
    fn finish(&mut self, eval: &str, rows: Vec<Json>) -> Result<Verdicts, Error>;
}

impl Verdict {
    /// Right is what equals a right answer, or has the full score by the evaluator's measure.
    pub(super) fn of(judged: Judged) -> Self {
        let Judged { answer, references, score } = judged;
        let correct = score.map(|score| score >= 1.0 || references.contains(&answer));
        Verdict { answer, references, correct, score, json: Map::new() }
    }
}

impl Example<'_> {
    /// A text, if there is one under this name. Numbers count as texts.
    pub fn text(&self, key: &str) -> Result<Option<String>, Error> {
        match self.fields.get(key) {
            None => Ok(None),
            Some(Field::Text(text)) => Ok(Some(text.clone())),
            Some(Field::Array(array)) if array.dims().is_empty() => Ok(Some(plain(&number(array)))),
            Some(other) => Err(self.unfit(key, "a text", other)),
        }
    }

    /// Texts; a single one counts as a list of one.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>, Error> {
        match self.fields.get(key) {
            None => Ok(None),
            Some(Field::Text(text)) => Ok(Some(vec![text.clone()])),
            Some(Field::Texts(texts)) => Ok(Some(texts.clone())),
            Some(Field::Array(array)) if array.dims().len() <= 1 => {
                Ok(Some(numbers(array).iter().map(plain).collect()))
            }
            Some(other) => Err(self.unfit(key, "texts", other)),
        }
    }

    /// As [`text`](Self::text), which must be there.
    pub fn needed_text(&self, key: &'static str) -> Result<String, Error> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    /// An array, which must be there. An empty list counts as one.
    pub fn array(&self, key: &'static str) -> Result<HostArray, Error> {
        match self.fields.get(key) {
            None => Err(self.missing(key)),
            Some(Field::Array(array)) => Ok(array.clone()),
            Some(Field::Texts(texts)) if texts.is_empty() => {
                Ok(HostArray::zeros(crate::array::Shape::new(DType::F64, [0])))
            }
            Some(other) => Err(self.unfit(key, "an array", other)),
        }
    }

    /// A value as JSON has it: an id may be a number or a text. Without one, the number of the row.
    pub fn id(&self, key: &str) -> Json {
        match self.fields.get(key) {
            Some(Field::Text(text)) => json!(text),
            Some(Field::Array(array)) if array.dims().is_empty() => number(array),
            _ => json!(self.row),
        }
    }

    pub fn missing(&self, key: &'static str) -> Error {
        let got: Vec<&str> = self.fields.keys().map(String::as_str).collect();
        Error::MissingKey { eval: self.eval.to_owned(), key, got: got.join(", ") }
    }

    pub(super) fn unfit(&self, key: &str, expected: &'static str, got: &Field) -> Error {
        let got = match got {
            Field::Text(_) => "a text".to_owned(),
            Field::Texts(texts) => format!("{} texts", texts.len()),
            Field::Array(array) => array.shape().to_string(),
        };
        let (eval, key) = (self.eval.to_owned(), key.to_owned());
        Error::Field { eval, row: self.row, key, expected, got }
    }
}

fn number(array: &HostArray) -> Json {
    numbers(array).into_iter().next().unwrap_or(Json::Null)
}

/// Elements as JSON has them: integers exactly.
fn numbers(array: &HostArray) -> Vec<Json> {
    if let Ok(ints) = array.values::<i64>() {
        return ints.iter().map(|&int| json!(int)).collect();
    }
    let whole = |value: f64| match array.dtype() {
        DType::Pred => json!(value != 0.0),
        dtype if dtype.is_float() => json!(value),
        _ => json!(value as i64),
    };
    array.to_f64().into_iter().map(whole).collect()
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
