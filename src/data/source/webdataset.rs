use std::io::Read;
use std::path::PathBuf;

use indexmap::IndexMap;
use rayon::prelude::*;

use super::places::{Place, Places, Spacing};
use super::shards::{Extent, Shards, expand, is_gzip};
use super::{Error, Row, Source, fingerprint_of_records, out_of_range};
use crate::data::Value;

/// Tar files of samples, as WebDataset writes them: members that follow each other and share a name up to the
/// first dot are one sample, and the rest of the name is the field.
///
/// Rows begin with an `id`, their number as text, and `__key__`, the shared name with its folders. Fields are
/// bytes, but text for `txt`, `text` and `transcript`; an integer for `cls`, `cls2`, `class`, `count`,
/// `index`, `inx` and `id`; and what the JSON says for `json` and `jsn`, nested objects being dicts. What
/// counts is what follows the last dot. Members whose name has no dot, folders, links and names like `__x__`
/// are passed over.
///
/// Opening reads the headers only. Tar files compressed with gzip are unpacked to an unnamed file in `TMPDIR`.
#[derive(Debug)]
pub struct WebDataset {
    shards: Shards,
    /// A field's name, and the fields of a sample that it may be made of: the first one that is there.
    rename: IndexMap<String, Vec<String>>,
    rows: Places,
}

/// Tar files consist of blocks of this many bytes.
const BLOCK: u64 = 512;
/// From the end of one sample to the beginning of the next.
const SPACING: Spacing = Spacing { gap: 0, align: BLOCK };

impl WebDataset {
    /// `patterns` are files, folders, globs and names with braces; `rename` gives fields other names:
    /// `image: jpg;png` is the first of the two that a sample has.
    ///
    /// # Errors
    /// When files are missing or damaged, or a sample has two members of one name.
    pub fn open(patterns: &[PathBuf], rename: &IndexMap<String, String>) -> Result<Self, Error> {
        let mut shards = Shards::new(expand(patterns, &[".tar", ".tar.gz", ".tgz"])?);
        shards.unpack(|_, first| is_gzip(first))?;
        let rows: Vec<Places> =
            (0..shards.len()).into_par_iter().map(|shard| index(&shards, shard)).collect::<Result<_, _>>()?;
        let alternatives = |fields: &String| fields.split(';').map(|field| field.trim().to_owned()).collect();
        let rename = rename.iter().map(|(name, fields)| (name.clone(), alternatives(fields))).collect();
        Ok(WebDataset { shards, rename, rows: Places::concat(SPACING, rows) })
    }

    fn read(&self, bytes: &[u8], index: usize) -> Result<Row, String> {
        let mut row = Row::from([("id".to_owned(), Value::Str(index.to_string()))]);
        let cannot_read = |error: std::io::Error| format!("cannot read a member: {error}");
        // A sample ends where the content of its last member does; tar files fill that up to a whole block.
        let fill = [0; BLOCK as usize];
        let fill = &fill[..bytes.len().next_multiple_of(fill.len()) - bytes.len()];
        for entry in tar::Archive::new(bytes.chain(fill)).entries().map_err(cannot_read)? {
            let mut entry = entry.map_err(cannot_read)?;
            let Some((key, field)) = sample_name(&entry)? else { continue };
            let mut content = Vec::with_capacity(entry.size().min(bytes.len() as u64) as usize);
            entry.read_to_end(&mut content).map_err(cannot_read)?;
            let value = value(&field, content).map_err(|problem| format!("{key}.{field}: {problem}"))?;
            row.entry("__key__".to_owned()).or_insert(Value::Str(key));
            row.insert(field, value);
        }
        for (name, fields) in &self.rename {
            let found = fields.iter().find_map(|field| row.shift_remove(field));
            let Some(value) = found else {
                let has: Vec<&str> = row.keys().skip(2).map(String::as_str).collect();
                let (wanted, has) = (fields.join(" or "), has.join(", "));
                return Err(format!("no member {wanted} for \"{name}\" (`rename`), the sample has: {has}"));
            };
            row.insert(name.clone(), value);
        }
        Ok(row)
    }
}

