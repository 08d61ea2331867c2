//! TFRecord files: the framing as it is, and the bytes as the content of a record of a TFDS data set.

use std::fs;

use indexmap::IndexMap;
use paligemma::data::{FeatureType, TfRecord, Tfds, TfdsOptions};

use super::{read_rows, test_data};
use crate::Scratch;

/// The first byte chooses: the rest is a file, or a record's content.
pub fn run(data: &[u8]) -> Option<()> {
    let (&way, data) = data.split_first()?;
    let scratch = Scratch::new();
    if way.is_multiple_of(2) {
        let features = [("image/encoded", FeatureType::Bytes), ("image/caption", FeatureType::StrList)];
        let features: IndexMap<_, _> = features.map(|(name, kind)| (name.to_owned(), kind)).into();
        return read_rows(&TfRecord::open(&[scratch.file("a.tfrecord", data)], features).ok()?);
    }
    let features =
        fs::read(test_data("data/tfds/drawn_scenes/1.0.0/features.json")).expect("a file of the tests");
    scratch.file("features.json", &features);
    scratch.file("dataset_info.json", br#"{"name": "a", "splits": [{"name": "b", "shardLengths": ["1"]}]}"#);
    scratch.file("a-b.tfrecord-00000-of-00001", &framed(data));
    let options = TfdsOptions {
        data_dir: Some(scratch.path().to_owned()),
        split: "b".to_owned(),
        ..Default::default()
    };
    read_rows(&Tfds::open(options).expect("what stands around the record is right"))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let file = |name: &str| fs::read(test_data(name)).expect("a file of the tests");
    let plain = file("data/tfrecord/data.tfrecord-00000-of-00002");
    let packed = file("data/tfrecord/data_gz.tfrecord.gz");
    let records = file("data/tfds/drawn_scenes/1.0.0/drawn_scenes-train.tfrecord-00000-of-00002");
    let length = u64::from_le_bytes(*records.first_chunk().expect("a length")) as usize;
    let first = records[12..12 + length].to_vec();
    vec![[vec![0], plain].concat(), [vec![0], packed].concat(), [vec![1], first].concat()]
}

/// A record of this content, with its length and checksums.
fn framed(content: &[u8]) -> Vec<u8> {
    let masked =
        |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), content, &masked(content)].concat()
}
