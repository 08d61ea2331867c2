//! `paligemma data tokenizer`: a small tokenizer for small models.

use std::path::PathBuf;

use crate::data::{self, Jsonl, JsonlOptions, Source, Value};
use crate::tokenizer::{self, build};

/// Make a small SentencePiece model from the texts of rows, for models that start from nothing
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// JSON-lines files whose texts it is made from
    #[arg(required = true, value_name = "ROWS")]
    pub rows: Vec<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Keys of the rows that hold texts
    #[arg(long, value_delimiter = ',', default_value = "prefix,suffix")]
    pub keys: Vec<String>,
    /// Pieces at most, everything included
    #[arg(long, default_value_t = 512)]
    pub vocab_size: usize,
    /// How many location tokens it has; detection needs 1024
    #[arg(long, default_value_t = 0)]
    pub num_loc: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("no row has a text under {keys}")]
    NoTexts { keys: String },
}

pub fn run(args: &Args) -> Result<(), Error> {
    let mut texts = Vec::new();
    for path in &args.rows {
        let rows = Jsonl::open(path, JsonlOptions::default())?;
        for index in 0..rows.len() {
            let row = rows.get(index)?;
            texts.extend(
                args.keys.iter().filter_map(|key| row.get(key).and_then(Value::as_str).map(str::to_owned)),
            );
        }
    }
    if texts.is_empty() {
        return Err(Error::NoTexts { keys: args.keys.join(", ") });
    }
    let options = build::Options { vocab_size: args.vocab_size, num_loc: args.num_loc, num_seg: 0 };
    let model = build::build(texts.iter().map(String::as_str), &options)?;
    std::fs::write(&args.out, model).map_err(|source| Error::Write { path: args.out.clone(), source })?;
    println!("{}", args.out.display());
    Ok(())
}
