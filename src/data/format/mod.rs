//! Any annotated set as rows of `image`, `prefix` and `suffix`: what `paligemma data format` does.
//!
//! A set is an [`Annotations`]: one of the readers of detection sets, or [`RowSet`] around any other source.
//! Rows are written aside and put in place when they are complete. Pictures stay where they are and are named
//! relative to the rows' folder; those that lie within larger files are written into a folder beside the rows.

mod rows;
#[cfg(test)]
mod tests;

pub use rows::{BoxFormat, RowOptions, RowSet};

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::source::detection::detect_texts;
use super::{Annotated, Annotations, Classes, DetectOptions, Error as DataError, ImageFile};
use crate::detection::label_text;

/// What the rows ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Task {
    /// Boxes with their classes.
    Detect,
    /// A description; one row for each that the picture has.
    Caption,
    /// How many there are; of sets with boxes, one row for each class.
    Count,
}

/// What rows are made.
#[derive(Debug, Clone)]
pub struct FormatOptions {
    pub task: Task,
    /// The prompt instead of the task's own: with `{classes}` for [`Task::Detect`], `{class}` for
    /// [`Task::Count`] of boxes.
    pub prefix: Option<String>,
    /// Which boxes are used and how they are written; its prefix is not looked at.
    pub detect: DetectOptions,
    /// Replace rows that are there.
    pub force: bool,
}

/// What was written, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub num_images: usize,
    pub num_rows: usize,
    /// Boxes in the rows.
    pub num_boxes: usize,
    /// Of these, boxes that stuck out of their picture.
    pub num_outside: usize,
    /// Of these, boxes without any area inside their picture.
    pub num_empty: usize,
    /// Boxes left out on request.
    pub num_left_out: usize,
    /// Stretches of answers in the set that are no boxes.
    pub num_invalid: usize,
    /// Pictures left out because the set has nothing to say about them: no caption, no label, no class to ask
    /// for.
    pub num_silent: usize,
    /// Pictures written beside the rows.
    pub num_images_written: usize,
}

/// Why rows could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{} is there already: choose another file, or replace it with --force", path.display())]
    Exists { path: PathBuf },
    #[error(
        "{} holds what `data format` did not write ({found}): not replacing it", path.display()
    )]
    NotOurs { path: PathBuf, found: String },
    #[error("{problem}")]
    Options { problem: String },
    #[error("{set} gives no rows: {hint}")]
    NoRows { set: String, hint: String },
    #[error("{at}: the image is none that can be read (PNG, JPEG, WebP, GIF, BMP)")]
    UnknownImage { at: String },
    #[error("{} cannot be written as text, rename it", path.display())]
    NotText { path: PathBuf },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// Writes the rows of a set into `out`, a `.jsonl` file. `progress` is told the number of pictures done.
///
/// # Errors
/// When `out` is there already, an annotation or picture cannot be read, or no row comes out; then nothing is
/// left behind.
pub fn format(
    set: &dyn Annotations,
    options: &FormatOptions,
    out: &Path,
    mut progress: impl FnMut(usize),
) -> Result<Summary, Error> {
    options.detect.check(set.classes()).map_err(|problem| Error::Options { problem })?;
    let mut writer = RowWriter::new(out, options.force)?;
    let mut summary = Summary::default();
    for index in 0..set.len() {
        let annotated = set.annotated(index)?;
        let texts = texts(&annotated, set, options, &mut summary)?;
        summary.num_images += 1;
        summary.num_invalid += annotated.num_invalid;
        summary.num_silent += usize::from(texts.is_empty());
        if !texts.is_empty() {
            let image = writer.image(annotated.image, index, || set.locate(index))?;
            for (prefix, suffix) in texts {
                writer.row(&image, &prefix, &suffix)?;
                summary.num_rows += 1;
            }
        }
        progress(index + 1);
    }
    if summary.num_rows == 0 {
        let hint = match options.task {
            Task::Detect => "no picture has an object to ask for",
            Task::Caption => "no picture has a caption; --caption-key says which key holds it",
            Task::Count => "no picture has objects or a label to count; --label-key says which key holds it",
        };
        return Err(Error::NoRows { set: set.describe(), hint: hint.to_owned() });
    }
    summary.num_images_written = writer.num_images;
    writer.finish()?;
    Ok(summary)
}

