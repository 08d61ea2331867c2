//! Line charts as inline SVG, without scripts: hovering over a step shows its values.

use maud::{Markup, html};

use super::metrics::{Row, keys_of, points_of};
use super::results::{is_idle, is_of_evaluation};
use super::units::number;

/// One curve. Series with the same `chart` share a pair of axes, under that title.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub chart: String,
    pub name: String,
    /// (step, value), in order of steps. Values that are not finite are marked at the upper edge.
    pub points: Vec<(u64, f64)>,
    /// Draws an exponentially weighted average, with the values themselves faint behind it.
    pub smooth: bool,
    pub scale: Scale,
    /// Which of several runs it is of: their colours and names are the same in every chart.
    pub run: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Logarithmic when all values are positive and span more than a factor of thirty.
    #[default]
    Auto,
    Linear,
    Log,
}

/// The curves a report of a training run shows, picked from its metrics by their big_vision names: the loss,
/// the learning rate's schedule, norms, and everything evaluators measured.
pub fn series_of(rows: &[Row]) -> Vec<Series> {
    let mut all: Vec<(u8, Series)> = Vec::new();
    let keys = keys_of(rows);
    // A single schedule has the shape of the learning rate, which is its multiple.
    let has_rate = keys.contains(&"lr") && keys.contains(&"global_schedule");
    for key in keys {
        let (rank, chart, smooth, scale) = match key {
            "training_loss" => (0, "Training loss", true, Scale::Auto),
            "lr" | "learning_rate" => (1, "Learning rate", false, Scale::Linear),
            "global_schedule" if has_rate => continue,
            _ if key.starts_with("global_schedule") => {
                (1, "Schedule of the learning rate", false, Scale::Linear)
            }
            "l2_grads" => (3, "Norm of the gradient", true, Scale::Auto),
            _ if is_of_evaluation(key) => (2, key, false, Scale::Auto),
            // Timings and memory, for tools rather than for this page.
            _ => continue,
        };
        let (chart, name, points) = (chart.to_owned(), key.to_owned(), points_of(rows, key));
        let series = Series { chart, name, points, smooth, scale, run: None };
        if !is_idle(&series) {
            all.push((rank, series));
        }
    }
    all.sort_by_key(|&(rank, _)| rank);
    all.into_iter().map(|(_, series)| series).collect()
}

/// Puts curves into one chart whose names begin with the same word: `val/mAP`, `val/mAP50` and `val/mAP_small`.
pub fn by_family(mut all: Vec<Series>) -> Vec<Series> {
    let stem = |series: &Series| {
        let (eval, metric) = series.name.rsplit_once('/')?;
        let word = metric.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(metric.len());
        (word > 0).then(|| format!("{eval}/{}", &metric[..word]))
    };
    let stems: Vec<Option<String>> = all.iter().map(stem).collect();
    for (series, stem) in all.iter_mut().zip(&stems) {
        let members = stems.iter().filter(|other| *other == stem).count();
        // More than there are colours are told apart in charts of their own.
        if let Some(stem) = stem.as_ref().filter(|_| (2..=COLOURS).contains(&members)) {
            series.chart = stem.clone();
        }
    }
    all
}

