use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::de::IgnoredAny;

use super::places::{Place, Places, Spacing};
use super::shards::Extent;
use super::{Error, Row, Source, fingerprint, out_of_range, refuse_remote};
use crate::data::Value;

/// Options of a `.jsonl` source, with big_vision's names and meaning.
#[derive(Debug, Clone, Default)]
pub struct JsonlOptions {
    /// Fields whose text is a path to replace by the file's content, each with the folder to put in front
    /// ("" for paths that are complete as written).
    pub fopen_keys: IndexMap<String, PathBuf>,
    /// Line of the first row used, counted from 0.
    pub start: usize,
    /// Line after the last row used; `None` or 0 is the end of the file.
    pub stop: Option<usize>,
}

/// One JSON object per line, with files (images) beside it, as big_vision's `datasets/jsonl.py`.
///
/// Opening reads the file once, checks that every used line is a JSON object and keeps where the
/// lines are; rows and their files are read when asked for. Each row begins with an `id`, its number in the slice
/// as text, unless the line has an `id` of its own.
#[derive(Debug)]
pub struct Jsonl {
    path: PathBuf,
    file: File,
    fopen_keys: IndexMap<String, PathBuf>,
    start: usize,
    /// The lines that are used.
    lines: Places,
}

impl Jsonl {
    /// # Errors
    /// When the file cannot be read, or a line between `start` and `stop` is blank or no JSON object.
    pub fn open(path: impl Into<PathBuf>, options: JsonlOptions) -> Result<Self, Error> {
        let path = path.into();
        refuse_remote(&path)?;
        let fail = |source| Error::Io { action: "read", path: path.clone(), source };
        let file = File::open(&path).map_err(fail)?;
        let stop = options.stop.filter(|&stop| stop > 0).unwrap_or(usize::MAX);

        let mut reader = BufReader::with_capacity(1 << 18, &file);
        let (mut line, mut offset) = (Vec::new(), 0u64);
        let mut lines = Places::new(Spacing { gap: 0, align: 1 });
        for number in 0..stop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(fail)?;
            if length == 0 {
                break;
            }
            if number >= options.start {
                let bad = |problem| Error::BadLine { path: path.clone(), line: number as u64 + 1, problem };
                check_line(&line).map_err(bad)?;
                let len = u32::try_from(length).map_err(|_| bad("the line has over 4 GiB".to_owned()))?;
                let extent = Extent { offset, shard: 0, len };
                lines.push(Place { extent, number: lines.len() as u32 });
            }
            offset += length as u64;
        }
        Ok(Jsonl { path, file, fopen_keys: options.fopen_keys, start: options.start, lines })
    }

    /// Line number as editors count, from 1.
    fn line_number(&self, index: usize) -> u64 {
        (self.start + index) as u64 + 1
    }

    fn open_files(&self, row: &mut Row, line: u64) -> Result<(), Error> {
        for (field, folder) in &self.fopen_keys {
            let Some(value) = row.get_mut(field) else {
                let found = row.keys().cloned().collect();
                return Err(Error::MissingField {
                    path: self.path.clone(),
                    line,
                    field: field.clone(),
                    found,
                });
            };
            let Some(name) = value.as_str() else {
                let problem =
                    format!("field \"{field}\" should be a file's path, got {} {value}", value.kind());
                return Err(Error::BadLine { path: self.path.clone(), line, problem });
            };
            let file = folder.join(name);
            refuse_remote(&file)?;
            *value = Value::Bytes(std::fs::read(&file).map_err(|source| {
                let hint = self.hint(name, source.kind());
                Error::RowFile { path: self.path.clone(), line, field: field.clone(), file, source, hint }
            })?);
        }
        Ok(())
    }

    /// The usual mistake: paths relative to the `.jsonl` file, without its folder in `fopen_keys`.
    fn hint(&self, name: &str, kind: ErrorKind) -> String {
        match self.path.parent() {
            Some(folder) if kind == ErrorKind::NotFound && folder.join(name).is_file() => {
                format!(
                    "; it is beside the .jsonl file: set the folder of `fopen_keys` to {}",
                    folder.display()
                )
            }
            _ => String::new(),
        }
    }
}

impl Source for Jsonl {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let Place { extent, .. } = self.lines.get(index).ok_or_else(|| out_of_range(self, index))?;
        let mut bytes = vec![0; extent.len as usize];
        self.file.read_exact_at(&mut bytes, extent.offset).map_err(|source| Error::Io {
            action: "read",
            path: self.path.clone(),
            source,
        })?;
        let line = self.line_number(index);
        let bad = |problem: String| Error::BadLine { path: self.path.clone(), line, problem };

        // Parsed again rather than trusted: the file may have changed since it was opened.
        let fields: serde_json::Map<_, _> =
            serde_json::from_slice(&bytes).map_err(|e| bad(json_problem(&e)))?;
        let mut row = Row::from([("id".to_owned(), Value::Str(index.to_string()))]);
        for (name, value) in fields {
            let value = Value::from_json(value)
                .map_err(|what| bad(format!("field \"{name}\" holds {what}, which a row cannot")))?;
            row.insert(name, value);
        }
        self.open_files(&mut row, line)?;
        Ok(row)
    }

    fn describe(&self) -> String {
        format!("jsonl {} ({} rows)", self.path.display(), self.len())
    }

    fn locate(&self, index: usize) -> String {
        format!("{}:{}", self.path.display(), self.line_number(index))
    }

    /// The file's name, and which of its bytes and lines are used.
    fn fingerprint(&self) -> u64 {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let [first, last] = [0, self.len().wrapping_sub(1)].map(|row| self.lines.get(row));
        let begin = first.map_or(0, |first| first.extent.offset);
        let end = last.map_or(0, |last| last.extent.offset + u64::from(last.extent.len));
        let range = format!("{begin}..{end}");
        fingerprint([&*name, &range, &format!("{}+{}", self.start, self.len())])
    }
}

