//! Streams a synthetic set of pictures through the loader, and says how fast that was and what memory it took.
//!
//! ```text
//! stream write KIND MEGABYTES FOLDER
//! stream read KIND FOLDER
//! ```
//!
//! `scripts/bench-stream` compares a small and a large set of every kind.

#[path = "../tests/support/record_files.rs"]
mod record_files;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use paligemma::array::HostArray;
use paligemma::data::{Loader, LoaderOptions, PreprocessError, Processed, Remainder, Row};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", kind, megabytes, folder] => {
            let rows = megabytes.parse::<usize>()? * 1_000_000 / record_files::PICTURE_BYTES;
            Ok(record_files::write(kind, rows, Path::new(folder))?)
        }
        ["read", kind, folder] => read(kind, Path::new(folder)),
        _ => Err("usage: stream write KIND MEGABYTES FOLDER, or stream read KIND FOLDER".into()),
    }
}

fn read(kind: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let source = record_files::open(kind, folder)?;
    let opened = began.elapsed();
    // What a decoder would do with the bytes, less its time: look at all of them.
    let preprocess = |row: Row, _: u64| -> Result<Processed, PreprocessError> {
        let bytes = row.get("image").and_then(|value| value.as_bytes()).ok_or("the row has no image")?;
        let sum: i64 = bytes.iter().map(|&byte| i64::from(byte)).sum();
        let mut processed = Processed::default();
        processed.arrays.insert("sum".to_owned(), HostArray::scalar(sum));
        Ok(processed)
    };
    let options = LoaderOptions {
        batch_size: 32,
        epochs: Some(1),
        remainder: Remainder::Pad,
        threads: 2,
        ..LoaderOptions::default()
    };
    let mut loader = Loader::new(source, Arc::new(preprocess), options)?;
    let mut rows = 0;
    for batch in &mut loader {
        rows += batch?.ids.iter().flatten().count();
    }
    let secs = began.elapsed().as_secs_f64();
    let megabytes = (rows * record_files::PICTURE_BYTES) as f64 / 1e6;
    println!(
        "{rows} rows of {megabytes:.0} MB in {secs:.1} s ({:.0} MB/s, opened in {:.2} s), peak memory {:.1} MB",
        megabytes / secs,
        opened.as_secs_f64(),
        peak_memory_mb()?
    );
    Ok(())
}

/// The most memory that this process had resident at a time, without the pages of files.
fn peak_memory_mb() -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).ok_or("the kernel does not tell")?;
    Ok(kilobytes.parse::<f64>()? / 1000.0)
}
