//! Moves the parameters of a checkpoint to a device one by one, and says how long it took and how much memory the
//! process needed:
//!
//! ```text
//! cargo run --release --example load_checkpoint -- CHECKPOINT [cpu|cuda|tpu]
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use paligemma::checkpoint;
use paligemma::runtime::{Client, ClientOptions, Plugin, PluginRequest, Wanted, discover};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    // SAFETY: nothing else runs yet.
    unsafe { discover::prepare_environment() };
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (path, kind) = match args.as_slice() {
        [path] => (path, "cpu"),
        [path, kind] => (path, kind.as_str()),
        _ => {
            eprintln!("usage: load_checkpoint CHECKPOINT [cpu|cuda|tpu]");
            return ExitCode::from(2);
        }
    };
    match load(Path::new(path), kind) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(path: &Path, kind: &str) -> Result<()> {
    let request = PluginRequest { path: None, wanted: kind.parse::<Wanted>()? };
    let client = Client::new(&Plugin::discover(&request)?, &ClientOptions::default())?;
    let device = client.devices().first().cloned().ok_or("the plugin found no device")?;
    println!("before: {}", resident()?);
    let start = Instant::now();
    let reader = checkpoint::open(path)?;
    let mut buffers = Vec::new();
    let mut bytes = 0;
    for name in reader.names() {
        let array = reader.read(name)?;
        reader.release(name);
        bytes += array.bytes().len();
        // The host's copy is freed when the device has read it.
        buffers.push(client.upload_owned(array, &device)?);
    }
    for buffer in &buffers {
        buffer.wait()?;
    }
    let secs = start.elapsed().as_secs_f64();
    println!(
        "{} buffers, {:.2} GB, {secs:.1} s, {:.2} GB/s",
        buffers.len(),
        bytes as f64 / 1e9,
        bytes as f64 / 1e9 / secs
    );
    println!("after: {}", resident()?);
    Ok(())
}

/// What the system says of this process's memory.
fn resident() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let wanted = |line: &&str| ["VmRSS", "VmHWM", "RssFile"].iter().any(|name| line.starts_with(name));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(status.lines().filter(wanted).map(words).collect::<Vec<_>>().join(", "))
}
