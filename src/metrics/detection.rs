//! How well boxes are found: COCO's average precision and recall, with the numbers of pycocotools' `COCOeval`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::Metrics;

/// The IoU thresholds: 0.5, 0.55 and so on to 0.95.
const NUM_THRESHOLDS: usize = 10;
const AT_50: usize = 0;
const AT_75: usize = 5;
/// Recalls at which precision is read: 0, 0.01 and so on to 1.
const NUM_RECALLS: usize = 101;
/// At most so many detections, those with the best scores, count per image and category.
const MAX_DETECTIONS: [usize; 3] = [1, 10, 100];

/// A box as COCO writes it: left, top, width and height, in any one unit.
pub type Xywh = [f64; 4];

/// An object that is in an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    pub image: usize,
    pub category: usize,
    pub bbox: Xywh,
    /// In square pixels, by which objects are small, medium or large; of COCO's masks it is the mask's area.
    pub area: f64,
    /// Whether the box holds many objects: finding them is neither right nor wrong.
    pub is_crowd: bool,
}

/// A box that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub image: usize,
    pub category: usize,
    pub bbox: Xywh,
    /// How sure the model is. Boxes of one score count in the order of their images and, within an image, of the list:
    /// models that only write boxes down have the same score for all.
    pub score: f64,
}

/// Average precision and recall, from 0 to 1; `None` where there is no object to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Over IoUs from 0.5 to 0.95, and at 0.5 and 0.75 alone.
    pub ap: Option<f64>,
    pub ap50: Option<f64>,
    pub ap75: Option<f64>,
    /// Of objects of less than 32², up to 96², and more pixels.
    pub ap_by_size: [Option<f64>; 3],
    /// Recall by at most 1, 10 and 100 boxes per image and category.
    pub ar: [Option<f64>; 3],
    pub ar_by_size: [Option<f64>; 3],
    /// In the order of the categories' numbers.
    pub categories: Vec<Category>,
}

/// Average precision in one category.
#[derive(Debug, Clone, PartialEq)]
pub struct Category {
    pub category: usize,
    pub ap: Option<f64>,
    pub ap50: Option<f64>,
    pub ap75: Option<f64>,
}

