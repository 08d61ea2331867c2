use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::array::{DType, Shape};
use crate::checkpoint::file::PendingFile;
use crate::checkpoint::{Reader, open};

fn tensors(value: f32) -> Vec<(String, HostArray)> {
    let w = HostArray::new([2, 3], &[value; 6]).unwrap();
    let count = HostArray::scalar(value as i32);
    let mu = HostArray::new([3], &[value; 3]).unwrap().cast(DType::BF16);
    vec![("opt/count".into(), count), ("params/w".into(), w), ("opt/mu/w".into(), mu)]
}

fn save(store: &Store, step: u64, keep: bool) {
    store.save(step, tensors(step as f32), json!({ "examples": step * 8 }), keep).unwrap();
}

fn latest_step(store: &Store) -> u64 {
    let latest = store.load_latest().unwrap().expect("a checkpoint");
    let step = latest.checkpoint.step();
    assert_eq!(latest.checkpoint.read("params/w").unwrap().to_f64(), [step as f64; 6]);
    step
}

fn names(workdir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(workdir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.retain(|name| name != LOCK);
    names
}

/// The only data file of a checkpoint.
fn shard(workdir: &Path, step: u64) -> PathBuf {
    workdir.join(directory_name(step, "")).join("state-00001-of-00001.safetensors")
}

#[test]
fn everything_that_was_saved_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.load_latest().unwrap().is_none());
    assert_eq!(store.latest().unwrap(), None);
    let state =
        json!({ "data": { "position": 12345678901234u64 }, "loss": 0.1 + 0.2, "others": [1e-300, null] });
    let path = store.save(200, tensors(1.5), state.clone(), false).unwrap();
    assert_eq!(path, dir.path().join("checkpoint-000000200"));
    assert_eq!(store.latest().unwrap(), Some(path.clone()));
    let checkpoint = store.load(200).unwrap();
    assert_eq!((checkpoint.step(), checkpoint.keep(), checkpoint.state()), (200, false, &state));
    for (name, array) in tensors(1.5) {
        assert_eq!(checkpoint.read(&name).unwrap(), array, "{name}");
    }
    // The general way in shows parameters only, for the checkpoint and for the run.
    for path in [path.as_path(), dir.path()] {
        let reader = open(path).unwrap();
        assert_eq!(reader.names(), ["w"]);
        assert_eq!(reader.read("w").unwrap(), tensors(1.5)[1].1);
    }
}

#[test]
fn only_the_last_and_the_kept_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for step in [50, 100, 150, 200, 250] {
        save(&store, step, step % 100 == 0);
    }
    assert_eq!(store.steps().unwrap(), [100, 200, 250]);
    assert_eq!(fs::read_to_string(dir.path().join(LAST)).unwrap(), "checkpoint-000000250");
    assert_eq!(latest_step(&store), 250);
    let others = ["checkpoint-7", "checkpoint-000000300-mine", "metrics.jsonl"];
    others.iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
    save(&store, 300, false);
    assert_eq!(store.steps().unwrap(), [100, 200, 300]);
    assert!(others.iter().all(|name| dir.path().join(name).is_dir()));
}

#[test]
fn the_best_one_stays_until_there_is_a_better_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.best().unwrap().is_none());
    assert!(store.set_best(1).unwrap_err().to_string().contains("checkpoint-000000001"));
    for step in 1..=6 {
        save(&store, step, step == 3);
        if [2, 3, 5].contains(&step) {
            store.set_best(step).unwrap();
        }
    }
    let expected = ["BEST", "LAST", "checkpoint-000000003", "checkpoint-000000005", "checkpoint-000000006"];
    assert_eq!(names(dir.path()), expected);
    assert_eq!(open(dir.path().join("BEST")).unwrap().read("w").unwrap().to_f64(), [5.0; 6]);
    // It may also be the last one, and saved once more.
    store.set_best(6).unwrap();
    save(&store, 6, false);
    assert_eq!(names(dir.path()), ["BEST", "LAST", "checkpoint-000000003", "checkpoint-000000006"]);
    // With a pointer that says nothing, nothing is removed.
    fs::write(dir.path().join("BEST"), "?").unwrap();
    save(&store, 7, false);
    assert_eq!(store.steps().unwrap(), [3, 6, 7]);
}