/// Prompts and answers for one picture.
fn texts(
    annotated: &Annotated,
    set: &dyn Annotations,
    options: &FormatOptions,
    summary: &mut Summary,
) -> Result<Vec<(String, String)>, Error> {
    let prefix = |default: &str| options.prefix.clone().unwrap_or_else(|| default.to_owned());
    match options.task {
        Task::Caption => {
            let captions = annotated.captions.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
            Ok(captions.map(|text| (prefix("caption en"), text.to_owned())).collect())
        }
        Task::Count if annotated.label.is_some() => {
            let problem = "labels say how many, but not of what: name it with --prefix \"how many …\"";
            let prefix = options.prefix.clone();
            let prefix = prefix.ok_or_else(|| Error::Options { problem: problem.to_owned() })?;
            Ok(annotated.label.iter().map(|label| (prefix.clone(), label.clone())).collect())
        }
        Task::Detect => {
            let detect = DetectOptions { prefix: prefix("detect {classes}"), ..options.detect.clone() };
            let detected = detect_texts(annotated, set.classes(), &detect);
            summary.num_left_out += detected.num_left_out;
            if detected.num_classes == 0 {
                return Ok(Vec::new());
            }
            summary.num_boxes += detected.num_boxes;
            summary.num_outside += detected.num_outside;
            summary.num_empty += detected.num_empty;
            Ok(vec![(detected.prefix, detected.suffix)])
        }
        Task::Count => {
            let objects = annotated.objects.iter();
            let objects = objects.filter(|object| !(options.detect.skip_difficult && object.is_difficult));
            let labels: Vec<&str> = objects.map(|object| object.label.as_str()).collect();
            let mut present: Vec<&str> = Vec::new();
            labels.iter().filter(|label| !label.is_empty()).for_each(|label| {
                if !present.contains(label) {
                    present.push(label);
                }
            });
            let named: Vec<&str> = match &options.detect.classes {
                Classes::Only(wanted) => wanted.iter().map(String::as_str).collect(),
                Classes::All if !set.classes().is_empty() => {
                    set.classes().iter().map(String::as_str).collect()
                }
                Classes::All | Classes::Present => present,
            };
            let template = prefix("how many {class}");
            let row = |class: &str| {
                let count = labels.iter().filter(|label| **label == class).count();
                (template.replace("{class}", &label_text(class)), count.to_string())
            };
            summary.num_boxes += labels.iter().filter(|label| named.contains(label)).count();
            Ok(named.into_iter().map(row).collect())
        }
    }
}

/// Writes rows and pictures aside and puts them in place at the end; dropped before, it leaves nothing.
struct RowWriter {
    out: PathBuf,
    /// Folder of the pictures that have no file of their own: `rows_images` beside `rows.jsonl`.
    images: PathBuf,
    /// The folder of `out`, without links.
    root: PathBuf,
    /// Folders of pictures, as they are reached from the rows' folder.
    relative: HashMap<PathBuf, PathBuf>,
    aside: TempDir,
    rows: BufWriter<File>,
    num_images: usize,
}

const ASIDE_ROWS: &str = "rows";
const ASIDE_IMAGES: &str = "images";

