//! Training steps of the published sizes, shared by `tests/full_size.rs`, the benchmark `graph` and the
//! example `aot`.

use paligemma::array::DType;
use paligemma::graph::RematPolicy;
use paligemma::model::{GemmaConfig, LossConfig, PaliGemmaConfig, PoolType, PosEmb, QueryNorm, SiglipConfig};
use paligemma::optim::{Optimizer, OptimizerConfig, Transform};
use paligemma::params::{ParamSpecs, Patterns};
use paligemma::setup::param_dtypes;
use paligemma::train::{StepBatch, TrainStep};

/// A training step, as a config would describe it.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub model: PaliGemmaConfig,
    /// What is trained, as a pattern over names.
    pub trained: &'static str,
    pub transform: Transform,
    pub grad_clip_norm: Option<f64>,
    /// The type in which the other parameters are kept.
    pub frozen: DType,
    pub loss: LossConfig,
    pub batch: StepBatch,
}

pub const ADAM: Transform = Transform::Adam { b1: 0.9, b2: 0.999, eps: 1e-8, eps_root: 0.0, mu_dtype: None };

/// A published PaliGemma for 224 px images: `gemma_2b` is PaliGemma 3B, `gemma2_2b` PaliGemma 2 3B.
pub fn published(llm: &str) -> PaliGemmaConfig {
    let llm = GemmaConfig::variant(llm).unwrap_or_else(|error| panic!("{error}"));
    let img = SiglipConfig::variant("So400m/14").unwrap_or_else(|error| panic!("{error}"));
    PaliGemmaConfig {
        img: SiglipConfig { pool_type: PoolType::None, ..img },
        llm: GemmaConfig { vocab_size: 257_152, final_logits_softcap: 0.0, ..llm },
        image_size: [224, 224],
        lora: None,
    }
}

/// The benchmark model: 9 597 888 parameters.
pub fn small() -> PaliGemmaConfig {
    PaliGemmaConfig {
        img: SiglipConfig {
            width: 192,
            depth: 6,
            mlp_dim: 768,
            num_heads: 3,
            patch_size: [14, 14],
            pool_type: PoolType::None,
            posemb: PosEmb::Learn,
            dropout: 0.0,
            dtype_mm: DType::F32,
            remat_policy: RematPolicy::NothingSaveable,
            head_zeroinit: false,
        },
        llm: GemmaConfig {
            width: 256,
            depth: 6,
            mlp_dim: 1024,
            num_heads: 4,
            num_kv_heads: 1,
            head_dim: 64,
            vocab_size: 4096,
            query_pre_attn_norm: QueryNorm::RsqrtHeadDim,
            attn_logits_softcap: 0.0,
            final_logits_softcap: 0.0,
            post_norms: false,
            dropout: 0.0,
            remat_policy: RematPolicy::NothingSaveable,
            embed_dtype: DType::F32,
            cache_dtype: DType::F32,
        },
        image_size: [112, 112],
        lora: None,
    }
}

impl Recipe {
    /// Everything is trained by Adam, in `f32`.
    pub fn full_adam(model: PaliGemmaConfig, batch_size: usize, text_len: usize) -> Self {
        Recipe {
            model,
            trained: ".*",
            transform: ADAM,
            grad_clip_norm: Some(1.0),
            frozen: DType::F32,
            loss: LossConfig::default(),
            batch: StepBatch { batch_size, text_len, micro_batches: 1 },
        }
    }

    /// big_vision's notebook: gradient descent on the decoder's attention, the rest frozen in half
    /// precision, in which the vision tower also computes.
    pub fn notebook(mut model: PaliGemmaConfig, batch_size: usize, text_len: usize) -> Self {
        model.img.dtype_mm = DType::F16;
        Recipe {
            trained: "llm/layers/attn/.*",
            transform: Transform::Identity,
            grad_clip_norm: None,
            frozen: DType::F16,
            ..Recipe::full_adam(model, batch_size, text_len)
        }
    }

    pub fn optimizer(&self) -> (ParamSpecs, Optimizer) {
        let all = self.model.params().unwrap_or_else(|error| panic!("{error}"));
        let schedule = Patterns::new([(self.trained, Some(0)), (".*", None)]);
        let config = OptimizerConfig {
            transform: self.transform.clone(),
            lr: 1e-5,
            lr_mults: Patterns::new::<&str>([]).unwrap_or_else(|error| panic!("{error}")),
            wd: 0.0,
            wd_mults: Patterns::new::<&str>([]).unwrap_or_else(|error| panic!("{error}")),
            grad_clip_norm: self.grad_clip_norm,
            schedule: schedule.unwrap_or_else(|error| panic!("{error}")),
        };
        let optimizer = Optimizer::new(&config, &all).unwrap_or_else(|error| panic!("{error}"));
        let is_trained = |name: &str| optimizer.trained().iter().any(|trained| trained.name == name);
        let specs = param_dtypes(&all, self.frozen, is_trained).unwrap_or_else(|error| panic!("{error}"));
        (specs, optimizer)
    }

    /// Builds, differentiates and updates.
    pub fn build(&self) -> TrainStep {
        let (specs, optimizer) = self.optimizer();
        TrainStep::build(&self.model, &specs, &optimizer, 1, &self.loss, self.batch)
            .unwrap_or_else(|error| panic!("{error}"))
    }
}
