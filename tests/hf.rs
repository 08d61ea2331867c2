//! Hugging Face's names: what transformers calls everything, round trips, damage, adapters and the files beside.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use indexmap::IndexMap;
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn};
use paligemma::array::{DType, HostArray, Shape};
use paligemma::checkpoint::hf::{
    self, Adapter, Export, ExportOptions, FileOptions, HfConfig, Import, Merged,
};
use paligemma::checkpoint::{Error, Reader, load_params, open, safetensors, variant};
use paligemma::model::QueryNorm;
use paligemma::params::{Init, ParamSpec, ParamSpecs, Patterns};
use serde_json::{Value, json};

const CASES: [&str; 4] = ["gemma1", "gemma2", "gemma2_27b", "mha"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The message with all its causes, as the program prints it.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn failure(path: impl AsRef<Path>) -> String {
    chain(&open(path).err().expect("an error"))
}

fn recording(case: &str) -> Box<dyn Reader> {
    open(data("model").join(case).join("params.npz")).unwrap()
}

/// Names and shapes alone.
struct Inventory(IndexMap<String, Shape>);

impl Reader for Inventory {
    fn path(&self) -> &Path {
        Path::new("inventory")
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.0.get(name)
    }

    fn read_into(&self, name: &str, _: &mut [u8]) -> Result<(), Error> {
        panic!("{name} is not to be read");
    }
}

/// A reader that cannot lend its bytes, and counts how often it reads.
struct Streamed(Box<dyn Reader>, &'static AtomicUsize);

impl Reader for Streamed {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn names(&self) -> Vec<&str> {
        self.0.names()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.0.find(name)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_into(name, out)
    }
}

/// Arrays in memory.
struct Arrays(IndexMap<String, HostArray>);

impl Reader for Arrays {
    fn path(&self) -> &Path {
        Path::new("arrays")
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.0.get(name).map(HostArray::shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        out.copy_from_slice(self.0[name].bytes());
        Ok(())
    }
}

fn all(reader: &dyn Reader) -> IndexMap<String, HostArray> {
    reader.names().into_iter().map(|name| (name.to_owned(), reader.read(name).unwrap())).collect()
}

fn assert_same(got: &dyn Reader, expected: &dyn Reader) {
    assert_eq!(got.names(), expected.names());
    for name in expected.names() {
        assert!(got.read(name).unwrap() == expected.read(name).unwrap(), "{name}");
        let borrowed = got.borrow(name).unwrap();
        assert!(borrowed.is_none_or(|bytes| bytes == got.read(name).unwrap().bytes()), "{name}");
    }
}

fn shapes(reader: &dyn Reader) -> Vec<(String, Shape)> {
    reader.names().into_iter().map(|name| (name.to_owned(), reader.shape(name).unwrap().clone())).collect()
}

/// As a caller exports: one tensor after the other, in the writer's order.
fn write(export: &Export, target: &Path, shard_bytes: u64) {
    let files = hf::extra_files(export, &FileOptions::default()).unwrap();
    let mut writer = hf::Writer::create(target, shapes(export), files, shard_bytes).unwrap();
    for (name, _) in writer.order().to_vec() {
        writer.write(&name, export.read(&name).unwrap().bytes()).unwrap();
        export.release(&name);
    }
    assert!(!target.exists(), "visible before it is complete");
    writer.finish().unwrap();
}

fn exported(case: &str) -> Export {
    Export::new(recording(case), &ExportOptions::default()).unwrap()
}

#[test]
fn published_models_have_the_names_and_shapes_of_transformers() {
    let inventories = read_json(data("hf/inventories.json"));
    let references = read_json(data("sharding/param_inventories.json"));
    for (version, models) in inventories.as_object().unwrap() {
        for (model, tensors) in models.as_object().unwrap() {
            let mut theirs = IndexMap::new();
            for (template, entry) in tensors.as_object().unwrap() {
                let dims: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
                for layer in 0..entry["layers"].as_u64().unwrap_or(1) {
                    let name = template.replace("{}", &layer.to_string());
                    theirs.insert(name, Shape::new(DType::BF16, dims.clone()));
                }
            }
            let params: Vec<(String, Vec<usize>)> =
                serde_json::from_value(references[model]["params"].clone()).unwrap();
            let ours: IndexMap<String, Shape> =
                params.into_iter().map(|(name, dims)| (name, Shape::new(DType::BF16, dims))).collect();
            // Published sizes are known from the shapes.
            let import = Import::new(Box::new(Inventory(theirs.clone())), &HfConfig::default()).unwrap();
            assert_eq!(shapes(&import), ours.clone().into_iter().collect::<Vec<_>>(), "{version} {model}");
            let generation = if model.contains('2') { " 2" } else { "" };
            let size = model.rsplit('_').next().unwrap().to_uppercase();
            let name = variant::detect(&import).unwrap().to_string();
            assert!(name.starts_with(&format!("PaliGemma{generation} {size}, 224 px (")), "{name}");

            let options = ExportOptions { lm_head: true, ..Default::default() };
            let export = Export::new(Box::new(Inventory(ours)), &options).unwrap();
            if version.starts_with("4.47") {
                let sorted = |shapes: Vec<(String, Shape)>| shapes.into_iter().collect::<BTreeMap<_, _>>();
                assert!(sorted(shapes(&export)) == theirs.into_iter().collect(), "{model}");
            }
        }
    }
}

#[test]
fn exports_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for case in CASES {
        for (shard_bytes, files) in [(u64::MAX, 1), (40_000, 5)] {
            let target = dir.path().join(format!("{case}-{files}"));
            write(&exported(case), &target, shard_bytes);
            let entries: Vec<String> = fs::read_dir(&target)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            let weights = entries.iter().filter(|name| name.ends_with(".safetensors")).count();
            assert!(if files == 1 { weights == 1 } else { weights >= files }, "{entries:?}");
            let index = target.join(safetensors::INDEX_NAME);
            assert_eq!(index.is_file(), files > 1);
            if files > 1 {
                let index = read_json(index);
                let bytes: usize = shapes(&exported(case)).iter().map(|(_, shape)| shape.num_bytes()).sum();
                assert_eq!(index["metadata"]["total_size"], bytes);
            }
            assert_same(&*open(&target).unwrap(), &*recording(case));
        }
    }
    for file in ["params.bf16.npz", "params.f16.npz"] {
        let source = || open(data("model/gemma2").join(file)).unwrap();
        let target = dir.path().join(file);
        write(&Export::new(source(), &ExportOptions::default()).unwrap(), &target, u64::MAX);
        assert_same(&*open(&target).unwrap(), &*source());
    }
    // Nothing but the directories is left.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2 * CASES.len() + 2);
}

/// The names of each generation of transformers for one of the oldest.
fn renamed(name: &str, generation: usize) -> String {
    match (generation, name.split_once('.').unwrap()) {
        (0, _) => name.to_owned(),
        (_, ("multi_modal_projector", _)) => format!("model.{name}"),
        (_, ("language_model", "lm_head.weight")) => "lm_head.weight".to_owned(),
        (_, ("language_model", rest)) => format!("model.language_model.{}", &rest["model.".len()..]),
        (1, _) => format!("model.{name}"),
        (_, (_, rest)) => format!("model.vision_tower.{}", &rest["vision_model.".len()..]),
    }
}

fn config_of(case: &str) -> Value {
    serde_json::from_slice(&hf::extra_files(&exported(case), &FileOptions::default()).unwrap()[0].1).unwrap()
}

#[test]
fn every_generation_of_names_is_read_and_written_back() {
    let dir = tempfile::tempdir().unwrap();
    for case in CASES {
        for (generation, lm_head) in [(0, false), (0, true), (1, false), (1, true), (2, true)] {
            let target = dir.path().join(format!("{case}{generation}{lm_head}"));
            fs::create_dir(&target).unwrap();
            let options = ExportOptions { lm_head, ..Default::default() };
            let export = Export::new(recording(case), &options).unwrap();
            let theirs = all(&export);
            let mut renamed: IndexMap<String, HostArray> =
                theirs.iter().map(|(name, array)| (renamed(name, generation), array.clone())).collect();
            let buffer = "vision_tower.vision_model.embeddings.position_ids";
            renamed.insert(buffer.to_owned(), HostArray::new([1, 4], &[0i64, 1, 2, 3]).unwrap());
            let file = target.join("model.safetensors");
            safetensors::write(&file, &renamed, &BTreeMap::new()).unwrap();
            fs::write(target.join("config.json"), config_of(case).to_string()).unwrap();
            // The file alone has its config beside it all the same.
            for path in [&target, &file] {
                assert_same(&*open(path).unwrap(), &*recording(case));
            }
            let again = Export::new(open(&target).unwrap(), &options).unwrap();
            assert!(all(&again) == theirs, "{case}");
        }
    }
}

#[test]
fn tensors_are_the_stated_transposes_of_big_visions() {
    let reader = recording("gemma2");
    let export = exported("gemma2");
    let ours = |name: &str| reader.read(name).unwrap();
    let theirs = |name: &str| export.read(name).unwrap();
    let layer = |array: &ArrayViewD<'_, f32>, layer: usize| array.index_axis(Axis(0), layer).to_owned();
    let permuted = |array: ArrayD<f32>, axes: &[usize], dims: &[usize]| {
        let array = array.permuted_axes(IxDyn(axes)).as_standard_layout().into_owned();
        HostArray::from_ndarray(&array.into_shape_with_order(IxDyn(dims)).unwrap())
    };
    let block = "img/Transformer/encoderblock/MultiHeadDotProductAttention_0";
    let text = "language_model.model.layers";
    let vision = "vision_tower.vision_model";
    let stack = |name: &str, i: usize| layer(&ours(name).view().unwrap(), i);
    let part = |name: &str, i: usize, part: usize| layer(&stack(name, i).view(), part);
    let projection = theirs("multi_modal_projector.linear.weight");
    assert!(projection == permuted(ours("img/head/kernel").view().unwrap().to_owned(), &[1, 0], &[40, 24]));
    let patches = ours("img/embedding/kernel").view().unwrap().to_owned();
    let patches = permuted(patches, &[3, 2, 0, 1], &[24, 3, 14, 14]);
    assert!(theirs(&format!("{vision}.embeddings.patch_embedding.weight")) == patches);
    for i in 0..2 {
        let query = permuted(stack(&format!("{block}/query/kernel"), i), &[1, 2, 0], &[24, 24]);
        assert!(theirs(&format!("{vision}.encoder.layers.{i}.self_attn.q_proj.weight")) == query);
        let out = permuted(stack(&format!("{block}/out/kernel"), i), &[2, 0, 1], &[24, 24]);
        assert!(theirs(&format!("{vision}.encoder.layers.{i}.self_attn.out_proj.weight")) == out);
    }
    for i in 0..3 {
        let q = permuted(stack("llm/layers/attn/q_einsum/w", i), &[0, 2, 1], &[56, 40]);
        assert!(theirs(&format!("{text}.{i}.self_attn.q_proj.weight")) == q);
        for (index, name) in ["k_proj", "v_proj"].into_iter().enumerate() {
            let kv = permuted(part("llm/layers/attn/kv_einsum/w", i, index), &[0, 2, 1], &[28, 40]);
            assert!(theirs(&format!("{text}.{i}.self_attn.{name}.weight")) == kv);
        }
        let o = permuted(stack("llm/layers/attn/attn_vec_einsum/w", i), &[2, 0, 1], &[40, 56]);
        assert!(theirs(&format!("{text}.{i}.self_attn.o_proj.weight")) == o);
        for (index, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
            let half = permuted(part("llm/layers/mlp/gating_einsum", i, index), &[1, 0], &[64, 40]);
            assert!(theirs(&format!("{text}.{i}.mlp.{name}.weight")) == half);
        }
        let norm = permuted(stack("llm/layers/pre_ffw_norm/scale", i), &[0], &[40]);
        assert!(theirs(&format!("{text}.{i}.pre_feedforward_layernorm.weight")) == norm);
    }
    // Gemma 1 calls the same norm otherwise.
    let norm = layer(&recording("gemma1").read("llm/layers/pre_ffw_norm/scale").unwrap().view().unwrap(), 1);
    let name = format!("{text}.1.post_attention_layernorm.weight");
    assert!(exported("gemma1").read(&name).unwrap() == permuted(norm, &[0], &[40]));
    // Added rows are the mean.
    let embedding = theirs("language_model.model.embed_tokens.weight");
    assert_eq!(embedding.dims(), [290 + 64, 40]);
    let rows = embedding.view::<f32>().unwrap();
    let (own, added) = rows.view().split_at(Axis(0), 290);
    let mean = own.mapv(f64::from).mean_axis(Axis(0)).unwrap();
    for row in added.outer_iter() {
        row.iter().zip(&mean).for_each(|(&got, &mean)| assert!((f64::from(got) - mean).abs() < 1e-7));
    }
}

#[test]
fn dtypes_stay_and_layers_that_differ_are_widened() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    fs::write(dir.path().join("config.json"), config_of("gemma2").to_string()).unwrap();
    // f16 for what is frozen, f32 for attention, bf16 for norms.
    let mut theirs = all(&exported("gemma2"));
    for (name, array) in &mut theirs {
        let dtype = match name {
            name if name.contains("self_attn") => DType::F32,
            name if name.contains("norm") => DType::BF16,
            _ => DType::F16,
        };
        *array = array.cast(dtype);
    }
    safetensors::write(&file, &theirs, &BTreeMap::new()).unwrap();
    let reader = open(dir.path()).unwrap();
    assert_eq!(reader.shape("llm/layers/attn/q_einsum/w").unwrap().dtype(), DType::F32);
    assert_eq!(reader.shape("llm/layers/mlp/linear").unwrap().dtype(), DType::F16);
    let again = Export::new(reader, &ExportOptions::default()).unwrap();
    assert_eq!(again.dtype(), DType::F16);
    let mut got = all(&again);
    // The mean of rounded rows is another.
    let embedding = "language_model.model.embed_tokens.weight";
    let kept = 290 * 40 * 2;
    assert!(got[embedding].bytes()[..kept] == theirs[embedding].bytes()[..kept]);
    got[embedding] = theirs[embedding].clone();
    assert!(got.iter().all(|(name, array)| array == &theirs[name]));

    let down = "language_model.model.layers.1.mlp.down_proj.weight";
    theirs[down] = theirs[down].cast(DType::BF16);
    safetensors::write(&file, &theirs, &BTreeMap::new()).unwrap();
    let reader = open(dir.path()).unwrap();
    assert_eq!(reader.shape("llm/layers/mlp/linear").unwrap().dtype(), DType::F32);
    let array = reader.read("llm/layers/mlp/linear").unwrap();
    let layer = array.view::<f32>().unwrap().index_axis(Axis(0), 1).reversed_axes().to_owned();
    assert_eq!(HostArray::from_ndarray(&layer), theirs[down].cast(DType::F32));
}

#[test]
fn a_source_that_lends_nothing_is_read_once() {
    static READS: AtomicUsize = AtomicUsize::new(0);
    for case in CASES {
        READS.store(0, Ordering::Relaxed);
        let source = Streamed(recording(case), &READS);
        let streamed = Export::new(Box::new(source), &ExportOptions::default()).unwrap();
        assert_same(&streamed, &exported(case));
        // `assert_same` reads everything once, or once more where it compares with what is borrowed: nothing is.
        assert_eq!(READS.load(Ordering::Relaxed), recording(case).names().len(), "{case}");
    }
}

#[test]
fn what_transformers_needs_besides_the_weights_is_said() {
    let config = config_of("gemma2_27b");
    let expected = json!({
        "model_type": "gemma2", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 280 + 64,
        "num_image_tokens": 4, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 8, "sliding_window": 4096, "torch_dtype": "float32",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&config["text_config"][field], value, "{field}");
    }
    assert_eq!(config["image_token_index"], 280);
    assert_eq!(config["projection_dim"], 48);
    assert_eq!(config["architectures"], json!(["PaliGemmaForConditionalGeneration"]));
    let vision = &config["vision_config"];
    assert_eq!((&vision["image_size"], &vision["num_image_tokens"]), (&json!(28), &json!(4)));
    assert_eq!(vision["vision_use_head"], false);

    let options = FileOptions {
        final_logits_softcap: Some(0.0),
        query_pre_attn_norm: Some(QueryNorm::RsqrtEmbPerHead),
        dtype: Some(DType::BF16),
        ..Default::default()
    };
    let files = hf::extra_files(&exported("gemma2_27b"), &options).unwrap();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["config.json", "generation_config.json", "preprocessor_config.json"]);
    let config: Value = serde_json::from_slice(&files[0].1).unwrap();
    assert_eq!(config["text_config"]["final_logit_softcapping"], Value::Null);
    assert_eq!(config["text_config"]["query_pre_attn_scalar"], 12);
    assert_eq!(config["torch_dtype"], "bfloat16");
    let config = config_of("gemma1");
    assert_eq!(config["text_config"]["model_type"], "gemma");
    assert_eq!(config["text_config"].get("attn_logit_softcapping"), None);

    let capped = FileOptions { final_logits_softcap: Some(30.0), ..Default::default() };
    let error = chain(&hf::extra_files(&exported("gemma1"), &capped).unwrap_err());
    assert!(error.ends_with("transformers has no PaliGemma with soft caps on Gemma 1's logits"), "{error}");
}

