//! `paligemma train`: trains what a config says.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Error, Outcome};
use crate::config::{self, Config};
use crate::report::console::Console;
use crate::report::units::number;
use crate::train::{self, Request};

/// Train what a config says; goes on with the run that the workdir holds
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The config, in YAML
    #[arg(required_unless_present = "help_config")]
    pub config: Option<PathBuf>,
    /// Folder for checkpoints, metrics and the report
    #[arg(long, value_name = "DIR", required_unless_present = "help_config")]
    pub workdir: Option<PathBuf>,
    /// Set an argument that the config declares under args
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    pub args: Vec<String>,
    /// Set a key of the config, as in --set lr=1e-5 or --set evals.val.log_steps=10
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Write the program of the training step as text
    #[arg(long, value_name = "FILE")]
    pub dump_hlo: Option<PathBuf>,
    /// List all keys of a config, with types, defaults and meanings
    #[arg(long)]
    pub help_config: bool,
}

pub fn run(args: &Args, console: &Console, process_start: Instant) -> Result<Outcome, Error> {
    let (Some(path), Some(workdir)) = (&args.config, &args.workdir) else {
        return match std::io::stdout().lock().write_all(config::reference().as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(train::Error::Write { path: "standard output".into(), source: error }.into())
            }
            _ => Ok(Outcome::Done),
        };
    };
    let split = |texts: &[String]| {
        texts.iter().map(|text| config::split_assignment(text)).collect::<Result<Vec<_>, _>>()
    };
    let loaded = Config::load(path, &split(&args.args)?, &split(&args.sets)?)?;

    let interrupt = Arc::new(AtomicBool::new(false));
    let (flag, speaker) = (interrupt.clone(), console.clone());
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // Asked twice: whoever asks does not want to wait for the save.
            std::process::exit(130);
        }
        speaker.line("stopping after this step and saving; once more to stop at once");
    })?;

    let request = Request {
        loaded: &loaded,
        workdir,
        console,
        interrupt: &interrupt,
        dump_hlo: args.dump_hlo.as_deref(),
        process_start,
    };
    let ended = match train::train(&request) {
        // Whoever starts a command again until it succeeds has what they want.
        Err(done @ train::Error::AlreadyDone { .. }) => {
            console.line(&done.to_string());
            return Ok(Outcome::Done);
        }
        ended => ended?,
    };
    let title = match ended.interrupted {
        true => format!("stopped and saved at step {}; the same command goes on from there", ended.step),
        false if ended.stopped_early => {
            format!("stopped early at step {} in {:.1} s", ended.step, ended.secs)
        }
        false => format!("trained to step {} in {:.1} s", ended.step, ended.secs),
    };
    let shown = |(name, value): &(String, f64)| (name.clone(), number(*value));
    let is_shown = |name: &str| name.contains('/') && !name.starts_with("z/") || name == "training_loss";
    let mut rows: Vec<(String, String)> =
        ended.metrics.iter().filter(|(name, _)| is_shown(name)).map(shown).collect();
    if let Some((metric, value, step)) = &ended.best {
        rows.push((format!("best {metric}"), format!("{} at step {step}", number(*value))));
    }
    let value = |key: &str| ended.metrics.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
    let timing = [
        ("start to first step", value("z/secs/start_to_first_step").map(|secs| format!("{secs:.1} s"))),
        ("median step", value("z/secs/step_median").map(|secs| format!("{:.1} ms", secs * 1e3))),
        (
            "waiting for input",
            value("z/secs/input_wait").map(|secs| {
                let share = if ended.secs > 0.0 { secs / ended.secs * 100.0 } else { 0.0 };
                format!("{secs:.1} s ({share:.0} %)")
            }),
        ),
        ("examples skipped", value("examples_skipped").filter(|n| *n > 0.0).map(number)),
        ("peak memory of the process", value("z/peak_rss_mb").map(|mb| format!("{mb:.0} MB"))),
    ];
    rows.extend(timing.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    console.summary(&title, &rows);
    if loaded.config.report.html {
        console.line(&format!("report: {}", workdir.join("report.html").display()));
    }
    Ok(if ended.interrupted { Outcome::Interrupted } else { Outcome::Done })
}
