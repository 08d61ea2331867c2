//! What compiled programs keep in memory, and that ways of using less of it give the same numbers.

use paligemma::array::{DType, HostArray, Shape};
use paligemma::autodiff::gradient;
use paligemma::exec::{self, run_once};
use paligemma::graph::{Builder, Function, RematPolicy, Value};
use paligemma::hlo::EmitOptions;
use paligemma::model::{Examples, GemmaConfig, LossConfig, PaliGemmaConfig, Reduction, SiglipConfig};
use paligemma::nn::Params;
use paligemma::optim::Transform;
use paligemma::runtime::{
    Client, ClientOptions, CompileOptions, CompiledMemoryStats, Plugin, PluginKind, PluginRequest,
};

#[path = "support/recipe.rs"]
#[allow(dead_code, reason = "shared by tests, benchmarks and an example, of which none needs all")]
mod recipe;

const VOCAB: usize = 257_152;
const WIDTH: usize = 2304;
const BATCH: usize = 8;
const TOKENS: usize = 127;

fn cpu_client() -> Client {
    let plugin = Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap();
    Client::new(&plugin, &ClientOptions::cpu_devices(1)).unwrap()
}

fn stats(function: &Function) -> CompiledMemoryStats {
    let (emit, options) = (EmitOptions::default(), CompileOptions::default());
    let executable = exec::compile(&cpu_client(), function, &emit, &options).unwrap();
    executable.compiled().memory_stats().unwrap()
}

/// The loss of a published size, and its gradients.
fn loss_program(chunk_tokens: Option<usize>, table: DType, is_trained: bool) -> Function {
    let b = Builder::new("loss");
    let pre_logits = b.parameter("pre_logits", Shape::new(DType::F32, [BATCH, TOKENS, WIDTH])).unwrap();
    let table = b.parameter("table", Shape::new(table, [VOCAB, WIDTH])).unwrap();
    let targets = b.parameter("targets", Shape::new(DType::S32, [BATCH, TOKENS])).unwrap();
    let mask = b.parameter("mask", Shape::new(DType::F32, [BATCH, TOKENS])).unwrap();
    // The table is also what tokens are embedded by.
    let x = pre_logits.add(&table.take(&targets).unwrap().convert(DType::F32).unwrap()).unwrap();
    let config = LossConfig { chunk_tokens, ..Default::default() };
    let loss = config.build(&x, &table, &targets, &mask).unwrap().loss;
    let wrt = if is_trained { vec![pre_logits, table] } else { vec![pre_logits] };
    let gradients = gradient(&loss, &wrt).unwrap();
    b.finish(&std::iter::once(&loss).chain(&gradients).collect::<Vec<_>>()).unwrap()
}

const TABLE_BYTES: u64 = (VOCAB * WIDTH * 4) as u64;
const LOGITS_BYTES: u64 = (BATCH * TOKENS * VOCAB * 4) as u64;

#[test]
fn a_chunked_loss_holds_neither_all_logits_nor_a_converted_table() {
    for chunk_tokens in [None, Some(16)] {
        let temp = stats(&loss_program(chunk_tokens, DType::F16, false)).temp_bytes;
        println!("{chunk_tokens:?}: {temp}");
        // A CPU multiplies no f16: of a table that is not cut, one step holds a copy.
        let limit = if chunk_tokens.is_none() { LOGITS_BYTES / 2 } else { TABLE_BYTES + LOGITS_BYTES / 2 };
        assert!(temp < limit, "{chunk_tokens:?}: {temp}");
    }
}

#[test]
fn the_gradient_of_a_tied_table_is_held_once() {
    let stats = stats(&loss_program(None, DType::F32, true));
    println!("{stats:?}");
    assert!(stats.output_bytes >= TABLE_BYTES);
    assert!(stats.temp_bytes < TABLE_BYTES / 2, "{stats:?}");
}

