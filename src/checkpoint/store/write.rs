//! Distributing tensors over files.

use std::path::Path;

use super::manifest::{FileEntry, TensorEntry};
use crate::array::{HostArray, Shape};
use crate::checkpoint::Error;
use crate::checkpoint::safetensors::Writer;

/// Writes tensors in their order to `STEM-00001-of-….safetensors` of at most `shard_bytes` each, unless one
/// tensor alone is larger. Of all values, those of one tensor at a time are asked for.
pub(super) fn write_shards(
    directory: &Path,
    stem: &str,
    tensors: Vec<(String, Shape)>,
    shard_bytes: u64,
    mut value: impl FnMut(&str) -> Result<HostArray, Error>,
) -> Result<(Vec<FileEntry>, Vec<TensorEntry>), Error> {
    let shards = divide(tensors, shard_bytes);
    let count = shards.len();
    let (mut files, mut entries) = (Vec::new(), Vec::new());
    for (i, shard) in shards.into_iter().enumerate() {
        let file = format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1);
        let mut writer = Writer::create(&directory.join(&file), shard, &Default::default())?;
        for (name, shape) in writer.order().to_vec() {
            writer.write(&name, value(&name)?.bytes())?;
            entries.push(TensorEntry::new(&name, &shape, &file));
        }
        let written = writer.finish()?;
        files.push(FileEntry { name: file, bytes: written.bytes, blake3: written.blake3 });
    }
    Ok((files, entries))
}

fn divide(tensors: Vec<(String, Shape)>, shard_bytes: u64) -> Vec<Vec<(String, Shape)>> {
    let mut shards: Vec<Vec<(String, Shape)>> = Vec::new();
    let mut size = 0;
    for (name, shape) in tensors {
        let bytes = shape.num_bytes() as u64;
        match shards.last_mut() {
            Some(shard) if size == 0 || size + bytes <= shard_bytes => {
                size += bytes;
                shard.push((name, shape));
            }
            _ => {
                size = bytes;
                shards.push(vec![(name, shape)]);
            }
        }
    }
    shards
}