/// The series in groups that share a chart, in order of first appearance.
pub fn group(series: &[Series]) -> Vec<(&str, Vec<&Series>)> {
    let mut charts: Vec<(&str, Vec<&Series>)> = Vec::new();
    for one in series.iter().filter(|one| !one.points.is_empty()) {
        match charts.iter_mut().find(|(title, _)| *title == one.chart) {
            Some((_, members)) => members.push(one),
            None => charts.push((&one.chart, vec![one])),
        }
    }
    charts
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// More points than this are drawn as the extremes of stretches, which look the same.
const MAX_POINTS: usize = 600;
/// Columns that answer to the pointer.
const MAX_COLUMNS: usize = 100;
/// The page has this many colours for curves.
const COLOURS: usize = 6;

/// One pair of axes with its curves. `series` share a chart; at least one has a point.
pub fn chart(title: &str, series: &[&Series]) -> Markup {
    let axes = Axes::around(series);
    html! {
        figure.chart {
            figcaption {
                strong { (title) }
                @if axes.log { span.faint { "logarithmic" } }
                @if series.len() > 1 || series.iter().any(|one| one.run.is_some()) {
                    @for (i, one) in series.iter().enumerate() {
                        span { i.swatch.(colour(i, one)) {} (one.name) }
                    }
                }
            }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(described(title, series)) {
                (grid(&axes))
                @for (i, one) in series.iter().enumerate() { (curve(&axes, one, colour(i, one))) }
                (columns(&axes, series))
            }
        }
    }
}

/// The colour of the curve that has this place in its chart.
fn colour(index: usize, series: &Series) -> String {
    format!("c{}", series.run.unwrap_or(index) % COLOURS)
}

/// Maps steps and values to positions.
struct Axes {
    steps: (f64, f64),
    /// In logarithms to base ten if `log`.
    values: (f64, f64),
    log: bool,
    ticks: Vec<f64>,
}

impl Axes {
    fn around(series: &[&Series]) -> Axes {
        let points = || series.iter().flat_map(|one| &one.points);
        let steps = extent(points().map(|p| p.0 as f64)).unwrap_or((0.0, 1.0));
        let finite = || points().map(|p| p.1).filter(|v| v.is_finite());
        let positive = || finite().filter(|&v| v > 0.0);
        let wide = positive().count() == finite().count()
            && extent(positive()).is_some_and(|(low, high)| high / low > 30.0);
        let wanted = |one: &&Series| match one.scale {
            Scale::Auto => wide,
            Scale::Linear => false,
            Scale::Log => positive().next().is_some(),
        };
        let log = series.iter().all(wanted);
        let steps = if steps.0 == steps.1 { (steps.0 - 1.0, steps.1 + 1.0) } else { steps };
        if log {
            let (low, high) = extent(positive().map(f64::log10)).unwrap_or((0.0, 1.0));
            let pad = ((high - low) * 0.04).max(0.05);
            let values = (low - pad, high + pad);
            return Axes { steps, values, log, ticks: log_ticks(values) };
        }
        let (low, high) = extent(finite()).unwrap_or((0.0, 1.0));
        let (low, high) = match low == high {
            // Most of what is never anything but 0 is a share.
            true if low == 0.0 => (0.0, 1.0),
            true => (low - low.abs() * 0.1, low + low.abs() * 0.1),
            false => (low, high),
        };
        let ticks = nice_ticks(low, high, 5);
        let values = (ticks[0].min(low), ticks[ticks.len() - 1].max(high));
        Axes { steps, values, log, ticks }
    }

    fn x(&self, step: u64) -> f64 {
        let part = (step as f64 - self.steps.0) / (self.steps.1 - self.steps.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    /// None for what has no place: not finite, or not positive on a logarithmic axis.
    fn y(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        let part = (value - self.values.0) / (self.values.1 - self.values.0);
        value.is_finite().then_some(HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM))
    }
}

fn grid(axes: &Axes) -> Markup {
    let step_ticks = nice_ticks(axes.steps.0.max(0.0), axes.steps.1, 5);
    let step_ticks = step_ticks
        .into_iter()
        .filter(|&step| step.fract() == 0.0 && step >= axes.steps.0.max(0.0) && step <= axes.steps.1);
    html! {
        g.grid {
            @for &tick in &axes.ticks {
                @if let Some(y) = axes.y(tick) {
                    line x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(y)) y2=(px(y)) {}
                    text x=(px(LEFT - 7.0)) y=(px(y + 4.0)) text-anchor="end" { (number(tick)) }
                }
            }
            text x="0" y=(px(HEIGHT - BOTTOM + 19.0)) { "step" }
            @for tick in step_ticks {
                text x=(px(axes.x(tick as u64))) y=(px(HEIGHT - BOTTOM + 19.0)) text-anchor="middle" {
                    (number(tick))
                }
            }
        }
    }
}

fn curve(axes: &Axes, series: &Series, colour: String) -> Markup {
    let few = series.points.len() <= 24;
    let dots = series.points.iter().filter_map(|&(step, value)| Some((axes.x(step), axes.y(value)?)));
    let lost = series.points.iter().filter(|&&(_, value)| axes.y(value).is_none());
    html! {
        g class=(colour) {
            @if series.smooth && !few {
                path.line.raw d=(path(axes, &series.points)) {}
                path.line d=(path(axes, &smoothed(&series.points))) {}
            } @else {
                path.line d=(path(axes, &series.points)) {}
                @if few { @for (x, y) in dots { circle cx=(px(x)) cy=(px(y)) r="2.6" {} } }
            }
            @for &(step, value) in lost.take(MAX_COLUMNS) {
                text.lost x=(px(axes.x(step))) y=(px(TOP + 4.0)) text-anchor="middle" {
                    "×" title { (format!("step {step}: {}", number(value))) }
                }
            }
        }
    }
}

/// Invisible columns whose titles the browser shows, with a dot on each curve while the pointer is there.
fn columns(axes: &Axes, series: &[&Series]) -> Markup {
    let mut steps: Vec<u64> = series.iter().flat_map(|one| one.points.iter().map(|p| p.0)).collect();
    steps.sort_unstable();
    steps.dedup();
    let every = steps.len().div_ceil(MAX_COLUMNS).max(1);
    let last = steps.len().saturating_sub(1);
    let shown: Vec<u64> = steps
        .iter()
        .enumerate()
        .filter(|(i, _)| i % every == 0 || *i == last)
        .map(|(_, &step)| step)
        .collect();
    let averages: Vec<Option<Vec<(u64, f64)>>> = series
        .iter()
        .map(|one| (one.smooth && one.points.len() > 24).then(|| smoothed(&one.points)))
        .collect();
    let at = |points: &[(u64, f64)], step: u64| {
        points.binary_search_by_key(&step, |p| p.0).ok().map(|index| points[index].1)
    };
    let middle = |a: u64, b: u64| (axes.x(a) + axes.x(b)) / 2.0;
    let column = |i: usize| {
        let step = shown[i];
        let from = if i == 0 { LEFT } else { middle(shown[i - 1], step) };
        let to = if i + 1 == shown.len() { WIDTH - RIGHT } else { middle(step, shown[i + 1]) };
        let mut text = format!("step {step}");
        let mut dots = Vec::new();
        for (k, one) in series.iter().enumerate() {
            let Some(value) = at(&one.points, step) else { continue };
            text += &format!("\n{}: {}", one.name, number(value));
            let average = averages[k].as_ref().and_then(|points| at(points, step));
            if let Some(average) = average {
                text += &format!(" (smoothed {})", number(average));
            }
            dots.extend(axes.y(average.unwrap_or(value)).map(|y| (axes.x(step), y, colour(k, one))));
        }
        (from, to - from, text, dots)
    };
    html! {
        @for (x, width, text, dots) in (0..shown.len()).map(column) {
            g.column {
                rect x=(px(x)) y=(px(TOP)) width=(px(width)) height=(px(HEIGHT - TOP - BOTTOM)) {}
                @for (x, y, colour) in dots { circle.(colour) cx=(px(x)) cy=(px(y)) r="3.5" {} }
                title { (text) }
            }
        }
    }
}

/// A path through the points; values without a place interrupt it.
fn path(axes: &Axes, points: &[(u64, f64)]) -> String {
    let mut path = String::new();
    let mut pen_up = true;
    for (step, value) in thinned(points) {
        let Some(y) = axes.y(value) else {
            pen_up = true;
            continue;
        };
        let command = if pen_up { 'M' } else { 'L' };
        path += &format!("{command}{} {}", px(axes.x(step)), px(y));
        pen_up = false;
    }
    path
}

/// At most [`MAX_POINTS`]: of each stretch, its lowest and its highest point.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MAX_POINTS / 2);
    let extremes = points.chunks(stretch).flat_map(|chunk| {
        let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
        let low = chunk.iter().min_by(by_value).copied();
        let high = chunk.iter().max_by(by_value).copied();
        let mut pair: Vec<_> = low.into_iter().chain(high).collect();
        pair.sort_by_key(|p| p.0);
        pair.dedup_by_key(|p| p.0);
        pair
    });
    extremes.collect()
}