fn check_line(line: &[u8]) -> Result<(), String> {
    let text =
        str::from_utf8(line).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to() + 1))?.trim_end();
    match text.trim_start().chars().next() {
        None => Err("the line is blank, expected a JSON object".to_owned()),
        Some('{') => serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|e| json_problem(&e)),
        Some(_) => Err(format!("expected a JSON object, got {}", excerpt(text))),
    }
}

/// serde_json counts lines within what it was given, which is one line.
fn json_problem(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    format!("invalid JSON at column {}: {message}", error.column())
}

fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn write(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn open(content: &[u8]) -> Result<Jsonl, String> {
        let (dir, path) = write(content);
        let folder = format!("{}/", dir.path().display());
        Jsonl::open(path, JsonlOptions::default()).map_err(|e| e.to_string().replace(&folder, ""))
    }

    #[test]
    fn rows_keep_the_order_of_fields_and_their_own_id() {
        let source = open(b"{\"b\": [1, \"x\"], \"a\": true}\r\n{\"id\": 7, \"f\": -0.5}").unwrap();
        let rows: Vec<Row> = (0..2).map(|i| source.get(i).unwrap()).collect();
        assert_eq!(rows[0].keys().collect::<Vec<_>>(), ["id", "b", "a"]);
        assert_eq!(rows[0]["b"], Value::List(vec![1i64.into(), "x".into()]));
        assert_eq!(rows[1]["id"], Value::Int(7));
        assert_eq!(rows[1]["f"], Value::Float(-0.5));
        assert!(matches!(source.get(2), Err(Error::OutOfRange { index: 2, len: 2, .. })));
    }

    #[test]
    fn bad_lines_are_errors_with_their_line() {
        let cases: [(&[u8], &str); 5] = [
            (b"{}\n\n{}\n", "rows.jsonl:2: the line is blank, expected a JSON object"),
            (b"{}\n{}\n \t", "rows.jsonl:3: the line is blank, expected a JSON object"),
            (b"{}\n[1, 2]\n", "rows.jsonl:2: expected a JSON object, got [1, 2]"),
            (b"{\"a\": }\n", "rows.jsonl:1: invalid JSON at column 7: expected value"),
            (b"{\"a\": \"\xff\"}\n", "rows.jsonl:1: not UTF-8 at byte 8"),
        ];
        for (content, message) in cases {
            assert_eq!(open(content).unwrap_err(), message);
        }
    }

    #[test]
    fn values_that_rows_cannot_hold_fail_when_read() {
        let source = open(
            b"{\"a\": null}\n{\"a\": {\"b\": [null]}}\n{\"a\": 18446744073709551616}\n{\"a\": {\"b\": 1}}",
        )
        .unwrap();
        let message = |i| source.get(i).unwrap_err().to_string();
        assert!(message(0).ends_with("rows.jsonl:1: field \"a\" holds null, which a row cannot"));
        assert!(message(1).ends_with("rows.jsonl:2: field \"a\" holds null, which a row cannot"));
        assert_eq!(source.get(2).unwrap()["a"], Value::Float(18446744073709551616.0));
        assert_eq!(source.get(3).unwrap()["a"], Value::Dict(Row::from([("b".to_owned(), Value::Int(1))])));
    }

    #[test]
    fn a_missing_file_says_which_row_and_where_it_might_be() {
        let (dir, path) =
            write(b"{\"image\": \"a.png\"}\n{\"image\": \"b.png\"}\n{\"image\": 3}\n{\"img\": \"a.png\"}\n");
        fs::write(dir.path().join("b.png"), b"png").unwrap();
        let options = |folder: &Path| JsonlOptions {
            fopen_keys: [("image".to_owned(), folder.to_owned())].into(),
            ..JsonlOptions::default()
        };
        let source = Jsonl::open(&path, options(Path::new("no-such-folder"))).unwrap();
        let message = |i: usize| source.get(i).unwrap_err().to_string();
        assert!(
            message(0).contains("rows.jsonl:1: cannot read file no-such-folder/a.png of field \"image\"")
        );
        assert!(!message(0).contains("fopen_keys"));
        assert!(message(1).ends_with(&format!("set the folder of `fopen_keys` to {}", dir.path().display())));
        assert!(message(2).ends_with("rows.jsonl:3: field \"image\" should be a file's path, got integer 3"));
        assert!(
            message(3).ends_with("no field \"image\" to open as a file (`fopen_keys`), fields are: id, img")
        );
        let source = Jsonl::open(&path, options(dir.path())).unwrap();
        assert_eq!(source.get(1).unwrap()["image"], Value::Bytes(b"png".to_vec()));
    }

    #[test]
    fn remote_files_are_refused_by_name() {
        let error = Jsonl::open("gs://longcap100/data_train90.jsonl", JsonlOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with("\"gs://longcap100/data_train90.jsonl\" is a remote address"));
    }
}
