//! Adapters: that they learn and nothing else does, that merging them changes nothing, that they come back from
//! PEFT's format, and what a base in few bits costs and saves.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use indexmap::IndexMap;
use paligemma::array::{DType, HostArray, Shape};
use paligemma::autodiff::gradient;
use paligemma::checkpoint::{self, Reader, Store, hf, safetensors};
use paligemma::exec;
use paligemma::graph::{Builder, Function, RematPolicy, Value};
use paligemma::hlo::EmitOptions;
use paligemma::model::{
    Examples, GemmaConfig, LoraConfig, LossConfig, PaliGemmaConfig, PoolType, PosEmb, QueryNorm,
    SiglipConfig, Taps, scale_name,
};
use paligemma::nn::Params;
use paligemma::params::{Init, Kernel, ParamSpecs, Quant};
use paligemma::runtime::{
    Arg, Buffer, Client, ClientOptions, CompileOptions, CompiledMemoryStats, Executable, Plugin, PluginKind,
    PluginRequest,
};
use tempfile::TempDir;

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let plugin = Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap();
        Client::new(&plugin, &ClientOptions::cpu_devices(1)).unwrap()
    })
}

const TEXT_LEN: usize = 8;

/// A model of which every kernel of both towers has an adapter.
fn tiny(num_kv_heads: usize) -> PaliGemmaConfig {
    let mut model = PaliGemmaConfig {
        img: SiglipConfig {
            width: 16,
            depth: 2,
            mlp_dim: 24,
            num_heads: 2,
            patch_size: [14, 14],
            pool_type: PoolType::None,
            posemb: PosEmb::Learn,
            dropout: 0.0,
            dtype_mm: DType::F32,
            remat_policy: RematPolicy::NothingSaveable,
            head_zeroinit: false,
        },
        llm: GemmaConfig {
            width: 16,
            depth: 2,
            mlp_dim: 24,
            num_heads: 4,
            num_kv_heads,
            head_dim: 4,
            vocab_size: 50,
            query_pre_attn_norm: QueryNorm::RsqrtHeadDim,
            attn_logits_softcap: 0.0,
            final_logits_softcap: 0.0,
            post_norms: true,
            dropout: 0.0,
            remat_policy: RematPolicy::NothingSaveable,
            embed_dtype: DType::F32,
            cache_dtype: DType::F32,
        },
        image_size: [28, 28],
        lora: None,
    };
    let names = model.base_params().into_iter().map(|spec| spec.name);
    let kernels: Vec<String> = names.filter(|name| Kernel::find(name).is_some()).collect();
    assert_eq!(kernels.len(), if num_kv_heads == 4 { 11 } else { 12 });
    let (rank, alpha) = (3, 7.0);
    model.lora = Some(LoraConfig { rank, alpha, dropout: 0.0, dora: false, kernels, quant: None });
    model
}

fn lora(model: &mut PaliGemmaConfig) -> &mut LoraConfig {
    model.lora.as_mut().unwrap()
}

/// Values of all parameters, of which adapters are no longer fresh and kernels are in few bits where the model wants it.
fn values(model: &PaliGemmaConfig) -> IndexMap<String, HostArray> {
    let mut values = IndexMap::new();
    for spec in &model.params().unwrap() {
        let init = match spec.name.rsplit_once('/') {
            Some((name, "b")) if name.starts_with("lora/") => Init::Normal { stddev: 0.3 },
            _ => spec.init.clone(),
        };
        values.insert(spec.name.clone(), init.draw(&spec.name, &spec.shape, 5).unwrap());
    }
    for spec in model.base_params() {
        let Some(quant) = model.lora.as_ref().and_then(|lora| lora.quant) else { break };
        let scale = scale_name(&spec.name);
        if values.contains_key(&scale) {
            let (codes, scales) = quant.quantise(&spec.init(5).unwrap()).unwrap();
            values.insert(spec.name, codes);
            values.insert(scale, scales);
        }
    }
    values
}

