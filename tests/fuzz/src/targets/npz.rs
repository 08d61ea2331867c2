//! Archives of numpy arrays, the input being the file.

use std::fs;

use paligemma::checkpoint::npz::{Npz, Writer};

use super::{arrays, read_all, test_data};
use crate::Scratch;

pub fn run(data: &[u8]) -> Option<()> {
    let scratch = Scratch::new();
    read_all(&Npz::open(&scratch.file("x.npz", data)).ok()?)
}

/// What numpy wrote, packed and with layouts that ours never has, and what our writer writes.
pub fn seeds() -> Vec<Vec<u8>> {
    let read = |name: &&str| fs::read(test_data(name)).expect("a file of the tests");
    let mut seeds: Vec<Vec<u8>> =
        ["npz/deflated.npz", "npz/old_flax.npz", "npz/train_state.npz"].iter().map(read).collect();
    let scratch = Scratch::new();
    let path = scratch.path().join("x.npz");
    for arrays in [vec![], arrays().split_off(9), arrays()] {
        let mut writer = Writer::create(&path).expect("a scratch file");
        arrays.iter().for_each(|(name, array)| writer.write(name, array).expect("a scratch file"));
        writer.finish().expect("a scratch file");
        seeds.push(fs::read(&path).expect("the file that was written"));
    }
    seeds
}
