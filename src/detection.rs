//! PaliGemma's detection text: `<loc0100><loc0200><loc0500><loc0600> cat ; <loc…>… dog`.
//!
//! Four location tokens give one box as y1 x1 y2 x2 in bins of the picture, whatever its resolution. Only
//! `<loc0000>` to `<loc1023>` are tokens, so encoding clamps: a box that touches the far edge would otherwise
//! be written with `<loc1024>`, which the tokenizer splits into characters.
//!
//! Code bases differ in the scale. big_vision writes `round(fraction * 1023)`, computed in single precision, and
//! reads `/ 1023` (`pp/proj/paligemma/segmentation.py`); most example scripts use 1024 and do not clamp.
//! [`LocOptions`] names both.

use std::fmt;
use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// The last location token, `<loc1023>`.
pub const MAX_LOC: u16 = 1023;

/// Which number stands for the far edge of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum LocScale {
    /// `fraction * 1023`, as big_vision.
    #[default]
    Last1023,
    /// `fraction * 1024`, as most example scripts; the far edge itself is clamped to 1023.
    Bins1024,
}

impl From<LocScale> for u16 {
    fn from(scale: LocScale) -> u16 {
        match scale {
            LocScale::Last1023 => 1023,
            LocScale::Bins1024 => 1024,
        }
    }
}

impl TryFrom<u16> for LocScale {
    type Error = String;

    fn try_from(value: u16) -> Result<Self, String> {
        match value {
            1023 => Ok(LocScale::Last1023),
            1024 => Ok(LocScale::Bins1024),
            _ => Err(format!("loc scale expects 1023 or 1024, got {value}")),
        }
    }
}

/// How a coordinate between two bins goes to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LocRound {
    /// To the nearest bin, halves to the even one as numpy, Python and TensorFlow round.
    #[default]
    #[serde(alias = "nearest")]
    #[value(alias = "nearest")]
    HalfEven,
    /// To the nearest bin, halves up.
    HalfUp,
    /// To the bin below.
    Floor,
}

impl LocRound {
    /// Every word, as configs and the command line spell them.
    pub const WORDS: [&str; 3] = ["half-even", "half-up", "floor"];

    pub const fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// How coordinates become location tokens; the config's `loc: {scale: 1023, round: half-even, clamp: true}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocOptions {
    pub scale: LocScale,
    pub round: LocRound,
    /// Whether coordinates outside of `0..=1023` go to its ends. Without it [`text`](Self::text) writes what
    /// is no token (`<loc1024>`, `<loc-024>`), as the example scripts do.
    pub clamp: bool,
}

impl Default for LocOptions {
    fn default() -> Self {
        LocOptions { scale: LocScale::default(), round: LocRound::default(), clamp: true }
    }
}

impl LocOptions {
    /// The bin of `value` in a picture that is `extent` long (both in pixels, or a fraction with 1.0).
    /// Always within `0..=1023`: coordinates outside the picture go to its edge, NaN to 0.
    pub fn encode(self, value: f64, extent: f64) -> u16 {
        (self.bin(value, extent) as u16).min(MAX_LOC)
    }

    /// As [`encode`](Self::encode), before clamping.
    fn bin(self, value: f64, extent: f64) -> f64 {
        let bin = match self.scale {
            // The reference stores fractions in single precision and multiplies there.
            LocScale::Last1023 => f64::from((value / extent) as f32 * 1023.0),
            LocScale::Bins1024 => value / extent * 1024.0,
        };
        match self.round {
            LocRound::HalfEven => bin.round_ties_even(),
            LocRound::HalfUp => (bin + 0.5).floor(),
            LocRound::Floor => bin.floor(),
        }
    }

    /// The text of one object with corners y1 x1 y2 x2 in a picture of extent `[height, width]`: the only place
    /// that heeds [`clamp`](Self::clamp).
    pub fn text(self, corners: [f64; 4], [height, width]: [f64; 2], label: &str) -> String {
        if self.clamp {
            return Detection::from_pixels(corners, height, width, label, self).to_string();
        }
        let extents = [height, width, height, width];
        let bins = corners.into_iter().zip(extents).map(|(value, extent)| self.bin(value, extent) as i64);
        let mut text: String = bins.map(|bin| format!("<loc{bin:04}>")).collect();
        push_label(&mut text, label);
        text
    }