fn tiny() -> PaliGemmaConfig {
    let small = recipe::small();
    PaliGemmaConfig {
        img: SiglipConfig { width: 24, depth: 2, mlp_dim: 48, num_heads: 2, ..small.img },
        llm: GemmaConfig {
            width: 40,
            depth: 3,
            mlp_dim: 64,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 14,
            vocab_size: 290,
            attn_logits_softcap: 50.0,
            post_norms: true,
            ..small.llm
        },
        image_size: [42, 42],
        lora: None,
    }
}

#[test]
fn every_policy_and_cut_gives_the_same_loss_and_gradients() {
    let model = tiny();
    let specs = model.params().unwrap();
    let b = Builder::new("policies");
    let mut inputs: Vec<HostArray> = specs.iter().map(|spec| spec.init(3).unwrap()).collect();
    let params: Vec<(String, Value)> = specs
        .iter()
        .map(|spec| (spec.name.clone(), b.parameter(&spec.name, spec.shape.clone()).unwrap()))
        .collect();
    let (batch, length) = (2, 12);
    let image: Vec<f32> = (0..batch * 42 * 42 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let text: Vec<i32> = (0..batch * length).map(|i| 2 + (i * 7919 % 287) as i32).collect();
    let suffix: Vec<i32> = (0..batch * length).map(|i| (i % length >= 5) as i32).collect();
    inputs.push(HostArray::new([batch, 42, 42, 3], &image).unwrap());
    inputs.push(HostArray::new([batch, length], &text).unwrap());
    inputs.push(HostArray::new([batch, length], &suffix).unwrap());
    let names = ["image", "text", "suffix"];
    let batch: Vec<Value> = names
        .iter()
        .zip(&inputs[specs.len()..])
        .map(|(name, array)| b.parameter(name, array.shape().clone()).unwrap())
        .collect();

    let wrt: Vec<Value> = params.iter().map(|(_, value)| value.clone()).collect();
    let params = Params::new(&b, params);
    let policies = RematPolicy::ALL.map(|policy| (policy, Some(0)));
    let cuts = [Some(1), Some(3), Some(7), None].map(|chunk| (RematPolicy::NothingSaveable, chunk));
    let variants: Vec<(RematPolicy, Option<usize>)> = policies.into_iter().chain(cuts).collect();
    let mut outputs = Vec::new();
    for &(policy, chunk_tokens) in &variants {
        let mut model = model.clone();
        model.llm.remat_policy = policy;
        model.img.remat_policy = policy;
        let config = LossConfig { chunk_tokens, label_smoothing: 0.1, ..Default::default() };
        let [image, text, suffix] = [0, 1, 2].map(|i| &batch[i]);
        let examples = Examples { image, text, mask_ar: suffix, mask_loss: suffix };
        let loss = model.loss(&params, &examples, None, &config).unwrap().loss;
        outputs.extend(gradient(&loss, &wrt).unwrap());
        outputs.push(loss);
    }
    let function = b.finish(&outputs.iter().collect::<Vec<_>>()).unwrap();
    let results = run_once(&cpu_client(), &function, &inputs.iter().collect::<Vec<_>>()).unwrap();

    let per_variant = wrt.len() + 1;
    let (reference, others) = results.split_at(per_variant);
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    };
    let values = |array: &HostArray| array.values::<f32>().unwrap().to_vec();
    let norm_of_all = norm(&mut reference.iter().flat_map(values));
    for (results, variant) in others.chunks(per_variant).zip(&variants[1..]) {
        for (i, (array, expected)) in results.iter().zip(reference).enumerate() {
            let (array, expected) = (values(array), values(expected));
            // Some gradients are nothing but rounding: a bias of all keys moves no attention weight.
            let scale = norm(&mut expected.iter().copied()).max(1e-2 * norm_of_all);
            let distance = norm(&mut array.iter().zip(&expected).map(|(a, b)| a - b));
            let name = specs.iter().nth(i).map_or("loss", |spec| &spec.name);
            println!("{variant:?}: {name} is off by {distance:.1e} of {scale:.1e}");
            // f32 sums in another order: 1.0e-6 was seen.
            assert!(distance <= 2e-6 * scale, "{variant:?}: {name} is off by {distance:e} of {scale:e}");
        }
    }
}

