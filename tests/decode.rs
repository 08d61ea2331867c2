//! Decoding against recordings of big_vision: tiny models on CPU in float32.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use paligemma::array::{DType, HostArray, Shape};
use paligemma::checkpoint;
use paligemma::decode::{
    Continuations, DecodeConfig, Decoder, Method, PromptBatch, PromptValues, TokenMask, decode,
};
use paligemma::exec::run_once;
use paligemma::graph::{Builder, RematPolicy};
use paligemma::model::{
    GemmaConfig, LoraConfig, PaliGemmaConfig, PoolType, PosEmb, SiglipConfig, Taps, is_quantised, scale_name,
};
use paligemma::nn::Params;
use paligemma::params::{ParamSpec, Quant};
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
        lora: None,
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

/// 200 prompts of all lengths up to 12 with images of noise, padded as little as keeps programs few.
fn random_prompts(model: &PaliGemmaConfig) -> Vec<PromptBatch> {
    let mut state = 12_345_u64;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let [height, width] = model.image_size;
    let mut prompt = || {
        let length = 1 + next(12) as usize;
        let image: Vec<f32> = (0..height * width * 3).map(|_| next(1001) as f32 / 500.0 - 1.0).collect();
        let text: Vec<i32> = (0..length).map(|_| 3 + next(model.llm.vocab_size as u64 - 3) as i32).collect();
        // Some prompts end in the beginning of an answer.
        let prefix = length - next(length as u64) as usize;
        let mask_ar = (0..length).map(|i| i32::from(i >= prefix)).collect();
        let padded = |mut row: Vec<i32>| {
            row.resize(length.next_multiple_of(4), 0);
            HostArray::new([1, row.len()], &row).unwrap()
        };
        PromptBatch {
            image: HostArray::new([1, height, width, 3], &image).unwrap(),
            text: padded(text),
            mask_input: padded(vec![1; length]),
            mask_ar: padded(mask_ar),
            mask: preds(&[true]),
        }
    };
    (0..200).map(|_| prompt()).collect()
}

/// One batch of several of one row each, padded to 16 tokens.
fn together(prompts: &[PromptBatch]) -> PromptBatch {
    const LENGTH: usize = 16;
    let rows = prompts.len();
    let padded = |array: fn(&PromptBatch) -> &HostArray| {
        let pad = |prompt: &PromptBatch| {
            let mut row = array(prompt).values::<i32>().unwrap().to_vec();
            row.resize(LENGTH, 0);
            row
        };
        HostArray::new([rows, LENGTH], &prompts.iter().flat_map(pad).collect::<Vec<_>>()).unwrap()
    };
    let image: Vec<f32> =
        prompts.iter().flat_map(|prompt| prompt.image.values::<f32>().unwrap().to_vec()).collect();
    let &[_, height, width, _] = prompts[0].image.dims() else { panic!("images have four dimensions") };
    PromptBatch {
        image: HostArray::new([rows, height, width, 3], &image).unwrap(),
        text: padded(|prompt| &prompt.text),
        mask_input: padded(|prompt| &prompt.mask_input),
        mask_ar: padded(|prompt| &prompt.mask_ar),
        mask: preds(&vec![true; rows]),
    }
}

#[test]
fn two_hundred_prompts_decode_in_batches_as_one_by_one() {
    const BATCH: usize = 40;
    let client = cpu_client();
    let case = Case::load("gemma1");
    let params = upload(&client, &case.params);
    let params: Vec<&Buffer> = params.iter().collect();
    let mut decoder = Decoder::new(case.model.clone(), case.config(), &client.devices()[0]).unwrap();
    let prompts = random_prompts(&case.model);
    let (mut tokens_seen, mut ends) = (0, 0);
    for (number, batch) in prompts.chunks(BATCH).enumerate() {
        let in_batch = decoder.decode(&params, &together(batch)).unwrap();
        for (index, prompt) in batch.iter().enumerate() {
            let alone = decoder.decode(&params, prompt).unwrap();
            let ((tokens, logp), (tokens_alone, logp_alone)) =
                (in_batch.row(index).unwrap(), alone.row(0).unwrap());
            assert_eq!(tokens, tokens_alone, "prompt {}", number * BATCH + index);
            let far = |(a, b): (&f32, &f32)| (a - b).abs() > LOGP_TOLERANCE;
            assert!(!logp.iter().zip(logp_alone).any(far), "{logp:?} {logp_alone:?}");
            tokens_seen += tokens.len();
            ends += logp.len() - tokens.len();
        }
    }
    println!("{tokens_seen} tokens, {ends} of 200 ended");
    assert!(tokens_seen > 1000 && ends > 10, "{tokens_seen} tokens, {ends} ends");
}

