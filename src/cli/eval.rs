//! `paligemma eval`: a checkpoint measured by a config's evaluations.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value as Json, json};

use super::plugin::PluginArgs;
use crate::config::{self, Config, Loaded};
use crate::eval::{self, Evaluation, Outcome, Shared};
use crate::predict::{self, LoadedModel};
use crate::report::console::Console;
use crate::report::page::{self, Report, Table};
use crate::report::units::number;
use crate::runtime::{self, Buffer};
use crate::{report, setup};

/// Measure a checkpoint by the evaluations of a config
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The config, in YAML
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// The model: workdir of a run, one of its checkpoints, or a file of parameters
    #[arg(long, value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Evaluations to run, of those in the config; without it, all
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    evals: Vec<String>,
    /// Set an argument that the config declares under args
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    args: Vec<String>,
    /// Set a key of the config, as in --set evals.val.max_examples=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Write answers to DIR/predictions, and the files of evaluators that write some
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write a page with the metrics and the hardest examples
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Setup(#[from] setup::Error),
    #[error(transparent)]
    Load(#[from] predict::Error),
    #[error(transparent)]
    Eval(#[from] eval::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Report(#[from] report::Error),
    #[error("{} has no evaluation \"{name}\"; it has: {}", config.display(), known.join(", "))]
    Unknown { config: PathBuf, name: String, known: Vec<String> },
    #[error("{} has no evals to run", config.display())]
    NoEvals { config: PathBuf },
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
}

impl Error {
    /// Whether arguments or config are wrong, rather than the run.
    pub fn is_usage(&self) -> bool {
        let of_setup = |error: &setup::Error| match error {
            setup::Error::Config(_) => true,
            setup::Error::Data(error) => error.is_usage(),
            _ => false,
        };
        match self {
            Error::Config(_) | Error::Unknown { .. } | Error::NoEvals { .. } => true,
            Error::Setup(error) | Error::Eval(eval::Error::Setup(error)) => of_setup(error),
            Error::Load(predict::Error::Setup(error)) => of_setup(error),
            Error::Load(predict::Error::Checkpoint(error)) => error.is_usage(),
            _ => false,
        }
    }
}

/// # Errors
/// Before anything is loaded, when the config or its evaluations are wrong.
pub fn run(args: &Args, console: &Console) -> Result<(), Error> {
    let split = |texts: &[String]| {
        texts.iter().map(|text| config::split_assignment(text)).collect::<Result<Vec<_>, _>>()
    };
    let mut loaded = Config::load(&args.config, &split(&args.args)?, &split(&args.sets)?)?;
    let names = wanted(args, &loaded)?;
    // A mesh that the model was trained on is of no use here: one device evaluates.
    loaded.config.device.cpu_device_count = 1;

    let phase = console.phase("loading the model");
    let model = LoadedModel::open(&args.checkpoint, &loaded)?;
    phase.done("");
    let client = args.plugin.client(&loaded.config.device)?;
    let device = client.devices().first().cloned();
    let device = device.ok_or_else(|| loaded.error_at("device", "the plugin found no device"))?;
    let env = setup::pp_env(&loaded);
    let tokenizer = Arc::clone(&model.tokenizer);
    let shared = Shared {
        loaded: &loaded,
        model: &model.config,
        device: &device,
        env: &env,
        tokenizer: &tokenizer,
        num_pictures: if args.html.is_some() { loaded.config.report.examples } else { 0 },
    };
    // All are set up before the first is run: a mistake in the last one costs no time.
    let specs = loaded.config.evals.iter().filter(|(name, _)| names.iter().any(|wanted| wanted == name));
    let evaluations = specs.map(|(name, spec)| Evaluation::new(name, spec, &shared));
    let mut evaluations = evaluations.collect::<Result<Vec<_>, _>>()?;
    // The host's copies go as soon as the device has read them.
    let upload = |(_, array)| client.upload_owned(array, &device);
    let params: Vec<Buffer> = model.params.into_iter().map(upload).collect::<Result<_, _>>()?;
    let params: Vec<&Buffer> = params.iter().collect();

    let label = label(&args.checkpoint);
    let mut found = Vec::new();
    let mut files = Vec::new();
    for evaluation in &mut evaluations {
        let started = Instant::now();
        let phase = console.phase(format!("evaluating {}", evaluation.name));
        let outcome = evaluation.run(&params)?;
        phase.done(&format!("{} examples", evaluation.num_examples()));
        files.extend(eval::write(evaluation, &outcome, &label, args.out.as_deref())?);
        found.push((evaluation.name.clone(), started.elapsed().as_secs_f64(), outcome));
    }
    for file in &files {
        console.line(&format!("written: {}", file.display()));
    }
    if let Some(path) = &args.html {
        page::write(path, &report_of(args, &loaded, &found))?;
    }
    print(args, &found, &files)
}

/// The evaluations to run.
fn wanted(args: &Args, loaded: &Loaded) -> Result<Vec<String>, Error> {
    let known: Vec<String> = loaded.config.evals.iter().map(|(name, _)| name.to_owned()).collect();
    if known.is_empty() {
        return Err(Error::NoEvals { config: args.config.clone() });
    }
    match args.evals.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(Error::Unknown { config: args.config.clone(), name: name.clone(), known }),
        None if args.evals.is_empty() => Ok(known),
        None => Ok(args.evals.clone()),
    }
}

/// What the files of a checkpoint's answers are called by.
fn label(checkpoint: &Path) -> String {
    let whole = std::path::absolute(checkpoint).unwrap_or_else(|_| checkpoint.to_owned());
    whole.file_stem().map_or_else(|| "checkpoint".into(), |name| name.to_string_lossy().into_owned())
}

type Found = (String, f64, Outcome);

/// On standard output: a line per metric, or one object.
fn print(args: &Args, found: &[Found], files: &[PathBuf]) -> Result<(), Error> {
    let all = found.iter().flat_map(|(_, _, outcome)| &outcome.metrics);
    let mut text = String::new();
    if args.json {
        let metrics: Map<String, Json> = all.map(|(name, value)| (name.clone(), json!(value))).collect();
        let secs: Map<String, Json> =
            found.iter().map(|(name, secs, _)| (name.clone(), json!(secs))).collect();
        let object = json!({
            "checkpoint": args.checkpoint,
            "config": args.config,
            "metrics": metrics,
            "secs": secs,
            "files": files,
        });
        text = format!("{object}\n");
    } else {
        let width = all.clone().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in all {
            writeln!(text, "{name:<width$}  {}", number(*value)).expect("writing to a string does not fail");
        }
    }
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Write(error)),
        _ => Ok(()),
    }
}

fn report_of(args: &Args, loaded: &Loaded, found: &[Found]) -> Report {
    let table = |(name, _, outcome): &Found| Table {
        title: name.clone(),
        header: vec!["metric".into(), "value".into()],
        rows: outcome.metrics.iter().map(|(name, value)| vec![name.clone(), number(*value)]).collect(),
    };
    Report {
        title: format!("PaliGemma · {}", label(&args.checkpoint)),
        summary: vec![
            ("checkpoint".into(), args.checkpoint.display().to_string()),
            ("config".into(), args.config.display().to_string()),
            ("program".into(), format!("paligemma {}", env!("CARGO_PKG_VERSION"))),
        ],
        tables: found.iter().map(table).collect(),
        worst: found.iter().flat_map(|(name, _, outcome)| eval::hardest(name, outcome)).collect(),
        config_yaml: loaded.to_yaml(),
        ..Report::default()
    }
}
