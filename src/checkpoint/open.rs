use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::few_bits::FewBits;
use super::file::directory_of;
use super::hf;
use super::npz::Npz;
use super::safetensors::{INDEX_NAME, Safetensors};
use super::store::{BEST, Checkpoint, LAST, MANIFEST, is_called_checkpoint, named_in};
use super::view::View;
use super::zarr::{self, Arrays};
use super::{Error, Reader, gemma, layers, pieces};

/// Below what adapters of this program lie, the name of a part.
const LORA: &str = "lora";

/// How big_vision's file is called that names the last train state of a workdir.
const BIG_VISION_LAST: &str = "checkpoint.bv-LAST";

/// Opens the parameters of a checkpoint of any format, known from its content.
///
/// `path` may be a file, a directory that holds one (`model.safetensors` or its index), a training
/// checkpoint or the workdir of a run (its last checkpoint; the file `BEST` in it stands for its best one): this
/// program's, or big_vision's
/// (`checkpoint.bv-000001234`, `checkpoint.bv-LAST`, or `checkpoint.bv` for the last one). Of an `.npz` that was cut
/// into pieces, the name of any piece, `x.npz.part*`, or the name of the whole stands for all. As in big_vision, a
/// colon and a name at the end select a part: `siglip.npz:img` gives the names below `img/`, without that prefix.
///
/// A PaliGemma as Hugging Face's transformers saves it is known by its tensors' names and given under
/// big_vision's; a directory with a LoRA adapter of theirs gives its base model, with the adapter merged.
///
/// Adapters of this program that lie beside parameters, as in checkpoints of runs with `lora`, are merged as well, and
/// kernels in few bits are given as `f32`; the part `:lora` gives the adapters alone.
///
/// A file that holds more than parameters is reduced to them: those below `params/`, or below
/// `opt/target/` as old Flax checkpoints have them, without the prefix. Layers that are there one by one are given
/// as stacks, and Gemma's own names as big_vision's.
///
/// # Errors
/// When the file cannot be read, is of no known format, is damaged, or lacks the part, or when layers are missing.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn Reader>, Error> {
    open_nested(path.as_ref(), 0)
}

/// The same checkpoint by a path that stays right: absolute, and that of the last checkpoint where a run's
/// workdir or a pointer stands for it.
///
/// # Errors
/// When a pointer names no checkpoint, or there is no current directory.
pub fn locate(path: impl AsRef<Path>) -> Result<PathBuf, Error> {
    let (path, part) = split_part(path.as_ref());
    let path = follow(&path)?;
    let mut located = std::path::absolute(&path).map_err(Error::io("locate", &path))?.into_os_string();
    part.iter().for_each(|part| located.push(format!(":{part}")));
    Ok(located.into())
}

/// As [`open`], for what lies below `depth` other checkpoints.
pub(super) fn open_nested(path: &Path, depth: usize) -> Result<Box<dyn Reader>, Error> {
    let (path, part) = split_part(path);
    let reader = layers::stack(open_merged(&path, depth)?)?;
    let names = reader.names();
    let root = ["params/", "opt/target/"].into_iter().find(|root| names.iter().any(|n| n.starts_with(root)));
    let mut root = root.unwrap_or_default();
    // A part of adapters is what they are themselves.
    let is_changed = hf::has_adapters(names.iter().filter_map(|name| name.strip_prefix(root)));
    let is_changed = is_changed || FewBits::is_here(names.iter().filter_map(|name| name.strip_prefix(root)));
    let reader = match is_changed && part.as_deref() != Some(LORA) {
        false => reader,
        true => {
            let reader = plain(View::below(reader, root))?;
            root = "";
            reader
        }
    };
    let names = reader.names();
    let prefix = part.as_ref().map_or_else(|| root.to_owned(), |part| format!("{root}{part}/"));
    if prefix.is_empty() {
        return gemma::rename(reader);
    }
    let parts = names.iter().filter_map(|name| name.strip_prefix(root)?.split_once('/'));
    let mut known: Vec<String> = parts.map(|(part, _)| part.to_owned()).collect();
    let selected = View::below(reader, &prefix);
    if let (Some(part), true) = (part, selected.is_empty()) {
        known.sort();
        known.dedup();
        return Err(Error::UnknownPart { path, part, known });
    }
    gemma::rename(Box::new(selected))
}