fn sample(sampler: &str, best_of_n: usize) -> Method {
    Method::Sample { sampler: sampler.parse().unwrap(), best_of_n }
}

/// What a method finds for the prompts of a case.
fn decode_by(client: &Client, case: &Case, config: DecodeConfig, prompts: &PromptBatch) -> Continuations {
    let params = upload(client, &case.params);
    let mut decoder = Decoder::new(case.model.clone(), config, &client.devices()[0]).unwrap();
    decoder.decode(&params.iter().collect::<Vec<_>>(), prompts).unwrap()
}

fn tokens(continuations: &Continuations) -> Vec<i32> {
    continuations.tokens.values().unwrap().to_vec()
}

#[test]
fn a_seed_gives_its_tokens_again_and_batches_differ() {
    let client = cpu_client();
    let case = Case::load("gemma2");
    let params = upload(&client, &case.params);
    let params: Vec<&Buffer> = params.iter().collect();
    let config = DecodeConfig { method: sample("nucleus(0.95)", 1), seed: 7, ..case.config() };
    let mut decoder = Decoder::new(case.model.clone(), config.clone(), &client.devices()[0]).unwrap();
    let mut draw = |reseed: Option<u64>| {
        reseed.into_iter().for_each(|seed| decoder.reseed(seed));
        tokens(&decoder.decode(&params, &case.prompts).unwrap())
    };
    let [first, second] = [draw(None), draw(None)];
    assert_ne!(first, second);
    assert_ne!(draw(Some(8)), first);
    assert_eq!([draw(Some(7)), draw(None)], [first.clone(), second]);
    assert_eq!(tokens(&decode_by(&client, &case, config, &case.prompts)), first);
    // The limit of low temperatures.
    let cold = DecodeConfig { method: sample("temperature(1e-4)", 1), ..case.config() };
    let cold = decode_by(&client, &case, cold, &case.prompts);
    assert_eq!(tokens(&cold), case.recorded("greedy").0);
    assert_close("logp", cold.logp.values().unwrap(), &case.recorded("greedy").1, LOGP_TOLERANCE);
}

#[test]
fn best_of_n_is_the_likeliest_of_its_samples() {
    const N: usize = 5;
    let client = cpu_client();
    let case = Case::load("gemma1");
    let batch = case.prompts.text.dims()[0];
    // The same random numbers fall to the same rows where each prompt is there several times.
    let repeat = |array: &HostArray| {
        let size = array.bytes().len() / batch;
        let bytes: Vec<u8> = array.bytes().chunks(size).flat_map(|row| row.repeat(N)).collect();
        let mut dims = array.dims().to_vec();
        dims[0] *= N;
        HostArray::from_bytes(array.shape().with_dims(dims), &bytes).unwrap()
    };
    let PromptBatch { image, text, mask_input, mask_ar, mask } = &case.prompts;
    let repeated = PromptBatch {
        image: repeat(image),
        text: repeat(text),
        mask_input: repeat(mask_input),
        mask_ar: repeat(mask_ar),
        mask: repeat(mask),
    };
    let config = |best_of_n| DecodeConfig { method: sample("temperature(1)", best_of_n), ..case.config() };
    let all = decode_by(&client, &case, config(1), &repeated);
    let best = decode_by(&client, &case, config(N), &case.prompts);
    let mut places = Vec::new();
    for prompt in 0..batch {
        let score = |index: usize| all.row(prompt * N + index).unwrap().1.iter().sum::<f32>();
        let likeliest = (0..N).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
        let (expected, expected_logp) = all.row(prompt * N + likeliest).unwrap();
        let (got, logp) = best.row(prompt).unwrap();
        assert_eq!(got, expected, "prompt {prompt}");
        assert_close(&format!("prompt {prompt}"), logp, expected_logp, LOGP_TOLERANCE);
        places.push(likeliest);
    }
    places.dedup();
    assert!(places.len() > 1, "always sample {places:?}");
}

