//! What a config feeds the model, for people: plain data that becomes a page or lines of a terminal.

mod html;
mod terminal;

pub use html::write;
pub use terminal::text;

use image::RgbImage;

/// All that is shown.
#[derive(Debug, Clone, Default)]
pub struct Preview {
    /// The config's file.
    pub config: String,
    pub parts: Vec<Part>,
}

/// One source of examples.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Its key in the config (`input`, `evals.val`).
    pub name: String,
    pub source: String,
    pub is_shuffled: bool,
    pub examples: Vec<Example>,
    pub lengths: Lengths,
    /// Rows that could not be preprocessed, among those that were looked at.
    pub num_failed: usize,
}

/// One example as the model gets it.
#[derive(Debug, Clone, Default)]
pub struct Example {
    /// Where its row is.
    pub name: String,
    pub picture: Option<RgbImage>,
    /// Shape and range of the picture's array.
    pub image: String,
    /// The tokens that are attended to from everywhere, and those that are not trained on, as text.
    pub prompt: String,
    /// The tokens that are trained on, as text.
    pub answer: String,
    pub tokens: Vec<Token>,
    /// Boxes in the answer.
    pub num_boxes: usize,
    /// What is wrong with it, or may be.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub role: Role,
}

/// What a token is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Every token attends to it (`mask_ar` is 0); nothing is learnt from it.
    Prefix,
    /// Only later tokens attend to it (`mask_ar` is 1); nothing is learnt from it.
    Causal,
    /// Trained on (`mask_loss` is 1).
    Trained,
    /// Filled up.
    Padding,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Prefix, Role::Causal, Role::Trained, Role::Padding];

    /// A word for legends and lines.
    pub const fn word(self) -> &'static str {
        match self {
            Role::Prefix => "prompt",
            Role::Causal => "causal",
            Role::Trained => "answer",
            Role::Padding => "padding",
        }
    }

    /// What the word stands for.
    pub const fn meaning(self) -> &'static str {
        match self {
            Role::Prefix => "seen from everywhere, no loss",
            Role::Causal => "seen from behind, no loss",
            Role::Trained => "trained on",
            Role::Padding => "not there for the model",
        }
    }
}

/// How many tokens rows have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Ascending.
    lengths: Vec<usize>,
    /// Tokens that there is room for; `None` when rows are not brought to a length.
    pub room: Option<usize>,
}

impl Lengths {
    /// Counts a row.
    pub fn add(&mut self, length: usize, room: Option<usize>) {
        let at = self.lengths.partition_point(|&other| other <= length);
        self.lengths.insert(at, length);
        self.room = self.room.or(room);
    }

    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub fn longest(&self) -> usize {
        self.lengths.last().copied().unwrap_or(0)
    }

    /// The length that a share of the rows does not exceed.
    pub fn quantile(&self, share: f64) -> usize {
        let at = (share * self.lengths.len() as f64).ceil() as usize;
        self.lengths.get(at.saturating_sub(1).min(self.lengths.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    /// Rows that do not fit.
    pub fn num_cut(&self) -> usize {
        let room = self.room.unwrap_or(usize::MAX);
        self.lengths.iter().filter(|&&length| length > room).count()
    }

    /// At most `most` bars of equal width that cover all lengths: the first length of each, how many lengths it
    /// spans, and its rows.
    pub fn bars(&self, most: usize) -> Vec<(usize, usize, usize)> {
        let Some((&low, &high)) = self.lengths.first().zip(self.lengths.last()) else { return Vec::new() };
        let width = (high - low + 1).div_ceil(most.max(1));
        (low..=high)
            .step_by(width)
            .map(|start| {
                let below = |end: usize| self.lengths.partition_point(|&length| length < end);
                (start, width, below(start + width) - below(start))
            })
            .collect()
    }

    /// In words: `256 rows: 14 tokens in the middle, 31 at most, room for 24: 3 rows are cut`.
    pub fn sentence(&self) -> String {
        let plural = |count: usize| if count == 1 { "row" } else { "rows" };
        let (rows, median, longest) = (self.len(), self.quantile(0.5), self.longest());
        let mut text = format!("{rows} {}: {median} tokens in the middle, {longest} at most", plural(rows));
        if let Some(room) = self.room {
            let cut = match self.num_cut() {
                0 => "none is cut".to_owned(),
                1 => "1 row is cut".to_owned(),
                cut => format!("{cut} rows are cut"),
            };
            text.push_str(&format!(", room for {room}: {cut}"));
        }
        text
    }
}

/// Tokens of one role in a row.
fn runs(tokens: &[Token]) -> Vec<(Role, &[Token])> {
    tokens.chunk_by(|a, b| a.role == b.role).map(|run| (run[0].role, run)).collect()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn lengths_are_summed_up() {
        let mut lengths = Lengths::default();
        assert_eq!((lengths.longest(), lengths.quantile(0.5), lengths.bars(4).len()), (0, 0, 0));
        for length in [5, 3, 3, 12, 4] {
            lengths.add(length, Some(8));
        }
        assert_eq!((lengths.longest(), lengths.quantile(0.5), lengths.num_cut()), (12, 4, 1));
        assert_eq!(lengths.bars(5), [(3, 2, 3), (5, 2, 1), (7, 2, 0), (9, 2, 0), (11, 2, 1)]);
        let sentence = "5 rows: 4 tokens in the middle, 12 at most, room for 8: 1 row is cut";
        assert_eq!(lengths.sentence(), sentence);
        let mut one = Lengths::default();
        one.add(7, None);
        assert_eq!(one.sentence(), "1 row: 7 tokens in the middle, 7 at most");
        assert_eq!(one.bars(10), [(7, 1, 1)]);
    }
}
