use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{Annotated, Annotations, Error, ImageFile, Object, out_of_range, read_text};

/// YOLO's text files: `data.yaml` names the folders of pictures and the classes, and each picture has a text
/// file with one object per line, `class x y width height` as fractions of the picture, or
/// `class x1 y1 x2 y2 …` with the corners of a polygon.
///
/// Label files are read when their picture is; a picture without one has no objects.
#[derive(Debug)]
pub struct Yolo {
    path: PathBuf,
    split: String,
    images: Vec<PathBuf>,
    classes: Vec<String>,
}

#[derive(Deserialize)]
struct DataYaml {
    path: Option<String>,
    names: Names,
    nc: Option<usize>,
    #[serde(flatten)]
    rest: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Numbered(BTreeMap<usize, String>),
}

/// What else stands in the file: the splits, and keys that do not matter here.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Place(String),
    Places(Vec<String>),
    Other(serde::de::IgnoredAny),
}

impl Yolo {
    /// `path` is `data.yaml` or its folder; `split` one of the file's own (`train`, `val`, `test`).
    ///
    /// # Errors
    /// When the file cannot be read, has no such split, or the split's folder holds no pictures.
    pub fn open(path: impl Into<PathBuf>, split: &str) -> Result<Self, Error> {
        let path = path.into();
        let path = if path.is_dir() { path.join("data.yaml") } else { path };
        let bad = |problem: String| Error::BadFile { path: path.clone(), problem };
        let yaml: DataYaml = serde_yaml::from_str(&read_text(&path)?)
            .map_err(|error| bad(format!("not YOLO's YAML: {error}")))?;
        let classes = class_names(yaml.names).map_err(bad)?;
        if let Some(nc) = yaml.nc.filter(|&nc| nc != classes.len()) {
            return Err(bad(format!("nc is {nc}, but there are {} names", classes.len())));
        }
        let splits = || {
            let named = ["train", "val", "valid", "test"].into_iter().filter(|s| yaml.rest.contains_key(*s));
            named.collect::<Vec<_>>().join(", ")
        };
        // Some exporters say valid.
        let aliases = match split {
            "val" => ["val", "valid"],
            "valid" => ["valid", "val"],
            other => [other, other],
        };
        let places = match aliases.iter().find_map(|name| yaml.rest.get(*name)) {
            Some(Entry::Place(place)) => vec![place.clone()],
            Some(Entry::Places(places)) => places.clone(),
            Some(Entry::Other(_)) => return Err(bad(format!("{split} is not a folder's name"))),
            None => return Err(bad(format!("there is no split {split}, only {}", splits()))),
        };
        let beside = path.parent().unwrap_or(Path::new("")).to_owned();
        let root = beside.join(yaml.path.as_deref().filter(|path| *path != ".").unwrap_or(""));
        let mut images = Vec::new();
        for place in places {
            let found = find(&[&root, &beside], &place);
            let found = found
                .ok_or_else(|| bad(format!("{split} is {place}, which is not in {}", root.display())))?;
            collect(&found, &mut images)?;
        }
        if images.is_empty() {
            return Err(bad(format!("the folders of {split} hold no images")));
        }
        Ok(Yolo { path, split: split.to_owned(), images, classes })
    }
}

impl Annotations for Yolo {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn annotated(&self, index: usize) -> Result<Annotated, Error> {
        let image = self.images.get(index).ok_or_else(|| out_of_range(self, index))?;
        let labels = labels_of(image);
        let text = if labels.is_file() { read_text(&labels)? } else { String::new() };
        let mut objects = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let object = parse_line(line, &self.classes);
            let line = number as u64 + 1;
            objects.push(object.map_err(|problem| Error::BadLine { path: labels.clone(), line, problem })?);
        }
        Ok(Annotated { id: self.name(index), objects, ..Annotated::new(ImageFile::Path(image.clone())) })
    }

    fn name(&self, index: usize) -> String {
        self.images.get(index).map_or_else(String::new, |path| super::file_name(path).into_owned())
    }

    fn describe(&self) -> String {
        let (images, classes) = (self.images.len(), self.classes.len());
        format!("yolo {} {} ({images} images, {classes} classes)", self.path.display(), self.split)
    }

    fn locate(&self, index: usize) -> String {
        self.images.get(index).unwrap_or(&self.path).display().to_string()
    }
}

fn class_names(names: Names) -> Result<Vec<String>, String> {
    match names {
        Names::List(names) => Ok(names),
        Names::Numbered(names) => {
            if let Some((expected, (number, _))) = names.iter().enumerate().find(|(i, (n, _))| i != *n) {
                return Err(format!("names has number {number} where {expected} should be"));
            }
            Ok(names.into_values().collect())
        }
    }
}

