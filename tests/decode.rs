//! Decoding against recordings of big_vision: tiny models on CPU in float32.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use paligemma::array::{DType, HostArray, Shape};
use paligemma::checkpoint;
use paligemma::decode::{DecodeConfig, Decoder, PromptBatch, PromptValues, decode};
use paligemma::exec::run_once;
use paligemma::graph::{Builder, RematPolicy};
use paligemma::model::{GemmaConfig, PaliGemmaConfig, PoolType, PosEmb, SiglipConfig, Taps};
use paligemma::nn::Params;
use paligemma::runtime::{Buffer, Client, ClientOptions, Plugin, PluginKind, PluginRequest};
use serde_json::Value as Json;

/// A recorded model with its prompts and what was decoded from them.
struct Case {
    model: PaliGemmaConfig,
    params: Vec<HostArray>,
    prompts: PromptBatch,
    tensors: HashMap<String, HostArray>,
    decode: Json,
}

fn data(case: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model").join(case).join(file)
}

fn json(path: PathBuf) -> Json {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn number(json: &Json) -> usize {
    json.as_u64().unwrap() as usize
}

fn pair(json: &Json) -> [usize; 2] {
    [number(&json[0]), number(&json[1])]
}

fn model(config: &Json) -> PaliGemmaConfig {
    let (img, llm) = (&config["img"], &config["llm"]);
    PaliGemmaConfig {
        img: SiglipConfig {
            width: number(&img["width"]),
            depth: number(&img["depth"]),
            mlp_dim: number(&img["mlp_dim"]),
            num_heads: number(&img["num_heads"]),
            patch_size: pair(&img["patch_size"]),
            pool_type: PoolType::None,
            posemb: PosEmb::Learn,
            dropout: 0.0,
            dtype_mm: DType::F32,
            remat_policy: RematPolicy::NothingSaveable,
            head_zeroinit: false,
        },
        llm: GemmaConfig {
            width: number(&llm["width"]),
            depth: number(&llm["depth"]),
            mlp_dim: number(&llm["mlp_dim"]),
            num_heads: number(&llm["num_heads"]),
            num_kv_heads: number(&llm["num_kv_heads"]),
            head_dim: number(&llm["head_dim"]),
            vocab_size: number(&llm["vocab_size"]),
            query_pre_attn_norm: llm["query_pre_attn_norm"].as_str().unwrap().parse().unwrap(),
            attn_logits_softcap: llm["attn_logits_softcap"].as_f64().unwrap(),
            final_logits_softcap: llm["final_logits_softcap"].as_f64().unwrap(),
            post_norms: llm["post_norms"].as_bool().unwrap(),
            dropout: 0.0,
            remat_policy: RematPolicy::NothingSaveable,
            embed_dtype: DType::F32,
            cache_dtype: DType::F32,
        },
        image_size: pair(&config["image_size"]),
    }
}

impl Case {
    fn load(name: &str) -> Self {
        let model = model(&json(data(name, "config.json")));
        let file = checkpoint::open(data(name, "params.npz")).unwrap();
        let specs = model.params().unwrap();
        let params = specs.iter().map(|spec| file.read(&spec.name).unwrap()).collect();
        let file = checkpoint::open(data(name, "decode.safetensors")).unwrap();
        let tensors: HashMap<String, HostArray> =
            file.names().iter().map(|name| (name.to_string(), file.read(name).unwrap())).collect();
        let batch = tensors["text"].dims()[0];
        let prompts = PromptBatch {
            image: tensors["image"].clone(),
            text: tensors["text"].clone(),
            mask_input: tensors["mask_input"].clone(),
            mask_ar: tensors["mask_ar"].clone(),
            mask: preds(&vec![true; batch]),
        };
        Case { model, params, prompts, tensors, decode: json(data(name, "decode.json")) }
    }

    fn config(&self) -> DecodeConfig {
        let eos_token = number(&self.decode["eos_token"]) as i32;
        DecodeConfig::greedy(number(&self.decode["max_decode_len"]), eos_token)
    }

    /// Tokens and log-probabilities of an entry of `decode.json`.
    fn recorded(&self, entry: &str) -> (Vec<i32>, Vec<f32>) {
        let rows = |key: &str| -> Vec<f64> {
            let rows = self.decode[entry][key].as_array().unwrap().iter();
            rows.flat_map(|row| row.as_array().unwrap()).map(|v| v.as_f64().unwrap()).collect()
        };
        let tokens = rows("tokens").into_iter().map(|token| token as i32).collect();
        (tokens, rows("logp").into_iter().map(|logp| logp as f32).collect())
    }
}

fn preds(values: &[bool]) -> HostArray {
    let bytes: Vec<u8> = values.iter().map(|&value| value.into()).collect();
    HostArray::from_bytes(Shape::new(DType::Pred, [values.len()]), &bytes).unwrap()
}

fn cpu_client() -> Client {
    let plugin = Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap();
    Client::new(&plugin, &ClientOptions::cpu_devices(1)).unwrap()
}

fn upload(client: &Client, arrays: &[HostArray]) -> Vec<Buffer> {
    arrays.iter().map(|array| client.upload(array, &client.devices()[0]).unwrap()).collect()
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], recorded: &[f32], tolerance: f32) {
    assert_eq!(got.len(), recorded.len(), "{what}");
    let difference = |(a, b): (&f32, &f32)| (a - b).abs();
    let worst = got.iter().zip(recorded).map(difference).fold(0.0, f32::max);
    println!("{what}: {worst:.2e} of {tolerance:.2e}");
    assert!(worst <= tolerance, "{what}: off by {worst:e}, may be {tolerance:e}");
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, value| max.max(value.abs()))
}

