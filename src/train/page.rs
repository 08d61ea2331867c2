//! What a training leaves for people: predictions before and after, and the page that shows them.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::{DynamicImage, ImageBuffer, ImageFormat, Pixel, PixelWithColorType};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::Loaded;
use crate::eval::{self, Outcome};
use crate::params::ParamSpecs;
use crate::report::chart::{by_family, series_of};
use crate::report::metrics::{Row, read_metrics};
use crate::report::page::{self, Answer, Card, Marks, Picture, Report, Table};
use crate::report::results;
use crate::report::units::{self, number};
use crate::runtime::Client;

/// The first and the latest answers to the same examples. Kept in the workdir, so that a resumed run still
/// knows what the model said at first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Gallery {
    examples: Vec<Example>,
    /// By evaluation, what it found hardest when it ran last. The end of every run evaluates anew.
    #[serde(skip)]
    hardest: Vec<(String, Vec<Card>)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Example {
    eval: String,
    row: usize,
    prompt: String,
    references: Vec<String>,
    /// PNG, in base64.
    picture: String,
    /// What is to be marked, as a PNG in base64.
    #[serde(default)]
    mask: Option<String>,
    before: Said,
    after: Option<Said>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Said {
    step: u64,
    text: String,
    correct: Option<bool>,
    /// What the answer marks, as a PNG in base64.
    #[serde(default)]
    mask: Option<String>,
}

const FILE: &str = "gallery.json";

impl Gallery {
    /// What an earlier session left, if anything.
    pub fn load(workdir: &Path) -> Self {
        let text = std::fs::read(workdir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub fn save(&self, workdir: &Path) -> Result<(), Error> {
        if self.examples.is_empty() {
            return Ok(());
        }
        let path = workdir.join(FILE);
        let json = serde_json::to_vec(self).map_err(std::io::Error::from);
        let write = |bytes: Vec<u8>| {
            let file = tempfile::NamedTempFile::new_in(workdir)?;
            std::fs::write(file.path(), bytes)?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        json.and_then(write).map_err(|source| Error::Write { path: workdir.join(FILE), source })
    }

    /// Notes what an evaluation found: the answers to its first examples, at most `most`, and what was hardest.
    pub fn add(&mut self, eval: &str, step: u64, outcome: &Outcome, most: usize) {
        self.hardest.retain(|(name, _)| name != eval);
        self.hardest.push((eval.to_owned(), eval::hardest(eval, outcome)));
        for prediction in outcome.predictions.iter().take(most) {
            let (Some(picture), Some(answer)) = (&prediction.picture, &prediction.answer) else { continue };
            let masks = prediction.masks.as_ref();
            let mask = masks.and_then(|masks| masks.answer.as_ref()).and_then(encode);
            let said = Said { step, text: answer.clone(), correct: prediction.correct, mask };
            let known = self.examples.iter_mut().find(|e| e.eval == eval && e.row == prediction.row);
            match known {
                Some(example) if example.before.step == step => example.before = said,
                Some(example) => example.after = Some(said),
                None => {
                    let Some(picture) = encode(picture) else { continue };
                    self.examples.push(Example {
                        eval: eval.to_owned(),
                        row: prediction.row,
                        prompt: prediction.prompt.clone(),
                        references: prediction.references.clone(),
                        picture,
                        mask: masks.and_then(|masks| encode(&masks.reference)),
                        before: said,
                        after: None,
                    });
                }
            }
        }
    }

    fn cards(&self) -> Result<Vec<Card>, Error> {
        let answer = |said: &Said| Answer { text: said.text.clone(), correct: said.correct };
        let mask = |text: &Option<String>| Picture::from_rgba(&decode(text.as_ref()?)?.into_rgba8()).ok();
        let card = |example: &Example| {
            let picture = Picture::from_rgb(&decode(&example.picture)?.into_rgb8()).ok()?;
            Some(Card {
                name: format!("{}/{}", example.eval, example.row),
                picture,
                prompt: example.prompt.clone(),
                reference: example.references.first().cloned(),
                before: Some(answer(&example.before)),
                after: example.after.as_ref().map(answer),
                loss: None,
                score: None,
                masks: Marks {
                    reference: mask(&example.mask),
                    before: mask(&example.before.mask),
                    after: example.after.as_ref().and_then(|said| mask(&said.mask)),
                },
            })
        };
        Ok(self.examples.iter().filter_map(card).collect())
    }
}

fn encode<P>(picture: &ImageBuffer<P, Vec<u8>>) -> Option<String>
where
    P: Pixel<Subpixel = u8> + PixelWithColorType,
{
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(BASE64.encode(bytes.into_inner()))
}

fn decode(picture: &str) -> Option<DynamicImage> {
    let bytes = BASE64.decode(picture).ok()?;
    image::load_from_memory_with_format(&bytes, ImageFormat::Png).ok()
}

/// What the page says of a run beside curves and answers.
pub(super) struct Facts<'a> {
    pub loaded: &'a Loaded,
    pub client: &'a Client,
    pub specs: &'a ParamSpecs,
    /// Numbers in trained parameters.
    pub num_trained: usize,
    pub step: u64,
    pub total_steps: u64,
    pub secs: f64,
    pub metrics: &'a [(String, f64)],
}

pub(super) fn write_page(workdir: &Path, facts: &Facts<'_>, gallery: &Gallery) -> Result<(), Error> {
    let name = facts.loaded.path.file_stem().map_or_else(|| "run".into(), |name| name.to_string_lossy());
    let config = facts.loaded.path.file_name().unwrap_or(facts.loaded.path.as_os_str());
    let platform = facts.client.platform_name();
    let device = facts.client.devices().first().map_or_else(String::new, |device| device.kind().to_owned());
    let device = if device == platform { device } else { format!("{platform} {device}") };
    let measured = |key: &str| facts.metrics.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
    let secs = |secs: f64| units::duration(Duration::try_from_secs_f64(secs).unwrap_or_default());
    let mut summary = vec![
        ("config", config.to_string_lossy().into_owned()),
        ("steps", format!("{} of {}", facts.step, facts.total_steps)),
        ("parameters", units::grouped(facts.specs.num_elements())),
        ("of these trained", units::grouped(facts.num_trained)),
        ("training time", secs(facts.secs)),
    ];
    summary.extend(measured("z/secs/step_median").map(|value| ("median step", secs(value))));
    summary.extend(measured("z/secs/start_to_first_step").map(|value| ("start to first step", secs(value))));
    summary.extend(measured("z/peak_rss_mb").map(|value| ("peak memory", format!("{value:.0} MB"))));
    summary.extend([("device", device), ("program", format!("paligemma {}", env!("CARGO_PKG_VERSION")))]);
    let rows = read_metrics(&workdir.join("metrics.jsonl"))?;
    let mut tables = results::tables(&rows);
    // Of the file, which a session that only completes a run has not measured anew.
    let is_of_step = |row: &&Row| row.values.iter().any(|(name, _)| name == "training_loss");
    if let Some(last) = rows.iter().rfind(is_of_step) {
        let values = last.values.iter().filter(|(name, _)| !name.contains('/'));
        tables.push(Table {
            title: format!("training, step {}", last.step),
            header: vec!["metric".into(), "value".into()],
            rows: values.map(|(name, value)| vec![name.clone(), number(*value)]).collect(),
        });
    }
    let report = Report {
        title: format!("PaliGemma · {name}"),
        summary: summary.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        tables,
        series: by_family(series_of(&rows)),
        gallery: gallery.cards()?,
        worst: gallery.hardest.iter().flat_map(|(_, cards)| cards.iter().cloned()).collect(),
        config_yaml: facts.loaded.to_yaml(),
        ..Report::default()
    };
    Ok(page::write(&workdir.join("report.html"), &report)?)
}
