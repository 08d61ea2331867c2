//! One example of the report: its picture, the question, the answers, and the boxes the answers speak of.

use maud::{Markup, html};

use super::draw::{LabelledBox, boxes_of};
use super::page::{Answer, Card, Picture};
use super::palette::{Palette, Rgb, ink_on};
use super::{text, units};
use crate::detection::LocOptions;

/// Pictures with a longer side up to this are shown with hard pixels.
const PIXELATED: u32 = 160;

/// Renders cards of one page: labels keep their colour, pictures have distinct ids.
pub struct Cards {
    loc: LocOptions,
    palette: Palette,
    pictures: usize,
}

/// One text about the picture: the reference, or an answer of the model.
struct Text<'a> {
    title: &'static str,
    text: &'a str,
    correct: Option<bool>,
    boxes: Vec<LabelledBox>,
    mask: Option<&'a Picture>,
}

impl Cards {
    pub fn new(loc: LocOptions) -> Self {
        Cards { loc, palette: Palette::default(), pictures: 0 }
    }

    pub fn render(&mut self, card: &Card) -> Markup {
        let after_title = if card.before.is_some() { "After training" } else { "Answer" };
        let masks = &card.masks;
        let reference = card.reference.as_deref().map(|text| ("Reference", text, None, &masks.reference));
        let before = answer_text("Before training", &card.before, &masks.before);
        let after = answer_text(after_title, &card.after, &masks.after);
        let texts = reference.into_iter().chain(before).chain(after);
        let text = |(title, text, correct, mask)| {
            let mask: &Option<Picture> = mask;
            Text { title, text, correct, boxes: boxes_of(text, self.loc), mask: mask.as_ref() }
        };
        let texts: Vec<Text> = texts.map(text).collect();
        let has_boxes = texts.iter().any(|text| !text.boxes.is_empty() || text.mask.is_some());
        html! {
            article.card.boxed[has_boxes] {
                header {
                    p.prompt { (card.prompt.trim_end()) }
                    p.faint {
                        (card.name)
                        @if let Some(score) = card.score { " · score " (units::number(score)) }
                        @if let Some(loss) = card.loss { " · loss " (units::number(loss)) }
                    }
                }
                @if has_boxes { (self.panels(card, &texts)) } @else { (self.plain(card, &texts)) }
            }
        }
    }

    /// The picture once, the texts beside it.
    fn plain(&mut self, card: &Card, texts: &[Text]) -> Markup {
        html! {
            div.plain {
                (self.picture(card, None, "", &[], None))
                dl.answers {
                    @for text in texts {
                        div { dt { (text.title) (mark(text.correct)) } dd { (words(text.text)) } }
                    }
                }
            }
        }
    }

    /// The picture once per text, with that text's boxes.
    fn panels(&mut self, card: &Card, texts: &[Text]) -> Markup {
        let id = self.pictures;
        html! {
            div.panels {
                @for (i, text) in texts.iter().enumerate() {
                    figure {
                        figcaption { (text.title) (mark(text.correct)) }
                        (self.picture(card, (i > 0).then_some(id), text.title, &text.boxes, text.mask))
                        p.words { (words(text.text)) }
                    }
                }
            }
        }
    }

    /// `again` names a picture that the page already holds; browsers draw it from there.
    pub(super) fn picture(
        &mut self,
        card: &Card,
        again: Option<usize>,
        what: &str,
        boxes: &[LabelledBox],
        mask: Option<&Picture>,
    ) -> Markup {
        let Picture { data_uri, width, height } = &card.picture;
        let id = again.unwrap_or(self.pictures);
        self.pictures += usize::from(again.is_none());
        let pixelated = *width.max(height) <= PIXELATED;
        let labels: Vec<&str> = boxes.iter().map(|labelled| labelled.label.as_str()).collect();
        let described = match (what, labels.as_slice()) {
            ("", _) => format!("picture of example {}", card.name),
            (_, []) => format!("{what}: picture of example {} without boxes", card.name),
            (_, labels) => {
                format!("{what}: picture of example {} with boxes: {}", card.name, labels.join(", "))
            }
        };
        html! {
            svg.picture.pixelated[pixelated] viewBox=(format!("0 0 {width} {height}")) role="img"
                aria-label=(described) style=(format!("aspect-ratio:{width}/{height}")) {
                @if again.is_some() {
                    use href=(format!("#picture{id}")) {}
                } @else {
                    image id=(format!("picture{id}")) width=(width) height=(height) href=(data_uri) {}
                }
                @if let Some(mask) = mask { image width=(width) height=(height) href=(mask.data_uri) {} }
                (self.overlay(*width, *height, boxes))
            }
        }
    }