#[test]
fn a_crash_at_any_moment_leaves_a_loadable_checkpoint() {
    // How far the save of step 200 gets, and which checkpoint is found at the next start.
    for (reached, expected) in [(0, 100), (1, 100), (2, 100), (3, 200)] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        save(&store, 100, false);
        if reached == 0 {
            // Within writing: a shard is there, the manifest is not.
            store.write_aside(None, 200, tensors(200.0), json!({}), false).unwrap();
            fs::remove_file(store.directory(200, TMP).join(MANIFEST)).unwrap();
            std::mem::forget(PendingFile::create(&dir.path().join(LAST)).unwrap());
            assert!(names(dir.path()).iter().any(|name| name.ends_with(".tmp")));
        }
        if reached >= 1 {
            store.write_aside(None, 200, tensors(200.0), json!({}), false).unwrap();
        }
        if reached >= 2 {
            store.publish(200).unwrap();
        }
        if reached >= 3 {
            store.point_at(200).unwrap();
        }
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(latest_step(&store), expected, "reached {reached}");
        assert!(!names(dir.path()).iter().any(|name| name.ends_with("tmp")), "{:?}", names(dir.path()));
        // The run goes on and saves the same step again.
        save(&store, 200, false);
        assert_eq!(names(dir.path()), ["LAST", "checkpoint-000000200"]);
        assert_eq!(latest_step(&store), 200);
    }
}

#[test]
fn a_crash_while_a_step_is_saved_again_loses_neither() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    save(&store, 100, false);
    // Between the two renames of `publish`.
    store.write_aside(None, 100, tensors(100.0), json!({ "again": true }), false).unwrap();
    rename(&store.directory(100, ""), &store.directory(100, OLD)).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(latest_step(&store), 100);
    assert_eq!(names(dir.path()), ["LAST", "checkpoint-000000100"]);
    // After both, before the old one is removed.
    fs::create_dir(store.directory(100, OLD)).unwrap();
    store.save(100, tensors(100.0), json!({ "again": true }), false).unwrap();
    fs::create_dir(store.directory(100, OLD)).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load(100).unwrap().state(), &json!({ "again": true }));
    assert_eq!(names(dir.path()), ["LAST", "checkpoint-000000100"]);
}

#[test]
fn a_crash_while_pruning_leaves_no_incomplete_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    save(&store, 100, true);
    save(&store, 200, false);
    rename(&store.directory(100, ""), &store.directory(100, TMP)).unwrap();
    fs::remove_file(store.directory(100, TMP).join(MANIFEST)).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.steps().unwrap(), [200]);
}

#[test]
fn damage_is_named_and_an_older_checkpoint_is_used() {
    type Damage = fn(&Path, &Path);
    let damages: [(Damage, &str); 6] = [
        (|_, shard| fs::remove_file(shard).unwrap(), "cannot open"),
        (|_, shard| cut(shard), "is truncated or overwritten: it has"),
        (|_, shard| flip(shard), "is damaged: its blake3 digest is"),
        (|dir, _| fs::remove_file(dir.join(MANIFEST)).unwrap(), "has no manifest.json"),
        (|dir, _| cut(&dir.join(MANIFEST)), "is not a manifest of a training checkpoint"),
        (
            |dir, _| edit(&dir.join(MANIFEST), "\"params/w\"", "\"params/v\""),
            "disagree about tensor \"params/v\"",
        ),
    ];
    for (damage, expected) in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        save(&store, 100, true);
        save(&store, 200, true);
        damage(&store.directory(200, ""), &shard(dir.path(), 200));
        let latest = store.load_latest().unwrap().unwrap();
        assert_eq!(latest.checkpoint.step(), 100);
        let [(path, error)] = latest.skipped.as_slice() else { panic!("{:?}", latest.skipped) };
        assert_eq!(*path, store.directory(200, ""));
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains("checkpoint-000000200"), "{error}");

        damage(&store.directory(100, ""), &shard(dir.path(), 100));
        let error = store.load_latest().err().expect("nothing is intact").to_string();
        assert!(error.starts_with("no checkpoint in") && error.matches(expected).count() == 2, "{error}");
        // The run can go on from here, and what cannot be read is not removed.
        save(&store, 300, false);
        assert_eq!(latest_step(&store), 300);
    }
}

