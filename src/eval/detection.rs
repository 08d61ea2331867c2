//! Boxes against those that are there: mean average precision as COCO computes it.
//!
//! big_vision has no such evaluator. A model writes boxes down in an order and without scores; average precision
//! needs them sorted by how sure it is. As in PaliGemma 2's report (<https://arxiv.org/abs/2412.03555>, after
//! pix2seq), a box is as sure as the model was of its class: the likelihood of the tokens behind its location.

use std::sync::Arc;

use indexmap::IndexSet;
use serde_json::{Map, Value as Json, json};

use super::judge::{Answer, Example, Judge, OutFile, Verdict, Verdicts};
use super::{Context, Error};
use crate::config::Loc;
use crate::data::Field;
use crate::detection::{Detection, LocOptions, format_detections, label_text, parse_detections};
use crate::metrics::detection::{Found, Truth, box_iou, evaluate};
use crate::tokenizer::Tokenizer;
use crate::{config_choice, config_section};

config_choice! {
    /// How sure the model is of a box.
    pub enum Score {
        /// The likelihood of its class's tokens, or of its location where it has no class.
        Class = "class",
        /// The same of all boxes, which count in the order in which they are written.
        None = "none",
    }
}

config_section! {
    /// Arguments of the detection evaluator.
    pub struct Args {
        /// What boxes are sorted by: `class`, the likelihood of a box's class, or `none`, the order of the answer.
        pub score: Score = Score::Class;
        /// Of boxes of one class with a larger intersection over union than this, only the surest counts; null keeps all.
        pub nms: Option<f64> = None;
        /// How location tokens are read.
        pub loc: Loc = Loc::default();
        /// Whether the average precision of every class is a metric.
        pub per_class: bool = true;
        /// A file for the boxes, in JSON as COCO's results: `image_id`, `category`, `bbox` and `score`.
        pub outfile: Option<String> = None;
    }
}

/// Under which keys a batch may hold what is to be said.
const TEXTS: [&str; 3] = ["answer", "suffix", "text_truth"];
/// Objects that meet this much are the same, for the score of one example.
const SAME_IOU: f64 = 0.5;

pub(super) struct DetectionJudge {
    args: Args,
    loc: LocOptions,
    tokenizer: Arc<Tokenizer>,
    classes: IndexSet<String>,
    truths: Vec<Truth>,
    found: Vec<Found>,
    num_images: usize,
    num_boxes: usize,
    num_invalid: usize,
}

/// An object in fractions of the picture, y1 x1 y2 x2.
#[derive(Debug, Clone, PartialEq)]
struct Object {
    corners: [f64; 4],
    label: String,
    score: f64,
}

pub(super) fn detection(context: &Context<'_>) -> Result<Box<dyn Judge>, Error> {
    let args: Args = context.spec.args.parse()?;
    Ok(Box::new(DetectionJudge::new(args, context.tokenizer.clone())))
}

impl DetectionJudge {
    pub fn new(args: Args, tokenizer: Arc<Tokenizer>) -> Self {
        DetectionJudge {
            loc: args.loc.options(),
            args,
            tokenizer,
            classes: IndexSet::new(),
            truths: Vec::new(),
            found: Vec::new(),
            num_images: 0,
            num_boxes: 0,
            num_invalid: 0,
        }
    }

    /// What is in the picture: boxes from `objects/bbox` and `objects/label`, as detection sets give them, else what the
    /// text that is to be said tells.
    fn truth(&self, example: &Example<'_>) -> Result<Vec<Object>, Error> {
        if let Some(field) = example.fields.get("objects/bbox") {
            let boxes = example.array("objects/bbox")?.to_f64();
            if !boxes.len().is_multiple_of(4) {
                return Err(example.unfit("objects/bbox", "corners y1 x1 y2 x2 of each object", field));
            }
            let labels = example.texts("objects/label")?.unwrap_or_default();
            let label = |i: usize| labels.get(i).map(|label| label_text(label)).unwrap_or_default();
            let object = |(i, corners): (usize, &[f64])| Object {
                corners: [corners[0], corners[1], corners[2], corners[3]],
                label: label(i),
                score: 1.0,
            };
            return Ok(boxes.chunks_exact(4).enumerate().map(object).collect());
        }
        let key = TEXTS.into_iter().find(|key| example.fields.contains_key(*key));
        let text = example.text(key.ok_or_else(|| example.missing("objects/bbox"))?)?.unwrap_or_default();
        Ok(parse_detections(&text).objects.into_iter().map(|object| self.object(object, 1.0)).collect())
    }

