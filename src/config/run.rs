//! The config of a run, top to bottom.

use super::decode::{Decoder, FilePath, Named};
use super::evals::Eval;
use super::input::Input;
use super::lora::{FrozenType, Lora};
use super::model::Model;
use super::modes::Mode;
use super::node::{Node, Span};
use super::presets::Preset;
use super::schedule::ScheduleSpec;
use super::schema::{BELOW_ONE, NON_NEGATIVE, POSITIVE, SHARE};
use super::steps::Duration;
use super::values::{Axes, Kwargs, ModelInit, Rules};
use super::watch::{CkptBest, EarlyStop, ReduceOnPlateau, check_metrics};
use crate::array::DType;
use crate::{config_choice, config_section};

config_section! {
    /// A training or evaluation run.
    pub struct Config checked by check_config {
        /// Defaults of the keys that the config leaves out: those of configs/presets/.
        pub preset: Option<Preset> = None;
        /// Whether the run is cut down to a trial: `runlocal` to 20 steps of 2 examples, evaluations of 16; `mock` also to a
        /// tiny model and random data.
        pub mode: Mode = Mode::Full;
        /// Start of every random sequence: initial parameters, dropout, the order of examples, sampling.
        pub seed: u64 = 0;
        /// Training data; null for runs that do not train.
        pub input: Option<Input> = None;
        /// Length of the training; `total_steps: 0` only evaluates.
        pub total: Duration = Duration::NONE;
        /// SentencePiece model or `tokenizer.json` that `tok` ops and evaluators use; null looks beside
        /// `model_init`.
        pub tokenizer: Option<FilePath> = None;
        /// The model.
        pub model: Model = Model::default();
        /// What initial parameters come from; null starts from random ones.
        pub model_init: Option<ModelInit> = None;
        /// How initial parameters are loaded.
        pub model_load: ModelLoad = ModelLoad::default();
        /// Training state to go on from when the work directory holds none.
        pub resume: Option<FilePath> = None;
        /// Type in which matrix products of the training step are computed.
        pub compute_dtype: DType = DType::F32;
        /// Type in which parameters without a schedule are kept; null keeps float32. `int8` and `nf4` keep kernels
        /// beside `lora` in eight and four bits, with a scale for 64 of them, and the rest in bfloat16.
        pub frozen_dtype: Option<FrozenType> = None;
        /// Adapters to train instead of the model.
        pub lora: Option<Lora> = None;
        /// The optimizer: `scale_by_adam`, `big_vision.scale_by_adafactor`, `big_vision.sgd`, ...
        pub optax_name: String = "scale_by_adam".into();
        /// Arguments of the optimizer, such as `b2`.
        pub optax: Kwargs = Kwargs::default();
        /// Learning rate, which `schedule` multiplies.
        pub lr: f64 = 1e-5, NON_NEGATIVE;
        /// Factors on the learning rate by parameter name; the first pattern that matches decides.
        pub lr_mults: Rules<f64> = Rules(Vec::new());
        /// Weight decay per step, decoupled from the learning rate; `schedule` multiplies it too.
        pub wd: f64 = 0.0, NON_NEGATIVE;
        /// Factors on the weight decay by parameter name; what no pattern matches does not decay.
        pub wd_mults: Rules<f64> = Rules::of(vec![(".*/kernel$", 1.0)]);
        /// Learning-rate schedule, or one by parameter name; null freezes. Every parameter must be matched.
        pub schedule: Rules<Option<ScheduleSpec>> = Rules::of(vec![(".*", Some(ScheduleSpec::default()))]);
        /// Largest global norm of the gradients of trained parameters; null does not clip.
        pub grad_clip_norm: Option<f64> = None, POSITIVE;
        /// Equal parts of each batch that go through the model one after the other, in the memory of one part; the
        /// update is that of the whole batch. Divides `input.batch_size`.
        pub grad_accum_steps: usize = 1, POSITIVE;
        /// Probability that is spread evenly over the tokens that are not the target.
        pub label_smoothing: f64 = 0.0, BELOW_ONE;
        /// The loss.
        pub loss: Loss = Loss::default();
        /// Axes of the device mesh with their sizes; one size may be -1, for all devices that are left.
        pub mesh: Vec<(String, i64)> = vec![("data".into(), -1)];
        /// How parameters and optimizer state are laid over the mesh, by name: `replicate`,
        /// `fsdp(axis="data")`, `shard_dim(axis, dim)`, joined by `|`.
        pub sharding_strategy: Rules<String> = Rules::of(vec![(".*", "replicate".to_owned())]);
        /// Mesh axes of logical axes such as `act_batch`.
        pub sharding_rules: Vec<(String, Axes)> = vec![("act_batch".into(), Axes(vec!["data".into()]))];
        /// The device and the plugin that drives it.
        pub device: Device = Device::default();
        /// Batches that are sent to the device ahead of their use.
        pub prefetch_to_device: usize = 1, POSITIVE;
        /// How often metrics are recorded.
        pub log_training: Duration = Duration::of_steps(50.0);
        /// How often a checkpoint is written, each replacing the one before; without it, none is written.
        pub ckpt: Duration = Duration::NONE;
        /// How often a checkpoint is kept for good; without it, only the last one is.
        pub keep_ckpt: Duration = Duration::NONE;
        /// Whether checkpoints hold the frozen parameters, which take room once however many checkpoints
        /// there are. With false they leave those of `model_init` there, which then must stay as and where it is.
        pub ckpt_frozen: bool = true;
        /// Also keeps the checkpoint of the step at which a metric was best, and names it in the file `BEST`.
        pub ckpt_best: Option<CkptBest> = None;
        /// Ends the run when a metric no longer gets better.
        pub early_stop: Option<EarlyStop> = None;
        /// Reduces the learning rate when a metric does not get better.
        pub reduce_on_plateau: Option<ReduceOnPlateau> = None;
        /// Evaluations by name.
        pub evals: Named<Eval> = Named::default();
        /// Defaults of the `predict` command.
        pub predict: Predict = Predict::default();
        /// What a run leaves for people to look at.
        pub report: Report = Report::default();
    }
}

