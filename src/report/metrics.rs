//! `metrics.jsonl`: one JSON object per step, the record from which curves are drawn.
//!
//! ```json
//! {"step":20,"training_loss":1.25,"l2_grads":"nan","z/secs/eval/pplx":0.5}
//! ```
//!
//! Keys are big_vision's. JSON has no NaN or infinity, so these are the strings `"nan"`, `"inf"` and `"-inf"`.
//! Rows are appended and handed to the system one by one: a crash loses at most the line being written, and
//! a resumed run drops the rows of steps that it will take again.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Number, Value};

use super::Error;

/// The values of one step, in the order they were measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub step: u64,
    pub values: Vec<(String, f64)>,
}

/// Appends rows to `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
    last_step: Option<u64>,
}

impl MetricsWriter {
    /// Starts an empty file, replacing one that exists.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        Ok(MetricsWriter { file, path, last_step: None })
    }

    /// Continues a file for a run that goes on after `step`: rows of later steps are cut off, as is a last
    /// line that a crash left half-written. A file that does not exist is started.
    ///
    /// # Errors
    /// [`Error::MetricsRow`] when a line before the last is not a row.
    pub fn resume(path: impl Into<PathBuf>, step: u64) -> Result<Self, Error> {
        let path = path.into();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let mut kept = 0;
        let mut last_step = None;
        for line in lines(&text, &path) {
            let (row, end) = line?;
            if row.step > step {
                break;
            }
            (kept, last_step) = (end, Some(row.step));
        }
        file.set_len(kept as u64).map_err(Error::io("truncate", &path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io("truncate", &path))?;
        if kept > 0 && text[kept - 1] != b'\n' {
            file.write_all(b"\n").map_err(Error::io("write", &path))?;
        }
        Ok(MetricsWriter { file, path, last_step })
    }

    /// Appends the row of one step, in one write. The last value of a repeated key counts.
    ///
    /// # Errors
    /// When a key is `step`, when steps go backwards, or when the file cannot be written.
    pub fn write<K: AsRef<str>>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (K, f64)>,
    ) -> Result<(), Error> {
        if let Some(last) = self.last_step.filter(|&last| last > step) {
            return Err(Error::StepWentBack { step, last });
        }
        let mut row = Map::new();
        row.insert("step".into(), step.into());
        for (key, value) in values {
            if key.as_ref() == "step" {
                return Err(Error::ReservedKey);
            }
            row.insert(key.as_ref().into(), json_of(value));
        }
        let mut line = Value::Object(row).to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))?;
        self.last_step = Some(step);
        Ok(())
    }
}

/// All rows of a file, in order. Values that are not numbers are left out, and so is a last line that is not
/// complete: a run may be writing it at this moment.
///
/// # Errors
/// When the file cannot be read, or a line before the last is not a row.
pub fn read_metrics(path: &Path) -> Result<Vec<Row>, Error> {
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    lines(&text, path).map(|line| line.map(|(row, _)| row)).collect()
}

/// The points of one metric: (step, value) for each row that has it.
pub fn points_of(rows: &[Row], key: &str) -> Vec<(u64, f64)> {
    let value = |row: &Row| row.values.iter().find(|(k, _)| k == key).map(|&(_, v)| (row.step, v));
    rows.iter().filter_map(value).collect()
}

/// Every metric's name, in order of first appearance.
pub fn keys_of(rows: &[Row]) -> Vec<&str> {
    let mut keys: Vec<&str> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (key, _) in rows.iter().flat_map(|row| &row.values) {
        if seen.insert(key.as_str()) {
            keys.push(key);
        }
    }
    keys
}

/// Rows with the offset at which each line ends; blank lines and a torn last line are passed over.
fn lines<'a>(text: &'a [u8], path: &'a Path) -> impl Iterator<Item = Result<(Row, usize), Error>> + 'a {
    let mut end = 0;
    text.split_inclusive(|&byte| byte == b'\n').enumerate().filter_map(move |(i, line)| {
        end += line.len();
        if line.trim_ascii().is_empty() {
            return None;
        }
        match parse(line) {
            Ok(row) => Some(Ok((row, end))),
            Err(_) if end == text.len() => None,
            Err(reason) => Some(Err(Error::MetricsRow { path: path.to_owned(), line: i + 1, reason })),
        }
    })
}

fn parse(line: &[u8]) -> Result<Row, String> {
    let row: Map<String, Value> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let step = row.get("step").and_then(Value::as_u64).ok_or("no whole number \"step\"")?;
    let values = row.into_iter().filter(|(key, _)| key != "step");
    let values = values.filter_map(|(key, value)| Some((key, number_of(&value)?))).collect();
    Ok(Row { step, values })
}

fn json_of(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "nan".into(),
        None if value > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}

