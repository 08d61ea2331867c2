//! Decoding with a small model on CPU: 64 new tokens after 64 image and 64 text tokens, greedily with caches of both
//! types, then by other methods. `cargo bench --bench decode -- greedy/f32` times what `bench_jax_cpu.py` does.
//!
//! Before the timing of greedy decoding it says what memory the program takes beside its cache.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paligemma::array::{DType, HostArray, Shape};
use paligemma::decode::{DecodeConfig, Decoder, Method, PromptBatch};
use paligemma::model::PaliGemmaConfig;
use paligemma::runtime::{Buffer, Client, ClientOptions, Plugin, PluginKind, PluginRequest};

const PROMPT_LEN: usize = 64;
const MAX_DECODE_LEN: usize = 64;

#[path = "../support/recipe.rs"]
#[allow(dead_code, reason = "shared by tests, benchmarks and an example, of which none needs all")]
mod recipe;

fn small(cache_dtype: DType) -> PaliGemmaConfig {
    let mut model = recipe::small();
    model.llm.cache_dtype = cache_dtype;
    model
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

fn methods(criterion: &mut Criterion) {
    let plugin = Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap();
    let client = Client::new(&plugin, &ClientOptions::cpu_devices(1)).unwrap();
    let device = &client.devices()[0];
    let model = small(DType::F32);
    let specs = model.params().unwrap();
    let upload = |spec: &paligemma::params::ParamSpec| client.upload(&spec.init(0).unwrap(), device);
    let params = specs.iter().map(upload).collect::<Result<Vec<Buffer>, _>>().unwrap();
    let params: Vec<&Buffer> = params.iter().collect();
    let sample =
        |sampler: &str, best_of_n: usize| Method::Sample { sampler: sampler.parse().unwrap(), best_of_n };
    let methods = [
        ("temperature", sample("temperature(1)", 1)),
        ("nucleus", sample("nucleus(0.9)", 1)),
        ("top_k", sample("top_k(40)", 1)),
        ("best_of_4", sample("temperature(1)", 4)),
        ("beam_3", Method::Beam { beam_size: 3 }),
    ];
    let mut group = criterion.benchmark_group("decode/methods");
    group.sample_size(10);
    for (name, method) in methods {
        for batch in [1, 8] {
            // Beam search needs an end that can come; the others never meet theirs.
            let eos_token = if matches!(method, Method::Beam { .. }) { 1 } else { -1 };
            let config = DecodeConfig { method, ..DecodeConfig::greedy(MAX_DECODE_LEN, eos_token) };
            let mut decoder = Decoder::new(model.clone(), config, device).unwrap();
            let prompts = prompts(batch);
            let num_steps = decoder.decode(&params, &prompts).unwrap().num_steps;
            group.throughput(Throughput::Elements((batch * num_steps) as u64));
            group.bench_function(BenchmarkId::new(name, batch), |bencher| {
                bencher.iter(|| decoder.decode(&params, &prompts).unwrap())
            });
        }
    }
}

criterion_group!(benches, greedy, methods);
criterion_main!(benches);
