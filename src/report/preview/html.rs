//! The preview as a page of its own.

use std::path::Path;

use maud::{Markup, html};

use super::{Example, Lengths, Part, Preview, Role, runs};
use crate::detection::LocOptions;
use crate::report::card::{Cards, px, words};
use crate::report::draw::boxes_of;
use crate::report::page::{Card, Marks, Picture, document, section, summary};
use crate::report::{Error, write_atomically};

/// Writes the page; readers see the old file or the new one, never a part.
///
/// # Errors
/// When the file cannot be written or a picture is empty.
pub fn write(path: &Path, preview: &Preview, loc: LocOptions) -> Result<(), Error> {
    write_atomically(path, render(preview, loc)?.as_bytes())
}

fn render(preview: &Preview, loc: LocOptions) -> Result<String, Error> {
    let mut cards = Cards::new(loc);
    let parts = preview.parts.iter().map(|part| render_part(part, loc, &mut cards));
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let facts: Vec<(String, String)> =
        preview.parts.iter().map(|part| (part.name.clone(), part.source.clone())).collect();
    let config = Path::new(&preview.config)
        .file_name()
        .map_or(preview.config.as_str().into(), |name| name.to_string_lossy());
    let body = html! {
        header {
            h1 { "What " (config) " feeds the model" }
            (summary(&facts))
            div.legend {
                @for role in Role::ALL {
                    span { span.tok.(role.word()) { (role.word()) } " " (role.meaning()) }
                }
            }
        }
        main { @for part in &parts { (part) } }
    };
    Ok(document(&format!("{config} · preview"), include_str!("preview.css"), body))
}

fn render_part(part: &Part, loc: LocOptions, cards: &mut Cards) -> Result<Markup, Error> {
    let examples = part.examples.iter().map(|example| render_example(example, loc, cards));
    let examples = examples.collect::<Result<Vec<_>, _>>()?;
    let order = if part.is_shuffled { " · shuffled, the first of a training" } else { "" };
    let content = html! {
        @if part.num_failed > 0 {
            p.failed { (part.num_failed) " rows cannot be preprocessed." }
        }
        (histogram(&part.lengths))
        div.cards { @for example in &examples { (example) } }
    };
    Ok(section(&format!("{}{order}", part.name), true, content))
}

fn render_example(example: &Example, loc: LocOptions, cards: &mut Cards) -> Result<Markup, Error> {
    let boxes = boxes_of(&example.answer, loc);
    let picture = match &example.picture {
        Some(picture) => {
            let card = Card {
                name: example.name.clone(),
                picture: Picture::from_rgb(picture)?,
                prompt: example.prompt.clone(),
                reference: None,
                before: None,
                after: None,
                loss: None,
                score: None,
                masks: Marks::default(),
            };
            cards.picture(&card, None, "", &boxes, None)
        }
        None => html! {},
    };
    Ok(html! {
        article.card {
            header {
                p.prompt { (example.prompt.trim_end()) }
                p.faint { (example.name) @if !example.image.is_empty() { " · " (example.image) } }
            }
            div.plain {
                div { (picture) }
                dl.answers {
                    @if !example.answer.is_empty() { div { dt { "Answer" } dd { (words(&example.answer)) } } }
                    @if example.num_boxes > 0 { div { dt { "Boxes" } dd { (example.num_boxes) } } }
                }
            }
            @if !example.problems.is_empty() {
                ul.problems { @for problem in &example.problems { li { (problem) } } }
            }
            div.tokens {
                @for (role, run) in runs(&example.tokens) {
                    @if role == Role::Padding {
                        span.tok.padding { "padding × " (run.len()) }
                    } @else {
                        @for token in run { span.tok.(role.word()) { (token.text) } }
                    }
                }
            }
        }
    })
}

const WIDTH: f32 = 720.0;
const HEIGHT: f32 = 150.0;
const BOTTOM: f32 = 22.0;
const BARS: usize = 60;

/// How many rows have how many tokens, with a line where there is no more room.
fn histogram(lengths: &Lengths) -> Markup {
    let bars = lengths.bars(BARS);
    let Some((&(first, ..), &(last, span, _))) = bars.first().zip(bars.last()) else { return html! {} };
    let end = (last + span).max(lengths.room.map_or(0, |room| room + 1));
    let x = |length: usize| {
        (length - first.min(length)) as f32 / (end - first).max(1) as f32 * (WIDTH - 60.0) + 10.0
    };
    let most = bars.iter().map(|(.., count)| *count).max().unwrap_or(1).max(1);
    let tall = |count: usize| count as f32 / most as f32 * (HEIGHT - BOTTOM - 18.0);
    let base = HEIGHT - BOTTOM;
    html! {
        figure.lengths {
            figcaption { "Tokens · " (lengths.sentence()) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(lengths.sentence()) {
                line x1="10" x2=(px(WIDTH - 50.0)) y1=(px(base)) y2=(px(base)) {}
                @for &(start, span, count) in bars.iter().filter(|(.., count)| *count > 0) {
                    rect.cut[lengths.room.is_some_and(|room| start > room)]
                        x=(px(x(start))) width=(px((x(start + span) - x(start) - 1.5).max(1.0)))
                        y=(px(base - tall(count))) height=(px(tall(count))) {
                        title { (count) " rows of " (start) @if span > 1 { " to " (start + span - 1) } " tokens" }
                    }
                }
                @if let Some(room) = lengths.room {
                    line.room x1=(px(x(room + 1))) x2=(px(x(room + 1))) y1="12" y2=(px(base)) {}
                    text x=(px(x(room + 1) + 4.0)) y="20" { "room" }
                }
                text x=(px(x(first))) y=(px(HEIGHT - 5.0)) { (first) }
                text x=(px(x(lengths.longest() + 1))) y=(px(HEIGHT - 5.0)) text-anchor="end" { (lengths.longest()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::super::Token;
    use super::*;

    #[test]
    fn a_page_shows_pictures_tokens_and_problems_and_escapes_all_text() {
        let evil = "<script>alert(1)</script>";
        let mut lengths = Lengths::default();
        [3, 5, 9].into_iter().for_each(|length| lengths.add(length, Some(6)));
        let example = Example {
            name: evil.into(),
            picture: Some(RgbImage::from_pixel(8, 8, Rgb([200, 10, 30]))),
            image: "f32[8,8,3] from -1 to 1".into(),
            prompt: evil.into(),
            answer: "<loc0000><loc0000><loc0512><loc0512> cat".into(),
            tokens: vec![
                Token { text: evil.into(), role: Role::Prefix },
                Token { text: "<loc0000>".into(), role: Role::Trained },
                Token { text: "<pad>".into(), role: Role::Padding },
            ],
            num_boxes: 1,
            problems: vec![evil.into()],
        };
        let part = Part {
            name: "input".into(),
            source: evil.into(),
            is_shuffled: false,
            examples: vec![example, Example { name: "empty".into(), ..Example::default() }],
            lengths,
            num_failed: 2,
        };
        let preview = Preview { config: evil.into(), parts: vec![part] };
        let page = render(&preview, LocOptions::default()).unwrap();
        assert!(!page.contains("<script"));
        for expected in [
            "class=\"tok prompt\"",
            "class=\"tok answer\">&lt;loc0000&gt;",
            "padding × 1",
            "class=\"box\"",
            "class=\"cut\"",
            "room for 6: 1 row is cut",
            "2 rows cannot be preprocessed.",
        ] {
            assert!(page.contains(expected), "{expected}");
        }
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("p.html"), &preview, LocOptions::default()).unwrap();
    }
}