/// A model for the vocabulary of the recorded tokenizers: 1400 pieces, or 2552 with locations and segments.
fn with_vocabulary(rows: usize) -> Export {
    let mut arrays = all(&*recording("gemma2"));
    let name = "llm/embedder/input_embedding";
    arrays[name] = HostArray::zeros(Shape::new(DType::F32, [rows, 40]));
    Export::new(Box::new(Arrays(arrays)), &ExportOptions::default()).unwrap()
}

#[test]
fn tokenizers_get_the_image_token() {
    let files = |rows: usize, path: &str| {
        let options = FileOptions { tokenizer: Some(data(path)), ..Default::default() };
        hf::extra_files(&with_vocabulary(rows), &options)
            .map(|files| files.into_iter().skip(3).collect::<HashMap<_, _>>())
    };
    let parse = |files: &HashMap<String, Vec<u8>>, name: &str| -> Value {
        serde_json::from_slice(&files[name]).unwrap()
    };
    // Big_vision's own file lacks the image token; transformers' has it.
    for path in ["text/tokenizer_loc_seg.model", "text/tokenizer.model"] {
        let files = files(2552, path).unwrap();
        assert!(files["tokenizer.model"] == fs::read(data(path)).unwrap());
        assert!(!files.contains_key("tokenizer.json"));
        let added = parse(&files, "added_tokens.json");
        assert_eq!(added["<image>"], 2552);
        let loc = if path.contains("loc") { Value::Null } else { json!(1400) };
        assert_eq!(added.get("<loc0000>").cloned().unwrap_or_default(), loc);
        let config = parse(&files, "tokenizer_config.json");
        assert_eq!(config["added_tokens_decoder"]["2552"]["content"], "<image>");
        assert_eq!(config["bos_token"], "<bos>");
    }
    for (rows, path) in [
        (2552, "text/hf/paligemma_like/tokenizer.json"),
        (2552, "text/hf/gemma_like/tokenizer.json"),
        (2600, "text/hf/gemma_like/tokenizer.json"),
    ] {
        let files = files(rows, path).unwrap();
        assert!(!files.contains_key("tokenizer.model"));
        let tokenizer = paligemma::tokenizer::Tokenizer::from_bytes(&files["tokenizer.json"]).unwrap();
        assert_eq!(tokenizer.vocab_size(), rows + 1);
        assert_eq!(tokenizer.piece_to_id("<image>"), Some(rows as i32));
        assert_eq!(tokenizer.loc(), Some((1400, 1024)));
        assert_eq!(tokenizer.seg(), Some((2424, 128)));
    }
    let error = chain(&files(2000, "text/tokenizer_loc_seg.model").unwrap_err());
    assert!(error.contains("the tokenizer has 2552 tokens"), "{error}");
    assert!(error.ends_with("the model's table only 2000 rows"), "{error}");
}

