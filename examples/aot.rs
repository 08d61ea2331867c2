//! Compiles a training step of a published size ahead of time and says what memory it needs:
//!
//! ```text
//! cargo run --release --example aot -- DEVICE RECIPE [KEY=VALUE]…
//! cargo run --release --example aot -- h100 notebook llm=gemma2_2b remat=dots_saveable chunk=0
//! ```
//!
//! DEVICE is `cpu`, `h100`, or a TPU's topology (`v5e`, `v6e`, `v5p` for the smallest one, or `v5e:2x4`); its
//! plugin must be at hand (`scripts/fetch-plugin`). RECIPE is `notebook` or `adam`. Keys: `llm`, `batch`,
//! `text`, `remat`, `chunk` (tokens of a row whose logits are computed at once, 0 for all), `frozen`, `embed`
//! and `mm` (types), `depth` (layers of both towers), `hlo` (a file for the program), and any XLA flag.

use std::time::Instant;

use paligemma::array::DType;
use paligemma::hlo::{self, EmitOptions};
use paligemma::runtime::{
    Client, ClientOptions, CompileOptions, CompiledMemoryStats, CompiledProgram, Plugin, PluginKind,
    PluginRequest, Program, Topology, Wanted, discover,
};

#[path = "../tests/support/recipe.rs"]
#[allow(dead_code, reason = "shared by tests, benchmarks and an example, of which none needs all")]
mod recipe;
use recipe::Recipe;

/// What the compiler needs to know of an H100.
const H100: &str = "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 \
    shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 \
    fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 \
    memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 \
    device_memory_size: 84978434048 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 } \
    registers_per_core_limit: 65536 registers_per_block_limit: 65536 } platform_name: \"CUDA\" \
    dnn_version_info { major: 9 minor: 8 } device_description_str: \"NVIDIA H100 80GB HBM3\"";

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    // SAFETY: nothing else runs yet.
    unsafe { discover::prepare_environment() };
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [device, name, settings @ ..] = args.as_slice() else {
        return Err("expected DEVICE RECIPE [KEY=VALUE]…; the example's first lines explain them".into());
    };
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|setting| setting.split_once('=').ok_or(format!("expected KEY=VALUE, got {setting}")))
        .collect::<Result<_, _>>()?;
    let (recipe, flags, file) = read(name, &settings)?;

    let start = Instant::now();
    let step = recipe.build();
    let module = hlo::emit(&step.function, &EmitOptions { for_cpu: device == "cpu", ..step.emit_options() })?;
    let bytes = module.to_bytes();
    eprintln!("{} instructions, {} bytes, {:.2?}", module.num_instructions(), bytes.len(), start.elapsed());
    if let Some(file) = file {
        std::fs::write(file, module.to_string())?;
    }

    let mut options = CompileOptions::default();
    for (flag, value) in flags {
        options = match value.parse::<bool>() {
            Ok(value) => options.with_flag(flag, value),
            Err(_) => options.with_flag(flag, value),
        };
    }
    let start = Instant::now();
    let stats = compile(device, Program::hlo(&bytes), &options)?;
    println!(
        "{} | {} | {} | {:.0} s",
        args[1..].join(" "),
        device,
        row(&stats),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

type Settings<'a> = (Recipe, Vec<(&'a str, &'a str)>, Option<&'a str>);

fn read<'a>(name: &str, settings: &[(&'a str, &'a str)]) -> Result<Settings<'a>, Error> {
    let get = |key: &str| settings.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
    let number = |key: &str, default: usize| get(key).map_or(Ok(default), str::parse);
    let model = match get("llm").unwrap_or("gemma2_2b") {
        "small" => recipe::small(),
        llm => recipe::published(llm),
    };
    let (batch, text) = (number("batch", 8)?, number("text", 128)?);
    let mut recipe = match name {
        "notebook" => Recipe::notebook(model, batch, text),
        "adam" => Recipe::full_adam(model, batch, text),
        other => return Err(format!("unknown recipe {other}, known are: notebook, adam").into()),
    };
    if let Some(policy) = get("remat") {
        recipe.model.llm.remat_policy = policy.parse()?;
        recipe.model.img.remat_policy = recipe.model.llm.remat_policy;
    }
    recipe.loss.chunk_tokens = get("chunk").map(str::parse).transpose()?;
    let dtype = |key: &str, default: DType| get(key).map_or(Ok(default), str::parse);
    recipe.frozen = dtype("frozen", recipe.frozen)?;
    recipe.model.llm.embed_dtype = dtype("embed", recipe.model.llm.embed_dtype)?;
    recipe.model.img.dtype_mm = dtype("mm", recipe.model.img.dtype_mm)?;
    recipe.model.llm.depth = number("depth", recipe.model.llm.depth)?;
    recipe.model.img.depth = number("depth", recipe.model.img.depth)?;
    let flags = settings.iter().filter(|(key, _)| key.starts_with("xla_")).copied().collect();
    Ok((recipe, flags, get("hlo")))
}

fn compile(device: &str, program: Program, options: &CompileOptions) -> Result<CompiledMemoryStats, Error> {
    let plugin = |wanted| Plugin::discover(&PluginRequest { path: None, wanted });
    let compiled: CompiledProgram = match device {
        "cpu" => {
            let client = Client::new(&plugin(Wanted::Kind(PluginKind::Cpu))?, &ClientOptions::default())?;
            return Ok(client.compile(program, options)?.compiled().memory_stats()?);
        }
        "h100" => {
            let one = [("topology".to_owned(), "1x1x1".into()), ("target_config".to_owned(), H100.into())];
            Topology::new(&plugin(Wanted::Cuda)?, "h100", &one)?.compile(program, options)?
        }
        tpu => {
            let plugin = plugin(Wanted::Kind(PluginKind::Tpu))?;
            let host = [("chips_per_host_bounds".to_owned(), vec![1i64, 1, 1].into())];
            let topology = match tpu.contains(':') {
                true => Topology::new(&plugin, tpu, &[])?,
                false => Topology::new(&plugin, &format!("{tpu}:1x1x1"), &host)?,
            };
            eprintln!("{topology:?}");
            topology.compile(program, options)?
        }
    };
    Ok(compiled.memory_stats()?)
}

/// Arguments, results that are not in them, temporaries and the highest use, in GB.
fn row(stats: &CompiledMemoryStats) -> String {
    let gb = |bytes: u64| format!("{:.3}", bytes as f64 / 1e9);
    [
        gb(stats.argument_bytes),
        gb(stats.output_bytes.saturating_sub(stats.alias_bytes)),
        gb(stats.temp_bytes),
        stats.peak_bytes.map_or("–".into(), gb),
        gb(stats.total_bytes()),
    ]
    .join(" | ")
}
