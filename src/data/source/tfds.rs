use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::places::Places;
use super::shards::Shards;
use super::split::{self, StoredSplit};
use super::tfds_features::Features;
use super::{Error, Row, Source, example, fingerprint_of_records, list, out_of_range, read_file, records};
use crate::data::Value;

/// Which part of which data set a [`Tfds`] source reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TfdsOptions {
    /// `name`, `name/config` or either with `:version`; ignored where `data_dir` is the folder of one data set.
    pub name: String,
    /// The folder with all data sets (the default is `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`), or the
    /// folder of one version of one data set.
    pub data_dir: Option<PathBuf>,
    /// `train[:98%]+validation[-10240:]` and the like.
    pub split: String,
    /// Gives each class label `label` a companion `label_name` with the class's name.
    pub label_names: bool,
}

/// A prepared data set of TensorFlow Datasets (TFRecord files with `features.json` and `dataset_info.json`).
///
/// Rows have the features of the data set, nested as there, and then `tfds_id` and big_vision's `_id`, its
/// hash. Images stay encoded, as with `skip_decode`. Rows come file by file; the reference reads up to 16 files in
/// turn, 16 rows each.
#[derive(Debug)]
pub struct Tfds {
    name: String,
    split: String,
    features: Features,
    shards: Shards,
    rows: Places,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DatasetInfo {
    name: String,
    #[serde(default)]
    file_format: Option<String>,
    #[serde(default)]
    splits: Vec<SplitInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SplitInfo {
    name: String,
    /// Written as texts, as protocol buffers write 64-bit integers in JSON.
    #[serde(default)]
    shard_lengths: Vec<serde_json::Value>,
    #[serde(default)]
    filepath_template: Option<String>,
}

impl Tfds {
    /// # Errors
    /// When there is no such data set or split, its description cannot be understood, or its files are
    /// missing or damaged.
    pub fn open(options: TfdsOptions) -> Result<Self, Error> {
        let folder = find(&options)?;
        let path = folder.join("dataset_info.json");
        let describe = |problem: String| Error::BadFile { path: path.clone(), problem };
        let info: DatasetInfo =
            serde_json::from_slice(&read_file(&path)?).map_err(|error| describe(error.to_string()))?;
        match info.file_format.as_deref() {
            None | Some("" | "tfrecord") => {}
            Some(other) => {
                let problem = format!("its files are of the format \"{other}\", only tfrecord is read");
                return Err(describe(problem));
            }
        }
        let splits: Vec<StoredSplit> =
            info.splits.iter().map(stored_split).collect::<Result<_, _>>().map_err(describe)?;
        let parts = split::resolve(&options.split, &splits)
            .map_err(|problem| Error::Options { problem: format!("{}: {problem}", folder.display()) })?;
        let features = Features::open(&folder, options.label_names)?;

        let mut paths: Vec<PathBuf> = Vec::new();
        let mut pieces: Vec<(usize, Range<u64>, u64)> = Vec::new();
        for part in &parts {
            let stored = &splits[part.split];
            for (number, rows) in part.shards(stored) {
                let path = folder.join(shard_name(&info, part.split, number));
                let shard = paths.iter().position(|other| *other == path).unwrap_or(paths.len());
                if shard == paths.len() {
                    paths.push(path);
                }
                pieces.push((shard, rows, stored.shard_lengths[number]));
            }
        }
        if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
            let problem = format!("the file is missing, {} lists it", path.display());
            return Err(Error::BadFile { path: missing.clone(), problem });
        }
        let shards = Shards::new(paths);
        let rows = pieces.into_par_iter().map(|(shard, rows, length)| piece(&shards, shard, rows, length));
        let rows = Places::concat(records::SPACING, rows.collect::<Result<Vec<_>, _>>()?);
        Ok(Tfds { name: info.name, split: options.split, features, shards, rows })
    }

    /// Names of the classes of a class label (`objects/label`), where the data set has them.
    pub fn class_names(&self, feature: &str) -> Option<&[String]> {
        self.features.class_names(feature)
    }
}

/// The rows of a piece of one file.
fn piece(shards: &Shards, shard: usize, rows: Range<u64>, length: u64) -> Result<Places, Error> {
    let all = records::index(shards, shard)?;
    if all.len() as u64 != length {
        let problem = format!("the file holds {} records, dataset_info.json says {length}", all.len());
        let last = all.len().checked_sub(1).and_then(|last| all.get(last));
        return Err(shards.damaged(shard, last.map_or(0, |last| last.extent.offset), problem));
    }
    let mut places = Places::new(records::SPACING);
    rows.filter_map(|number| all.get(number as usize)).for_each(|place| places.push(place));
    Ok(places)
}

impl Source for Tfds {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let place = self.rows.get(index).ok_or_else(|| out_of_range(self, index))?;
        let bad = |problem| Error::BadRow { row: self.locate(index), problem };
        let features = example::parse(&records::read(&self.shards, place.extent)?).map_err(bad)?;
        let mut row = self.features.row(features).map_err(bad)?;
        let file = self.shards.path(place.extent.shard as usize);
        let tfds_id = format!("{}__{}", super::file_name(file), place.number);
        row.insert("_id".to_owned(), Value::Int(hash_id(&tfds_id).into()));
        row.insert("tfds_id".to_owned(), Value::Str(tfds_id));
        Ok(row)
    }