impl Source for WebDataset {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let Place { extent, .. } = self.rows.get(index).ok_or_else(|| out_of_range(self, index))?;
        let bytes = self.shards.read(extent)?;
        self.read(&bytes, index).map_err(|problem| Error::BadRow { row: self.locate(index), problem })
    }

    fn describe(&self) -> String {
        let first = self.shards.path(0).display();
        format!("webdataset {first} ({} files, {} rows)", self.shards.len(), self.rows.len())
    }

    fn locate(&self, index: usize) -> String {
        match self.rows.get(index) {
            Some(Place { extent, .. }) => {
                let path = self.shards.path(extent.shard as usize).display();
                format!("{path} (sample at byte {})", extent.offset)
            }
            None => format!("row {index} of {}", self.describe()),
        }
    }

    fn fingerprint(&self) -> u64 {
        fingerprint_of_records(&self.shards, self.rows.extents())
    }
}

/// The samples of one tar file: each from the header of its first member to the end of its last.
fn index(shards: &Shards, shard: usize) -> Result<Places, Error> {
    let reader = shards.reader(shard)?;
    let len = reader.len();
    let mut archive = tar::Archive::new(reader);
    let unreadable = |at: u64, error: std::io::Error| {
        let what = if at == 0 { "this may be no tar file" } else { "the tar file is damaged or was cut" };
        shards.damaged(shard, at, format!("{what}: {error}"))
    };
    let mut samples = Places::new(SPACING);
    let mut add = |sample: Sample| -> Result<(), Error> {
        let (extent, number) = (sample.extent(shards, shard)?, samples.len() as u32);
        samples.push(Place { extent, number });
        Ok(())
    };
    let mut current: Option<Sample> = None;
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(|error| unreadable(0, error))? {
        let begin = end;
        let entry = entry.map_err(|error| unreadable(begin, error))?;
        let content_end = entry.raw_file_position().checked_add(entry.size()).filter(|&end| end <= len);
        let Some(content_end) = content_end else {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let problem = format!("member {name} has {} bytes, but the file ends before them", entry.size());
            return Err(shards.damaged(shard, begin, problem));
        };
        end = content_end.next_multiple_of(BLOCK);
        let name = sample_name(&entry).map_err(|problem| shards.damaged(shard, begin, problem))?;
        let Some((key, field)) = name else { continue };
        match &mut current {
            Some(sample) if sample.key == key => {
                if sample.fields.contains(&field) {
                    let problem = format!("sample {key} has two members {field}");
                    return Err(shards.damaged(shard, begin, problem));
                }
                sample.fields.push(field);
                sample.end = content_end;
            }
            _ => {
                let next = Sample { key, fields: vec![field], begin, end: content_end };
                let last = current.replace(next);
                last.map(&mut add).transpose()?;
            }
        }
    }
    current.map(&mut add).transpose()?;
    if end >= len {
        // Members that are missing altogether cannot be told from a writer that leaves the mark out.
        let path = shards.path(shard).display();
        tracing::warn!("{path} lacks the mark that ends a tar file: it may have been cut between members");
    }
    Ok(samples)
}

/// A sample whose members are being collected.
struct Sample {
    key: String,
    fields: Vec<String>,
    begin: u64,
    end: u64,
}

impl Sample {
    fn extent(self, shards: &Shards, shard: usize) -> Result<Extent, Error> {
        let len = u32::try_from(self.end - self.begin)
            .map_err(|_| shards.damaged(shard, self.begin, format!("sample {} has over 4 GiB", self.key)))?;
        Ok(Extent { offset: self.begin, shard: shard as u32, len })
    }
}

/// The key and the field that a member's name stands for; `None` for members that are no part of a sample.
fn sample_name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Option<(String, String)>, String> {
    if !entry.header().entry_type().is_file() {
        return Ok(None);
    }
    let path = entry.path_bytes();
    let name = str::from_utf8(&path)
        .map_err(|_| format!("the name of member {} is not UTF-8", String::from_utf8_lossy(&path)))?;
    Ok(split_name(name))
}

/// `sub.dir/name.seg.PNG` is field `seg.png` of the sample `sub.dir/name`.
fn split_name(path: &str) -> Option<(String, String)> {
    let base = path.rfind('/').map_or(0, |slash| slash + 1);
    let (name, field) = path[base..].split_once('.')?;
    // Such names hold what WebDataset notes about a whole file.
    if name.is_empty() || (name.starts_with("__") && name.ends_with("__")) {
        return None;
    }
    Some((path[..base + name.len()].to_owned(), field.to_lowercase()))
}

