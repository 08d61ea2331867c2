//! What was replayed and how it went, for people and for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Check, Row};

/// The outcome of a replay.
#[derive(Debug, Clone)]
pub struct Report {
    pub cases: Vec<CaseReport>,
}

/// One recording.
#[derive(Debug, Clone)]
pub struct CaseReport {
    /// The name of its folder.
    pub name: String,
    pub checks: Vec<CheckReport>,
}

#[derive(Debug, Clone)]
pub struct CheckReport {
    pub check: Check,
    /// What was compared.
    pub rows: Vec<Row>,
}

/// How many rows of a check are worth a reader's time when all is well.
const WORST: usize = 3;

impl Report {
    /// Whether everything that was wanted was replayed and is within its tolerance.
    pub fn passed(&self) -> bool {
        self.checks().all(|(_, check)| check.passed())
    }

    fn checks(&self) -> impl Iterator<Item = (&CaseReport, &CheckReport)> {
        self.cases.iter().flat_map(|case| case.checks.iter().map(move |check| (case, check)))
    }

    /// A table with the worst rows of each check, and all that failed; or with all rows.
    pub fn to_text(&self, all: bool) -> String {
        let mut lines = Vec::new();
        for case in &self.cases {
            lines.push(Line::Heading(case.name.clone()));
            for check in &case.checks {
                check.lines(all, &mut lines);
            }
        }
        let mut text = table(&lines);
        let failed: Vec<String> = self
            .checks()
            .filter(|(_, check)| !check.passed())
            .map(|(case, check)| format!("{} {}", case.name, check.check))
            .collect();
        let total = self.checks().count();
        let summary = match failed.as_slice() {
            [] => format!("passed: {total} of {total} checks"),
            failed => format!("FAILED: {} of {total} checks: {}", failed.len(), failed.join(", ")),
        };
        text.push_str(&summary);
        text.push('\n');
        text
    }

    /// Everything. Numbers that JSON has no word for are null.
    pub fn to_json(&self) -> Value {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                let checks: Vec<Value> = case.checks.iter().map(CheckReport::to_json).collect();
                json!({ "case": case.name, "checks": checks })
            })
            .collect();
        json!({ "passed": self.passed(), "cases": cases })
    }
}

impl CheckReport {
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::passed)
    }

    fn lines<'a>(&'a self, all: bool, lines: &mut Vec<Line<'a>>) {
        let (name, rows) = (self.check.name(), &self.rows);
        let failed = rows.iter().filter(|row| !row.passed()).count();
        lines.push(Line::Check(match failed {
            0 => format!("{name:<10} {} pass", rows.len()),
            _ => format!("{name:<10} {failed} of {} FAILED", rows.len()),
        }));
        if all {
            lines.extend(rows.iter().map(Line::Row));
            return;
        }
        let mut ranked: Vec<&Row> = rows.iter().collect();
        ranked.sort_by(|a, b| b.badness().total_cmp(&a.badness()));
        let shown = ranked.iter().enumerate().filter(|(i, row)| *i < WORST || !row.passed());
        lines.extend(shown.map(|(_, row)| Line::Row(row)));
    }

    fn to_json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(row_to_json).collect();
        json!({ "check": self.check.name(), "passed": self.passed(), "rows": rows })
    }
}

fn row_to_json(row: &Row) -> Value {
    json!({
        "name": row.name,
        "shape": row.shape.dims(),
        "max_abs": row.max_abs,
        "error": row.error,
        "of": row.tolerance.measure,
        "tolerance": row.tolerance.limit,
        "passed": row.passed(),
    })
}

enum Line<'a> {
    Heading(String),
    Check(String),
    Row(&'a Row),
}

/// Lays lines out in columns that are as wide as their widest cell.
fn table(lines: &[Line]) -> String {
    let row = |row: &Row| {
        [
            row.name.clone(),
            row.shape.to_string(),
            format!("{:.1e}", row.max_abs),
            format!("{:.1e}", row.error),
            format!("{:.0e}", row.tolerance.limit),
            row.tolerance.measure.label().to_owned(),
        ]
    };
    let header = ["", "", "max abs", "error", "allowed", "of"].map(str::to_owned);
    let mut widths = header.each_ref().map(|cell| cell.chars().count());
    for line in lines {
        if let Line::Row(cells) = line {
            for (width, cell) in widths.iter_mut().zip(row(cells)) {
                *width = cell.chars().count().max(*width);
            }
        }
    }
    let cells = |cells: &[String; 6], verdict: &str| {
        let [name, shape, max_abs, error, limit, measure] = cells;
        let [a, b, c, d, e, f] = widths;
        let line = format!(
            "    {name:<a$}  {shape:<b$}  {max_abs:>c$}  {error:>d$}  {limit:>e$}  {measure:<f$}  {verdict}"
        );
        line.trim_end().to_owned()
    };
    let mut text = cells(&header, "") + "\n";
    for line in lines {
        let line = match line {
            Line::Heading(name) => name.clone(),
            Line::Check(check) => format!("  {check}"),
            Line::Row(data) => cells(&row(data), if data.passed() { "" } else { "FAIL" }),
        };
        writeln!(text, "{line}").expect("writing to a string cannot fail");
    }
    text
}
