//! `mode`: a config made small, to see within a minute whether it runs.

use super::input::{InputData, Mock, Source};
use super::run::Config;
use super::steps::Duration;
use crate::config_choice;

config_choice! {
    /// How much of a run takes place.
    pub enum Mode {
        /// All of it.
        Full = "full",
        /// A few steps on a few examples.
        RunLocal = "runlocal",
        /// The same of a tiny model with random parameters, on random examples.
        Mock = "mock",
    }
}

/// Steps, examples of a batch, and examples of an evaluation, at most.
const STEPS: f64 = 20.0;
const BATCH_SIZE: usize = 2;
const EVAL_EXAMPLES: usize = 16;
/// Rows of each random source.
const MOCK_ROWS: usize = 64;

impl Mode {
    /// Changes a config; a config that has been changed stays as it is.
    pub(super) fn apply(self, config: &mut Config) {
        if self == Mode::Full {
            return;
        }
        if config.total.steps.is_none_or(|steps| steps > STEPS) {
            config.total = Duration::of_steps(STEPS);
        }
        config.log_training = Duration::of_steps(1.0);
        config.ckpt = Duration::NONE;
        config.keep_ckpt = Duration::NONE;
        for spec in config.schedule.0.iter_mut().filter_map(|(_, spec)| spec.as_mut()) {
            for duration in [&mut spec.warmup, &mut spec.cooldown] {
                if duration.is_set() && duration.percent.is_none() {
                    *duration = Duration::of_steps(2.0);
                }
            }
        }
        if let Some(input) = &mut config.input {
            input.batch_size = input.batch_size.min(BATCH_SIZE);
            input.shuffle_buffer_size = None;
            input.sources.0.0.iter_mut().for_each(|(_, source)| source.shuffle_buffer_size = None);
            if !input.batch_size.is_multiple_of(config.grad_accum_steps) {
                config.grad_accum_steps = input.batch_size;
            }
        }
        for (_, eval) in &mut config.evals.0 {
            eval.batch_size = Some(eval.batch_size.unwrap_or(BATCH_SIZE).min(BATCH_SIZE));
            eval.max_examples = Some(eval.max_examples.unwrap_or(EVAL_EXAMPLES).min(EVAL_EXAMPLES));
            if eval.log.is_set() {
                eval.log = Duration::of_steps(STEPS / 2.0);
            }
        }
        if self == Mode::Mock {
            mock(config);
        }
    }
}

fn mock(config: &mut Config) {
    config.model_init = None;
    config.resume = None;
    let img = &mut config.model.img;
    if let Some(variant) = &img.variant {
        let patch = variant.split_once('/').map_or("16", |(_, patch)| patch);
        img.variant = Some(format!("mu/{patch}"));
        (img.width, img.depth, img.mlp_dim, img.num_heads) = (None, None, None, None);
    }
    let llm = &mut config.model.llm;
    if llm.variant.take().is_some() {
        (llm.width, llm.depth, llm.mlp_dim) = (Some(64), Some(2), Some(128));
        (llm.num_heads, llm.num_kv_heads, llm.head_dim) = (Some(4), Some(1), Some(16));
    }
    let random = |seed: usize| Source::Mock(Mock { rows: MOCK_ROWS, seed });
    if let Some(input) = &mut config.input {
        if let InputData::Source(source) = &mut input.data {
            *source = random(0);
        }
        for (number, (_, source)) in (1..).zip(input.sources.0.0.iter_mut()) {
            source.data = random(number);
        }
    }
    config.evals.0.iter_mut().for_each(|(_, eval)| eval.data = random(1000));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const YAML: &str = "total_epochs: 3\nmodel_init: x.npz\ngrad_accum_steps: 4\n\
        schedule: {decay_type: cosine, warmup_steps: 100}\ncompute_dtype: bfloat16\nmodel: {llm: {variant: gemma_2b}}\n\
        input: {data: {name: 'bv:jsonl', fname: x}, pp: decode, batch_size: 256, shuffle_buffer_size: 50}\n\
        evals: {val: {type: perplexity, log_steps: 500, data: {name: 'bv:jsonl', fname: x}, pp_fn: decode}}\n";

    fn config(mode: Mode) -> Config {
        let yaml = format!("mode: {}\n{YAML}", mode.word());
        let loaded = Config::parse(&yaml, Path::new("run.yaml"), &[], &[]);
        loaded.unwrap_or_else(|error| panic!("{error}")).config
    }

    #[test]
    fn a_trial_is_small_and_else_as_the_run() {
        let (full, trial) = (config(Mode::Full), config(Mode::RunLocal));
        assert_eq!(full.input.as_ref().unwrap().batch_size, 256);
        let input = trial.input.as_ref().unwrap();
        assert_eq!((input.batch_size, input.shuffle_buffer_size, trial.grad_accum_steps), (2, None, 2));
        assert_eq!((trial.total.steps, trial.log_training.steps), (Some(20.0), Some(1.0)));
        assert_eq!(trial.schedule.get("x").unwrap().as_ref().unwrap().warmup.steps, Some(2.0));
        let eval = trial.evals.get("val").unwrap();
        assert_eq!((eval.batch_size, eval.max_examples, eval.log.steps), (Some(2), Some(16), Some(10.0)));
        assert_eq!((&trial.model, &trial.model_init), (&full.model, &full.model_init));
        assert_eq!(input.data, full.input.unwrap().data);
    }

    #[test]
    fn a_mock_needs_neither_data_nor_checkpoint() {
        let mock = config(Mode::Mock);
        assert_eq!((mock.model_init, mock.model.llm.variant), (None, None));
        assert_eq!(mock.model.img.variant.as_deref(), Some("mu/14"));
        assert_eq!(mock.input.unwrap().data, InputData::Source(Source::Mock(Mock { rows: 64, seed: 0 })));
        assert!(matches!(mock.evals.get("val").unwrap().data, Source::Mock(_)));
    }
}