#[test]
fn what_is_no_whole_paligemma_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let theirs = all(&exported("gemma2"));
    let write = |arrays: &IndexMap<String, HostArray>| {
        safetensors::write(&path.join("model.safetensors"), arrays, &BTreeMap::new()).unwrap();
    };
    let config = |config: &Value| fs::write(path.join("config.json"), config.to_string()).unwrap();
    let good = config_of("gemma2");

    // Without a config the heads are anybody's guess.
    write(&theirs);
    let error = failure(path);
    assert!(error.contains("the vision tower's number of heads") && error.contains("config.json"), "{error}");
    let mut partial = good.clone();
    partial["text_config"] = json!({});
    config(&partial);
    assert!(failure(path).contains("the decoder's number of heads"), "{}", failure(path));
    // Any of the three numbers will do.
    for field in ["num_attention_heads", "num_key_value_heads", "head_dim"] {
        partial["text_config"] = json!({});
        partial["text_config"][field] = good["text_config"][field].clone();
        config(&partial);
        assert_same(&*open(path).unwrap(), &*recording("gemma2"));
    }
    for (field, value) in [("num_attention_heads", 5), ("num_key_value_heads", 4), ("head_dim", 9)] {
        let mut wrong = good.clone();
        wrong["text_config"][field] = value.into();
        config(&wrong);
        assert!(failure(path).contains("config.json says text_config."), "{}", failure(path));
    }
    fs::write(path.join("config.json"), "{").unwrap();
    assert!(failure(path).contains("config.json is not JSON"));
    config(&good);

    let expect = |change: &dyn Fn(&mut IndexMap<String, HostArray>), expected: &str| {
        let mut arrays = theirs.clone();
        change(&mut arrays);
        write(&arrays);
        let error = failure(path);
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(
            error.starts_with("cannot go between Hugging Face's names and big_vision's with "),
            "{error}"
        );
    };
    let q = "language_model.model.layers.1.self_attn.q_proj.weight";
    expect(&|arrays| drop(arrays.swap_remove(q)), &format!("are missing: {q}; unknown are: none"));
    expect(
        &|arrays| drop(arrays.swap_remove("language_model.model.embed_tokens.weight")),
        "are missing: language_model.model.embed_tokens.weight",
    );
    expect(
        &|arrays| drop(arrays.insert("vision_tower.x".into(), HostArray::scalar(1f32))),
        "unknown are: vision_tower.x",
    );
    let transposed = HostArray::zeros(Shape::new(DType::F32, [40, 56]));
    expect(
        &|arrays| arrays[q] = transposed.clone(),
        "expects the extents [56, 40], which other tensors imply, got f32[40,56]",
    );
    let packed = HostArray::zeros(Shape::new(DType::U8, [56, 40]));
    expect(&|arrays| arrays[q] = packed.clone(), "is u8: quantised weights");
    let flat = HostArray::zeros(Shape::new(DType::F32, [40]));
    expect(&|arrays| arrays["language_model.model.embed_tokens.weight"] = flat.clone(), "expects 2 extents");
    let renamed = |arrays: &mut IndexMap<String, HostArray>, prefix: &str| {
        *arrays = arrays.drain(..).map(|(name, array)| (format!("{prefix}{name}"), array)).collect();
    };
    expect(&|arrays| renamed(arrays, "module."), "no tensor has a name of PaliGemma's (module.");
    // A layer's number that is no number of layers.
    let far = format!("language_model.model.layers.{}.mlp.up_proj.weight", u64::MAX);
    expect(
        &|arrays| drop(arrays.insert(far.clone(), HostArray::scalar(1f32))),
        "unknown are: language_model.model.layers.18446744073709551615",
    );
    // The same tensor in two generations of names.
    expect(
        &|arrays| {
            drop(arrays.insert(
                "model.language_model.norm.weight".into(),
                arrays["language_model.model.norm.weight"].clone(),
            ))
        },
        "model.norm.weight",
    );

    // An output layer of its own.
    let mut untied = theirs.clone();
    let mut head = untied["language_model.model.embed_tokens.weight"].clone();
    head.bytes_mut()[0] ^= 1;
    untied.insert("lm_head.weight".to_owned(), head);
    write(&untied);
    let reader = open(path).unwrap();
    for _ in 0..2 {
        let error = chain(&reader.read("llm/embedder/input_embedding").unwrap_err());
        assert!(error.contains("lm_head.weight differs from the embedding"), "{error}");
        assert!(reader.borrow("llm/embedder/input_embedding").is_err());
    }
    reader.read("llm/final_norm/scale").unwrap();

    // A part of a model, and one with more than a model, cannot be exported.
    let refuse = |arrays: IndexMap<String, HostArray>| {
        chain(&Export::new(Box::new(Arrays(arrays)), &ExportOptions::default()).err().expect("an error"))
    };
    let mut ours = all(&*recording("gemma2"));
    ours.insert("llm/lora".to_owned(), HostArray::scalar(1f32));
    assert!(refuse(ours.clone()).ends_with("missing: none; unknown are: llm/lora"));
    ours.swap_remove("img/pos_embedding");
    assert!(refuse(ours.clone()).ends_with("not a whole PaliGemma: img/pos_embedding is missing"));
    ours.retain(|name, _| name.starts_with("llm/"));
    assert!(refuse(ours).ends_with("not a whole PaliGemma: img/embedding/kernel is missing"));
}

