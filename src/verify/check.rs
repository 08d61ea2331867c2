use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::program::Session;
use super::{
    Error, Row, checkpoint, data, decode, forward, image, loss, metrics, perplexity, schedule, text, train,
    vit,
};
use crate::runtime::Client;

/// One thing that a recording holds and that can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Activations of both towers.
    Forward,
    /// Losses of one batch.
    Loss,
    /// Gradients of the loss.
    Grads,
    /// The notebook's training loop.
    Sgd,
    /// The trainer with Adam.
    Adam,
    /// The trainer with Adafactor.
    Adafactor,
    /// Greedy decoding.
    Decode,
    /// Beam search.
    Beam,
    /// Train states as big_vision writes them.
    Checkpoint,
    /// Checkpoints and position embeddings of a ViT.
    Vit,
    /// Decoding, resizing and all else that is done to images before a model sees them.
    Image,
    /// Tokenizers, the pp language and its ops on text.
    Text,
    /// The pp strings of big_vision's configs.
    Configs,
    /// Rows of data sets in the formats that people have.
    Data,
    /// Scores of captions, answers, boxes and masks.
    Metrics,
    /// Losses of tokens under given logits.
    Perplexity,
    /// Learning rates, durations, and when things happen.
    Schedule,
}

/// Compares everything that one check of a recording holds.
pub(super) enum Replay {
    /// With a model on a device.
    Model(fn(&Session) -> Result<Vec<Row>, Error>),
    /// On a device, from the recording's folder.
    Device(fn(&Client, &Path) -> Result<Vec<Row>, Error>),
    /// From the recording's folder alone.
    Folder(fn(&Path) -> Result<Vec<Row>, Error>),
}

impl Check {
    pub const ALL: [Check; 17] = [
        Check::Forward,
        Check::Loss,
        Check::Grads,
        Check::Sgd,
        Check::Adam,
        Check::Adafactor,
        Check::Decode,
        Check::Beam,
        Check::Checkpoint,
        Check::Vit,
        Check::Image,
        Check::Text,
        Check::Configs,
        Check::Data,
        Check::Metrics,
        Check::Perplexity,
        Check::Schedule,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Check::Forward => "forward",
            Check::Loss => "loss",
            Check::Grads => "grads",
            Check::Sgd => "sgd",
            Check::Adam => "adam",
            Check::Adafactor => "adafactor",
            Check::Decode => "decode",
            Check::Beam => "beam",
            Check::Checkpoint => "checkpoint",
            Check::Vit => "vit",
            Check::Image => "image",
            Check::Text => "text",
            Check::Configs => "configs",
            Check::Data => "data",
            Check::Metrics => "metrics",
            Check::Perplexity => "perplexity",
            Check::Schedule => "schedule",
        }
    }

    /// The files by which a recording shows that it holds the check: one of them is enough.
    pub(super) const fn files(self) -> &'static [&'static str] {
        match self {
            Check::Forward => &[forward::FILE, forward::LOW_PRECISION_FILE],
            Check::Loss => &[loss::LOSS_FILE],
            Check::Grads => &[loss::GRADS_FILE],
            Check::Sgd => &["sgd.json"],
            Check::Adam => &["adam.json", "adam_lr_mults.json"],
            Check::Adafactor => &["adafactor.json"],
            Check::Decode | Check::Beam => &[decode::FILE],
            Check::Checkpoint => &["adam/checkpoint.bv-LAST", "adafactor/checkpoint.bv-LAST"],
            Check::Vit => &[vit::FILE],
            Check::Image => &[image::FILE],
            Check::Text => &text::FILES,
            Check::Configs => &[text::CONFIGS_FILE],
            Check::Data => &data::FILES,
            Check::Metrics => &metrics::FILES,
            Check::Perplexity => &[perplexity::FILE],
            Check::Schedule => &schedule::FILES,
        }
    }

    /// How to replay it.
    pub(super) fn replay(self) -> Replay {
        Replay::Model(match self {
            Check::Forward => forward::forward,
            Check::Loss => loss::losses,
            Check::Grads => loss::gradients,
            Check::Sgd => train::sgd,
            Check::Adam => train::adam,
            Check::Adafactor => train::adafactor,
            Check::Decode => decode::greedy,
            Check::Beam => decode::beam,
            Check::Image => return Replay::Folder(image::images),
            Check::Text => return Replay::Folder(text::text),
            Check::Configs => return Replay::Folder(text::configs),
            Check::Data => return Replay::Folder(data::data),
            Check::Metrics => return Replay::Folder(metrics::metrics),
            Check::Schedule => return Replay::Folder(schedule::schedule),
            Check::Perplexity => return Replay::Device(perplexity::perplexity),
            Check::Checkpoint => return Replay::Folder(checkpoint::states),
            Check::Vit => return Replay::Device(vit::vit),
        })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Check {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Check::ALL.into_iter().find(|check| check.name() == name);
        known.ok_or_else(|| Error::UnknownCheck { name: name.to_owned() })
    }
}
