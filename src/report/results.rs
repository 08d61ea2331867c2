//! What metrics came to over a run: their first, last and best values.

use super::chart::Series;
use super::metrics::{Row, keys_of, points_of};
use super::page::Table;
use super::units::number;

/// Metrics whose last part is one of these are better the smaller they are.
const SMALLER_IS_BETTER: [&str; 7] =
    ["training_loss", "loss", "avg", "sum", "edit_distance", "invalid", "parsefail"];
/// Metrics whose last part is one of these count examples, and have no best.
const COUNTS: [&str; 4] = ["num", "boxes", "total", "num_examples"];

/// Whether the smaller of two values of a metric is the better one; `None` where neither is.
pub(super) fn smaller_is_better(key: &str) -> Option<bool> {
    let last = key.rsplit('/').next().unwrap_or(key);
    if COUNTS.contains(&last) || key.split('/').any(|part| part == "num") {
        return None;
    }
    Some(SMALLER_IS_BETTER.contains(&last))
}

/// Whether evaluators measured it, rather than the clock or the trainer.
pub(super) fn is_of_evaluation(key: &str) -> bool {
    key.contains('/') && !["z/", "y/", "img/"].iter().any(|prefix| key.starts_with(prefix))
}

/// Whether a curve tells nothing: the number of examples, which is the same at every step.
pub(super) fn is_idle(series: &Series) -> bool {
    let mut values = series.points.windows(2).map(|pair| pair[0].1 == pair[1].1);
    smaller_is_better(&series.name).is_none() && values.all(|is_same| is_same)
}

/// The values of one metric: each with its step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Course {
    pub first: (u64, f64),
    pub last: (u64, f64),
    /// Of equals, the first.
    pub best: Option<(u64, f64)>,
}

impl Course {
    /// `None` where nothing was measured.
    pub fn of(rows: &[Row], metric: &str) -> Option<Self> {
        let points = points_of(rows, metric);
        let (first, last) = (*points.first()?, *points.last()?);
        let finite = points.iter().copied().filter(|(_, value)| value.is_finite());
        let best = smaller_is_better(metric).and_then(|smaller| {
            finite.reduce(|best, next| {
                let is_better = if smaller { next.1 < best.1 } else { next.1 > best.1 };
                if is_better { next } else { best }
            })
        });
        Some(Course { first, last, best })
    }

    /// The best value and its step, as text; empty where there is none.
    pub fn best_cells(&self) -> [String; 2] {
        self.best.map_or_else(Default::default, |(step, value)| [number(value), step.to_string()])
    }
}

/// A table for each evaluation of a run, in the order in which they ran.
pub fn tables(rows: &[Row]) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for key in keys_of(rows).into_iter().filter(|key| is_of_evaluation(key)) {
        let (Some((eval, metric)), Some(course)) = (key.split_once('/'), Course::of(rows, key)) else {
            continue;
        };
        let [best, step] = course.best_cells();
        let row = vec![metric.to_owned(), number(course.first.1), number(course.last.1), best, step];
        match tables.iter_mut().find(|table| table.title == eval) {
            Some(table) => table.rows.push(row),
            None => tables.push(Table {
                title: eval.to_owned(),
                header: ["metric", "first", "last", "best", "at step"].map(str::to_owned).to_vec(),
                rows: vec![row],
            }),
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn what_is_better_follows_from_the_name() {
        for (key, smaller) in [
            ("training_loss", Some(true)),
            ("val/pplx/avg", Some(true)),
            ("val/mAP", Some(false)),
            ("val/num/count_3", None),
            ("val/num", None),
        ] {
            assert_eq!(smaller_is_better(key), smaller, "{key}");
        }
    }

    #[test]
    fn every_evaluation_has_a_table() {
        let row = |step, values: &[(&str, f64)]| Row {
            step,
            values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        };
        let rows = [
            row(0, &[("pplx/avg", 8.0), ("val/acc", 0.0), ("val/num", 4.0)]),
            row(5, &[("training_loss", 2.0), ("z/secs/x", 1.0)]),
            row(9, &[("pplx/avg", 2.0), ("val/acc", 0.75), ("val/num", 4.0)]),
            row(12, &[("pplx/avg", 3.0), ("val/acc", 0.5), ("val/num", 4.0)]),
        ];
        let tables = tables(&rows);
        let shown: Vec<String> = tables
            .iter()
            .flat_map(|table| table.rows.iter().map(|row| format!("{}: {}", table.title, row.join(" "))))
            .collect();
        assert_eq!(shown, ["pplx: avg 8 3 2 9", "val: acc 0 0.5 0.75 9", "val: num 4 4  "]);
    }
}