/// Image, text and the mask of the suffix.
fn batch() -> Vec<HostArray> {
    let pixels: Vec<f32> = (0..2 * 28 * 28 * 3).map(|i| (i as f32 * 0.1).sin()).collect();
    let text: Vec<i32> = (0..2 * TEXT_LEN).map(|i| 2 + (i * 31 % 47) as i32).collect();
    let suffix: Vec<i32> = (0..2 * TEXT_LEN).map(|i| i32::from(i % TEXT_LEN >= 3)).collect();
    vec![
        HostArray::new([2, 28, 28, 3], &pixels).unwrap(),
        HostArray::new([2, TEXT_LEN], &text).unwrap(),
        HostArray::new([2, TEXT_LEN], &suffix).unwrap(),
    ]
}

/// A program over parameters and a batch; `build` gets the parameters by name, in order, and the batch.
fn program(
    shapes: &[(String, Shape)],
    build: impl FnOnce(&Builder, &[(String, Value)], &[Value]) -> Vec<Value>,
) -> Function {
    let b = Builder::new("lora");
    let parameter =
        |(name, shape): &(String, Shape)| (name.clone(), b.parameter(name, shape.clone()).unwrap());
    let params: Vec<_> = shapes.iter().map(parameter).collect();
    let batch = batch();
    let inputs: Vec<Value> =
        batch.iter().map(|array| b.parameter("batch", array.shape().clone()).unwrap()).collect();
    let outputs = build(&b, &params, &inputs);
    b.finish(&outputs.iter().collect::<Vec<_>>()).unwrap()
}

fn shapes(values: &IndexMap<String, HostArray>) -> Vec<(String, Shape)> {
    values.iter().map(|(name, array)| (name.clone(), array.shape().clone())).collect()
}

/// Without LLVM's optimisations, which take most of the time and do not run long here.
fn compile(function: &Function) -> Executable {
    let options = CompileOptions::default().with_flag("xla_backend_optimization_level", 0i64);
    exec::compile(client(), function, &EmitOptions::default(), &options).unwrap()
}

/// The results on these parameters and the batch.
fn execute(executable: &Executable, values: &IndexMap<String, HostArray>) -> Vec<HostArray> {
    let device = &executable.devices()[0];
    let batch = batch();
    let upload = |array| client().upload(array, device).unwrap();
    let buffers: Vec<Buffer> = values.values().chain(&batch).map(upload).collect();
    let results = executable.execute(buffers.iter().map(Arg::Keep).collect()).unwrap();
    results.iter().map(|result| result.download().unwrap()).collect()
}

/// A program of the logits of the text.
fn logits(model: &PaliGemmaConfig, values: &IndexMap<String, HostArray>) -> Executable {
    let function = program(&shapes(values), |b, params, batch| {
        let mut taps = Taps::all();
        let params = Params::new(b, params.iter().cloned());
        model.forward(&params, &batch[0], &batch[1], &batch[2], None, &mut taps).unwrap();
        vec![taps.into_values().into_iter().find(|(name, _)| name == "text_logits").unwrap().1]
    });
    compile(&function)
}

fn distance(one: &[f64], other: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut one.iter().zip(other).map(|(a, b)| a - b)) / norm(&mut other.iter().copied())
}

