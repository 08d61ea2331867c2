//! Examples of an evaluation as cards of a page.

use super::{Outcome, Prediction};
use crate::report::page::{Answer, Card, Marks, Picture};

/// The hardest examples of an evaluation, the hardest first.
pub fn hardest(eval: &str, outcome: &Outcome) -> Vec<Card> {
    outcome.hardest.iter().filter_map(|&number| card(eval, outcome.predictions.get(number)?)).collect()
}

/// A prediction that has a picture.
fn card(eval: &str, prediction: &Prediction) -> Option<Card> {
    let picture = Picture::from_rgb(prediction.picture.as_ref()?).ok()?;
    let mask = |image: Option<&image::RgbaImage>| Picture::from_rgba(image?).ok();
    let masks = prediction.masks.as_ref();
    let answer = prediction.answer.clone();
    Some(Card {
        name: format!("{eval}/{}", prediction.row),
        picture,
        prompt: prediction.prompt.clone(),
        reference: prediction.references.first().cloned(),
        before: None,
        after: answer.map(|text| Answer { text, correct: prediction.correct }),
        loss: prediction.loss,
        score: prediction.score,
        masks: Marks {
            reference: mask(masks.map(|masks| &masks.reference)),
            before: None,
            after: mask(masks.and_then(|masks| masks.answer.as_ref())),
        },
    })
}
