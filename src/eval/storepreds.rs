//! Answers written to a file, without judgement (`evaluators/proj/paligemma/transfers/storepreds.py`).

use serde_json::{Map, Value as Json, json};

use super::judge::{Example, Judge, OutFile, Verdict, Verdicts};
use super::{Context, Error};
use crate::config_section;

config_section! {
    /// Arguments of the storepreds evaluator.
    pub struct Args {
        /// The file for the answers, in JSON.
        pub preds_outfile: String = "{workdir}/{name}_{split}_preds.json".into();
        /// Named by the reference, which writes nothing there.
        pub annot_outfile: Option<String> = None;
        /// The example's name: its key in the batch and in the file.
        pub id_key: String = "id".into();
    }
}

pub(super) struct StorePreds {
    args: Args,
    num_examples: usize,
}

impl StorePreds {
    pub fn new(args: Args) -> Self {
        StorePreds { args, num_examples: 0 }
    }
}

pub(super) fn storepreds(context: &Context<'_>) -> Result<Box<dyn Judge>, Error> {
    Ok(Box::new(StorePreds::new(context.spec.args.parse()?)))
}

impl Judge for StorePreds {
    fn start(&mut self) {
        self.num_examples = 0;
    }

    fn judge(&mut self, example: &Example<'_>) -> Result<Verdict, Error> {
        self.num_examples += 1;
        let answer = example.answer.text.clone();
        let id = match example.id(&self.args.id_key) {
            Json::String(text) => text,
            other => other.to_string(),
        };
        let mut json = Map::new();
        json.insert(self.args.id_key.clone(), json!(id));
        json.insert("caption".into(), json!(answer));
        let references = match example.texts("answer")? {
            Some(texts) => texts,
            None => example.texts("suffix")?.unwrap_or_default(),
        };
        Ok(Verdict { answer, references, json, ..Verdict::default() })
    }

    fn finish(&mut self, _eval: &str, rows: Vec<Json>) -> Result<Verdicts, Error> {
        let metrics = vec![("num_examples".to_owned(), self.num_examples as f64)];
        let files = vec![OutFile { template: self.args.preds_outfile.clone(), rows }];
        Ok(Verdicts { metrics, files })
    }
}