#[test]
fn gradients_of_adapters_are_those_of_differences() {
    let model = tiny(2);
    let values = values(&model);
    let names: Vec<String> = values.keys().cloned().collect();
    let is_adapter = |name: &String| name.starts_with("lora/") && name != "lora/alpha";
    let function = program(&shapes(&values), |b, params, batch| {
        let by_name = Params::new(b, params.iter().cloned());
        let [image, text, suffix] = batch else { panic!("a batch has three arrays") };
        let examples = Examples { image, text, mask_ar: suffix, mask_loss: suffix };
        let loss = model.loss(&by_name, &examples, None, &LossConfig::default()).unwrap().loss;
        let wrt: Vec<Value> =
            params.iter().filter(|(name, _)| is_adapter(name)).map(|(_, value)| value.clone()).collect();
        [vec![loss.clone()], gradient(&loss, &wrt).unwrap()].concat()
    });
    let executable = compile(&function);
    let gradients = execute(&executable, &values);
    for (i, name) in names.iter().filter(|name| is_adapter(name)).enumerate() {
        // Along the gradient the loss changes most, and rounding weighs least.
        let gradient = gradients[1 + i].to_f64();
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(norm > 1e-5, "{name} has a gradient of {norm:e}");
        let step = 2e-2f64.min(2e-3 / norm);
        let moved = |sign: f64| {
            let mut values = values.clone();
            let to = values[name].values_mut::<f32>().unwrap();
            to.iter_mut().zip(&gradient).for_each(|(v, g)| *v += (sign * step * g / norm) as f32);
            execute(&executable, &values)[0].to_f64()[0]
        };
        let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
        // Rounding of two f32 losses of about 4, over twice the step.
        let rounding = 1e-6 / step;
        println!("{name}: {norm:.5} {slope:.5}");
        assert!((slope - norm).abs() < 0.01 * norm + rounding, "{name}: {slope} by differences, {norm}");
    }
}

/// All kinds of adapters, by what distinguishes them.
fn kinds() -> Vec<(String, PaliGemmaConfig)> {
    let mut kinds = Vec::new();
    for (heads, dora, quant) in [
        (2, false, None),
        (4, false, None),
        (2, true, None),
        (2, false, Some(Quant::Int8)),
        (2, true, Some(Quant::Nf4)),
    ] {
        let mut model = tiny(heads);
        (lora(&mut model).dora, lora(&mut model).quant) = (dora, quant);
        kinds.push((format!("{heads} key heads, dora {dora}, {quant:?}"), model));
    }
    kinds
}

fn write(path: &Path, values: &IndexMap<String, HostArray>) {
    safetensors::write(path, values, &BTreeMap::new()).unwrap();
}

#[test]
fn a_merged_model_says_what_the_adapted_one_says() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (kind, model)) in kinds().into_iter().enumerate() {
        let values = values(&model);
        let path = dir.path().join(format!("{i}.safetensors"));
        write(&path, &values);
        let merged = checkpoint::open(&path).unwrap();
        let plain = PaliGemmaConfig { lora: None, ..model.clone() };
        let read = |name: &str| (name.to_owned(), merged.read(name).unwrap());
        let merged: IndexMap<_, _> = plain.params().unwrap().names().map(read).collect();
        let program = logits(&model, &values);
        let run = |program: &Executable, values| execute(program, values)[0].to_f64();
        let adapted = run(&program, &values);
        let error = distance(&run(&logits(&plain, &merged), &merged), &adapted);
        println!("{kind}: merging changes logits by {error:.1e}");
        assert!(error < 2e-6, "{kind}: {error:e}");
        // The adapters do change something.
        let mut fresh = values.clone();
        for (name, array) in &mut fresh {
            if name.starts_with("lora/") && name.ends_with("/b") {
                *array = HostArray::zeros(array.shape().clone());
            }
        }
        let change = distance(&run(&program, &fresh), &adapted);
        assert!(change > 0.05, "{kind}: {change}");
    }
}