    fn describe(&self) -> String {
        format!("tfds {} {} ({} rows)", self.name, self.split, self.rows.len())
    }

    fn locate(&self, index: usize) -> String {
        match self.rows.get(index) {
            Some(place) => {
                let file = self.shards.path(place.extent.shard as usize);
                format!("{} (record {})", file.display(), place.number)
            }
            None => format!("row {index} of {}", self.describe()),
        }
    }

    fn fingerprint(&self) -> u64 {
        fingerprint_of_records(&self.shards, self.rows.extents())
    }
}

/// The folder that holds `dataset_info.json`.
fn find(options: &TfdsOptions) -> Result<PathBuf, Error> {
    let root = match &options.data_dir {
        Some(root) => root.clone(),
        None => match (std::env::var_os("TFDS_DATA_DIR"), std::env::var_os("HOME")) {
            (Some(root), _) => root.into(),
            (None, Some(home)) => Path::new(&home).join("tensorflow_datasets"),
            (None, None) => {
                return Err(Error::Options { problem: "data_dir is needed: HOME is not set".into() });
            }
        },
    };
    super::refuse_remote(&root)?;
    let is_one = |folder: &Path| folder.join("dataset_info.json").is_file();
    if is_one(&root) {
        return Ok(root);
    }
    let (name, version) = options.name.split_once(':').map_or((&*options.name, None), |(n, v)| (n, Some(v)));
    let folder = root.join(name);
    if let Some(version) = version {
        let folder = folder.join(version);
        return if is_one(&folder) {
            Ok(folder)
        } else {
            Err(not_prepared(&folder, "dataset_info.json is missing"))
        };
    }
    let fail = |problem: &str| Err(not_prepared(&folder, problem));
    if name.is_empty() || !folder.is_dir() {
        return fail("there is no such folder");
    }
    let mut versions: Vec<PathBuf> = list(&folder)?.into_iter().filter(|path| is_one(path)).collect();
    versions.sort_by_key(|path| version_of(path));
    if let Some(newest) = versions.pop() {
        return Ok(newest);
    }
    // One level down stand the configs of a data set that has several.
    let configs: Vec<PathBuf> = list(&folder)?.into_iter().filter(|path| path.is_dir()).collect();
    let has_version =
        |config: &&PathBuf| list(config).is_ok_and(|paths| paths.iter().any(|path| is_one(path)));
    let configs: Vec<String> =
        configs.iter().filter(has_version).map(|path| super::file_name(path).into_owned()).collect();
    match configs.is_empty() {
        true => fail("no folder of a version in it holds a dataset_info.json"),
        false => {
            fail(&format!("name one of its configs, as in {name}/{}: {}", configs[0], configs.join(", ")))
        }
    }
}

