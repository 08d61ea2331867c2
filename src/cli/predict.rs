//! `paligemma predict`: a model's answers to a prompt about images.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::json;

use super::plugin::PluginArgs;
use crate::config::{self, Config, Loaded};
use crate::decode::{self, Method, Sampler, SamplerError, TokenMask};
use crate::detection::LocOptions;
use crate::pp;
use crate::predict::{
    self, LoadedModel, Options, Prediction, Predictor, Question, config_for, find_config, token_mask,
};
use crate::report::console::Console;
use crate::report::draw::{boxes_of, draw_prediction};
use crate::runtime;
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
    /// How tokens are chosen: greedy, temperature(t), nucleus(p, t=1) or top_k(k, t=1); without it, the config's
    /// predict.sampler
    #[arg(long, value_name = "SAMPLER")]
    sampler: Option<Sampler>,
    /// Random numbers of samplers that draw: the same seed gives the same answers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Draw so many answers to each image and give the likeliest; without it, the config's predict.best_of_n
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    num_samples: Option<u32>,
    /// Search with so many beams, 1 for none; without it, the config's predict.beam_size
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["sampler", "num_samples"])]
    beam_size: Option<u32>,
    /// Tokens that must not come: a token's text, #ID, or `<loc>` or `<seg>` for all of those
    #[arg(long, value_name = "TOKEN", num_args = 1..)]
    ban: Vec<String>,
    /// Answer with these tokens only; a text of several tokens allows all of them
    #[arg(long, value_name = "TOKEN", num_args = 1..)]
    allow: Vec<String>,
    /// Print the answer as it comes
    #[arg(long, conflicts_with = "json")]
    stream: bool,
    /// Images that are answered at once, at most
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Write the image with the answer and its boxes; of several images, their numbers are put into the name
    #[arg(long, value_name = "OUT.png")]
    draw: Option<PathBuf>,
    /// Print one JSON object per image
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
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
            Error::Predict(predict::Error::NoConfig { .. } | predict::Error::TokenName { .. }) => true,
            Error::Predict(predict::Error::Decode(decode::Error::Config(_))) => true,
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
    let mut options = options(args, &loaded)?;
    let questions = args.images.iter().map(|path| question(path, &args.prompt));
    let questions = questions.collect::<Result<Vec<_>, _>>()?;

    let phase = console.phase("loading the model");
    let model = LoadedModel::open(&args.checkpoint, &loaded)?;
    phase.done("");
    let vocab_size = model.config.llm.vocab_size;
    options.mask_logits = token_mask(&model.tokenizer, vocab_size, &args.ban, &args.allow)?;
    // A mesh that the model was trained on is of no use here: one device answers.
    loaded.config.device.cpu_device_count = 1;
    let client = args.plugin.client(&loaded.config.device).map_err(predict::Error::from)?;
    let device = client.devices().first().cloned();
    let device = device.ok_or_else(|| loaded.error_at("device", "the plugin found no device"))?;
    let mut predictor = Predictor::new(model, &options, &device)?;
    let predictions = match args.stream {
        true => stream(&mut predictor, &questions)?,
        false => {
            let phase = console.phase("predicting");
            let predictions = predictor.predict(&questions)?;
            phase.done(&format!("{} answers", predictions.len()));
            print(args, &questions, &predictions)?;
            predictions
        }
    };
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

/// What the command line says, else what the config does; a mask of tokens needs the tokenizer.
fn options(args: &Args, loaded: &Loaded) -> Result<Options, Error> {
    let predict = &loaded.config.predict;
    let sampler = match args.sampler {
        Some(sampler) => sampler,
        None => predict.sampler.parse().map_err(|error: SamplerError| {
            Error::from(loaded.error_at("predict.sampler", error.to_string()))
        })?,
    };
    // One way to answer that the command line asks for leaves out another that the config does.
    let samples = args.sampler.is_some() || args.num_samples.is_some();
    let best_of_n = args.num_samples.map_or(predict.best_of_n, |count| count as usize);
    let beam_size = match args.beam_size {
        Some(size) => size as usize,
        None if samples => 1,
        None => predict.beam_size,
    };
    if beam_size > 1 && args.beam_size.is_none() && (best_of_n > 1 || sampler != Sampler::Greedy) {
        let message = format!(
            "predict.beam_size is {beam_size}, but beam search does not draw: it needs sampler greedy, got {sampler}, \
             and best_of_n 1, got {best_of_n}"
        );
        return Err(loaded.error_at("predict.beam_size", message).into());
    }
    let method = match beam_size {
        1 => Method::Sample { sampler, best_of_n },
        beam_size => Method::Beam { beam_size },
    };
    Ok(Options {
        max_decode_len: args.max_decode_len.map_or(predict.max_decode_len, |len| len as usize),
        method,
        mask_logits: TokenMask::default(),
        seed: args.seed,
        batch_size: args.batch_size as usize,
    })
}

/// Tokens between two looks at an answer that is shown as it comes.
const STREAM_STEPS: usize = 4;

/// Answers one question after the other on standard output, as the answers come.
fn stream(predictor: &mut Predictor, questions: &[Question]) -> Result<Vec<Prediction>, Error> {
    let mut out = io::stdout().lock();
    // Where nobody reads on, nobody needs to be told.
    let mut say = |text: &str| match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Write(error)),
        _ => Ok(()),
    };
    let mut predictions = Vec::with_capacity(questions.len());
    for question in questions {
        if questions.len() > 1 {
            say(&format!("{}: ", question.name))?;
        }
        let mut said = Ok(());
        let prediction = predictor.predict_in_parts(question, STREAM_STEPS, &mut |text| {
            if said.is_ok() {
                said = say(text);
            }
        })?;
        said?;
        say("\n")?;
        predictions.push(prediction);
    }
    Ok(predictions)
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