#[test]
fn masked_tokens_never_come_and_log_probabilities_ignore_the_mask() {
    let client = cpu_client();
    let case = Case::load("gemma1");
    let greedy = decode_by(&client, &case, case.config(), &case.prompts);
    let banned: Vec<i32> =
        tokens(&greedy).into_iter().filter(|&token| token != case.config().eos_token).collect();
    let allowed = [5, 17, 99, case.config().eos_token];
    let ban = TokenMask { banned: banned.clone().into(), ..TokenMask::default() };
    let allow = TokenMask { allowed: Some(allowed.as_slice().into()), ..TokenMask::default() };
    let beam = Method::Beam { beam_size: 3 };
    for method in [Method::GREEDY, sample("top_k(9)", 3), beam] {
        let by = |mask: &TokenMask| {
            let config = DecodeConfig { method, mask_logits: mask.clone(), ..case.config() };
            decode_by(&client, &case, config, &case.prompts)
        };
        let (banning, allowing) = (by(&ban), by(&allow));
        for row in 0..4 {
            let (tokens, logp) = banning.row(row).unwrap();
            assert!(!tokens.iter().any(|token| banned.contains(token)), "{method:?} {tokens:?}");
            assert!(logp.iter().all(|logp| logp.is_finite()), "{method:?} {logp:?}");
            let tokens = allowing.row(row).unwrap().0;
            assert!(tokens.iter().all(|token| allowed.contains(token)), "{method:?} {tokens:?}");
        }
        if method == Method::GREEDY {
            // The first token is chosen from recorded logits.
            let logits = case.tensors["prefill_logits"].values::<f32>().unwrap();
            let vocab_size = case.model.llm.vocab_size;
            for (row, logits) in logits.chunks(vocab_size).enumerate() {
                let token = allowing.row(row).unwrap().0.first().copied().unwrap_or(allowed[3]);
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                let expected = f64::from(logits[token as usize]) - sum.ln();
                let logp = allowing.row(row).unwrap().1[0];
                assert!((f64::from(logp) - expected).abs() < 1e-4, "{logp} {expected}");
                assert!(allowed.iter().all(|&other| logits[other as usize] <= logits[token as usize]));
            }
        }
    }
    let config = DecodeConfig { mask_logits: ban, ..DecodeConfig::greedy(3, 300) };
    let config = DecodeConfig { method: beam, ..config };
    let error = Decoder::new(case.model.clone(), config, &client.devices()[0]).unwrap_err().to_string();
    assert!(error.contains("others without the end"), "{error}");
}

#[test]
fn beam_search_finds_what_was_recorded_and_scores_it() {
    let client = cpu_client();
    for name in CASES {
        let case = Case::load(name);
        let recorded = &case.decode["beam"];
        let method = Method::Beam { beam_size: number(&recorded["beam_size"]) };
        let found = decode_by(&client, &case, DecodeConfig { method, ..case.config() }, &case.prompts);
        let rows = recorded["tokens"].as_array().unwrap().iter();
        let expected: Vec<i32> = rows
            .flat_map(|row| row.as_array().unwrap().iter().map(|token| token.as_i64().unwrap() as i32))
            .collect();
        assert_eq!(tokens(&found), expected, "{name}");
        assert_eq!(found.num_steps, number(&recorded["steps_run"]), "{name}");
        // Where greedy decoding begins with the same tokens, their log-probabilities are the recorded ones.
        let (greedy, greedy_logp) = case.recorded("greedy");
        let max_len = case.config().max_decode_len;
        for row in 0..4 {
            let (tokens, logp) = found.row(row).unwrap();
            assert_eq!(logp.len(), tokens.len() + 1, "{name}");
            let start = row * max_len;
            let same = tokens.iter().zip(&greedy[start..]).take_while(|(a, b)| a == b).count();
            let what = format!("{name} row {row}, {same} tokens");
            assert_close(&what, &logp[..same], &greedy_logp[start..start + same], LOGP_TOLERANCE);
        }
    }
}