#[test]
fn damaged_shards_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m");
    write(&exported("gemma2"), &target, 40_000);
    let index_path = target.join(safetensors::INDEX_NAME);
    let index = read_json(&index_path);
    let shard = index["weight_map"]["language_model.model.norm.weight"].as_str().unwrap();
    let moved = dir.path().join("moved");
    fs::rename(target.join(shard), &moved).unwrap();
    let error = failure(&target);
    assert!(error.starts_with("cannot open") && error.contains(shard), "{error}");
    let bytes = fs::read(&moved).unwrap();
    fs::write(target.join(shard), &bytes[..bytes.len() - 1]).unwrap();
    assert!(failure(&target).contains("is not a complete safetensors file"));
    fs::rename(&moved, target.join(shard)).unwrap();
    let mut wrong = index.clone();
    wrong["weight_map"].as_object_mut().unwrap().remove("language_model.model.norm.weight");
    fs::write(&index_path, wrong.to_string()).unwrap();
    assert!(failure(&target).contains("that it does not list: [language_model.model.norm.weight]"));
    fs::write(&index_path, "[]").unwrap();
    assert!(failure(&target).contains("is not an index of safetensors shards"));
}

#[test]
fn an_unfinished_directory_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m");
    let tensor = |name: &str| (name.to_owned(), Shape::new(DType::F32, [2]));
    let create =
        || hf::Writer::create(&target, ["b", "a"].map(tensor), vec![("x.json".into(), b"{}".to_vec())], 8);
    let left = || fs::read_dir(dir.path()).unwrap().count();
    let mut writer = create().unwrap();
    // The order is the caller's.
    assert_eq!(writer.order().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let error = writer.write("a", &[0; 8]).unwrap_err().to_string();
    assert!(error.ends_with("expects tensor \"b\", got \"a\""), "{error}");
    assert!(writer.write("b", &[0; 4]).unwrap_err().to_string().ends_with("has 8 bytes, not 4"));
    writer.write("b", &[0; 8]).unwrap();
    assert_eq!(left(), 1);
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.ends_with("was finished before tensor \"a\" was written"), "{error}");
    assert_eq!(left(), 0);
    let mut writer = create().unwrap();
    writer.write("b", &[0; 8]).unwrap();
    drop(writer);
    assert_eq!(left(), 0);
    // Somebody else was faster.
    let mut writer = create().unwrap();
    writer.write("b", &[0; 8]).unwrap();
    writer.write("a", &[0; 8]).unwrap();
    fs::create_dir(&target).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("exists already"));
    assert!(matches!(create().err(), Some(Error::Exists { .. })));
    assert_eq!((left(), fs::read_dir(&target).unwrap().count()), (1, 0));
    let twice = hf::Writer::create(&dir.path().join("n"), ["a", "a"].map(tensor), vec![], 8);
    assert!(twice.err().unwrap().to_string().starts_with("tensor \"a\" occurs twice"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let target = dir.path().join("p");
        hf::Writer::create(&target, [], vec![], 8).unwrap().finish().unwrap();
        assert!(target.join("model.safetensors").is_file());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&dir.path().join("m")));
    }
}