/// Parameters as a model without adapters has them: kernels in few bits as floats, adapters merged.
fn plain(params: View) -> Result<Box<dyn Reader>, Error> {
    let mut reader: Box<dyn Reader> = Box::new(params);
    if FewBits::is_here(reader.names()) {
        reader = Box::new(FewBits::new(reader));
    }
    if !hf::has_adapters(reader.names()) {
        return Ok(reader);
    }
    let adapter = hf::Adapter::of_own(reader.as_ref(), &|name| reader.find(name))?;
    let prefix = format!("{LORA}/");
    let base = View::select(reader, |name| !name.starts_with(&prefix));
    Ok(Box::new(hf::Merged::new(Box::new(base), adapter)?))
}

/// Opens the parameters of one tower, `img` or `llm`: of a file of this tower, or of one with several (`img/…`,
/// `txt/…` in SigLIP's), where a colon need not say which.
///
/// # Errors
/// As [`open`].
pub fn open_tower(path: impl AsRef<Path>, tower: &str) -> Result<Box<dyn Reader>, Error> {
    tower_of(open(path)?, tower)
}

/// Of parameters, those of a tower, unless they are all of it.
pub(super) fn tower_of(reader: Box<dyn Reader>, tower: &str) -> Result<Box<dyn Reader>, Error> {
    let prefix = format!("{tower}/");
    match reader.names().iter().any(|name| name.starts_with(&prefix)) {
        true => Ok(Box::new(View::below(reader, &prefix))),
        false => Ok(reader),
    }
}

/// All that a training saved.
pub enum State {
    /// A checkpoint of this program.
    Own(Box<Checkpoint>),
    /// A train state of big_vision under its own names, `params/…`, `opt/1/0/1/…`, with layers stacked.
    BigVision(Box<dyn Reader>),
}

/// Opens the state of a training, at a path such as [`open`] takes.
///
/// # Errors
/// As [`open`].
pub fn open_state(path: &Path) -> Result<State, Error> {
    if let Some(directory) = own_checkpoint(path)? {
        return Ok(State::Own(Box::new(Checkpoint::open(&directory)?)));
    }
    Ok(State::BigVision(layers::stack(known_names(open_whole(path, 0)?)?)?))
}

/// Opens a checkpoint of any format with everything that it holds, under the names that stand in it: for those
/// who want to look rather than load.
///
/// # Errors
/// When the file cannot be read, is of no known format, or is damaged.
pub fn open_as_is(path: impl AsRef<Path>) -> Result<Box<dyn Reader>, Error> {
    open_whole(path.as_ref(), 0)
}

/// `FILE:part` to its two sides; a colon that belongs to an existing file's name stays there.
fn split_part(path: &Path) -> (PathBuf, Option<String>) {
    let split = path.to_str().and_then(|text| text.rsplit_once(':'));
    match split {
        Some((file, part)) if !path.exists() && is_part(part) => (file.into(), Some(part.to_owned())),
        _ => (path.to_owned(), None),
    }
}

