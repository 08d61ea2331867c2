//! Safetensors in shards: the index and the files beside it.

use std::collections::BTreeMap;
use std::fs;

use paligemma::checkpoint::safetensors::{INDEX_NAME, Safetensors, write};

use super::{arrays, read_all};
use crate::{Scratch, files};

pub fn run(data: &[u8]) -> Option<()> {
    let scratch = Scratch::with_files(data)?;
    // Each file alone as well, so that shards are looked into whatever the index says.
    let mut all = Some(());
    for (name, _) in files::unpack(data)? {
        let path = scratch.path().join(name);
        let opened = match name {
            INDEX_NAME => Safetensors::open_index(&path),
            _ => Safetensors::open(&path),
        };
        let read = opened.ok().and_then(|opened| read_all(&opened));
        all = all.and(read);
    }
    all
}

pub fn seeds() -> Vec<Vec<u8>> {
    [vec![0], vec![2, 12], vec![1, 2, 3]].map(|ends| seed(&ends)).into()
}

/// Arrays in shards that end before these numbers.
fn seed(ends: &[usize]) -> Vec<u8> {
    let (all, scratch) = (arrays(), Scratch::new());
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let (mut start, mut packed, mut weight_map) = (0, Vec::new(), Vec::new());
    for (i, &end) in ends.iter().enumerate() {
        let (name, path) = (format!("m-{i}.safetensors"), scratch.path().join("shard"));
        let shard: indexmap::IndexMap<_, _> = all[start..end].iter().cloned().collect();
        write(&path, &shard, &metadata).expect("a scratch file");
        weight_map.extend(shard.keys().map(|tensor| format!("\"{tensor}\":\"{name}\"")));
        packed.push((name, fs::read(&path).expect("the file that was written")));
        start = end;
    }
    let index = format!(
        "{{\"metadata\":{{\"total_size\":{}}},\"weight_map\":{{{}}}}}",
        packed.len(),
        weight_map.join(",")
    );
    packed.push((INDEX_NAME.to_owned(), index.into_bytes()));
    files::pack(packed.iter().map(|(name, content)| (name.as_str(), content.as_slice())))
}