#[test]
fn a_checkpoint_of_another_paligemma_is_named() {
    let specs = |case: &str| {
        let spec = |(name, shape): (String, Shape)| ParamSpec::new(name, shape, Init::Zeros);
        ParamSpecs::new(shapes(&*recording(case)).into_iter().map(spec)).unwrap()
    };
    let error = load_params(&specs("gemma1"), &*recording("gemma2"), &Patterns::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(
            "does not fit the model: the checkpoint is PaliGemma 2, 42 px (llm: width 40, depth 3, mlp_dim 64, \
             num_heads 4, num_kv_heads 2, head_dim 14, vocab_size 290; img: width 24, depth 2, mlp_dim 48, \
             num_heads 2, patch 14), the model is PaliGemma, 28 px (llm: width 40, depth 2, "
        ),
        "{message}"
    );
    assert!(message.contains("2 are unexpected, ") && message.contains("more"), "{message}");
    assert!(message.lines().count() <= 12, "{message}");
    load_params(&specs("gemma1"), &*recording("gemma1"), &Patterns::default()).unwrap();
}

/// An adapter for gemma2: names of its file, the tensor that each pair changes.
fn write_adapter(
    directory: &Path,
    prefix: &dyn Fn(&str) -> String,
    config: &Value,
) -> Vec<(String, HostArray, HostArray)> {
    fs::create_dir_all(directory).unwrap();
    let export = exported("gemma2");
    let targets = [
        ("language_model.model.layers.0.self_attn.q_proj", 3),
        ("language_model.model.layers.2.self_attn.v_proj", 3),
        ("language_model.model.layers.1.self_attn.o_proj", 3),
        ("language_model.model.layers.1.mlp.down_proj", 2),
        ("vision_tower.vision_model.encoder.layers.1.self_attn.q_proj", 3),
        ("multi_modal_projector.linear", 3),
    ];
    let mut arrays = IndexMap::new();
    let mut pairs = Vec::new();
    let noise = |dims: [usize; 2], salt: usize| {
        let values: Vec<f32> =
            (0..dims[0] * dims[1]).map(|i| ((i * 37 + salt * 101) % 113) as f32 / 113.0 - 0.5).collect();
        HostArray::new(dims, &values).unwrap()
    };
    for (salt, (module, rank)) in targets.into_iter().enumerate() {
        let name = format!("{module}.weight");
        let dims = export.shape(&name).unwrap().dims().to_vec();
        let (a, b) = (noise([rank, dims[1]], salt), noise([dims[0], rank], salt + 50));
        arrays.insert(format!("{}.lora_A.weight", prefix(module)), a.clone());
        arrays.insert(format!("{}.lora_B.weight", prefix(module)), b.clone());
        pairs.push((name, a, b));
    }
    safetensors::write(&directory.join("adapter_model.safetensors"), &arrays, &BTreeMap::new()).unwrap();
    fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
    pairs
}

