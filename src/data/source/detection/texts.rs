//! What a model is asked about a picture with boxes, and what it should say.

use super::{Annotated, Object};
use crate::detection::{LocOptions, label_text};

/// Which classes a prompt names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Classes {
    /// All of the set, in its order: the model also learns to leave out what is not there.
    #[default]
    All,
    /// Those in the picture, in the order of its objects; for sets with too many classes to name.
    Present,
    /// These; objects of others are passed over.
    Only(Vec<String>),
}

/// How boxes become prompts and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectOptions {
    /// The prompt, with `{classes}` for the names.
    pub prefix: String,
    pub classes: Classes,
    pub loc: LocOptions,
    /// Leave out objects that evaluations leave out.
    pub skip_difficult: bool,
    /// Leave out boxes without any area inside the picture.
    pub drop_empty: bool,
}

impl Default for DetectOptions {
    fn default() -> Self {
        DetectOptions {
            prefix: "detect {classes}".to_owned(),
            classes: Classes::default(),
            loc: LocOptions::default(),
            skip_difficult: false,
            drop_empty: false,
        }
    }
}

impl DetectOptions {
    /// Whether the classes asked for are among those that the set has.
    pub(crate) fn check(&self, known: &[String]) -> Result<(), String> {
        let Classes::Only(wanted) = &self.classes else { return Ok(()) };
        match wanted.iter().find(|name| !known.is_empty() && !known.contains(name)) {
            Some(name) => Err(format!("there is no class \"{name}\", the set has: {}", known.join(", "))),
            None => Ok(()),
        }
    }
}

/// The texts of one picture, and what was done to its boxes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detected {
    pub prefix: String,
    pub suffix: String,
    /// Classes that the prompt names.
    pub num_classes: usize,
    /// Boxes in the answer.
    pub num_boxes: usize,
    /// Of these, boxes that stuck out of the picture.
    pub num_outside: usize,
    /// Of these, boxes without any area inside the picture.
    pub num_empty: usize,
    /// Boxes left out: difficult, empty or of a class that was not asked for.
    pub num_left_out: usize,
}

/// The prompt `detect a ; b` and the answer `<loc…><loc…><loc…><loc…> a ; …`; objects keep their order.
/// `known` are the classes of the set.
pub fn detect_texts(annotated: &Annotated, known: &[String], options: &DetectOptions) -> Detected {
    let mut detected = Detected::default();
    let [height, width] = annotated.extent;
    let mut present: Vec<&str> = Vec::new();
    let mut answers = Vec::new();
    for object in &annotated.objects {
        let is_wanted = match &options.classes {
            Classes::Only(wanted) => wanted.contains(&object.label),
            Classes::All | Classes::Present => true,
        };
        let is_empty = is_empty(object, annotated.extent);
        if !is_wanted || options.skip_difficult && object.is_difficult || options.drop_empty && is_empty {
            detected.num_left_out += 1;
            continue;
        }
        let [y1, x1, y2, x2] = object.corners;
        // Text files round fractions to six digits: that alone puts no box outside.
        let [slack_y, slack_x] = annotated.extent.map(|extent| 1e-6 * extent);
        let is_inside = y1 >= -slack_y && x1 >= -slack_x && y2 <= height + slack_y && x2 <= width + slack_x;
        detected.num_outside += usize::from(!is_inside);
        detected.num_empty += usize::from(is_empty);
        if !present.contains(&object.label.as_str()) {
            present.push(&object.label);
        }
        answers.push(options.loc.text(object.corners, annotated.extent, &object.label));
    }
    let named: Vec<&str> = match &options.classes {
        Classes::Only(wanted) => wanted.iter().map(String::as_str).collect(),
        Classes::All if !known.is_empty() => known.iter().map(String::as_str).collect(),
        Classes::All | Classes::Present => present,
    };
    let names: Vec<String> = named.iter().map(|name| label_text(name)).collect();
    detected.prefix = options.prefix.replace("{classes}", &names.join(" ; "));
    detected.num_classes = names.len();
    detected.num_boxes = answers.len();
    detected.suffix = answers.join(" ; ");
    detected
}

fn is_empty(object: &Object, [height, width]: [f64; 2]) -> bool {
    let [y1, x1, y2, x2] = object.corners;
    let inside = |low: f64, high: f64, extent: f64| high.min(extent) - low.max(0.0);
    // Written so that NaN counts as empty.
    !(inside(y1, y2, height) > 0.0 && inside(x1, x2, width) > 0.0)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::super::ImageFile;
    use super::*;

    fn scene() -> Annotated {
        let object =
            |corners, label: &str, is_difficult| Object { corners, label: label.into(), is_difficult };
        Annotated {
            id: "1".into(),
            extent: [100.0, 200.0],
            objects: vec![
                object([0.0, 0.0, 50.0, 200.0], "dog", false),
                object([-5.0, 10.0, 50.0, 20.0], "traffic; light", false),
                object([10.0, 200.0, 20.0, 230.0], "dog", true),
            ],
            ..Annotated::new(ImageFile::Bytes(Vec::new()))
        }
    }

    #[test]
    fn prompts_name_classes_and_boxes_are_counted() {
        let known = ["cat", "dog", "traffic; light"].map(str::to_owned);
        let loc = LocOptions { scale: crate::detection::LocScale::Bins1024, ..LocOptions::default() };
        let all = DetectOptions { loc, ..DetectOptions::default() };
        let texts = detect_texts(&scene(), &known, &all);
        assert_eq!(texts.prefix, "detect cat ; dog ; traffic, light");
        assert_eq!(
            texts.suffix,
            "<loc0000><loc0000><loc0512><loc1023> dog ; <loc0000><loc0051><loc0512><loc0102> traffic, light ; \
             <loc0102><loc1023><loc0205><loc1023> dog"
        );
        let counts = |t: &Detected| [t.num_boxes, t.num_outside, t.num_empty, t.num_left_out];
        assert_eq!(counts(&texts), [3, 2, 1, 0]);

        let present = DetectOptions { classes: Classes::Present, ..all.clone() };
        assert_eq!(detect_texts(&scene(), &known, &present).prefix, "detect dog ; traffic, light");
        let fixed = DetectOptions { prefix: "Detect it.".into(), skip_difficult: true, ..all.clone() };
        let texts = detect_texts(&scene(), &known, &fixed);
        assert_eq!((texts.prefix.as_str(), counts(&texts)), ("Detect it.", [2, 1, 0, 1]));
        let empty = DetectOptions { drop_empty: true, ..all.clone() };
        assert_eq!(counts(&detect_texts(&scene(), &known, &empty)), [2, 1, 0, 1]);
        let only = DetectOptions { classes: Classes::Only(vec!["cat".into()]), ..all };
        let texts = detect_texts(&scene(), &known, &only);
        assert_eq!((texts.prefix.as_str(), texts.suffix.as_str(), texts.num_left_out), ("detect cat", "", 3));
        let wrong = DetectOptions { classes: Classes::Only(vec!["cow".into()]), ..only };
        let message = "there is no class \"cow\", the set has: cat, dog, traffic; light";
        assert_eq!(wrong.check(&known).unwrap_err(), message);
    }
}
