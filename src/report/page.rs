//! `report.html`: a run on one page that needs no other file, no script and no network.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ImageFormat, RgbImage, RgbaImage};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::card::Cards;
use super::chart::{self, Series};
use super::{Error, write_atomically};
use crate::detection::LocOptions;

/// What the page shows. Empty parts are left out.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub title: String,
    /// Facts about the run in a few words each: config, model, parameters, device, duration.
    pub summary: Vec<(String, String)>,
    pub tables: Vec<Table>,
    pub series: Vec<Series>,
    /// Examples before and after training.
    pub gallery: Vec<Card>,
    /// The examples that the model finds hardest, worst first.
    pub worst: Vec<Card>,
    /// The config as it was resolved.
    pub config_yaml: String,
    /// How location tokens in answers are to be read.
    pub loc: LocOptions,
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    pub title: String,
    pub header: Vec<String>,
    /// The first cell of each row names it; cells that look like numbers are aligned right.
    pub rows: Vec<Vec<String>>,
}

/// One example with what the model said about it.
#[derive(Debug, Clone)]
pub struct Card {
    /// Which example it is (`val/17`), also the picture's alternative text.
    pub name: String,
    pub picture: Picture,
    pub prompt: String,
    pub reference: Option<String>,
    pub before: Option<Answer>,
    pub after: Option<Answer>,
    pub loss: Option<f64>,
    /// By the evaluator's own measure.
    pub score: Option<f64>,
    pub masks: Marks,
}

/// Pictures, transparent but for what is marked, to be laid over a card's.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    pub reference: Option<Picture>,
    pub before: Option<Picture>,
    pub after: Option<Picture>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    pub text: String,
    /// None where the task has no such notion, as for captions.
    pub correct: Option<bool>,
}

/// An encoded picture, ready to be put into the page.
#[derive(Debug, Clone)]
pub struct Picture {
    pub(super) data_uri: String,
    pub(super) width: u32,
    pub(super) height: u32,
}

impl Picture {
    /// Longer sides are scaled down to this: a page with dozens of pictures stays small enough to mail.
    pub const MAX_SIDE: u32 = 640;

    /// Encodes a picture: small ones without loss, others as JPEG of at most [`MAX_SIDE`](Self::MAX_SIDE).
    ///
    /// # Errors
    /// When the picture is empty.
    pub fn from_rgb(image: &RgbImage) -> Result<Picture, Error> {
        let longer = image.width().max(image.height());
        let scaled = (longer > Self::MAX_SIDE).then(|| {
            let scale =
                |side: u32| (u64::from(side) * u64::from(Self::MAX_SIDE) / u64::from(longer)).max(1) as u32;
            imageops::resize(image, scale(image.width()), scale(image.height()), FilterType::Triangle)
        });
        let image = scaled.as_ref().unwrap_or(image);
        let mut bytes = std::io::Cursor::new(Vec::new());
        let (result, mime) = if longer <= 128 {
            (image.write_to(&mut bytes, ImageFormat::Png), "image/png")
        } else {
            (image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 88)), "image/jpeg")
        };
        result.map_err(|source| Error::Picture { width: image.width(), height: image.height(), source })?;
        let data_uri = format!("data:{mime};base64,{}", BASE64.encode(bytes.into_inner()));
        Ok(Picture { data_uri, width: image.width(), height: image.height() })
    }

    /// Encodes a picture that others show through, without loss.
    ///
    /// # Errors
    /// When the picture is empty.
    pub fn from_rgba(image: &RgbaImage) -> Result<Picture, Error> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let (width, height) = image.dimensions();
        let result = image.write_to(&mut bytes, ImageFormat::Png);
        result.map_err(|source| Error::Picture { width, height, source })?;
        let data_uri = format!("data:image/png;base64,{}", BASE64.encode(bytes.into_inner()));
        Ok(Picture { data_uri, width, height })
    }
}

/// Writes the page; readers see the old file or the new one, never a part.
pub fn write(path: &Path, report: &Report) -> Result<(), Error> {
    write_atomically(path, render(report).as_bytes())
}

/// The page as HTML. All text of the report is escaped.
pub fn render(report: &Report) -> String {
    let mut cards = Cards::new(report.loc);
    document(
        &report.title,
        "",
        html! {
            header {
                h1 { (report.title) }
                (summary(&report.summary))
            }
            main {
                (section("Results", !report.tables.is_empty(), html! {
                    div.tables { @for table in &report.tables { (render_table(table)) } }
                }))
                (curves(&report.series))
                (section("Before and after training", !report.gallery.is_empty(), html! {
                    (score(&report.gallery))
                    div.cards { @for card in &report.gallery { (cards.render(card)) } }
                }))
                (section("Hardest examples", !report.worst.is_empty(), html! {
                    div.cards { @for card in &report.worst { (cards.render(card)) } }
                }))
                (section("Configuration", !report.config_yaml.is_empty(), html! {
                    details {
                        summary { "The config, resolved" }
                        pre { code { (report.config_yaml) } }
                    }
                }))
            }
        },
    )
}

