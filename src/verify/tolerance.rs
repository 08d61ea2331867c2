use serde::Serialize;

/// In what sense two arrays are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Largest difference over the largest recorded value, per tensor.
    OfMax,
    /// Root mean square of the difference over that of the recorded change from the initial value. Optimizers
    /// move parameters by so little that `OfMax` would hide much.
    OfChange,
    /// Difference over the recorded number itself, the largest of all numbers.
    OfValue,
    /// Largest difference.
    Absolute,
    /// Number of elements that differ.
    Exact,
    /// Largest distance from a value other than the recorded one, which is noise.
    Bound,
    /// Part of the values that differ, infinite where one differs by more than 1: levels of images that were cut
    /// to whole ones.
    Levels,
}

impl Measure {
    /// How people read it: an error is so much "of …".
    pub const fn label(self) -> &'static str {
        match self {
            Measure::OfMax => "max",
            Measure::OfChange => "change",
            Measure::OfValue => "value",
            Measure::Absolute => "1",
            Measure::Exact => "exact",
            Measure::Bound => "bound",
            Measure::Levels => "levels",
        }
    }
}

/// How far a result may be from its recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    pub measure: Measure,
    pub limit: f64,
}

impl Tolerance {
    pub(super) const fn bound(limit: f64) -> Self {
        Tolerance { measure: Measure::Bound, limit }
    }
}

const fn tolerance(measure: Measure, limit: f64) -> Tolerance {
    Tolerance { measure, limit }
}

// Two compilations of one f32 program by different versions of XLA differ by how sums are ordered and fused.
// The distances that were measured between such versions, on these models, stand beside the limits, which leave
// room for one more compiler and for nothing else.

