//! The command line: one file per verb.

pub mod convert;
pub mod data_format;
pub mod data_ops;
pub mod data_preview;
pub mod data_synth;
pub mod data_tokenizer;
pub mod devices;
pub mod eval;
pub mod inspect;
pub mod lora;
mod plugin;
pub mod predict;
pub mod report;
pub mod train;
pub mod verify;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::report::console::{Console, ConsoleOptions};
use crate::report::logging::{LogFormat, init_logging};

/// Fine-tune, evaluate and run PaliGemma on CPU, GPU and TPU.
#[derive(Debug, Parser)]
#[command(name = "paligemma", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Only warnings and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// More messages; twice for all of them
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How messages on standard error look: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Train(train::Args),
    Eval(eval::Args),
    Report(report::Args),
    Predict(predict::Args),
    Convert(convert::Args),
    Inspect(inspect::Args),
    /// Merge LoRA adapters into a model, or hand them to PEFT
    #[command(subcommand)]
    Lora(lora::Command),
    /// Make and look at data
    #[command(subcommand)]
    Data(Data),
    Devices(devices::Args),
    Verify(verify::Args),
}

#[derive(Debug, Subcommand)]
enum Data {
    Preview(data_preview::Args),
    Format(data_format::Args),
    Ops(data_ops::Args),
    Synth(data_synth::Args),
    Tokenizer(data_tokenizer::Args),
}

/// How a verb ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The work was done, and what it checked did not hold.
    ChecksFailed,
    /// Stopped from outside, after saving.
    Interrupted,
}

/// Why a verb failed, and whose mistake it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Train(#[from] crate::train::Error),
    #[error(transparent)]
    Predict(#[from] predict::Error),
    #[error(transparent)]
    Eval(#[from] Box<eval::Error>),
    #[error(transparent)]
    Report(#[from] report::Error),
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    #[error(transparent)]
    Format(#[from] data_format::Error),
    #[error(transparent)]
    Ops(#[from] data_ops::Error),
    #[error(transparent)]
    Preview(#[from] data_preview::Error),
    #[error(transparent)]
    Synth(#[from] crate::data::synth::Error),
    #[error(transparent)]
    Runtime(#[from] crate::runtime::Error),
    #[error(transparent)]
    Tokenizer(#[from] data_tokenizer::Error),
    #[error(transparent)]
    Verify(#[from] crate::verify::Error),
    #[error(transparent)]
    Convert(#[from] crate::convert::Error),
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::Error),
    #[error(transparent)]
    Params(#[from] crate::params::Error),
    #[error(transparent)]
    Setup(#[from] crate::setup::Error),
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    #[error("cannot listen for Ctrl-C")]
    Signals(#[from] ctrlc::Error),
}

impl Error {
    /// Whether arguments or config are wrong, rather than the run.
    fn is_usage(&self) -> bool {
        use crate::setup::Error as Setup;
        use crate::train::Error as Train;
        use crate::verify::Error as Verify;
        match self {
            Error::Predict(error) => error.is_usage(),
            Error::Eval(error) => error.is_usage(),
            Error::Report(error) => error.is_usage(),
            Error::Format(error) => error.is_usage(),
            Error::Preview(error) => error.is_usage(),
            Error::Ops(data_ops::Error::Unknown { .. }) => true,
            Error::Convert(error) => error.is_usage(),
            Error::Params(_) | Error::Setup(Setup::Config(_)) => true,
            Error::Checkpoint(error) => error.is_usage(),
            Error::Config(_) | Error::Train(Train::Config(_)) => true,
            Error::Train(Train::Setup(Setup::Config(_) | Setup::Params(_))) => true,
            Error::Train(Train::Setup(Setup::Data(error))) => error.is_usage(),
            Error::Train(Train::Setup(Setup::Checkpoint(error))) => error.is_usage(),
            Error::Train(
                Train::Params(_)
                | Train::Batch { .. }
                | Train::OtherRun { .. }
                | Train::Uncovered { .. }
                | Train::NoMetric { .. },
            ) => true,
            Error::Train(Train::Eval(crate::eval::Error::Setup(Setup::Config(_)))) => true,
            Error::Verify(Verify::NotHeld { .. } | Verify::NotARecording { .. }) => true,
            _ => false,
        }
    }
}

/// Runs the program with the arguments of the process.
///
/// Exit codes: 0 done, 1 the run failed or a check did, 2 arguments or config are wrong, 130 interrupted
/// after saving.
pub fn main() -> ExitCode {
    let process_start = Instant::now();
    crate::panics::hide_caught();
    let cli = Cli::parse();
    // SAFETY: no other thread runs yet.
    unsafe { crate::runtime::discover::prepare_environment() };
    let Cli { quiet, verbose, log_format, .. } = cli;
    let console = Console::stderr(ConsoleOptions { quiet, verbose, log_format });
    if let Err(error) = init_logging(&console) {
        return fail(&error, 2);
    }
    match run(&cli.verb, &console, process_start) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::ChecksFailed) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => fail(&error, if error.is_usage() { 2 } else { 1 }),
    }
}

fn run(verb: &Verb, console: &Console, process_start: Instant) -> Result<Outcome, Error> {
    match verb {
        Verb::Train(args) => return train::run(args, console, process_start),
        Verb::Eval(args) => eval::run(args, console).map_err(Box::new)?,
        Verb::Report(args) => report::run(args, console)?,
        Verb::Predict(args) => predict::run(args, console)?,
        Verb::Data(Data::Preview(args)) => data_preview::run(args)?,
        Verb::Data(Data::Format(args)) => data_format::run(args, console)?,
        Verb::Data(Data::Ops(args)) => data_ops::run(args)?,
        Verb::Convert(args) => return convert::run(args, console),
        Verb::Inspect(args) => inspect::run(args, console)?,
        Verb::Lora(command) => return lora::run(command, console),
        Verb::Data(Data::Synth(args)) => data_synth::run(args)?,
        Verb::Data(Data::Tokenizer(args)) => data_tokenizer::run(args)?,
        Verb::Devices(args) => devices::run(args)?,
        Verb::Verify(args) => {
            return Ok(if verify::run(args)? { Outcome::Done } else { Outcome::ChecksFailed });
        }
    }
    Ok(Outcome::Done)
}

/// Prints to standard output. Whoever reads may have seen enough.
fn print_line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints an error with its causes.
fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        // Causes that the error has told already are not told twice.
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(&format!("\n  cause: {told}"));
        }
        source = cause.source();
    }
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(code)
}