#[test]
fn adapters_come_back_from_pefts_format() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (kind, model)) in kinds().into_iter().enumerate().take(3) {
        let values = values(&model);
        let path = dir.path().join(format!("{i}.safetensors"));
        write(&path, &values);
        let base: IndexMap<_, _> = values
            .iter()
            .filter(|(name, _)| !name.starts_with("lora/"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let shape = |name: &str| base.get(name).map(HostArray::shape);
        let own = hf::own_adapters(&path).unwrap();
        let peft = dir.path().join(format!("peft{i}"));
        hf::write_peft(own.as_ref(), &shape, Some("google/paligemma-3b-pt-224"), &peft).unwrap();
        assert!(hf::write_peft(own.as_ref(), &shape, None, &peft).unwrap_err().to_string().contains("exist"));

        let back: IndexMap<_, _> = hf::read_adapters(&peft, &shape).unwrap().into_iter().collect();
        let count = values.keys().filter(|name| name.starts_with("lora/")).count();
        assert_eq!(back.len(), count, "{kind}");
        for (name, array) in &back {
            assert_eq!(array.dims(), values[name].dims(), "{kind}: {name}");
            let off =
                array.to_f64().iter().zip(values[name].to_f64()).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(off < 1e-6, "{kind}: {name} is off by {off:e}");
        }
        // The reader of PEFT's adapters merges the same.
        let base_path = dir.path().join(format!("base{i}.safetensors"));
        write(&base_path, &base);
        let adapter = hf::Adapter::open(&peft).unwrap();
        let merged = hf::Merged::new(checkpoint::open(&base_path).unwrap(), adapter).unwrap();
        let opened = checkpoint::open(&path).unwrap();
        for name in base.keys() {
            let (one, other) = (merged.read(name).unwrap().to_f64(), opened.read(name).unwrap().to_f64());
            assert!(distance(&one, &other) < 1e-6 || one == other, "{kind}: {name}");
        }
    }
    let config = fs::read_to_string(dir.path().join("peft2/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (&config["r"], &config["lora_alpha"], &config["use_dora"]),
        (&3.into(), &7.0.into(), &true.into())
    );
    let modules = config["target_modules"].as_array().unwrap();
    assert_eq!(modules.len(), 2 * 6 + 1 + 2 * 7);
    assert!(modules.contains(&"model.language_model.layers.1.self_attn.v_proj".into()), "{modules:?}");
    assert!(modules.contains(&"model.multi_modal_projector.linear".into()), "{modules:?}");
    let file = safetensors::Safetensors::open(&hf::Adapter::weights_path(&dir.path().join("peft2"))).unwrap();
    let name = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B.weight";
    assert_eq!(file.shape(name).unwrap().dims(), [24, 3]);

    // The image tower has had two names since transformers 4.52.
    assert!(modules.contains(&"encoder.layers.0.mlp.fc1".into()), "{modules:?}");
    let [old, new] = ["vision_tower.vision_model", "vision_tower"]
        .map(|tower| format!("base_model.model.model.{tower}.encoder.layers.0.mlp.fc1.lora_A.weight"));
    assert_eq!(file.read(&old).unwrap(), file.read(&new).unwrap());
    let mut tensors: IndexMap<String, HostArray> =
        file.names().into_iter().map(|name| (name.to_owned(), file.read(name).unwrap())).collect();
    tensors[&new].bytes_mut()[0] ^= 1;
    let path = hf::Adapter::weights_path(&dir.path().join("peft2"));
    safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    let error = hf::Adapter::open(&dir.path().join("peft2")).err().unwrap();
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("two changes of model.vision_tower"), "{cause}");
}

#[test]
fn dropped_inputs_of_adapters_leave_the_base_and_the_mean() {
    let mut model = tiny(2);
    lora(&mut model).dropout = 0.5;
    let values = values(&model);
    let function = program(&shapes(&values), |b, params, batch| {
        let params = Params::new(b, params.iter().cloned());
        let [image, text, suffix] = batch else { panic!("a batch has three arrays") };
        let examples = Examples { image, text, mask_ar: suffix, mask_loss: suffix };
        let state = |key: u64| b.constant(HostArray::new([2], &[key, 0]).unwrap()).unwrap();
        let loss = |state: Option<&Value>| {
            model.loss(&params, &examples, state, &LossConfig::default()).unwrap().loss
        };
        vec![loss(None), loss(Some(&state(1))), loss(Some(&state(1))), loss(Some(&state(2)))]
    });
    let losses: Vec<f64> =
        execute(&compile(&function), &values).iter().map(|loss| loss.to_f64()[0]).collect();
    println!("{losses:?}");
    assert_eq!(losses[1], losses[2]);
    assert!(losses[0] != losses[1] && losses[1] != losses[3], "{losses:?}");
}

/// Bytes of parameters and of what a training step needs besides, for a decoder large beside its activations.
fn step_memory(quant: Option<Quant>) -> CompiledMemoryStats {
    let mut model = tiny(2);
    model.llm = GemmaConfig { width: 256, depth: 6, mlp_dim: 1024, head_dim: 64, ..model.llm };
    lora(&mut model).quant = quant;
    let specs: ParamSpecs = model.params().unwrap();
    let shapes: Vec<_> = specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let function = program(&shapes, |b, params, batch| {
        let by_name = Params::new(b, params.iter().cloned());
        let [image, text, suffix] = batch else { panic!("a batch has three arrays") };
        let examples = Examples { image, text, mask_ar: suffix, mask_loss: suffix };
        let loss = model.loss(&by_name, &examples, None, &LossConfig::default()).unwrap().loss;
        let is_trained = |name: &str| name.starts_with("lora/") && name != "lora/alpha";
        let trained = params.iter().filter(|(name, _)| is_trained(name)).map(|(_, value)| value.clone());
        [vec![loss.clone()], gradient(&loss, &trained.collect::<Vec<_>>()).unwrap()].concat()
    });
    compile(&function).compiled().memory_stats().unwrap()
}

#[test]
fn a_base_in_few_bits_takes_their_memory_and_no_more_while_it_is_used() {
    let [float, int8, nf4] = [None, Some(Quant::Int8), Some(Quant::Nf4)].map(step_memory);
    println!("f32 {float:?}\nint8 {int8:?}\nnf4 {nf4:?}");
    // Kernels of six layers: 8 bits and a scale of 32 bits for 64 of them, beside 32 bits.
    let kernels: u64 = 6 * 4 * (256 * 256 * 2 + 2 * 2 * 256 * 64 + 3 * 256 * 1024);
    let saved = |stats: &CompiledMemoryStats| float.argument_bytes as f64 - stats.argument_bytes as f64;
    assert!(saved(&int8) > 0.73 * kernels as f64, "{} of {kernels}", saved(&int8));
    assert!(saved(&nf4) > 0.85 * kernels as f64, "{} of {kernels}", saved(&nf4));
    for stats in [int8, nf4] {
        // At most the kernels of a layer exist as floats, in two or three stages of their making.
        let more = stats.temp_bytes as f64 - float.temp_bytes as f64;
        assert!(more < 0.5 * kernels as f64, "{more} more of {kernels}");
    }
}

/// A folder with drawn pictures, their rows and a tokenizer, in which runs take place.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        let lab = Lab(tempfile::tempdir().unwrap());
        lab.said(
            &["data", "synth", "scenes", "--out", "data", "--size", "48", "--splits", "train=12,val=4"],
            0,
        );
        let rows = ["data/caption_train.jsonl", "data/caption_val.jsonl"];
        let to = ["--out", "data/tokenizer.model", "--vocab-size", "320"];
        lab.said(&[&["data", "tokenizer"], rows.as_slice(), &to].concat(), 0);
        lab.train("base", &[], 0);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the program says on standard error, and its output.
    fn run(&self, args: &[&str], code: i32) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paligemma"));
        let output = command.current_dir(&self.0).env_remove("PALIGEMMA_LOG").args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{stderr}");
        (stderr, String::from_utf8(output.stdout).unwrap())
    }

    fn said(&self, args: &[&str], code: i32) -> String {
        self.run(args, code).0
    }

    fn train(&self, workdir: &str, args: &[&str], code: i32) -> String {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/configs/tiny.yaml");
        self.said(&[&["train", config.to_str().unwrap(), "--workdir", workdir], args].concat(), code)
    }

    /// Every tensor of the last checkpoint, as bytes.
    fn state(&self, workdir: &str) -> BTreeMap<String, Vec<u8>> {
        let checkpoint = Store::open(&self.path(workdir)).unwrap().load_latest().unwrap().unwrap().checkpoint;
        let read = |name: &str| (name.to_owned(), checkpoint.read(name).unwrap().bytes().to_vec());
        checkpoint.names().into_iter().map(read).collect()
    }

    fn answer(&self, checkpoint: &str) -> String {
        let folders = fs::read_dir(self.path("data")).unwrap().map(|entry| entry.unwrap().path());
        let image = folders.flat_map(fs::read_dir).flatten().flatten().next().unwrap().path();
        let args = ["predict", "--checkpoint", checkpoint, "--image", image.to_str().unwrap(), "--prompt"];
        self.run(&[&args[..], &["caption en", "--max-decode-len", "8"]].concat(), 0).1
    }
}