const CASES: [&str; 4] = ["gemma1", "gemma2", "gemma2_27b", "mha"];

/// Two f32 implementations come apart by 2.4e-5 here.
const LOGP_TOLERANCE: f32 = 1e-4;
/// Of the largest logit.
const LOGITS_TOLERANCE: f32 = 5e-5;

#[test]
fn greedy_decoding_emits_what_was_recorded() {
    let client = cpu_client();
    for name in CASES {
        let case = Case::load(name);
        let params = upload(&client, &case.params);
        let params: Vec<&Buffer> = params.iter().collect();
        let mut decoder = Decoder::new(case.model.clone(), case.config(), &client.devices()[0]).unwrap();
        for entry in ["greedy", "greedy_early_stop"] {
            let mask = case.decode[entry]["_mask"].as_array().unwrap();
            let mask: Vec<bool> = mask.iter().map(|real| real.as_bool().unwrap()).collect();
            let prompts = PromptBatch { mask: preds(&mask), ..case.prompts.clone() };
            let decoded = decoder.decode(&params, &prompts).unwrap();
            let (tokens, logp) = case.recorded(entry);
            assert_eq!(decoded.tokens.values::<i32>().unwrap(), tokens, "{name} {entry}");
            assert_eq!(decoded.num_steps, number(&case.decode[entry]["steps_run"]), "{name} {entry}");
            let what = format!("{name} {entry} logp");
            assert_close(&what, decoded.logp.values().unwrap(), &logp, LOGP_TOLERANCE);
        }
    }
}

/// The graph of `decode` with the logits that its tokens were chosen from.
fn logits(client: &Client, case: &Case, model: &PaliGemmaConfig) -> [HostArray; 4] {
    let b = Builder::new("decode_logits");
    let specs = model.params().unwrap();
    let parameter = |name: &str, array: &HostArray| b.parameter(name, array.shape().clone()).unwrap();
    let params: Vec<_> = specs
        .iter()
        .zip(&case.params)
        .map(|(spec, array)| (spec.name.clone(), parameter(&spec.name, array)))
        .collect();
    let prompts = &case.prompts;
    let values = PromptValues {
        image: parameter("image", &prompts.image),
        text: parameter("text", &prompts.text),
        mask_input: parameter("mask_input", &prompts.mask_input),
        mask_ar: parameter("mask_ar", &prompts.mask_ar),
        mask: parameter("_mask", &prompts.mask),
    };
    let mut taps = Taps::all();
    let decoded = decode(model, &Params::new(&b, params), &values, None, &case.config(), &mut taps).unwrap();
    let taps: HashMap<_, _> = taps.into_values().into_iter().collect();
    let outputs = [&taps["prefill_logits"], &taps["step_logits"], &decoded.tokens, &decoded.logp];
    let function = b.finish(&outputs).unwrap();
    let PromptBatch { image, text, mask_input, mask_ar, mask } = prompts;
    let inputs: Vec<&HostArray> =
        case.params.iter().chain([image, text, mask_input, mask_ar, mask]).collect();
    run_once(client, &function, &inputs).unwrap().try_into().unwrap()
}

