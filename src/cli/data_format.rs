//! `paligemma data format`: any annotated set as rows to train on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::format::{self, BoxFormat, FormatOptions, RowOptions, RowSet, Summary, Task};
use crate::data::{
    self, Annotations, Classes, Coco, DetectOptions, ImageFolder, Jsonl, JsonlOptions, Parquet,
    ParquetOptions, Voc, VocOptions, WebDataset, Yolo,
};
use crate::detection::{LocOptions, LocRound, LocScale};
use crate::report::console::Console;

/// Turn a data set into rows of image, prefix and suffix to train on
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The set: its file or folder
    #[arg(value_name = "SRC")]
    src: PathBuf,
    /// What the set is
    #[arg(long, value_enum)]
    from: Kind,
    /// What the rows ask for
    #[arg(long, value_enum, default_value = "detect")]
    task: Task,
    /// The file to write; pictures that have no file of their own go into a folder beside it
    #[arg(long, value_name = "ROWS.jsonl")]
    out: PathBuf,
    /// Replace rows that are there
    #[arg(long)]
    force: bool,
    /// The split, of sets that name theirs (yolo, voc: train without it; parquet: all without it)
    #[arg(long)]
    split: Option<String>,
    /// Folder of the pictures, of sets that do not say (coco, jsonl)
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// The prompt; {classes} and, for counts, {class} stand for names
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Classes to ask for: all of the set, those present in the picture, or a list
    #[arg(long, value_name = "all|present|A,B,…", default_value = "all")]
    classes: String,
    /// What the far edge of the picture is: 1023 as big_vision has it, or 1024 as most example scripts
    #[arg(long, value_name = "SCALE", default_value = "1023", value_parser = loc_scale)]
    loc_scale: LocScale,
    /// How a coordinate between two location tokens goes to one of them
    #[arg(long, value_enum, default_value = "half-even")]
    loc_round: LocRound,
    /// Whether coordinates outside of the tokens go to the first or last one; false writes <loc1024>, which is
    /// not a token
    #[arg(
        long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    loc_clamp: bool,
    /// Leave out objects marked difficult (voc) or crowd (coco)
    #[arg(long)]
    skip_difficult: bool,
    /// Leave out boxes without any area inside the picture
    #[arg(long)]
    drop_empty: bool,
    /// Corners count from 1 and include the last pixel, as in Pascal VOC's own files (voc)
    #[arg(long)]
    one_based: bool,
    #[command(flatten)]
    keys: Keys,
}