    fn object(&self, detection: Detection, score: f64) -> Object {
        let corners = detection.fractions(self.loc);
        Object { corners, label: label_text(&detection.label), score }
    }

    /// The boxes of an answer, the surest first, and how many stretches of it are none.
    fn said(&self, answer: &Answer) -> Result<(Vec<Object>, usize), Error> {
        let mut objects = Vec::new();
        let mut invalid = 0;
        match (self.args.score, self.tokenizer.loc()) {
            (Score::Class, Some((first, count))) => {
                let is_loc = |id: i32| (i64::from(id) - i64::from(first)).cast_unsigned() < count as u64;
                for group in groups(&self.tokenizer, &answer.tokens, is_loc) {
                    let tokens = &answer.tokens[group.tokens.clone()];
                    let parsed = parse_detections(&self.tokenizer.decode_emitted(tokens)?);
                    invalid += parsed.invalid;
                    let logp = &answer.logp[group.scored];
                    let score = logp.iter().map(|&logp| f64::from(logp)).sum::<f64>().exp();
                    objects.extend(parsed.objects.into_iter().map(|object| self.object(object, score)));
                }
            }
            _ => {
                let parsed = parse_detections(&answer.text);
                invalid = parsed.invalid;
                objects.extend(parsed.objects.into_iter().map(|object| self.object(object, 1.0)));
            }
        }
        objects.sort_by(|a, b| b.score.total_cmp(&a.score));
        if let Some(most) = self.args.nms {
            let mut kept: Vec<Object> = Vec::new();
            for object in objects {
                let repeats = |other: &Object| {
                    other.label == object.label && box_iou(other.corners, object.corners) > most
                };
                if !kept.iter().any(repeats) {
                    kept.push(object);
                }
            }
            objects = kept;
        }
        Ok((objects, invalid))
    }

    fn text(&self, objects: &[Object]) -> String {
        let detection = |object: &Object| {
            Detection::from_pixels(object.corners, 1.0, 1.0, object.label.as_str(), self.loc)
        };
        format_detections(&objects.iter().map(detection).collect::<Vec<_>>())
    }
}

/// Tokens of an answer that tell of one object, or of several with one class.
struct Group {
    tokens: std::ops::Range<usize>,
    /// Those whose likelihood says how sure the model is.
    scored: std::ops::Range<usize>,
}

/// Cuts an answer where an object ends: at `;`, at the end of a line, and where a location follows a class.
fn groups(tokenizer: &Tokenizer, tokens: &[i32], is_loc: impl Fn(i32) -> bool) -> Vec<Group> {
    let is_separator = |id: i32| {
        let piece = tokenizer.id_to_piece(id).unwrap_or_default();
        piece.contains([';', '\n']) || piece == "<0x0A>"
    };
    let mut groups = Vec::new();
    let mut start = 0;
    while start < tokens.len() {
        let rest = &tokens[start..];
        let num_loc = rest.iter().take_while(|&&id| is_loc(id)).count();
        let num_class = rest[num_loc..].iter().take_while(|&&id| !is_loc(id) && !is_separator(id)).count();
        let class = start + num_loc..start + num_loc + num_class;
        let scored = if num_class > 0 { class.clone() } else { start..class.start };
        if class.end > start {
            groups.push(Group { tokens: start..class.end, scored });
        }
        start = class.end + rest[num_loc + num_class..].iter().take_while(|&&id| is_separator(id)).count();
    }
    groups
}

