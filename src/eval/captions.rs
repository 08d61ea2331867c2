//! Captions against several people's (`evaluators/proj/paligemma/transfers/coco_caption.py`).

use serde_json::{Map, Value as Json, json};

use super::judge::{Example, Judge, OutFile, Verdict, Verdicts};
use super::{Context, Error};
use crate::config_section;
use crate::metrics::Metrics;
use crate::metrics::captions::{self, Captions};

config_section! {
    /// Arguments of the coco_caption evaluator.
    pub struct Args {
        /// What is computed: `cider`, `rouge`, `bleu-4` (with `bleu-1` to `bleu-3`).
        pub metrics: Vec<String> = vec!["cider".into()];
        /// A file for the captions, in JSON, such as `{workdir}/{name}_{split}_preds.json`.
        pub preds_outfile: Option<String> = None;
        /// A file for people's captions.
        pub annot_outfile: Option<String> = None;
    }
}

/// Under which keys a batch may hold people's captions, the reference's first.
const CAPTIONS: [&str; 5] = ["captions", "captions/text", "answers", "answer", "suffix"];
/// Under which keys a batch may hold an image's name, the reference's first.
const IMAGE_IDS: [&str; 2] = ["image/id", "image_id"];

#[derive(Debug)]
pub(super) struct CocoCaption {
    args: Args,
    /// Names of images with the model's captions.
    said: Vec<(Json, String)>,
    /// The same with people's captions.
    references: Vec<(Json, String)>,
}

impl CocoCaption {
    pub fn new(args: Args) -> Self {
        CocoCaption { args, said: Vec::new(), references: Vec::new() }
    }
}

pub(super) fn coco_caption(context: &Context<'_>) -> Result<Box<dyn Judge>, Error> {
    let args: Args = context.spec.args.parse()?;
    for name in &args.metrics {
        Captions::default().metric(name).map_err(|error| context.wrong("metrics", error.to_string()))?;
    }
    Ok(Box::new(CocoCaption::new(args)))
}

impl Judge for CocoCaption {
    fn start(&mut self) {
        self.said.clear();
        self.references.clear();
    }

    fn judge(&mut self, example: &Example<'_>) -> Result<Verdict, Error> {
        let key = CAPTIONS.into_iter().find(|key| example.fields.contains_key(*key));
        let key = key.ok_or_else(|| example.missing(CAPTIONS[0]))?;
        let references = example.texts(key)?.unwrap_or_default();
        let id = IMAGE_IDS.into_iter().find(|key| example.fields.contains_key(*key));
        let id = example.id(id.unwrap_or_default());
        let answer = example.answer.text.clone();
        // CIDEr is a score of a whole set: how much of people's words is there ranks single captions.
        let mut alone = Captions::default();
        let tokenized = references.iter().map(|text| captions::tokenize(text)).collect();
        let failed = |source| Error::Captions { eval: example.eval.to_owned(), source };
        alone.add_tokenized(&plain(&id), captions::tokenize(&answer), tokenized).map_err(failed)?;
        self.references.extend(references.iter().map(|text| (id.clone(), text.clone())));
        self.said.push((id.clone(), answer.clone()));
        let mut json = Map::new();
        json.insert("image_id".into(), id);
        json.insert("caption".into(), json!(answer));
        let score = Some(alone.rouge_l().corpus);
        Ok(Verdict { correct: None, answer, references, score, json })
    }

    fn finish(&mut self, eval: &str, rows: Vec<Json>) -> Result<Verdicts, Error> {
        let named = |list: &[(Json, String)]| -> Vec<(String, String)> {
            list.iter().map(|(id, text)| (plain(id), text.clone())).collect()
        };
        let (said, references) = (named(&self.said), named(&self.references));
        let failed = |source| Error::Captions { eval: eval.to_owned(), source };
        let all = Captions::new(
            said.iter().map(|(id, text)| (id.as_str(), text.as_str())),
            references.iter().map(|(id, text)| (id.as_str(), text.as_str())),
        );
        let all = all.map_err(failed)?;
        let mut metrics = Metrics::new();
        for name in &self.args.metrics {
            metrics.extend(all.metric(name).map_err(failed)?);
        }
        metrics.push(("num".to_owned(), self.said.len() as f64));
        let annotation = |(id, text): &(Json, String)| json!({"image_id": id, "caption": text});
        let annotations = self.references.iter().map(annotation).collect();
        let file = |(template, rows): (&Option<String>, Vec<Json>)| {
            Some(OutFile { template: template.clone()?, rows })
        };
        let files = [(&self.args.preds_outfile, rows), (&self.args.annot_outfile, annotations)];
        Ok(Verdicts { metrics, files: files.into_iter().filter_map(file).collect() })
    }
}

/// An image's name as text: that of a number is no other image's.
fn plain(id: &Json) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}