impl RowWriter {
    fn new(out: &Path, force: bool) -> Result<Self, Error> {
        let (Some(stem), Some(folder)) = (out.file_stem(), out.parent()) else {
            let problem = format!("{} is no name for a file", out.display());
            return Err(Error::Options { problem });
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let mut images = stem.to_owned();
        images.push("_images");
        let images = folder.join(images);
        for path in [out, &images] {
            if !force && path.exists() {
                return Err(Error::Exists { path: path.to_owned() });
            }
        }
        check_ours(&images)?;
        let root = fs::canonicalize(folder).map_err(io_error("find", folder))?;
        let aside = tempfile::Builder::new().prefix(".paligemma-format-").tempdir_in(folder);
        let aside = aside.map_err(io_error("create a folder in", folder))?;
        let path = aside.path().join(ASIDE_ROWS);
        let rows = BufWriter::new(File::create(&path).map_err(io_error("create", &path))?);
        let out = out.to_owned();
        Ok(RowWriter { out, images, root, relative: HashMap::new(), aside, rows, num_images: 0 })
    }

    /// The picture's path as the row says it.
    fn image(&mut self, image: ImageFile, index: usize, at: impl Fn() -> String) -> Result<String, Error> {
        let path = match image {
            ImageFile::Path(path) => self.relative_to_rows(&path, at)?,
            ImageFile::Bytes(bytes) => {
                let format = image::guess_format(&bytes).ok();
                let ending = format.and_then(|format| format.extensions_str().first());
                let ending = ending.ok_or_else(|| Error::UnknownImage { at: at() })?;
                let name = format!("{index:06}.{ending}");
                let folder = self.aside.path().join(ASIDE_IMAGES);
                fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
                let path = folder.join(&name);
                fs::write(&path, bytes).map_err(io_error("write", &path))?;
                self.num_images += 1;
                Path::new(self.images.file_name().unwrap_or_default()).join(name)
            }
        };
        path.to_str().map(str::to_owned).ok_or(Error::NotText { path })
    }

    fn relative_to_rows(&mut self, path: &Path, at: impl Fn() -> String) -> Result<PathBuf, Error> {
        let missing = |source| Error::Data(DataError::ImageFile { at: at(), image: path.to_owned(), source });
        if !fs::metadata(path).map_err(missing)?.is_file() {
            return Err(missing(io::Error::other("it is a folder")));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !self.relative.contains_key(folder) {
            let whole = fs::canonicalize(folder).map_err(missing)?;
            self.relative.insert(folder.to_owned(), relative(&self.root, &whole));
        }
        Ok(self.relative[folder].join(path.file_name().unwrap_or_default()))
    }

    fn row(&mut self, image: &str, prefix: &str, suffix: &str) -> Result<(), Error> {
        let row = json!({"image": image, "prefix": prefix, "suffix": suffix});
        let path = self.aside.path().join(ASIDE_ROWS);
        writeln!(self.rows, "{row}").map_err(io_error("write", &path))
    }

    fn finish(mut self) -> Result<(), Error> {
        let path = self.aside.path().join(ASIDE_ROWS);
        self.rows.flush().map_err(io_error("write", &path))?;
        self.rows.get_ref().sync_all().map_err(io_error("write", &path))?;
        if self.images.exists() {
            let old = self.aside.path().join("old");
            fs::rename(&self.images, old).map_err(io_error("move away", &self.images))?;
        }
        if self.num_images > 0 {
            let new = self.aside.path().join(ASIDE_IMAGES);
            fs::rename(new, &self.images).map_err(io_error("put in place", &self.images))?;
        }
        fs::rename(path, &self.out).map_err(io_error("put in place", &self.out))
    }
}

/// Whether a folder of pictures, if there is one, holds only what this module writes: numbered files.
fn check_ours(images: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(images) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error("list", images)(source)),
    };
    for entry in entries {
        let name = entry.map_err(io_error("list", images))?.file_name();
        let stem = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if stem.len() < 6 || !stem.bytes().all(|byte| byte.is_ascii_digit()) {
            let found = name.to_string_lossy().into_owned();
            return Err(Error::NotOurs { path: images.to_owned(), found });
        }
    }
    Ok(())
}

/// The way from one folder to another, both without links.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let same = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(to.components().skip(same)).collect()
}
