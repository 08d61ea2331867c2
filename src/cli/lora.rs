//! `paligemma lora`: adapters into a model, and into PEFT's format.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::convert::{finish, float_dtype};
use super::{Error, Outcome};
use crate::array::DType;
use crate::checkpoint::{self, hf};
use crate::convert::{Format, Options, Plan};
use crate::report::console::Console;

#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    Merge(MergeArgs),
    Export(ExportArgs),
}

/// Write a model with an adapter merged into it
///
/// The sums are computed in float32 and rounded once, to the type of the base's weights. The workdir of a run with
/// lora is a merged model for predict and convert by itself; this command puts its adapter into another base.
#[derive(Debug, Clone, clap::Args)]
pub struct MergeArgs {
    /// The model, in any format
    #[arg(value_name = "BASE")]
    base: PathBuf,
    /// The workdir of a run with lora, a file that holds its adapters, or a directory of PEFT's
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,
    /// Where to; as for convert
    #[arg(value_name = "OUT")]
    target: PathBuf,
    /// The format, where the target's name does not say it: npz, hf, native or bv
    #[arg(long, value_name = "FORMAT")]
    to: Option<Format>,
    /// Have the base in this type before the sum: bfloat16, float16 or float32
    #[arg(long, value_name = "DTYPE", value_parser = float_dtype)]
    dtype: Option<DType>,
    /// Put this tokenizer.model or tokenizer.json into a Hugging Face directory
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

/// Write adapters as a directory that PEFT loads
///
/// It holds adapter_config.json and adapter_model.safetensors with the names of transformers 4.52 and later.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// The workdir of a run with lora, or a file that holds its adapters
    #[arg(value_name = "ADAPTER")]
    adapter: PathBuf,
    /// Where to; must not exist
    #[arg(value_name = "DIR")]
    target: PathBuf,
    /// The model that the adapters are for, where ADAPTER does not hold it: a checkpoint in any format
    #[arg(long, value_name = "CKPT")]
    base: Option<PathBuf>,
    /// What adapter_config.json says of the base: its name on the hub, or the directory where it is
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,
}

pub fn run(command: &Command, console: &Console) -> Result<Outcome, Error> {
    match command {
        Command::Merge(args) => merge(args, console),
        Command::Export(args) => export(args, console),
    }
}

fn merge(args: &MergeArgs, console: &Console) -> Result<Outcome, Error> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = interrupt.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let mut base = checkpoint::open(&args.base)?;
    if let Some(dtype) = args.dtype {
        base = Box::new(checkpoint::Cast::new(base, dtype));
    }
    let adapter = match hf::Adapter::is_in(&args.adapter) {
        true => hf::Adapter::open(&args.adapter)?,
        false => {
            let own = hf::own_adapters(&args.adapter)?;
            hf::Adapter::of_own(own.as_ref(), &|name| base.find(name))?
        }
    };
    let merged = hf::Merged::new(base, adapter)?;
    let files = hf::FileOptions { tokenizer: args.tokenizer.clone(), ..Default::default() };
    let options = Options { to: args.to, files, ..Default::default() };
    let plan = Plan::of_reader(Box::new(merged), &args.base, &args.target, &options)?;
    finish(plan, &args.target, &interrupt, console)
}

fn export(args: &ExportArgs, console: &Console) -> Result<Outcome, Error> {
    let own = hf::own_adapters(&args.adapter)?;
    let base = checkpoint::open(args.base.as_ref().unwrap_or(&args.adapter))?;
    let shape = |name: &str| base.find(name);
    let count = hf::write_peft(own.as_ref(), &shape, args.base_name.as_deref(), &args.target)?;
    let rows = [("tensors".to_owned(), count.to_string())];
    console.summary(&format!("{} is complete", args.target.display()), &rows);
    Ok(Outcome::Done)
}