/// Twice the objects that both have, as a part of all: 1 where nothing is missing and nothing too much.
fn agreement(truth: &[Object], said: &[Object]) -> f64 {
    let mut open: Vec<&Object> = truth.iter().collect();
    let mut same = 0;
    for object in said {
        let meets = |other: &&Object| {
            other.label == object.label && box_iou(other.corners, object.corners) >= SAME_IOU
        };
        if let Some(place) = open.iter().position(meets) {
            open.swap_remove(place);
            same += 1;
        }
    }
    let all = truth.len() + said.len();
    if all == 0 { 1.0 } else { 2.0 * f64::from(same) / all as f64 }
}

impl Judge for DetectionJudge {
    fn start(&mut self) {
        *self = DetectionJudge::new(self.args.clone(), self.tokenizer.clone());
    }

    fn judge(&mut self, example: &Example<'_>) -> Result<Verdict, Error> {
        let truth = self.truth(example)?;
        let (said, invalid) = self.said(example.answer)?;
        // Sizes are told apart in pixels: of the file where the batch has them, else as the model saw it.
        let side = |key: &str, seen: usize| {
            let stated = example.text(key)?.and_then(|text| text.parse::<f64>().ok());
            Ok::<_, Error>(stated.filter(|side| *side > 0.0).unwrap_or(seen as f64))
        };
        let [height, width] = [side("height", example.extent[0])?, side("width", example.extent[1])?];
        let xywh =
            |[y1, x1, y2, x2]: [f64; 4]| [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height];
        let image = self.num_images;
        self.num_images += 1;
        self.num_invalid += invalid;
        self.num_boxes += said.len();
        for object in &truth {
            let (category, _) = self.classes.insert_full(object.label.clone());
            let bbox = xywh(object.corners);
            self.truths.push(Truth { image, category, bbox, area: bbox[2] * bbox[3], is_crowd: false });
        }
        let id = ["image/id", "image_id"].into_iter().find(|key| example.fields.contains_key(*key));
        let id = example.id(id.unwrap_or_default());
        let mut rows = Vec::new();
        for object in &said {
            let (category, _) = self.classes.insert_full(object.label.clone());
            let (bbox, score) = (xywh(object.corners), object.score);
            self.found.push(Found { image, category, bbox, score });
            rows.push(json!({"image_id": id, "category": object.label, "bbox": bbox, "score": score}));
        }
        let mut json = Map::new();
        json.insert("detections".into(), Json::Array(rows));
        let reference = match example.fields.get("suffix") {
            Some(Field::Text(text)) => text.clone(),
            _ => self.text(&truth),
        };
        let score = Some(agreement(&truth, &said));
        let answer = example.answer.text.clone();
        Ok(Verdict { correct: None, answer, references: vec![reference], score, json })
    }

    fn finish(&mut self, _eval: &str, rows: Vec<Json>) -> Result<Verdicts, Error> {
        let summary = evaluate(&self.truths, &self.found);
        // COCO calls the mean over classes AP; here that is a class's.
        let named = summary.metrics().into_iter().map(|(name, value)| match name.starts_with("AP") {
            true => (format!("m{name}"), value),
            false => (name, value),
        });
        let mut metrics: Vec<(String, f64)> = named.collect();
        if self.args.per_class {
            let class = |category: usize| self.classes.get_index(category).map_or("", String::as_str);
            let of_class = summary.categories.iter();
            metrics.extend(of_class.filter_map(|one| Some((format!("AP/{}", class(one.category)), one.ap?))));
        }
        let counts = [("boxes", self.num_boxes), ("invalid", self.num_invalid), ("num", self.num_images)];
        metrics.extend(counts.map(|(name, count)| (name.to_owned(), count as f64)));
        let rows = rows.into_iter().flat_map(|mut row| match row["detections"].take() {
            Json::Array(rows) => rows,
            _ => Vec::new(),
        });
        let rows = rows.collect();
        let file = self.args.outfile.clone().map(|template| OutFile { template, rows });
        Ok(Verdicts { metrics, files: file.into_iter().collect() })
    }
}
