//! From a recipe to the bytes that XLA compiles: building and differentiating a training step, and emission.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use paligemma::hlo;

#[path = "../support/recipe.rs"]
#[allow(dead_code, reason = "shared by tests, benchmarks and an example, of which none needs all")]
mod recipe;
use recipe::{Recipe, published, small};

fn graph(c: &mut Criterion) {
    let recipes = [
        ("paligemma_3b", Recipe::full_adam(published("gemma_2b"), 8, 128)),
        ("paligemma2_3b", Recipe::full_adam(published("gemma2_2b"), 8, 128)),
        ("paligemma2_3b_notebook", Recipe::notebook(published("gemma2_2b"), 8, 128)),
        ("small", Recipe::full_adam(small(), 8, 64)),
    ];
    let mut group = c.benchmark_group("graph");
    for (name, recipe) in &recipes {
        group.bench_function(format!("build/{name}"), |b| b.iter(|| black_box(recipe.build())));
    }
    for (name, recipe) in &recipes {
        let step = recipe.build();
        let options = step.emit_options();
        let emit = || hlo::emit(&step.function, &options).map(|module| module.to_bytes());
        let bytes = emit().unwrap_or_else(|error| panic!("{error}"));
        println!("{name}: {} bytes", bytes.len());
        group.bench_function(format!("emit/{name}"), |b| b.iter(|| black_box(emit())));
    }
    group.finish();
}

criterion_group!(benches, graph);
criterion_main!(benches);
