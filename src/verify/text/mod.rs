//! Recordings of what is done to text: tokenizers, the pp language, its ops, and the pp strings of big_vision's
//! configs. All of it is exact.

mod pp;
mod tokenizer;
mod value;

use std::path::Path;

use serde_json::Value as Json;

use super::recording::{files_of, read_json};
use super::tally::Tally;
use super::{Error, Row};

/// A part of the recording: its file, and how to replay it.
type Part = (&'static str, fn(&Path, &Json) -> Option<Vec<Row>>);

const PARTS: [Part; 10] = [
    ("spm_pieces.json", tokenizer::pieces),
    ("spm_encode.json", tokenizer::sentencepiece_encodes),
    ("spm_decode.json", tokenizer::sentencepiece_decodes),
    ("hf_encode.json", tokenizer::hugging_face),
    ("bv_tokenizer.json", tokenizer::big_vision),
    ("notebook_tokens.json", pp::notebook),
    ("pp_parse.json", pp::parser),
    ("pp_ops.json", pp::signatures),
    ("pp_text.json", pp::ops),
    ("configs_e2e.json", pp::configs_end_to_end),
];

pub(super) const FILES: [&str; PARTS.len()] = files_of(&PARTS);
pub(super) const CONFIGS_FILE: &str = "configs_pp.json";

/// Everything but [`configs`] that the folder holds.
pub(super) fn text(dir: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for part in PARTS.iter().filter(|(file, _)| dir.join(file).is_file()) {
        rows.extend(replay(dir, part)?);
    }
    Ok(rows)
}

/// The pp strings of all transfer configs.
pub(super) fn configs(dir: &Path) -> Result<Vec<Row>, Error> {
    replay(dir, &(CONFIGS_FILE, pp::configs))
}

fn replay(dir: &Path, (file, part): &Part) -> Result<Vec<Row>, Error> {
    let path = dir.join(file);
    let recorded: Json = read_json(&path)?;
    part(dir, &recorded).ok_or_else(|| {
        let message = "it lacks something that such a recording has, or a tokenizer beside it is unreadable";
        Error::Unsupported { path, message: message.to_owned() }
    })
}

fn ids(value: &Json) -> Option<Vec<i32>> {
    value.as_array()?.iter().map(|id| i32::try_from(id.as_i64()?).ok()).collect()
}