#[test]
fn logits_of_every_step_are_the_recorded_ones() {
    let client = cpu_client();
    for name in CASES {
        let case = Case::load(name);
        let [prefill, steps, ..] = logits(&client, &case, &case.model);
        for (what, got) in [("prefill_logits", &prefill), ("step_logits", &steps)] {
            let recorded = case.tensors[what].values::<f32>().unwrap();
            let tolerance = LOGITS_TOLERANCE * largest(recorded);
            assert_close(&format!("{name} {what}"), got.values().unwrap(), recorded, tolerance);
        }
    }
}

#[test]
fn a_bf16_cache_rounds_as_recorded() {
    let client = cpu_client();
    let case = Case::load("gemma2");
    let mut model = case.model.clone();
    model.llm.cache_dtype = DType::BF16;
    let [_, steps, tokens, logp] = logits(&client, &case, &model);
    let (recorded_tokens, recorded_logp) = case.recorded("greedy_bf16_cache");
    assert_eq!(tokens.values::<i32>().unwrap(), recorded_tokens);
    assert_close("bf16 logp", logp.values().unwrap(), &recorded_logp, 5e-3);
    let recorded = case.tensors["step_logits_bf16_cache"].values().unwrap();
    assert_close("step_logits_bf16_cache", steps.values().unwrap(), recorded, 2e-2);
}

/// One row of an array with a leading batch dimension.
fn row(array: &HostArray, index: usize) -> HostArray {
    let mut dims = array.dims().to_vec();
    let size = array.bytes().len() / dims[0];
    dims[0] = 1;
    let shape = array.shape().with_dims(dims);
    HostArray::from_bytes(shape, &array.bytes()[index * size..(index + 1) * size]).unwrap()
}

/// The first `len` columns of `s32 [1, T]`.
fn cut(array: &HostArray, len: usize) -> HostArray {
    HostArray::new([1, len], &array.values::<i32>().unwrap()[..len]).unwrap()
}

#[test]
fn prompts_of_unequal_length_decode_as_each_one_alone_without_padding() {
    let client = cpu_client();
    let case = Case::load("gemma2");
    let params = upload(&client, &case.params);
    let params: Vec<&Buffer> = params.iter().collect();
    let mut decoder = Decoder::new(case.model.clone(), case.config(), &client.devices()[0]).unwrap();
    let together = decoder.decode(&params, &case.prompts).unwrap();
    let mut lengths = Vec::new();
    for index in 0..case.prompts.text.dims()[0] {
        let masks = row(&case.prompts.mask_input, index);
        let length = masks.values::<i32>().unwrap().iter().sum::<i32>() as usize;
        lengths.push(length);
        let alone = PromptBatch {
            image: row(&case.prompts.image, index),
            text: cut(&row(&case.prompts.text, index), length),
            mask_input: cut(&masks, length),
            mask_ar: cut(&row(&case.prompts.mask_ar, index), length),
            mask: preds(&[true]),
        };
        let alone = decoder.decode(&params, &alone).unwrap();
        let ((tokens, logp), (tokens_alone, logp_alone)) =
            (together.row(index).unwrap(), alone.row(0).unwrap());
        assert_eq!(tokens, tokens_alone, "row {index} of length {length}");
        assert_close(&format!("row {index}"), logp_alone, logp, LOGP_TOLERANCE);
    }
    lengths.dedup();
    assert!(lengths.len() > 1, "{lengths:?}");
}

