//! Tar files of samples, as WebDataset has them.

use std::fs;

use paligemma::data::WebDataset;

use super::{read_rows, test_data};
use crate::Scratch;

pub fn run(data: &[u8]) -> Option<()> {
    let scratch = Scratch::new();
    let path = scratch.file("a.tar", data);
    read_rows(&WebDataset::open(&[path], &Default::default()).ok()?)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let whole = fs::read(test_data("data/webdataset/shard-000000.tar")).expect("a file of the tests");
    // Two samples, cut between members: fewer bytes to change.
    vec![whole[..8192].to_vec(), whole]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_seed_has_whole_members() {
        assert!(run(&seeds()[0]).is_some());
    }
}
