//! From image files and texts to what a model sees: decoding, resizing and the whole chain on one core, tokenising, and
//! the data loader with one thread and two.
//!
//! `PALIGEMMA_BENCH_IMAGES=DIR` takes the JPEG files of a folder instead of the one that the tests have.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use paligemma::data::{Jsonl, JsonlOptions, Loader, LoaderOptions, PreprocessError, Processed, Row, Source};
use paligemma::pp::{DecodeOptions, Env, Example, Pipeline, Value, decode};
use paligemma::setup::example_of;
use paligemma::tokenizer::Tokenizer;

const TRAINING: &str = r#"decode|resize(224, antialias=True)|value_range(-1, 1)|tok(key="prefix", bos="yes", model='sp("tokenizer.model")')|tok(key="septok", text="\n", model='sp("tokenizer.model")')|tok(key="suffix", eos="yes", model='sp("tokenizer.model")')|masked_concat(["prefix", "septok", "suffix"], mask_ar=[0, 0, 1], mask_loss=[0, 0, 1])|tolen(64, pad_value=0, key="text")|tolen(64, pad_value=1, key="mask_ar")|tolen(64, pad_value=0, key="mask_loss")|keep("image", "text", "mask_ar", "mask_loss")"#;

fn test_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn paths() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("PALIGEMMA_BENCH_IMAGES") else {
        return vec![test_data("image/files/photo_427x640.jpg")];
    };
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "jpg")).collect();
    paths.sort();
    paths
}

fn run(group: &mut BenchmarkGroup<WallTime>, chain: &str, images: &[Value]) {
    let pipeline = Pipeline::parse(chain, &Env::new(".")).unwrap();
    group.throughput(Throughput::Elements(images.len() as u64));
    group.bench_function(chain, |b| {
        b.iter(|| {
            for image in images {
                black_box(pipeline.run(Example::from_iter([("image", image.clone())]), 0).unwrap());
            }
        })
    });
}

fn images(c: &mut Criterion) {
    let files: Vec<Vec<u8>> = paths().iter().map(|path| fs::read(path).unwrap()).collect();
    let pixels: Vec<Value> =
        files.iter().map(|file| Value::Array(decode(file, &DecodeOptions::default()).unwrap())).collect();
    let files: Vec<Value> = files.into_iter().map(Value::Bytes).collect();
    let mut group = c.benchmark_group("image");
    group.sample_size(20);
    for chain in [
        "decode",
        "decode(precise=True)",
        "decode|resize(224)",
        "decode|resize(224, antialias=True)",
        "decode|resize(224, antialias=True)|value_range(-1, 1)",
        "decode(precise=True)|resize(224, antialias=True)|value_range(-1, 1)",
        "decode|resize(448, antialias=True)|value_range(-1, 1)",
    ] {
        run(&mut group, chain, &files);
    }
    for method in ["bilinear", "area", "bicubic", "lanczos3"] {
        run(&mut group, &format!("resize(224, method=\"{method}\", antialias=True)"), &pixels);
    }
    group.finish();
}

/// What training reads: rows of a JSON lines file in a random order, through a whole pp string, in batches of 32.
fn loader(c: &mut Criterion) {
    const BATCH: usize = 32;
    let folder = tempfile::tempdir().unwrap();
    let line = |path: &PathBuf| {
        let row = serde_json::json!({"image": path, "prefix": "caption en", "suffix": "a small red circle"});
        format!("{row}\n")
    };
    let rows: String = paths().iter().cycle().take(300).map(line).collect();
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let env = Env::new(".").with_tokenizers(test_data("text"));
    let pipeline = Arc::new(Pipeline::parse(TRAINING, &env).unwrap());

    let options = JsonlOptions { fopen_keys: [("image".into(), "/".into())].into(), ..Default::default() };
    let source = Arc::new(Jsonl::open(folder.path().join("rows.jsonl"), options).unwrap());

    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut index = 0;
    group.bench_function("none: rows and pp string", |b| {
        b.iter(|| {
            for _ in 0..BATCH {
                index = (index + 1) % source.len();
                black_box(pipeline.run(example_of(source.get(index).unwrap()), 0).unwrap());
            }
        })
    });
    for threads in [1, 2] {
        let pipeline = Arc::clone(&pipeline);
        let preprocess = move |row: Row, seed: u64| -> Result<Processed, PreprocessError> {
            let mut processed = Processed::default();
            for (key, value) in pipeline.run(example_of(row), seed)? {
                if let Value::Array(array) = value {
                    processed.arrays.insert(key, array);
                }
            }
            Ok(processed)
        };
        let options = LoaderOptions { batch_size: BATCH, threads, ..LoaderOptions::default() };
        let mut batches = Loader::new(source.clone(), Arc::new(preprocess), options).unwrap();
        group.bench_function(format!("threads={threads}"), |b| b.iter(|| batches.next().unwrap().unwrap()));
    }
    group.finish();
}

/// Texts as the tasks have them, one at a time.
fn tokenise(c: &mut Criterion) {
    let tokenizer = Tokenizer::open(test_data("text/tokenizer.model")).unwrap();
    let tokenizer = tokenizer.with_tokensets(&["loc", "seg"]).unwrap();
    let mut group = c.benchmark_group("tokenise");
    group.throughput(Throughput::Elements(1));
    for (name, text) in [
        ("prompt", "caption en"),
        ("caption", "a small red circle to the left of two large blue squares, all on a grey background"),
        ("box", "<loc0123><loc0456><loc0789><loc1023> a small red circle"),
    ] {
        group.bench_function(name, |b| b.iter(|| tokenizer.encode(black_box(text))));
    }
    group.finish();
}

criterion_group!(benches, images, tokenise, loader);
criterion_main!(benches);