config_choice! {
    /// How the losses of tokens become one number.
    pub enum Reduction {
        /// The mean over each example's tokens, then over examples, as big_vision does.
        Example = "example",
        /// The mean over all tokens of the batch.
        Token = "token",
    }
}

config_section! {
    /// The loss.
    pub struct Loss {
        /// How the losses of tokens become one number.
        pub reduction: Reduction = Reduction::Example;
        /// Tokens whose logits exist at the same time, a bound on memory; null computes all at once.
        pub chunk_tokens: Option<usize> = None, POSITIVE;
    }
}

config_section! {
    /// How initial parameters are loaded.
    pub struct ModelLoad {
        /// For the image tower.
        pub img_load_kw: TowerLoad = TowerLoad::default();
        /// For the language model.
        pub llm_load_kw: TowerLoad = TowerLoad::default();
    }
}

config_section! {
    /// How the parameters of one tower are loaded.
    pub struct TowerLoad {
        /// Regexes over names within the tower that start anew instead of being loaded.
        pub dont_load: Vec<super::values::Pattern> = Vec::new();
    }
}

config_choice! {
    /// A kind of device.
    pub enum DeviceKind {
        Cpu = "cpu",
        Gpu = "gpu",
        Tpu = "tpu",
    }
}

config_section! {
    /// The device and the plugin that drives it.
    pub struct Device {
        /// PJRT plugin to load; null looks for an installed one.
        pub plugin: Option<FilePath> = None;
        /// Kind of device to look for; null takes the fastest one found.
        pub kind: Option<DeviceKind> = None;
        /// Share of a GPU's memory that this process may take.
        pub memory_fraction: f64 = 0.75, SHARE;
        /// Whether that memory is taken at the start, which avoids fragmentation.
        pub preallocate: bool = true;
        /// Devices that the CPU plugin pretends to have, for trying out a mesh.
        pub cpu_device_count: usize = 1, POSITIVE;
    }
}

config_section! {
    /// Defaults of the `predict` command.
    pub struct Predict {
        /// Preprocessing ops for image and prompt, joined by `|`; null derives them from `model.image_size`.
        pub pp_fn: Option<String> = None;
        /// `greedy`, `temperature(t)`, `nucleus(p, t=1)` or `top_k(k, t=1)`.
        pub sampler: String = "greedy".into();
        /// Tokens that are generated at most.
        pub max_decode_len: usize = 128, POSITIVE;
        /// Beams of beam search; 1 samples instead.
        pub beam_size: usize = 1, POSITIVE;
        /// Answers that are sampled for each image, of which the likeliest is kept.
        pub best_of_n: usize = 1, POSITIVE;
    }
}

