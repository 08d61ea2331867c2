use std::path::Path;

use serde_json::Value as Json;

use super::super::Row;
use super::super::tally::Tally;
use super::super::tolerance::{ACCURACY, DECODED_MASK, MASK_PIXELS};
use super::{Numbers, Problem, list, number, numbers, text};
use crate::array::HostArray;
use crate::checkpoint::{self, Reader};
use crate::metrics::Metrics;
use crate::metrics::segmentation::{Edges, Segmentation, area};
use crate::pp::{Env, Example, Pipeline};
use crate::vqvae::{Codes, Decoder, Encoder, NUM_CODES, NUM_PIXELS, Prediction};

const TENSORS_FILE: &str = "segmentation.safetensors";
/// Distance between the nearest code word and the next from which rounding does not decide.
const MARGIN: f32 = 1e-2;
/// So many examples were also evaluated on so many of their tokens.
const NUM_SHORT: usize = 4;
const SHORT: usize = 12;

/// The mask VQ-VAE both ways, the op that writes masks down, and the evaluator that reads them.
pub(super) fn masks(dir: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let weights = dir.join(text(recorded, "weights")?);
    let tensors = checkpoint::open(dir.join(TENSORS_FILE))?;
    let tensors = tensors.as_ref();
    let encoder = Encoder::open(&weights)?;
    let decoder = Decoder::open(&weights)?;
    let mut areas = Numbers::default();
    for case in list(recorded, "area")? {
        areas.add(area(numbers(&case["y1x1y2x2"])?), &case["area"])?;
    }
    let mut rows = encoded(&encoder, tensors)?;
    rows.push(decoded(&decoder, tensors)?);
    rows.extend(written(dir, recorded, tensors)?);
    rows.extend(evaluated(&decoder, recorded, tensors)?);
    rows.push(areas.row("segmentation area", ACCURACY));
    Ok(rows)
}

fn encoded(encoder: &Encoder, tensors: &dyn Reader) -> Result<Vec<Row>, Problem> {
    let (masks, margins) = (tensors.read("enc_masks")?, tensors.read("enc_margin")?);
    let indices = tensors.read("enc_indices")?;
    let mut tally = Tally::new("segmentation codes");
    let expected = indices.values::<i32>()?.chunks_exact(NUM_CODES);
    let expected = expected.zip(margins.values::<f32>()?.chunks_exact(NUM_CODES));
    let cases = masks.values::<f32>()?.chunks_exact(NUM_PIXELS).zip(expected).enumerate();
    for (case, (mask, (expected, margins))) in cases {
        let mask: &[f32; NUM_PIXELS] = mask.try_into().map_err(|_| Problem::Lacks)?;
        for (place, code) in encoder.encode(mask).into_iter().enumerate() {
            if margins[place] > MARGIN {
                tally.case(i32::from(code) == expected[place], format!("mask {case}, place {place}"));
            }
        }
    }
    Ok(tally.rows())
}

fn decoded(decoder: &Decoder, tensors: &dyn Reader) -> Result<Row, Problem> {
    let indices = tensors.read("dec_indices")?;
    let mut masks = Vec::new();
    for indices in indices.values::<i32>()?.chunks_exact(NUM_CODES) {
        let mut codes: Codes = [0; NUM_CODES];
        for (code, index) in codes.iter_mut().zip(indices) {
            *code = u8::try_from(*index).map_err(|_| Problem::Lacks)?;
        }
        masks.extend(decoder.decode(&codes)?);
    }
    let expected = tensors.read("dec_masks")?;
    let got = HostArray::new(expected.dims(), &masks)?;
    Ok(Row::tensor("segmentation decoder", &got, &expected, DECODED_MASK)?)
}

/// The op `refcoco_mask2str`.
fn written(dir: &Path, recorded: &Json, tensors: &dyn Reader) -> Result<Vec<Row>, Problem> {
    let op = format!("refcoco_mask2str(model='{}')", text(recorded, "weights")?);
    let pipeline = Pipeline::parse(&op, &Env::new(dir))?;
    let mut suffixes = Tally::new("segmentation mask2str");
    for case in list(recorded, "mask2str")? {
        let mask = tensors.read(text(case, "mask")?)?;
        let colored: Vec<u8> = mask.bytes().iter().flat_map(|&level| [level; 3]).collect();
        let mut example = Example::new();
        example.insert("objects/mask", HostArray::new([mask.dims(), &[3]].concat(), &colored)?);
        example.insert("objects/bbox", numbers::<4>(&case["bbox"])?.map(|edge| edge as f32).as_slice());
        example.insert("objects/refs/sentence", text(case, "prefix")?);
        let result = pipeline.run(example, 0);
        let suffix = result.as_ref().ok().and_then(|example| example.get("suffix")?.as_str());
        suffixes.case(suffix == Some(text(case, "suffix")?), text(case, "mask")?);
    }
    Ok(suffixes.rows())
}

