//! Evaluators of short answers (`evaluators/proj/paligemma/transfers/{vqa,vqav2,chartqa,tallyqa,pope,science_qa,
//! rsvqa}.py`), and of answers that must be equal to a right one.

use serde_json::{Map, Value as Json, json};

use super::judge::{Example, Judge, OutFile, Verdict, Verdicts};
use super::{Context, Error};
use crate::config_section;
use crate::metrics::Metrics;
use crate::metrics::answers::{self, ChartQa, Judged, Pope, RsVqa, ScienceQa, TallyQa, Truth, Vqa, VqaV2};

config_section! {
    /// Arguments of evaluators that compare texts.
    pub struct Args {
        /// Whether texts are compared in lower case.
        pub to_lower: bool = false;
        /// A file for the answers, in JSON, such as `{workdir}/{split}.json`.
        pub outfile: Option<String> = None;
        /// What the key of a question's id is called there.
        pub out_question_key: String = "question_id".into();
        /// What the key of an answer is called there.
        pub out_answer_key: String = "answer".into();
    }
}

config_section! {
    /// Arguments of evaluators that compare in their own way.
    pub struct FixedArgs {
        /// A file for the answers, in JSON, such as `{workdir}/{split}.json`.
        pub outfile: Option<String> = None;
        /// What the key of a question's id is called there.
        pub out_question_key: String = "question_id".into();
        /// What the key of an answer is called there.
        pub out_answer_key: String = "answer".into();
    }
}

impl From<FixedArgs> for Args {
    fn from(FixedArgs { outfile, out_question_key, out_answer_key }: FixedArgs) -> Self {
        Args { to_lower: false, outfile, out_question_key, out_answer_key }
    }
}

/// Judges answers by one of the formulas.
pub(super) struct Answers {
    make: fn(&Args) -> Formula,
    args: Args,
    formula: Formula,
}

/// What is known of the answers so far.
enum Formula {
    Vqa(Vqa),
    VqaV2(VqaV2),
    ExactMatch(ExactMatch),
    ChartQa(ChartQa),
    TallyQa(TallyQa),
    Pope(Pope),
    ScienceQa(ScienceQa),
    RsVqa(RsVqa),
}

impl Answers {
    fn new(args: Args, make: fn(&Args) -> Formula) -> Self {
        Answers { formula: make(&args), make, args }
    }
}

type Made = Result<Box<dyn Judge>, Error>;

fn comparing(context: &Context<'_>, make: fn(&Args) -> Formula) -> Made {
    Ok(Box::new(Answers::new(context.spec.args.parse()?, make)))
}

fn fixed(context: &Context<'_>, make: fn(&Args) -> Formula) -> Made {
    let args: FixedArgs = context.spec.args.parse()?;
    Ok(Box::new(Answers::new(args.into(), make)))
}

pub(super) fn vqa(context: &Context<'_>) -> Made {
    comparing(context, |args| Formula::Vqa(Vqa::new(args.to_lower)))
}

pub(super) fn vqav2(context: &Context<'_>) -> Made {
    fixed(context, |_| Formula::VqaV2(VqaV2::default()))
}

pub(super) fn exact_match(context: &Context<'_>) -> Made {
    comparing(context, |args| Formula::ExactMatch(ExactMatch::new(args.to_lower)))
}

pub(super) fn chartqa(context: &Context<'_>) -> Made {
    comparing(context, |args| Formula::ChartQa(ChartQa::new(args.to_lower)))
}

pub(super) fn tallyqa(context: &Context<'_>) -> Made {
    fixed(context, |_| Formula::TallyQa(TallyQa::default()))
}

pub(super) fn pope(context: &Context<'_>) -> Made {
    fixed(context, |_| Formula::Pope(Pope::default()))
}

pub(super) fn science_qa(context: &Context<'_>) -> Made {
    fixed(context, |_| Formula::ScienceQa(ScienceQa::default()))
}

pub(super) fn rsvqa(context: &Context<'_>) -> Made {
    comparing(context, |args| Formula::RsVqa(RsVqa::new(args.to_lower)))
}

impl Judge for Answers {
    fn start(&mut self) {
        self.formula = (self.make)(&self.args);
    }

    fn judge(&mut self, example: &Example<'_>) -> Result<Verdict, Error> {
        let said = example.answer.text.as_str();
        let judged = self.formula.add(said, example)?;
        let mut json = Map::new();
        json.insert(self.args.out_question_key.clone(), example.id("question_id"));
        let answer_key = self.args.out_answer_key.as_str();
        json.insert(answer_key.to_owned(), json!(judged.answer));
        let has_truth = judged.score.is_some();
        match &self.formula {
            Formula::VqaV2(_) if has_truth => {
                json.insert("answer_raw".into(), json!(said));
                json.insert("gts".into(), json!(judged.references));
            }
            Formula::ChartQa(_) => {
                json.insert("gt".into(), json!(judged.references.first()));
                json.insert("relaxed_match".into(), json!(judged.score == Some(1.0)));
            }
            Formula::ScienceQa(_) => {
                json.insert("raw_answer".into(), json!(said));
                if has_truth {
                    json.insert("gts".into(), json!(judged.references));
                }
            }
            Formula::Vqa(_) | Formula::RsVqa(_) | Formula::ExactMatch(_) if has_truth => {
                json.insert("gts".into(), json!(judged.references));
            }
            _ => {}
        }
        Ok(Verdict { json, ..Verdict::of(judged) })
    }

