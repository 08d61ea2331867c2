//! Rows out of record files: 64 pictures of 100 kB each, read one after the other, and the cost of opening a set.

#[path = "../support/record_files.rs"]
mod record_files;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use record_files::{KINDS, PICTURE_BYTES, open, write};

const ROWS: usize = 64;

fn sources(criterion: &mut Criterion) {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        write(kind, ROWS, folder.path()).unwrap();
        let mut group = criterion.benchmark_group(kind);
        group.bench_function("open", |bencher| bencher.iter(|| open(kind, folder.path()).unwrap().len()));
        group.throughput(Throughput::Bytes((ROWS * PICTURE_BYTES) as u64));
        // Parquet files are opened anew for each pass: their last blocks stay in memory.
        group.bench_function("read", |bencher| {
            bencher.iter_with_setup(
                || open(kind, folder.path()).unwrap(),
                |source| (0..ROWS).map(|index| source.get(index).unwrap().len()).sum::<usize>(),
            );
        });
        group.finish();
    }
}

criterion_group!(benches, sources);
criterion_main!(benches);
