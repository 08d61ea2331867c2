//! `paligemma predict`: a model's answers to a prompt about images.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::json;

use crate::config::{self, Config, Loaded};
use crate::decode::{Method, Sampler, SamplerError, TokenMask};
use crate::detection::LocOptions;
use crate::pp;
use crate::predict::{self, LoadedModel, Options, Prediction, Predictor, Question, config_for, find_config};
use crate::report::console::Console;
use crate::report::draw::{boxes_of, draw_prediction};
use crate::runtime::{self, PluginRequest, Wanted};
use crate::setup;

/// Ask a model about images
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model: workdir of a run, one of its checkpoints, or a file of parameters
    #[arg(long, value_name = "CKPT")]
    checkpoint: PathBuf,
    /// The model's config; without it, config.yaml in the checkpoint's workdir, else the published model that the
    /// checkpoint's shapes say it is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// SentencePiece model or tokenizer.json; without it, that of the config, else that beside the checkpoint
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Set a key of the config, as in --set model.llm.cache_dtype=bfloat16
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// The images
    #[arg(long = "image", value_name = "FILE", num_args = 1.., required = true)]
    images: Vec<PathBuf>,
    /// What to ask about each of them
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens of an answer at most; without it, the config's predict.max_decode_len
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_decode_len: Option<u32>,
    /// How tokens are chosen: greedy; without it, the config's predict.sampler
    #[arg(long, value_name = "SAMPLER")]
    sampler: Option<Sampler>,
    /// Images that are answered at once, at most
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Write the image with the answer and its boxes; of several images, their numbers are put into the name
    #[arg(long, value_name = "OUT.png")]
    draw: Option<PathBuf>,
    /// Print one JSON object per image
    #[arg(long)]
    json: bool,
    /// Use this plugin's file
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Use the plugin of this kind: cpu, cuda, cuda13, cuda12 or tpu
    #[arg(long, value_name = "KIND", conflicts_with = "plugin")]
    kind: Option<Wanted>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Predict(#[from] predict::Error),
    #[error("cannot read image {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot decode image {}", path.display())]
    Decode { path: PathBuf, source: pp::Problem },
    #[error("cannot write {}", path.display())]
    Draw { path: PathBuf, source: image::ImageError },
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Error::Predict(error.into())
    }
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Self {
        Error::Predict(error.into())
    }
}

impl Error {
    /// Whether arguments or config are wrong, rather than the run.
    pub fn is_usage(&self) -> bool {
        let is_config = |error: &setup::Error| matches!(error, setup::Error::Config(_));
        match self {
            Error::Predict(predict::Error::NoConfig { .. }) => true,
            Error::Predict(predict::Error::Checkpoint(error)) => error.is_usage(),
            Error::Predict(predict::Error::Setup(error)) => is_config(error),
            _ => false,
        }
    }
}

pub fn run(args: &Args, console: &Console) -> Result<(), Error> {
    let path = args.config.clone().or_else(|| find_config(&args.checkpoint));
    let mut sets =
        args.sets.iter().map(|text| config::split_assignment(text)).collect::<Result<Vec<_>, _>>()?;
    let mut loaded = match &path {
        Some(path) => {
            let tokenizer = args.tokenizer.iter().map(|path| ("tokenizer".into(), absolute(path)));
            sets.extend(tokenizer);
            Config::load(path, &[], &sets)?
        }
        None => {
            let text = config_for(&args.checkpoint, args.tokenizer.as_deref())?;
            Config::parse(&text, &args.checkpoint.join("config.yaml"), &[], &sets)?
        }
    };
    let options = options(args, &loaded)?;
    let questions = args.images.iter().map(|path| question(path, &args.prompt));
    let questions = questions.collect::<Result<Vec<_>, _>>()?;

    let phase = console.phase("loading the model");
    let model = LoadedModel::open(&args.checkpoint, &loaded)?;
    phase.done("");
    // A mesh that the model was trained on is of no use here: one device answers.
    loaded.config.device.cpu_device_count = 1;
    let client = match (&args.plugin, args.kind) {
        (None, None) => setup::client(&loaded.config.device).map_err(predict::Error::from)?,
        (path, wanted) => {
            let request = PluginRequest { path: path.clone(), wanted: wanted.unwrap_or_default() };
            setup::client_of(&request, &loaded.config.device).map_err(predict::Error::from)?
        }
    };
    let device = client.devices().first().cloned();
    let device = device.ok_or_else(|| loaded.error_at("device", "the plugin found no device"))?;
    let mut predictor = Predictor::new(model, &options, &device)?;
    let phase = console.phase("predicting");
    let predictions = predictor.predict(&questions)?;
    phase.done(&format!("{} answers", predictions.len()));

    print(args, &questions, &predictions)?;
    if let Some(out) = &args.draw {
        for (index, (question, prediction)) in questions.iter().zip(&predictions).enumerate() {
            let path = if questions.len() == 1 { out.clone() } else { numbered(out, index + 1) };
            draw(&path, question, prediction)?;
        }
    }
    Ok(())
}

