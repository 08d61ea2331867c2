//! Greedy decoding of a small model on CPU: 64 new tokens after 64 image and 64 text tokens.
//!
//! Before the timing it says what memory the program takes beside its cache.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paligemma::array::{DType, HostArray, Shape};
use paligemma::decode::{DecodeConfig, Decoder, PromptBatch};
use paligemma::graph::RematPolicy;
use paligemma::model::{GemmaConfig, PaliGemmaConfig, PoolType, PosEmb, QueryNorm, SiglipConfig};
use paligemma::runtime::{Buffer, Client, ClientOptions, Plugin, PluginKind, PluginRequest};

const PROMPT_LEN: usize = 64;
const MAX_DECODE_LEN: usize = 64;

/// 9 597 888 parameters.
fn small(cache_dtype: DType) -> PaliGemmaConfig {
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
            cache_dtype,
        },
        image_size: [112, 112],
        lora: None,
    }
}

fn prompts(batch: usize) -> PromptBatch {
    let image: Vec<f32> = (0..batch * 112 * 112 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let text: Vec<i32> = (0..batch * PROMPT_LEN).map(|i| 2 + (i * 7919 % 4094) as i32).collect();
    let ones = HostArray::new([batch, PROMPT_LEN], &vec![1i32; batch * PROMPT_LEN]).unwrap();
    PromptBatch {
        image: HostArray::new([batch, 112, 112, 3], &image).unwrap(),
        text: HostArray::new([batch, PROMPT_LEN], &text).unwrap(),
        mask_ar: HostArray::zeros(ones.shape().clone()),
        mask_input: ones,
        mask: HostArray::from_bytes(Shape::new(DType::Pred, [batch]), &vec![1; batch]).unwrap(),
    }
}

fn greedy(criterion: &mut Criterion) {
    let plugin = Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap();
    let client = Client::new(&plugin, &ClientOptions::cpu_devices(1)).unwrap();
    let device = &client.devices()[0];
    let mut group = criterion.benchmark_group("decode/greedy");
    group.sample_size(10);
    for (cache_dtype, batch) in [(DType::F32, 1), (DType::F32, 8), (DType::BF16, 1), (DType::BF16, 8)] {
        let model = small(cache_dtype);
        let specs = model.params().unwrap();
        let upload = |spec: &paligemma::params::ParamSpec| client.upload(&spec.init(0).unwrap(), device);
        let params = specs.iter().map(upload).collect::<Result<Vec<Buffer>, _>>().unwrap();
        let params: Vec<&Buffer> = params.iter().collect();
        // A token that never comes.
        let config = DecodeConfig::greedy(MAX_DECODE_LEN, -1);
        let llm = &model.llm;
        let entries = 64 + PROMPT_LEN + MAX_DECODE_LEN;
        let cache_bytes =
            2 * llm.depth * batch * entries * llm.num_kv_heads * llm.head_dim * cache_dtype.num_bytes();
        let mut decoder = Decoder::new(model, config, device).unwrap();
        let prompts = prompts(batch);
        let memory = decoder.executable(&params, &prompts).unwrap().compiled().memory_stats().unwrap();
        let [cache, temp] = [cache_bytes as f64, memory.temp_bytes as f64].map(|bytes| bytes / 1e6);
        eprintln!("batch {batch}, cache {cache_dtype}: {cache:.2} MB, temporaries {temp:.2} MB");
        group.throughput(Throughput::Elements((batch * MAX_DECODE_LEN) as u64));
        group.bench_function(BenchmarkId::new(cache_dtype.name(), batch), |bencher| {
            bencher.iter(|| decoder.decode(&params, &prompts).unwrap())
        });
    }
}

criterion_group!(benches, greedy);
criterion_main!(benches);
