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
}
