use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Annotated, Annotations, Error, ImageFile, Object, image_extent, out_of_range, stated_extent};

/// COCO's instances or captions JSON, with the folder of its pictures.
///
/// The file is parsed as a stream and only what is needed is kept: about 70 bytes for each object. A picture
/// without a stated size has it read from its file.
#[derive(Debug)]
pub struct Coco {
    path: PathBuf,
    folder: PathBuf,
    images: Vec<Image>,
    /// Of all pictures, in their order; `Image::marks` are ranges in it.
    marks: Vec<Mark>,
    classes: Vec<String>,
}

#[derive(Debug)]
struct Image {
    entry: ImageEntry,
    marks: Range<usize>,
}

#[derive(Debug)]
enum Mark {
    Object { xywh: [f64; 4], class: u32, is_crowd: bool },
    Caption(String),
}

#[derive(Deserialize)]
struct Document {
    images: Vec<ImageEntry>,
    #[serde(default)]
    annotations: Vec<AnnotationEntry>,
    #[serde(default)]
    categories: Vec<CategoryEntry>,
}

#[derive(Debug, Deserialize)]
struct ImageEntry {
    id: i64,
    file_name: String,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Deserialize)]
struct AnnotationEntry {
    id: Option<i64>,
    image_id: i64,
    category_id: Option<i64>,
    bbox: Option<[f64; 4]>,
    iscrowd: Option<Flag>,
    caption: Option<String>,
}

#[derive(Deserialize)]
struct CategoryEntry {
    id: i64,
    name: String,
}

/// Exporters write 0 and 1 as well as false and true.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Number(f64),
}

impl Flag {
    fn is_set(self) -> bool {
        match self {
            Flag::Bool(flag) => flag,
            Flag::Number(number) => number != 0.0,
        }
    }
}

impl Coco {
    /// `path` is the JSON file, or a folder with one in it or in its `annotations`. Without `images`, the
    /// pictures are looked for beside the file and in the folders that sets usually have.
    ///
    /// # Errors
    /// When the file cannot be read, or an annotation names a picture or category that is not in it.
    pub fn open(path: impl Into<PathBuf>, images: Option<PathBuf>) -> Result<Self, Error> {
        let path = find_json(path.into())?;
        let document = parse(&path)?;
        let first = document.images.first().map_or("", |image| image.file_name.as_str());
        let folder = match images {
            Some(folder) => folder,
            None => find_images(&path, first)?,
        };
        index(path, folder, document)
    }
}

impl Annotations for Coco {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn annotated(&self, index: usize) -> Result<Annotated, Error> {
        let Image { entry, marks } = self.images.get(index).ok_or_else(|| out_of_range(self, index))?;
        let path = self.folder.join(&entry.file_name);
        let extent = match stated_extent(entry.height, entry.width) {
            Some(extent) => extent,
            None => image_extent(&path, || self.locate(index))?,
        };
        let (mut objects, mut captions) = (Vec::new(), Vec::new());
        for mark in &self.marks[marks.clone()] {
            match mark {
                Mark::Caption(text) => captions.push(text.clone()),
                &Mark::Object { xywh: [x, y, width, height], class, is_crowd } => objects.push(Object {
                    corners: [y, x, y + height, x + width],
                    label: self.classes[class as usize].clone(),
                    is_difficult: is_crowd,
                }),
            }
        }
        let id = entry.id.to_string();
        Ok(Annotated { id, extent, objects, captions, ..Annotated::new(ImageFile::Path(path)) })
    }

    fn name(&self, index: usize) -> String {
        self.images.get(index).map_or_else(String::new, |image| image.entry.file_name.clone())
    }

    fn describe(&self) -> String {
        let (rows, classes) = (self.images.len(), self.classes.len());
        format!("coco {} ({rows} images, {classes} classes)", self.path.display())
    }

    fn locate(&self, index: usize) -> String {
        let id = self.images.get(index).map_or(0, |image| image.entry.id);
        format!("{} (image id {id})", self.path.display())
    }
}