    /// The fraction of the picture's extent at which a bin lies.
    pub fn decode(self, bin: u16) -> f64 {
        f64::from(bin) / f64::from(u16::from(self.scale))
    }
}

/// One labelled box in location bins. The label may be empty: referring expressions are answered by a box
/// alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Detection {
    pub y1: u16,
    pub x1: u16,
    pub y2: u16,
    pub x2: u16,
    pub label: String,
}

impl Detection {
    /// From corners y1 x1 y2 x2 in pixels of a picture of `height` and `width`.
    pub fn from_pixels(
        corners: [f64; 4],
        height: f64,
        width: f64,
        label: impl Into<String>,
        options: LocOptions,
    ) -> Self {
        let [y1, x1, y2, x2] = corners;
        Detection {
            y1: options.encode(y1, height),
            x1: options.encode(x1, width),
            y2: options.encode(y2, height),
            x2: options.encode(x2, width),
            label: label.into(),
        }
    }

    /// Corners y1 x1 y2 x2 as fractions of the picture.
    pub fn fractions(&self, options: LocOptions) -> [f64; 4] {
        [self.y1, self.x1, self.y2, self.x2].map(|bin| options.decode(bin))
    }
}

impl fmt::Display for Detection {
    /// The text of one object. Bins above 1023 are clamped; a `;` in the label, which would end the object,
    /// is written as a comma.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bin in [self.y1, self.x1, self.y2, self.x2] {
            write!(f, "<loc{:04}>", bin.min(MAX_LOC))?;
        }
        let mut label = String::new();
        push_label(&mut label, &self.label);
        f.write_str(&label)
    }
}

/// A label as it stands in prompts and answers: a `;`, which separates objects, is written as a comma, and
/// line breaks, which end prompts, as blanks.
pub fn label_text(label: &str) -> String {
    label.trim().replace(';', ",").replace(['\n', '\r'], " ")
}

fn push_label(text: &mut String, label: &str) {
    let label = label_text(label);
    if !label.is_empty() {
        text.push(' ');
        text.push_str(&label);
    }
}

/// What [`parse_detections`] found in a text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Detections {
    pub objects: Vec<Detection>,
    /// Stretches of text that are not objects: words without a box, a number of location tokens that is not
    /// a multiple of four, numbers that are not tokens (`<loc1024>`), boxes with corners the wrong way round.
    pub invalid: usize,
}

/// Reads what a model, or a data set, wrote. Nothing is an error: whatever is not an object is counted.
///
/// Objects are separated by `;` or a line's end, but a new run of location tokens also begins an object.
/// Segmentation tokens after a box are skipped.
pub fn parse_detections(text: &str) -> Detections {
    let token = |digits: &str| {
        let is_token = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|&bin| is_token && bin <= MAX_LOC)
    };
    let (found, invalid) = parse(text, token);
    let objects = found.into_iter().map(|([y1, x1, y2, x2], label)| Detection { y1, x1, y2, x2, label });
    Detections { objects: objects.collect(), invalid }
}

/// As [`parse_detections`], for texts of data sets that were written without clamping: `<loc1024>` and
/// `<loc-024>` count as the bins that they mean. Gives the bins y1 x1 y2 x2 with the label of each object, and
/// the number of stretches that are not objects.
pub fn parse_unclamped(text: &str) -> (Vec<([i32; 4], String)>, usize) {
    parse(text, |digits| digits.parse().ok().filter(|_| digits.len() <= 6))
}

