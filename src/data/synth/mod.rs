//! Pictures drawn by the program itself, with the rows to train on: data sets that need no download.
//!
//! A set is a pure function of task, split name, seed and index, whatever the number of threads; the figures
//! do not depend on the size of the picture. Pictures are RGB PNG files.
//!
//! `intersections` writes `<split>/<label>/<index>.png`, which is also an image folder, and `<split>.jsonl`;
//! `scenes` writes `<split>/<index>.png` and `caption_<split>.jsonl`, `detect_<split>.jsonl`,
//! `count_<split>.jsonl`. Paths in the rows are relative to the set's folder.

mod canvas;
mod intersections;
mod scenes;
mod texture;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value as Json, json};

/// The file that tells how a set was made, and that a folder is one of ours.
pub const MANIFEST: &str = "synth.json";

/// Sizes of pictures, in pixels: below, figures are too small to tell; above, something was mistyped.
const SIZES_PX: std::ops::RangeInclusive<usize> = 48..=2048;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Task {
    /// Two lines; count their crossings.
    Intersections,
    /// Coloured shapes; caption, detect and count them.
    Scenes,
}

impl Task {
    pub const fn name(self) -> &'static str {
        match self {
            Task::Intersections => "intersections",
            Task::Scenes => "scenes",
        }
    }

    /// Names of the `.jsonl` files of a split.
    fn files(self, split: &str) -> Vec<String> {
        match self {
            Task::Intersections => vec![format!("{split}.jsonl")],
            Task::Scenes => scenes::TASKS.iter().map(|task| format!("{task}_{split}.jsonl")).collect(),
        }
    }

    fn item(self, rng: &mut ChaCha8Rng, index: usize, options: &Options) -> Item {
        match self {
            Task::Intersections => intersections::item(rng, index, options.size_px),
            Task::Scenes => scenes::item(rng, options),
        }
    }
}

/// A set to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub task: Task,
    /// Folder to make. A folder with something in it is replaced only with `force`, and only if it is a set
    /// drawn earlier.
    pub out: PathBuf,
    /// Names and numbers of pictures.
    pub splits: Vec<(String, usize)>,
    pub seed: u64,
    /// Width and height of the pictures.
    pub size_px: usize,
    /// Shapes in a picture of [`Task::Scenes`], at most; from 1 to 4.
    pub max_objects: usize,
    /// Lines per side of a grid that the corners of boxes are moved to in the answers of [`Task::Scenes`]: a small model
    /// has fewer location tokens to learn. `None` writes them as they are.
    pub loc_grid: Option<usize>,
    pub force: bool,
}

/// Why a set could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{problem}")]
    Options { problem: String },
    #[error("{} is not empty: choose another folder, or replace it with --force", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} is not a set drawn by this program (it has no {MANIFEST}): not replacing it", path.display())]
    NotOurs { path: PathBuf },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write picture {}", path.display())]
    Picture { path: PathBuf, source: image::ImageError },
}

/// One picture, and the rows that go with it, one for each `.jsonl` file.
struct Item {
    image: RgbImage,
    /// Class folder within the split.
    folder: Option<String>,
    /// JSON objects, to which the picture's path is added.
    rows: Vec<Json>,
}

/// Draws a set and gives the `.jsonl` files written. The folder appears when it is complete.
///
/// # Errors
/// When the options make no sense, the folder holds something else, or a file cannot be written.
pub fn generate(options: &Options) -> Result<Vec<PathBuf>, Error> {
    check(options).map_err(|problem| Error::Options { problem })?;
    let out = std::path::absolute(&options.out).map_err(io_error("find", &options.out))?;
    let (Some(parent), Some(_)) = (out.parent(), out.file_name()) else {
        return Err(Error::NotEmpty { path: out });
    };
    let replaces = holds_something(&out)?;
    if replaces && !options.force {
        return Err(Error::NotEmpty { path: out });
    }
    if replaces && !out.join(MANIFEST).is_file() {
        return Err(Error::NotOurs { path: out });
    }

    fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    let aside = tempfile::Builder::new().prefix(".paligemma-synth-").tempdir_in(parent);
    let aside = aside.map_err(io_error("create a folder in", parent))?;
    let (new, old) = (aside.path().join("new"), aside.path().join("old"));
    fs::create_dir(&new).map_err(io_error("create", &new))?;
    for (split, count) in &options.splits {
        write_split(options, &new, split, *count)?;
    }
    let manifest = serde_json::to_string_pretty(&manifest(options)).expect("strings and numbers are JSON");
    write(&new.join(MANIFEST), format!("{manifest}\n"))?;

    if replaces {
        fs::rename(&out, &old).map_err(io_error("move away", &out))?;
    }
    fs::rename(&new, &out).map_err(io_error("put in place", &out))?;
    let files = options.splits.iter().flat_map(|(split, _)| options.task.files(split));
    Ok(files.map(|file| options.out.join(file)).collect())
}

