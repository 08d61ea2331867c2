//! `tracing` events as lines on the [`Console`], so that they never tear its bars.

use std::fmt::{self, Debug};
use std::io;
use std::str::FromStr;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::Error;
use super::console::{Console, ConsoleOptions};

/// The variable that replaces the levels of `-q` and `-v`, in `tracing`'s filter language
/// (`info,paligemma::data=trace`).
pub const FILTER_VARIABLE: &str = "PALIGEMMA_LOG";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: the message, and the level where it is not `info`.
    #[default]
    Text,
    /// One JSON object a line: `time`, `level`, `target`, `message` and the event's fields.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("unknown log format \"{name}\", known are: text, json")),
        }
    }
}

/// Sends the process's log lines to the console. To be called once, at the program's start.
///
/// # Errors
/// When [`FILTER_VARIABLE`] cannot be parsed, or a logger has been installed before.
pub fn init_logging(console: &Console) -> Result<(), Error> {
    let filter = std::env::var(FILTER_VARIABLE).ok();
    subscriber(console, filter.as_deref())?.try_init().map_err(|_| Error::SecondLogger)
}

fn subscriber(
    console: &Console,
    filter: Option<&str>,
) -> Result<impl Subscriber + Send + Sync + 'static, Error> {
    let filter = filter.filter(|filter| !filter.trim().is_empty());
    let filter = filter.unwrap_or(default_filter(console.options()));
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| Error::LogFilter { filter: filter.to_owned(), reason: source.to_string() })?;
    Ok(tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(console.ansi())
        .with_writer(console.clone())
        .event_format(Lines(console.options().log_format))
        .finish())
}

/// This program's own messages one level finer than its libraries'.
fn default_filter(options: ConsoleOptions) -> &'static str {
    match (options.quiet, options.verbose) {
        (true, _) => "warn",
        (false, 0) => "warn,paligemma=info",
        (false, 1) => "info,paligemma=debug",
        (false, _) => "debug,paligemma=trace",
    }
}

/// Writes one event to the console when it is complete.
pub struct LogWriter {
    console: Console,
    bytes: Vec<u8>,
}

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.bytes.is_empty() {
            self.console.write_raw(&self.bytes);
            self.bytes.clear();
        }
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        io::Write::flush(self).expect("the console drops errors");
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter { console: self.clone(), bytes: Vec::new() }
    }
}

struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        match self.0 {
            LogFormat::Text => {
                let (name, colour) = match level {
                    Level::ERROR => ("error: ", 31),
                    Level::WARN => ("warning: ", 33),
                    Level::INFO => ("", 0),
                    Level::DEBUG => ("debug: ", 2),
                    Level::TRACE => ("trace: ", 2),
                };
                if writer.has_ansi_escapes() && !name.is_empty() {
                    write!(writer, "\x1b[{colour}m{name}\x1b[0m")?;
                } else {
                    write!(writer, "{name}")?;
                }
                context.field_format().format_fields(writer.by_ref(), event)?;
                writeln!(writer)
            }
            LogFormat::Json => {
                let mut fields = JsonFields(Map::new());
                event.record(&mut fields);
                let message = fields.0.shift_remove("message");
                let message = message.as_ref().and_then(Value::as_str).unwrap_or_default();
                let level = level.to_string().to_lowercase();
                write!(writer, "{}", json_line(&level, event.metadata().target(), message, fields.0))
            }
        }
    }
}

/// One line of the JSON format, with its line break. Fields do not replace the four that each line has.
pub(super) fn json_line(level: &str, target: &str, message: &str, fields: Map<String, Value>) -> String {
    let mut time = String::new();
    // Formatting the time fails only if the clock is beyond all calendars; the line is worth more than it.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let mut line = Map::new();
    line.insert("time".into(), time.trim().into());
    line.insert("level".into(), level.into());
    line.insert("target".into(), target.into());
    line.insert("message".into(), message.into());
    for (name, value) in fields {
        line.entry(name).or_insert(value);
    }
    format!("{}\n", Value::Object(line))
}

struct JsonFields(Map<String, Value>);

impl JsonFields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN; its name says more than null.
        self.put(field, if value.is_finite() { json!(value) } else { json!(value.to_string()) });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, json!(format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pretty_assertions::assert_eq;
    use tracing::subscriber::with_default;
    use tracing::{debug, error, info, trace, warn};

    use super::super::console::Status;
    use super::super::console::tests::{Kept, terminal};
    use super::*;

    fn log_all(options: ConsoleOptions, filter: Option<&str>) -> String {
        let kept = Kept::default();
        let console = Console::lines_to(options, Duration::ZERO, kept.clone());
        with_default(subscriber(&console, filter).unwrap(), || {
            error!("no such file");
            warn!(step = 3, "slow input");
            info!("loading");
            debug!("a detail");
            trace!("more");
            info!(target: "a_library", "chatter");
        });
        kept.text()
    }

    #[test]
    fn levels_follow_the_flags() {
        let base = ConsoleOptions::default();
        let quiet = "error: no such file\nwarning: slow input step=3\n";
        let normal = format!("{quiet}loading\n");
        assert_eq!(log_all(ConsoleOptions { quiet: true, ..base }, None), quiet);
        assert_eq!(log_all(base, None), normal);
        let verbose = format!("{normal}debug: a detail\nchatter\n");
        assert_eq!(log_all(ConsoleOptions { verbose: 1, ..base }, None), verbose);
        let all = format!("{normal}debug: a detail\ntrace: more\nchatter\n");
        assert_eq!(log_all(ConsoleOptions { verbose: 9, ..base }, None), all);
        assert_eq!(log_all(base, Some("error")), "error: no such file\n");
        assert_eq!(log_all(base, Some(" ")), normal);
    }

    #[test]
    fn a_bad_filter_is_named() {
        let console = Console::lines_to(ConsoleOptions::default(), Duration::ZERO, Kept::default());
        let error = subscriber(&console, Some("paligemma=loud")).err().unwrap().to_string();
        assert!(error.starts_with("PALIGEMMA_LOG=\"paligemma=loud\" is not a log filter: "), "{error}");
    }

    #[test]
    fn json_events_are_objects() {
        let options = ConsoleOptions { log_format: LogFormat::Json, ..ConsoleOptions::default() };
        let text = log_all(options, None);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[1]["level"], &lines[1]["message"]), (&json!("warn"), &json!("slow input")));
        assert_eq!(lines[1]["step"], 3);
        assert!(lines[1]["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn log_lines_do_not_tear_the_bar() {
        let (term, console) = terminal();
        let progress = console.progress("train", 0, 10);
        progress.update(Status { step: 5, ..Status::default() });
        with_default(subscriber(&console, None).unwrap(), || {
            info!("one");
            warn!("two\nlines");
        });
        progress.update(Status { step: 6, ..Status::default() });
        console.line("three");
        let text = term.contents();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..4], ["one", "warning: two", "lines", "three"], "{lines:?}");
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[4].contains(" 6/10"), "{lines:?}");
    }

    #[test]
    fn log_formats_have_names() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!(
            "xml".parse::<LogFormat>(),
            Err("unknown log format \"xml\", known are: text, json".into())
        );
    }
}
