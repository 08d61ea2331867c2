//! From questions to a batch of prompts.

use rayon::prelude::*;

use super::{Error, Question, Row};
use crate::array::{DType, HostArray, Shape};
use crate::decode::PromptBatch;
use crate::pp::{self, Example, Pipeline};
use crate::tokenizer::Tokenizer;

/// Prompts are padded to multiples of this, so that those of about one length share a program.
pub const MIN_PROMPT_STEP: usize = 16;

/// How questions become a model's inputs.
#[derive(Debug)]
pub enum Preprocessing {
    /// A pp string that finds the file under `image` and the prompt under `prefix`, and leaves `image`,
    /// `text`, `mask_input` and `mask_ar`.
    Whole(Pipeline),
    /// A pp string for `image` alone. The prompt is tokenized as `prefix + "\n"` behind the token that
    /// begins a text, as all of big_vision's transfers do it.
    Image(Pipeline),
}

impl Preprocessing {
    /// The rows of a batch, made on all cores.
    pub(super) fn rows(
        &self,
        questions: &[Question],
        tokenizer: &Tokenizer,
        vocab_size: usize,
    ) -> Result<Vec<Row>, Error> {
        questions.par_iter().map(|question| self.row(question, tokenizer, vocab_size)).collect()
    }

    fn row(&self, question: &Question, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Row, Error> {
        let mut example = Example::new();
        example.insert("image", pp::Value::Bytes(question.image.clone()));
        let row = match self {
            Preprocessing::Whole(pipeline) => {
                example.insert("prefix", question.prompt.as_str());
                let result = run(pipeline, example, question)?;
                let tokens = |key| Ok::<_, Error>(integers(array(&result, key, question)?));
                Row {
                    image: array(&result, "image", question)?.clone(),
                    text: tokens("text")?,
                    mask_input: tokens("mask_input")?,
                    mask_ar: tokens("mask_ar")?,
                }
            }
            Preprocessing::Image(pipeline) => {
                let result = run(pipeline, example, question)?;
                let mut text = vec![tokenizer.bos()];
                text.extend(tokenizer.encode(&question.prompt));
                text.extend(tokenizer.encode("\n"));
                let image = array(&result, "image", question)?.clone();
                Row { image, mask_input: vec![1; text.len()], mask_ar: vec![0; text.len()], text }
            }
        };
        let is_outside = |token: &i32| usize::try_from(*token).map_or(true, |token| token >= vocab_size);
        match row.text.iter().copied().find(is_outside) {
            Some(token) => Err(Error::Vocabulary { question: question.name.clone(), token, vocab_size }),
            None => Ok(row),
        }
    }
}

fn run(pipeline: &Pipeline, example: Example, question: &Question) -> Result<Example, Error> {
    let failed = |source| Error::Preprocess { question: question.name.clone(), source };
    pipeline.run(example, 0).map_err(failed)
}

fn array<'a>(example: &'a Example, key: &'static str, question: &Question) -> Result<&'a HostArray, Error> {
    let got = example.get(key);
    got.and_then(pp::Value::as_array).ok_or_else(|| Error::Input {
        question: question.name.clone(),
        key,
        expected: "an array".into(),
        got: got.map_or_else(|| "nothing".into(), pp::Value::describe),
    })
}

/// Elements of an array of any integer type.
fn integers(array: &HostArray) -> Vec<i32> {
    array.to_f64().into_iter().map(|value| value as i32).collect()
}

/// A batch of `size`, whose last rows are not real where there are fewer. Prompts are padded to one length.
pub(super) fn stack(
    questions: &[Question],
    rows: &[Row],
    size: usize,
    pad: i32,
) -> Result<PromptBatch, Error> {
    let longest = rows.iter().map(|row| row.text.len()).max().unwrap_or(0);
    let length = longest.next_multiple_of(MIN_PROMPT_STEP).max(MIN_PROMPT_STEP);
    let of_images = rows.first().map_or_else(|| Shape::scalar(DType::F32), |row| row.image.shape().clone());
    let dims: Vec<usize> = std::iter::once(size).chain(of_images.dims().iter().copied()).collect();
    let mut image = HostArray::zeros(of_images.with_dims(dims));
    let bytes_each = of_images.num_bytes();
    let mut columns = [pad, 0, 0].map(|fill| vec![fill; size * length]);
    let mut mask = vec![0u8; size];
    for (index, (row, question)) in rows.iter().zip(questions).enumerate() {
        let wrong = |key: &'static str, expected: String, got: String| {
            Err(Error::Input { question: question.name.clone(), key, expected, got })
        };
        if *row.image.shape() != of_images {
            return wrong("image", of_images.to_string(), row.image.shape().to_string());
        }
        for (key, values) in [("mask_input", &row.mask_input), ("mask_ar", &row.mask_ar)] {
            if values.len() != row.text.len() {
                return wrong(key, format!("s32[{}]", row.text.len()), format!("s32[{}]", values.len()));
            }
        }
        image.bytes_mut()[index * bytes_each..(index + 1) * bytes_each].copy_from_slice(row.image.bytes());
        for (column, values) in columns.iter_mut().zip([&row.text, &row.mask_input, &row.mask_ar]) {
            column[index * length..index * length + values.len()].copy_from_slice(values);
        }
        mask[index] = 1;
    }
    let [text, mask_input, mask_ar] = columns.map(|column| HostArray::new([size, length], &column));
    let mask = HostArray::from_bytes(Shape::new(DType::Pred, [size]), &mask)?;
    Ok(PromptBatch { image, text: text?, mask_input: mask_input?, mask_ar: mask_ar?, mask })
}
