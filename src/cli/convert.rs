//! `paligemma convert`: a checkpoint in another format.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Error, Outcome};
use crate::array::DType;
use crate::checkpoint::hf;
use crate::config::Config;
use crate::convert::{self, Format, Options, Plan};
use crate::params::Patterns;
use crate::predict::find_config;
use crate::report::console::Console;
use crate::report::units::binary_size;
use crate::setup;

/// Write a checkpoint in another format
///
/// The source is a file or directory of any format, or the workdir of a run: big_vision's .npz, its pieces or
/// checkpoint.bv-* directories, Hugging Face safetensors of PaliGemma 1 and 2, LoRA adapters with their base, this
/// program's checkpoints. FILE:img converts a part.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to convert
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Where to; must not exist. *.npz is big_vision's format, *.safetensors one file under its names,
    /// checkpoint.bv-* an array directory, anything else a Hugging Face directory
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// The format, where the target's name does not say it: npz, hf, native or bv
    #[arg(long, value_name = "FORMAT")]
    to: Option<Format>,
    /// Round floats to this type: bfloat16, float16 or float32
    #[arg(long, value_name = "DTYPE", value_parser = float_dtype)]
    dtype: Option<DType>,
    /// Only parameters whose whole name, in big_vision's words, matches this regex, as in --only 'llm/.*'
    #[arg(long, value_name = "REGEX")]
    only: Vec<String>,
    /// Take parameters that the source lacks from this checkpoint
    #[arg(long, value_name = "CKPT")]
    base: Option<PathBuf>,
    /// Put this tokenizer.model or tokenizer.json into a Hugging Face directory; without it, that of the run's
    /// config
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where a Hugging Face file ends and the next begins, in GB of 1e9 bytes
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    shard_gb: f64,
}

pub(super) fn float_dtype(text: &str) -> Result<DType, String> {
    let dtype = text.parse::<DType>().ok().filter(|dtype| dtype.is_float());
    dtype.ok_or_else(|| "expected bfloat16, float16, float32 or float64".to_owned())
}

pub fn run(args: &Args, console: &Console) -> Result<Outcome, Error> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = interrupt.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let plan = Plan::new(&args.source, &args.target, &options(args)?)?;
    finish(plan, &args.target, &interrupt, console)
}

/// Runs a conversion to `target` and says what came of it.
pub(super) fn finish(
    plan: Plan,
    target: &Path,
    interrupt: &AtomicBool,
    console: &Console,
) -> Result<Outcome, Error> {
    let transfer = console.transfer("converting", plan.num_bytes());
    let summary = match plan.run(interrupt, |bytes| transfer.advance(bytes)) {
        Err(convert::Error::Interrupted) => {
            console.line(&convert::Error::Interrupted.to_string());
            return Ok(Outcome::Interrupted);
        }
        ended => ended?,
    };
    transfer.done();
    let mut rows = Vec::new();
    if let Some(variant) = &summary.variant {
        rows.push(("model".to_owned(), variant.to_string()));
    }
    if let Some(report) = &summary.report {
        rows.push(("parameters".to_owned(), report.to_string()));
    }
    rows.push(("format".to_owned(), summary.format.name().to_owned()));
    let size = binary_size(summary.bytes as usize);
    rows.push(("tensors".to_owned(), format!("{}, {size}", summary.num_tensors)));
    console.summary(&format!("{} is complete", target.display()), &rows);
    Ok(Outcome::Done)
}

fn options(args: &Args) -> Result<Options, Error> {
    // What a run was trained with is what its model is to be run with.
    let config = find_config(&args.source).map(|path| Config::load(&path, &[], &[])).transpose()?;
    let mut files = hf::FileOptions { tokenizer: args.tokenizer.clone(), ..Default::default() };
    if let Some(loaded) = &config {
        let llm = setup::model_config(loaded)?.llm;
        files.attn_logits_softcap = Some(llm.attn_logits_softcap);
        files.final_logits_softcap = Some(llm.final_logits_softcap);
        files.query_pre_attn_norm = Some(llm.query_pre_attn_norm);
        let tokenizer = loaded.config.tokenizer.as_ref().map(|path| path.as_path().to_owned());
        files.tokenizer = files.tokenizer.or(tokenizer);
    }
    Ok(Options {
        to: args.to,
        dtype: args.dtype,
        only: Patterns::new(args.only.iter().map(|pattern| (pattern, ())))?,
        base: args.base.clone(),
        files,
        shard_bytes: Some((args.shard_gb * 1e9) as u64),
    })
}
