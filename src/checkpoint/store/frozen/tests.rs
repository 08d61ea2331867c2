use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use indexmap::IndexMap;
use serde_json::json;

use super::*;
use crate::array::{DType, HostArray};
use crate::checkpoint::store::{LAST, MANIFEST, Store};
use crate::checkpoint::{locate, npz, open};

/// Tensors in memory, which count how often they are read.
struct Counted {
    arrays: IndexMap<String, HostArray>,
    reads: Arc<AtomicUsize>,
}

impl Reader for Counted {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn names(&self) -> Vec<&str> {
        self.arrays.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.arrays.get(name).map(HostArray::shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        out.copy_from_slice(self.arrays[name].bytes());
        Ok(())
    }
}

fn array(dims: &[usize], first: f32) -> HostArray {
    let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| first + i as f32 / 3.0).collect();
    HostArray::new(dims, &values).unwrap()
}

/// Two frozen parameters, in types of their own, and the number of their reads.
fn frozen() -> (Frozen, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let arrays = [
        ("params/img/w".to_owned(), array(&[4, 3], 1.0)),
        ("params/llm/w".to_owned(), array(&[5], 2.0).cast(DType::BF16)),
    ];
    (Frozen::new(Box::new(Counted { arrays: arrays.into(), reads: reads.clone() })), reads)
}

fn save(store: &Store, frozen: &mut Frozen, step: u64, keep: bool) -> PathBuf {
    let changing = vec![("params/llm/t".to_owned(), array(&[2], step as f32))];
    store.save_with(Some(frozen), step, changing, json!({}), keep).unwrap()
}

fn assert_complete(path: &Path) {
    let checkpoint = Checkpoint::open(path).unwrap();
    let step = checkpoint.step() as f32;
    assert_eq!(checkpoint.read("params/img/w").unwrap(), array(&[4, 3], 1.0));
    assert_eq!(checkpoint.read("params/llm/w").unwrap(), array(&[5], 2.0).cast(DType::BF16));
    assert_eq!(checkpoint.read("params/llm/t").unwrap(), array(&[2], step));
    let params = open(path).unwrap();
    let mut names = params.names();
    names.sort_unstable();
    assert_eq!(names, ["img/w", "llm/t", "llm/w"]);
    for name in names {
        let mut bytes = vec![0; params.shape(name).unwrap().num_bytes()];
        params.read_into(name, &mut bytes).unwrap();
        assert_eq!(params.read(name).unwrap().bytes(), bytes);
    }
}

const FILE: &str = "frozen-00001-of-00001.safetensors";

#[cfg(unix)]
fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

#[cfg(unix)]
#[test]
fn what_does_not_change_is_written_once_and_outlives_every_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (mut frozen, reads) = frozen();
    let paths = [1, 2, 3].map(|step| save(&store, &mut frozen, step, step == 1));
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    assert_eq!(store.steps().unwrap(), [1, 3]);
    assert_eq!(inode(&paths[0].join(FILE)), inode(&paths[2].join(FILE)));
    assert_complete(&paths[0]);
    fs::remove_dir_all(&paths[0]).unwrap();
    assert_complete(&paths[2]);

    // A run that goes on links what it finds.
    let (other, reads) = super::tests::frozen();
    let mut resumed = other.resumed_from(&store.load(3).unwrap());
    let fourth = save(&store, &mut resumed, 4, true);
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    assert_complete(&fourth);
    // Somebody has removed the last checkpoint, cut its file, or changed what is frozen: written anew.
    fs::remove_dir_all(&fourth).unwrap();
    assert_complete(&save(&store, &mut resumed, 5, true));
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    let cut = store.workdir().join("checkpoint-000000005").join(FILE);
    fs::write(&cut, &fs::read(&cut).unwrap()[1..]).unwrap();
    assert_complete(&save(&store, &mut resumed, 6, true));
    assert_eq!(reads.load(Ordering::Relaxed), 4);
    let fewer = Counted { arrays: [("params/img/w".into(), array(&[4, 3], 1.0))].into(), reads };
    let fewer = Frozen::new(Box::new(fewer)).resumed_from(&store.load(6).unwrap());
    assert!(fewer.written.is_none());
}

