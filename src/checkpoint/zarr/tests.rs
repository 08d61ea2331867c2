use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tempfile::TempDir;

use super::{Arrays, Writer};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::{Error, Reader, open};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The message with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn failure(path: &Path) -> String {
    chain(&open(path).err().expect("an error"))
}

#[derive(Deserialize)]
struct Recorded {
    arrays: std::collections::BTreeMap<String, RecordedArray>,
}

#[derive(Deserialize)]
struct RecordedArray {
    shape: Vec<usize>,
    dtype: String,
    sum: f64,
    sum_abs: f64,
}

#[test]
fn every_array_of_big_visions_train_states_is_read() {
    for run in ["adam", "adafactor"] {
        let folder = data("model/checkpoint_bv").join(run);
        let text = fs::read_to_string(folder.join("arrays.json")).unwrap();
        let recorded: Recorded = serde_json::from_str(&text).unwrap();
        let arrays = Arrays::open(&folder.join("checkpoint.bv-000000006")).unwrap();
        let mut names = arrays.names();
        names.sort();
        assert_eq!(names, recorded.arrays.keys().collect::<Vec<_>>());
        for (name, recorded) in &recorded.arrays {
            let shape = Shape::new(recorded.dtype.parse::<DType>().unwrap(), recorded.shape.as_slice());
            assert_eq!(arrays.shape(name).unwrap(), &shape, "{name}");
            let values = arrays.read(name).unwrap().to_f64();
            let near = |got: f64, expected: f64| (got - expected).abs() <= 1e-12 * recorded.sum_abs.abs();
            assert!(near(values.iter().sum(), recorded.sum), "{name}");
            assert!(near(values.iter().map(|value| value.abs()).sum(), recorded.sum_abs), "{name}");
        }
    }
}

#[test]
fn all_names_for_the_last_state_mean_its_parameters() {
    let workdir = data("model/checkpoint_bv/adam");
    let expected = open(data("model/gemma1/params.npz")).unwrap();
    for name in ["", "checkpoint.bv", "checkpoint.bv-LAST", "checkpoint.bv-000000006"] {
        let reader = open(workdir.join(name)).unwrap();
        assert_eq!(reader.names(), expected.names(), "{name}");
        let part = open(format!("{}:img", workdir.join(name).display())).unwrap();
        assert_eq!(part.names().len(), 23);
    }
}

#[test]
fn every_layout_of_other_writers_is_read() {
    let reader = open(data("zarr/varied")).unwrap();
    assert_eq!(reader.names().len(), 12);
    for name in reader.names() {
        let mut expected: Vec<f64> = (0..35).map(f64::from).collect();
        match name {
            "row" => expected.truncate(7),
            "bits" => expected[1..].fill(1.0),
            "absent" => [3, 4, 5, 10, 11, 12].into_iter().for_each(|i| expected[i] = -1.5),
            _ => {}
        }
        assert_eq!(reader.read(name).unwrap().to_f64(), expected, "{name}");
        assert_eq!(reader.borrow(name).unwrap(), None);
    }
    assert_eq!(reader.shape("bfloat16").unwrap(), &Shape::new(DType::BF16, [5, 7]));
    let error = reader.read_into("zstd", &mut [0; 3]).unwrap_err().to_string();
    assert_eq!(error, "tensor \"params/zstd\" of shape f32[5,7] has 140 bytes, not 3");
}

/// A copy of the varied arrays.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for array in fs::read_dir(data("zarr/varied")).unwrap().map(|entry| entry.unwrap().path()) {
        if array.is_dir() && !array.ends_with("params~nested") {
            let to = dir.path().join(array.file_name().unwrap());
            fs::create_dir(&to).unwrap();
            for file in fs::read_dir(array).unwrap().map(|entry| entry.unwrap().path()) {
                fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
            }
        }
    }
    dir
}