fn parse(path: &Path) -> Result<Document, Error> {
    let file =
        File::open(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    serde_json::from_reader(BufReader::with_capacity(1 << 18, file)).map_err(|error| {
        let text = error.to_string();
        let problem = text.split(" at line ").next().unwrap_or(&text);
        let problem = format!("not COCO's JSON: {problem} (column {})", error.column());
        Error::BadLine { path: path.to_owned(), line: error.line() as u64, problem }
    })
}

/// Sorts annotations by picture and checks what they refer to.
fn index(path: PathBuf, folder: PathBuf, document: Document) -> Result<Coco, Error> {
    let bad = |what: String, problem: String| Error::BadAnnotation { path: path.clone(), what, problem };
    let mut classes = Vec::with_capacity(document.categories.len());
    let mut class_of = HashMap::new();
    for category in document.categories {
        if class_of.insert(category.id, classes.len() as u32).is_some() {
            return Err(bad(format!("category {}", category.id), "the id is there twice".to_owned()));
        }
        classes.push(category.name);
    }
    let mut image_of = HashMap::with_capacity(document.images.len());
    for (number, image) in document.images.iter().enumerate() {
        if image_of.insert(image.id, number).is_some() {
            return Err(bad(format!("image {}", image.id), "the id is there twice".to_owned()));
        }
    }
    let mut marks: Vec<(usize, Mark)> = Vec::with_capacity(document.annotations.len());
    for (number, entry) in document.annotations.into_iter().enumerate() {
        let what = || match entry.id {
            Some(id) => format!("annotation {id}"),
            None => format!("annotation number {number}"),
        };
        let Some(&image) = image_of.get(&entry.image_id) else {
            return Err(bad(what(), format!("there is no image with id {}", entry.image_id)));
        };
        if let Some(xywh) = entry.bbox {
            let Some(id) = entry.category_id else {
                return Err(bad(what(), "it has a bbox but no category_id".to_owned()));
            };
            let Some(&class) = class_of.get(&id) else {
                let problem = format!("there is no category with id {id}, only {}", ids(class_of.keys()));
                return Err(bad(what(), problem));
            };
            if xywh.iter().any(|v| !v.is_finite()) {
                return Err(bad(what(), format!("bbox {xywh:?} is no box")));
            }
            let is_crowd = entry.iscrowd.is_some_and(Flag::is_set);
            marks.push((image, Mark::Object { xywh, class, is_crowd }));
        }
        marks.extend(entry.caption.map(|caption| (image, Mark::Caption(caption))));
    }
    // Stable: the objects of a picture keep their order.
    marks.sort_by_key(|(image, _)| *image);
    let mut ends = vec![0; document.images.len()];
    marks.iter().for_each(|(image, _)| ends[*image] += 1);
    let mut start = 0;
    let images = document.images.into_iter().zip(ends).map(|(entry, count)| {
        let marks = start..start + count;
        start = marks.end;
        Image { entry, marks }
    });
    let images = images.collect();
    let marks = marks.into_iter().map(|(_, mark)| mark).collect();
    Ok(Coco { path, folder, images, marks, classes })
}

fn ids<'a>(ids: impl Iterator<Item = &'a i64>) -> String {
    const SHOWN: usize = 12;
    let mut ids: Vec<i64> = ids.copied().collect();
    ids.sort_unstable();
    let more = if ids.len() > SHOWN { ", …" } else { "" };
    let ids: Vec<String> = ids.iter().take(SHOWN).map(i64::to_string).collect();
    if ids.is_empty() { "none at all".to_owned() } else { format!("{}{more}", ids.join(", ")) }
}

/// The JSON file itself, or the only one in a folder or in its `annotations`.
fn find_json(path: PathBuf) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return Ok(path);
    }
    for folder in [path.join("annotations"), path.clone()] {
        if !folder.is_dir() {
            continue;
        }
        let mut files = super::list(&folder)?;
        files.retain(|file| file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")));
        match files.as_slice() {
            [] => {}
            [file] => return Ok(file.clone()),
            files => {
                let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                let problem = format!("there are several JSON files, name one of them: {}", names.join(", "));
                return Err(Error::BadFile { path: folder, problem });
            }
        }
    }
    let problem = "there is no JSON file in it or in its folder annotations".to_owned();
    Err(Error::BadFile { path, problem })
}

