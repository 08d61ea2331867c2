use std::path::Path;

use serde_json::{Value as Json, json};

use super::super::Row;
use super::super::tally::Tally;
use super::super::tolerance::ACCURACY;
use super::{Numbers, Problem, list, number, text, texts};
use crate::metrics::Metrics;
use crate::metrics::answers::{
    ChartQa, Error, Judged, Pope, RsVqa, ScienceQa, TallyQa, Truth, Vqa, VqaV2, anls, chosen_letter,
    number_word_to_numeral, postprocess, relaxed_match, strip_space, to_float,
};

/// The functions that evaluators are made of.
pub(super) fn functions(_: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let [mut relaxed, mut floats, mut letters, mut words] =
        ["chartqa relaxed match", "chartqa numbers", "science_qa letters", "tallyqa number words"]
            .map(Tally::new);
    for case in list(recorded, "chartqa_relaxed_match")? {
        let (target, prediction) = (text(case, "target")?, text(case, "prediction")?);
        relaxed
            .case(case["match"] == relaxed_match(target, prediction), format!("{prediction} for {target}"));
    }
    for case in list(recorded, "chartqa_to_float")? {
        let expected = if case["value"].is_null() { None } else { Some(number(&case["value"])?) };
        let got = to_float(text(case, "text")?);
        // To the bit, so that zeros have their signs and what is not a number equals itself.
        floats.case(got.map(f64::to_bits) == expected.map(f64::to_bits), text(case, "text")?);
    }
    for case in list(recorded, "science_qa_postproc")? {
        let got = chosen_letter(text(case, "text")?).map_or("failed".to_owned(), String::from);
        letters.case(case["postproc"] == got, text(case, "text")?);
    }
    for case in list(recorded, "tallyqa_number_word")? {
        let got = number_word_to_numeral(text(case, "text")?);
        words.case(case["numeral"] == got, text(case, "text")?);
    }
    let mut similarities = Numbers::default();
    for case in list(recorded, "vqa_anls_metric")? {
        for (theta, key) in [(0.5, "anls"), (0.9, "anls_theta_0.9")] {
            similarities.add(anls(text(case, "target")?, text(case, "prediction")?, theta), &case[key])?;
        }
    }
    let similarities = vec![similarities.row("vqa anls", ACCURACY)];
    Ok([relaxed.rows(), floats.rows(), letters.rows(), words.rows(), similarities].concat())
}

pub(super) fn vqav2_texts(_: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let mut tally = Tally::new("vqav2 texts");
    for case in list(recorded, "cases")? {
        let written = text(case, "text")?;
        let stripped = strip_space(written);
        let holds = case["stripspace"] == stripped
            && case["postprocess"] == postprocess(written)
            && case["stripspace_postprocess"] == postprocess(&stripped);
        tally.case(holds, written);
    }
    Ok(tally.rows())
}

/// What an evaluator made of its examples: metrics, and what it would write to a file.
type Evaluated = Result<(Metrics, Vec<Json>), Error>;

/// Whole evaluators: their metrics, the files they write, and what they refuse.
pub(super) fn evaluators(_: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let [mut metrics, mut written, mut refused] =
        ["evaluators metrics", "evaluators files", "evaluators errors"].map(Tally::new);
    for (place, case) in list(recorded, "cases")?.iter().enumerate() {
        let evaluator = text(case, "evaluator")?;
        let to_lower = case["options"]["to_lower"] == true;
        let examples = list(case, "examples")?;
        let evaluated: Evaluated = match evaluator {
            "vqav2" => vqav2(examples)?,
            "vqa" => vqa(examples, to_lower)?,
            "chartqa" => chartqa(examples, to_lower)?,
            "rsvqa" => rsvqa(examples, to_lower)?,
            "pope" => pope(examples)?,
            "science_qa" => science_qa(examples)?,
            "tallyqa" => tallyqa(examples)?,
            // It computes nothing.
            "storepreds" => continue,
            _ => return Err(Problem::Lacks),
        };
        let about = format!("{evaluator}, case {place}");
        match evaluated {
            Err(error) => refused.case(case["error"].is_string(), format!("{about}: {error}")),
            Ok(_) if case["error"].is_string() => refused.case(false, about),
            Ok((got, rows)) => {
                let expected = case["metrics"].as_object().ok_or(Problem::Lacks)?;
                let mut same = got.len() == expected.len();
                for ((name, value), (expected_name, expected)) in got.iter().zip(expected) {
                    same &= name == expected_name && (value - number(expected)?).abs() <= ACCURACY.limit;
                }
                metrics.case(same, &about);
                if let Some(expected) = case["json_out"].as_array() {
                    written.case(rows == *expected, &about);
                }
            }
        }
    }
    Ok([metrics.rows(), written.rows(), refused.rows()].concat())
}