#[test]
fn a_broken_pointer_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    save(&store, 100, true);
    save(&store, 200, true);
    for pointer in ["checkpoint-000000150", "../elsewhere", ""] {
        fs::write(dir.path().join(LAST), pointer).unwrap();
        assert_eq!(latest_step(&store), 200, "{pointer:?}");
    }
    fs::remove_file(dir.path().join(LAST)).unwrap();
    assert_eq!(latest_step(&store), 200);
}

#[test]
fn a_manifest_of_the_future_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    save(&store, 1, false);
    edit(&store.directory(1, "").join(MANIFEST), "\"version\": 1", "\"version\": 3");
    let error = store.load(1).err().unwrap().to_string();
    assert!(error.ends_with("reads \"paligemma-checkpoint\" up to version 2"), "{error}");
}

#[test]
fn a_failed_save_leaves_nothing_and_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    save(&store, 100, false);
    let twice = [tensors(1.0), tensors(2.0)].concat();
    let error = store.save(200, twice, json!({}), false).unwrap_err();
    assert!(error.to_string().starts_with("tensor \"opt/count\" occurs twice"), "{error}");
    assert_eq!(names(dir.path()), ["LAST", "checkpoint-000000100"]);
    assert_eq!(latest_step(&store), 100);
}

#[test]
fn a_workdir_belongs_to_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("is in use by another run"), "{error}");
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn large_states_are_split_over_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.shard_bytes = 20;
    let arrays: Vec<_> = [3usize, 4, 1, 9, 2]
        .iter()
        .enumerate()
        .map(|(i, &len)| (format!("t{i}"), HostArray::new([len], &vec![i as f32; len]).unwrap()))
        .collect();
    let path = store.save(7, arrays.clone(), json!(null), false).unwrap();
    // 12 | 16 + 4 | 36 (larger than a shard) | 8 bytes.
    assert_eq!(names(&path).len(), 1 + 4);
    let checkpoint = store.load(7).unwrap();
    for (name, array) in arrays {
        assert_eq!(checkpoint.read(&name).unwrap(), array);
    }
    let empty = store.save(8, vec![], json!(null), false).unwrap();
    assert!(Checkpoint::open(&empty).unwrap().names().is_empty());
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 3]).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_arrays_survive(
        shapes in prop::collection::btree_map("[a-z]{1,3}(/[a-z]{1,3}){0,2}", (0..DType::ALL.len(), prop::collection::vec(0usize..4, 0..4)), 0..6),
        shard_bytes in 1u64..64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.shard_bytes = shard_bytes;
        let arrays: Vec<(String, HostArray)> = shapes
            .into_iter()
            .map(|(name, (dtype, dims))| {
                let shape = Shape::new(DType::ALL[dtype], dims);
                let bytes: Vec<u8> = (0..shape.num_bytes()).map(|i| i as u8).collect();
                (name, HostArray::from_bytes(shape, &bytes).unwrap())
            })
            .collect();
        store.save(1, arrays.clone(), json!({}), false).unwrap();
        let checkpoint = store.load(1).unwrap();
        prop_assert_eq!(checkpoint.names().len(), arrays.len());
        for (name, array) in arrays {
            prop_assert!(checkpoint.read(&name).unwrap() == array);
        }
    }
}