/// Where rows of other sets keep what is needed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Keys of rows (parquet, jsonl, imagefolder, webdataset)")]
struct Keys {
    /// Key of the picture; keys within keys are joined by dots [default: image, or a sample's picture]
    #[arg(long, value_name = "KEY")]
    image_key: Option<String>,
    /// Key of the boxes; rows without it may have an answer with location tokens
    #[arg(long, value_name = "KEY", default_value = "objects.bbox")]
    bbox_key: String,
    /// What the numbers of a box are
    #[arg(long, value_enum, default_value = "xywh")]
    bbox_format: BoxFormat,
    /// Key of the boxes' classes
    #[arg(long, value_name = "KEY", default_value = "objects.category")]
    category_key: String,
    /// Names of classes that are numbers; Parquet files may have them themselves
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    class_names: Vec<String>,
    /// Key of answers with location tokens
    #[arg(long, value_name = "KEY", default_value = "suffix")]
    suffix_key: String,
    /// Scale of the location tokens in such answers
    #[arg(long, value_name = "SCALE", default_value = "1023", value_parser = loc_scale)]
    suffix_loc_scale: LocScale,
    /// Key of the captions
    #[arg(long, value_name = "KEY", default_value = "caption")]
    caption_key: String,
    /// Key of what the picture as a whole is labelled with
    #[arg(long, value_name = "KEY", default_value = "label")]
    label_key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// COCO's JSON of instances or captions
    Coco,
    /// YOLO's text files with data.yaml
    Yolo,
    /// Pascal VOC's XML files
    Voc,
    /// Parquet files of Hugging Face's datasets
    Parquet,
    /// JSON lines
    Jsonl,
    /// A folder of folders of pictures, named by their label
    Imagefolder,
    /// Tar files of WebDataset
    Webdataset,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no {}", path.display())]
    NoSource { path: PathBuf },
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Format(#[from] format::Error),
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
}

impl Error {
    /// Whether arguments are wrong, rather than the run.
    pub fn is_usage(&self) -> bool {
        use format::Error as Format;
        match self {
            Error::NoSource { .. } => true,
            Error::Data(error) | Error::Format(Format::Data(error)) => error.is_usage(),
            Error::Format(error) => {
                matches!(error, Format::Exists { .. } | Format::NotOurs { .. } | Format::Options { .. })
            }
            Error::Write(_) => false,
        }
    }
}

/// Writes the rows and prints their file.
pub fn run(args: &Args, console: &Console) -> Result<(), Error> {
    // Files of the last two may be given by patterns.
    let is_pattern = matches!(args.from, Kind::Parquet | Kind::Webdataset);
    if !is_pattern && !args.src.exists() {
        return Err(Error::NoSource { path: args.src.clone() });
    }
    let set = open(args)?;
    let detect = DetectOptions {
        classes: classes(&args.classes),
        loc: LocOptions { scale: args.loc_scale, round: args.loc_round, clamp: args.loc_clamp },
        skip_difficult: args.skip_difficult,
        drop_empty: args.drop_empty,
        ..DetectOptions::default()
    };
    let options = FormatOptions { task: args.task, prefix: args.prefix.clone(), detect, force: args.force };
    let phase = console.phase(format!("writing rows of {}", set.describe()));
    let summary = format::format(set.as_ref(), &options, &args.out, |_| {})?;
    phase.done("");
    console.summary(&args.out.display().to_string(), &facts(&summary, args.loc_clamp));
    super::print_line(&args.out.display().to_string()).map_err(Error::Write)
}

fn open(args: &Args) -> Result<Box<dyn Annotations>, Error> {
    let src = args.src.as_path();
    let split = args.split.as_deref().unwrap_or("train");
    Ok(match args.from {
        Kind::Coco => Box::new(Coco::open(src, args.images.clone())?),
        Kind::Yolo => Box::new(Yolo::open(src, split)?),
        Kind::Voc => Box::new(Voc::open(src, split, VocOptions { one_based: args.one_based })?),
        Kind::Parquet => {
            let options = ParquetOptions { split: args.split.clone(), ..ParquetOptions::default() };
            let source = Parquet::open(&[src.to_owned()], &options)?;
            let mut options = row_options(args);
            if options.class_names.is_empty() {
                let key = if args.task == Task::Count { options.label_key.as_deref() } else { None };
                let names = [Some(options.category_key.as_str()), key].into_iter().flatten();
                let names = names.filter_map(|key| source.class_names(&key.replace('.', "/"))).next();
                options.class_names = names.unwrap_or_default().to_vec();
            }
            Box::new(RowSet::new(Arc::new(source), options))
        }
        Kind::Webdataset => {
            // A sample's picture is whichever it has, unless one is named.
            let picture = ("image".to_owned(), "jpg;jpeg;png;webp".to_owned());
            let rename = if args.keys.image_key.is_none() { [picture].into() } else { Default::default() };
            let source = WebDataset::open(&[src.to_owned()], &rename)?;
            Box::new(RowSet::new(Arc::new(source), row_options(args)))
        }
        Kind::Jsonl => {
            let beside = src.parent().unwrap_or(Path::new("")).to_owned();
            let rows = Jsonl::open(src, JsonlOptions::default())?;
            let folder = args.images.clone().unwrap_or(beside);
            Box::new(RowSet::new(Arc::new(rows), RowOptions { folder, ..row_options(args) }))
        }
        Kind::Imagefolder => {
            let folder = Arc::new(ImageFolder::open(src)?);
            let set = RowSet::new(folder.clone(), row_options(args));
            Box::new(set.with_paths(move |index| folder.path(index).map(Path::to_owned)))
        }
    })
}

fn row_options(args: &Args) -> RowOptions {
    let keys = &args.keys;
    RowOptions {
        image_key: keys.image_key.clone().unwrap_or_else(|| "image".to_owned()),
        bbox_key: keys.bbox_key.clone(),
        category_key: keys.category_key.clone(),
        box_format: keys.bbox_format,
        class_names: keys.class_names.clone(),
        suffix_key: keys.suffix_key.clone(),
        suffix_loc: LocOptions { scale: keys.suffix_loc_scale, ..LocOptions::default() },
        caption_key: (args.task == Task::Caption).then(|| keys.caption_key.clone()),
        label_key: (args.task == Task::Count).then(|| keys.label_key.clone()),
        ..RowOptions::default()
    }
}

fn classes(text: &str) -> Classes {
    match text {
        "all" => Classes::All,
        "present" => Classes::Present,
        names => Classes::Only(names.split(',').map(|name| name.trim().to_owned()).collect()),
    }
}

/// What people want to know of the rows; zeros are left out, except of what the rows are made of.
fn facts(summary: &Summary, is_clamped: bool) -> Vec<(String, String)> {
    let outside =
        if is_clamped { "boxes clamped to their image" } else { "boxes that stick out, not clamped" };
    let facts = [
        ("rows", summary.num_rows, true),
        ("images", summary.num_images, true),
        ("images without a row", summary.num_silent, false),
        ("images written", summary.num_images_written, false),
        ("boxes", summary.num_boxes, false),
        (outside, summary.num_outside, false),
        ("boxes with no area inside", summary.num_empty, false),
        ("boxes left out", summary.num_left_out, false),
        ("unreadable parts of answers", summary.num_invalid, false),
    ];
    let shown = facts.into_iter().filter(|(_, count, always)| *always || *count > 0);
    shown.map(|(name, count, _)| (name.to_owned(), count.to_string())).collect()
}

pub(super) fn loc_scale(text: &str) -> Result<LocScale, String> {
    let number: u16 = text.parse().map_err(|_| "expected 1023 or 1024".to_owned())?;
    LocScale::try_from(number)
}
