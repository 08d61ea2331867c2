//! The one owner of the terminal: progress bars, plain lines and log lines that never tear each other.
//!
//! Everything goes to standard error; standard output belongs to results. On a terminal, progress is a bar at
//! the bottom and lines appear above it. Elsewhere (a file, a pipe, CI) progress is a plain line now and then.
//! With [`LogFormat::Json`] every line is one JSON object.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde_json::{Map, Value, json};

use super::logging::{LogFormat, json_line};
use super::units;

/// What the user asked for with `-q`, `-v` and `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConsoleOptions {
    /// Only warnings and errors.
    pub quiet: bool,
    /// How many `-v` were given: 1 shows debug messages, 2 and more everything.
    pub verbose: u8,
    pub log_format: LogFormat,
}

/// How often progress is printed where there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A handle on the terminal; clones share it.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

struct Shared {
    options: ConsoleOptions,
    bars: MultiProgress,
    has_bars: bool,
    ansi: bool,
    line_every: Duration,
    lines: Mutex<Box<dyn Write + Send>>,
}

impl Console {
    /// The process's standard error. Bars need a terminal, colours a terminal and no `NO_COLOR`.
    pub fn stderr(options: ConsoleOptions) -> Self {
        let terminal = io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let has_bars = terminal && !options.quiet && options.log_format == LogFormat::Text;
        let target = if has_bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Console::new(options, target, terminal && !no_color, LINE_EVERY, Box::new(io::stderr()))
    }

    /// Plain lines into any writer, as where standard error is not a terminal; a line of progress at most
    /// every `line_every`.
    pub fn lines_to(
        options: ConsoleOptions,
        line_every: Duration,
        lines: impl Write + Send + 'static,
    ) -> Self {
        Console::new(options, ProgressDrawTarget::hidden(), false, line_every, Box::new(lines))
    }

    fn new(
        options: ConsoleOptions,
        target: ProgressDrawTarget,
        ansi: bool,
        line_every: Duration,
        lines: Box<dyn Write + Send>,
    ) -> Self {
        let has_bars = !target.is_hidden();
        let bars = MultiProgress::with_draw_target(target);
        let shared = Shared { options, bars, has_bars, ansi, line_every, lines: Mutex::new(lines) };
        Console { shared: Arc::new(shared) }
    }

    pub fn options(&self) -> ConsoleOptions {
        self.shared.options
    }

    /// Whether lines may be coloured.
    pub fn ansi(&self) -> bool {
        self.shared.ansi
    }

    /// Prints a line, above the bars; nothing when quiet.
    pub fn line(&self, text: &str) {
        self.say(text, Map::new());
    }

    /// Prints a title and rows of names and values, as at the end of a run; nothing when quiet.
    pub fn summary(&self, title: &str, rows: &[(String, String)]) {
        if self.shared.options.log_format == LogFormat::Json {
            let fields = rows.iter().map(|(name, value)| (name.clone(), json!(value)));
            return self.say(title, fields.collect());
        }
        self.line(&table(title, rows));
    }

    /// Announces something slow (loading, compiling). [`Phase::done`] says how long it took.
    pub fn phase(&self, what: impl Into<String>) -> Phase {
        let what = what.into();
        let bar = self.shared.has_bars.then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} … {elapsed}")
                .expect("the template is a constant that the tests draw");
            let bar = self.shared.bars.add(ProgressBar::new_spinner().with_style(style));
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            self.line(&format!("{what} …"));
        }
        Phase { console: self.clone(), what, started: Instant::now(), bar }
    }

    /// Starts a progress bar from `first_step` (where a resumed run stands) to `total_steps`.
    pub fn progress(&self, what: impl Into<String>, first_step: u64, total_steps: u64) -> Progress {
        let what = what.into();
        let bar = self.add_bar(total_steps, "{prefix} {wide_bar:.cyan/dim} {msg}", ProgressFinish::default());
        if let Some(bar) = &bar {
            bar.set_prefix(what.clone());
            bar.set_message(format!("{first_step}/{total_steps}"));
            bar.set_position(first_step);
        }
        let pace = Mutex::new(Pace::default());
        Progress { console: self.clone(), what, total_steps, bar, pace }
    }

    /// A bar below the lines, where there are bars.
    pub(super) fn add_bar(
        &self,
        len: u64,
        template: &'static str,
        finish: ProgressFinish,
    ) -> Option<ProgressBar> {
        self.shared.has_bars.then(|| {
            let style = ProgressStyle::with_template(template)
                .expect("the template is a constant that the tests draw")
                .progress_chars("━╸─");
            self.shared.bars.add(ProgressBar::new(len).with_style(style).with_finish(finish))
        })
    }

    /// Writes bytes as they are, with the bars out of the way. Errors are dropped: there is nowhere left to
    /// tell them, and a run must not fail because its terminal is gone.
    pub(super) fn write_raw(&self, bytes: &[u8]) {
        self.shared.bars.suspend(|| {
            let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = lines.write_all(bytes).and_then(|()| lines.flush());
        });
    }

    fn say(&self, text: &str, fields: Map<String, Value>) {
        if self.shared.options.quiet {
            return;
        }
        let line = match self.shared.options.log_format {
            LogFormat::Text => format!("{text}\n"),
            LogFormat::Json => json_line("info", module_path!(), text, fields),
        };
        self.write_raw(line.as_bytes());
    }
}