fn parse_line(line: &str, classes: &[String]) -> Result<Object, String> {
    let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
    let numbers = numbers.ok().filter(|numbers| numbers.iter().all(|number| number.is_finite()));
    let numbers = numbers.ok_or_else(|| format!("expected numbers, got \"{}\"", line.trim()))?;
    let corners = match numbers.as_slice() {
        &[_, x, y, width, height] => [y - height / 2.0, x - width / 2.0, y + height / 2.0, x + width / 2.0],
        [_, polygon @ ..] if polygon.len() >= 6 && polygon.len().is_multiple_of(2) => {
            let xs = || polygon.iter().step_by(2).copied();
            let ys = || polygon.iter().skip(1).step_by(2).copied();
            [
                ys().fold(f64::INFINITY, f64::min),
                xs().fold(f64::INFINITY, f64::min),
                ys().fold(f64::NEG_INFINITY, f64::max),
                xs().fold(f64::NEG_INFINITY, f64::max),
            ]
        }
        numbers => {
            return Err(format!(
                "expected a class and x y width height, or a class and the corners of a polygon, got {} numbers",
                numbers.len()
            ));
        }
    };
    let class = numbers[0];
    let label = (class >= 0.0 && class.fract() == 0.0).then(|| classes.get(class as usize)).flatten();
    let label = label.ok_or_else(|| format!("class {class} is none of the {} in names", classes.len()))?;
    Ok(Object { corners, label: label.clone(), is_difficult: false })
}

/// `images/train/a.jpg` as `labels/train/a.txt`: the last folder called images is replaced. Where there is
/// none, labels stand beside their pictures.
fn labels_of(image: &Path) -> PathBuf {
    let parts: Vec<Component> = image.components().collect();
    let last = parts.iter().rposition(|part| part.as_os_str() == "images");
    let swapped = parts.iter().enumerate().map(|(i, part)| match part {
        _ if Some(i) == last => Component::Normal("labels".as_ref()),
        part => *part,
    });
    swapped.collect::<PathBuf>().with_extension("txt")
}

/// `place` below one of the roots. Exporters that write `../train/images` mean the file's own folder.
fn find(roots: &[&PathBuf], place: &str) -> Option<PathBuf> {
    let places = [place, place.trim_start_matches("../")];
    let candidates = roots.iter().flat_map(|root| places.map(|place| root.join(place)));
    candidates.into_iter().find(|path| path.exists())
}

/// Pictures of a folder and the folders in it; or those that a text file lists, one per line.
fn collect(place: &Path, images: &mut Vec<PathBuf>) -> Result<(), Error> {
    if place.is_dir() {
        return super::collect_images(place, images);
    }
    let beside = place.parent().unwrap_or(Path::new(""));
    let text = read_text(place)?;
    images.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| beside.join(line)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn lines_are_boxes_or_polygons() {
        let classes = ["cat".to_owned(), "dog".to_owned()];
        let corners = |line: &str| parse_line(line, &classes).map(|object| object.corners);
        assert_eq!(corners("1 0.5 0.25 0.5 0.5"), Ok([0.0, 0.25, 0.5, 0.75]));
        assert_eq!(corners("0 0.1 0.9 0.5 0.2 0.3 0.4"), Ok([0.2, 0.1, 0.9, 0.5]));
        for (line, message) in [
            ("2 0.5 0.5 1 1", "class 2 is none of the 2 in names"),
            ("-1 0.5 0.5 1 1", "class -1 is none of the 2 in names"),
            ("0 0.5 0.5 1 x", "expected numbers, got \"0 0.5 0.5 1 x\""),
            (
                "0 0.5",
                "expected a class and x y width height, or a class and the corners of a polygon, got 2 numbers",
            ),
        ] {
            assert_eq!(corners(line).unwrap_err(), message);
        }
    }

    #[test]
    fn folders_are_found_as_exporters_mean_them() {
        assert_eq!(labels_of(Path::new("images/a/images/b.x.jpg")), Path::new("images/a/labels/b.x.txt"));
        assert_eq!(labels_of(Path::new("train/b.jpg")), Path::new("train/b.txt"));
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("train/images")).unwrap();
        fs::create_dir_all(root.join("train/labels")).unwrap();
        fs::write(root.join("train/images/a.jpg"), "").unwrap();
        fs::write(root.join("train/labels/a.txt"), "0 0.5 0.5 1 1\n\n1 0.5 0.5\n").unwrap();
        let yaml = |text: &str| fs::write(root.join("data.yaml"), text).unwrap();
        yaml("train: ../train/images\nvalid: [nowhere]\nnames: {0: cat, 1: dog}\nroboflow: {version: 3}\n");
        let set = Yolo::open(root, "train").unwrap();
        assert_eq!((set.len(), set.classes().join(" ").as_str()), (1, "cat dog"));
        let message = |error: Error| error.to_string().replace(&format!("{}/", root.display()), "");
        assert_eq!(
            message(set.annotated(0).unwrap_err()),
            "train/labels/a.txt:3: expected a class and x y width height, or a class and the corners of a \
             polygon, got 3 numbers"
        );
        fs::remove_file(root.join("train/labels/a.txt")).unwrap();
        assert_eq!(set.annotated(0).unwrap().objects, []);

        let open = |split: &str| message(Yolo::open(root, split).unwrap_err());
        assert!(open("val").starts_with("data.yaml: val is nowhere, which is not in "));
        assert_eq!(open("test"), "data.yaml: there is no split test, only train, valid");
        yaml("train: train/images\nnc: 3\nnames: [a, b]\n");
        assert_eq!(open("train"), "data.yaml: nc is 3, but there are 2 names");
        yaml("train: train/images\nnames: {0: a, 2: b}\n");
        assert_eq!(open("train"), "data.yaml: names has number 2 where 1 should be");
        yaml("train: [\n");
        assert!(open("train").starts_with("data.yaml: not YOLO's YAML: "));
    }
}