/// Objects by their bins, and how many stretches of text are not objects. `bin_of` reads what stands between
/// `<loc` and `>`.
fn parse<T: Copy + PartialOrd>(
    text: &str,
    bin_of: impl Fn(&str) -> Option<T>,
) -> (Vec<([T; 4], String)>, usize) {
    // Anything that looks like a location token, so that `<loc1024>` and `<loc-24>` are seen and refused.
    static LOC: LazyLock<Regex> = LazyLock::new(|| regex(r"<loc([^<>;\n]*)>"));
    static SEG: LazyLock<Regex> = LazyLock::new(|| regex(r"<seg\d{3}>"));
    let (mut objects, mut invalid) = (Vec::new(), 0);
    for piece in text.split([';', '\n']) {
        let piece = SEG.replace_all(piece, " ");
        let tokens: Vec<_> = LOC.captures_iter(&piece).collect();
        let ends = |i: usize| tokens[i].get_match().end();
        let text_after = |i: usize| {
            let next = if i + 1 < tokens.len() { tokens[i + 1].get_match().start() } else { piece.len() };
            piece[ends(i)..next].trim()
        };
        let leading = tokens.first().map_or(piece.len(), |token| token.get_match().start());
        if !piece[..leading].trim().is_empty() {
            invalid += 1;
        }
        let mut run: Vec<Option<T>> = Vec::new();
        for (i, token) in tokens.iter().enumerate() {
            run.push(bin_of(&token[1]));
            let label = text_after(i);
            if !label.is_empty() || i + 1 == tokens.len() {
                invalid += take_run(&mut objects, &run, label);
                run.clear();
            }
        }
    }
    (objects, invalid)
}

/// The inverse of [`parse_detections`]: objects joined by ` ; `.
///
/// ```
/// use paligemma::detection::{Detection, LocOptions, format_detections, parse_detections};
/// let cat = Detection::from_pixels([10.0, 0.0, 64.0, 32.0], 64.0, 64.0, "cat", LocOptions::default());
/// let text = format_detections(&[cat.clone()]);
/// assert_eq!(text, "<loc0160><loc0000><loc1023><loc0512> cat");
/// assert_eq!(parse_detections(&text).objects, [cat]);
/// ```
pub fn format_detections(objects: &[Detection]) -> String {
    let mut text = String::new();
    for (i, object) in objects.iter().enumerate() {
        let separator = if i == 0 { "" } else { " ; " };
        write!(text, "{separator}{object}").expect("writing to a string does not fail");
    }
    text
}