fn adapter_config() -> Value {
    json!({
        "peft_type": "LORA", "r": 3, "lora_alpha": 6, "use_rslora": false, "fan_in_fan_out": false, "bias": "none",
        "init_lora_weights": true, "rank_pattern": {"layers.1.mlp.down_proj": 2}, "alpha_pattern": {"v_proj": 5},
        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "../base",
    })
}

#[test]
fn adapters_are_merged_on_loading() {
    let dir = tempfile::tempdir().unwrap();
    write(&exported("gemma2"), &dir.path().join("base"), u64::MAX);
    for (generation, rslora) in [(0, false), (1, false), (2, true)] {
        let directory = dir.path().join(format!("adapter{generation}"));
        let mut config = adapter_config();
        config["use_rslora"] = rslora.into();
        let prefix = |module: &str| format!("base_model.model.{}", renamed(module, generation));
        let pairs = write_adapter(&directory, &prefix, &config);
        let merged = Export::new(open(&directory).unwrap(), &ExportOptions::default()).unwrap();
        let base = exported("gemma2");
        let mut expected = all(&base);
        for (name, a, b) in pairs {
            let rank = a.dims()[0];
            let alpha = if name.contains("v_proj") { 5.0 } else { 6.0 };
            let scale = alpha / if rslora { (rank as f32).sqrt() } else { rank as f32 };
            let (a, b) = (a.values::<f32>().unwrap(), b.values::<f32>().unwrap());
            let columns = a.len() / rank;
            let weights = expected[&name].values_mut::<f32>().unwrap();
            for (i, weight) in weights.iter_mut().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let sum = (0..rank).fold(0f32, |sum, k| sum + b[row * rank + k] * a[k * columns + column]);
                *weight += sum * scale;
            }
        }
        for (name, want) in &expected {
            let got = merged.read(name).unwrap();
            let close = got.to_f64().iter().zip(want.to_f64()).all(|(got, want)| (got - want).abs() <= 1e-6);
            assert!(close, "{name}");
            let untouched = base.read(name).unwrap() == *want;
            assert_eq!(got == base.read(name).unwrap(), untouched, "{name}");
        }
        // Into half precision the sum is rounded once.
        let half = open(data("model/gemma2/params.bf16.npz")).unwrap();
        let name = "llm/layers/mlp/linear";
        let wide =
            Arrays(all(&*half).into_iter().map(|(name, array)| (name, array.cast(DType::F32))).collect());
        let merge = |base| Merged::new(base, Adapter::open(&directory).unwrap()).unwrap().read(name).unwrap();
        assert_eq!(merge(half), merge(Box::new(wide)).cast(DType::BF16));
    }
    // Whole weights are taken as they are.
    let directory = dir.path().join("whole");
    write_adapter(&directory, &|module| format!("base_model.model.{module}"), &adapter_config());
    let bias = HostArray::new([40], &[0.25f32; 40]).unwrap();
    let name = "base_model.model.multi_modal_projector.linear.modules_to_save.default.bias";
    let arrays = IndexMap::from([(name.to_owned(), bias.clone())]);
    safetensors::write(&directory.join("adapter_model.safetensors"), &arrays, &BTreeMap::new()).unwrap();
    assert_eq!(open(&directory).unwrap().read("img/head/bias").unwrap(), bias);
}