#[test]
fn continuations_in_parts_are_those_of_one_program() {
    let client = cpu_client();
    let case = Case::load("gemma2");
    let params = upload(&client, &case.params);
    let params: Vec<&Buffer> = params.iter().collect();
    for method in [Method::GREEDY, sample("temperature(1)", 1)] {
        let config = DecodeConfig { method, seed: 3, ..case.config() };
        let mut decoder = Decoder::new(case.model.clone(), config, &client.devices()[0]).unwrap();
        // Rows that all end, and rows of which some never do.
        for entry in ["greedy", "greedy_early_stop"] {
            let mask = case.decode[entry]["_mask"].as_array().unwrap();
            let mask: Vec<bool> = mask.iter().map(|real| real.as_bool().unwrap()).collect();
            let prompts = PromptBatch { mask: preds(&mask), ..case.prompts.clone() };
            decoder.reseed(3);
            let whole = decoder.decode(&params, &prompts).unwrap();
            for part in [1, 5, 100] {
                decoder.reseed(3);
                let mut stream = decoder.stream(&params, &prompts).unwrap();
                let mut seen = vec![stream.so_far().num_steps];
                while !stream.is_done() {
                    stream.advance(part).unwrap();
                    seen.push(stream.so_far().num_steps);
                }
                assert_eq!(tokens(stream.so_far()), tokens(&whole), "{method:?} {entry} {part}");
                let logp = stream.so_far().logp.values().unwrap();
                assert_close(entry, logp, whole.logp.values().unwrap(), LOGP_TOLERANCE);
                assert_eq!(seen[0], 1);
                assert_eq!(*seen.last().unwrap(), whole.num_steps);
                let steps: Vec<usize> = seen.windows(2).map(|pair| pair[1] - pair[0]).collect();
                assert!(steps.iter().rev().skip(1).all(|&step| step == part), "{part}: {steps:?}");
                stream.advance(3).unwrap();
                assert_eq!(stream.so_far().num_steps, whole.num_steps);
            }
        }
    }
    let config = DecodeConfig { method: Method::Beam { beam_size: 2 }, ..case.config() };
    let mut decoder = Decoder::new(case.model.clone(), config, &client.devices()[0]).unwrap();
    let error = decoder.stream(&params, &case.prompts).unwrap_err().to_string();
    assert!(error.contains("cannot be streamed"), "{error}");
}

#[test]
fn a_base_in_few_bits_decodes_as_the_floats_it_stands_for() {
    let client = cpu_client();
    let case = Case::load("gemma1");
    for quant in [Quant::Int8, Quant::Nf4] {
        let lora = LoraConfig {
            rank: 2,
            alpha: 2.0,
            dropout: 0.0,
            dora: false,
            kernels: vec!["llm/layers/mlp/linear".to_owned()],
            quant: Some(quant),
        };
        let model = PaliGemmaConfig { lora: Some(lora), ..case.model.clone() };
        let base_specs = case.model.params().unwrap();
        let mut few_bits = HashMap::new();
        let mut floats = Vec::new();
        for (spec, value) in base_specs.iter().zip(&case.params) {
            let kept = if is_quantised(&spec.name) { quant.quantise(value) } else { None };
            match kept {
                Some((codes, scales)) => {
                    floats.push(quant.dequantise(&codes, &scales));
                    few_bits.insert(spec.name.clone(), codes);
                    few_bits.insert(scale_name(&spec.name), scales);
                }
                None => {
                    floats.push(value.clone());
                    few_bits.insert(spec.name.clone(), value.clone());
                }
            }
        }
        let specs = model.params().unwrap();
        let value =
            |spec: &ParamSpec| few_bits.get(&spec.name).cloned().unwrap_or_else(|| spec.init(0).unwrap());
        let few_bits = upload(&client, &specs.iter().map(value).collect::<Vec<_>>());
        let floats = upload(&client, &floats);
        for prompts in [case.prompts.clone(), first_row(&case.prompts)] {
            let mut emitted = Vec::new();
            for (model, params) in [(&model, &few_bits), (&case.model, &floats)] {
                let device = &client.devices()[0];
                let mut decoder = Decoder::new(model.clone(), case.config(), device).unwrap();
                let params: Vec<&Buffer> = params.iter().collect();
                emitted.push(tokens(&decoder.decode(&params, &prompts).unwrap()));
            }
            assert_eq!(emitted[0], emitted[1], "{quant:?}");
        }
    }
}

fn first_row(prompts: &PromptBatch) -> PromptBatch {
    PromptBatch {
        image: row(&prompts.image, 0),
        text: row(&prompts.text, 0),
        mask_input: row(&prompts.mask_input, 0),
        mask_ar: row(&prompts.mask_ar, 0),
        mask: row(&prompts.mask, 0),
    }
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