#[test]
fn damage_is_found_and_named() {
    let unreadable = |array: &str, chunk: &str, content: &[u8]| {
        let dir = copy();
        fs::write(dir.path().join(format!("params~{array}")).join(chunk), content).unwrap();
        match open(dir.path()) {
            Ok(reader) => chain(&reader.read(array).unwrap_err()),
            Err(error) => chain(&error),
        }
    };
    let packed = fs::read(data("zarr/varied/params~zstd/1.1")).unwrap();
    let error = unreadable("zstd", "1.1", &packed[..packed.len() - 3]);
    assert!(
        error.starts_with("array \"") && error.contains("chunk 1.1 cannot be read or unpacked"),
        "{error}"
    );
    assert!(unreadable("zstd", "1.1", b"").contains("chunk 1.1"));
    assert!(unreadable("zstd", "1.1", b"no frame at all").contains("chunk 1.1 cannot be read or unpacked"));
    assert!(unreadable("gzip", "0.0", &packed).contains("chunk 0.0 cannot be read or unpacked"));
    assert!(unreadable("zlib", "0.0", &packed).contains("chunk 0.0 cannot be read or unpacked"));
    // Another array's chunk, of elements twice as large and half as large.
    let wide = zstd::encode_all(&[0u8; 48][..], 1).unwrap();
    assert!(unreadable("zstd", "2.2", &wide).ends_with("chunk 2.2 holds more than 24 bytes, expected 24"));
    let narrow = zstd::encode_all(&[0u8; 12][..], 1).unwrap();
    assert!(unreadable("zstd", "2.2", &narrow).ends_with("chunk 2.2 holds 12 bytes, expected 24"));
    assert!(unreadable("plain", "0.2", &[0; 40]).ends_with("chunk 0.2 holds 40 bytes, expected 48"));
    // A few bytes that want to be very many.
    let bomb = zstd::encode_all(&vec![0u8; 1 << 26][..], 1).unwrap();
    assert!(unreadable("zstd", "2.2", &bomb).ends_with("holds more than 24 bytes, expected 24"));

    let dir = copy();
    fs::remove_file(dir.path().join("params~zstd/1.2")).unwrap();
    let error = failure(dir.path());
    assert!(
        error.starts_with("array \"params/zstd\" of ") && error.contains("chunk 1.2 is missing"),
        "{error}"
    );

    let meta = |text: &str| unreadable("zstd", ".zarray", text.as_bytes());
    assert!(meta("{\"zarr_format\": 2}").contains("its .zarray is malformed"));
    assert!(meta("").contains("its .zarray is malformed"));
    assert!(meta(&" ".repeat(1 << 17)).contains("its .zarray is 131072 bytes long"));
    let good = fs::read_to_string(data("zarr/varied/params~zstd/.zarray")).unwrap();
    let error = meta(&good.replace("<f4", "<f8"));
    assert!(error.contains("holds 24 bytes, expected 48"), "{error}");
    assert!(meta(&good.replace("<f4", "<c8")).contains("its dtype \"<c8\" is not supported"));
    // Far more than these files can hold, with and without a value for what is absent.
    let huge = good.replace("[5,7]", "[500000,700000]").replace("[2,3]", "[250000,350000]");
    assert!(meta(&huge).contains("more than any packing can do"), "{}", meta(&huge));
    let huge = huge.replace("\"fill_value\":null", "\"fill_value\":0");
    assert!(meta(&huge).contains("more than any packing can do"), "{}", meta(&huge));
    let many = good.replace("[5,7]", "[5000000,7000000]").replace("[2,3]", "[1,1]");
    assert!(meta(&many).contains("in a sensible way"), "{}", meta(&many));

    let dir = copy();
    fs::remove_file(dir.path().join("params~zstd/.zarray")).unwrap();
    assert!(failure(dir.path()).ends_with("it has no .zarray (an interrupted copy?)"));
    fs::rename(dir.path().join("params~zstd"), dir.path().join("params~..~..~x")).unwrap();
    assert!(failure(dir.path()).ends_with("its name is not a path of parameters"));
}