/// An average with weights that fall off exponentially to both sides, so that it does not lag behind as a
/// running average does. The longer the curve, the smoother.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 60.0).clamp(3.0, 100.0);
    // Sums of weighted values and of weights of the points up to each one, from its side.
    let sums = |values: &mut dyn Iterator<Item = f64>| -> Vec<(f64, f64)> {
        let mut sum = (0.0, 0.0);
        let next = |value: f64| {
            let (value, weight) = if value.is_finite() { (value, 1.0) } else { (0.0, 0.0) };
            sum = (sum.0 * keep + value, sum.1 * keep + weight);
            sum
        };
        values.map(next).collect()
    };
    let before = sums(&mut points.iter().map(|p| p.1));
    let after = sums(&mut points.iter().rev().map(|p| p.1));
    let average = |i: usize| {
        let (step, value) = points[i];
        let (before, after) = (before[i], after[points.len() - 1 - i]);
        // Both sides hold the point itself. One that is not finite makes a gap of itself alone.
        (step, (before.0 + after.0 - value) / (before.1 + after.1 - 1.0))
    };
    (0..points.len()).map(average).collect()
}

/// Round values from at or below `low` to at or above `high`, about `count` of them.
fn nice_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low).max(f64::MIN_POSITIVE) / count as f64;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * decade).into_iter().find(|&step| step >= rough * 0.999);
    let step = step.unwrap_or(rough);
    let (first, last) = ((low / step).floor(), (high / step).ceil());
    if !(first.is_finite() && last.is_finite()) || last - first > 100.0 {
        return vec![low, high];
    }
    // Through text, so that 3 * 0.1 is 0.3.
    (first as i64..=last as i64).map(|i| tidy(i as f64 * step)).collect()
}

