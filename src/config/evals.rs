//! Evaluations during and after training.

use super::decode::Decoder;
use super::input::Source;
use super::node::Node;
use super::run::whole;
use super::schema::POSITIVE;
use super::steps::Duration;
use super::values::Kwargs;
use crate::{config_choice, config_section};

config_choice! {
    /// What an evaluator keeps in memory between its runs, from least to most.
    pub enum EvalCache {
        /// Nothing: the input pipeline is made anew for each run.
        None = "none",
        /// The input pipeline.
        Pipeline = "pipeline",
        /// The raw examples.
        RawData = "raw_data",
        /// The preprocessed examples.
        FinalData = "final_data",
    }
}

config_section! {
    /// One evaluation.
    pub struct Eval checked by check_eval {
        /// The evaluator (`perplexity`, `storepreds`, `coco_caption`, ...); null takes the evaluation's own
        /// name.
        pub kind as "type": Option<String> = None;
        /// What the model does with a batch: `logits`, `decode`, `beam_decode`, ...
        pub pred: String = "predict".into();
        /// Arguments of `pred`, such as `max_decode_len`.
        pub pred_kw: Kwargs = Kwargs::default();
        /// The tokenizer that answers are read with, as in pp strings; null takes the config's.
        pub tokenizer: Option<String> = None;
        /// Whether what the model said is written to `predictions/NAME-STEP.jsonl` in the work directory.
        pub save_predictions: bool = true;
        /// Put before the names of its metrics; null is the evaluation's name and a slash.
        pub prefix: Option<String> = None;
        /// Whether the evaluation before the first step is left out.
        pub skip_first: bool = false;
        /// How often it runs, the last step included; without it, it runs only before training.
        pub log: Duration = Duration::NONE;
        /// The examples.
        pub data: Source;
        /// Preprocessing ops for each example, joined by `|`.
        pub pp_fn: String;
        /// Examples in one batch; null takes `input.batch_size`.
        pub batch_size: Option<usize> = None, POSITIVE;
        /// Examples at most, from the first on; null takes all.
        pub max_examples: Option<usize> = None, POSITIVE;
        /// What is kept between runs.
        pub cache: EvalCache = EvalCache::Pipeline;
        /// Batches that are made ahead of their use.
        pub prefetch: usize = 1;
        rest args: Kwargs = "Arguments of the evaluator.";
    }
}

impl Eval {
    /// What stands before the names of the metrics of this evaluation, which is called `name`.
    pub fn metric_prefix(&self, name: &str) -> String {
        self.prefix.clone().unwrap_or_else(|| format!("{name}/"))
    }
}

fn check_eval(eval: &Eval, node: &Node, decoder: &mut Decoder) {
    whole("log", &eval.log, node.key_span("log_steps"), decoder);
}
