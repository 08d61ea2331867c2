//! What is trained on: data sources, their mixture, preprocessing and batching.

use std::path::{Path, PathBuf};

use super::decode::{
    Decoder, Field, FilePath, Named, Remaining, Rest, Row, entry, resolve_path, unknown_key,
};
use super::detection::{Coco, Frames, Roboflow, Voc, Yolo};
use super::node::{Entry, Kind, Node};
use super::schema::{NON_NEGATIVE, POSITIVE, unknown_word};
use crate::{config_choice, config_section};

/// Keys whose value in a row is a file to read, each with the folder that is put before it. A list of keys
/// means no folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FopenKeys(pub Vec<(String, FilePath)>);

impl Field for FopenKeys {
    fn type_name() -> String {
        "list of keys, or map of key to folder".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<FopenKeys> {
        let no_folder = || FilePath(Default::default());
        match &node.kind {
            Kind::List(_) => {
                let keys: Vec<String> = Vec::decode(node, decoder)?;
                Some(FopenKeys(keys.into_iter().map(|key| (key, no_folder())).collect()))
            }
            Kind::Map(_) => {
                let folders: Named<String> = Named::decode(node, decoder)?;
                let resolve = |text: String| match text.as_str() {
                    "" => no_folder(),
                    text => FilePath(resolve_path(text, &decoder.origin.folder).into()),
                };
                Some(FopenKeys(folders.0.into_iter().map(|(key, folder)| (key, resolve(folder))).collect()))
            }
            Kind::Null => Some(FopenKeys::default()),
            _ => decoder.expected(node, "a list of keys, or a mapping of key to folder"),
        }
    }

    fn encode(&self) -> Node {
        Kind::Map(self.0.iter().map(|(key, folder)| entry(key, folder.encode())).collect()).into()
    }
}

config_section! {
    /// Rows of a JSON-lines file.
    pub struct Jsonl {
        /// The file, one JSON object per line.
        pub fname: FilePath;
        /// Keys whose value is the name of a file that is read in its place (`{image: photos/}`); relative
        /// names are relative to the given folder.
        pub fopen_keys: FopenKeys = FopenKeys::default();
        /// First row that is used, counted from 0.
        pub start: usize = 0;
        /// Row after the last one that is used; null uses all.
        pub stop: Option<usize> = None;
    }
}

config_section! {
    /// A folder with one sub-folder of images per label; gives the keys `image`, `label` and `id`.
    pub struct ImageFolder {
        /// The folder.
        pub path: FilePath;
        /// First image that is used, counted from 0 in the order of their names.
        pub start: usize = 0;
        /// Image after the last one that is used; null uses all.
        pub stop: Option<usize> = None;
    }
}

/// Files, each given by a name, a folder, a glob or braces; relative to the same places as a [`FilePath`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilePatterns(pub Vec<PathBuf>);

impl Field for FilePatterns {
    fn type_name() -> String {
        "path, glob or list of such".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<FilePatterns> {
        let texts = match &node.kind {
            Kind::Str(text) if !text.is_empty() => vec![text.clone()],
            Kind::List(_) => Vec::decode(node, decoder)?,
            _ => return decoder.expected(node, "a path, a glob or a list of such"),
        };
        let folder = decoder.origin.folder.clone();
        Some(FilePatterns(texts.iter().map(|text| resolve_pattern(text, &folder)).collect()))
    }

    fn encode(&self) -> Node {
        let text = |path: &PathBuf| Node::from(path.to_string_lossy().as_ref());
        match &self.0[..] {
            [one] => text(one),
            several => Kind::List(several.iter().map(text).collect()).into(),
        }
    }
}

/// A path that exists is resolved as a whole, a glob by the folder before its first wildcard.
fn resolve_pattern(text: &str, folder: &Path) -> PathBuf {
    let resolved = resolve_path(text, folder);
    if resolved != text || Path::new(text).exists() || text.contains("://") {
        return resolved.into();
    }
    let literal = &text[..text.find(['*', '?', '[', '{']).unwrap_or(text.len())];
    match literal.rsplit_once('/') {
        // From the root: there is nothing to resolve.
        Some(("", _)) => text.into(),
        Some((before, _)) => Path::new(&resolve_path(before, folder)).join(&text[before.len() + 1..]),
        None if literal.len() == text.len() || is_here(text) => text.into(),
        None => folder.join(text),
    }
}

/// Whether a pattern without folders names anything in the working directory.
fn is_here(pattern: &str) -> bool {
    // Whatever stands in braces: `shard-{000..123}.tar`.
    let mut wild = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        wild.extend([before, "*"]);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    wild.push_str(rest);
    glob::glob(&wild).is_ok_and(|mut found| found.next().is_some())
}

config_choice! {
    /// What a feature of a TFRecord file is.
    pub enum FeatureKind {
        Bytes = "bytes",
        Str = "string",
        Int = "int",
        Float = "float",
        BytesList = "bytes_list",
        StrList = "string_list",
        IntList = "int_list",
        FloatList = "float_list",
    }
}

config_section! {
    /// TFRecord files of `tf.train.Example` messages, plain or gzip.
    pub struct TfRecord {
        /// The files: a name, a folder, a glob (`train-*.tfrecord`), braces (`train-{00000..00007}.tfrecord`) or
        /// a list of such.
        pub path: FilePatterns;
        /// The features of a row with their types (`{image/encoded: bytes, image/caption: string_list}`); the
        /// error without them lists those that the files have.
        pub features: Named<FeatureKind> = Named::default();
    }
}

config_section! {
    /// A prepared data set of TensorFlow Datasets; images stay encoded (big_vision's `skip_decode`). As in
    /// big_vision, `name` may also be the data set's own name, when `split` is given.
    pub struct Tfds {
        /// Name of the data set, with its config and version where there are several (`vqa`,
        /// `chartqa/human:1.0.0`); not needed when `data_dir` is the folder of one version.
        pub dataset: String = String::new();
        /// Folder of all data sets, or of one version of one; null stands for TFDS_DATA_DIR, or else
        /// `~/tensorflow_datasets`.
        pub data_dir: Option<FilePath> = None;
        /// Splits and parts of such: `train[:98%]+restval`, `validation[-10240:]`.
        pub split: String;
        /// Whether a class label `label` gets a companion `label_name` with the class's name.
        pub label_names: bool = false;
    }
}

config_section! {
    /// Parquet files as Hugging Face's `datasets` writes them. Images become their bytes, with `image_path`
    /// beside them; nested structs need the op `flatten`; nulls are absent.
    pub struct Parquet checked by check_parquet {
        /// The files: a name, a folder, a glob, braces or a list of such.
        pub path: FilePatterns = FilePatterns::default();
        /// Data set on the Hugging Face hub (`user/name`) that the files are downloaded from, once.
        pub repo: Option<String> = None;
        /// Files of `repo` that are wanted, by name, folder or glob; empty takes all parquet files.
        pub files: Vec<String> = Vec::new();
        /// Branch, tag or commit of `repo`.
        pub revision: String = "main".into();
        /// Splits and parts of such (`train[:90%]`, `train+validation`), by the names of the files; null reads
        /// all files.
        pub split: Option<String> = None;
        /// Columns that are read; null reads all.
        pub columns: Option<Vec<String>> = None;
        /// Whether a class label `label` gets a companion `label_name` with the class's name.
        pub label_names: bool = false;
    }
}

fn check_parquet(parquet: &Parquet, node: &Node, decoder: &mut Decoder) {
    if parquet.path.0.is_empty() == parquet.repo.is_none()
        && decoder.is_good("path")
        && decoder.is_good("repo")
    {
        let either = "either \"path\" for files, or \"repo\" for a data set on the hub";
        let message = format!("{} needs {either}", decoder.key());
        decoder.problem::<()>(node.span, message);
    }
}

config_section! {
    /// Tar files as WebDataset reads them: members of one name are a row, their endings its keys.
    pub struct WebDataset {
        /// The files: a name, a folder, a glob, braces (`shard-{000000..000123}.tar`) or a list of such.
        pub path: FilePatterns;
        /// New names of keys, each from the first of several that a row has (`{image: jpg;png, suffix: txt}`).
        pub rename: Named<String> = Named::default();
    }
}

config_section! {
    /// Rows of noise, for trying out a run without its data: the keys `image`, `prefix`, `suffix`, `answer`, `label` and
    /// `id`.
    pub struct Mock {
        /// How many.
        pub rows: usize = 64, POSITIVE;
        /// Other noise for another seed.
        pub seed: usize = 0;
    }
}

macro_rules! sources {
    ($( $(#[doc = $about:literal])+ $variant:ident = $name:literal, )+) => {
        /// Where examples come from, told apart by `name`.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Source { $( $(#[doc = $about])+ $variant($variant), )+ }

        impl Source {
            /// The names of all kinds of sources.
            pub const NAMES: &[&str] = &[$($name),+];

            /// The name of this kind of source.
            pub fn name(&self) -> &'static str {
                match self { $( Source::$variant(_) => $name, )+ }
            }
        }

        impl Field for Source {
            fn type_name() -> String {
                "data source".into()
            }

            fn decode(node: &Node, decoder: &mut Decoder) -> Option<Source> {
                let Kind::Map(entries) = &node.kind else { return decoder.expected(node, "a mapping") };
                let rest = entries.iter().filter(|entry| entry.key != "name").cloned().collect();
                let rest = Node { kind: Kind::Map(rest), span: node.span };
                match node.get("name").map(|name| (name, name.as_str())) {
                    $( Some((_, Some($name))) => $variant::decode(&rest, decoder).map(Source::$variant), )+
                    Some((name, Some(dataset))) if is_tfds(dataset, node) => {
                        decode_tfds(dataset, name, rest, decoder)
                    }
                    Some((name, _)) => decoder.within("name", |d| unknown_word(name, Source::NAMES, d)),
                    None => {
                        let names = Source::NAMES.join(", ");
                        let message = format!("{} lacks the key \"name\" ({names})", decoder.key());
                        decoder.problem(node.span, message)
                    }
                }
            }

            fn encode(&self) -> Node {
                let rest = match self { $( Source::$variant(source) => source.encode(), )+ };
                let mut entries = vec![entry("name", self.name().into())];
                if let Kind::Map(rest) = rest.kind {
                    entries.extend(rest);
                }
                Kind::Map(entries).into()
            }
        }

        /// The rows of every kind of source. Shown once, for `input.data`.
        fn document_sources(prefix: &str, rows: &mut Vec<Row>) {
            $(
                let (key, type_name) = (format!("{prefix}name"), $name.to_owned());
                let meaning = concat!($($about),+).trim().to_owned();
                rows.push(Row { key, type_name, default: None, meaning });
                $variant::document(prefix, rows);
            )+
        }
    };
}

sources! {
    /// Rows of a JSON-lines file.
    Jsonl = "bv:jsonl",
    /// A folder with one sub-folder of images per label.
    ImageFolder = "bv:imagefolder",
    /// Pictures with boxes as in COCO's instances JSON. Boxed sets give the keys `image`, `image_id`,
    /// `objects` (`bbox`: y1 x1 y2 x2 as fractions, `label`: names), `prefix`, `suffix` and `id`.
    Coco = "coco",
    /// Pictures with boxes as YOLO's text files.
    Yolo = "yolo",
    /// Pictures with boxes as Pascal VOC's XML files.
    Voc = "voc",
    /// Rows as Roboflow exports them for PaliGemma, pictures beside them.
    Roboflow = "roboflow",
    /// Rows of a JSON-lines file whose picture is several: a folder of frames, or a list of files.
    Frames = "frames",
    /// TFRecord files of examples.
    TfRecord = "bv:tfrecord",
    /// A data set of TensorFlow Datasets.
    Tfds = "bv:tfds",
    /// Parquet files of Hugging Face's `datasets`.
    Parquet = "hf:parquet",
    /// Tar files of WebDataset.
    WebDataset = "webdataset",
    /// Random pictures with random words.
    Mock = "mock",
}

/// In big_vision, a name without a prefix is that of a TFDS data set. Here it is if nothing but what such a set
/// takes comes with it; a misspelt name of another kind has other keys.
fn is_tfds(name: &str, node: &Node) -> bool {
    let has_version = |(_, version): (&str, &str)| version.starts_with(|c: char| c.is_ascii_digit());
    let is_key = |key: &str| ["name", "split", "data_dir", "label_names", "skip_decode"].contains(&key);
    let only_its_keys = matches!(&node.kind, Kind::Map(entries) if entries.iter().all(|e| is_key(&e.key)));
    node.get("split").is_some() && only_its_keys && name.split_once(':').is_none_or(has_version)
}

fn decode_tfds(dataset: &str, name: &Node, rest: Node, decoder: &mut Decoder) -> Option<Source> {
    let mut tfds = Tfds::decode(&rest, decoder)?;
    if !tfds.dataset.is_empty() {
        let message = format!("the data set is named twice: {} and \"{dataset}\"", tfds.dataset);
        return decoder.problem(name.span, message);
    }
    // So big_vision writes that the folder says it all.
    if dataset != "from_data_dir" {
        tfds.dataset = dataset.to_owned();
    }
    Some(Source::Tfds(tfds))
}

/// Training data: one source, or a mixture of named ones with their weights.
#[derive(Debug, Clone, PartialEq)]
pub enum InputData {
    Source(Source),
    /// Weights are relative to their sum. Each name is a section of its own beside `data`.
    Mixture(Named<f64>),
}

impl Field for InputData {
    fn type_name() -> String {
        "data source, or map of name to weight".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<InputData> {
        let Kind::Map(entries) = &node.kind else {
            return decoder.expected(node, "a data source or a mapping of names to weights");
        };
        let weights = entries.iter().all(|e| matches!(e.node.kind, Kind::Int(_) | Kind::Float(_)));
        if !weights || entries.is_empty() {
            return Source::decode(node, decoder).map(InputData::Source);
        }
        let mixture: Named<f64> = Named::decode(node, decoder)?;
        for (name, weight) in mixture.iter() {
            if !(NON_NEGATIVE.holds)(*weight) {
                let node = node.get(name).unwrap_or(node);
                decoder.within(name, |d| d.expected::<()>(node, "a weight of at least 0"));
            }
        }
        if mixture.iter().all(|(_, weight)| *weight == 0.0) {
            return decoder.problem(node.span, format!("all weights of {} are 0", decoder.key()));
        }
        Some(InputData::Mixture(mixture))
    }

    fn encode(&self) -> Node {
        match self {
            InputData::Source(source) => source.encode(),
            InputData::Mixture(weights) => weights.encode(),
        }
    }

    fn document(prefix: &str, rows: &mut Vec<Row>) {
        document_sources(prefix, rows);
    }
}

config_choice! {
    /// How far a shuffle carries an example.
    pub enum ShuffleReach {
        /// To any place of the epoch, or as near to that as blocks allow.
        Epoch = "epoch",
        /// About `shuffle_buffer_size` places.
        Buffer = "buffer",
    }
}

config_section! {
    /// Training data and how it becomes batches.
    pub struct Input checked by check_input {
        /// One data source, or a mixture `{a: 3, b: 1}` of sections `a` and `b` with their weights. An epoch of
        /// a mixture is as many examples as its sources have together; a source of weight 0 is left out.
        pub data: InputData;
        /// Preprocessing ops for each example, joined by `|`.
        pub pp: String = String::new();
        /// Examples in one step, over all devices and processes.
        pub batch_size: usize = 32, POSITIVE;
        /// Shuffles; null keeps the order. A source of which any example costs the same to read is shuffled as a
        /// whole, whatever the number. One that stores examples in blocks (row groups) is read block by block in
        /// random order, and as many blocks as hold this many examples are mixed at a time, up to four. With a
        /// mixture, set it per source.
        pub shuffle_buffer_size: Option<usize> = None, POSITIVE;
        /// How far a shuffle carries an example: `epoch`, to any place of the epoch, or `buffer`, about
        /// `shuffle_buffer_size` places, as a buffer does that is filled in order. With a
        /// mixture, set it per source.
        pub shuffle_reach: ShuffleReach = ShuffleReach::Epoch;
        /// Whether the raw examples stay in memory after the first epoch. With a mixture, set it per source.
        pub cache_raw: bool = false;
        /// Memory for `cache_raw`, in MB (1e6 bytes); examples beyond it are read anew in every epoch. With a
        /// mixture, set it per source.
        pub cache_raw_mb: usize = 4096, POSITIVE;
        /// Whether an example that cannot be read or preprocessed is skipped with a warning instead of
        /// stopping the run. With a mixture, set it per source.
        pub skip_errors: bool = false;
        /// Threads that preprocess; null uses every CPU core.
        pub num_parallel_calls: Option<usize> = None, POSITIVE;
        /// Batches that are made ahead of their use.
        pub prefetch: usize = 2;
        /// Keys of the result of `pp` that are kept, each of which must be there; null keeps all. Sources of a
        /// mixture must come to the same keys.
        pub keep_only: Option<Vec<String>> = None;
        rest sources: MixedSources = "One source of a mixture, under the name that `data` weighs.";
    }
}

config_section! {
    /// One source of a mixture.
    pub struct MixedSource {
        /// The data source.
        pub data: Source;
        /// Preprocessing ops for each example, joined by `|`.
        pub pp: String = String::new();
        /// Shuffles; null keeps the order. A source of which any example costs the same to read is shuffled as a
        /// whole, whatever the number. One that stores examples in blocks (row groups) is read block by block in
        /// random order, and as many blocks as hold this many examples are mixed at a time, up to four.
        pub shuffle_buffer_size: Option<usize> = None, POSITIVE;
        /// How far a shuffle carries an example: `epoch`, to any place of the epoch, or `buffer`, about
        /// `shuffle_buffer_size` places, as a buffer does that is filled in order.
        pub shuffle_reach: ShuffleReach = ShuffleReach::Epoch;
        /// Whether the raw examples stay in memory after the first epoch.
        pub cache_raw: bool = false;
        /// Memory for `cache_raw`, in MB (1e6 bytes); examples beyond it are read anew in every epoch.
        pub cache_raw_mb: usize = 4096, POSITIVE;
        /// Whether an example that cannot be read or preprocessed is skipped with a warning.
        pub skip_errors: bool = false;
    }
}

/// The named sections beside `data`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MixedSources(pub Named<MixedSource>);

impl Rest for MixedSources {
    /// Takes every mapping for a source; whether `data` weighs it is checked when `data` is known.
    fn take_rest(remaining: &mut Remaining<'_>, known: &[String], decoder: &mut Decoder) -> MixedSources {
        let mut sources = Vec::new();
        for entry in remaining.entries.drain(..) {
            match &entry.node.kind {
                Kind::Map(fields) if fields.iter().any(|field| field.key == "data" || field.key == "pp") => {
                    let source =
                        decoder.within(&entry.key, |decoder| MixedSource::decode(&entry.node, decoder));
                    sources.extend(source.map(|source| (entry.key.clone(), source)));
                }
                _ => unknown_key(entry, known, decoder),
            }
        }
        MixedSources(Named(sources))
    }

    fn put_rest(&self, entries: &mut Vec<Entry>) {
        entries.extend(self.0.iter().map(|(name, source)| entry(name, source.encode())));
    }

    fn document_rest(prefix: &str, meaning: &str, rows: &mut Vec<Row>) {
        let (key, meaning) = (format!("{prefix}NAME"), meaning.to_owned());
        rows.push(Row { key, type_name: "section".into(), default: Some(String::new()), meaning });
        <MixedSource as Field>::document(&format!("{prefix}NAME."), rows);
    }
}

fn check_input(input: &Input, node: &Node, decoder: &mut Decoder) {
    let weights = match &input.data {
        InputData::Mixture(weights) => Some(weights),
        InputData::Source(_) => None,
    };
    for (name, _) in input.sources.0.iter().filter(|(name, _)| weights.is_none_or(|w| w.get(name).is_none()))
    {
        let span = node.key_span(name);
        let message = format!("source \"{name}\" has no weight in {}.data", decoder.key());
        decoder.problem::<()>(span, message);
    }
    let Some(weights) = weights else { return };
    let data = node.get("data").unwrap_or(node);
    for (name, _) in weights.iter().filter(|(name, _)| input.sources.0.get(name).is_none()) {
        // A section that is there but wrong has been reported already.
        if node.get(name).is_none() {
            let message =
                format!("{0}.data weighs \"{name}\", but there is no section {0}.{name}", decoder.key());
            decoder.problem::<()>(data.key_span(name), message);
        }
    }
    let per_source =
        ["pp", "shuffle_buffer_size", "shuffle_reach", "cache_raw", "cache_raw_mb", "skip_errors"];
    for key in per_source {
        if node.get(key).is_some_and(|value| *value != default_of(key)) {
            let message = format!("{key} is set per source in a mixture ({}.NAME.{key})", decoder.key());
            decoder.problem::<()>(node.key_span(key), message);
        }
    }
}

/// The value under which a key of a mixture counts as unset, so that a resolved config loads again.
fn default_of(key: &str) -> Node {
    match key {
        "pp" => "".into(),
        "shuffle_buffer_size" => Kind::Null.into(),
        "shuffle_reach" => ShuffleReach::Epoch.encode(),
        "cache_raw_mb" => 4096usize.encode(),
        _ => Kind::Bool(false).into(),
    }
}
