use super::file_name;
use super::shards::{Extent, Shards};

/// A number that tells sources apart by what they say of themselves: names and sizes of files, options that
/// choose rows. It is the same on every machine and in every release.
pub fn fingerprint<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        let part = part.as_ref();
        // The length keeps ["ab", "c"] and ["a", "bc"] apart.
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().as_bytes()[..8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The fingerprint of rows that are records of files: the files' names, and where in them the records lie.
pub(super) fn fingerprint_of_records(shards: &Shards, rows: impl IntoIterator<Item = Extent>) -> u64 {
    let names = fingerprint((0..shards.len()).map(|shard| file_name(shards.path(shard)).into_owned()));
    let places = fingerprint(rows.into_iter().map(|Extent { offset, shard, len }| {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&offset.to_le_bytes());
        place[8..12].copy_from_slice(&shard.to_le_bytes());
        place[12..].copy_from_slice(&len.to_le_bytes());
        place
    }));
    fingerprint([names, places].map(u64::to_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints hold fingerprints: they must stay what they are.
    #[test]
    fn fingerprints_tell_parts_apart_and_do_not_change() {
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
        assert_ne!(fingerprint(["a"]), fingerprint(["a", ""]));
        assert_eq!(fingerprint(["train.jsonl", "1234"]), 2_276_096_943_064_007_518);
    }

    #[test]
    fn records_are_told_apart_by_names_and_places_but_not_by_folders() {
        let of = |file: &str, offset, len| {
            let shards = Shards::new(vec![file.into()]);
            fingerprint_of_records(&shards, [Extent { offset, shard: 0, len }])
        };
        let first = of("a/train.tar", 512, 100);
        assert_eq!(of("elsewhere/train.tar", 512, 100), first);
        for other in [of("a/val.tar", 512, 100), of("a/train.tar", 1024, 100), of("a/train.tar", 512, 99)] {
            assert_ne!(other, first);
        }
    }
}
