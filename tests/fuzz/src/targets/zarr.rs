//! Folders of zarr arrays, as big_vision's train states are.

use std::fs;
use std::path::Path;

use paligemma::checkpoint::zarr::{Arrays, Writer};

use super::{arrays, read_all, test_data};
use crate::{Scratch, files};

pub fn run(data: &[u8]) -> Option<()> {
    let scratch = Scratch::with_files(data)?;
    read_all(&Arrays::open(scratch.path()).ok()?)
}

/// What TensorStore wrote, what our writer writes, and what only zarr's own library does.
pub fn seeds() -> Vec<Vec<u8>> {
    let recorded = test_data("model/checkpoint_bv/adam/checkpoint.bv-000000006");
    vec![
        pack(&recorded, &["opt~1~0~0", "params~img~head~bias", "params~llm~final_norm~scale"]),
        written(0..3),
        written(3..8),
        chunks("C", ".", "null"),
        chunks("F", "/", "0"),
        chunks("C", ".", "\"NaN\""),
    ]
}

/// The files of some arrays of a folder.
fn pack(folder: &Path, arrays: &[&str]) -> Vec<u8> {
    let mut packed = Vec::new();
    for array in arrays {
        for entry in fs::read_dir(folder.join(array)).expect("an array of the tests") {
            let entry = entry.expect("a file of the tests");
            let name = format!("{array}/{}", entry.file_name().display());
            packed.push((name, fs::read(entry.path()).expect("a file of the tests")));
        }
    }
    packed.sort();
    files::pack(packed.iter().map(|(name, content)| (name.as_str(), content.as_slice())))
}

fn written(some: std::ops::Range<usize>) -> Vec<u8> {
    let (scratch, some) = (Scratch::new(), &arrays()[some]);
    let folder = scratch.path().join("state");
    let shapes = some.iter().map(|(name, array)| (name.clone(), array.shape().clone()));
    let mut writer = Writer::create(&folder, shapes).expect("a scratch folder");
    for (name, _) in writer.order().to_vec() {
        let (_, array) = some.iter().find(|(known, _)| *known == name).expect("a name that was declared");
        writer.write(&name, array.bytes()).expect("a scratch file");
    }
    writer.finish().expect("a scratch folder");
    let names: Vec<String> = some.iter().map(|(name, _)| name.replace('/', "~")).collect();
    pack(&folder, &names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// An array of 2x3 in chunks of 1x2, bare, of which one may be absent.
fn chunks(order: &str, separator: &str, fill: &str) -> Vec<u8> {
    let meta = format!(
        "{{\"chunks\":[1,2],\"compressor\":null,\"dimension_separator\":\"{separator}\",\"dtype\":\"<f4\",\
         \"fill_value\":{fill},\"filters\":null,\"order\":\"{order}\",\"shape\":[2,3],\"zarr_format\":2}}"
    );
    let mut packed = vec![("w/.zarray".to_owned(), meta.into_bytes())];
    for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        if fill == "null" || (row, column) != (1, 1) {
            packed.push((format!("w/{row}{separator}{column}"), vec![row + 1, 0, 0, column, 0, 0, 0, 0]));
        }
    }
    files::pack(packed.iter().map(|(name, content)| (name.as_str(), content.as_slice())))
}
