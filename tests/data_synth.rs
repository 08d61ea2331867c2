//! Drawn sets as whole folders: what is written can be read back, is repeatable, and is never half there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use paligemma::data::synth::{self, Error, MANIFEST, Options, Task, generate};
use paligemma::data::{ImageFolder, Jsonl, JsonlOptions, Row, Source};
use pretty_assertions::assert_eq;

fn options(task: Task, out: &Path) -> Options {
    let splits = vec![("train".to_owned(), 12), ("val".to_owned(), 6)];
    Options {
        task,
        out: out.join("set"),
        splits,
        seed: 3,
        size_px: 64,
        max_objects: 4,
        loc_grid: None,
        force: false,
    }
}

/// Every file below a folder, with the digest of its content.
fn digests(folder: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, blake3::Hash>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                found.insert(name, blake3::hash(&fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

fn rows(set: &Path, file: &str) -> Vec<Row> {
    let fopen_keys = [("image".to_owned(), set.to_owned())].into();
    let source = Jsonl::open(set.join(file), JsonlOptions { fopen_keys, ..JsonlOptions::default() }).unwrap();
    (0..source.len()).map(|index| source.get(index).unwrap()).collect()
}

fn text<'a>(row: &'a Row, field: &str) -> &'a str {
    row[field].as_str().unwrap()
}

fn decode(row: &Row) -> image::DynamicImage {
    image::load_from_memory(row["image"].as_bytes().unwrap()).unwrap()
}

#[test]
fn intersections_read_as_jsonl_and_as_an_image_folder() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Task::Intersections, dir.path());
    let set = options.out.clone();
    assert_eq!(generate(&options).unwrap(), [set.join("train.jsonl"), set.join("val.jsonl")]);

    let rows = rows(&set, "train.jsonl");
    assert_eq!(rows.len(), 12);
    let mut by_label = BTreeMap::new();
    for row in &rows {
        assert_eq!(text(row, "prefix"), "count intersection");
        assert_eq!(text(row, "suffix"), row["label"].to_string());
        *by_label.entry(text(row, "suffix").to_owned()).or_insert(0) += 1;
        let image = decode(row);
        assert_eq!((image.width(), image.height(), image.color()), (64, 64, image::ColorType::Rgb8));
    }
    assert_eq!(by_label, [("0", 4), ("1", 4), ("2", 4)].map(|(label, n)| (label.to_owned(), n)).into());

    let folder = ImageFolder::open(set.join("train")).unwrap();
    assert_eq!((folder.len(), folder.classes()), (12, &["0", "1", "2"].map(str::to_owned)[..]));
    for index in 0..folder.len() {
        let row = folder.get(index).unwrap();
        let same = rows.iter().find(|other| other["image"] == row["image"]).unwrap();
        assert_eq!(text(same, "suffix"), text(&row, "label"));
    }
}

#[test]
fn scenes_have_rows_for_three_tasks_about_the_same_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Task::Scenes, dir.path());
    assert_eq!(generate(&options).unwrap().len(), 6);
    let [captions, detections, counts] =
        ["caption", "detect", "count"].map(|task| rows(&options.out, &format!("{task}_val.jsonl")));
    assert_eq!(captions.len(), 6);
    for ((caption, detection), count) in captions.iter().zip(&detections).zip(&counts) {
        assert_eq!(caption["image"], detection["image"]);
        assert_eq!(caption["image"], count["image"]);
        assert_eq!(text(caption, "prefix"), "caption en");
        let names: Vec<&str> =
            text(detection, "prefix").strip_prefix("detect ").unwrap().split(" ; ").collect();
        for name in names {
            assert!(text(caption, "suffix").contains(name));
            assert!(text(detection, "suffix").contains(&format!("> {name}")));
        }
        assert!(text(count, "prefix").starts_with("count "));
        assert!(text(count, "suffix").parse::<u32>().unwrap() <= 4);
    }
}

/// Seeds name sets that others can draw again: these captions must not change with a release.
#[test]
fn a_seed_always_draws_the_same_scenes() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Task::Scenes, dir.path());
    generate(&options).unwrap();
    let captions = rows(&options.out, "caption_val.jsonl");
    let captions: Vec<&str> = captions.iter().map(|row| text(row, "suffix")).collect();
    assert_eq!(
        captions,
        [
            "a large yellow triangle left of a large purple triangle",
            "a small orange triangle",
            "a large blue cross, a small blue cross and a small blue cross",
            "a small purple cross, a small green cross and a small purple cross",
            "a large purple cross left of a small red cross",
            "a large orange square left of a small red square",
        ]
    );
}

#[test]
fn sets_depend_on_the_seed_and_not_on_the_threads() {
    for task in [Task::Intersections, Task::Scenes] {
        let draw = |threads, seed| {
            let dir = tempfile::tempdir().unwrap();
            let options = Options { seed, ..options(task, dir.path()) };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| generate(&options)).unwrap();
            digests(&options.out)
        };
        let one = draw(1, 3);
        assert_eq!(one, draw(5, 3));
        let other = draw(2, 4);
        let pictures = |set: &BTreeMap<PathBuf, blake3::Hash>| {
            let pictures = set.iter().filter(|(path, _)| path.extension().is_some_and(|ext| ext == "png"));
            pictures.map(|(_, digest)| *digest.as_bytes()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(pictures(&one).len(), 18);
        assert!(pictures(&one).is_disjoint(&pictures(&other)));
    }
}

#[test]
fn adding_a_split_leaves_the_others_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let alone =
        Options { splits: vec![("val".to_owned(), 6)], ..options(Task::Scenes, &dir.path().join("a")) };
    let both = options(Task::Scenes, &dir.path().join("b"));
    generate(&alone).unwrap();
    generate(&both).unwrap();
    assert_eq!(digests(&alone.out.join("val")), digests(&both.out.join("val")));
}

#[test]
fn only_sets_of_our_own_are_replaced_and_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(Task::Intersections, dir.path());
    fs::create_dir(&options.out).unwrap();
    fs::write(options.out.join("thesis.txt"), "precious").unwrap();
    assert!(matches!(generate(&options), Err(Error::NotEmpty { .. })));
    options.force = true;
    assert!(matches!(generate(&options), Err(Error::NotOurs { .. })));
    assert_eq!(fs::read(options.out.join("thesis.txt")).unwrap(), b"precious");

    fs::remove_file(options.out.join("thesis.txt")).unwrap();
    options.force = false;
    generate(&options).unwrap();
    assert!(matches!(generate(&options), Err(Error::NotEmpty { .. })));
    options.force = true;
    options.splits.pop();
    generate(&options).unwrap();
    assert!(!options.out.join("val.jsonl").exists());
    assert!(options.out.join(MANIFEST).is_file());
    // Nothing is left beside the set.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn options_that_make_no_sense_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let base = options(Task::Scenes, dir.path());
    let split = |name: &str, n| vec![("train".to_owned(), 3), (name.to_owned(), n)];
    let cases = [
        (Options { size_px: 8, ..base.clone() }, "a size of 8 pixels is not between 48 and 2048"),
        (Options { splits: vec![], ..base.clone() }, "no splits to draw"),
        (Options { splits: split("val", 0), ..base.clone() }, "split val has no pictures"),
        (Options { splits: split("train", 3), ..base.clone() }, "split train is given twice"),
        (
            Options { splits: split("../val", 3), ..base },
            "split name \"../val\" is not made of letters, digits, _ and -",
        ),
    ];
    for (options, message) in cases {
        let error: synth::Error = generate(&options).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
