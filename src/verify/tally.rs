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
        /// A name fits into a line of a terminal beside the numbers.
        const MOST_CHARACTERS: usize = 60;
        let row = |about: &String| {
            let short: String = about.chars().take(MOST_CHARACTERS).collect();
            let short = short.escape_debug();
            let dots = if about.chars().count() > MOST_CHARACTERS { "…" } else { "" };
            Row::count(format!("{}: {short}{dots}", self.name), 1, 1)
        };
        let mut rows: Vec<Row> = self.failed.iter().map(row).collect();
        rows.push(Row::count(self.name, self.total, self.failed.len()));
        rows
    }
}