    fn overlay(&mut self, width: u32, height: u32, boxes: &[LabelledBox]) -> Markup {
        let placed: Vec<([f32; 4], &str, Rgb)> = boxes
            .iter()
            .map(|labelled| {
                let corners = labelled.corners.pixels(width, height);
                (corners, labelled.label.as_str(), self.palette.colour(&labelled.label))
            })
            .collect();
        html! {
            @for ([y1, x1, y2, x2], _, colour) in &placed {
                @for (class, stroke) in [("hem", [0; 3]), ("box", *colour)] {
                    rect.(class) x=(px(*x1)) y=(px(*y1)) width=(px(x2 - x1)) height=(px(y2 - y1))
                        stroke=(hex(stroke)) {}
                }
            }
            @for (corners, label, colour) in &placed {
                @if !label.is_empty() { (tag(*corners, label, *colour, width as f32, height as f32)) }
            }
        }
    }
}

fn answer_text<'a>(
    title: &'static str,
    answer: &'a Option<Answer>,
    mask: &'a Option<Picture>,
) -> Option<(&'static str, &'a str, Option<bool>, &'a Option<Picture>)> {
    answer.as_ref().map(|answer| (title, answer.text.as_str(), answer.correct, mask))
}

/// The label above its box, or inside where there is no room.
fn tag([y1, x1, ..]: [f32; 4], label: &str, colour: Rgb, width: f32, height: f32) -> Markup {
    let size = width.max(height) * 0.048;
    // System fonts run a little wider than the one that measures.
    let length = text::width_of(label, size) * 1.08;
    let (box_width, box_height) = (length + size * 0.6, size * 1.25);
    let x = x1.min(width - box_width).max(0.0);
    let y = if y1 >= box_height { y1 - box_height } else { y1 };
    let y = y.min(height - box_height).max(0.0);
    html! {
        rect x=(px(x)) y=(px(y)) width=(px(box_width)) height=(px(box_height)) fill=(hex(colour)) {}
        // The length is given because the browser's font is not the one it was measured with.
        text x=(px(x + size * 0.3)) y=(px(y + size * 0.96)) font-size=(px(size)) textLength=(px(length))
            lengthAdjust="spacingAndGlyphs" fill=(hex(ink_on(colour))) { (label) }
    }
}

/// The text with its location and segmentation tokens set back.
pub(super) fn words(text: &str) -> Markup {
    if text.trim().is_empty() {
        return html! { span.faint { "(empty)" } };
    }
    let mut rest = text;
    let mut parts: Vec<(bool, &str)> = Vec::new();
    while !rest.is_empty() {
        let start = ["<loc", "<seg"].iter().filter_map(|token| rest.find(token)).min();
        let end = start.and_then(|start| rest[start..].find('>').map(|end| start + end + 1));
        let (Some(start), Some(end)) = (start, end) else {
            parts.push((false, rest));
            break;
        };
        parts.push((false, &rest[..start]));
        parts.push((true, &rest[start..end]));
        rest = &rest[end..];
    }
    html! {
        @for (is_token, part) in parts {
            // A token may end a line: 28 of them in a row must not widen a phone's page.
            @if is_token { span.token { (part) } wbr; } @else { (part) }
        }
    }
}

fn mark(correct: Option<bool>) -> Markup {
    html! {
        @match correct {
            Some(true) => { " " span.mark.right { "✓ correct" } }
            Some(false) => { " " span.mark.wrong { "✗ incorrect" } }
            None => {}
        }
    }
}

fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A coordinate in the picture's own pixels, of which a tiny picture has few.
pub(super) fn px(value: f32) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn tokens_are_set_back_and_nothing_is_lost() {
        let text = words("it is <loc0001><seg002> a < b <loc00").into_string();
        assert_eq!(
            text,
            "it is <span class=\"token\">&lt;loc0001&gt;</span><wbr><span class=\"token\">&lt;seg002&gt;</span><wbr> \
             a &lt; b &lt;loc00"
        );
        assert_eq!(words(" \n").into_string(), "<span class=\"faint\">(empty)</span>");
    }

    #[test]
    fn tags_stay_inside_the_picture() {
        for corners in [[0.0, 0.0, 5.0, 5.0], [90.0, 95.0, 100.0, 100.0], [-40.0, -40.0, 10.0, 10.0]] {
            let svg = tag(corners, "cat", [1, 2, 3], 100.0, 100.0).into_string();
            let attribute = |name: &str| -> f32 {
                let (_, rest) = svg.split_once(&format!(" {name}=\"")).unwrap();
                rest.split_once('"').unwrap().0.parse().unwrap()
            };
            assert!(attribute("x") >= 0.0 && attribute("x") + attribute("width") <= 100.01, "{svg}");
            assert!(attribute("y") >= 0.0 && attribute("y") + attribute("height") <= 100.01, "{svg}");
        }
    }
}
