//! From image files to what a model sees: decoding, resizing, and the whole chain, on one core.
//!
//! `PALIGEMMA_BENCH_IMAGES=DIR` takes the JPEG files of a folder instead of the one that the tests have.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use paligemma::pp::{DecodeOptions, Env, Example, Pipeline, Value, decode};

fn files() -> Vec<Vec<u8>> {
    let Some(folder) = std::env::var_os("PALIGEMMA_BENCH_IMAGES") else {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/image/files/photo_427x640.jpg");
        return vec![fs::read(file).unwrap()];
    };
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "jpg")).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
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
    let files = files();
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

criterion_group!(benches, images);
criterion_main!(benches);
