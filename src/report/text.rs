//! Text on pictures: the embedded font, measuring, wrapping and drawing.
//!
//! The font is Roboto Medium (Apache License 2.0, see `fonts/README.md`) with Latin, Greek and Cyrillic; other
//! characters are drawn as its empty box.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage};

static FONT: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    FontRef::try_from_slice(include_bytes!("fonts/Roboto-Medium-subset.ttf"))
        .expect("the embedded font is part of the program and the tests read it")
});

/// The height of a line of text in pixels, for text of `px` pixels from ascender to descender.
pub fn line_height(px: f32) -> f32 {
    (px * 1.2).round()
}

/// The width of one line in pixels.
pub fn width_of(text: &str, px: f32) -> f32 {
    let font = FONT.as_scaled(PxScale::from(px));
    text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
}

/// Breaks text into lines no wider than `max_width` pixels: at line breaks, then at blanks, and inside words
/// that are too long for a line of their own. A line holds at least one character.
pub fn wrap(text: &str, px: f32, max_width: f32) -> Vec<String> {
    let fits = |line: &str| width_of(line, px) <= max_width;
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let joined = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if fits(&joined) {
                line = joined;
                continue;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            for c in word.chars() {
                line.push(c);
                if !fits(&line) && line.chars().nth(1).is_some() {
                    line.pop();
                    lines.push(std::mem::replace(&mut line, c.to_string()));
                }
            }
        }
        lines.push(line);
    }
    lines
}

/// Draws one line with its top left corner at (`x`, `y`); what lies outside the picture is cut off.
pub fn draw(image: &mut RgbImage, text: &str, x: f32, y: f32, px: f32, colour: Rgb<u8>) {
    let scale = PxScale::from(px);
    let font = FONT.as_scaled(scale);
    let baseline = y + font.ascent();
    let mut pen = x;
    for c in text.chars() {
        let id = font.glyph_id(c);
        let glyph = Glyph { id, scale, position: point(pen, baseline) };
        pen += font.h_advance(id);
        let Some(outline) = FONT.outline_glyph(glyph) else { continue };
        let origin = outline.px_bounds().min;
        outline.draw(|dx, dy, coverage| {
            blend(image, origin.x as i64 + i64::from(dx), origin.y as i64 + i64::from(dy), colour, coverage);
        });
    }
}

/// Mixes `colour` into one pixel; positions outside the picture are ignored.
pub fn blend(image: &mut RgbImage, x: i64, y: i64, colour: Rgb<u8>, coverage: f32) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    let Some(pixel) = image.get_pixel_mut_checked(x, y) else { return };
    let coverage = coverage.clamp(0.0, 1.0);
    for (to, from) in pixel.0.iter_mut().zip(colour.0) {
        *to = (f32::from(*to) * (1.0 - coverage) + f32::from(from) * coverage).round() as u8;
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_font_has_the_letters_that_labels_need() {
        let text = "AZaz09 äöüß çñé ŁőŞ Ελληνικά Русский €–—“”…";
        assert!(text.chars().all(|c| FONT.glyph_id(c).0 != 0));
        assert_eq!(FONT.glyph_id('猫').0, 0);
    }

    #[test]
    fn lines_are_no_wider_than_asked() {
        let text =
            "a woman in a pink dress leans against a white wall\n\nDonaudampfschifffahrtsgesellschaft, yes";
        let lines = wrap(text, 16.0, 130.0);
        assert!(lines.iter().all(|line| width_of(line, 16.0) <= 130.0), "{lines:?}");
        assert!(lines.contains(&String::new()), "an empty line stays");
        assert_eq!(lines[0], "a woman in a pink");
        let letters = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        assert_eq!(letters(&lines.concat()), letters(text));
        assert_eq!(wrap("abc", 16.0, 0.0), ["a", "b", "c"]);
        assert!(wrap("", 16.0, 100.0).is_empty());
    }

    #[test]
    fn text_is_drawn_within_its_line_and_cut_at_the_edge() {
        let mut image = RgbImage::from_pixel(60, 30, Rgb([255; 3]));
        draw(&mut image, "Ag|", 4.0, 4.0, 20.0, Rgb([0; 3]));
        let dark = |y: u32| (0..60).filter(|&x| image.get_pixel(x, y).0[0] < 128).count();
        assert!((0..3).chain(25..30).all(|y| dark(y) == 0));
        let rows: Vec<u32> = (0..30).filter(|&y| dark(y) > 0).collect();
        assert!(rows.len() > 12 && rows.len() as u32 == rows[rows.len() - 1] - rows[0] + 1, "{rows:?}");
        draw(&mut image, "far too long for this picture", -10.0, 20.0, 20.0, Rgb([0; 3]));
    }
}