/// Powers of ten, with twos and fives where there are few of them. `low` and `high` are logarithms.
fn log_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let decades = (low.floor() as i32)..=(high.ceil() as i32);
    let every = (((high - low) / 6.0).ceil() as i32).max(1);
    let factors: &[f64] = if high - low < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let ticks = decades.filter(|decade| decade % every == 0);
    let ticks = ticks.flat_map(|decade| factors.iter().map(move |m| tidy(m * 10f64.powi(decade))));
    ticks.filter(|tick| (low..=high).contains(&tick.log10())).collect()
}

fn tidy(value: f64) -> f64 {
    format!("{value:.9e}").parse().unwrap_or(value)
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, v| {
        Some(range.map_or((v, v), |(low, high): (f64, f64)| (low.min(v), high.max(v))))
    })
}

/// What the picture says, for those who do not see it.
fn described(title: &str, series: &[&Series]) -> String {
    let one = |one: &&Series| {
        let (Some(first), Some(last)) = (one.points.first(), one.points.last()) else { return String::new() };
        let range = extent(one.points.iter().map(|p| p.1).filter(|v| v.is_finite()));
        let range = range.map(|(low, high)| format!(", between {} and {}", number(low), number(high)));
        format!(
            "; {} from {} at step {} to {} at step {}{}",
            one.name,
            number(first.1),
            first.0,
            number(last.1),
            last.0,
            range.unwrap_or_default()
        )
    };
    format!("chart of {title}{}", series.iter().map(one).collect::<String>())
}