#[test]
fn where_links_are_impossible_files_are_copied() {
    // Two file systems have no links between them.
    let (Ok(memory), disk) = (tempfile::tempdir_in("/dev/shm"), tempfile::tempdir().unwrap()) else { return };
    let (mut frozen, reads) = frozen();
    save(&Store::open(memory.path()).unwrap(), &mut frozen, 1, true);
    assert_complete(&save(&Store::open(disk.path()).unwrap(), &mut frozen, 2, true));
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[test]
fn a_failed_save_spoils_neither_the_last_nor_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (mut frozen, _) = frozen();
    for step in [2, 4] {
        let twice = vec![("params/img/w".to_owned(), array(&[1], 0.0))];
        let error = store.save_with(Some(&mut frozen), step - 1, twice, json!({}), false).unwrap_err();
        assert!(error.to_string().starts_with("tensor \"params/img/w\" occurs twice"), "{error}");
        // A crash after the files were placed, and the next start.
        store.write_aside(Some(&mut frozen), step - 1, vec![], json!({}), false).unwrap();
        store.clean_up().unwrap();
        assert_complete(&save(&store, &mut frozen, step, false));
        assert_eq!(store.steps().unwrap(), [step]);
    }
}

/// A base with one parameter as the run has it, one more exact than it, and one that the run started anew.
fn base(dir: &Path) -> PathBuf {
    let path = dir.join("base.npz");
    write_base(
        &path,
        &[("img/w", array(&[4, 3], 1.0)), ("llm/w", array(&[5], 2.0)), ("llm/t", array(&[2], 9.0))],
    );
    path
}

fn write_base(path: &Path, arrays: &[(&str, HostArray)]) {
    let mut writer = npz::Writer::create(path).unwrap();
    arrays.iter().for_each(|(name, array)| writer.write(name, array).unwrap());
    writer.finish().unwrap();
}

fn whole(path: &Path) -> Vec<BaseFile> {
    vec![BaseFile { path: locate(path).unwrap(), tower: None }]
}

#[test]
fn a_checkpoint_without_frozen_parameters_reads_them_from_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let path = base(dir.path());
    let store = Store::open(&dir.path().join("run")).unwrap();
    let (all, reads) = frozen();
    let mut frozen = all.left_to(whole(&path));
    let first = save(&store, &mut frozen, 1, true);
    let second = save(&store, &mut frozen, 2, true);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    assert!(!first.join(FILE).exists());
    [first, second.clone()].iter().for_each(|path| assert_complete(path));
    assert!(fs::read_to_string(second.join(MANIFEST)).unwrap().contains("\"version\": 2"));
    // A run that goes on keeps the base, and a run from there may have it as its own.
    let (all, reads) = super::tests::frozen();
    let mut frozen = all.left_to(whole(&path)).resumed_from(&store.load(2).unwrap());
    assert_complete(&save(&store, &mut frozen, 3, true));
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    let (all, _) = super::tests::frozen();
    let mut frozen = all.left_to(whole(store.workdir()));
    let later = Store::open(&dir.path().join("later")).unwrap();
    let third = save(&later, &mut frozen, 4, true);
    assert_eq!(later.load(4).unwrap().base()[0].path, store.workdir().join("checkpoint-000000003"));
    assert_complete(&third);
}

