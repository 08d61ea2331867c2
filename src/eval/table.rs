//! The evaluators by their names.

use super::answered::Answered;
use super::model::ModelAnswers;
use super::{Context, Error, Evaluator, Judge};
use super::{answers, captions, detection, perplexity, segmentation, storepreds};

/// One evaluator.
pub struct Kind {
    /// As big_vision's configs write it; the last part alone is enough.
    pub name: &'static str,
    /// Other last parts that mean the same.
    pub aliases: &'static [&'static str],
    make: Make,
}

type MakeJudge = fn(&Context<'_>) -> Result<Box<dyn Judge>, Error>;

enum Make {
    Perplexity,
    /// The model answers, and the answers are judged.
    Answers(MakeJudge),
}

const fn answered(name: &'static str, aliases: &'static [&'static str], judge: MakeJudge) -> Kind {
    Kind { name, aliases, make: Make::Answers(judge) }
}

static KINDS: [Kind; 13] = [
    Kind { name: "proj.paligemma.perplexity", aliases: &[], make: Make::Perplexity },
    answered("proj.paligemma.transfers.vqa", &["anls"], answers::vqa),
    answered("proj.paligemma.transfers.vqav2", &[], answers::vqav2),
    answered("proj.paligemma.transfers.exact_match", &[], answers::exact_match),
    answered("proj.paligemma.transfers.chartqa", &[], answers::chartqa),
    answered("proj.paligemma.transfers.tallyqa", &["countbench", "countbenchqa", "count"], answers::tallyqa),
    answered("proj.paligemma.transfers.pope", &[], answers::pope),
    answered("proj.paligemma.transfers.science_qa", &[], answers::science_qa),
    answered("proj.paligemma.transfers.rsvqa", &[], answers::rsvqa),
    answered("proj.paligemma.transfers.coco_caption", &["caption"], captions::coco_caption),
    answered("proj.paligemma.transfers.segmentation", &[], segmentation::segmentation),
    answered("proj.paligemma.transfers.storepreds", &[], storepreds::storepreds),
    answered("proj.paligemma.transfers.detection", &[], detection::detection),
];

/// The evaluator that a config's `type` means.
pub fn find(name: &str) -> Option<&'static Kind> {
    let wanted = last_part(name);
    KINDS.iter().find(|kind| last_part(kind.name) == wanted || kind.aliases.contains(&wanted))
}

fn last_part(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// The full names of all evaluators.
pub fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name).collect()
}

impl Kind {
    pub(super) fn evaluator(&self, context: &Context<'_>) -> Result<Box<dyn Evaluator>, Error> {
        Ok(match self.make {
            Make::Perplexity => Box::new(perplexity::Perplexity::new(context)?),
            Make::Answers(judge) => Box::new(Answered {
                eval: context.name.to_owned(),
                judge: judge(context)?,
                answerer: Box::new(ModelAnswers::new(context)?),
                num_pictures: context.shared.num_pictures,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluators_are_found_by_any_of_their_names() {
        let name = |text: &str| find(text).map(|kind| kind.name.rsplit('.').next().unwrap());
        assert_eq!(name("proj.paligemma.transfers.vqa"), Some("vqa"));
        assert_eq!(name("transfers.caption"), Some("coco_caption"));
        assert_eq!(name("countbenchqa"), Some("tallyqa"));
        assert_eq!(name("vqav3"), None);
        let names =
            |kind: &'static Kind| std::iter::once(last_part(kind.name)).chain(kind.aliases.iter().copied());
        let mut all: Vec<_> = KINDS.iter().flat_map(names).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "no name means two evaluators");
    }
}