/// Masks, tokens, counts, and parameters that are not trained.
pub const EXACT: Tolerance = tolerance(Measure::Exact, 0.0);
/// Activations of the vision tower, image tokens and embedded text. Measured: 2e-6.
pub const VIT: Tolerance = tolerance(Measure::OfMax, 1e-5);
/// Activations and logits of the decoder, which amplifies what the vision tower left. Measured: 1e-5.
pub const DECODER: Tolerance = tolerance(Measure::OfMax, 5e-5);
/// Image tokens of a tower with 16-bit matrix products: fusion decides where they are rounded. Measured: 3.7e-3.
pub const LOW_PRECISION_VIT: Tolerance = tolerance(Measure::Absolute, 1e-2);
/// Losses, also those of training steps. Measured: 2.5e-6.
pub const LOSS: Tolerance = tolerance(Measure::OfValue, 1e-5);
/// Gradients. Measured: 3.6e-5.
pub const GRADS: Tolerance = tolerance(Measure::OfMax, 2e-4);
/// The key bias of the vision tower adds the same to all logits of a query, so its gradient is zero: what is
/// recorded, and what we compute, is the rounding noise of sums that cancel, a few 1e-7.
pub const ZERO_GRADIENT: Tolerance = Tolerance::bound(1e-5);
/// Losses along plain gradient descent: every step amplifies the distance of the one before. Measured: 1.4e-5.
pub const SGD_LOSS: Tolerance = tolerance(Measure::OfValue, 1e-4);
/// Parameters at its end. Measured: 1.3e-5.
pub const SGD_PARAMS: Tolerance = tolerance(Measure::OfMax, 1e-4);
/// Losses of gradient descent with 16-bit frozen parameters and vision tower. Measured: 1.1e-3.
pub const SGD_LOSS_FLOAT16: Tolerance = tolerance(Measure::OfValue, 4e-3);
/// Parameters after Adam. Measured: 5e-6.
pub const ADAM_PARAMS: Tolerance = tolerance(Measure::OfMax, 3e-5);
/// What Adam changed. Measured: 4e-5.
pub const ADAM_CHANGE: Tolerance = tolerance(Measure::OfChange, 3e-4);
/// Parameters after Adafactor. Measured: 3.4e-5.
pub const ADAFACTOR_PARAMS: Tolerance = tolerance(Measure::OfMax, 1e-4);
/// What Adafactor changed: a rounding of its bfloat16 momentum the other way is 4e-3 of it. Measured: 4.8e-4.
pub const ADAFACTOR_CHANGE: Tolerance = tolerance(Measure::OfChange, 1.5e-3);
/// Norm of Adafactor's updates, of which those of a parameter without a gradient are noise. Measured: 2.4e-4.
pub const ADAFACTOR_L2_UPDATES: Tolerance = tolerance(Measure::OfValue, 2e-3);
/// A gradient so much smaller than the largest of its tensor is rounding noise, of either sign: no less than what
/// [`GRADS`] was measured at.
pub const NOISE_OF_MAX: f64 = 3.6e-5;
/// Norm of gradients. Measured: 2.2e-5.
pub const L2_GRADS: Tolerance = tolerance(Measure::OfValue, 2e-4);
/// Norm of parameters. Measured: 5e-7.
pub const L2_PARAMS: Tolerance = tolerance(Measure::OfValue, 5e-6);
/// Norm of Adam's updates. Measured: 1.4e-6.
pub const L2_UPDATES: Tolerance = tolerance(Measure::OfValue, 1e-5);
/// Learning rates and their schedules, which are f32 formulas of the step.
pub const SCHEDULE: Tolerance = tolerance(Measure::OfValue, 1e-5);
/// Log-probabilities of tokens. Measured: 2.4e-5.
pub const LOGP: Tolerance = tolerance(Measure::Absolute, 1e-4);
/// Logits of decoding with a bfloat16 cache, which may round keys and values either way. Measured: 7.7e-3.
pub const BF16_CACHE_LOGITS: Tolerance = tolerance(Measure::Absolute, 2e-2);
/// Log-probabilities of the same. Measured: 9e-4.
pub const BF16_CACHE_LOGP: Tolerance = tolerance(Measure::Absolute, 5e-3);
/// Sums of absolute values, in f64: numpy adds in pairs, we one after the other.
pub const SUM_OF_ABS: Tolerance = tolerance(Measure::OfValue, 1e-12);
/// A mean of a few whole numbers, in f32.
pub const MEAN_LENGTH: Tolerance = tolerance(Measure::OfValue, 1e-6);
/// Images behind a resize that truncates: the last bit of a sum decides between two levels. Two implementations of
/// the reference's sums in float32 and float64 differed in 0.05 % of the values. Measured: 0.
pub const IMAGE_LEVELS: Tolerance = tolerance(Measure::Levels, 1e-3);
/// Float images, of values in [-1, 1] or [0, 255]. Measured: 0.
pub const FLOAT_IMAGE: Tolerance = tolerance(Measure::Absolute, 1e-4);
/// Counts and accuracies in f64, which are sums of a few numbers.
pub const ACCURACY: Tolerance = tolerance(Measure::Absolute, 1e-12);
/// CIDEr, BLEU and ROUGE, which are sums over many words in f64. Measured: 9e-16.
pub const CAPTION_SCORE: Tolerance = tolerance(Measure::Absolute, 1e-9);
/// COCO's average precision and recall in f64. Measured: 1.1e-14.
pub const AVERAGE_PRECISION: Tolerance = tolerance(Measure::Absolute, 1e-9);
/// Intersections over unions that were recorded in f32. Measured: 2.4e-7.
pub const FLOAT_BOX_IOU: Tolerance = tolerance(Measure::Absolute, 1e-6);
/// What the mask VQ-VAE makes of codes. Measured: 1.4e-5.
pub const DECODED_MASK: Tolerance = tolerance(Measure::Absolute, 1e-4);
/// Pixels of a mask, cut off at 0 after a resize: those next to 0 may be on either side. Measured: 0.
pub const MASK_PIXELS: Tolerance = Tolerance::bound(2.0);
/// Rates of schedules near zero, in parts of the schedule's base: a few steps of f32 in the progress of a decay.
pub const SCHEDULE_NOISE: Tolerance = Tolerance::bound(2e-7);
/// The same where its square root is taken.
pub const SCHEDULE_SQUARE_ROOT: Tolerance = Tolerance::bound(2.5e-4);
/// Adam and Adafactor divide the noise that is the gradient of the vision tower's key bias by its own size: where that
/// is trained, it ends anywhere within a few learning rates of its start, and nothing depends on it. Measured: 0.3 and
/// 2.4.
pub const ZERO_GRADIENT_LEARNING_RATES: f64 = 3.0;

/// Sums in f64 of values whose absolute values add up to `sum_of_abs`, by which rounding is measured: the sum itself
/// may cancel.
pub fn sum_of(sum_of_abs: f64) -> Tolerance {
    tolerance(Measure::Absolute, SUM_OF_ABS.limit * sum_of_abs)
}

/// Whether a parameter's gradient is zero by construction; see [`ZERO_GRADIENT`].
pub fn has_zero_gradient(name: &str) -> bool {
    name.starts_with("img/") && name.ends_with("/MultiHeadDotProductAttention_0/key/bias")
}
