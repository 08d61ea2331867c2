use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Error, Row, Source, file_name, fingerprint, list, out_of_range, read_file};
use crate::data::Value;

/// Endings of picture files that are looked for in folders.
pub(super) const EXTENSIONS: &[&str] = &["png", "jpg", "jpeg", "webp", "gif", "bmp"];

/// One folder per class with images in it: `train/<label>/*.png`.
///
/// Rows come sorted by class, then by path. Each has `id` (its number, as text), `image` (the encoded bytes),
/// `label` (the folder's name) and `label_index` (the folder's rank). Hidden files and files that are no
/// images are passed over; folders within a class belong to that class.
#[derive(Debug)]
pub struct ImageFolder {
    root: PathBuf,
    classes: Vec<String>,
    /// Rank of the class, and the file.
    files: Vec<(usize, PathBuf)>,
}

impl ImageFolder {
    /// # Errors
    /// When the folder cannot be listed or holds no images.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let root = root.into();
        let (mut classes, mut files) = (Vec::new(), Vec::new());
        for folder in list(&root)?.into_iter().filter(|path| path.is_dir()) {
            let mut images = Vec::new();
            collect_images(&folder, &mut images)?;
            if !images.is_empty() {
                files.extend(images.into_iter().map(|file| (classes.len(), file)));
                classes.push(file_name(&folder).into_owned());
            }
        }
        if files.is_empty() {
            return Err(Error::NoImages { path: root, extensions: EXTENSIONS });
        }
        Ok(ImageFolder { root, classes, files })
    }

    /// Leaves only the rows from `start` up to, but not with, `stop`; `None` or 0 is the end, as for JSON lines.
    /// Classes keep their ranks, rows are numbered anew.
    pub fn between(mut self, start: usize, stop: Option<usize>) -> Self {
        self.files.truncate(stop.filter(|&stop| stop > 0).unwrap_or(usize::MAX));
        self.files.drain(..start.min(self.files.len()));
        self
    }

    /// Class names in the order of `label_index`.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The file of row `index`.
    pub fn path(&self, index: usize) -> Option<&Path> {
        self.files.get(index).map(|(_, path)| path.as_path())
    }
}

impl Source for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let (class, path) = self.files.get(index).ok_or_else(|| out_of_range(self, index))?;
        Ok(Row::from([
            ("id".to_owned(), Value::Str(index.to_string())),
            ("image".to_owned(), Value::Bytes(read_file(path)?)),
            ("label".to_owned(), Value::Str(self.classes[*class].clone())),
            ("label_index".to_owned(), Value::Int(*class as i64)),
        ]))
    }

    fn describe(&self) -> String {
        let (rows, classes) = (self.files.len(), self.classes.len());
        format!("imagefolder {} ({rows} rows, {classes} classes)", self.root.display())
    }

    fn locate(&self, index: usize) -> String {
        self.path(index).unwrap_or(&self.root).display().to_string()
    }

    /// The names of all files below the root; their sizes would take a look at every one.
    fn fingerprint(&self) -> u64 {
        let names = self.files.iter().map(|(_, path)| path.strip_prefix(&self.root).unwrap_or(path));
        fingerprint(names.map(|name| name.as_os_str().as_encoded_bytes()))
    }
}

/// The pictures of a folder and of those in it, in the order of their paths.
pub(super) fn collect_images(folder: &Path, images: &mut Vec<PathBuf>) -> Result<(), Error> {
    for path in list(folder)? {
        if path.is_dir() {
            collect_images(&path, images)?;
        } else if path.extension().is_some_and(is_image) {
            images.push(path);
        }
    }
    Ok(())
}

fn is_image(extension: &OsStr) -> bool {
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_without_class_folders_says_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cat")).unwrap();
        fs::write(dir.path().join("cat/notes.txt"), "no image").unwrap();
        fs::write(dir.path().join("loose.png"), "not in a class").unwrap();
        let message = ImageFolder::open(dir.path()).unwrap_err().to_string();
        assert!(message.ends_with("expected <class>/<file>.{png,jpg,jpeg,webp,gif,bmp}"), "{message}");
        fs::write(dir.path().join("cat/a.PNG"), "bytes").unwrap();
        let source = ImageFolder::open(dir.path()).unwrap();
        assert_eq!(source.classes(), ["cat"]);
        assert_eq!(source.get(0).unwrap()["label"], Value::Str("cat".to_owned()));
        assert!(matches!(source.get(1), Err(Error::OutOfRange { .. })));
    }

    #[test]
    fn a_slice_keeps_the_ranks_of_classes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let rows = |start, stop| {
            let source = ImageFolder::open(dir.path()).unwrap().between(start, stop);
            let row = |index| {
                let row = source.get(index).unwrap();
                format!("{} {} {}", row["id"], row["label_index"], source.locate(index).ends_with("2.png"))
            };
            (0..source.len()).map(row).collect::<Vec<_>>()
        };
        assert_eq!(rows(1, Some(3)), ["0 0 true", "1 1 false"]);
        assert_eq!(rows(3, None), ["0 1 true"]);
        assert_eq!(rows(0, Some(0)).len(), 4);
        assert!(rows(9, Some(7)).is_empty());
    }
}