fn is_part(part: &str) -> bool {
    part.split('/').all(|word| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

/// Of an adapter, the model that it belongs to, with the adapter merged; else what is there, under names that
/// this program knows.
fn open_merged(path: &Path, depth: usize) -> Result<Box<dyn Reader>, Error> {
    if path.is_dir() && hf::Adapter::is_in(path) {
        let adapter = hf::Adapter::open(path)?;
        let base = open_nested(&adapter.base()?, depth + 1)?;
        return Ok(Box::new(hf::Merged::new(base, adapter)?));
    }
    known_names(open_whole(path, depth)?)
}

fn open_whole(path: &Path, depth: usize) -> Result<Box<dyn Reader>, Error> {
    let path = &follow(path)?;
    if path.is_dir() {
        return open_directory(path, depth);
    }
    if !path.exists() && is_called_checkpoint(path) {
        return Err(Error::NoManifest { path: path.to_owned() });
    }
    let files = pieces::find(path)?;
    let is_cut = files.is_some();
    let files = files.unwrap_or_else(|| vec![path.to_owned()]);
    let mut start = Vec::new();
    let file = File::open(&files[0]).map_err(Error::io("open", &files[0]))?;
    file.take(16).read_to_end(&mut start).map_err(Error::io("read", &files[0]))?;
    let unknown = |found| Err(Error::NotACheckpoint { path: path.to_owned(), found });
    match start.as_slice() {
        [] => unknown("it is empty"),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => Ok(Box::new(Npz::open_pieces(path, &files)?)),
        _ if is_cut => unknown("its first piece does not start as an .npz does"),
        // Eight bytes of length, then JSON.
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => Ok(Box::new(Safetensors::open(path)?)),
        [b'{', ..] => Ok(Box::new(Safetensors::open_index(path)?)),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => unknown("it is a single numpy array (.npy)"),
        [0x80, 2..=5, ..] => unknown("it is a Python pickle"),
        _ => unknown("its first bytes are of no known format"),
    }
}

fn open_directory(path: &Path, depth: usize) -> Result<Box<dyn Reader>, Error> {
    if path.join(MANIFEST).is_file() {
        return Ok(Box::new(Checkpoint::open_nested(path, depth)?));
    }
    let index = path.join(INDEX_NAME);
    if index.is_file() {
        return Ok(Box::new(Safetensors::open_index(&index)?));
    }
    let single = path.join("model.safetensors");
    if single.is_file() {
        return Ok(Box::new(Safetensors::open(&single)?));
    }
    if hf::Adapter::is_in(path) {
        return Ok(Box::new(Safetensors::open(&hf::Adapter::weights_path(path))?));
    }
    if zarr::is_here(path) {
        return Ok(Box::new(Arrays::open(path)?));
    }
    if is_called_checkpoint(path) {
        return Err(Error::NoManifest { path: path.to_owned() });
    }
    Err(Error::NotACheckpoint { path: path.to_owned(), found: "the directory holds none" })
}

/// The checkpoint of this program that a directory is, or has as its last one.
fn own_checkpoint(path: &Path) -> Result<Option<PathBuf>, Error> {
    if path.join(MANIFEST).is_file() {
        return Ok(Some(path.to_owned()));
    }
    // `BEST` and `LAST` of a workdir stand for what they name.
    let pointer = path.file_name().and_then(|name| name.to_str()).filter(|name| [BEST, LAST].contains(name));
    if let (Some(pointer), Some(workdir), true) = (pointer, path.parent(), path.is_file()) {
        return named_in(workdir, pointer).map(Some);
    }
    if path.join(LAST).is_file() { named_in(path, LAST).map(Some) } else { Ok(None) }
}

/// Translates Hugging Face's names, with the help of the `config.json` beside the file.
fn known_names(reader: Box<dyn Reader>) -> Result<Box<dyn Reader>, Error> {
    if !hf::is_hf(reader.names()) {
        return Ok(reader);
    }
    let config = hf::HfConfig::beside(directory_of(reader.path()))?;
    Ok(Box::new(hf::Import::new(reader, &config)?))
}

/// The checkpoint that a path stands for: the last one of a workdir, or what a pointer names; else the path.
fn follow(path: &Path) -> Result<PathBuf, Error> {
    if let Some(directory) = own_checkpoint(path)? {
        return Ok(directory);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let pointer = match (path.is_dir(), path.exists()) {
        (true, _) => path.join(BIG_VISION_LAST),
        (_, true) if name.ends_with("-LAST") => path.to_owned(),
        (_, true) => return Ok(path.to_owned()),
        // Without the number, big_vision's name means the last state.
        (_, false) => path.with_file_name(format!("{name}-LAST")),
    };
    if pointer.is_file() { pointed_at(&pointer) } else { Ok(path.to_owned()) }
}

/// What `checkpoint.bv-LAST` names: it holds the end of the name, a step.
fn pointed_at(path: &Path) -> Result<PathBuf, Error> {
    let mut content = String::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    // A step and "-tmp" are shorter.
    let read = file.take(64).read_to_string(&mut content);
    read.map_err(Error::io("read", path))?;
    let suffix = content.trim();
    let bad = |problem| Error::BadPointer { path: path.to_owned(), content: suffix.to_owned(), problem };
    let step = suffix.strip_suffix("-tmp").unwrap_or(suffix);
    if step.is_empty() || !step.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad("which is not the number of a checkpoint"));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let directory = path.with_file_name(format!("{}-{suffix}", name.trim_end_matches("-LAST")));
    if !directory.is_dir() {
        return Err(bad("but there is no such checkpoint beside it"));
    }
    Ok(directory)
}
