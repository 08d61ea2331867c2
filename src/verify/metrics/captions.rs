use std::path::Path;

use serde_json::Value as Json;

use super::super::Row;
use super::super::tally::Tally;
use super::super::tolerance::CAPTION_SCORE;
use super::{Numbers, Problem, list, text, texts};
use crate::metrics::captions::{Captions, Scores, tokenize};

/// Scores of captions that are cut into words, together and per image.
pub(super) fn tokenized(_: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let [mut cider, mut rouge] = [Numbers::default(), Numbers::default()];
    let mut bleu: [Numbers; 4] = Default::default();
    for case in list(recorded, "cases")? {
        let mut captions = Captions::default();
        for (image, candidate) in case["candidates"].as_object().ok_or(Problem::Lacks)? {
            let candidate = candidate[0].as_str().ok_or(Problem::Lacks)?.to_owned();
            let added = captions.add_tokenized(image, candidate, texts(&case["references"][image])?);
            added.map_err(|_| Problem::Lacks)?;
        }
        add(&mut cider, &captions.cider(), &case["cider"], &case["cider_per_image"])?;
        add(&mut rouge, &captions.rouge_l(), &case["rouge_l"], &case["rouge_l_per_image"])?;
        for (order, scores) in captions.bleu().iter().enumerate() {
            add(&mut bleu[order], scores, &case["bleu"][order], &case["bleu_per_image"][order])?;
        }
    }
    let mut rows =
        vec![cider.row("captions cider", CAPTION_SCORE), rouge.row("captions rouge", CAPTION_SCORE)];
    let bleu = bleu.into_iter().zip(1..);
    rows.extend(bleu.map(|(numbers, order)| numbers.row(&format!("captions bleu-{order}"), CAPTION_SCORE)));
    Ok(rows)
}

fn add(numbers: &mut Numbers, scores: &Scores, corpus: &Json, per_image: &Json) -> Result<(), Problem> {
    numbers.add(scores.corpus, corpus)?;
    for (place, score) in scores.per_image.iter().enumerate() {
        numbers.add(*score, &per_image[place])?;
    }
    Ok(())
}

/// The evaluator's numbers for captions as they are written, and the words of each.
pub(super) fn written(_: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let mut words = Tally::new("captions words");
    for case in list(recorded, "ptb_tokenizer")? {
        let caption = text(case, "text")?;
        words.case(tokenize(caption) == text(case, "tokens")?, caption);
    }
    let evaluate = &recorded["evaluate"];
    let rows = |key: &str| -> Result<Vec<(&str, &str)>, Problem> {
        let rows = list(evaluate, key)?.iter();
        rows.map(|row| Ok((text(row, "image_id")?, text(row, "caption")?))).collect()
    };
    let captions = Captions::new(rows("predictions")?, rows("annotations")?).map_err(|_| Problem::Lacks)?;
    let mut numbers = Numbers::default();
    for (name, scores) in evaluate["scores"].as_object().ok_or(Problem::Lacks)? {
        let got = captions.metric(name).map_err(|_| Problem::Lacks)?;
        let scores = scores.as_array().map_or(std::slice::from_ref(scores), Vec::as_slice);
        if got.len() != scores.len() {
            return Err(Problem::Lacks);
        }
        for ((_, got), recorded) in got.into_iter().zip(scores) {
            numbers.add(got, recorded)?;
        }
    }
    Ok([words.rows(), vec![numbers.row("captions evaluator", CAPTION_SCORE)]].concat())
}