#[test]
fn adapters_that_cannot_be_merged_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(&exported("gemma2"), &dir.path().join("base"), u64::MAX);
    let directory = dir.path().join("adapter");
    let prefix = |module: &str| format!("base_model.model.{module}");
    for (field, value, expected) in [
        ("use_dora", json!(true), "q_proj.lora_A.weight\" has no lora_magnitude_vector"),
        ("peft_type", json!("IA3"), "an adapter with peft_type IA3 cannot be merged"),
        ("init_lora_weights", json!("pissa_niter_4"), "an adapter with init_lora_weights pissa_niter_4"),
        ("r", json!("three"), "is not the config of a PEFT adapter: invalid type"),
        ("r", json!(4), "rank 3 for language_model.model.layers.0.self_attn.q_proj, where its config says 4"),
        ("alpha_pattern", json!({"(": 1}), "an adapter with pattern \"(\""),
        (
            "base_model_name_or_path",
            json!("google/paligemma2-3b-pt-224"),
            "base model \"google/paligemma2-3b-pt-224\" is no",
        ),
        ("base_model_name_or_path", json!(null), "base model \"\" is no directory"),
        ("base_model_name_or_path", json!("../adapter"), "it is an adapter itself"),
    ] {
        let mut config = adapter_config();
        config[field] = value;
        write_adapter(&directory, &prefix, &config);
        assert!(failure(&directory).contains(expected), "{} lacks {expected}", failure(&directory));
    }
    write_adapter(
        &directory,
        &|module| format!("base_model.model.{}", module.replace("q_proj", "qkv")),
        &adapter_config(),
    );
    assert!(
        failure(&directory)
            .contains("changes what the model does not have: language_model.model.layers.0.self_attn.qkv")
    );
    write_adapter(&directory, &|module| format!("h.{module}"), &adapter_config());
    assert!(
        failure(&directory)
            .contains("does not have: h.language_model.model.layers.0.self_attn.q_proj.lora_A.weight")
    );
    let with = |arrays: &[(&str, [usize; 2])]| {
        write_adapter(&directory, &prefix, &adapter_config());
        let arrays = arrays.iter().map(|(name, dims)| {
            (
                format!("base_model.model.language_model.model.{name}"),
                HostArray::zeros(Shape::new(DType::F32, *dims)),
            )
        });
        safetensors::write(&directory.join("adapter_model.safetensors"), &arrays.collect(), &BTreeMap::new())
            .unwrap();
        failure(&directory)
    };
    let q = "layers.0.self_attn.q_proj";
    let (a, b) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    assert!(with(&[(&a, [3, 40])]).contains("lora_A.weight\" has no lora_B"));
    assert!(with(&[(&b, [56, 3])]).contains("lora_B.weight\" has no lora_A"));
    assert!(with(&[(&a, [3, 41]), (&b, [56, 3])]).contains("expects the extents [3, 40]"));
    assert!(with(&[(&a, [3, 40]), (&b, [56, 2])]).contains("expects the extents [56, 3]"));
    assert!(with(&[("embed_tokens.weight", [290, 40])]).contains("changes of the embedding"));
    assert!(
        with(&[(&format!("{q}.lora_magnitude_vector"), [56, 1])])
            .contains("does not have: language_model.model.layers.0")
    );
}
