//! Scores of image captions, as pycocoevalcap computes them for COCO (<https://arxiv.org/abs/1504.00325>): CIDEr-D,
//! BLEU-1 to 4 and ROUGE-L on texts that the tokenizer of the Penn Treebank has cut into words.
//!
//! METEOR and SPICE need Java programs and their data; they are refused by name.

mod bleu;
mod cider;
mod ngrams;
mod ptb;
mod rouge;
#[cfg(test)]
mod tests;

use indexmap::IndexMap;

pub use ptb::tokenize;

use super::Metrics;

/// The metrics of big_vision's `coco_caption` evaluator that can be computed, by its names.
pub const METRICS: [&str; 3] = ["cider", "rouge", "bleu-4"];

/// Why captions cannot be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("image {image} has a predicted caption but no reference")]
    NoReference { image: String },
    #[error("image {image} has reference captions but no predicted one")]
    NoPrediction { image: String },
    #[error("unknown caption metric \"{name}\", known are: {}{}", METRICS.join(", "), advice(.name))]
    UnknownMetric { name: String },
}

fn advice(name: &str) -> &'static str {
    match name {
        "meteor" | "spice" => "; METEOR and SPICE are Java programs, run them on the written predictions",
        _ => "",
    }
}

/// A score of all captions together, and of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// What papers report; 0 of no captions.
    pub corpus: f64,
    pub per_image: Vec<f64>,
}

/// Captions of images, in words with one blank between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captions {
    images: Vec<Image>,
}

/// One image's predicted caption and at least one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    candidate: String,
    references: Vec<String>,
}

impl Captions {
    /// Captions as people and models write them, with the names of their images. Rows of one image are put together: the
    /// last prediction counts, and every reference.
    ///
    /// # Errors
    /// When an image has only predictions or only references.
    pub fn new<'a>(
        predictions: impl IntoIterator<Item = (&'a str, &'a str)>,
        references: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let mut images: IndexMap<&str, (&str, Vec<&str>)> = IndexMap::new();
        for (image, caption) in predictions {
            images.entry(image).or_default().0 = caption;
        }
        for (image, caption) in references {
            let known = images.get_mut(image);
            known.ok_or_else(|| Error::NoPrediction { image: image.to_owned() })?.1.push(caption);
        }
        let mut captions = Captions::default();
        for (image, (candidate, references)) in images {
            let references = references.into_iter().map(tokenize).collect();
            captions.add_tokenized(image, tokenize(candidate), references)?;
        }
        Ok(captions)
    }

    /// Adds an image whose captions are tokenized.
    ///
    /// # Errors
    /// When it has no reference.
    pub fn add_tokenized(
        &mut self,
        image: &str,
        candidate: String,
        references: Vec<String>,
    ) -> Result<(), Error> {
        if references.is_empty() {
            return Err(Error::NoReference { image: image.to_owned() });
        }
        self.images.push(Image { candidate, references });
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.images.len()
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// CIDEr-D with n-grams of up to four words (<https://arxiv.org/abs/1411.5726>), usually from 0 to 2, at most 10.
    /// How much an n-gram counts depends on how many images of these have it in their references, so a single image
    /// scores 0.
    pub fn cider(&self) -> Scores {
        cider::cider(&self.images)
    }

    /// BLEU-1 to BLEU-4, with the reference whose length is closest to the candidate's.
    pub fn bleu(&self) -> [Scores; 4] {
        bleu::bleu(&self.images)
    }

    /// ROUGE-L: the longest common subsequence of words, with a weight of 1.2 for recall.
    pub fn rouge_l(&self) -> Scores {
        let score = |image: &Image| rouge::rouge_l(&image.candidate, &image.references);
        Scores::mean(self.images.iter().map(score).collect())
    }

    /// What an evaluator's setting `metrics: [NAME, ...]` asks for, under the reference's names. `bleu-4` yields `bleu-1`
    /// to `bleu-4`.
    ///
    /// # Errors
    /// When the metric is unknown.
    pub fn metric(&self, name: &str) -> Result<Metrics, Error> {
        match name {
            "cider" => Ok(vec![("cider".into(), self.cider().corpus)]),
            "rouge" => Ok(vec![("rouge".into(), self.rouge_l().corpus)]),
            "bleu-4" => {
                let scores = self.bleu().into_iter().zip(1..);
                Ok(scores.map(|(scores, order)| (format!("bleu-{order}"), scores.corpus)).collect())
            }
            _ => Err(Error::UnknownMetric { name: name.to_owned() }),
        }
    }
}

impl Scores {
    fn mean(per_image: Vec<f64>) -> Self {
        let corpus = per_image.iter().sum::<f64>() / per_image.len().max(1) as f64;
        Scores { corpus, per_image }
    }
}
