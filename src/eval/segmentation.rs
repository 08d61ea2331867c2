//! Masks and boxes of referred objects (`evaluators/proj/paligemma/transfers/segmentation.py`).

use std::sync::Arc;

use image::{RgbImage, Rgba, RgbaImage, imageops};
use serde_json::{Map, Value as Json, json};

use super::judge::{Example, Judge, Verdict, Verdicts};
use super::{Context, Error, Masks};
use crate::config_section;
use crate::metrics::segmentation::Segmentation;
use crate::vqvae::{self, Decoder, Prediction};

config_section! {
    /// Arguments of the segmentation evaluator.
    pub struct Args {
        /// The weights that decode masks: `oi`, big_vision's, or a file.
        pub model: String = "oi".into();
        /// Intersections over union from which on a box counts as found.
        pub det_ious: Vec<f64> = Segmentation::BOX_IOUS.to_vec();
    }
}

/// Colours of masks, with their opacity: what the model drew, and what is to be drawn.
const ANSWER: Rgba<u8> = Rgba([0xe6, 0x2e, 0x6b, 0x90]);
const REFERENCE: Rgba<u8> = Rgba([0x1f, 0x9e, 0x89, 0x90]);

pub(super) struct SegmentationJudge {
    det_ious: Vec<f64>,
    decoder: Arc<Decoder>,
    /// Ids of `<loc0000>` and `<seg000>`.
    first: [i32; 2],
    all: Segmentation,
}

/// A mask by rows.
struct Mask {
    height: usize,
    width: usize,
    pixels: Vec<bool>,
}

pub(super) fn segmentation(context: &Context<'_>) -> Result<Box<dyn Judge>, Error> {
    let args: Args = context.spec.args.parse()?;
    let (Some((loc0, _)), Some((seg0, _))) = (context.tokenizer.loc(), context.tokenizer.seg()) else {
        let message = "segmentation expects a tokenizer with location and segmentation tokens, such as \
                       gemma(tokensets=(\"loc\", \"seg\"))";
        return Err(context.wrong("tokenizer", message));
    };
    let file = vqvae::find(&args.model, context.shared.env.folders());
    let decoder = file.and_then(|file| Decoder::open(&file));
    let decoder = decoder.map_err(|error| context.wrong("model", error.to_string()))?;
    Ok(Box::new(SegmentationJudge::new(&args.det_ious, Arc::new(decoder), [loc0, seg0])))
}

impl SegmentationJudge {
    pub fn new(det_ious: &[f64], decoder: Arc<Decoder>, first: [i32; 2]) -> Self {
        SegmentationJudge { det_ious: det_ious.to_vec(), decoder, first, all: Segmentation::new(det_ious) }
    }

    fn prediction(&self, example: &Example<'_>) -> Option<Prediction> {
        Prediction::from_ids(&example.answer.tokens, self.first[0], self.first[1])
    }

    fn mask(&self, example: &Example<'_>, height: usize, width: usize) -> Result<Option<Vec<bool>>, Error> {
        let failed = |source| Error::Masks { eval: example.eval.to_owned(), source: Box::new(source) };
        let prediction = self.prediction(example);
        let mask = prediction.map(|prediction| prediction.mask(&self.decoder, height, width));
        Ok(mask.transpose().map_err(failed)?.flatten())
    }
}

/// The true mask: `objects/mask` of [height, width, channels], of which the first counts.
fn true_mask(example: &Example<'_>) -> Result<Mask, Error> {
    let array = example.array("objects/mask")?;
    let &[height, width, ref channels @ ..] = array.dims() else {
        return Err(example.unfit("objects/mask", "pixels by rows", &example.fields["objects/mask"]));
    };
    let channels = channels.iter().product::<usize>().max(1);
    let pixels = array.to_f64().chunks_exact(channels).map(|pixel| pixel[0] > 0.0).collect();
    Ok(Mask { height, width, pixels })
}

impl Judge for SegmentationJudge {
    fn start(&mut self) {
        self.all = Segmentation::new(&self.det_ious);
    }

    fn judge(&mut self, example: &Example<'_>) -> Result<Verdict, Error> {
        let truth = true_mask(example)?;
        let corners = example.array("objects/bbox")?.to_f64();
        let &[y1, x1, y2, x2] = corners.as_slice() else {
            let got = &example.fields["objects/bbox"];
            return Err(example.unfit("objects/bbox", "the corners y1 x1 y2 x2 of one object", got));
        };
        let bbox = self.prediction(example).map(|prediction| prediction.bbox());
        let mask = self.mask(example, truth.height, truth.width)?;
        let iou = self.all.add(bbox, mask.as_deref(), [y1, x1, y2, x2], &truth.pixels);
        let mut json = Map::new();
        json.insert("iou".into(), json!(iou));
        json.insert("is_valid".into(), json!(bbox.is_some() && mask.is_some()));
        let references = example.texts("suffix")?.unwrap_or_default();
        let answer = example.answer.text.clone();
        Ok(Verdict { correct: None, answer, references, score: Some(iou), json })
    }

    fn masks(&self, example: &Example<'_>, picture: &RgbImage) -> Result<Option<Masks>, Error> {
        let (width, height) = picture.dimensions();
        let said = self.mask(example, height as usize, width as usize)?;
        let paint = |pixels: &[bool], [height, width]: [usize; 2], colour: Rgba<u8>| {
            let mut image = RgbaImage::new(width as u32, height as u32);
            for (pixel, _) in image.pixels_mut().zip(pixels).filter(|(_, marked)| **marked) {
                *pixel = colour;
            }
            image
        };
        let truth = true_mask(example)?;
        let reference = paint(&truth.pixels, [truth.height, truth.width], REFERENCE);
        Ok(Some(Masks {
            answer: said.map(|said| paint(&said, [height as usize, width as usize], ANSWER)),
            reference: imageops::resize(&reference, width, height, imageops::FilterType::Nearest),
        }))
    }

    fn finish(&mut self, _eval: &str, _rows: Vec<Json>) -> Result<Verdicts, Error> {
        Ok(Verdicts { metrics: self.all.metrics(), files: Vec::new() })
    }
}