/// Location tokens in a row, with the label after them. Several boxes may share a run; the label is the last
/// one's. Gives the number of what is not an object.
fn take_run<T: Copy + PartialOrd>(
    objects: &mut Vec<([T; 4], String)>,
    run: &[Option<T>],
    label: &str,
) -> usize {
    if !run.len().is_multiple_of(4) {
        return 1;
    }
    let (boxes, mut invalid) = (run.len() / 4, 0);
    for (i, corners) in run.chunks_exact(4).enumerate() {
        match *corners {
            [Some(y1), Some(x1), Some(y2), Some(x2)] if y1 <= y2 && x1 <= x2 => {
                let label = if i + 1 == boxes { label.to_owned() } else { String::new() };
                objects.push(([y1, x1, y2, x2], label));
            }
            _ => invalid += 1,
        }
    }
    invalid
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant that the tests compile")
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn object(y1: u16, x1: u16, y2: u16, x2: u16, label: &str) -> Detection {
        Detection { y1, x1, y2, x2, label: label.into() }
    }

    /// One picture of the recording: its boxes as y1 x1 y2 x2 pixels with their categories.
    fn boxes(image: &Value) -> (Vec<[f64; 4]>, Vec<String>, f64, f64) {
        let number = |v: &Value| v.as_f64().unwrap();
        let corners = image["bbox_xywh"].as_array().unwrap().iter();
        let corners = corners.map(|xywh| {
            let [x, y, w, h] = [0, 1, 2, 3].map(|i| number(&xywh[i]));
            [y, x, y + h, x + w]
        });
        let labels = image["categories"].as_array().unwrap().iter();
        let labels = labels.map(|label| label.as_str().unwrap().to_owned());
        (corners.collect(), labels.collect(), number(&image["height"]), number(&image["width"]))
    }

    fn recording() -> Vec<Value> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/data");
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
            let mut recording: Value = serde_json::from_str(&text).unwrap();
            serde_json::from_value::<Vec<Value>>(recording["images"].take()).unwrap()
        };
        [read("expected_detection_strings.json"), read("expected_detection.json")].concat()
    }

    #[test]
    fn scale_1024_writes_the_example_scripts_strings_clamped() {
        let options = LocOptions { scale: LocScale::Bins1024, ..LocOptions::default() };
        let mut clamped = 0;
        for image in recording() {
            let (corners, labels, height, width) = boxes(&image);
            let objects: Vec<_> = corners
                .iter()
                .zip(&labels)
                .map(|(&corners, label)| Detection::from_pixels(corners, height, width, label, options))
                .collect();
            let text = format_detections(&objects);
            assert_eq!(text, image["seed_rule_clamped"], "{}", image["file"]);
            assert_eq!(parse_detections(&text), Detections { objects, invalid: 0 });

            // The unclamped text has words that are not tokens: each spoils its box, and only its box.
            let bad = |numbers: &Value| {
                numbers.as_array().unwrap().iter().any(|v| !(0..1024).contains(&v.as_i64().unwrap()))
            };
            let bad = image["values_y1x1y2x2"].as_array().unwrap().iter().filter(|v| bad(v)).count();
            let raw = LocOptions { clamp: false, ..options };
            let boxes = corners.iter().zip(&labels);
            let texts: Vec<_> =
                boxes.map(|(&corners, label)| raw.text(corners, [height, width], label)).collect();
            assert_eq!(texts.join(" ; "), image["seed_rule"], "{}", image["file"]);
            let unclamped = parse_detections(image["seed_rule"].as_str().unwrap());
            assert_eq!((unclamped.objects.len(), unclamped.invalid), (corners.len() - bad, bad));
            clamped += bad;
        }
        assert!(clamped > 10, "the recording no longer has boxes at the edges");
    }

    #[test]
    fn scale_1023_writes_big_visions_tokens() {
        let mut compared = 0;
        for image in recording() {
            let (corners, _, height, width) = boxes(&image);
            for (corners, expected) in corners.iter().zip(image["big_vision_refcoco_loc"].as_array().unwrap())
            {
                // The reference's op has no answer for a box that it cannot crop.
                if expected.as_str().unwrap().starts_with("<loc") {
                    let object = Detection::from_pixels(*corners, height, width, "", LocOptions::default());
                    assert_eq!(object.to_string(), expected.as_str().unwrap());
                    compared += 1;
                }
            }
        }
        assert!(compared > 80, "only {compared} boxes compared");
    }

    #[test]
    fn rounding_and_clamping() {
        let nearest = LocOptions { scale: LocScale::Bins1024, ..LocOptions::default() };
        let half_up = LocOptions { round: LocRound::HalfUp, ..nearest };
        let floor = LocOptions { round: LocRound::Floor, ..nearest };
        assert_eq!(nearest.encode(0.5, 1024.0), 0, "halves go to even");
        assert_eq!(nearest.encode(1.5, 1024.0), 2);
        assert_eq!(half_up.encode(0.5, 1024.0), 1);
        assert_eq!(floor.encode(1.99, 1024.0), 1);
        for options in [nearest, half_up, floor, LocOptions::default()] {
            assert_eq!(options.encode(64.0, 64.0), 1023);
            assert_eq!(options.encode(1e30, 64.0), 1023);
            assert_eq!(options.encode(-3.0, 64.0), 0);
            assert_eq!(options.encode(f64::NAN, 64.0), 0);
            assert_eq!(options.encode(3.0, 0.0), 1023);
        }
        let raw = LocOptions { clamp: false, ..nearest };
        let text = raw.text([-1.5, 0.0, 64.0, 32.0], [64.0, 64.0], "a;\nb");
        assert_eq!(text, "<loc-024><loc0000><loc1024><loc0512> a, b");
        assert_eq!(object(2000, 0, 1024, 5, "a").to_string(), "<loc1023><loc0000><loc1023><loc0005> a");
        assert_eq!(LocOptions::default().decode(1023), 1.0);
        assert_eq!(nearest.decode(512), 0.5);
    }

    #[test]
    fn junk_is_counted_and_does_not_hide_its_neighbours() {
        let cat = || object(100, 200, 500, 600, "cat");
        let dog = || object(1, 2, 3, 4, "dog");
        let cases = [
            ("", vec![], 0),
            (" ; ;\n", vec![], 0),
            ("no cats here", vec![], 1),
            (
                "<loc0100><loc0200><loc0500><loc0600> cat ; <loc0001><loc0002><loc0003><loc0004> dog",
                vec![cat(), dog()],
                0,
            ),
            (
                "<loc0100> <loc0200><loc0500><loc0600>cat\n<loc0001><loc0002><loc0003><loc0004> dog ;",
                vec![cat(), dog()],
                0,
            ),
            (
                "<loc0100><loc0200><loc0500><loc0600> cat <loc0001><loc0002><loc0003><loc0004> dog",
                vec![cat(), dog()],
                0,
            ),
            ("it is: <loc0100><loc0200><loc0500><loc0600> cat", vec![cat()], 1),
            ("<loc0100><loc0200><loc0500> cat ; <loc0001><loc0002><loc0003><loc0004> dog", vec![dog()], 1),
            ("<loc0500><loc0200><loc0100><loc0600> upside down", vec![], 1),
            ("<loc0100><loc0200><loc0500><loc1024> cat", vec![], 1),
            ("<loc-024><loc0200><loc0500><loc0600> cat", vec![], 1),
            ("<loc+100><loc0200><loc0500><loc0600> cat", vec![], 1),
            ("<loc100><loc0200><loc0500><loc0600> cat", vec![], 1),
            ("<loc0100><loc0200><loc0500><loc0600><seg001><seg127> cat", vec![cat()], 0),
            ("<loc0100><loc0200><loc0500><loc0600>", vec![object(100, 200, 500, 600, "")], 0),
            (
                "<loc0001><loc0002><loc0003><loc0004><loc0001><loc0002><loc0003><loc0004> dog",
                vec![object(1, 2, 3, 4, ""), dog()],
                0,
            ),
            ("<loc0100><loc0200><loc05", vec![], 1),
        ];
        for (text, objects, invalid) in cases {
            assert_eq!(parse_detections(text), Detections { objects, invalid }, "{text:?}");
        }
        let text = "x ; <loc-024><loc0000><loc0512><loc1024> cat ; <loc0001><loc0002>";
        assert_eq!(parse_unclamped(text), (vec![([-24, 0, 512, 1024], "cat".to_owned())], 2));
    }

    #[test]
    fn options_are_read_from_config() {
        let options: LocOptions = serde_yaml::from_str("{scale: 1024, round: floor}").unwrap();
        let expected = LocOptions { scale: LocScale::Bins1024, round: LocRound::Floor, clamp: true };
        assert_eq!(options, expected);
        for (text, round) in [("nearest", LocRound::HalfEven), ("half-up", LocRound::HalfUp)] {
            let options: LocOptions = serde_yaml::from_str(&format!("{{round: {text}}}")).unwrap();
            assert_eq!(options.round, round);
        }
        assert_eq!(serde_yaml::from_str::<LocOptions>("{}").unwrap(), LocOptions::default());
        let error = serde_yaml::from_str::<LocOptions>("{scale: 1000}").unwrap_err().to_string();
        assert!(error.contains("loc scale expects 1023 or 1024, got 1000"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_parses(text in r"(<loc[0-9]{3,5}>|<seg[0-9]{3}>|<|>|;|[a-z é\n]){0,30}") {
            let found = parse_detections(&text);
            for object in &found.objects {
                prop_assert!(object.y2 <= MAX_LOC && object.x2 <= MAX_LOC);
            }
            let printed = format_detections(&found.objects);
            prop_assert_eq!(parse_detections(&printed).objects.len(), found.objects.len());
        }

        #[test]
        fn boxes_anywhere_survive_the_round_trip(
            ys in [-2000f64..4000.0, -2000f64..4000.0],
            xs in [-2000f64..4000.0, -2000f64..4000.0],
            label in "[a-zé]{1,8}( [a-z]{1,8})?",
        ) {
            let corners = [ys[0].min(ys[1]), xs[0].min(xs[1]), ys[0].max(ys[1]), xs[0].max(xs[1])];
            let object = Detection::from_pixels(corners, 480.0, 640.0, label, LocOptions::default());
            let text = format_detections(&[object.clone(), object.clone()]);
            prop_assert_eq!(parse_detections(&text), Detections { objects: vec![object.clone(), object], invalid: 0 });
        }
    }
}