fn not_prepared(folder: &Path, problem: &str) -> Error {
    let problem = format!("{problem}; prepare the data set with tfds, or set data_dir to where it is");
    Error::NoFiles { pattern: folder.to_owned(), problem }
}

/// `1.10.0` comes after `1.9.0`.
fn version_of(path: &Path) -> Vec<u64> {
    super::file_name(path).split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

fn stored_split(info: &SplitInfo) -> Result<StoredSplit, String> {
    let number = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let lengths: Option<Vec<u64>> = info.shard_lengths.iter().map(number).collect();
    match lengths {
        Some(shard_lengths) if !shard_lengths.is_empty() => {
            Ok(StoredSplit { name: info.name.clone(), shard_lengths })
        }
        _ => Err(format!(
            "split \"{}\" has no shardLengths: it was made by a release of tfds before 2.0",
            info.name
        )),
    }
}

/// The name of a split's file, from the template that the data set gives or the usual one.
fn shard_name(info: &DatasetInfo, split: usize, shard: usize) -> String {
    const USUAL: &str = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}";
    let split = &info.splits[split];
    let count = split.shard_lengths.len();
    let template = split.filepath_template.as_deref().filter(|text| !text.is_empty()).unwrap_or(USUAL);
    template
        .replace("{DATASET}", &info.name)
        .replace("{SPLIT}", &split.name)
        .replace("{FILEFORMAT}", "tfrecord")
        .replace("{SHARD_X_OF_Y}", &format!("{shard:05}-of-{count:05}"))
        .replace("{SHARD_INDEX}", &format!("{shard:05}"))
        .replace("{NUM_SHARDS}", &format!("{count:05}"))
}

/// big_vision's `_id`: TensorFlow's strong hash of `tfds_id` modulo 2^32 - 1, its bits as a signed integer.
fn hash_id(tfds_id: &str) -> i32 {
    const KEY: [u64; 2] = [3714561454027272724, 8800639020734831960];
    (siphash(KEY, tfds_id.as_bytes()) % u64::from(u32::MAX)) as u32 as i32
}

/// SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
fn siphash(key: [u64; 2], bytes: &[u8]) -> u64 {
    fn round(v: &mut [u64; 4]) {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    for word in words.iter().chain([&last]) {
        let word = u64::from_le_bytes(*word);
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The vector of the paper's appendix A.
    #[test]
    fn siphash_is_the_papers() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(key, &bytes), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn data_sets_are_found_by_name_config_and_version() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["plain/1.9.0", "plain/1.10.0", "multi/a/2.0.0", "multi/b/1.0.0"] {
            fs::create_dir_all(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("dataset_info.json"), "{}").unwrap();
        }
        let found = |name: &str| {
            let options = TfdsOptions {
                name: name.to_owned(),
                data_dir: Some(dir.path().to_owned()),
                ..Default::default()
            };
            let folder = format!("{}/", dir.path().display());
            match find(&options) {
                Ok(path) => path.display().to_string().replace(&folder, ""),
                Err(error) => error
                    .to_string()
                    .replace(&folder, "")
                    .replace("; prepare the data set with tfds, or set data_dir to where it is", ""),
            }
        };
        assert_eq!(found("plain"), "plain/1.10.0");
        assert_eq!(found("plain:1.9.0"), "plain/1.9.0");
        assert_eq!(found("plain:3.0.0"), "plain/3.0.0: dataset_info.json is missing");
        assert_eq!(found("multi/b"), "multi/b/1.0.0");
        assert_eq!(found("multi"), "multi: name one of its configs, as in multi/a: a, b");
        assert_eq!(found("absent"), "absent: there is no such folder");
    }
}