/// The folder that has a file called `first`.
fn find_images(path: &Path, first: &str) -> Result<PathBuf, Error> {
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    let above = beside.join("..");
    // `instances_train2017.json` goes with `train2017`.
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let split = stem.rsplit('_').next().unwrap_or(&stem).to_owned();
    let places = [
        beside.clone(),
        beside.join("images"),
        above.join("images"),
        above.join(&split),
        above.join("images").join(&split),
        above,
    ];
    if let Some(folder) = places.iter().find(|folder| folder.join(first).is_file()) {
        return Ok(folder.clone());
    }
    let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
    let problem = format!(
        "its first image {first} is in none of {}: say which folder has the images",
        places.join(", ")
    );
    Err(Error::BadFile { path: path.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pretty_assertions::assert_eq;

    use super::*;

    fn open(json: &str) -> Result<Coco, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), json).unwrap();
        let folder = format!("{}/", dir.path().display());
        Coco::open(dir.path(), Some(dir.path().to_owned()))
            .map_err(|error| error.to_string().replace(&folder, ""))
    }

    const IMAGES: &str = r#""images": [{"id": 5, "file_name": "a.png"}, {"id": 2, "file_name": "b.png", "width": 8, "height": 4}]"#;

    #[test]
    fn annotations_find_their_pictures_in_any_order() {
        let json = format!(
            r#"{{{IMAGES}, "categories": [{{"id": 7, "name": "cat"}}], "annotations": [
                {{"id": 1, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4.5], "segmentation": [[1, 2]]}},
                {{"id": 2, "image_id": 2, "caption": "two cats"}},
                {{"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": true}}]}}"#
        );
        let set = open(&json).unwrap();
        let annotated = set.annotated(1).unwrap();
        assert_eq!((annotated.id.as_str(), annotated.extent), ("2", [4.0, 8.0]));
        let corners: Vec<_> = annotated.objects.iter().map(|o| (o.corners, o.is_difficult)).collect();
        assert_eq!(corners, [([2.0, 1.0, 6.5, 4.0], false), ([0.0, 0.0, 9.0, 9.0], true)]);
        assert_eq!(annotated.captions, ["two cats"]);
        // The first picture has no size, and no file to read it from.
        let message = set.annotated(0).unwrap_err().to_string();
        assert!(message.contains("a.json (image id 5): cannot read image "), "{message}");
        assert!(matches!(set.annotated(2), Err(Error::OutOfRange { index: 2, len: 2, .. })));
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let with =
            |rest: &str| format!("{{{IMAGES}, \"categories\": [{{\"id\": 7, \"name\": \"cat\"}}], {rest}}}");
        let cases = [
            (
                with(r#""annotations": [{"id": 4, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}]"#),
                "a.json: annotation 4: there is no category with id 1, only 7",
            ),
            (
                with(r#""annotations": [{"image_id": 9, "category_id": 7, "bbox": [0, 0, 1, 1]}]"#),
                "a.json: annotation number 0: there is no image with id 9",
            ),
            (
                with(r#""annotations": [{"id": 4, "image_id": 2, "bbox": [0, 0, 1, 1]}]"#),
                "a.json: annotation 4: it has a bbox but no category_id",
            ),
            (
                "{\"images\": [\n{\"id\": 5}]}".to_owned(),
                "a.json:2: not COCO's JSON: missing field `file_name` (column 9)",
            ),
            (
                "{\"images\": [{\"id\": 5, \"file_name\": \"a\"}, {\"id\": 5, \"file_name\": \"b\"}]}"
                    .to_owned(),
                "a.json: image 5: the id is there twice",
            ),
        ];
        for (json, message) in cases {
            assert_eq!(open(&json).unwrap_err(), message);
        }
        let error = Coco::open("no-such.json", None).unwrap_err();
        assert_eq!(error.to_string(), "cannot read no-such.json");
    }
}