#[test]
fn a_pointer_must_point_at_something() {
    let dir = tempfile::tempdir().unwrap();
    let pointer = dir.path().join("checkpoint.bv-LAST");
    for (content, expected) in [
        ("000000006", "names \"000000006\", but there is no such checkpoint beside it"),
        ("../../etc", "names \"../../etc\", which is not the number of a checkpoint"),
        ("", "names \"\", which is not the number of a checkpoint"),
    ] {
        fs::write(&pointer, content).unwrap();
        assert!(failure(&pointer).ends_with(expected), "{}", failure(&pointer));
        assert!(failure(dir.path()).ends_with(expected));
        assert!(failure(&dir.path().join("checkpoint.bv")).ends_with(expected));
    }
    // One that is replaced by the next.
    fs::write(&pointer, "000000012-tmp\n").unwrap();
    fs::rename(copy().keep(), dir.path().join("checkpoint.bv-000000012-tmp")).unwrap();
    assert_eq!(open(&pointer).unwrap().names().len(), 11);
}

fn arrays() -> Vec<(String, HostArray)> {
    let array = |dims: &[usize], dtype: DType| {
        let values: Vec<f64> = (0..dims.iter().product()).map(|i: usize| (i % 2) as f64).collect();
        HostArray::new(dims, &values).unwrap().cast(dtype)
    };
    let mut arrays: Vec<(String, HostArray)> = DType::ALL
        .into_iter()
        .map(|dtype| (format!("params/of/{dtype}"), array(&[2, 3, 4], dtype)))
        .collect();
    arrays.push(("params/empty".into(), array(&[0, 3], DType::F32)));
    arrays.push(("opt/1/0/0".into(), HostArray::scalar(7i32)));
    arrays
}

fn write(target: &Path, arrays: &[(String, HostArray)]) -> Result<(), Error> {
    let shapes = arrays.iter().map(|(name, array)| (name.clone(), array.shape().clone()));
    let mut writer = Writer::create(target, shapes)?;
    for (name, _) in writer.order().to_vec() {
        let array = arrays.iter().find(|(other, _)| *other == name).unwrap();
        writer.write(&name, array.1.bytes())?;
    }
    assert_eq!(target.exists(), super::is_here(target), "visible before it is complete");
    writer.finish()
}

#[test]
fn what_is_written_is_read_and_pointed_at() {
    let dir = tempfile::tempdir().unwrap();
    let (target, mut arrays) = (dir.path().join("checkpoint.bv-000000042"), arrays());
    write(&target, &arrays).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("checkpoint.bv-LAST")).unwrap(), "000000042");
    let reader = Arrays::open(&target).unwrap();
    assert_eq!(reader.names().len(), arrays.len());
    for (name, array) in &arrays {
        assert_eq!(reader.read(name).unwrap(), *array, "{name}");
    }
    assert_eq!(open(dir.path()).unwrap().names().len(), arrays.len() - 1);

    // Again, with fewer arrays.
    arrays.truncate(1);
    write(&target, &arrays).unwrap();
    assert_eq!(Arrays::open(&target).unwrap().names(), ["params/of/pred"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let reference = dir.path().join("reference");
        fs::create_dir(&reference).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&reference));
    }
}

#[test]
fn a_writer_keeps_what_is_not_its_own_and_leaves_no_trace_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("thesis")).unwrap();
    let error = write(&dir.path().join("thesis"), &arrays()).unwrap_err().to_string();
    assert!(
        error.ends_with("is there and is no directory of arrays; write to another name or remove it"),
        "{error}"
    );

    let shape = Shape::scalar(DType::F32);
    let create = |names: &[&str]| {
        let shapes: Vec<_> = names.iter().map(|name| ((*name).to_owned(), shape.clone())).collect();
        Writer::create(&dir.path().join("x"), shapes)
    };
    let mut writer = create(&["b", "a"]).unwrap();
    let error = writer.write("b", &[0; 4]).unwrap_err().to_string();
    assert!(error.ends_with("expects tensor \"a\", got \"b\""), "{error}");
    writer.write("a", &[0; 4]).unwrap();
    assert!(writer.write("b", &[0; 5]).unwrap_err().to_string().ends_with("has 4 bytes, not 5"));
    assert!(
        writer.finish().unwrap_err().to_string().ends_with("was finished before tensor \"b\" was written")
    );
    assert!(matches!(create(&["a", "a"]), Err(Error::DuplicateTensor { .. })));
    for name in ["a~b", "a//b", "../a", ""] {
        assert!(matches!(create(&[name]), Err(Error::BadName { .. })), "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