/// A member's content as its field says.
fn value(field: &str, content: Vec<u8>) -> Result<Value, String> {
    let text = |content| {
        String::from_utf8(content)
            .map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to() + 1))
    };
    Ok(match field.rsplit('.').next().unwrap_or(field) {
        "txt" | "text" | "transcript" => Value::Str(text(content)?),
        "cls" | "cls2" | "class" | "count" | "index" | "inx" | "id" => {
            let text = text(content)?;
            let number = text.trim().parse();
            Value::Int(number.map_err(|_| format!("\"{}\" is no integer", text.trim()))?)
        }
        "json" | "jsn" => {
            let json = serde_json::from_slice(&content).map_err(|error| format!("invalid JSON: {error}"))?;
            Value::from_json(json).map_err(|what| format!("it holds {what}, which a row cannot"))?
        }
        _ => Value::Bytes(content),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn open(folder: &Path, bytes: &[u8]) -> Result<WebDataset, String> {
        let path = folder.join("a.tar");
        fs::write(&path, bytes).unwrap();
        let rename = [("image".to_owned(), "jpg; png".to_owned())].into();
        WebDataset::open(&[path], &rename)
            .map_err(|error| error.to_string().replace(&format!("{}/", folder.display()), ""))
    }

    #[test]
    fn names_are_split_as_webdataset_does() {
        let split = |path| split_name(path).map(|(key, field)| format!("{key} {field}"));
        assert_eq!(split("a.jpg").unwrap(), "a jpg");
        assert_eq!(split("sub.dir/00_x.seg.PNG").unwrap(), "sub.dir/00_x seg.png");
        assert_eq!(split("./a.b/c.txt").unwrap(), "./a.b/c txt");
        for path in ["a", "dir/.hidden", "__meta__.json", "x/__index__.txt"] {
            assert_eq!(split(path), None, "{path}");
        }
    }

    #[test]
    fn long_names_and_samples_of_several_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("{}/x.jpg", "folder".repeat(30));
        let bytes = tar_of(&[
            ("a.png", b"png"),
            ("a.cls", b" 3\n"),
            ("a.json", br#"{"boxes": [[1, 2.5]], "none": null}"#),
            ("README", b"no sample"),
            (&long, &[7; 1000]),
            ("b.txt", b"alone"),
            ("c.jpg", b""),
            ("c.cls", b"many"),
        ]);
        let source = open(dir.path(), &bytes).unwrap();
        assert_eq!(source.len(), 4);
        let row = source.get(0).unwrap();
        assert_eq!(
            Value::Dict(row).to_string(),
            "{id: 0, __key__: a, cls: 3, json: {boxes: [[1, 2.5]]}, image: <3 bytes>}"
        );
        let row = source.get(1).unwrap();
        assert_eq!(row["__key__"].as_str().unwrap(), long.trim_end_matches(".jpg"));
        assert_eq!(row["image"], Value::Bytes(vec![7; 1000]));
        let message =
            |index| source.get(index).unwrap_err().to_string().rsplit_once("): ").unwrap().1.to_owned();
        assert_eq!(message(2), "no member jpg or png for \"image\" (`rename`), the sample has: txt");
        assert_eq!(message(3), "c.cls: \"many\" is no integer");
        assert!(matches!(source.get(4), Err(Error::OutOfRange { .. })));
    }

    #[test]
    fn damage_is_found_when_the_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar_of(&[("a.png", &[1; 600]), ("b.png", &[2; 600])]);
        let message = |bytes: &[u8]| open(dir.path(), bytes).unwrap_err();
        assert_eq!(
            message(&bytes[..2200]),
            "a.tar: member b.png has 600 bytes, but the file ends before them (at byte 1536)"
        );
        assert!(message(&bytes[..1700]).starts_with("a.tar: the tar file is damaged or was cut: "));
        let mut bad = bytes.clone();
        bad[1540] ^= 1;
        assert!(message(&bad).ends_with("(at byte 1536)"), "{}", message(&bad));
        assert!(message(b"no tar file at all").starts_with("a.tar: this may be no tar file: "));
        let twice = tar_of(&[("a.png", b"1"), ("a.PNG", b"2")]);
        assert_eq!(message(&twice), "a.tar: sample a has two members png (at byte 1024)");
        // Cut between members: nothing is wrong with what is there.
        assert_eq!(open(dir.path(), &bytes[..1536]).unwrap().len(), 1);
    }

    #[test]
    fn compressed_archives_are_unpacked() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gz.write_all(&tar_of(&[("a.png", &[1; 600]), ("b.png", b"2")])).unwrap();
        let source = open(dir.path(), &gz.finish().unwrap()).unwrap();
        assert_eq!(source.get(1).unwrap()["image"], Value::Bytes(b"2".to_vec()));
    }
}