/// Everything that a step of plain gradient descent gives on 8 examples whose suffixes differ in length.
fn descend(reduction: Reduction, micro_batches: usize) -> (Vec<String>, Vec<HostArray>) {
    let (rows, length) = (8, 12);
    let mut recipe = recipe::Recipe::full_adam(tiny(), rows, length);
    recipe.transform = Transform::Identity;
    recipe.loss = LossConfig { reduction, label_smoothing: 0.1, ..LossConfig::default() };
    recipe.batch.micro_batches = micro_batches;
    let step = recipe.build();
    let (specs, _) = recipe.optimizer();
    let image: Vec<f32> = (0..rows * 42 * 42 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let text: Vec<i32> = (0..rows * length).map(|i| 2 + (i * 7919 % 287) as i32).collect();
    // One row has none, the last one six times as much as the second.
    let suffix: Vec<i32> = (0..rows * length)
        .map(|i| i32::from(i % length >= length - [0, 1, 2, 2, 3, 4, 5, 6][i / length]))
        .collect();
    let mut inputs: Vec<HostArray> = specs.iter().map(|spec| spec.init(3).unwrap()).collect();
    inputs.push(HostArray::new([rows, 42, 42, 3], &image).unwrap());
    inputs.extend([&text, &suffix, &suffix].map(|ids| HostArray::new([rows, length], ids).unwrap()));
    // Updates are as large as gradients.
    inputs.push(HostArray::new([1], &[1e5f32]).unwrap());
    inputs.push(HostArray::scalar(0.0f32));
    let names = specs.names().map(str::to_owned).chain(["metrics".to_owned()]).collect();
    (names, run_once(&cpu_client(), &step.function, &inputs.iter().collect::<Vec<_>>()).unwrap())
}

#[test]
fn parts_of_a_batch_make_the_step_of_the_whole() {
    let mut losses = Vec::new();
    for (reduction, cuts) in [(Reduction::Example, &[2, 8][..]), (Reduction::Token, &[4])] {
        let (names, whole) = descend(reduction, 1);
        for &parts in cuts {
            let (_, results) = descend(reduction, parts);
            for ((name, got), expected) in names.iter().zip(&results).zip(&whole) {
                let (got, expected) = (got.values::<f32>().unwrap(), expected.values::<f32>().unwrap());
                let largest = expected.iter().fold(0.0f32, |max, value| max.max(value.abs()));
                let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                println!("{reduction:?} in {parts}: {name} is off by {worst:.1e} of {largest:.1e}");
                // Sums over examples in another order.
                assert!(
                    worst <= 5e-6 * largest.max(0.1),
                    "{reduction:?} in {parts}: {name} is off by {worst:e}"
                );
            }
        }
        let metric = |results: &[HostArray], i: usize| results.last().unwrap().values::<f32>().unwrap()[i];
        assert_eq!([metric(&whole, 1), metric(&whole, 2)], [23.0 / 8.0, 6.0]);
        losses.push(metric(&whole, 0));
    }
    // The two weigh examples differently.
    assert!((losses[0] - losses[1]).abs() > 1e-2, "{losses:?}");
}

#[test]
fn a_batch_in_parts_takes_the_memory_of_one() {
    let temp_bytes = |micro_batches: usize| {
        let mut recipe = recipe::Recipe::full_adam(recipe::small(), 16, 64);
        recipe.batch.micro_batches = micro_batches;
        stats(&recipe.build().function).temp_bytes
    };
    let [whole, parts] = [1, 8].map(temp_bytes);
    println!("16 examples at once: {whole}, in 8 parts: {parts}");
    // The sum of the gradients, of all parameters here, is what parts cost.
    let gradients = recipe::small().params().unwrap().num_bytes() as u64;
    assert!(parts < gradients + whole / 4, "{parts} of {whole} bytes, {gradients} of them gradients");
}
