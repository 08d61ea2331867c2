//! Runs beside each other: their curves in one chart each, and what every metric came to.

use super::chart::{Series, series_of};
use super::metrics::{Row, keys_of};
use super::page::{self, Report};
use super::results::{Course, is_of_evaluation, smaller_is_better};
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

/// What evaluators measured, and the loss.
fn is_compared(key: &str) -> bool {
    key == "training_loss" || is_of_evaluation(key)
}

/// One metric of one run.
struct Entry {
    metric: String,
    run: String,
    course: Course,
}

impl Entry {
    fn new(metric: &str, run: &Run) -> Option<Self> {
        let course = Course::of(&run.rows, metric)?;
        Some(Entry { metric: metric.to_owned(), run: run.name.clone(), course })
    }

    fn cells(&self) -> [String; 5] {
        let [best, step] = self.course.best_cells();
        [self.metric.clone(), self.run.clone(), number(self.course.last.1), best, step]
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
    // The loss first, as in the charts.
    metrics.sort_by_key(|metric| metric.contains('/'));
    let header = || std::iter::once("metric").chain(runs.iter().map(|run| run.name.as_str()));
    let page_table = |title: &str| page::Table {
        title: title.to_owned(),
        header: header().map(str::to_owned).collect(),
        rows: Vec::new(),
    };
    let (mut last, mut best) = (page_table("Last values"), page_table("Best values, with their step"));
    for (i, metric) in metrics.iter().enumerate() {
        let entries: Vec<Entry> = runs.iter().filter_map(|run| Entry::new(metric, run)).collect();
        if i > 0 && runs.len() > 1 {
            text.rule();
        }
        entries.iter().for_each(|entry| text.row(entry.cells()));
        let row = |cell: &dyn Fn(&Course) -> String| {
            let of_run = |run: &Run| Course::of(&run.rows, metric).as_ref().map_or_else(String::new, cell);
            std::iter::once((*metric).to_owned()).chain(runs.iter().map(of_run)).collect::<Vec<String>>()
        };
        last.rows.push(row(&|course| number(course.last.1)));
        if smaller_is_better(metric).is_some() {
            best.rows.push(row(&|course| {
                course.best.map_or_else(String::new, |(step, value)| format!("{} at {step}", number(value)))
            }));
        }
    }
    let last_step = |run: &Run| run.rows.last().map_or(0, |row| row.step);
    let page = Report {
        title: format!("{} runs", runs.len()),
        summary: runs.iter().map(|run| (run.name.clone(), format!("{} steps", last_step(run)))).collect(),
        tables: vec![last, best],
        series: runs.iter().enumerate().flat_map(curves).collect(),
        config_yaml: configs(runs),
        ..Report::default()
    };
    Comparison { page, text: text.to_string() }
}

/// A run's curves under its name. Charts with several curves of one run keep the metrics' names beside it.
fn curves((index, run): (usize, &Run)) -> Vec<Series> {
    let all = series_of(&run.rows);
    let named = |one: &Series| {
        let is_alone = all.iter().filter(|other| other.chart == one.chart).count() == 1;
        let name = if is_alone { run.name.clone() } else { format!("{} {}", run.name, one.name) };
        Series { name, run: is_alone.then_some(index), ..one.clone() }
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
        let rows = |table: &page::Table| table.rows.iter().map(|row| row.join(" | ")).collect::<Vec<_>>();
        assert_eq!(
            rows(&page.tables[0]),
            ["training_loss | 2 | 4", "val/acc | 0.5 | NaN", "val/num | 4 | 4"]
        );
        assert_eq!(rows(&page.tables[1]), ["training_loss | 1 at 2 | 4 at 1", "val/acc | 0.5 at 2 | "]);
        let charts = group(&page.series);
        let names =
            charts.iter().map(|(title, series)| (*title, series.iter().map(|s| s.name.as_str()).collect()));
        let names: Vec<(&str, Vec<&str>)> = names.collect();
        assert_eq!(names[0], ("Training loss", vec!["a", "b"]));
        assert!(names.iter().all(|(_, names)| *names == ["a", "b"]), "{names:?}");
    }
}