fn number_of(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("nan") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use tempfile::TempDir;

    use super::*;

    const NONE: [(&str, f64); 0] = [];

    fn file_with(text: &str) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn rows_are_lines_of_json_in_the_order_measured() {
        let (_dir, path) = file_with("an older run's file\n");
        let mut writer = MetricsWriter::create(&path).unwrap();
        writer.write(1, [("training_loss", 2.5), ("l2_grads", f64::NAN)]).unwrap();
        writer.write(1, [("val/pplx/avg", f64::INFINITY), ("z/\"odd\"", f64::NEG_INFINITY)]).unwrap();
        writer.write(20, [("a", 1e-9), ("b", 1.0), ("a", 3.0)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"step\":1,\"training_loss\":2.5,\"l2_grads\":\"nan\"}\n\
             {\"step\":1,\"val/pplx/avg\":\"inf\",\"z/\\\"odd\\\"\":\"-inf\"}\n\
             {\"step\":20,\"a\":3.0,\"b\":1.0}\n"
        );
        let rows = read_metrics(&path).unwrap();
        assert_eq!(keys_of(&rows), ["training_loss", "l2_grads", "val/pplx/avg", "z/\"odd\"", "a", "b"]);
        assert_eq!(points_of(&rows, "val/pplx/avg"), [(1, f64::INFINITY)]);
        assert!(points_of(&rows, "l2_grads")[0].1.is_nan());
        assert_eq!(points_of(&rows, "missing"), []);
    }

    #[test]
    fn floats_survive_exactly() {
        let (_dir, path) = file_with("");
        let values = [f64::MIN_POSITIVE, 0.1 + 0.2, -1e300, 1.0 / 3.0, f64::from(f32::MAX)];
        let mut writer = MetricsWriter::create(&path).unwrap();
        values.iter().enumerate().for_each(|(i, &v)| writer.write(i as u64, [("v", v)]).unwrap());
        let read: Vec<f64> = points_of(&read_metrics(&path).unwrap(), "v").iter().map(|p| p.1).collect();
        assert_eq!(read, values);
    }

    #[test]
    fn resuming_drops_later_steps_and_a_torn_line() {
        let row = |step| format!("{{\"step\":{step},\"x\":1.0}}\n");
        let all = format!("{}{}{}", row(1), row(2), row(3));
        let torn = format!("{all}{{\"step\":4,\"x\":");
        let unterminated = all.trim_end().to_owned();
        for (text, step, kept) in [
            (all.as_str(), 2, &[1u64, 2][..]),
            (&all, 3, &[1, 2, 3]),
            (&all, 99, &[1, 2, 3]),
            (&all, 0, &[]),
            (&torn, 9, &[1, 2, 3]),
            (&torn, 1, &[1]),
            (&unterminated, 3, &[1, 2, 3]),
            ("", 5, &[]),
            ("{\"st", 5, &[]),
        ] {
            let (_dir, path) = file_with(text);
            let mut writer = MetricsWriter::resume(&path, step).unwrap();
            writer.write(100, [("x", 2.0)]).unwrap();
            let steps: Vec<u64> = read_metrics(&path).unwrap().iter().map(|row| row.step).collect();
            assert_eq!(steps, [kept, &[100]].concat(), "{text:?} at {step}");
        }
    }

    #[test]
    fn a_run_may_resume_before_its_first_row() {
        let dir = tempfile::tempdir().unwrap();
        MetricsWriter::resume(dir.path().join("metrics.jsonl"), 7).unwrap().write(8, [("x", 1.0)]).unwrap();
        assert_eq!(read_metrics(&dir.path().join("metrics.jsonl")).unwrap().len(), 1);
    }

    #[test]
    fn errors_say_where() {
        let (_dir, path) = file_with("{\"step\":1}\nnonsense\n{\"step\":2}\n");
        for error in [read_metrics(&path).unwrap_err(), MetricsWriter::resume(&path, 5).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("metrics.jsonl:2 is not a row of metrics (expected"), "{text}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3, "nothing was cut");
        let (_dir, path) = file_with("{\"step\":1.5}\n{\"step\":2}\n");
        let text = read_metrics(&path).unwrap_err().to_string();
        assert!(text.contains("(no whole number \"step\")"), "{text}");
        let error = MetricsWriter::create("/no/such/folder/metrics.jsonl").unwrap_err();
        assert_eq!(error.to_string(), "could not create /no/such/folder/metrics.jsonl");

        let (_dir, path) = file_with("");
        let mut writer = MetricsWriter::create(&path).unwrap();
        assert!(matches!(writer.write(1, [("step", 0.0)]), Err(Error::ReservedKey)));
        writer.write(5, NONE).unwrap();
        let error = writer.write(4, NONE).unwrap_err();
        assert_eq!(error.to_string(), "metrics of step 4 were written after those of step 5");
    }
}
