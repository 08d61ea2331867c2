use std::path::Path;

use serde_json::Value as Json;

use super::super::Row;
use super::super::tolerance::{AVERAGE_PRECISION, FLOAT_BOX_IOU};
use super::{Numbers, Problem, list, number, numbers};
use crate::metrics::detection::{self, Found, Truth, box_iou};

/// COCO's numbers of sets of boxes, where -1 stands for none.
pub(super) fn precisions(_: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let [mut stats, mut categories] = [Numbers::default(), Numbers::default()];
    for case in list(recorded, "cases")? {
        let id = |json: &Json, key: &str| -> Result<usize, Problem> {
            json[key].as_u64().and_then(|id| usize::try_from(id).ok()).ok_or(Problem::Lacks)
        };
        let truth = |json: &Json| {
            Ok(Truth {
                image: id(json, "image_id")?,
                category: id(json, "category_id")?,
                bbox: numbers(&json["bbox"])?,
                area: number(&json["area"])?,
                is_crowd: json["iscrowd"] == 1,
            })
        };
        let found = |json: &Json| {
            Ok(Found {
                image: id(json, "image_id")?,
                category: id(json, "category_id")?,
                bbox: numbers(&json["bbox"])?,
                score: number(&json["score"])?,
            })
        };
        let truths = list(&case["ground_truth"], "annotations")?.iter().map(truth);
        let truths = truths.collect::<Result<Vec<_>, Problem>>()?;
        let found = list(case, "detections")?.iter().map(found).collect::<Result<Vec<_>, Problem>>()?;
        let summary = detection::evaluate(&truths, &found);
        let metrics = summary.metrics();
        for (name, expected) in case["stats"].as_object().ok_or(Problem::Lacks)? {
            let got = metrics.iter().find(|(known, _)| known == name).map_or(-1.0, |(_, value)| *value);
            stats.add(got, expected)?;
        }
        for expected in list(case, "per_category")? {
            let category = id(expected, "category_id")?;
            let got = summary.categories.iter().find(|known| known.category == category);
            let of = |value: fn(&detection::Category) -> Option<f64>| got.and_then(value).unwrap_or(-1.0);
            categories.add(of(|category| category.ap), &expected["ap"])?;
            categories.add(of(|category| category.ap50), &expected["ap50"])?;
            categories.add(of(|category| category.ap75), &expected["ap75"])?;
        }
    }
    Ok(vec![
        stats.row("detection stats", AVERAGE_PRECISION),
        categories.row("detection per category", AVERAGE_PRECISION),
    ])
}

/// Intersections over unions of two boxes, of which the reward code computes in `f32`.
pub(super) fn overlaps(_: &Path, recorded: &Json) -> Result<Vec<Row>, Problem> {
    let [mut coco, mut reward] = [Numbers::default(), Numbers::default()];
    for case in list(recorded, "cases")? {
        let got = box_iou(numbers(&case["a"])?, numbers(&case["b"])?);
        coco.add(got, &case["coco_iou"])?;
        reward.add(got, &case["reward_iou"])?;
    }
    Ok(vec![coco.row("box_iou coco", AVERAGE_PRECISION), reward.row("box_iou reward", FLOAT_BOX_IOU)])
}