/// As a value of the config, whose own paths are relative to the config's folder.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// What the command line says, else what the config does.
fn options(args: &Args, loaded: &Loaded) -> Result<Options, Error> {
    let predict = &loaded.config.predict;
    for (key, value) in [("beam_size", predict.beam_size), ("best_of_n", predict.best_of_n)] {
        if value != 1 {
            let message = format!("{key} is {value}, only 1 is supported yet");
            return Err(loaded.error_at(&format!("predict.{key}"), message).into());
        }
    }
    let sampler = match args.sampler {
        Some(sampler) => sampler,
        None => predict.sampler.parse().map_err(|error: SamplerError| {
            Error::from(loaded.error_at("predict.sampler", error.to_string()))
        })?,
    };
    let max_decode_len = args.max_decode_len.map_or(predict.max_decode_len, |len| len as usize);
    let method = Method::Sample { sampler, best_of_n: 1 };
    let (mask_logits, seed) = (TokenMask::default(), 0);
    Ok(Options { max_decode_len, method, mask_logits, seed, batch_size: args.batch_size as usize })
}

fn question(path: &Path, prompt: &str) -> Result<Question, Error> {
    let image = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(Question { name: path.display().to_string(), image, prompt: prompt.to_owned() })
}

/// Answers on standard output: the text alone for one image, a line with the file's name for several.
fn print(args: &Args, questions: &[Question], predictions: &[Prediction]) -> Result<(), Error> {
    let mut text = String::new();
    for (question, prediction) in questions.iter().zip(predictions) {
        if args.json {
            text.push_str(&to_json(question, prediction).to_string());
        } else if questions.len() == 1 {
            text.push_str(&prediction.text);
        } else {
            text.push_str(&format!("{}: {}", question.name, prediction.text));
        }
        text.push('\n');
    }
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Write(error)),
        _ => Ok(()),
    }
}

/// Boxes are y1 x1 y2 x2 as fractions of the image.
fn to_json(question: &Question, prediction: &Prediction) -> serde_json::Value {
    let loc = LocOptions::default();
    let objects = prediction.detections.objects.iter();
    let detections: Vec<_> =
        objects.map(|object| json!({"label": object.label, "box": object.fractions(loc)})).collect();
    json!({
        "image": question.name,
        "prompt": question.prompt,
        "text": prediction.text,
        "tokens": prediction.tokens,
        "logp": prediction.logp,
        "score": prediction.score(),
        "is_finished": prediction.is_finished,
        "detections": detections,
    })
}

/// `out.png` as `out.2.png`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().map(OsString::from).unwrap_or_default();
    name.push(format!(".{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn draw(path: &Path, question: &Question, prediction: &Prediction) -> Result<(), Error> {
    let decode = |source| Error::Decode { path: PathBuf::from(&question.name), source };
    let pixels = pp::decode(&question.image, &pp::DecodeOptions::default()).map_err(decode)?;
    let (height, width) = (pixels.dims()[0] as u32, pixels.dims()[1] as u32);
    let picture = RgbImage::from_raw(width, height, pixels.bytes().to_vec())
        .expect("three bytes for each pixel were decoded");
    let caption = format!("{}: {}", question.prompt, prediction.text);
    let drawn = draw_prediction(&picture, &boxes_of(&prediction.text, LocOptions::default()), &caption);
    drawn.save(path).map_err(|source| Error::Draw { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_before_the_extension() {
        assert_eq!(numbered(Path::new("a/out.png"), 2), Path::new("a/out.2.png"));
        assert_eq!(numbered(Path::new("out"), 1), Path::new("out.1"));
    }
}
