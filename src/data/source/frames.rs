use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::detection::read_image;
use super::imagefolder::collect_images;
use super::{Error, Jsonl, JsonlOptions, Row, Source};
use crate::data::Value;

/// Options of [`Frames`].
#[derive(Debug, Clone)]
pub struct FramesOptions {
    /// Field of the rows that names a folder of frames, or lists files of frames or pictures.
    pub key: String,
    /// Put before those names ("" for paths that are complete as written).
    pub folder: PathBuf,
    /// Field that the encoded frames are given in; `video_decode` reads `episodic_images`.
    pub outkey: String,
    /// Frames taken at most; `None` takes all.
    pub num_frames: Option<usize>,
    /// Every how many frames one is taken, beginning with the first.
    pub stride: usize,
}

/// Rows of a JSON-lines file whose picture is several: the frames of a video, unpacked into a folder, or a
/// list of pictures.
///
/// Frames are in the order of their names, numbers within them by value (`9.jpg` before `10.jpg`). The field
/// that named them stays as it is.
#[derive(Debug)]
pub struct Frames {
    rows: Jsonl,
    options: FramesOptions,
}

impl Frames {
    /// # Errors
    /// As [`Jsonl::open`]; or when the options take no frame.
    pub fn open(rows: impl Into<PathBuf>, options: FramesOptions) -> Result<Self, Error> {
        if options.stride == 0 || options.num_frames == Some(0) {
            let problem = "num_frames and stride must be at least 1".to_owned();
            return Err(Error::Options { problem });
        }
        Ok(Frames { rows: Jsonl::open(rows, JsonlOptions::default())?, options })
    }

    /// Files of the frames that a row's field names.
    fn files(&self, value: &Value, index: usize) -> Result<Vec<PathBuf>, Error> {
        let FramesOptions { key, folder, num_frames, stride, .. } = &self.options;
        let bad = |problem: String| Error::BadRow { row: self.rows.locate(index), problem };
        let files = match value {
            Value::Str(name) => {
                let folder = folder.join(name);
                let mut files = Vec::new();
                collect_images(&folder, &mut files)?;
                if files.is_empty() {
                    return Err(bad(format!(
                        "folder {} of field \"{key}\" holds no images",
                        folder.display()
                    )));
                }
                files.sort_by(|a, b| by_number(a, b));
                files
            }
            Value::List(names) => {
                let files = names.iter().map(|name| Some(folder.join(name.as_str()?)));
                let files: Option<Vec<_>> = files.collect();
                files
                    .filter(|files| !files.is_empty())
                    .ok_or_else(|| bad(format!("field \"{key}\" should list files, got {value}")))?
            }
            other => {
                let got = other.kind();
                return Err(bad(format!("field \"{key}\" should be a folder or a list of files, got {got}")));
            }
        };
        Ok(files.into_iter().step_by(*stride).take(num_frames.unwrap_or(usize::MAX)).collect())
    }
}

impl Source for Frames {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let mut row = self.rows.get(index)?;
        let key = &self.options.key;
        let Some(value) = row.get(key) else {
            let found: Vec<&str> = row.keys().map(String::as_str).collect();
            let problem =
                format!("there is no field \"{key}\" with frames, fields are: {}", found.join(", "));
            return Err(Error::BadRow { row: self.rows.locate(index), problem });
        };
        let files = self.files(value, index)?.into_iter();
        let frames = files.map(|file| read_image(&file, || self.rows.locate(index)).map(Value::Bytes));
        let frames = Value::List(frames.collect::<Result<_, _>>()?);
        row.insert(self.options.outkey.clone(), frames);
        Ok(row)
    }

    fn describe(&self) -> String {
        format!("frames of {}", self.rows.describe())
    }

    fn locate(&self, index: usize) -> String {
        self.rows.locate(index)
    }

    fn fingerprint(&self) -> u64 {
        self.rows.fingerprint()
    }
}

/// Orders names as people do: runs of digits by their value, everything else by its bytes.
fn by_number(a: &Path, b: &Path) -> Ordering {
    let (a, b) = (a.to_string_lossy(), b.to_string_lossy());
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    loop {
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        match (digits(left), digits(right)) {
            (0, 0) | (0, _) | (_, 0) => match (left.split_first(), right.split_first()) {
                (Some((l, left_rest)), Some((r, right_rest))) if l == r => {
                    (left, right) = (left_rest, right_rest);
                }
                // Equal in value may still differ in zeros.
                (l, r) => return l.map(|(l, _)| l).cmp(&r.map(|(r, _)| r)).then_with(|| a.cmp(&b)),
            },
            (l, r) => {
                let (number, other) = (&left[..l], &right[..r]);
                fn value(number: &[u8]) -> &[u8] {
                    &number[number.iter().take_while(|&&digit| digit == b'0').count()..]
                }
                let (number, other) = (value(number), value(other));
                match number.len().cmp(&other.len()).then_with(|| number.cmp(other)) {
                    Ordering::Equal => (left, right) = (&left[l..], &right[r..]),
                    order => return order,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names =
            ["10.jpg", "9.jpg", "a2.jpg", "a10.jpg", "010.jpg", "a.jpg", "9b.jpg"].map(PathBuf::from);
        names.sort_by(|a, b| by_number(a, b));
        let expected = ["9.jpg", "9b.jpg", "010.jpg", "10.jpg", "a.jpg", "a2.jpg", "a10.jpg"];
        assert_eq!(names, expected.map(PathBuf::from));
    }

    #[test]
    fn folders_and_lists_become_frames() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("clip")).unwrap();
        for number in 0..11 {
            fs::write(dir.path().join(format!("clip/{number}.jpg")), [number]).unwrap();
        }
        let rows = dir.path().join("rows.jsonl");
        let lines = [
            "{\"image\": \"clip\", \"suffix\": \"a\"}",
            "{\"image\": [\"clip/4.jpg\", \"clip/2.jpg\"]}",
            "{\"image\": \"none\"}",
            "{\"image\": 3}",
            "{\"suffix\": \"a\"}",
        ];
        fs::write(&rows, lines.join("\n")).unwrap();
        let options = FramesOptions {
            key: "image".into(),
            folder: dir.path().to_owned(),
            outkey: "episodic_images".into(),
            num_frames: Some(3),
            stride: 4,
        };
        let source = Frames::open(&rows, options.clone()).unwrap();
        let frames = |index: usize| {
            let row = source.get(index).unwrap();
            let Value::List(frames) = &row["episodic_images"] else { panic!("no list") };
            frames.iter().map(|frame| frame.as_bytes().unwrap()[0]).collect::<Vec<u8>>()
        };
        assert_eq!(frames(0), [0, 4, 8]);
        assert_eq!(frames(1), [4]);
        assert_eq!(source.get(0).unwrap()["image"], Value::Str("clip".into()));
        let message = |index: usize| {
            let message = source.get(index).unwrap_err().to_string();
            message.replace(&format!("{}/", dir.path().display()), "")
        };
        assert_eq!(message(2), "cannot list none");
        let expected = "rows.jsonl:4: field \"image\" should be a folder or a list of files, got integer";
        assert_eq!(message(3), expected);
        assert!(message(4).ends_with("there is no field \"image\" with frames, fields are: id, suffix"));
        assert!(Frames::open(&rows, FramesOptions { stride: 0, ..options }).is_err());
    }
}