impl Summary {
    /// COCO's twelve numbers by their usual names, without those that are not defined.
    pub fn metrics(&self) -> Metrics {
        let [ap_small, ap_medium, ap_large] = self.ap_by_size;
        let [ar_1, ar_10, ar_100] = self.ar;
        let [ar_small, ar_medium, ar_large] = self.ar_by_size;
        let named = [
            ("AP", self.ap),
            ("AP50", self.ap50),
            ("AP75", self.ap75),
            ("AP_small", ap_small),
            ("AP_medium", ap_medium),
            ("AP_large", ap_large),
            ("AR_1", ar_1),
            ("AR_10", ar_10),
            ("AR_100", ar_100),
            ("AR_small", ar_small),
            ("AR_medium", ar_medium),
            ("AR_large", ar_large),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// Intersection over union of two boxes given by their edges y1, x1, y2, x2 in any one unit. A box whose edges are
/// swapped meets nothing.
pub fn box_iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let xywh = |[y1, x1, y2, x2]: [f64; 4]| [x1, y1, x2 - x1, y2 - y1];
    iou(xywh(a), xywh(b), false)
}

/// Intersection over union, or over the found box where the true one is a crowd.
fn iou(found: Xywh, truth: Xywh, is_crowd: bool) -> f64 {
    let overlap = |axis: usize| {
        let end = |bbox: Xywh| bbox[axis] + bbox[axis + 2];
        end(found).min(end(truth)) - found[axis].max(truth[axis])
    };
    let (width, height) = (overlap(0), overlap(1));
    if !(width > 0.0 && height > 0.0) {
        return 0.0;
    }
    let (intersection, area) = (width * height, found[2] * found[3]);
    intersection / if is_crowd { area } else { area + truth[2] * truth[3] - intersection }
}

/// Sizes of objects in square pixels: all, small, medium and large ones.
const SIZES: [RangeInclusive<f64>; 4] = [0.0..=1e10, 0.0..=1024.0, 1024.0..=9216.0, 9216.0..=1e10];

/// What there is and what was found of one category in one image.
#[derive(Default)]
struct Scene<'a> {
    truths: Vec<&'a Truth>,
    /// The best first, at most as many as ever count.
    found: Vec<&'a Found>,
}

/// What became of a found box, at each IoU threshold.
struct Judged {
    score: f64,
    /// The place among the scene's boxes.
    rank: usize,
    is_match: [bool; NUM_THRESHOLDS],
    is_ignored: [bool; NUM_THRESHOLDS],
}

/// Precision at each threshold and recall, and the final recall at each threshold, of a category and a size.
struct Curves {
    precision: Vec<[f64; NUM_RECALLS]>,
    recall: [f64; NUM_THRESHOLDS],
}

/// Compares what was found with what there is. Detections of categories that no image has do not count.
pub fn evaluate(truths: &[Truth], found: &[Found]) -> Summary {
    // By category and image, both in the order of their numbers.
    let mut scenes: BTreeMap<usize, BTreeMap<usize, Scene<'_>>> = BTreeMap::new();
    for truth in truths {
        scenes.entry(truth.category).or_default().entry(truth.image).or_default().truths.push(truth);
    }
    for found in found {
        if let Some(images) = scenes.get_mut(&found.category) {
            images.entry(found.image).or_default().found.push(found);
        }
    }
    let [_, _, most] = MAX_DETECTIONS;
    let mut by_category = Vec::new();
    for (category, mut images) in scenes {
        for scene in images.values_mut() {
            scene.found.sort_by(|a, b| b.score.total_cmp(&a.score));
            scene.found.truncate(most);
        }
        let images: Vec<Scene<'_>> = images.into_values().collect();
        let curves = SIZES.map(|size| {
            let (judged, num_truths) = judge(&images, &size);
            MAX_DETECTIONS.map(|most| Curves::new(&judged, num_truths, most))
        });
        by_category.push((category, curves));
    }
    let curves = |size: usize, most: usize| {
        by_category.iter().filter_map(move |(_, curves)| curves[size][most].as_ref())
    };
    let precision = |size, only| mean(curves(size, 2).flat_map(|curves| curves.precisions(only)));
    let recall = |size, most| mean(curves(size, most).flat_map(|curves| curves.recall));
    Summary {
        ap: precision(0, None),
        ap50: precision(0, Some(AT_50)),
        ap75: precision(0, Some(AT_75)),
        ap_by_size: [1, 2, 3].map(|size| precision(size, None)),
        ar: [0, 1, 2].map(|most| recall(0, most)),
        ar_by_size: [1, 2, 3].map(|size| recall(size, 2)),
        categories: by_category
            .iter()
            .map(|(category, curves)| {
                let ap = |only| mean(curves[0][2].iter().flat_map(|curves| curves.precisions(only)));
                Category { category: *category, ap: ap(None), ap50: ap(Some(AT_50)), ap75: ap(Some(AT_75)) }
            })
            .collect(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// The steps of numpy's `linspace`, to the bit: IoUs are compared with them.
fn linspace(start: f64, end: f64, count: usize, index: usize) -> f64 {
    let step = (end - start) / (count - 1) as f64;
    if index == count - 1 { end } else { index as f64 * step + start }
}

fn threshold(index: usize) -> f64 {
    linspace(0.5, 0.95, NUM_THRESHOLDS, index)
}

/// All found boxes of a category, the best first, and the number of objects of a size that are to be found.
fn judge(images: &[Scene<'_>], size: &RangeInclusive<f64>) -> (Vec<Judged>, usize) {
    let mut judged = Vec::new();
    let mut num_truths = 0;
    for scene in images {
        let is_ignored = |truth: &Truth| truth.is_crowd || !size.contains(&truth.area);
        let mut truths = scene.truths.clone();
        truths.sort_by_key(|truth| is_ignored(truth));
        let counted = truths.iter().filter(|truth| !is_ignored(truth)).count();
        num_truths += counted;
        let start = judged.len();
        judged.extend(scene.found.iter().enumerate().map(|(rank, found)| Judged {
            score: found.score,
            rank,
            is_match: [false; NUM_THRESHOLDS],
            is_ignored: [!size.contains(&(found.bbox[2] * found.bbox[3])); NUM_THRESHOLDS],
        }));
        let ious: Vec<Vec<f64>> = scene
            .found
            .iter()
            .map(|found| truths.iter().map(|truth| iou(found.bbox, truth.bbox, truth.is_crowd)).collect())
            .collect();
        for index in 0..NUM_THRESHOLDS {
            let mut taken = vec![false; truths.len()];
            for (judged, ious) in judged[start..].iter_mut().zip(&ious) {
                if let Some(place) = best_match(&truths, counted, &taken, ious, threshold(index)) {
                    taken[place] = true;
                    judged.is_match[index] = true;
                    judged.is_ignored[index] = place >= counted;
                }
            }
        }
    }
    // Equal scores stay in the order of images.
    judged.sort_by(|a, b| b.score.total_cmp(&a.score));
    (judged, num_truths)
}

/// The object with the largest IoU that a box may take. The first `counted` come before those that do not count, which
/// are only taken by boxes that fit none of the others; of equals, the last.
fn best_match(
    truths: &[&Truth],
    counted: usize,
    taken: &[bool],
    ious: &[f64],
    threshold: f64,
) -> Option<usize> {
    let mut best = None;
    let mut best_iou = threshold.min(1.0 - 1e-10);
    for (place, &iou) in ious.iter().enumerate() {
        if taken[place] && !truths[place].is_crowd {
            continue;
        }
        if best.is_some() && place >= counted && best < Some(counted) {
            break;
        }
        if iou >= best_iou {
            (best, best_iou) = (Some(place), iou);
        }
    }
    best
}

impl Curves {
    /// Of the found boxes that are among the first `most` of their image; `None` without objects.
    fn new(judged: &[Judged], num_truths: usize, most: usize) -> Option<Self> {
        if num_truths == 0 {
            return None;
        }
        let counted: Vec<&Judged> = judged.iter().filter(|judged| judged.rank < most).collect();
        let mut curves = Curves { precision: Vec::new(), recall: [0.0; NUM_THRESHOLDS] };
        for index in 0..NUM_THRESHOLDS {
            let (mut right, mut wrong) = (0.0, 0.0);
            // Recall and precision of the best one, two, three ... boxes.
            let mut points: Vec<(f64, f64)> = Vec::with_capacity(counted.len());
            for judged in &counted {
                if !judged.is_ignored[index] {
                    *if judged.is_match[index] { &mut right } else { &mut wrong } += 1.0;
                }
                points.push((right / num_truths as f64, right / (wrong + right + f64::EPSILON)));
            }
            curves.recall[index] = points.last().map_or(0.0, |(recall, _)| *recall);
            // Precision at a recall is the best at this or a larger one.
            for place in (1..points.len()).rev() {
                points[place - 1].1 = points[place - 1].1.max(points[place].1);
            }
            curves.precision.push(std::array::from_fn(|at| {
                let wanted = linspace(0.0, 1.0, NUM_RECALLS, at);
                let place = points.partition_point(|(recall, _)| *recall < wanted);
                points.get(place).map_or(0.0, |(_, precision)| *precision)
            }));
        }
        Some(curves)
    }

    /// At all recalls, of all thresholds or only of one.
    fn precisions(&self, only: Option<usize>) -> impl Iterator<Item = f64> {
        let thresholds = only.map_or(0..NUM_THRESHOLDS, |threshold| threshold..threshold + 1);
        self.precision[thresholds].iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn numbers(json: &Value) -> [f64; 4] {
        std::array::from_fn(|place| json[place].as_f64().unwrap())
    }

    #[track_caller]
    fn assert_near(got: Option<f64>, expected: &Value, about: &str) {
        let got = got.unwrap_or(-1.0);
        assert!((got - expected.as_f64().unwrap()).abs() < 1e-9, "{about}: {got}, expected {expected}");
    }

    /// Against pycocotools (tests/data/metrics/README.md).
    #[test]
    fn precisions_equal_the_recordings() {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/data/metrics/detection_map.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let id = |json: &Value, key: &str| json[key].as_u64().unwrap() as usize;
            let truth = |json: &Value| Truth {
                image: id(json, "image_id"),
                category: id(json, "category_id"),
                bbox: numbers(&json["bbox"]),
                area: json["area"].as_f64().unwrap(),
                is_crowd: json["iscrowd"] == 1,
            };
            let found = |json: &Value| Found {
                image: id(json, "image_id"),
                category: id(json, "category_id"),
                bbox: numbers(&json["bbox"]),
                score: json["score"].as_f64().unwrap(),
            };
            let truths: Vec<Truth> =
                case["ground_truth"]["annotations"].as_array().unwrap().iter().map(truth).collect();
            let found: Vec<Found> = case["detections"].as_array().unwrap().iter().map(found).collect();
            let summary = evaluate(&truths, &found);
            let metrics: std::collections::HashMap<String, f64> = summary.metrics().into_iter().collect();
            let stats = case["stats"].as_object().unwrap();
            assert_eq!(stats.len(), 12);
            for (name, expected) in stats {
                assert_near(metrics.get(name).copied(), expected, name);
            }
            for (category, expected) in
                summary.categories.iter().zip(case["per_category"].as_array().unwrap())
            {
                assert_eq!(category.category as u64, expected["category_id"]);
                assert_near(category.ap, &expected["ap"], "ap");
                assert_near(category.ap50, &expected["ap50"], "ap50");
                assert_near(category.ap75, &expected["ap75"], "ap75");
            }
        }
    }

    #[test]
    fn overlaps_equal_the_recordings() {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/data/metrics/box_iou.json")).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 60);
        for case in cases {
            let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
            assert_near(Some(box_iou(a, b)), &case["coco_iou"], "coco_iou");
            assert!((box_iou(a, b) - case["reward_iou"].as_f64().unwrap()).abs() < 1e-6, "{case}");
            let xywh = |[y1, x1, y2, x2]: [f64; 4]| [x1, y1, x2 - x1, y2 - y1];
            assert_near(Some(iou(xywh(a), xywh(b), true)), &case["coco_iou_b_crowd"], "coco_iou_b_crowd");
        }
    }

    #[test]
    fn what_is_not_there_has_no_precision() {
        let found = Found { image: 1, category: 2, bbox: [0.0, 0.0, 10.0, 10.0], score: 1.0 };
        let none = evaluate(&[], std::slice::from_ref(&found));
        assert_eq!((none.ap, none.ar[2], none.categories.len()), (None, None, 0));
        assert!(none.metrics().is_empty());
        let truth = Truth { image: 1, category: 2, bbox: found.bbox, area: 100.0, is_crowd: false };
        let missed = evaluate(std::slice::from_ref(&truth), &[]);
        assert_eq!(
            (missed.ap, missed.ar[0], missed.ap_by_size),
            (Some(0.0), Some(0.0), [Some(0.0), None, None])
        );
        let hit = evaluate(&[truth], &[found]);
        assert!((hit.ap.unwrap() - 1.0).abs() < 1e-9 && hit.ar == [Some(1.0); 3]);
    }
}
