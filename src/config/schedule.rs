//! The learning-rate schedule as a config spells it. [`optim::schedule`](crate::optim::schedule) evaluates
//! it.

use super::decode::Decoder;
use super::node::Node;
use super::schema::{NON_NEGATIVE, POSITIVE};
use super::steps::Duration;
use crate::{config_choice, config_section};

config_choice! {
    /// How the rate falls after warm-up.
    pub enum DecayType {
        /// Half a cosine to 0.
        Cosine = "cosine",
        /// A straight line to `end`, or a power of it.
        Linear = "linear",
        /// As `linear`.
        Polynomial = "polynomial",
        /// One over the square root of time, for runs of open length.
        Rsqrt = "rsqrt",
        /// Constant between given steps.
        Stair = "stair",
    }
}

config_section! {
    /// A learning-rate schedule. Its values multiply `lr`, and weight decay as well.
    pub struct ScheduleSpec checked by check_schedule {
        /// Factor on the whole schedule.
        pub mult: f64 = 1.0, NON_NEGATIVE;
        /// How the rate falls after warm-up.
        pub decay_type: DecayType = DecayType::Stair;
        /// Whether the rate is multiplied by `input.batch_size` / 256.
        pub scale_with_batchsize: bool = false;
        /// Length of the linear rise from 0 at the start.
        pub warmup: Duration = Duration::NONE;
        /// Length of the linear fall to 0 at the end, on top of the decay.
        pub cooldown: Duration = Duration::NONE;
        /// Exponent of `linear` and `polynomial`; null is 1.
        pub power: Option<f64> = None, POSITIVE;
        /// Last value of `linear` and `polynomial`, before `cooldown`; null is 0.
        pub end: Option<f64> = None, NON_NEGATIVE;
        /// Older name of `end`.
        pub linear_end: Option<f64> = None, NON_NEGATIVE;
        /// Steps over which `rsqrt` falls by the square root of 2; null is 10000.
        pub timescale: Option<f64> = None, POSITIVE;
        /// The same as a duration, which wins over `timescale`.
        pub timescale_for as "timescale": Duration = Duration::NONE;
        /// Steps that `rsqrt` counts as done before the first; null is 0.
        pub shift: Option<f64> = None, NON_NEGATIVE;
        /// The same as a duration, which wins over `shift`.
        pub shift_for as "shift": Duration = Duration::NONE;
        /// Steps at which `stair` changes, ascending.
        pub steps: Vec<f64> = Vec::new(), NON_NEGATIVE;
        /// Factor of `stair` from each of those steps on.
        pub mults: Vec<f64> = Vec::new(), NON_NEGATIVE;
    }
}

super::default_sections!(ScheduleSpec);

fn check_schedule(spec: &ScheduleSpec, node: &Node, decoder: &mut Decoder) {
    use DecayType::{Cosine, Linear, Polynomial, Rsqrt, Stair};
    let polynomial: &[DecayType] = &[Linear, Polynomial];
    let of_decay = [
        ("power", spec.power.is_some(), polynomial),
        ("end", spec.end.is_some(), polynomial),
        ("linear_end", spec.linear_end.is_some(), polynomial),
        ("timescale", spec.timescale.is_some() || spec.timescale_for.is_set(), &[Rsqrt]),
        ("shift", spec.shift.is_some() || spec.shift_for.is_set(), &[Rsqrt]),
        ("steps", !spec.steps.is_empty(), &[Stair]),
        ("mults", !spec.mults.is_empty(), &[Stair]),
    ];
    if !decoder.is_good("decay_type") {
        return;
    }
    for (name, set, decays) in of_decay {
        if set && !decays.contains(&spec.decay_type) {
            let keys: Vec<&str> =
                of_decay.iter().filter(|k| k.2.contains(&spec.decay_type)).map(|k| k.0).collect();
            let own = match spec.decay_type {
                Cosine => "it takes only mult, scale_with_batchsize, warmup and cooldown".to_owned(),
                _ => format!("it takes {}", keys.join(", ")),
            };
            let message = format!("{name} means nothing to decay_type {}, {own}", spec.decay_type.word());
            decoder.problem::<()>(node.key_span(name), message);
        }
    }
    let lists_are_good = decoder.is_good("steps") && decoder.is_good("mults");
    if spec.steps.len() != spec.mults.len() && spec.decay_type == Stair && lists_are_good {
        let (steps, mults) = (spec.steps.len(), spec.mults.len());
        let message = format!("stair has {steps} steps and {mults} mults, expected one mult for each step");
        decoder.problem::<()>(node.key_span("steps"), message);
    }
    if !spec.steps.is_sorted() {
        decoder.problem::<()>(node.key_span("steps"), "the steps of stair are not in ascending order");
    }
}
