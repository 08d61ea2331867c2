//! `paligemma data preview`: what a config feeds the model.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use crate::config::{self, Config};
use crate::detection::{LocOptions, LocScale};
use crate::preview::{self, Options, preview};
use crate::{report, setup};

/// Show what a config feeds the model: pictures, prompts, answers, tokens and their masks
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The config, in YAML
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Examples to show of each source
    #[arg(short = 'n', long, value_name = "N", default_value_t = 8)]
    num_examples: usize,
    /// Rows of each source whose lengths are counted
    #[arg(long, value_name = "N", default_value_t = 256)]
    rows: usize,
    /// Show this evaluation's data instead of the training's
    #[arg(long = "eval", value_name = "NAME")]
    evals: Vec<String>,
    /// Write a page instead of text
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
    /// Scale of location tokens: 1023 as big_vision has it, or 1024 as most example scripts
    #[arg(long, value_name = "SCALE", default_value = "1023", value_parser = super::data_format::loc_scale)]
    loc_scale: LocScale,
    /// Set an argument that the config declares under args
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    args: Vec<String>,
    /// Set a key of the config, as in --set input.batch_size=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Preview(#[from] preview::Error),
    #[error(transparent)]
    Report(#[from] report::Error),
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
}

impl Error {
    /// Whether arguments or config are wrong, rather than the run.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Config(_) => true,
            Error::Preview(preview::Error::Setup(error)) => matches!(error, setup::Error::Config(_)),
            _ => false,
        }
    }
}

pub fn run(args: &Args) -> Result<(), Error> {
    let split = |texts: &[String]| {
        texts.iter().map(|text| config::split_assignment(text)).collect::<Result<Vec<_>, _>>()
    };
    let loaded = Config::load(&args.config, &split(&args.args)?, &split(&args.sets)?)?;
    let Args { num_examples, rows, .. } = *args;
    let shown = preview(&loaded, &Options { num_examples, num_rows: rows, evals: args.evals.clone() })?;
    let text = match &args.html {
        Some(path) => {
            let loc = LocOptions { scale: args.loc_scale, ..LocOptions::default() };
            report::preview::write(path, &shown, loc)?;
            path.display().to_string()
        }
        None => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colour = io::stdout().is_terminal() && !no_color;
            report::preview::text(&shown, colour).trim_end().to_owned()
        }
    };
    super::print_line(&text).map_err(Error::Write)
}