#[test]
fn what_the_base_lacks_is_in_the_checkpoint_and_towers_may_lie_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (img, llm) = (dir.path().join("img.npz"), dir.path().join("llm.npz"));
    write_base(&img, &[("w", array(&[4, 3], 1.0))]);
    // Another value and another shape: not what the run has.
    for odd in [array(&[5], 2.5), array(&[5, 1], 2.0)] {
        write_base(&llm, &[("w", odd)]);
        let store = Store::open(&dir.path().join("run")).unwrap();
        let file = |path: &Path, tower: &str| BaseFile { path: path.to_owned(), tower: Some(tower.into()) };
        let mut frozen = frozen().0.left_to(vec![file(&img, "img"), file(&llm, "llm")]);
        let path = save(&store, &mut frozen, 1, true);
        assert!(path.join(FILE).exists());
        let left = store.load(1).unwrap().manifest().base.clone().unwrap();
        assert_eq!(left.tensors.iter().map(|tensor| &tensor.name).collect::<Vec<_>>(), ["params/img/w"]);
        assert_complete(&path);
    }
    // A base that is gone before the first checkpoint costs room, not the checkpoint.
    fs::remove_file(&img).unwrap();
    let store = Store::open(&dir.path().join("other")).unwrap();
    let mut frozen = frozen().0.left_to(whole(&img));
    assert_complete(&save(&store, &mut frozen, 1, true));
}

#[test]
fn a_base_that_is_missing_or_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = base(dir.path());
    let store = Store::open(&dir.path().join("run")).unwrap();
    let mut frozen = frozen().0.left_to(whole(&path));
    let checkpoint = save(&store, &mut frozen, 1, true);
    save(&store, &mut frozen, 2, true);

    // One value: only its digest tells.
    write_base(&path, &[("img/w", array(&[4, 3], 1.1)), ("llm/w", array(&[5], 2.0))]);
    let opened = store.load(1).unwrap();
    let error = opened.read("params/img/w").unwrap_err();
    assert!(error.is_of_base());
    let expected = "leaves parameter \"params/img/w\" to ";
    assert!(error.to_string().contains(expected), "{error}");
    assert!(error.to_string().contains("base.npz, which no longer has it as it was"), "{error}");
    assert!(opened.borrow("params/img/w").unwrap().is_none());
    opened.read("params/llm/w").unwrap();
    // A tensor that is gone or of another shape is told when it is opened.
    for odd in
        [vec![("llm/w", array(&[5], 2.0))], vec![("img/w", array(&[3, 4], 1.0)), ("llm/w", array(&[5], 2.0))]]
    {
        write_base(&path, &odd);
        let error = store.load(1).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    // Older checkpoints would not do better.
    fs::remove_file(&path).unwrap();
    let error = store.load_latest().err().unwrap();
    assert!(matches!(error, Error::BaseUnreadable { .. }), "{error}");
    assert!(error.to_string().contains("checkpoint-000000002 leaves frozen parameters to "), "{error}");
    // The remedy that it tells.
    let moved = dir.path().join("moved.npz");
    base(dir.path());
    fs::rename(&path, &moved).unwrap();
    let manifest = checkpoint.join(MANIFEST);
    let text = fs::read_to_string(&manifest).unwrap().replace("base.npz", "moved.npz");
    fs::write(&manifest, text).unwrap();
    assert_complete(&checkpoint);
}

#[test]
fn a_checkpoint_that_is_its_own_base_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = base(dir.path());
    let store = Store::open(&dir.path().join("run")).unwrap();
    let checkpoint = save(&store, &mut frozen().0.left_to(whole(&path)), 1, true);
    let manifest = checkpoint.join(MANIFEST);
    let text = fs::read_to_string(&manifest).unwrap();
    let own = text.replace(path.to_str().unwrap(), checkpoint.to_str().unwrap());
    fs::write(&manifest, own).unwrap();
    let error = open(&checkpoint).err().unwrap();
    assert!(error.to_string().ends_with("a chain of more than 8 checkpoints, or to itself"), "{error}");
    // And so is one that has a tensor which it leaves to its base.
    fs::write(&manifest, text.replace("params/img/w", "params/llm/t")).unwrap();
    let error = open(&checkpoint).err().unwrap();
    assert!(error.to_string().contains("\"params/llm/t\""), "{error}");
    assert!(store.workdir().join(LAST).is_file());
}
