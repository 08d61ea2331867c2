//! Pictures with boxes, labels and a caption, as `paligemma predict --draw` writes them.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::palette::{Palette, ink_on};
use super::text;
use crate::detection::{LocOptions, parse_detections};

/// Pictures with a longer side below this are enlarged by a whole factor, so that labels can be read.
const MIN_SIDE: u32 = 320;
/// Caption colours: near black on near white.
const PAPER: Rgb<u8> = Rgb([0xfa, 0xfa, 0xf8]);
const INK: Rgb<u8> = Rgb([0x1f, 0x23, 0x28]);

/// Corners of a box as y1 x1 y2 x2, PaliGemma's order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Corners {
    /// In pixels of the picture, from its upper left corner.
    Pixels([f32; 4]),
    /// In fractions of its height and width.
    Fractions([f32; 4]),
}

impl Corners {
    /// As pixels of a picture of `width` and `height`.
    pub fn pixels(self, width: u32, height: u32) -> [f32; 4] {
        match self {
            Corners::Pixels(corners) => corners,
            Corners::Fractions([y1, x1, y2, x2]) => {
                let (w, h) = (width as f32, height as f32);
                [y1 * h, x1 * w, y2 * h, x2 * w]
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct LabelledBox {
    pub corners: Corners,
    /// May be empty; then the box has no tag.
    pub label: String,
}

/// The boxes in a model's answer; none when it is plain text.
pub fn boxes_of(text: &str, options: LocOptions) -> Vec<LabelledBox> {
    let objects = parse_detections(text).objects.into_iter();
    let labelled = objects.map(|object| LabelledBox {
        corners: Corners::Fractions(object.fractions(options).map(|v| v as f32)),
        label: object.label,
    });
    labelled.collect()
}

/// The picture with its boxes, and the caption in a band below it.
///
/// Line widths and text follow the picture's size; a small picture is enlarged by a whole factor, without
/// smoothing. Boxes may lie partly outside. An empty caption adds no band.
pub fn draw_prediction(image: &RgbImage, boxes: &[LabelledBox], caption: &str) -> RgbImage {
    let longer = image.width().max(image.height());
    if longer == 0 {
        return image.clone();
    }
    let enlarge = if longer < MIN_SIDE { MIN_SIDE.div_ceil(longer) } else { 1 };
    let (width, height) = (image.width() * enlarge, image.height() * enlarge);
    let mut canvas = imageops::resize(image, width, height, FilterType::Nearest);

    let longer = (longer * enlarge) as f32;
    let line = (longer / 240.0).round().max(2.0);
    let px = (longer / 28.0).clamp(14.0, 96.0).round();
    let mut palette = Palette::default();
    let placed: Vec<_> = boxes
        .iter()
        .map(|labelled| {
            let corners = labelled.corners.pixels(image.width(), image.height()).map(|v| v * enlarge as f32);
            (corners, labelled.label.as_str(), palette.colour(&labelled.label))
        })
        .collect();
    for (corners, _, colour) in &placed {
        // A dark hem keeps light colours visible on light pictures.
        draw_outline(&mut canvas, *corners, line + 2.0, Rgb([0; 3]), 0.35);
        draw_outline(&mut canvas, *corners, line, Rgb(*colour), 1.0);
    }
    // Tags last: no outline runs through a label.
    for (corners, label, colour) in &placed {
        draw_tag(&mut canvas, *corners, label, px, line, *colour);
    }
    with_caption(canvas, caption, px)
}

/// A rectangle's outline of width `line`, centred on its edges, with exact coverage of the pixels it cuts.
fn draw_outline(image: &mut RgbImage, corners: [f32; 4], line: f32, colour: Rgb<u8>, opacity: f32) {
    let [y1, x1, y2, x2] = ordered(corners);
    if ![y1, x1, y2, x2].iter().all(|v| v.is_finite()) {
        return;
    }
    let half = line / 2.0;
    let outer = [y1 - half, x1 - half, y2 + half, x2 + half];
    let inner = [y1 + half, x1 + half, y2 - half, x2 - half];
    let rows = pixels_between(outer[0], outer[2], image.height());
    let columns = pixels_between(outer[1], outer[3], image.width());
    for y in rows {
        for x in columns.clone() {
            let coverage = coverage_of(outer, x, y) - coverage_of(inner, x, y);
            if coverage > 0.0 {
                text::blend(image, i64::from(x), i64::from(y), colour, coverage * opacity);
            }
        }
    }
}

/// The part of pixel (`x`, `y`) that lies inside a rectangle.
fn coverage_of([y1, x1, y2, x2]: [f32; 4], x: u32, y: u32) -> f32 {
    let overlap = |from: f32, to: f32, at: u32| (to.min(at as f32 + 1.0) - from.max(at as f32)).max(0.0);
    overlap(x1, x2, x) * overlap(y1, y2, y)
}

fn pixels_between(from: f32, to: f32, extent: u32) -> std::ops::Range<u32> {
    (from.floor().max(0.0) as u32).min(extent)..(to.ceil().max(0.0) as u32).min(extent)
}

/// The label on a filled rectangle: on top of the box where there is room, else inside its upper edge.
fn draw_tag(image: &mut RgbImage, corners: [f32; 4], label: &str, px: f32, line: f32, colour: [u8; 3]) {
    let [y1, x1, ..] = ordered(corners);
    if label.is_empty() || !(y1.is_finite() && x1.is_finite()) {
        return;
    }
    let pad = (px * 0.3).round();
    let width = text::width_of(label, px).ceil() + 2.0 * pad;
    let height = text::line_height(px);
    let left = (x1 - line / 2.0).min(image.width() as f32 - width).max(0.0).round();
    let above = y1 - line / 2.0 - height;
    let top = if above >= 0.0 { above } else { y1 + line / 2.0 };
    let top = top.min(image.height() as f32 - height).max(0.0).round();
    for y in pixels_between(top, top + height, image.height()) {
        for x in pixels_between(left, left + width, image.width()) {
            image.put_pixel(x, y, Rgb(colour));
        }
    }
    let text_top = top + ((height - px) / 2.0).round();
    text::draw(image, label, left + pad, text_top, px, Rgb(ink_on(colour)));
}

fn with_caption(image: RgbImage, caption: &str, px: f32) -> RgbImage {
    let pad = (px * 0.8).round();
    let lines = text::wrap(caption.trim(), px, (image.width() as f32 - 2.0 * pad).max(px));
    if lines.is_empty() {
        return image;
    }
    let band = 2.0 * pad + lines.len() as f32 * text::line_height(px);
    let mut page = RgbImage::from_pixel(image.width(), image.height() + band as u32, PAPER);
    imageops::replace(&mut page, &image, 0, 0);
    for (i, line) in lines.iter().enumerate() {
        let y = image.height() as f32 + pad + i as f32 * text::line_height(px);
        text::draw(&mut page, line, pad, y, px, INK);
    }
    page
}

fn ordered([y1, x1, y2, x2]: [f32; 4]) -> [f32; 4] {
    [y1.min(y2), x1.min(x2), y1.max(y2), x1.max(x2)]
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn labelled(corners: Corners, label: &str) -> LabelledBox {
        LabelledBox { corners, label: label.into() }
    }

    fn grey(width: u32, height: u32) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([128; 3]))
    }

    fn first_colour() -> Rgb<u8> {
        Rgb(Palette::default().colour(""))
    }

    #[test]
    fn outlines_lie_on_the_edges_of_the_box() {
        let drawn =
            draw_prediction(&grey(400, 360), &[labelled(Corners::Pixels([100., 50., 200., 150.]), "")], "");
        assert_eq!(drawn.dimensions(), (400, 360));
        for (x, y) in [(50, 150), (149, 150), (100, 100), (100, 199), (49, 150), (150, 150)] {
            assert_eq!(*drawn.get_pixel(x, y), first_colour(), "at {x},{y}");
        }
        for (x, y) in [(100, 150), (40, 150), (100, 90), (160, 160)] {
            assert_eq!(*drawn.get_pixel(x, y), Rgb([128; 3]), "at {x},{y}");
        }
        let fractions = Corners::Fractions([100. / 360., 50. / 400., 200. / 360., 150. / 400.]);
        let same = draw_prediction(&grey(400, 360), &[labelled(fractions, "")], "");
        let differs = drawn.iter().zip(same.iter()).any(|(a, b)| a.abs_diff(*b) > 1);
        assert!(!differs, "fractional and pixel corners draw the same");
    }

    #[test]
    fn half_covered_pixels_are_mixed() {
        let mut image = RgbImage::from_pixel(20, 20, Rgb([0; 3]));
        draw_outline(&mut image, [5.5, 5.5, 15.5, 15.5], 2.0, Rgb([200, 100, 50]), 1.0);
        let row: Vec<u8> = (3..9).map(|x| image.get_pixel(x, 10).0[0]).collect();
        assert_eq!(row, [0, 100, 200, 100, 0, 0]);
        assert_eq!(image.get_pixel(4, 4).0[0], 50, "a quarter of the corner pixel");
    }

    #[test]
    fn small_pictures_are_enlarged_and_captions_wrap_below() {
        let caption = "a small square with a caption that needs more than one line to be told";
        let drawn = draw_prediction(&grey(32, 24), &[], caption);
        assert_eq!(drawn.width(), 320);
        let lines = text::wrap(caption, 14.0, 320.0 - 22.0).len() as u32;
        assert!(lines >= 2);
        assert_eq!(drawn.height(), 240 + 22 + lines * 17);
        assert_eq!(*drawn.get_pixel(319, 239), Rgb([128; 3]));
        assert_eq!(*drawn.get_pixel(319, 240), PAPER);
        assert!(drawn.enumerate_pixels().any(|(_, y, pixel)| y > 250 && *pixel == INK));
    }

    #[test]
    fn tags_stay_inside_the_picture() {
        let boxes = [[0., 0., 40., 40.], [-50., 380., 500., 900.], [390., 10., 400., 20.]];
        for corners in boxes {
            let drawn =
                draw_prediction(&grey(400, 400), &[labelled(Corners::Pixels(corners), "licence plate")], "");
            let mut palette = Palette::default();
            let colour = Rgb(palette.colour("licence plate"));
            let filled = drawn.pixels().filter(|&&pixel| pixel == colour).count();
            assert!(filled > 800, "{corners:?}: the tag is visible, {filled} pixels");
        }
    }

    #[test]
    fn odd_boxes_and_pictures_do_no_harm() {
        let odd = [
            Corners::Pixels([f32::NAN, 0., 1., 1.]),
            Corners::Fractions([0., f32::NEG_INFINITY, 1., f32::INFINITY]),
            Corners::Pixels([1e30, 1e30, -1e30, -1e30]),
            Corners::Pixels([10., 10., 10., 10.]),
        ];
        let boxes: Vec<_> = odd.into_iter().map(|corners| labelled(corners, "odd")).collect();
        assert_eq!(draw_prediction(&grey(330, 4), &boxes, "").dimensions(), (330, 4));
        assert_eq!(draw_prediction(&grey(0, 0), &boxes, "caption").dimensions(), (0, 0));
        assert_eq!(draw_prediction(&grey(1, 1), &boxes, "i").width(), 320);
    }

    #[test]
    fn boxes_are_read_from_answers() {
        let boxes = boxes_of("<loc0000><loc0000><loc1023><loc1023> cat ; junk", LocOptions::default());
        assert_eq!(boxes, [labelled(Corners::Fractions([0.0, 0.0, 1.0, 1.0]), "cat")]);
        assert!(boxes_of("a cat on a mat", LocOptions::default()).is_empty());
    }
}
