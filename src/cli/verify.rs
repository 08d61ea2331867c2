//! `paligemma verify`: replays recordings of the reference and shows how exact this program is.

use std::cell::OnceCell;
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::plugin::PluginArgs;
use crate::runtime::{self, Client, ClientOptions, Plugin};
use crate::verify::{self, Check, Options};

/// Replay recordings of the reference implementation and report the error of every tensor.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Folder of a recording, or of several
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Replay these checks only, such as forward,loss,grads,sgd,adam
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    pub only: Vec<Check>,
    /// Text positions whose logits the loss computes at once [default: all]
    #[arg(long, value_name = "POSITIONS", default_value_t = 0, hide_default_value = true)]
    pub chunk_tokens: usize,
    /// Show every tensor, not only the worst of each check
    #[arg(long)]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// Prints the report on stdout and says whether every check passed.
///
/// # Errors
/// When there is nothing to replay, or no device to replay it on.
pub fn run(args: &Args) -> Result<bool, verify::Error> {
    let opened = OnceCell::new();
    let client = || match opened.get() {
        Some(client) => Ok(client),
        None => {
            // Recordings are small: a run that uses the device keeps its memory.
            let options = ClientOptions { preallocate: Some(false), ..Default::default() };
            let client = Client::new(&Plugin::discover(&args.plugin.request())?, &options)?;
            Ok(opened.get_or_init(|| client))
        }
    };
    let options = Options { only: args.only.clone(), chunk_tokens: args.chunk_tokens };
    let report = verify::replay(&client, &args.dir, &options)?;
    let text = if args.json { format!("{:#}\n", report.to_json()) } else { report.to_text(args.all) };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(runtime::Error::Io { path: "standard output".into(), source }.into())
        }
        _ => Ok(report.passed()),
    }
}