/// A coordinate with a tenth of a pixel's precision.
fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn series(points: &[(u64, f64)]) -> Series {
        let (chart, name) = ("Loss".into(), "training_loss".into());
        Series { chart, name, points: points.to_vec(), smooth: false, scale: Scale::Auto, run: None }
    }

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(nice_ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(nice_ticks(0.07, 3.23, 5), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(nice_ticks(-0.1, 0.2, 3), [-0.1, 0.0, 0.1, 0.2]);
        assert_eq!(nice_ticks(1.0, 64.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(log_ticks((-2.0, 1.0)), [0.01, 0.1, 1.0, 10.0]);
        assert_eq!(log_ticks((0.0, 1.0)), [1.0, 2.0, 5.0, 10.0]);
        assert!(log_ticks((-30.0, 30.0)).len() <= 8);
    }

    #[test]
    fn the_scale_follows_the_values() {
        let log = |points: &[(u64, f64)]| Axes::around(&[&series(points)]).log;
        assert!(log(&[(1, 3.0), (2, 0.05)]));
        assert!(!log(&[(1, 3.0), (2, 0.5)]));
        assert!(!log(&[(1, 3.0), (2, 0.0)]), "zero has no logarithm");
        assert!(log(&[(1, 3.0), (2, f64::NAN), (3, 0.05)]));
        let linear = Series { scale: Scale::Linear, ..series(&[(1, 3.0), (2, 0.001)]) };
        assert!(!Axes::around(&[&linear]).log);
        let forced = Series { scale: Scale::Log, ..series(&[(1, 3.0), (2, 0.0)]) };
        assert!(Axes::around(&[&forced]).log);
    }

    #[test]
    fn everything_is_drawn_inside_the_axes() {
        for points in [
            vec![(0, 1.0)],
            vec![(5, 0.0), (6, 0.0)],
            vec![(1, -1e300), (2, 1e300)],
            vec![(1, 1e-300), (2, 1e300)],
            vec![(1, f64::NAN), (2, f64::INFINITY)],
            vec![(0, -3.0), (u64::MAX, 4.0)],
            (0..5000).map(|i| (i, (i as f64 * 0.01).sin() + 2.0)).collect(),
        ] {
            let one = series(&points);
            let axes = Axes::around(&[&one]);
            for &(step, value) in &points {
                let x = axes.x(step);
                assert!((LEFT - 0.1..=WIDTH - RIGHT + 0.1).contains(&x), "{x} of {points:?}");
                if let Some(y) = axes.y(value) {
                    assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y), "{y} of {:?}", (step, value));
                }
            }
            let svg = chart("Loss", &[&one]).into_string();
            assert!(svg.len() < 60_000, "{} bytes for {} points", svg.len(), points.len());
            assert!(!svg.contains("NaN\"") && !svg.contains("inf\""), "a coordinate is not a number");
        }
    }

    #[test]
    fn values_that_are_not_numbers_interrupt_the_line() {
        let one = series(&[(1, 1.0), (2, 2.0), (3, f64::NAN), (4, 1.0), (5, 2.0)]);
        let axes = Axes::around(&[&one]);
        assert_eq!(path(&axes, &one.points).matches('M').count(), 2);
        let svg = chart("Loss", &[&one]).into_string();
        assert!(svg.contains("step 3: NaN"));
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let mut points: Vec<(u64, f64)> = (0..10_000).map(|i| (i, 1.0)).collect();
        points[4321].1 = 9.0;
        points[8765].1 = -9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= MAX_POINTS && thin.contains(&(4321, 9.0)) && thin.contains(&(8765, -9.0)));
        assert!(thin.is_sorted_by_key(|p| p.0));
    }

    #[test]
    fn smoothing_averages_without_a_lag() {
        assert!(smoothed(&[(1, 2.0); 50]).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
        let points: Vec<(u64, f64)> = (0..100).map(|i| (i, f64::from(i % 2 == 0))).collect();
        let smooth = smoothed(&points);
        assert!(smooth.iter().all(|p| (p.1 - 0.5).abs() < 0.3));
        let ramp: Vec<(u64, f64)> = (0..101).map(|i| (i, i as f64)).collect();
        assert!((smoothed(&ramp)[50].1 - 50.0).abs() < 1e-6, "the middle of a ramp stays where it is");
        let mut gap = ramp.clone();
        gap[50].1 = f64::NAN;
        let gap = smoothed(&gap);
        assert!(gap[50].1.is_nan() && (gap[51].1 - 51.0).abs() < 1.0);
    }

    #[test]
    fn families_share_a_chart() {
        let row = |step: u64| {
            let names =
                ["lr", "global_schedule", "val/mAP", "val/mAP50", "val/AR_10", "val/num", "other/mAP"];
            Row { step, values: names.iter().map(|name| ((*name).to_owned(), 1.0)).collect() }
        };
        let series = by_family(series_of(&[row(1), row(2)]));
        let groups = group(&series);
        let shown: Vec<(&str, usize)> =
            groups.iter().map(|(title, members)| (*title, members.len())).collect();
        assert_eq!(shown, [("Learning rate", 1), ("val/mAP", 2), ("val/AR_10", 1), ("other/mAP", 1)]);
    }

    #[test]
    fn metrics_become_charts() {
        let row =
            |step, keys: &[&str]| Row { step, values: keys.iter().map(|k| ((*k).into(), 1.0)).collect() };
        let rows = [
            row(
                1,
                &["uptime", "l2_grads", "training_loss", "global_schedule", "z/secs/eval", "img/sec/core"],
            ),
            row(2, &["training_loss", "val/pplx/avg", "num_params"]),
        ];
        let series = series_of(&rows);
        let names: Vec<(&str, usize)> = series.iter().map(|s| (s.name.as_str(), s.points.len())).collect();
        assert_eq!(
            names,
            [("training_loss", 2), ("global_schedule", 1), ("val/pplx/avg", 1), ("l2_grads", 1)]
        );
        let both = [
            Series { chart: "x".into(), ..series[0].clone() },
            series[1].clone(),
            Series { chart: "x".into(), ..series[2].clone() },
        ];
        let groups = group(&both);
        assert_eq!((groups.len(), groups[0].1.len()), (2, 2));
    }
}