config_section! {
    /// What a run leaves in its work directory for people to look at.
    pub struct Report {
        /// Whether `report.html`, with curves and pictures, is written.
        pub html: bool = true;
        /// Whether TensorBoard events are written.
        pub tensorboard: bool = true;
        /// Examples of each evaluation that are shown with their picture, before and after training.
        pub examples: usize = 8;
    }
}

super::default_sections!(Config, Loss, ModelLoad, TowerLoad, Device, Predict, Report);

impl Config {
    /// Examples in one batch of an evaluation: its own size, else that of training, else 1.
    pub fn eval_batch_size(&self, eval: &Eval) -> usize {
        eval.batch_size.or(self.input.as_ref().map(|input| input.batch_size)).unwrap_or(1)
    }
}

/// Reports a duration in `_steps` that is not whole; only schedules can use fractions.
pub(super) fn whole(name: &str, duration: &Duration, span: Span, decoder: &mut Decoder) {
    if let Err(error) = duration.whole_steps(name, Default::default()) {
        decoder.problem::<()>(span, error.to_string());
    }
}

fn check_config(config: &Config, node: &Node, decoder: &mut Decoder) {
    let durations = [
        ("total", &config.total),
        ("log_training", &config.log_training),
        ("ckpt", &config.ckpt),
        ("keep_ckpt", &config.keep_ckpt),
    ];
    for (name, duration) in durations {
        whole(name, duration, node.key_span(&format!("{name}_steps")), decoder);
    }
    if config.total.percent.is_some() {
        let span = node.key_span("total_percent");
        decoder.problem::<()>(
            span,
            "total_percent is a share of itself, use total_steps, total_epochs or total_examples",
        );
    }
    if let Some(input) = &config.input
        && input.batch_size % config.grad_accum_steps != 0
        && decoder.is_good("input.batch_size")
        && decoder.is_good("grad_accum_steps")
    {
        let (batch, accum) = (input.batch_size, config.grad_accum_steps);
        let span = node.key_span("grad_accum_steps");
        decoder.problem::<()>(
            span,
            format!("grad_accum_steps {accum} does not divide input.batch_size {batch}"),
        );
    }
    if let Some((pattern, mult)) = config.lr_mults.0.iter().find(|(_, mult)| *mult <= 0.0) {
        let pattern = pattern.as_str();
        let message =
            format!("lr_mults has {mult} for \"{pattern}\", use a schedule of null to freeze parameters");
        decoder.problem::<()>(node.key_span("lr_mults"), message);
    }
    if let Some((pattern, mult)) = config.wd_mults.0.iter().find(|(_, mult)| *mult < 0.0) {
        let message = format!("wd_mults has {mult} for \"{}\", expected at least 0", pattern.as_str());
        decoder.problem::<()>(node.key_span("wd_mults"), message);
    }
    check_metrics(config, node, decoder);
    check_mesh(config, node, decoder);
}

fn check_mesh(config: &Config, node: &Node, decoder: &mut Decoder) {
    if !decoder.is_good("mesh") || !decoder.is_good("sharding_rules") {
        return;
    }
    let span = node.key_span("mesh");
    if config.mesh.iter().filter(|(_, size)| *size == -1).count() > 1 {
        decoder.problem::<()>(span, "only one axis of mesh can have size -1");
    }
    for (i, (axis, size)) in config.mesh.iter().enumerate() {
        if *size < 1 && *size != -1 {
            decoder.problem::<()>(
                span,
                format!("mesh axis \"{axis}\" has size {size}, expected at least 1, or -1"),
            );
        }
        if config.mesh[..i].iter().any(|(other, _)| other == axis) {
            decoder.problem::<()>(span, format!("mesh axis \"{axis}\" is there twice"));
        }
    }
    for (logical, axes) in &config.sharding_rules {
        for axis in axes.0.iter().filter(|axis| !config.mesh.iter().any(|(name, _)| name == *axis)) {
            let known = super::error::suggest(axis, config.mesh.iter().map(|(name, _)| name.as_str()));
            let message = format!(
                "sharding_rules lays \"{logical}\" over \"{axis}\", which is no axis of mesh, {known}"
            );
            decoder.problem::<()>(node.key_span("sharding_rules"), message);
        }
    }
}
