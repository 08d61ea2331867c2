//! The compile cache over the CPU plugin: what is read back must be what was compiled, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use paligemma::array::HostArray;
use paligemma::runtime::{
    Arg, CacheOutcome, Client, ClientOptions, CompileOptions, Executable, ExecutableCache, Plugin,
    PluginKind, PluginRequest, Program,
};

const STEP: &str = "module @step {
    func.func @main(%x: tensor<4xf32> {tf.aliasing_output = 0 : i32}, %y: tensor<4xf32>) -> tensor<4xf32> {
        %sum = stablehlo.add %x, %y : tensor<4xf32>
        return %sum : tensor<4xf32>
    }
}";

fn client() -> Client {
    let plugin =
        Plugin::discover(&PluginRequest::kind(PluginKind::Cpu)).unwrap_or_else(|error| panic!("{error}"));
    Client::new(&plugin, &ClientOptions::default()).unwrap()
}

fn step(client: &Client, cache: &ExecutableCache) -> (Executable, CacheOutcome) {
    client.compile_cached(Program::mlir(STEP), &CompileOptions::default(), Some(cache)).unwrap()
}

fn run(client: &Client, executable: &Executable) -> Vec<f32> {
    let upload = |values: [f32; 4]| {
        client.upload(&HostArray::new([4], &values).unwrap(), &client.devices()[0]).unwrap()
    };
    let (x, y) = (upload([1.0, 2.0, 3.0, 4.0]), upload([10.0; 4]));
    let results = executable.execute(vec![Arg::Donate(x), Arg::Keep(&y)]).unwrap();
    results[0].download().unwrap().values::<f32>().unwrap().to_vec()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn second_compilation_is_a_hit_with_the_same_results_and_aliases() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ExecutableCache::new(folder.path(), 1 << 30);
    let client = client();
    let (compiled, outcome) = step(&client, &cache);
    assert_eq!(outcome, CacheOutcome::Miss { why: "this program was not compiled before".to_owned() });
    let (loaded, outcome) = step(&client, &cache);
    assert_eq!(outcome, CacheOutcome::Hit);
    assert_eq!(run(&client, &loaded), run(&client, &compiled));
    assert_eq!(run(&client, &loaded), [11.0, 12.0, 13.0, 14.0]);
    assert_eq!(compiled.compiled().memory_stats().unwrap().alias_bytes, 16);
    assert_eq!(loaded.compiled().memory_stats().unwrap().alias_bytes, 16);
    assert_eq!(entries(folder.path()).len(), 1);
}

#[test]
fn other_options_are_a_miss_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ExecutableCache::new(folder.path(), 1 << 30);
    let client = client();
    step(&client, &cache);
    let options = CompileOptions::default().with_flag("xla_cpu_enable_fast_math", false);
    let (_, outcome) = client.compile_cached(Program::mlir(STEP), &options, Some(&cache)).unwrap();
    let why = "this program was compiled before with another options".to_owned();
    assert_eq!(outcome, CacheOutcome::Miss { why });
    assert_eq!(entries(folder.path()).len(), 2);
}

#[test]
fn damaged_entries_are_compiled_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ExecutableCache::new(folder.path(), 1 << 30);
    let client = client();
    step(&client, &cache);
    let path = entries(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut other_key = whole.clone();
    let at = whole.windows(7).position(|window| window == b"process").unwrap();
    other_key[at] = b'x';
    let damages: [(&[u8], &str); 5] = [
        (&flipped, "its contents do not match their digest"),
        (&whole[..whole.len() / 2], "its contents do not match their digest"),
        (&whole[..20], "is truncated or no cache entry"),
        (b"", "is truncated or no cache entry"),
        (&other_key, "was written for another devices"),
    ];
    for (damaged, what) in damages {
        fs::write(&path, damaged).unwrap();
        let (executable, outcome) = step(&client, &cache);
        let CacheOutcome::Miss { why } = &outcome else { panic!("{outcome}") };
        assert!(why.ends_with(what), "{why}");
        assert_eq!(run(&client, &executable), [11.0, 12.0, 13.0, 14.0]);
        assert_eq!(step(&client, &cache).1, CacheOutcome::Hit);
    }
}

#[test]
fn least_recently_used_entries_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let client = client();
    step(&client, &ExecutableCache::new(folder.path(), 1 << 30));
    let first = entries(folder.path()).remove(0);
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::options().append(true).open(&first).unwrap().set_modified(long_ago).unwrap();

    let room_for_one = ExecutableCache::new(folder.path(), first.metadata().unwrap().len() * 3 / 2);
    let other = STEP.replace("@step", "@other");
    client.compile_cached(Program::mlir(&other), &CompileOptions::default(), Some(&room_for_one)).unwrap();
    let left = entries(folder.path());
    assert_eq!(left.len(), 1);
    assert_ne!(left[0], first);
}

#[test]
fn a_folder_that_cannot_be_written_costs_only_the_cache() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = ExecutableCache::new(file.path().join("inside-a-file"), 1 << 30);
    let client = client();
    let (executable, outcome) = step(&client, &cache);
    assert!(matches!(outcome, CacheOutcome::Uncached { .. }), "{outcome}");
    assert_eq!(run(&client, &executable), [11.0, 12.0, 13.0, 14.0]);
}