const LORA: [&str; 6] = [
    "--set",
    "model_init=base",
    "--set",
    "lora={rank: 4, alpha: 8, dropout: 0.1, targets: {img: '.*', llm: '.*'}}",
    "--set",
    "lr=0.03",
];

fn losses(lab: &Lab, workdir: &str) -> Vec<f64> {
    let rows = paligemma::report::metrics::read_metrics(&lab.path(workdir).join("metrics.jsonl")).unwrap();
    let values = rows.iter().flat_map(|row| &row.values);
    values.filter(|(name, _)| name == "training_loss").map(|(_, value)| *value).collect()
}

#[test]
fn a_run_trains_its_adapters_only_and_goes_on_where_it_stopped() {
    let lab = Lab::new();
    for (run, more) in [
        ("float", &[][..]),
        ("int8", &["--set", "frozen_dtype=int8"]),
        ("dora", &["--set", "lora.dora=true", "--set", "frozen_dtype=nf4"]),
    ] {
        let args = [&LORA[..], more].concat();
        let half = format!("{run}-half");
        // Stopped and gone on: the schedule is that of the whole.
        lab.train(
            &half,
            &[&args[..], &["--arg", "steps=6", "--set", "schedule=[['.*', {decay_type: stair}]]"]].concat(),
            0,
        );
        let constant = [&args[..], &["--set", "schedule=[['.*', {decay_type: stair}]]"]].concat();
        lab.train(&half, &constant, 0);
        lab.train(run, &constant, 0);
        assert!(lab.state(&half) == lab.state(run), "{run} goes on elsewhere");

        let (state, base) = (lab.state(run), lab.state("base"));
        let changed = |name: &String| base.get(name).is_some_and(|before| *before != state[name]);
        if run == "float" {
            let other = [&constant[..], &["--arg", "steps=24", "--set", "lora.alpha=4"]].concat();
            let stderr = lab.train(run, &other, 2);
            assert!(stderr.contains("was written with lora.alpha 8, the config has 4; "), "{stderr}");
            assert!(state.keys().filter(|name| !name.starts_with("opt/")).all(|name| !changed(name)));
            assert!(
                base.keys().filter(|name| name.starts_with("params/")).all(|name| state.contains_key(name))
            );
        }
        // Moments are those of adapters alone.
        let moments: Vec<&String> = state.keys().filter(|name| name.starts_with("opt/mu/")).collect();
        assert!(
            !moments.is_empty() && moments.iter().all(|name| name.starts_with("opt/mu/lora/")),
            "{moments:?}"
        );
        let nonzero =
            state.iter().filter(|(name, bytes)| name.ends_with("/b") && bytes.iter().any(|&b| b != 0));
        assert!(nonzero.count() >= 12, "{run}");
        let losses = losses(&lab, run);
        println!("{run}: {losses:?}");
        assert!(losses[losses.len() - 1] < losses[0] - 0.1, "{run}: {losses:?}");
        lab.answer(run);
    }
}