/// The right answers of an example.
enum Answers {
    One(String),
    Several(Vec<String>),
}

impl Answers {
    fn of(example: &Json) -> Result<Self, Problem> {
        match example["answer"].as_str() {
            Some(answer) => Ok(Answers::One(answer.to_owned())),
            None => Ok(Answers::Several(texts(&example["answers"])?)),
        }
    }

    fn truth(&self) -> Truth<'_> {
        match self {
            Answers::One(answer) => Truth::One(answer),
            Answers::Several(answers) => Truth::Several(answers),
        }
    }
}

/// A row of a file: the question, the answer and, where there are any, the right ones.
fn row(example: &Json, judged: &Judged) -> Json {
    let mut row = json!({ "question_id": example["question_id"], "answer": judged.answer });
    if !judged.references.is_empty() {
        row["gts"] = json!(judged.references);
    }
    row
}

fn vqav2(examples: &[Json]) -> Result<Evaluated, Problem> {
    let mut evaluator = VqaV2::default();
    let mut rows = Vec::new();
    for example in examples {
        let (answer, references) = (text(example, "prediction")?, texts(&example["answers"])?);
        let judged = match evaluator.add(answer, &references, text(example, "answer_type")?) {
            Ok(judged) => judged,
            Err(error) => return Ok(Err(error)),
        };
        let mut row = row(example, &judged);
        if judged.score.is_some() {
            row["answer_raw"] = json!(answer);
        }
        rows.push(row);
    }
    Ok(Ok((evaluator.metrics(), rows)))
}

fn vqa(examples: &[Json], to_lower: bool) -> Result<Evaluated, Problem> {
    let mut evaluator = Vqa::new(to_lower);
    let mut rows = Vec::new();
    for example in examples {
        let judged = evaluator.add(text(example, "prediction")?, Answers::of(example)?.truth());
        rows.push(row(example, &judged));
    }
    Ok(Ok((evaluator.metrics(), rows)))
}

fn rsvqa(examples: &[Json], to_lower: bool) -> Result<Evaluated, Problem> {
    let mut evaluator = RsVqa::new(to_lower);
    let mut rows = Vec::new();
    for example in examples {
        let question_type = example["question_type"].as_str().unwrap_or_default();
        let answers = Answers::of(example)?;
        match evaluator.add(text(example, "prediction")?, answers.truth(), question_type) {
            Ok(judged) => rows.push(row(example, &judged)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(evaluator.metrics().map(|metrics| (metrics, rows)))
}

fn chartqa(examples: &[Json], to_lower: bool) -> Result<Evaluated, Problem> {
    let mut evaluator = ChartQa::new(to_lower);
    let mut rows = Vec::new();
    for example in examples {
        let judged = evaluator.add(text(example, "prediction")?, text(example, "answer")?);
        rows.push(json!({
            "question_id": example["question_id"],
            "answer": judged.answer,
            "gt": judged.references[0],
            "relaxed_match": judged.score == Some(1.0),
        }));
    }
    Ok(Ok((evaluator.metrics(), rows)))
}

fn pope(examples: &[Json]) -> Result<Evaluated, Problem> {
    let mut evaluator = Pope::default();
    let mut rows = Vec::new();
    for example in examples {
        let judged = evaluator.add(text(example, "prediction")?, text(example, "answer")?);
        rows.push(json!({ "question_id": example["question_id"], "answer": judged.answer }));
    }
    Ok(Ok((evaluator.metrics(), rows)))
}

fn science_qa(examples: &[Json]) -> Result<Evaluated, Problem> {
    let mut evaluator = ScienceQa::default();
    let mut rows = Vec::new();
    for example in examples {
        let judged = evaluator.add(text(example, "prediction")?, example["answer"].as_str());
        let mut row = row(example, &judged);
        row["raw_answer"] = example["prediction"].clone();
        rows.push(row);
    }
    Ok(Ok((evaluator.metrics(), rows)))
}

fn tallyqa(examples: &[Json]) -> Result<Evaluated, Problem> {
    let mut evaluator = TallyQa::default();
    for example in examples {
        let is_simple = match example["issimple"].as_i64() {
            Some(1) => Some(true),
            Some(0) => Some(false),
            _ => None,
        };
        let judged = evaluator.add(text(example, "prediction")?, text(example, "answer")?, is_simple);
        if let Err(error) = judged {
            return Ok(Err(error));
        }
    }
    Ok(Ok((evaluator.metrics(), Vec::new())))
}
