//! Sets of pictures with boxes, and the texts that models learn of them.

use std::path::Path;

use serde_json::Value as Json;

use super::super::Row;
use super::super::recording::read_json;
use super::super::tally::Tally;
use super::{records, sha256};
use crate::data::{
    self, Annotated, Annotations, Coco, DetectOptions, DetectionSource, ImageFile, Parquet, ParquetOptions,
    Source, Value, Voc, VocOptions, Yolo,
};
use crate::detection::{LocOptions, LocRound, LocScale};

/// The rule of most example scripts: no clamping, so that an edge may become `<loc1024>`.
const SEED_RULE: LocOptions = LocOptions { clamp: false, ..CLAMPED };
const CLAMPED: LocOptions = LocOptions { scale: LocScale::Bins1024, round: LocRound::HalfEven, clamp: true };

type Opened = Result<Box<dyn Annotations>, data::Error>;

/// The same scenes as COCO, YOLO and Pascal VOC: boxes as they were drawn, and their texts by every rule.
pub(super) fn sets(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    fn boxed<A: Annotations + 'static>(set: Result<A, data::Error>) -> Opened {
        Ok(Box::new(set?))
    }
    let images = recorded["images"].as_array()?;
    let sets = || {
        let part = |part: &'static str| {
            let voc = boxed(Voc::open(dir.join("voc"), part, VocOptions::default()));
            [("voc", voc), ("yolo", boxed(Yolo::open(dir.join("yolo"), part)))]
        };
        let coco = [("coco", boxed(Coco::open(dir.join("coco"), None)))];
        coco.into_iter().chain(part("train")).chain(part("val"))
    };
    let [mut boxes, mut texts] = ["detection boxes", "detection texts"].map(Tally::new);
    for (format, set) in sets() {
        match set {
            Ok(set) => compare_boxes(&mut boxes, set.as_ref(), images)?,
            Err(error) => boxes.case(false, format!("{format}: {error}")),
        }
    }
    for (loc, rule) in [(CLAMPED, "seed_rule_clamped"), (SEED_RULE, "seed_rule")] {
        for (format, set) in sets() {
            let Ok(set) = set else { continue };
            let options = DetectOptions { loc, ..DetectOptions::default() };
            let names: Vec<String> =
                (0..set.len()).filter_map(|index| file_name(&set.annotated(index).ok()?)).collect();
            let source = DetectionSource::new(set, options).ok()?;
            for (index, name) in names.iter().enumerate() {
                let image = images.iter().find(|image| image["file"] == name.as_str())?;
                // YOLO's numbers have six decimals, which may decide between two bins.
                let rule =
                    if format == "yolo" && rule == "seed_rule" { "seed_rule_from_yolo_text" } else { rule };
                let row = source.get(index).ok();
                let suffix = row.as_ref().and_then(|row| row["suffix"].as_str());
                texts.case(suffix == image[rule].as_str(), format!("{rule} {}", source.locate(index)));
            }
        }
    }
    let pycocotools = pycocotools(dir, recorded["pycocotools"].as_array()?)?;
    Some([boxes.rows(), texts.rows(), big_vision_bins("detection", images)?, pycocotools].concat())
}

