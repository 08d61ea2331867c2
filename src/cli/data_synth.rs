//! `paligemma data synth`: draws the synthetic data sets.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::data::synth::{Error, Options, Task, generate};

/// Draw a data set: pictures with rows to train on
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to draw
    #[arg(value_enum)]
    pub task: Task,
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number of pictures, over both splits
    #[arg(long, default_value_t = 1000, conflicts_with = "splits")]
    pub n: usize,
    /// Share of the pictures that goes to the split val
    #[arg(long, default_value_t = 0.1, conflicts_with = "splits", value_parser = share)]
    pub val_fraction: f64,
    /// Splits with their numbers of pictures, instead of --n and --val-fraction
    #[arg(long, value_name = "NAME=N,…", value_delimiter = ',', value_parser = split)]
    pub splits: Vec<(String, usize)>,
    /// The same seed draws the same set
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Width and height of the pictures, in pixels
    #[arg(long, value_name = "PX", default_value_t = 224)]
    pub size: usize,
    /// Shapes in one scene, at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub max_objects: u8,
    /// Put the corners of boxes on a grid of so many lines per side, so that a small model has fewer location tokens to
    /// learn
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=1023))]
    pub loc_grid: Option<u16>,
    /// Replace a set drawn earlier
    #[arg(long)]
    pub force: bool,
}

impl Args {
    fn options(&self) -> Options {
        let splits = if self.splits.is_empty() {
            let least = (self.val_fraction > 0.0) as usize;
            let val = ((self.n as f64 * self.val_fraction).round() as usize).clamp(least, self.n.max(least));
            let both = [("train".to_owned(), self.n.saturating_sub(val)), ("val".to_owned(), val)];
            both.into_iter().filter(|(name, count)| name == "train" || *count > 0).collect()
        } else {
            self.splits.clone()
        };
        let Args { task, seed, size: size_px, force, .. } = *self;
        let max_objects = usize::from(self.max_objects);
        let loc_grid = self.loc_grid.map(usize::from);
        Options { task, out: self.out.clone(), splits, seed, size_px, max_objects, loc_grid, force }
    }
}

/// Draws the set and prints the files of rows, one per line.
///
/// # Errors
/// As [`generate`].
pub fn run(args: &Args) -> Result<(), Error> {
    let files = generate(&args.options())?;
    let mut out = io::stdout().lock();
    for file in files {
        match writeln!(out, "{}", file.display()) {
            // Whoever reads may have seen enough; the set is complete.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(source) => {
                return Err(Error::Io { action: "write to", path: "standard output".into(), source });
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 up to, but not, 1".to_owned()),
    }
}

fn split(text: &str) -> Result<(String, usize), String> {
    let parts = text.split_once('=').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
    parts.ok_or_else(|| "expected NAME=N, as in train=3000".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Options, String> {
        let line = format!("synth {line}");
        let parsed = Line::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string());
        parsed.map(|line| line.args.options())
    }

    #[test]
    fn splits_come_from_a_share_or_a_list() {
        let splits = |line: &str| {
            let splits = parse(&format!("scenes --out x {line}")).unwrap().splits;
            splits.iter().map(|(name, n)| format!("{name}={n}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(splits(""), "train=900 val=100");
        assert_eq!(splits("--n 30 --val-fraction 0.2"), "train=24 val=6");
        assert_eq!(splits("--n 3"), "train=2 val=1");
        assert_eq!(splits("--n 30 --val-fraction 0"), "train=30");
        assert_eq!(splits("--splits train=3000,val=300,test=1"), "train=3000 val=300 test=1");
    }

    #[test]
    fn wrong_arguments_say_what_is_expected() {
        let message = |line: &str| parse(line).unwrap_err();
        assert!(message("scenes").contains("--out <DIR>"));
        assert!(message("lines --out x").contains("[possible values: intersections, scenes]"));
        assert!(message("scenes --out x --splits train").contains("expected NAME=N, as in train=3000"));
        assert!(message("scenes --out x --splits a=1 --n 5").contains("cannot be used with"));
        assert!(
            message("scenes --out x --val-fraction 1").contains("expected a number from 0 up to, but not, 1")
        );
    }
}
