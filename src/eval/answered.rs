//! Evaluators that let the model answer: the way from batches to verdicts, the same for all of them.

use image::RgbImage;
use serde_json::Value as Json;

use super::hardest::Collector;
use super::judge::{Answer, Example, Judge};
use super::{Error, Evaluator, Masks, Outcome, Prediction, array, is_real, picture};
use crate::data::{self, Batch};
use crate::runtime::Buffer;

/// Whoever answers the prompts of a batch: a model on a device.
pub(super) trait Answerer {
    /// An answer for each row of the batch, `None` for padding, with the prompt as text.
    fn answer(&mut self, batch: &Batch, params: &[&Buffer]) -> Result<Vec<Option<(String, Answer)>>, Error>;
}

/// Answers all examples and has the answers judged.
pub(super) struct Answered {
    pub eval: String,
    pub answerer: Box<dyn Answerer>,
    pub judge: Box<dyn Judge>,
    /// How many examples keep their pictures, of the first ones and of the worst.
    pub num_pictures: usize,
}

impl Evaluator for Answered {
    fn run(
        &mut self,
        examples: &mut dyn Iterator<Item = Result<Batch, data::Error>>,
        params: &[&Buffer],
    ) -> Result<Outcome, Error> {
        self.judge.start();
        let mut collector = Collector::new(self.num_pictures);
        let mut rows = Vec::new();
        for batch in examples {
            let batch = batch?;
            let answers = self.answerer.answer(&batch, params)?;
            let images = array(&batch, &self.eval, "image")?;
            let extent = match *images.dims() {
                [_, height, width, _] => [height, width],
                _ => [0, 0],
            };
            for (index, answer) in answers.into_iter().enumerate() {
                let (Some((prompt, answer)), Some(row)) = (answer, batch.ids.get(index).copied().flatten())
                else {
                    continue;
                };
                if !is_real(&batch, index) {
                    continue;
                }
                let fields = &batch.fields[index];
                let example = Example { eval: &self.eval, row, fields, answer: &answer, extent };
                let verdict = self.judge.judge(&example)?;
                rows.push(Json::Object(verdict.json.clone()));
                let prediction = Prediction {
                    row,
                    prompt,
                    answer: Some(verdict.answer),
                    references: verdict.references,
                    correct: verdict.correct,
                    score: verdict.score,
                    notes: verdict.json,
                    ..Prediction::default()
                };
                let mut failure = None;
                collector.add(prediction, |prediction| {
                    prediction.picture = picture(images, index);
                    match prediction.picture.as_ref().map(|picture| self.masks(&example, picture)) {
                        Some(Ok(masks)) => prediction.masks = masks,
                        Some(Err(error)) => failure = Some(error),
                        None => {}
                    }
                });
                if let Some(error) = failure {
                    return Err(error);
                }
            }
        }
        let (predictions, hardest) = collector.finish();
        let verdicts = self.judge.finish(&self.eval, rows)?;
        Ok(Outcome { metrics: verdicts.metrics, predictions, hardest, files: verdicts.files })
    }
}

impl Answered {
    fn masks(&self, example: &Example<'_>, picture: &RgbImage) -> Result<Option<Masks>, Error> {
        self.judge.masks(example, picture)
    }
}