fn file_name(annotated: &Annotated) -> Option<String> {
    match &annotated.image {
        ImageFile::Path(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
        ImageFile::Bytes(_) => None,
    }
}

/// Corners y1 x1 y2 x2 of the drawn boxes, and their classes.
fn drawn(image: &Json) -> Option<Vec<([f64; 4], &str)>> {
    let boxes = image["bbox_xywh"].as_array()?.iter().map(corners);
    let labels = image["categories"].as_array()?.iter().map(Json::as_str);
    boxes.zip(labels).map(|(corners, label)| Some((corners?, label?))).collect()
}

fn corners(xywh: &Json) -> Option<[f64; 4]> {
    let number = |place: usize| xywh[place].as_f64();
    let (x, y, width, height) = (number(0)?, number(1)?, number(2)?, number(3)?);
    Some([y, x, y + height, x + width])
}

fn extent(image: &Json) -> Option<[f64; 2]> {
    Some([image["height"].as_f64()?, image["width"].as_f64()?])
}

fn compare_boxes(tally: &mut Tally, set: &dyn Annotations, images: &[Json]) -> Option<()> {
    /// Half of YOLO's last decimal, of the longest side of a picture there is.
    const TOLERANCE_PX: f64 = 2e-4;
    for index in 0..set.len() {
        let annotated = set.annotated(index).ok();
        let holds = annotated.as_ref().and_then(|annotated| {
            let name = file_name(annotated)?;
            let image = images.iter().find(|image| image["file"] == name.as_str())?;
            let [height, width] = extent(image)?;
            let scale = [height / annotated.extent[0], width / annotated.extent[1]];
            let expected = drawn(image)?;
            let mut pairs = annotated.objects.iter().zip(&expected);
            let same = pairs.all(|(object, (corners, label))| {
                let mut edges = object.corners.iter().zip(corners).zip(scale.iter().cycle());
                object.label == *label
                    && edges.all(|((got, expected), scale)| (got * scale - expected).abs() < TOLERANCE_PX)
            });
            let same_file = match &annotated.image {
                // The other formats have copies of their own.
                ImageFile::Path(path) if set.describe().starts_with("coco") => {
                    std::fs::read(path).is_ok_and(|bytes| image["sha256"] == sha256(&bytes))
                }
                _ => true,
            };
            Some(same && same_file && annotated.objects.len() == expected.len())
        });
        tally.case(holds == Some(true), set.locate(index));
    }
    Some(())
}

/// What big_vision's op for masks writes of a box; it fails where the box has no pixel.
fn big_vision_bins(set: &str, images: &[Json]) -> Option<Vec<Row>> {
    let mut tally = Tally::new(format!("{set} big_vision_refcoco_loc"));
    for image in images {
        let texts = image["big_vision_refcoco_loc"].as_array()?;
        for ((corners, label), text) in drawn(image)?.into_iter().zip(texts) {
            if let Some(text) = text.as_str().filter(|text| text.starts_with("<loc")) {
                let got = LocOptions::default().text(corners, extent(image)?, "");
                tally.case(got == text, format!("{} {label}", image["file"]));
            }
        }
    }
    Some(tally.rows())
}

fn pycocotools(dir: &Path, views: &[Json]) -> Option<Vec<Row>> {
    let mut tally = Tally::new("detection pycocotools");
    let set = match Coco::open(dir.join("coco"), None) {
        Ok(set) => set,
        Err(error) => {
            tally.case(false, error);
            return Some(tally.rows());
        }
    };
    tally.case(set.len() == views.len(), "number of images");
    for (index, view) in views.iter().enumerate() {
        let boxes = view["bbox"].as_array()?.iter().map(corners).collect::<Option<Vec<_>>>()?;
        let holds = set.annotated(index).is_ok_and(|annotated| {
            view["image_id"] == Json::from(annotated.id.parse::<i64>().ok())
                && file_name(&annotated).as_deref() == view["file_name"].as_str()
                && annotated.objects.iter().map(|object| object.corners).eq(boxes)
                && annotated.objects.iter().map(|object| Json::from(object.label.as_str())).collect::<Json>()
                    == view["categories"]
        });
        tally.case(holds, set.locate(index));
    }
    Some(tally.rows())
}

/// Texts of the boxes in parquet rows.
pub(super) fn parquet_strings(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let mut tally = Tally::new("parquet detection texts");
    let set: Json = read_json(&dir.join("expected_hf_parquet_detection.json")).ok()?;
    let source = match Parquet::open(&records::files(dir, &set)?, &ParquetOptions::default()) {
        Ok(source) => source,
        Err(error) => {
            tally.case(false, error);
            return Some(tally.rows());
        }
    };
    let classes = source.class_names("objects/category").unwrap_or_default();
    let images = recorded["images"].as_array()?;
    tally.case(source.len() == images.len(), "number of rows");
    for (index, image) in images.iter().enumerate() {
        let row = source.get(index).ok();
        for (loc, rule) in [(SEED_RULE, "seed_rule"), (CLAMPED, "seed_rule_clamped")] {
            let got = row.as_ref().and_then(|row| text_of(row, classes, loc));
            tally.case(got.as_deref() == image[rule].as_str(), format!("{rule} {}", source.locate(index)));
        }
    }
    Some([tally.rows(), big_vision_bins("parquet", images)?].concat())
}

fn text_of(row: &data::Row, classes: &[String], loc: LocOptions) -> Option<String> {
    let number = |value: &Value| match value {
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        _ => None,
    };
    let extent = [number(&row["height"])?, number(&row["width"])?];
    let Value::Dict(objects) = row.get("objects")? else { return None };
    let (boxes, labels) = (objects.get("bbox")?.as_list()?, objects.get("category")?.as_list()?);
    let texts = boxes.iter().zip(labels).map(|(xywh, label)| {
        let [x, y, width, height] =
            <[f64; 4]>::try_from(xywh.as_list()?.iter().map(number).collect::<Option<Vec<_>>>()?).ok()?;
        let label = classes.get(number(label)? as usize)?;
        Some(loc.text([y, x, y + height, x + width], extent, label))
    });
    Some(texts.collect::<Option<Vec<_>>>()?.join(" ; "))
}