/// A whole page around `body`, in the style of all pages; `style` is what this kind of page adds to it.
pub(super) fn document(title: &str, style: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // The page holds all it needs; nothing in an answer can make a browser fetch or run more.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) (PreEscaped(style)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

pub(super) fn section(title: &str, wanted: bool, content: Markup) -> Markup {
    html! { @if wanted { section { h2 { (title) } (content) } } }
}

pub(super) fn summary(facts: &[(String, String)]) -> Markup {
    html! {
        @if !facts.is_empty() {
            dl.facts { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
        }
    }
}

fn curves(series: &[Series]) -> Markup {
    let charts = chart::group(series);
    section(
        "Curves",
        !charts.is_empty(),
        html! {
            div.charts { @for (title, series) in &charts { (chart::chart(title, series)) } }
        },
    )
}

fn render_table(table: &Table) -> Markup {
    // Also "0.5 at 1400": a number and where it was.
    let is_number = |cell: &str| {
        let value = cell.split_once(" at ").map_or(cell, |(value, _)| value);
        value.trim_end_matches('%').trim().parse::<f64>().is_ok()
    };
    html! {
        div.table {
            table {
                @if !table.title.is_empty() { caption { (table.title) } }
                @if !table.header.is_empty() {
                    thead { tr { @for cell in &table.header { th scope="col" { (cell) } } } }
                }
                tbody {
                    @for row in &table.rows {
                        tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 { th scope="row" { (cell) } }
                                @else if is_number(cell) { td.number { (cell) } }
                                @else { td { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `3 of 8 correct before training, 7 of 8 after.`
fn score(gallery: &[Card]) -> Markup {
    let count = |answer: fn(&Card) -> &Option<Answer>| {
        let marks: Vec<bool> =
            gallery.iter().filter_map(|card| answer(card).as_ref().and_then(|a| a.correct)).collect();
        (!marks.is_empty()).then(|| (marks.iter().filter(|&&mark| mark).count(), marks.len()))
    };
    let text = match (count(|card| &card.before), count(|card| &card.after)) {
        (Some((b, all_b)), Some((a, all_a))) => {
            format!("{b} of {all_b} correct before training, {a} of {all_a} after.")
        }
        (Some((b, all)), None) => format!("{b} of {all} correct before training."),
        (None, Some((a, all))) => format!("{a} of {all} correct after training."),
        (None, None) => return html! {},
    };
    html! { p.score { (text) } }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use pretty_assertions::assert_eq;

    use super::super::chart::Scale;
    use super::*;

    fn picture(width: u32, height: u32) -> Picture {
        Picture::from_rgb(&RgbImage::from_pixel(width, height, Rgb([10, 200, 30]))).unwrap()
    }

    fn answer(text: &str, correct: Option<bool>) -> Option<Answer> {
        Some(Answer { text: text.into(), correct })
    }

    fn card(reference: &str, before: &str, after: &str) -> Card {
        Card {
            name: "val/7".into(),
            picture: picture(8, 6),
            prompt: "detect cat\n".into(),
            reference: Some(reference.into()),
            before: answer(before, Some(false)),
            after: answer(after, Some(true)),
            loss: Some(0.25),
            score: None,
            masks: Marks::default(),
        }
    }

    fn boxed_card() -> Card {
        card(
            "<loc0256><loc0000><loc1023><loc0512> cat",
            "a cat",
            "<loc0256><loc0000><loc1023><loc0512> cat ; <loc0000><loc0000><loc0100><loc0100> dog",
        )
    }

    /// The page without its style sheet and with pictures left out: what a change of layout should show.
    fn skeleton(report: &Report) -> String {
        let page = render(report);
        let (head, rest) = page.split_once("<style>").unwrap();
        let (_, rest) = rest.split_once("</style>").unwrap();
        let page = format!("{head}<style>…</style>{rest}");
        let data = regex::Regex::new("base64,[A-Za-z0-9+/=]+").unwrap();
        data.replace_all(&page, "base64,…").replace("><", ">\n<")
    }

    #[test]
    fn a_small_report() {
        let series = |name: &str, points: &[(u64, f64)]| Series {
            chart: "Loss".into(),
            name: name.into(),
            points: points.to_vec(),
            smooth: false,
            scale: Scale::Auto,
            run: None,
        };
        let report = Report {
            title: "A small run".into(),
            summary: vec![("Model".into(), "tiny".into())],
            tables: vec![Table {
                title: "Final".into(),
                header: vec!["metric".into(), "value".into()],
                rows: vec![vec!["acc".into(), "50%".into()], vec!["note".into(), "fine".into()]],
            }],
            series: vec![series("train", &[(1, 2.0), (2, 1.0)]), series("val", &[(2, 1.5)])],
            gallery: vec![card("two", "one", "two"), boxed_card()],
            config_yaml: "seed: 0\n".into(),
            ..Report::default()
        };
        insta::assert_snapshot!(skeleton(&report));
    }

    #[test]
    fn all_text_is_escaped() {
        let evil = "</style><script>alert('x')</script>\"&";
        let report = Report {
            title: evil.into(),
            summary: vec![(evil.into(), evil.into())],
            tables: vec![Table {
                title: evil.into(),
                header: vec![evil.into()],
                rows: vec![vec![evil.into(); 2]],
            }],
            series: vec![Series {
                chart: evil.into(),
                name: evil.into(),
                points: vec![(1, 1.0)],
                smooth: true,
                scale: Scale::Auto,
                run: None,
            }],
            gallery: vec![
                Card { name: evil.into(), prompt: evil.into(), ..card(evil, evil, evil) },
                card(&format!("<loc0000><loc0000><loc0100><loc0100> {evil}"), "<loc", "<seg000"),
            ],
            worst: vec![card(evil, evil, evil)],
            config_yaml: evil.into(),
            loc: LocOptions::default(),
        };
        let page = render(&report);
        assert!(!page.contains("<script"));
        assert_eq!(page.matches("</style>").count(), 1);
        assert!(page.contains("&lt;script&gt;alert('x')&lt;/script&gt;&quot;&amp;"));
    }

    #[test]
    fn the_page_asks_for_nothing_from_outside() {
        let report = Report { gallery: vec![boxed_card()], ..Report::default() };
        let page = render(&report);
        let page = regex::Regex::new("data:[^\"]+").unwrap().replace_all(&page, "").into_owned();
        for outside in ["http:", "https:", "//", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_picture_is_in_the_page_once_however_many_boxes_are_drawn() {
        let report = Report { gallery: vec![boxed_card(), boxed_card()], ..Report::default() };
        let page = render(&report);
        assert_eq!(page.matches("data:image/png").count(), 2);
        assert_eq!(page.matches("<use href=\"#picture0\"").count(), 2);
        assert_eq!(page.matches("<use href=\"#picture1\"").count(), 2);
        assert_eq!(page.matches("class=\"box\"").count(), 6);
        assert!(page.contains("Before training: picture of example val/7 without boxes"));
        assert!(page.contains("After training: picture of example val/7 with boxes: cat, dog"));
    }

    #[test]
    fn empty_parts_are_left_out() {
        let page = render(&Report { title: "Empty".into(), ..Report::default() });
        assert!(!page.contains("<h2>") && !page.contains("<dl"), "{page}");
    }

    #[test]
    fn the_score_counts_what_is_marked() {
        let none = Card { before: answer("x", None), after: None, ..boxed_card() };
        assert_eq!(score(&[]).into_string(), "");
        assert_eq!(score(std::slice::from_ref(&none)).into_string(), "");
        let text = score(&[boxed_card(), none, boxed_card()]).into_string();
        assert_eq!(text, "<p class=\"score\">0 of 2 correct before training, 2 of 2 after.</p>");
    }

    #[test]
    fn pictures_are_scaled_and_encoded_by_their_size() {
        let small = picture(128, 3);
        assert!(small.data_uri.starts_with("data:image/png;base64,"));
        let large = picture(3000, 1500);
        assert!(large.data_uri.starts_with("data:image/jpeg;base64,"));
        assert_eq!((large.width, large.height), (640, 320));
        let line = picture(5000, 1);
        assert_eq!((line.width, line.height), (640, 1));
        let error = Picture::from_rgb(&RgbImage::new(0, 0)).unwrap_err();
        assert_eq!(error.to_string(), "could not encode a picture of 0x0 pixels for the report");
    }

    #[test]
    fn the_page_replaces_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        std::fs::write(&path, "old").unwrap();
        let report = Report { title: "New".into(), ..Report::default() };
        write(&path, &report).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), render(&report));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let plain = dir.path().join("plain");
            std::fs::write(&plain, "").unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain), "readable by whom other files are");
        }
        let error = write(&dir.path().join("missing/report.html"), &report).unwrap_err().to_string();
        assert!(error.starts_with("could not write ") && error.ends_with("missing/report.html"), "{error}");
    }
}
