use super::Row;

/// How many cases of a kind differ from their recording, and which.
pub(super) struct Tally {
    name: String,
    total: usize,
    failed: Vec<String>,
}

impl Tally {
    pub fn new(name: impl Into<String>) -> Self {
        Tally { name: name.into(), total: 0, failed: Vec::new() }
    }

    /// Counts a case, which is named by what it is about.
    pub fn case(&mut self, holds: bool, about: impl ToString) {
        self.total += 1;
        if !holds {
            self.failed.push(about.to_string());
        }
    }

    /// A row for all cases, behind one for each that failed.
    pub fn rows(self) -> Vec<Row> {
        let row = |about: &String| Row::count(format!("{}: {}", self.name, shortened(about)), 1, 1);
        let mut rows: Vec<Row> = self.failed.iter().map(row).collect();
        rows.push(Row::count(self.name, self.total, self.failed.len()));
        rows
    }
}

/// The beginning and the end of what a case is about, such that it fits into a line of a terminal beside the numbers.
fn shortened(about: &str) -> String {
    const BEGINNING: usize = 20;
    const END: usize = 40;
    let characters: Vec<char> = about.escape_debug().collect();
    if characters.len() <= BEGINNING + END {
        return characters.into_iter().collect();
    }
    let (beginning, end) = (&characters[..BEGINNING], &characters[characters.len() - END..]);
    beginning.iter().chain(&['…']).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_rows_of_their_own() {
        let mut tally = Tally::new("words");
        tally.case(true, "fine");
        tally.case(false, "two\nlines");
        tally.case(false, format!("resize({})|keep('image')", "1".repeat(60)));
        let rows: Vec<_> =
            tally.rows().into_iter().map(|row| (row.name.clone(), row.error, row.passed())).collect();
        let long = "words: resize(1111111111111…11111111111111111111111)|keep(\\'image\\')";
        let expected = [("words: two\\nlines", 1.0), (long, 1.0), ("words", 2.0)];
        assert_eq!(rows, expected.map(|(name, error)| (name.to_owned(), error, false)));
    }
}
