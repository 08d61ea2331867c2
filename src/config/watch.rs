//! What a run does when a metric of its evaluations gets better, or does not.

use super::decode::Decoder;
use super::node::Node;
use super::run::Config;
use super::schema::{BELOW_ONE, NON_NEGATIVE, POSITIVE};
use crate::{config_choice, config_section};

config_choice! {
    /// Which of two values of a metric is the better one.
    pub enum Goal {
        /// The smaller one, as of losses.
        Min = "min",
        /// The larger one, as of scores.
        Max = "max",
    }
}

config_section! {
    /// The checkpoint that is kept because it was best.
    pub struct CkptBest {
        /// A metric of an evaluation, such as `val/pplx/avg`.
        pub metric: String;
        /// Whether it is to be small or large.
        pub mode: Goal = Goal::Min;
    }
}

config_section! {
    /// When a run ends before its last step.
    pub struct EarlyStop {
        /// A metric of an evaluation, such as `val/pplx/avg`.
        pub metric: String;
        /// Whether it is to be small or large.
        pub mode: Goal = Goal::Min;
        /// Evaluations in succession without a new best value after which the run ends.
        pub patience: usize = 3, POSITIVE;
        /// By how much a value must be better to count as a new best one.
        pub min_delta: f64 = 0.0, NON_NEGATIVE;
    }
}

config_choice! {
    /// What the threshold of `reduce_on_plateau` is measured in.
    pub enum ThresholdMode {
        /// Shares of the best value.
        Rel = "rel",
        /// The metric's own unit.
        Abs = "abs",
    }
}

config_section! {
    /// When the learning rate falls because a metric does not get better: torch's `ReduceLROnPlateau`.
    pub struct ReduceOnPlateau {
        /// A metric of an evaluation, such as `val/pplx/avg`.
        pub metric: String;
        /// Whether it is to be small or large.
        pub mode: Goal = Goal::Min;
        /// What the learning rate is multiplied with.
        pub factor: f64 = 0.1, BELOW_ONE;
        /// Evaluations in succession without a new best value that are put up with; the next one reduces.
        pub patience: usize = 10;
        /// By how much a value must be better to count as a new best one.
        pub threshold: f64 = 1e-4, NON_NEGATIVE;
        /// What `threshold` is measured in.
        pub threshold_mode: ThresholdMode = ThresholdMode::Rel;
        /// Evaluations after a reduction that do not count.
        pub cooldown: usize = 0;
        /// The learning rate, before schedules, below which it is not reduced.
        pub min_lr: f64 = 0.0, NON_NEGATIVE;
        /// A reduction by less than this is left out.
        pub eps: f64 = 1e-8, NON_NEGATIVE;
    }
}

/// A metric must belong to an evaluation, which must run while there is something to decide.
pub(super) fn check_metrics(config: &Config, node: &Node, decoder: &mut Decoder) {
    let watched = [
        ("ckpt_best", config.ckpt_best.as_ref().map(|best| &best.metric)),
        ("early_stop", config.early_stop.as_ref().map(|stop| &stop.metric)),
        ("reduce_on_plateau", config.reduce_on_plateau.as_ref().map(|plateau| &plateau.metric)),
    ];
    if !decoder.is_good("evals") {
        return;
    }
    for (key, metric) in watched {
        let Some(metric) = metric else { continue };
        let span = node.key_span(key);
        let prefixed: Vec<_> =
            config.evals.iter().map(|(name, eval)| (name, eval, eval.metric_prefix(name))).collect();
        match prefixed.iter().find(|(_, _, prefix)| metric.starts_with(prefix.as_str())) {
            None => {
                let known: Vec<String> = prefixed.iter().map(|(_, _, prefix)| format!("{prefix}…")).collect();
                let known = if known.is_empty() { "there are none".into() } else { known.join(", ") };
                let message = format!(
                    "{key}.metric \"{metric}\" is of no evaluation; their metrics are called: {known}"
                );
                decoder.problem::<()>(span, message);
            }
            Some((name, eval, _)) if !eval.log.is_set() => {
                let message = format!(
                    "{key} needs values of \"{metric}\" during training: set evals.{name}.log_steps or its like"
                );
                decoder.problem::<()>(span, message);
            }
            Some(_) => {}
        }
    }
}
