//! The preview as text, with colours where the reader's terminal has them.

use std::fmt::Write as _;

use super::{Example, Lengths, Part, Preview, Role, Token, runs};

/// Longest bar of a histogram, in characters.
const BAR: usize = 40;
/// Bars of a histogram at most.
const BARS: usize = 12;

/// The preview as lines of text. With `colour`, ANSI escapes set off what tokens are for.
pub fn text(preview: &Preview, colour: bool) -> String {
    let style = Style { colour };
    let mut out = String::new();
    for part in &preview.parts {
        render_part(&mut out, part, style).expect("writing to a string does not fail");
    }
    out
}

#[derive(Clone, Copy)]
struct Style {
    colour: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn role(self, role: Role, text: &str) -> String {
        match role {
            Role::Prefix => self.paint("36", text),
            Role::Causal => self.paint("33", text),
            Role::Trained => self.paint("32", text),
            Role::Padding => self.faint(text),
        }
    }
}

fn render_part(out: &mut String, part: &Part, style: Style) -> std::fmt::Result {
    let order = if part.is_shuffled { ", shuffled" } else { "" };
    writeln!(out, "{} {}{order}\n", style.bold(&part.name), printable(&part.source))?;
    for example in &part.examples {
        render_example(out, example, style)?;
    }
    if part.num_failed > 0 {
        let message = format!("{} rows cannot be preprocessed", part.num_failed);
        writeln!(out, "{}\n", style.paint("31", &message))?;
    }
    if !part.lengths.is_empty() {
        histogram(out, &part.lengths, style)?;
    }
    Ok(())
}

fn render_example(out: &mut String, example: &Example, style: Style) -> std::fmt::Result {
    writeln!(out, "{}", style.bold(&printable(&example.name)))?;
    if !example.image.is_empty() {
        writeln!(out, "  image    {}", example.image)?;
    }
    if example.num_boxes > 0 {
        writeln!(out, "  boxes    {}", example.num_boxes)?;
    }
    for (role, run) in runs(&example.tokens) {
        let tokens = match role {
            Role::Padding => format!("{} tokens", run.len()),
            _ => joined(run, style),
        };
        writeln!(out, "  {:8} {}", role.word(), style.role(role, &tokens))?;
    }
    for problem in &example.problems {
        writeln!(out, "  {} {}", style.paint("31", "!"), printable(problem))?;
    }
    writeln!(out)
}

/// Tokens with their borders shown.
fn joined(run: &[Token], style: Style) -> String {
    let texts: Vec<String> = run.iter().map(|token| printable(&token.text)).collect();
    // Within colours a border only needs to be seen, not read.
    texts.join(if style.colour { "\u{200a}·\u{200a}" } else { "|" })
}

fn histogram(out: &mut String, lengths: &Lengths, style: Style) -> std::fmt::Result {
    writeln!(out, "{} {}", style.bold("lengths"), lengths.sentence())?;
    let bars = lengths.bars(BARS);
    let most = bars.iter().map(|(.., count)| *count).max().unwrap_or(1).max(1);
    let label = |start: usize, width: usize| match width {
        1 => start.to_string(),
        width => format!("{start}-{}", start + width - 1),
    };
    let widest = bars.iter().map(|&(start, width, _)| label(start, width).len()).max().unwrap_or(0);
    for (start, width, count) in bars {
        // A row is seen, however many there are of other lengths.
        let filled = (count * BAR).div_ceil(most);
        let bar = "█".repeat(filled);
        let is_cut = lengths.room.is_some_and(|room| start > room);
        let bar = if is_cut { style.paint("31", &bar) } else { bar };
        writeln!(out, "  {:>widest$}  {bar} {count}", label(start, width))?;
    }
    writeln!(out)
}

/// Text of a row without what a terminal would take for commands.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preview() -> Preview {
        let token = |text: &str, role| Token { text: text.into(), role };
        let mut lengths = Lengths::default();
        [4, 4, 9].into_iter().for_each(|length| lengths.add(length, Some(6)));
        let example = Example {
            name: "rows.jsonl:1".into(),
            image: "f32[8,8,3] from -1 to 1".into(),
            tokens: vec![
                token("<bos>", Role::Prefix),
                token("⏎", Role::Prefix),
                token("a\x1b[31m", Role::Trained),
                token("<pad>", Role::Padding),
                token("<pad>", Role::Padding),
            ],
            num_boxes: 2,
            problems: vec!["3 tokens do not fit into 6 and are cut off".into()],
            ..Example::default()
        };
        let part = Part {
            name: "input".into(),
            source: "jsonl rows.jsonl (3 rows)".into(),
            is_shuffled: true,
            examples: vec![example],
            lengths,
            num_failed: 1,
        };
        Preview { config: "c.yaml".into(), parts: vec![part] }
    }

    #[test]
    fn plain_text() {
        insta::assert_snapshot!(text(&preview(), false), @r"
        input jsonl rows.jsonl (3 rows), shuffled

        rows.jsonl:1
          image    f32[8,8,3] from -1 to 1
          boxes    2
          prompt   <bos>|⏎
          answer   a�[31m
          padding  2 tokens
          ! 3 tokens do not fit into 6 and are cut off

        1 rows cannot be preprocessed

        lengths 3 rows: 4 tokens in the middle, 9 at most, room for 6: 1 row is cut
          4  ████████████████████████████████████████ 2
          5   0
          6   0
          7   0
          8   0
          9  ████████████████████ 1
        ");
    }

    #[test]
    fn colours_are_closed() {
        let text = text(&preview(), true);
        let opened = text.matches("\x1b[").count();
        assert_eq!(opened, 2 * text.matches("\x1b[0m").count());
        assert!(opened > 6);
    }
}
