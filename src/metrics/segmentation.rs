//! How well an object's mask and box are drawn (`evaluators/proj/paligemma/transfers/segmentation.py`).

use super::{Mean, Metrics, as_score};

/// Edges y1, x1, y2, x2 as fractions of the image.
pub type Edges = [f64; 4];

/// Masks and boxes of referred objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// Each with the part of boxes whose IoU reaches it.
    box_ious: Vec<(f64, Mean)>,
    mask_iou: Mean,
    invalid: usize,
}

impl Segmentation {
    /// The thresholds of the reference's boxes.
    pub const BOX_IOUS: [f64; 2] = [0.5, 0.75];

    pub fn new(box_ious: &[f64]) -> Self {
        let box_ious = box_ious.iter().map(|&iou| (iou, Mean::default())).collect();
        Segmentation { box_ious, mask_iou: Mean::default(), invalid: 0 }
    }

    /// Adds a prediction and returns the IoU of its mask. `bbox` is `None` where the model did not write a box and a mask;
    /// that counts against boxes as well. `mask`, as large as the true one, is `None` also where the box has no pixel: the
    /// box counts for itself, the prediction as invalid.
    pub fn add(
        &mut self,
        bbox: Option<Edges>,
        mask: Option<&[bool]>,
        true_bbox: Edges,
        true_mask: &[bool],
    ) -> f64 {
        let box_iou = bbox.map_or(0.0, |bbox| box_iou(bbox, true_bbox));
        for (threshold, accuracy) in &mut self.box_ious {
            accuracy.add(as_score(box_iou >= *threshold));
        }
        let iou = match (bbox, mask) {
            (Some(_), Some(mask)) => mask_iou(mask, true_mask),
            _ => {
                self.invalid += 1;
                0.0
            }
        };
        self.mask_iou.add(iou);
        iou
    }

    /// `miou`, `boxacc/` of each threshold, the number of `invalid` predictions and the `total`.
    pub fn metrics(&self) -> Metrics {
        let boxes = self.box_ious.iter().map(|(threshold, mean)| (format!("boxacc/{threshold}"), *mean));
        let means = [("miou".to_owned(), self.mask_iou)].into_iter().chain(boxes);
        let means = means.filter_map(|(name, mean)| Some((name, mean.get()?)));
        let counts = [("invalid", self.invalid), ("total", self.mask_iou.count)];
        means.chain(counts.map(|(name, count)| (name.to_owned(), count as f64))).collect()
    }
}

/// The area of a box, 0 if its edges are swapped.
pub fn area([y1, x1, y2, x2]: Edges) -> f64 {
    (x2 - x1).max(0.0) * (y2 - y1).max(0.0)
}

/// Intersection over union of two boxes; not a number if both have no area.
pub fn box_iou(a: Edges, b: Edges) -> f64 {
    let intersection = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    intersection / (area(a) + area(b) - intersection)
}

/// Intersection over union of two masks of one size; 0 if both are empty.
pub fn mask_iou(a: &[bool], b: &[bool]) -> f64 {
    let count = |is_in: fn(bool, bool) -> bool| a.iter().zip(b).filter(|&(&a, &b)| is_in(a, b)).count();
    let union = count(|a, b| a || b);
    if union == 0 { 0.0 } else { count(|a, b| a && b) as f64 / union as f64 }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn invalid_predictions_count_against_everything() {
        let mut all = Segmentation::new(&Segmentation::BOX_IOUS);
        let truth = [true, true, false, false];
        assert_eq!(all.add(Some([0.0, 0.0, 0.5, 1.0]), Some(&truth), [0.0, 0.0, 0.5, 1.0], &truth), 1.0);
        assert_eq!(all.add(None, None, [0.0, 0.0, 0.5, 1.0], &truth), 0.0);
        // A box of the right place but too thin for a pixel.
        assert_eq!(all.add(Some([0.0, 0.0, 0.3, 1.0]), None, [0.0, 0.0, 0.5, 1.0], &truth), 0.0);
        let half = [true, false, false, false];
        assert_eq!(all.add(Some([0.0, 0.0, 0.5, 0.5]), Some(&half), [0.0, 0.0, 0.5, 1.0], &truth), 0.5);
        let names = ["miou", "boxacc/0.5", "boxacc/0.75", "invalid", "total"].map(str::to_owned);
        let expected: Metrics = names.into_iter().zip([1.5 / 4.0, 0.75, 0.25, 2.0, 4.0]).collect();
        assert_eq!(all.metrics(), expected);
    }

    /// The boxes of big_vision's evaluator (tests/data/masks/README.md), with masks that are right.
    #[test]
    fn boxes_count_as_recorded() {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/data/masks/segmentation.json")).unwrap();
        let edges = |json: &Value| -> Edges { std::array::from_fn(|edge| json[edge].as_f64().unwrap()) };
        for case in file["area"].as_array().unwrap() {
            let expected = case["area"].as_f64().unwrap();
            assert!((area(edges(&case["y1x1y2x2"])) - expected).abs() < 1e-12, "{case}");
        }
        let loc0 = file["loc0"].as_f64().unwrap();
        let mut all = Segmentation::new(&Segmentation::BOX_IOUS);
        let same = |got: &Segmentation, expected: &Value| {
            for (name, value) in got.metrics().into_iter().filter(|(name, _)| name != "miou") {
                assert!(
                    (value - expected[&name].as_f64().unwrap()).abs() < 1e-12,
                    "{name}: {value}, {expected}"
                );
            }
        };
        let examples = file["evaluator"]["examples"].as_array().unwrap();
        for example in examples {
            let is_valid = example["metrics"]["invalid"] == 0;
            let bbox = is_valid.then(|| edges(&example["tokens"]).map(|id| (id - loc0) / 1023.0));
            let mask = is_valid.then_some([true].as_slice());
            let mut alone = Segmentation::new(&Segmentation::BOX_IOUS);
            for segmentation in [&mut alone, &mut all] {
                segmentation.add(bbox, mask, edges(&example["bbox"]), &[true]);
            }
            same(&alone, &example["metrics"]);
        }
        assert_eq!(examples.len(), 24);
        same(&all, &file["evaluator"]["metrics_all"]);
    }

    #[test]
    fn empty_boxes_and_masks_have_no_part_in_common() {
        assert_eq!(area([1.0, 0.2, 0.5, 0.9]), 0.0);
        assert_eq!(mask_iou(&[false; 4], &[false; 4]), 0.0);
        let mut all = Segmentation::new(&[0.5]);
        all.add(Some([0.1, 0.1, 0.1, 0.1]), Some(&[false]), [0.2, 0.2, 0.2, 0.2], &[true]);
        assert_eq!(all.metrics()[1].1, 0.0);
    }
}