    fn finish(&mut self, eval: &str, rows: Vec<Json>) -> Result<Verdicts, Error> {
        let metrics = match &self.formula {
            Formula::Vqa(vqa) => vqa.metrics(),
            Formula::VqaV2(vqa) => vqa.metrics(),
            Formula::ExactMatch(exact) => exact.metrics(),
            Formula::ChartQa(chart) => chart.metrics(),
            Formula::TallyQa(tally) => tally.metrics(),
            Formula::Pope(pope) => pope.metrics(),
            Formula::ScienceQa(science) => science.metrics(),
            Formula::RsVqa(rsvqa) => {
                rsvqa.metrics().map_err(|source| Error::Answers { eval: eval.to_owned(), source })?
            }
        };
        let file = self.args.outfile.clone().map(|template| OutFile { template, rows });
        Ok(Verdicts { metrics, files: file.into_iter().collect() })
    }
}

impl Formula {
    fn add(&mut self, said: &str, example: &Example<'_>) -> Result<Judged, Error> {
        let failed = |source: answers::Error| Error::Answer {
            eval: example.eval.to_owned(),
            row: example.row,
            source,
        };
        Ok(match self {
            Formula::Vqa(vqa) => with_truth(example, |truth| vqa.add(said, truth))?,
            Formula::ExactMatch(exact) => with_truth(example, |truth| exact.add(said, truth))?,
            Formula::RsVqa(rsvqa) => {
                // The type is only looked at where there are answers to compare with.
                let kind = example.text("question_type")?.unwrap_or_default();
                with_truth(example, |truth| rsvqa.add(said, truth, &kind))?.map_err(failed)?
            }
            Formula::VqaV2(vqa) => {
                let answers = example.texts("answers")?.ok_or_else(|| example.missing("answers"))?;
                let kind = if answers.is_empty() { None } else { Some(example.needed_text("answer_type")?) };
                vqa.add(said, &answers, kind.as_deref().unwrap_or_default()).map_err(failed)?
            }
            Formula::ChartQa(chart) => chart.add(said, &example.needed_text("answer")?),
            Formula::Pope(pope) => pope.add(said, &example.needed_text("answer")?),
            Formula::ScienceQa(science) => science.add(said, example.text("answer")?.as_deref()),
            Formula::TallyQa(tally) => {
                let is_simple = match example.text("issimple")?.as_deref() {
                    Some("1" | "true") => Some(true),
                    Some("0" | "false") => Some(false),
                    _ => None,
                };
                tally.add(said, &example.needed_text("answer")?, is_simple).map_err(failed)?
            }
        })
    }
}

/// The right answer under `answer`, or the right answers under `answers`; without either, the answer is counted and
/// not judged.
fn with_truth<T>(example: &Example<'_>, judge: impl FnOnce(Truth<'_>) -> T) -> Result<T, Error> {
    if let Some(answer) = example.text("answer")? {
        return Ok(judge(Truth::One(&answer)));
    }
    let answers = example.texts("answers")?.unwrap_or_default();
    Ok(judge(Truth::Several(&answers)))
}

/// Answers that must be equal to a right one, as AI2D and GQA count them; and how far they are from it.
#[derive(Debug, Default)]
struct ExactMatch {
    to_lower: bool,
    num: usize,
    num_judged: usize,
    num_right: usize,
    /// Sum of distances to the nearest right answer, as parts of the longer text.
    distance: f64,
}

impl ExactMatch {
    fn new(to_lower: bool) -> Self {
        ExactMatch { to_lower, ..ExactMatch::default() }
    }

    fn add(&mut self, answer: &str, truth: Truth<'_>) -> Judged {
        let normal = |text: &str| if self.to_lower { text.to_lowercase() } else { text.to_owned() };
        let answer = normal(answer);
        let references: Vec<String> = match truth {
            Truth::One(text) => vec![normal(text)],
            Truth::Several(texts) => texts.iter().map(|text| normal(text)).collect(),
        };
        self.num += 1;
        let distance = |reference: &String| {
            let longer = answer.chars().count().max(reference.chars().count()).max(1);
            answers::edit_distance(&answer, reference) as f64 / longer as f64
        };
        let nearest = references.iter().map(distance).min_by(f64::total_cmp);
        if let Some(nearest) = nearest {
            self.num_judged += 1;
            self.num_right += usize::from(references.contains(&answer));
            self.distance += nearest;
        }
        let score = nearest.map(|_| f64::from(u8::from(references.contains(&answer))));
        Judged { answer, references, score }
    }

    /// `acc` and `edit_distance` of the judged answers, if any; `num` of all.
    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new();
        if self.num_judged > 0 {
            let judged = self.num_judged as f64;
            metrics.push(("acc".to_owned(), self.num_right as f64 / judged));
            metrics.push(("edit_distance".to_owned(), self.distance / judged));
        }
        metrics.push(("num".to_owned(), self.num as f64));
        metrics
    }
}

/// The judge of a recording's evaluator, for tests.
#[cfg(test)]
pub(super) fn of_recording(evaluator: &str, to_lower: bool) -> Option<Answers> {
    let args = Args {
        to_lower,
        outfile: Some("{workdir}/{split}.json".into()),
        out_question_key: "question_id".into(),
        out_answer_key: "answer".into(),
    };
    let make: fn(&Args) -> Formula = match evaluator {
        "vqa" => |args| Formula::Vqa(Vqa::new(args.to_lower)),
        "vqav2" => |_| Formula::VqaV2(VqaV2::default()),
        "chartqa" => |args| Formula::ChartQa(ChartQa::new(args.to_lower)),
        "rsvqa" => |args| Formula::RsVqa(RsVqa::new(args.to_lower)),
        "pope" => |_| Formula::Pope(Pope::default()),
        "science_qa" => |_| Formula::ScienceQa(ScienceQa::default()),
        "tallyqa" => |_| Formula::TallyQa(TallyQa::default()),
        _ => return None,
    };
    Some(Answers::new(args, make))
}