/// The evaluator on each example alone, whose masks may differ in two pixels, and on all together.
fn evaluated(decoder: &Decoder, recorded: &Json, tensors: &dyn Reader) -> Result<Vec<Row>, Problem> {
    let id = |key: &str| recorded[key].as_i64().and_then(|id| i32::try_from(id).ok()).ok_or(Problem::Lacks);
    let (loc0, seg0) = (id("loc0")?, id("seg0")?);
    let thresholds = list(recorded, "det_ious")?.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let evaluator = &recorded["evaluator"];
    let examples = list(evaluator, "examples")?;
    let mut all = Segmentation::new(&thresholds);
    // The first examples with tokens that are too few for a mask.
    let mut short = Segmentation::new(&thresholds);
    let mut counts = Tally::new("segmentation evaluator");
    let mut pixels: f64 = 0.0;
    // Two pixels of every mask, in the mean over examples.
    let mut slack = 0.0;
    for (place, example) in examples.iter().enumerate() {
        let truth = tensors.read(text(example, "mask")?)?;
        let &[height, width] = truth.dims() else { return Err(Problem::Lacks) };
        let truth: Vec<bool> = truth.bytes().iter().map(|&level| level > 0).collect();
        let true_bbox: Edges = numbers(&example["bbox"])?;
        let ids = list(example, "tokens")?.iter().map(|id| id.as_i64().and_then(|id| i32::try_from(id).ok()));
        let ids = ids.collect::<Option<Vec<_>>>().ok_or(Problem::Lacks)?;
        if place < NUM_SHORT {
            let prediction = Prediction::from_ids(ids.get(..SHORT).ok_or(Problem::Lacks)?, loc0, seg0);
            short.add(prediction.map(|prediction| prediction.bbox()), None, true_bbox, &truth);
        }
        let prediction = Prediction::from_ids(&ids, loc0, seg0);
        let mask = match &prediction {
            Some(prediction) => prediction.mask(decoder, height, width)?,
            None => None,
        };
        let bbox = prediction.map(|prediction| prediction.bbox());
        let mut alone = Segmentation::new(&thresholds);
        let iou = alone.add(bbox, mask.as_deref(), true_bbox, &truth);
        all.add(bbox, mask.as_deref(), true_bbox, &truth);
        counts.case(same_counts(&alone.metrics(), &example["metrics"])?, text(example, "mask")?);
        let either =
            mask.iter().flatten().zip(&truth).filter(|&(&mask, &truth)| mask || truth).count().max(1);
        pixels = pixels.max((iou - number(&example["metrics"]["miou"])?).abs() * either as f64);
        slack += MASK_PIXELS.limit / either as f64 / examples.len() as f64;
    }
    counts.case(same_counts(&all.metrics(), &evaluator["metrics_all"])?, "all examples");
    counts.case(same_counts(&short.metrics(), &evaluator["metrics_first4_12_tokens"])?, "too few tokens");
    let miou = all.metrics().first().map_or(f64::NAN, |(_, miou)| *miou);
    let difference = (miou - number(&evaluator["metrics_all"]["miou"])?).abs();
    counts.case(difference <= slack, "mean IoU of all examples");
    let pixels = Row::number("segmentation mask pixels", pixels, 0.0, MASK_PIXELS);
    Ok([counts.rows(), vec![pixels]].concat())
}

/// All metrics but the mean IoU, which has a tolerance of its own.
fn same_counts(got: &Metrics, recorded: &Json) -> Result<bool, Problem> {
    let recorded = recorded.as_object().ok_or(Problem::Lacks)?;
    let mut same = got.len() == recorded.len();
    for (name, value) in got.iter().filter(|(name, _)| name != "miou") {
        let recorded = recorded.get(name).ok_or(Problem::Lacks)?;
        same &= (number(recorded)? - value).abs() <= ACCURACY.limit;
    }
    Ok(same)
}