/// Something slow that is under way. Dropped without [`done`](Phase::done), as on an error, it says nothing.
pub struct Phase {
    console: Console,
    what: String,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Phase {
    /// Prints how long it took, with a remark (`cache hit`) unless that is empty. Returns the time taken.
    pub fn done(self, remark: &str) -> Duration {
        let took = self.started.elapsed();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let remark = if remark.is_empty() { String::new() } else { format!(" ({remark})") };
        self.console.line(&format!("{}: {}{remark}", self.what, units::duration(took)));
        took
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Where a run stands. What is not known is left out of the line.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Status {
    pub step: u64,
    pub loss: Option<f64>,
    pub examples_per_sec: Option<f64>,
    /// The part of the time, 0 to 1, in which the device waited for input.
    pub input_wait: Option<f64>,
}

/// A progress bar, or the plain lines in its place. Dropping it removes the bar.
pub struct Progress {
    console: Console,
    what: String,
    total_steps: u64,
    bar: Option<ProgressBar>,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct Pace {
    /// The first update. Rates count from it, so that compilation does not spoil the estimate.
    first: Option<(Instant, u64)>,
    printed: Option<Instant>,
}

impl Progress {
    /// Shows a new state. The bar is redrawn at most twenty times a second, however often this is called.
    pub fn update(&self, status: Status) {
        let now = Instant::now();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *pace.first.get_or_insert((now, status.step));
        let left = time_left(first, (now, status.step), self.total_steps);
        if let Some(bar) = &self.bar {
            bar.set_message(status_text(&status, self.total_steps, left));
            bar.set_position(status.step);
            return;
        }
        let due = pace.printed.is_none_or(|at| now.duration_since(at) >= self.console.shared.line_every);
        if !due && status.step < self.total_steps {
            return;
        }
        pace.printed = Some(now);
        match self.console.shared.options.log_format {
            LogFormat::Text => {
                let text = status_text(&status, self.total_steps, left);
                self.console.line(&format!("{} {text}", self.what));
            }
            LogFormat::Json => self.console.say(&self.what, status_fields(&status, self.total_steps, left)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The time to the end at the pace since `first`; unknown before the second update.
fn time_left(first: (Instant, u64), now: (Instant, u64), total_steps: u64) -> Option<Duration> {
    let steps = now.1.checked_sub(first.1).filter(|&steps| steps > 0)?;
    let per_step = now.0.duration_since(first.0).as_secs_f64() / steps as f64;
    Duration::try_from_secs_f64(per_step * total_steps.saturating_sub(now.1) as f64).ok()
}

fn status_text(status: &Status, total_steps: u64, left: Option<Duration>) -> String {
    let mut parts = vec![format!("{}/{total_steps}", status.step)];
    parts.extend(status.loss.map(|loss| format!("loss {loss:.4}")));
    parts.extend(status.examples_per_sec.map(|rate| format!("{} examples/s", units::number(rate))));
    parts.extend(status.input_wait.map(|part| format!("input {:.0}%", part * 100.0)));
    parts.extend(left.map(|left| format!("ETA {}", units::duration(left))));
    parts.join("  ")
}

fn status_fields(status: &Status, total_steps: u64, left: Option<Duration>) -> Map<String, Value> {
    let numbers = [
        ("loss", status.loss),
        ("examples_per_sec", status.examples_per_sec),
        ("input_wait", status.input_wait),
        ("eta_secs", left.map(|left| left.as_secs_f64())),
    ];
    let known = numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    let steps = [("step", status.step), ("total_steps", total_steps)];
    steps.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).chain(known).collect()
}

fn table(title: &str, rows: &[(String, String)]) -> String {
    let widest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let row = |(name, value): &(String, String)| {
        let blanks = " ".repeat(widest - name.chars().count());
        // Later lines of a value stand under its first.
        let value = value.replace('\n', &format!("\n{}", " ".repeat(widest + 4)));
        format!("\n  {name}{blanks}  {value}")
    };
    rows.iter().map(row).fold(title.to_owned(), |text, row| text + &row)
}

#[cfg(test)]
pub(super) mod tests {
    use indicatif::{InMemoryTerm, TermLike};
    use pretty_assertions::assert_eq;

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    pub struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct TermLines(InMemoryTerm);

    impl Write for TermLines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write_str(&str::from_utf8(bytes).unwrap().replace('\n', "\r\n"))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub fn terminal() -> (InMemoryTerm, Console) {
        let term = InMemoryTerm::new(10, 100);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let lines = Box::new(TermLines(term.clone()));
        (term, Console::new(ConsoleOptions::default(), target, false, LINE_EVERY, lines))
    }

    fn status(step: u64) -> Status {
        Status { step, loss: Some(0.51234), examples_per_sec: Some(45.125), input_wait: Some(0.031) }
    }

    #[test]
    fn lines_appear_above_the_bar() {
        let (term, console) = terminal();
        let progress = console.progress("train", 0, 200);
        progress.update(status(100));
        console.line("first line");
        console.line("second line");
        let contents = term.contents();
        let lines: Vec<&str> = contents.lines().collect();
        assert_eq!(lines[..2], ["first line", "second line"], "{lines:?}");
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].starts_with("train ━━"), "{lines:?}");
        assert!(lines[2].ends_with("100/200  loss 0.5123  45.12 examples/s  input 3%"), "{lines:?}");
        drop(progress);
        assert_eq!(term.contents(), "first line\nsecond line");
    }

    #[test]
    fn phases_tell_their_time() {
        let (term, console) = terminal();
        let phase = console.phase("compiling the training step");
        assert!(term.contents().contains("compiling the training step …") || term.contents().is_empty());
        phase.done("cache hit");
        let text = term.contents();
        assert!(
            text.starts_with("compiling the training step: ") && text.ends_with(" (cache hit)"),
            "{text}"
        );
        drop(console.phase("something that fails"));
        assert_eq!(term.contents(), text);
    }

    #[test]
    fn without_a_terminal_progress_is_a_line_now_and_then() {
        let kept = Kept::default();
        let console = Console::lines_to(ConsoleOptions::default(), Duration::from_secs(3600), kept.clone());
        let progress = console.progress("train", 0, 3);
        for step in 1..=3 {
            progress.update(Status { step, loss: Some(f64::NAN), ..Status::default() });
        }
        let text = kept.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "train 1/3  loss NaN");
        assert!(
            lines[1].starts_with("train 3/3  loss NaN  ETA 0 ms"),
            "the last step is always printed: {lines:?}"
        );
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn every_update_is_a_line_when_the_interval_is_zero() {
        let kept = Kept::default();
        let console = Console::lines_to(ConsoleOptions::default(), Duration::ZERO, kept.clone());
        let progress = console.progress("eval", 0, 5);
        (1..=5).for_each(|step| progress.update(status(step)));
        assert_eq!(kept.text().lines().count(), 5);
    }

    #[test]
    fn quiet_is_quiet() {
        let kept = Kept::default();
        let options = ConsoleOptions { quiet: true, ..ConsoleOptions::default() };
        let console = Console::lines_to(options, Duration::ZERO, kept.clone());
        console.line("line");
        console.progress("train", 0, 5).update(status(5));
        console.phase("load").done("");
        console.summary("done", &[("a".into(), "b".into())]);
        assert_eq!(kept.text(), "");
    }

    #[test]
    fn json_lines_are_objects() {
        let kept = Kept::default();
        let options = ConsoleOptions { log_format: LogFormat::Json, ..ConsoleOptions::default() };
        let console = Console::lines_to(options, Duration::ZERO, kept.clone());
        console.phase("load \"x\"").done("");
        console.progress("train", 0, 5).update(status(2));
        console.summary("done", &[("steps".into(), "5".into())]);
        let text = kept.text();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["message"], "load \"x\" …");
        assert_eq!((&lines[2]["step"], &lines[2]["loss"]), (&json!(2), &json!(0.51234)));
        assert_eq!((&lines[3]["message"], &lines[3]["steps"]), (&json!("done"), &json!("5")));
    }

    #[test]
    fn estimates_count_from_the_first_update() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        assert_eq!(time_left((start, 5), (start, 5), 100), None);
        assert_eq!(time_left((start, 5), (later, 10), 100), Some(Duration::from_secs(180)));
        assert_eq!(time_left((start, 5), (later, 110), 100), Some(Duration::ZERO));
        assert_eq!(time_left((start, 5), (later, 4), 100), None);
    }

    #[test]
    fn tables_align() {
        let rows = [("steps".into(), "1000".into()), ("final löss".into(), "0.1\n0.2".into())];
        assert_eq!(table("Done", &rows), "Done\n  steps       1000\n  final löss  0.1\n              0.2");
        assert_eq!(table("Done", &[]), "Done");
    }
}