#[test]
fn wrong_shapes_are_refused_by_name() {
    let client = cpu_client();
    let case = Case::load("gemma1");
    let params = upload(&client, &case.params);
    let mut params: Vec<&Buffer> = params.iter().collect();
    let mut decoder = Decoder::new(case.model.clone(), case.config(), &client.devices()[0]).unwrap();
    let image = HostArray::zeros(Shape::new(DType::F32, [4, 30, 28, 3]));
    let prompts = PromptBatch { image, ..case.prompts.clone() };
    let error = decoder.decode(&params, &prompts).unwrap_err();
    assert_eq!(error.to_string(), "decoding expects image as f32[4,28,28,3], got f32[4,30,28,3]");
    let last = params.len() - 1;
    params.swap(0, last);
    let error = decoder.decode(&params, &case.prompts).unwrap_err().to_string();
    assert!(error.starts_with("decoding expects parameter img/"), "{error}");
    let error = decoder.decode(&params[1..], &case.prompts).unwrap_err().to_string();
    assert!(error.starts_with("decoding expects ") && error.contains(" parameters, got "), "{error}");
}

/// Bytes of temporaries of the program that decodes up to `max_decode_len` tokens, and of its cache.
fn temp_and_cache_bytes(case: &Case, client: &Client, cache_dtype: DType, max_decode_len: usize) -> [f64; 2] {
    let mut model = case.model.clone();
    model.llm.cache_dtype = cache_dtype;
    let (llm, [batch, text_len]) = (&model.llm, [0, 1].map(|dim| case.prompts.text.dims()[dim]));
    let entries = model.num_image_tokens() + text_len + max_decode_len;
    let values = llm.depth * batch * entries * llm.num_kv_heads * llm.head_dim;
    let cache_bytes = 2 * values * cache_dtype.num_bytes();
    let params = upload(client, &case.params);
    let config = DecodeConfig { max_decode_len, ..case.config() };
    let mut decoder = Decoder::new(model, config, &client.devices()[0]).unwrap();
    let executable = decoder.executable(&params.iter().collect::<Vec<_>>(), &case.prompts).unwrap();
    [executable.compiled().memory_stats().unwrap().temp_bytes as f64, cache_bytes as f64]
}

#[test]
fn the_cache_is_in_memory_once() {
    let client = cpu_client();
    let case = Case::load("gemma2");
    let layers = case.model.llm.depth as f64;
    for dtype in [DType::F32, DType::BF16] {
        let [temp, cache] = temp_and_cache_bytes(&case, &client, dtype, 256);
        let [longer_temp, longer_cache] = temp_and_cache_bytes(&case, &client, dtype, 1024);
        let growth = (longer_temp - temp) / (longer_cache - cache);
        println!("{dtype}: temporaries grow by {growth:.2} of what the cache does");
        // The cache, one layer's entries in f32 for its attention, and the logits of attention to them.
        let widened = 4.0 / dtype.num_bytes() as f64;
        assert!(growth < 1.0 + 1.5 * widened / layers, "{dtype}: {growth}");
    }
}

#[test]
fn weights_wider_than_activations_are_narrowed_before_the_loop_only() {
    let client = cpu_client();
    let case = Case::load("gemma2_27b");
    let mut model = case.model.clone();
    model.llm.embed_dtype = DType::BF16;
    let narrow = |(name, array): (&str, &HostArray)| {
        let is_weight = name.starts_with("llm/layers/") && array.dims().len() > 2;
        if is_weight { array.cast(DType::BF16) } else { array.clone() }
    };
    let specs = model.params().unwrap();
    let params = specs.names().zip(&case.params).map(narrow).collect();
    let narrowed = Case { params, ..Case::load("gemma2_27b") };
    let [_, f32_logits, ..] = logits(&client, &case, &model);
    let [_, bf16_logits, ..] = logits(&client, &narrowed, &model);
    assert_close("step_logits", f32_logits.values().unwrap(), bf16_logits.values().unwrap(), 0.0);
}
