//! Recordings of evaluators' metrics: the scores of captions, answers, boxes and masks, from the functions to whole
//! evaluators on predictions.

mod answers;
mod boxes;
mod captions;
mod masks;

use std::path::Path;

use serde_json::Value as Json;

use super::recording::{files_of, read_json};
use super::{Error, Row, Tolerance};

/// Why a part cannot be replayed.
enum Problem {
    /// Something is not there that such a recording has.
    Lacks,
    Other(Error),
}

impl<E: Into<Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Problem::Other(error.into())
    }
}

/// A part of the recording: its file, and how to replay it.
type Part = (&'static str, fn(&Path, &Json) -> Result<Vec<Row>, Problem>);

const PARTS: [Part; 8] = [
    ("answer_functions.json", answers::functions),
    ("vqav2_postprocess.json", answers::vqav2_texts),
    ("evaluators.json", answers::evaluators),
    ("captions.json", captions::tokenized),
    ("captions_raw.json", captions::written),
    ("detection_map.json", boxes::precisions),
    ("box_iou.json", boxes::overlaps),
    ("segmentation.json", masks::masks),
];

pub(super) const FILES: [&str; PARTS.len()] = files_of(&PARTS);

/// Every part that the folder holds.
pub(super) fn metrics(dir: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (file, part) in PARTS {
        let path = dir.join(file);
        if path.is_file() {
            let recorded: Json = read_json(&path)?;
            rows.extend(part(dir, &recorded).map_err(|problem| match problem {
                Problem::Other(error) => error,
                Problem::Lacks => {
                    let message = "it lacks something that such a recording has".to_owned();
                    Error::Unsupported { path, message }
                }
            })?);
        }
    }
    Ok(rows)
}

/// An entry of a recording as a list.
fn list<'a>(json: &'a Json, key: &str) -> Result<&'a [Json], Problem> {
    json[key].as_array().map(Vec::as_slice).ok_or(Problem::Lacks)
}

fn text<'a>(json: &'a Json, key: &str) -> Result<&'a str, Problem> {
    json[key].as_str().ok_or(Problem::Lacks)
}

fn texts(json: &Json) -> Result<Vec<String>, Problem> {
    let items = json.as_array().ok_or(Problem::Lacks)?.iter();
    items.map(|item| item.as_str().map(str::to_owned).ok_or(Problem::Lacks)).collect()
}

/// A number, which is written as a text if it is not finite.
fn number(json: &Json) -> Result<f64, Problem> {
    let parsed = || json.as_str().and_then(|text| text.parse().ok());
    json.as_f64().or_else(parsed).ok_or(Problem::Lacks)
}

fn numbers<const N: usize>(json: &Json) -> Result<[f64; N], Problem> {
    let items = json.as_array().ok_or(Problem::Lacks)?;
    let numbers = items.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    numbers.try_into().map_err(|_| Problem::Lacks)
}

/// Numbers of one kind, with what is recorded of each.
#[derive(Default)]
struct Numbers {
    got: Vec<f64>,
    recorded: Vec<f64>,
}

impl Numbers {
    fn add(&mut self, got: f64, recorded: &Json) -> Result<(), Problem> {
        self.got.push(got);
        self.recorded.push(number(recorded)?);
        Ok(())
    }

    fn row(self, name: &str, tolerance: Tolerance) -> Row {
        Row::numbers(name, &self.got, &self.recorded, tolerance)
    }
}
