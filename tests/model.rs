//! What the models are and what they may see.

use std::path::Path;
use std::sync::OnceLock;

use paligemma::array::{DType, HostArray};
use paligemma::config::Config;
use paligemma::exec;
use paligemma::graph::Builder;
use paligemma::model::{GemmaConfig, PaliGemmaConfig, PoolType, SiglipConfig, Taps};
use paligemma::nn::Params;
use paligemma::runtime::{Client, ClientOptions, Plugin, PluginKind, PluginRequest};
use paligemma::setup;
use serde_json::{Value, json};

/// Names, order and shapes of every published model, down to the last parameter.
#[test]
fn published_sizes_have_big_visions_parameters() {
    let inventories = include_str!("data/sharding/param_inventories.json");
    let inventories: Value = serde_json::from_str(inventories).unwrap();
    let mut models = 0;
    for (name, inventory) in inventories.as_object().unwrap() {
        for (resolution, of_resolution) in inventory["resolutions"].as_object().unwrap() {
            let mut model = inventory["model_config"].clone();
            model["image_size"] = json!(resolution.parse::<usize>().unwrap());
            let text = json!({ "total_steps": 0, "model": model }).to_string();
            let loaded = Config::parse(&text, Path::new("inventory.yaml"), &[], &[]).unwrap();
            let specs = setup::model_config(&loaded).unwrap().params().unwrap();

            let got: Vec<Value> = specs.iter().map(|spec| json!([spec.name, spec.shape.dims()])).collect();
            let mut expected = inventory["params"].as_array().unwrap().clone();
            let posemb = expected.iter_mut().find(|param| param[0] == "img/pos_embedding").unwrap();
            posemb[1] = of_resolution["pos_embedding"].clone();
            assert_eq!(got, expected, "{name} {resolution}");
            assert!(specs.iter().all(|spec| spec.shape.dtype() == DType::F32));

            let total = |prefix| specs.under(prefix).map(|spec| spec.shape.num_elements()).sum::<usize>();
            let totals = [specs.num_elements(), total("img"), total("llm")];
            let expected =
                ["total", "total_img", "total_llm"].map(|key| of_resolution[key].as_u64().unwrap());
            assert_eq!(totals.map(|total| total as u64), expected, "{name} {resolution}");
            models += 1;
        }
    }
    assert_eq!(models, 12);
}

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let plugin =
            Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap_or_else(|e| panic!("{e}"));
        Client::new(&plugin, &ClientOptions::default()).unwrap_or_else(|e| panic!("{e}"))
    })
}

const IMAGE_TOKENS: usize = 4;
const TEXT_LEN: usize = 8;
const PREFIX_LEN: usize = 3;
const WIDTH: usize = 16;
const VOCAB: usize = 50;

/// A small model of random parameters, whose head lets images through.
fn tiny() -> PaliGemmaConfig {
    let img = SiglipConfig::variant("mu/14").unwrap();
    let llm = GemmaConfig::variant("gemma2_2b").unwrap();
    PaliGemmaConfig {
        img: SiglipConfig { pool_type: PoolType::None, head_zeroinit: false, ..img },
        llm: GemmaConfig {
            width: WIDTH,
            depth: 2,
            mlp_dim: 24,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 4,
            vocab_size: VOCAB,
            ..llm
        },
        image_size: [28, 28],
        lora: None,
    }
}

/// Activations before the final norm (`[I + T, D]`) and logits (`[T, V]`) of one row of text.
fn run(text: &[i32], image: f32) -> (Vec<f32>, Vec<f32>) {
    let model = tiny();
    let specs = model.params().unwrap();
    let b = Builder::new("model");
    let params: Vec<_> =
        specs.iter().map(|spec| b.parameter(&spec.name, spec.shape.clone()).unwrap()).collect();
    let mut arrays: Vec<HostArray> = specs.iter().map(|spec| spec.init(7).unwrap()).collect();
    let pixels: Vec<f32> = (0..28 * 28 * 3).map(|i| (i as f32 * image).sin()).collect();
    let mask_ar: Vec<i32> = (0..TEXT_LEN).map(|i| i32::from(i >= PREFIX_LEN)).collect();
    arrays.push(HostArray::new([1, 28, 28, 3], &pixels).unwrap());
    arrays.push(HostArray::new([1, TEXT_LEN], text).unwrap());
    arrays.push(HostArray::new([1, TEXT_LEN], &mask_ar).unwrap());
    let inputs: Vec<_> = arrays[specs.len()..]
        .iter()
        .map(|array| b.parameter("input", array.shape().clone()).unwrap())
        .collect();
    let params = Params::new(&b, specs.names().map(str::to_owned).zip(params));
    let mut taps = Taps::all();
    model.forward(&params, &inputs[0], &inputs[1], &inputs[2], None, &mut taps).unwrap();
    let taps = taps.into_values();
    let tap = |name: &str| taps.iter().find(|(tap, _)| tap == name).map(|(_, value)| value).unwrap();
    let function = b.finish(&[tap("llm_encoded"), tap("text_logits")]).unwrap();
    let results = exec::run_once(client(), &function, &arrays.iter().collect::<Vec<_>>()).unwrap();
    let values = |i: usize| results[i].values::<f32>().unwrap().to_vec();
    (values(0), values(1))
}

const TEXT: [i32; TEXT_LEN] = [2, 11, 12, 21, 22, 23, 24, 1];

/// The text with another token at one position.
fn with_other_token(position: usize) -> [i32; TEXT_LEN] {
    let mut text = TEXT;
    text[position] = 40;
    text
}

/// Which rows of `[rows, width]` two results have equal, bit for bit.
fn equal_rows(a: &[f32], b: &[f32], width: usize) -> Vec<bool> {
    a.chunks(width).zip(b.chunks(width)).map(|(a, b)| a == b).collect()
}

#[test]
fn a_suffix_token_changes_only_what_stands_at_and_after_it() {
    let (encoded, logits) = run(&TEXT, 0.1);
    for position in PREFIX_LEN..TEXT_LEN {
        let (other_encoded, other_logits) = run(&with_other_token(position), 0.1);
        let expected: Vec<bool> = (0..TEXT_LEN).map(|i| i < position).collect();
        assert_eq!(equal_rows(&logits, &other_logits, VOCAB), expected, "token {position}");
        // Image and prefix stand before every suffix token.
        let expected: Vec<bool> = (0..IMAGE_TOKENS + TEXT_LEN).map(|i| i < IMAGE_TOKENS + position).collect();
        assert_eq!(equal_rows(&encoded, &other_encoded, WIDTH), expected, "token {position}");
    }
}

#[test]
fn image_and_prefix_see_each_other_and_are_seen_by_all() {
    let (encoded, _) = run(&TEXT, 0.1);
    for position in 0..PREFIX_LEN {
        let (other, _) = run(&with_other_token(position), 0.1);
        assert!(equal_rows(&encoded, &other, WIDTH).iter().all(|equal| !equal), "token {position}");
    }
    let (other, _) = run(&TEXT, 0.2);
    assert!(equal_rows(&encoded, &other, WIDTH).iter().all(|equal| !equal));
}