#[test]
fn what_a_run_learned_can_be_merged_exported_and_started_from() {
    let lab = Lab::new();
    let base = format!("model_init={}", lab.path("base/checkpoint-000000012").display());
    let args = [&LORA[..], &["--set", &base, "--set", "ckpt_frozen=false"]].concat();
    lab.train("run", &args, 0);
    let size: u64 = fs::read_dir(lab.path("run/checkpoint-000000012"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("frozen"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    // alpha, and the header.
    assert!(size < 1000, "{size} bytes are frozen");

    lab.said(&["convert", "run", "converted.npz"], 0);
    lab.said(&["lora", "merge", "base", "run", "merged.npz"], 0);
    lab.said(&["convert", "run:lora", "adapters.safetensors"], 0);
    lab.said(&["lora", "export", "run", "peft", "--base-name", "../base.hf"], 0);
    lab.said(&["convert", "base", "base.hf"], 0);
    lab.said(&["convert", "peft", "from_peft.npz"], 0);
    lab.said(&["lora", "merge", "base", "peft", "merged_peft.npz"], 0);
    let [converted, others @ ..] = ["converted.npz", "merged.npz", "from_peft.npz", "merged_peft.npz"]
        .map(|name| checkpoint::open(lab.path(name)).unwrap());
    let base = checkpoint::open(lab.path("base")).unwrap();
    let mut num_changed = 0;
    for name in converted.names() {
        assert!(name.starts_with("img/") || name.starts_with("llm/"), "{name}");
        let array = converted.read(name).unwrap();
        num_changed += usize::from(array != base.read(name).unwrap());
        for other in &others {
            let other = other.read(name).unwrap();
            let off = array.to_f64().iter().zip(other.to_f64()).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(off < 1e-6, "{name} is off by {off:e}");
        }
    }
    assert_eq!(num_changed, 12);
    assert_eq!(checkpoint::open(lab.path("adapters.safetensors")).unwrap().names().len(), 25);

    // From the adapters of PEFT or of a run, training begins where they are.
    for (next, init) in [("next", "lora.init=run"), ("next_peft", "lora.init=peft")] {
        lab.train(next, &[&args[..], &["--set", init, "--set", "lr=0", "--arg", "steps=2"]].concat(), 0);
        let (next, run) = (lab.state(next), lab.state("run"));
        for (name, bytes) in next.iter().filter(|(name, _)| name.starts_with("params/lora/")) {
            let close = bytes.chunks(4).zip(run[name].chunks(4)).all(|(a, b)| {
                let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
                (value(a) - value(b)).abs() <= 1e-6
            });
            assert!(close, "{name}");
        }
    }
    let said =
        lab.train("other", &[&args[..], &["--set", "lora.init=run", "--set", "lora.rank=2"]].concat(), 2);
    assert!(said.contains(", the config wants f32["), "{said}");
}

#[test]
fn mistakes_about_adapters_are_the_configs() {
    let lab = Lab::new();
    let refused = |set: &str, expected: &str| {
        let said = lab.train("run", &["--set", "model_init=base", "--set", set], 2);
        assert!(said.contains(expected), "{said}");
    };
    refused(
        "lora={targets: {llm: 'layers/attn/k_proj'}}",
        "pattern \"layers/attn/k_proj\" of lora.targets matches no kernel; it must match the whole of one of: layers/attn/",
    );
    refused("lora={targets: ['llm/final_norm/scale']}", "matches no kernel");
    refused("lora={targets: {}}", "lora.targets names no kernel");
    refused("lora={rank: 0}", "expected a number greater than 0");
    refused("lora={ranks: 4}", "rank");
    refused("frozen_dtype=nf4", "set lora, which trains adapters beside them");
    refused("lora={init: base}", "holds no adapters");
}
