use std::path::{Path, PathBuf};

use super::{Error, Jsonl, JsonlOptions};

/// Rows as Roboflow exports them for PaliGemma: JSON lines with `image`, `prefix` and `suffix`, the pictures
/// beside them. `path` is the file, or the export's folder, in which `split` is looked for.
///
/// # Errors
/// When there is no such file, or it cannot be read.
pub fn roboflow(path: &Path, split: &str) -> Result<Jsonl, Error> {
    let file = if path.is_dir() { find(path, split)? } else { path.to_owned() };
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let fopen_keys = [("image".to_owned(), folder)].into();
    Jsonl::open(file, JsonlOptions { fopen_keys, ..JsonlOptions::default() })
}

/// The places of a split's rows in the versions of the export.
fn find(folder: &Path, split: &str) -> Result<PathBuf, Error> {
    let name = format!("_annotations.{split}.jsonl");
    let places = [
        folder.join(&name),
        folder.join("dataset").join(&name),
        folder.join(split).join("_annotations.jsonl"),
        folder.join(split).join("annotations.jsonl"),
    ];
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| {
        let places: Vec<String> = places
            .iter()
            .map(|place| place.strip_prefix(folder).unwrap_or(place).display().to_string())
            .collect();
        let problem = format!("there are no rows of split {split} in it, neither {}", places.join(" nor "));
        Error::BadFile { path: folder.to_owned(), problem }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Source;
    use super::*;
    use crate::data::Value;

    #[test]
    fn rows_and_pictures_are_found_in_the_export() {
        let dir = tempfile::tempdir().unwrap();
        let message = roboflow(dir.path(), "valid").unwrap_err().to_string();
        assert!(
            message.contains("neither _annotations.valid.jsonl nor dataset/_annotations.valid.jsonl nor")
        );
        fs::create_dir(dir.path().join("dataset")).unwrap();
        let file = dir.path().join("dataset/_annotations.valid.jsonl");
        fs::write(&file, "{\"image\": \"a.jpg\", \"prefix\": \"detect cat\", \"suffix\": \"\"}\n").unwrap();
        fs::write(dir.path().join("dataset/a.jpg"), "jpeg").unwrap();
        for path in [dir.path(), &file] {
            let row = roboflow(path, "valid").unwrap().get(0).unwrap();
            assert_eq!(row["image"], Value::Bytes(b"jpeg".to_vec()));
            assert_eq!(row["prefix"], Value::Str("detect cat".to_owned()));
        }
    }
}