fn write_split(options: &Options, root: &Path, split: &str, count: usize) -> Result<(), Error> {
    let rows: Vec<Vec<String>> = (0..count)
        .into_par_iter()
        .map(|index| write_item(options, root, split, index))
        .collect::<Result<_, _>>()?;
    for (number, file) in options.task.files(split).iter().enumerate() {
        let lines: String = rows.iter().flat_map(|rows| [&rows[number], "\n"]).collect();
        write(&root.join(file), lines)?;
    }
    Ok(())
}

/// Writes one picture and gives its rows as JSON.
fn write_item(options: &Options, root: &Path, split: &str, index: usize) -> Result<Vec<String>, Error> {
    // Keyed by the split's name, not its number: adding a split leaves the others as they are.
    let key = format!("paligemma synth {} {split} {}", options.task.name(), options.seed);
    let mut rng = ChaCha8Rng::from_seed(*blake3::hash(key.as_bytes()).as_bytes());
    rng.set_stream(index as u64);
    let item = options.task.item(&mut rng, index, options);

    let folder = item.folder.map_or_else(|| split.to_owned(), |folder| format!("{split}/{folder}"));
    let name = format!("{folder}/{index:05}.png");
    let (folder, path) = (root.join(folder), root.join(&name));
    fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
    item.image.save(&path).map_err(|source| Error::Picture { path, source })?;
    Ok(item.rows.iter().map(|row| line(&name, row)).collect())
}

/// A row as a line of JSON, beginning with the picture.
fn line(image: &str, row: &Json) -> String {
    let mut line = json!({"image": image});
    for (name, value) in row.as_object().into_iter().flatten() {
        line[name] = value.clone();
    }
    line.to_string()
}

fn manifest(options: &Options) -> Json {
    let splits: serde_json::Map<_, _> =
        options.splits.iter().map(|(name, n)| (name.clone(), json!(n))).collect();
    let mut manifest = json!({
        "task": options.task.name(), "seed": options.seed, "size_px": options.size_px,
        "max_objects": options.max_objects, "splits": splits,
        "made_by": concat!("paligemma ", env!("CARGO_PKG_VERSION")),
    });
    if let Some(grid) = options.loc_grid {
        manifest["loc_grid"] = json!(grid);
    }
    manifest
}

fn check(options: &Options) -> Result<(), String> {
    if !SIZES_PX.contains(&options.size_px) {
        let (least, most) = (SIZES_PX.start(), SIZES_PX.end());
        return Err(format!("a size of {} pixels is not between {least} and {most}", options.size_px));
    }
    if !(1..=scenes::MAX_OBJECTS).contains(&options.max_objects) {
        let (most, got) = (scenes::MAX_OBJECTS, options.max_objects);
        return Err(format!("scenes have 1 to {most} shapes, got {got}"));
    }
    if options.splits.is_empty() {
        return Err("no splits to draw".to_owned());
    }
    for (i, (name, count)) in options.splits.iter().enumerate() {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(fine) {
            return Err(format!("split name \"{name}\" is not made of letters, digits, _ and -"));
        }
        if *count == 0 {
            return Err(format!("split {name} has no pictures"));
        }
        if options.splits[..i].iter().any(|(other, _)| other == name) {
            return Err(format!("split {name} is given twice"));
        }
    }
    Ok(())
}

fn holds_something(path: &Path) -> Result<bool, Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io { action: "list", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, content: String) -> Result<(), Error> {
    fs::write(path, content).map_err(io_error("write", path))
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}
