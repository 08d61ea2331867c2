//! Ahead-of-time compilation for devices that are not at hand. The plugins are large, so these tests are run
//! by name: `scripts/fetch-plugin tpu && cargo test --test runtime_topology -- --ignored tpu`, and so for
//! `cuda`.

use paligemma::runtime::{
    CompileOptions, CompiledProgram, Error, Plugin, PluginKind, PluginRequest, Program, Topology, Wanted,
    discover,
};

/// On 8 devices: data divided over them, the sum of it on each.
const SUM: &str = "module @sum {
    func.func @main(%x: tensor<1024x256xf32> {mhlo.sharding = \"{devices=[8,1]<=[8]}\"})
            -> (tensor<256xf32> {mhlo.sharding = \"{replicated}\"}) {
        %zero = stablehlo.constant dense<0.0> : tensor<f32>
        %sum = stablehlo.reduce(%x init: %zero) applies stablehlo.add across dimensions = [0]
            : (tensor<1024x256xf32>, tensor<f32>) -> tensor<256xf32>
        return %sum : tensor<256xf32>
    }
}";

fn plugin(wanted: Wanted) -> Plugin {
    Plugin::discover(&PluginRequest { path: None, wanted }).unwrap_or_else(|error| panic!("{error}"))
}

fn check(compiled: &CompiledProgram) {
    let stats = compiled.memory_stats().unwrap();
    assert_eq!(stats.argument_bytes, 1024 * 256 * 4 / 8);
    assert_eq!(compiled.num_partitions().unwrap(), 8);
    assert_eq!(compiled.output_shapes().unwrap()[0].to_string(), "f32[256]");
}

#[test]
#[ignore = "needs `scripts/fetch-plugin tpu`"]
fn tpu() {
    // SAFETY: only one of these tests runs at a time, each being asked for by name.
    unsafe { discover::prepare_environment() };
    let plugin = plugin(Wanted::Kind(PluginKind::Tpu));
    let topology = Topology::new(&plugin, "v5e:2x4", &[]).unwrap();
    assert_eq!(topology.devices().len(), 8);
    check(&topology.compile(Program::mlir(SUM), &CompileOptions::spmd(8)).unwrap());
    let error = Topology::new(&plugin, "v0:1x1", &[]).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
}

#[test]
#[ignore = "needs `scripts/fetch-plugin cuda13`"]
fn cuda() {
    let target = "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 \
        shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 \
        fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 \
        memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 \
        device_memory_size: 84978434048 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 } \
        registers_per_core_limit: 65536 registers_per_block_limit: 65536 } platform_name: \"CUDA\" \
        dnn_version_info { major: 9 minor: 8 } device_description_str: \"NVIDIA H100 80GB HBM3\"";
    let plugin = plugin(Wanted::Cuda);
    let options = [("topology".to_owned(), "1x1x8".into()), ("target_config".to_owned(), target.into())];
    let topology = Topology::new(&plugin, "h100", &options).unwrap();
    assert_eq!(topology.devices().len(), 8);
    check(&topology.compile(Program::mlir(SUM), &CompileOptions::spmd(8)).unwrap());
}

#[test]
fn cpu_says_what_it_cannot() {
    let plugin = plugin(Wanted::Kind(PluginKind::Cpu));
    let error = Topology::new(&plugin, "cpu", &[]).unwrap_err();
    assert!(matches!(error, Error::Unimplemented(_) | Error::MissingFunction { .. }), "{error}");
}
