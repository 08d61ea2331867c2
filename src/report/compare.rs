//! Runs beside each other: their curves in one chart each, and what every metric came to.

use super::chart::{Series, series_of};
use super::metrics::{Row, keys_of, points_of};
use super::page::{self, Report};
use super::table::{Align, Table};
use super::units::number;

/// A run, as its work directory tells it.
#[derive(Debug, Clone)]
pub struct Run {
    pub name: String,
    pub rows: Vec<Row>,
    pub config_yaml: String,
}

/// Runs as a page and as text.
#[derive(Debug, Clone)]
pub struct Comparison {
    pub page: Report,
    pub text: String,
}

/// Metrics whose last part is one of these are better the smaller they are.
const SMALLER_IS_BETTER: [&str; 7] =
    ["training_loss", "loss", "avg", "sum", "edit_distance", "invalid", "parsefail"];
/// Metrics whose last part begins so count examples, and have no best.
const COUNTS: [&str; 4] = ["num", "boxes", "total", "num_examples"];

/// Whether the smaller of two values of a metric is the better one; `None` where neither is.
fn smaller_is_better(key: &str) -> Option<bool> {
    let last = key.rsplit('/').next().unwrap_or(key);
    if COUNTS.contains(&last) || key.split('/').any(|part| part == "num") {
        return None;
    }
    Some(SMALLER_IS_BETTER.contains(&last))
}

/// What evaluators measured, and the loss.
fn is_compared(key: &str) -> bool {
    key == "training_loss" || key.contains('/') && !["z/", "y/", "img/"].iter().any(|p| key.starts_with(p))
}

/// One metric of one run.
struct Entry {
    metric: String,
    run: String,
    last: (u64, f64),
    best: Option<(u64, f64)>,
}

impl Entry {
    fn new(metric: &str, run: &Run) -> Option<Self> {
        let points = points_of(&run.rows, metric);
        let last = *points.last()?;
        let finite = points.iter().copied().filter(|(_, value)| value.is_finite());
        // Of equals, the first.
        let best = smaller_is_better(metric).and_then(|smaller| {
            finite.reduce(|best, next| {
                let is_better = if smaller { next.1 < best.1 } else { next.1 > best.1 };
                if is_better { next } else { best }
            })
        });
        Some(Entry { metric: metric.to_owned(), run: run.name.clone(), last, best })
    }

    fn cells(&self) -> [String; 5] {
        let best = |of: fn((u64, f64)) -> String| self.best.map(of).unwrap_or_default();
        [
            self.metric.clone(),
            self.run.clone(),
            number(self.last.1),
            best(|(_, value)| number(value)),
            best(|(step, _)| step.to_string()),
        ]
    }
}

/// Puts runs beside each other.
pub fn compare(runs: &[Run]) -> Comparison {
    let mut metrics: Vec<&str> = Vec::new();
    for key in runs.iter().flat_map(|run| keys_of(&run.rows)).filter(|key| is_compared(key)) {
        if !metrics.contains(&key) {
            metrics.push(key);
        }
    }
    let mut text = Table::new([
        ("metric", Align::Left),
        ("run", Align::Left),
        ("last", Align::Right),
        ("best", Align::Right),
        ("at step", Align::Right),
    ]);
    let mut tables = Vec::new();
    for (i, metric) in metrics.iter().enumerate() {
        let entries: Vec<Entry> = runs.iter().filter_map(|run| Entry::new(metric, run)).collect();
        if i > 0 && runs.len() > 1 {
            text.rule();
        }
        entries.iter().for_each(|entry| text.row(entry.cells()));
        tables.push(page::Table {
            title: (*metric).to_owned(),
            header: ["run", "last", "best", "at step"].map(str::to_owned).to_vec(),
            rows: entries.iter().map(|entry| entry.cells()[1..].to_vec()).collect(),
        });
    }
    let last_step = |run: &Run| run.rows.last().map_or(0, |row| row.step);
    let page = Report {
        title: format!("{} runs", runs.len()),
        summary: runs.iter().map(|run| (run.name.clone(), format!("{} steps", last_step(run)))).collect(),
        tables,
        series: runs.iter().flat_map(curves).collect(),
        config_yaml: configs(runs),
        ..Report::default()
    };
    Comparison { page, text: text.to_string() }
}

/// A run's curves under its name. Charts with several curves of one run keep the metrics' names beside it.
fn curves(run: &Run) -> Vec<Series> {
    let all = series_of(&run.rows);
    let named = |one: &Series| {
        let is_alone = all.iter().filter(|other| other.chart == one.chart).count() == 1;
        let name = if is_alone { run.name.clone() } else { format!("{} {}", run.name, one.name) };
        Series { name, ..one.clone() }
    };
    all.iter().map(named).collect()
}

fn configs(runs: &[Run]) -> String {
    let with_name = |run: &Run| format!("# ---- {}\n{}\n", run.name, run.config_yaml);
    runs.iter().filter(|run| !run.config_yaml.is_empty()).map(with_name).collect()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::super::chart::group;
    use super::*;

    fn run(name: &str, values: &[(u64, f64, f64)]) -> Run {
        let row = |&(step, loss, acc): &(u64, f64, f64)| Row {
            step,
            values: vec![
                ("training_loss".into(), loss),
                ("val/acc".into(), acc),
                ("val/num".into(), 4.0),
                ("z/secs/x".into(), 1.0),
            ],
        };
        Run { name: name.into(), rows: values.iter().map(row).collect(), config_yaml: String::new() }
    }

    #[test]
    fn last_and_best_values_stand_beside_each_other() {
        let runs =
            [run("a", &[(1, 3.0, 0.25), (2, 1.0, 0.5), (3, 2.0, 0.5)]), run("b", &[(1, 4.0, f64::NAN)])];
        let Comparison { page, text } = compare(&runs);
        assert_eq!(
            text,
            "\
metric         run  last  best  at step
---------------------------------------
training_loss  a       2     1        2
training_loss  b       4     4        1
---------------------------------------
val/acc        a     0.5   0.5        2
val/acc        b     NaN
---------------------------------------
val/num        a       4
val/num        b       4
"
        );
        let charts = group(&page.series);
        let names =
            charts.iter().map(|(title, series)| (*title, series.iter().map(|s| s.name.as_str()).collect()));
        let names: Vec<(&str, Vec<&str>)> = names.collect();
        assert_eq!(names[0], ("Training loss", vec!["a", "b"]));
        assert!(names.iter().all(|(_, names)| *names == ["a", "b"]), "{names:?}");
    }

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
}
