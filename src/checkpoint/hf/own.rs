//! This program's adapters, which lie under `lora/` beside the parameters that they change, and PEFT's.
//!
//! An own adapter holds all layers and groups of its kernel: `a [layers, groups.., inputs.., rank]`, `b [layers,
//! groups.., rank, outputs..]`. PEFT has two matrices for each of them, `lora_A [rank, in]` and `lora_B [out, rank]`,
//! whose axes are those of Hugging Face's weights.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::json;

use super::adapter::{Adapter, CONFIG_NAME, Change};
use super::layout::{Transpose, rearrange};
use super::names::{Entry, entries};
use super::{Problem, in_file};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::file::{directory_of, rename};
use crate::checkpoint::reader::check_size;
use crate::checkpoint::variant::{Sizes, Undetected};
use crate::checkpoint::{Error, Reader, open_as_is, safetensors};
use crate::nn::LORA_ALPHA;
use crate::params::{Kernel, KernelDims};

/// Below which prefix own adapters lie.
const LORA: &str = "lora/";

/// Arrays in memory.
pub(super) struct Arrays {
    path: std::path::PathBuf,
    arrays: IndexMap<String, HostArray>,
}

impl Reader for Arrays {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<&str> {
        self.arrays.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.arrays.get(name).map(HostArray::shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        check_size(name, self.shape(name)?, out)?;
        out.copy_from_slice(self.arrays[name].bytes());
        Ok(())
    }
}

/// Whether a reader's parameters have adapters of this program beside them.
pub fn has_adapters<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    names.into_iter().any(|name| name == LORA_ALPHA)
}

/// An entry's kernel, if it is one that adapters are for.
fn kernel_of(entry: &Entry) -> Option<KernelDims> {
    Kernel::find(&entry.name)?.dims(&entry.dims)
}

/// Each of `slots` matrices `[rows, columns]` transposed.
fn transposed(slots: usize, rows: usize, columns: usize, from: &HostArray) -> HostArray {
    let mut to = HostArray::zeros(from.shape().with_dims([slots, columns, rows]));
    let steps = [Transpose::matrices(slots, rows, columns)];
    rearrange(&steps, from.dtype().num_bytes(), from.bytes(), to.bytes_mut());
    to
}

/// One of equal parts of an array, with other extents.
fn slot(array: &HostArray, index: usize, dims: &[usize]) -> HostArray {
    let mut part = HostArray::zeros(array.shape().with_dims(dims));
    let size = part.bytes().len();
    part.bytes_mut().copy_from_slice(&array.bytes()[index * size..][..size]);
    part
}

fn sizes_of<'a>(shape: &dyn Fn(&str) -> Option<&'a Shape>) -> Result<Sizes, Problem> {
    Sizes::of(&|name| shape(name)).map_err(|Undetected { name, got }| Problem::NotWhole { name, got })
}

impl Adapter {
    /// The adapters of this program among what `own` reads, for a base of the shapes that `base` tells.
    ///
    /// # Errors
    /// When there are none, or the base is no PaliGemma or lacks what they change.
    pub fn of_own<'a>(own: &dyn Reader, base: &dyn Fn(&str) -> Option<&'a Shape>) -> Result<Self, Error> {
        let path = own.path().to_owned();
        let (arrays, changes) = own_changes(own, base)?;
        let weights = Box::new(Arrays { path: path.clone(), arrays });
        Ok(Adapter { directory: path, base: None, weights, changes })
    }
}

type OwnChanges = (IndexMap<String, HostArray>, IndexMap<String, Change>);

/// Own adapters as PEFT's tensors, and what they do to Hugging Face's.
fn own_changes<'a>(own: &dyn Reader, base: &dyn Fn(&str) -> Option<&'a Shape>) -> Result<OwnChanges, Error> {
    let fail = |problem| in_file(own.path())(problem);
    if own.find(LORA_ALPHA).is_none() {
        return Err(Error::NoAdapters { path: own.path().to_owned() });
    }
    let alpha = own.read(LORA_ALPHA)?.to_f64().first().copied().unwrap_or(0.0);
    let sizes = sizes_of(base).map_err(fail)?;
    let mut left: Vec<&str> = own.names();
    left.retain(|name| name.starts_with(LORA) && *name != LORA_ALPHA);
    let (mut arrays, mut changes) = (IndexMap::new(), IndexMap::new());
    for entry in entries(&sizes) {
        let Some(dims) = kernel_of(&entry) else { continue };
        let under = |part: &str| format!("{LORA}{}/{part}", entry.name);
        let Some(a_shape) = own.find(&under("a")) else { continue };
        let rank = a_shape.dims().last().copied().unwrap_or(0);
        let lead = [&dims.layers[..], &dims.groups].concat();
        let read = |part: &str, rest: &[&[usize]]| {
            let name = under(part);
            let expected = [&[&lead[..]][..], rest].concat().concat();
            let got = own.shape(&name)?;
            if got.dims() != expected {
                return Err(fail(Problem::Extents { name, expected, got: got.clone() }));
            }
            Ok(own.read(&name)?.cast(DType::F32))
        };
        let (slots, (inputs, outputs)) = (dims.num_slots(), dims.slot());
        let a = transposed(slots, inputs, rank, &read("a", &[&dims.inputs, &[rank]])?);
        let b = transposed(slots, rank, outputs, &read("b", &[&[rank], &dims.outputs])?);
        let m = match own.find(&under("m")) {
            Some(_) => Some(read("m", &[&dims.outputs])?),
            None => None,
        };
        for (index, key) in entry.keys.iter().enumerate() {
            let module = module(key);
            let (a_name, b_name) = (format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight"));
            arrays.insert(a_name.clone(), slot(&a, index, &[rank, inputs]));
            arrays.insert(b_name.clone(), slot(&b, index, &[outputs, rank]));
            let magnitude = m.as_ref().map(|m| {
                let name = format!("{module}.{MAGNITUDE}");
                arrays.insert(name.clone(), slot(m, index, &[outputs]));
                name
            });
            let scale = (alpha / rank as f64) as f32;
            changes.insert(key.clone(), Change::Add { a: a_name, b: b_name, scale, magnitude });
        }
        left.retain(|name| ["a", "b", "m"].iter().all(|part| *name != under(part)));
    }
    match left.is_empty() {
        true => Ok((arrays, changes)),
        false => Err(fail(Problem::UnknownTargets { names: left.into_iter().map(str::to_owned).collect() })),
    }
}

/// What PEFT calls magnitudes in its files.
pub(super) const MAGNITUDE: &str = "lora_magnitude_vector";

/// What PEFT calls the image tower for transformers 4.52 to 5.0, and for later versions.
const IMAGE_TOWERS: [&str; 2] = ["model.vision_tower.vision_model.", "model.vision_tower."];

/// The module of a tensor as PEFT names it for transformers 4.52 to 5.0.
fn module(key: &str) -> String {
    let module = key.strip_suffix(".weight").unwrap_or(key);
    match module.strip_prefix("language_model.model.") {
        Some(rest) => format!("base_model.model.model.language_model.{rest}"),
        None => format!("base_model.model.model.{module}"),
    }
}

/// Writes own adapters as a directory that PEFT loads: `adapter_config.json` and `adapter_model.safetensors`.
///
/// PEFT passes over tensors whose names it does not find, without a word. So those of the image tower, which has had two
/// names since transformers 4.52, are there under both.
///
/// `base_name` is the model on the hub or the directory that it will be loaded beside. `base` tells the shapes of the
/// model's parameters.
///
/// # Errors
/// When `own` has no adapters, or they do not belong to such a base; when `target` exists or cannot be written.
pub fn write_peft<'a>(
    own: &dyn Reader,
    base: &dyn Fn(&str) -> Option<&'a Shape>,
    base_name: Option<&str>,
    target: &Path,
) -> Result<usize, Error> {
    if target.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: target.to_owned() });
    }
    let (mut arrays, changes) = own_changes(own, base)?;
    let alpha = own.read(LORA_ALPHA)?.to_f64().first().copied().unwrap_or(0.0);
    let mut rank = 0;
    let mut modules = Vec::new();
    let mut use_dora = false;
    let [old, new] = IMAGE_TOWERS;
    for change in changes.values() {
        let Change::Add { a, magnitude, .. } = change else { continue };
        let path = a.strip_prefix("base_model.model.").and_then(|name| name.strip_suffix(".lora_A.weight"));
        // PEFT takes the end of a module's name too, which is the same under both names.
        modules.extend(path.map(|path| path.strip_prefix(old).unwrap_or(path).to_owned()));
        rank = arrays[a].dims()[0];
        use_dora |= magnitude.is_some();
    }
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "use_dora": use_dora,
        "use_rslora": false,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
    });
    let of_image: Vec<(String, HostArray)> = arrays
        .iter()
        .filter(|(name, _)| name.contains(old))
        .map(|(name, array)| (name.replace(old, new), array.clone()))
        .collect();
    arrays.extend(of_image);
    let mut builder = tempfile::Builder::new();
    let directory = builder.prefix(".adapter-").suffix(".tmp").tempdir_in(directory_of(target));
    let directory = directory.map_err(Error::io("create", target))?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::write(&Adapter::weights_path(directory.path()), &arrays, &metadata)?;
    let path = directory.path().join(CONFIG_NAME);
    std::fs::write(&path, format!("{config:#}\n")).map_err(Error::io("write", &path))?;
    rename(directory.path(), target)?;
    // It has its final name and is no longer there to be removed.
    let _ = directory.keep();
    Ok(arrays.len())
}

/// Own adapters, by name, of a run's workdir, a file that holds them, or a directory of PEFT's. `base` tells the
/// shapes of the parameters that they are for.
///
/// Layers that PEFT's adapter leaves alone get adapters of zeros, which neither change nor learn anything.
///
/// # Errors
/// When there are none, or they change what the base does not have.
pub fn read_adapters<'a>(
    path: &Path,
    base: &dyn Fn(&str) -> Option<&'a Shape>,
) -> Result<Vec<(String, HostArray)>, Error> {
    if Adapter::is_in(path) {
        let adapter = Adapter::open(path)?;
        let fail = in_file(path);
        return match sizes_of(base) {
            Ok(sizes) => of_peft(&adapter, &sizes),
            Err(problem) => Err(fail(problem)),
        };
    }
    let own = own_adapters(path)?;
    own.names().into_iter().map(|name| Ok((name.to_owned(), own.read(name)?))).collect()
}

/// A reader of nothing but own adapters, `lora/…`, of a workdir, a checkpoint or a file.
///
/// # Errors
/// When it cannot be read or has none.
pub fn own_adapters(path: &Path) -> Result<Box<dyn Reader>, Error> {
    use crate::checkpoint::View;
    let whole = open_as_is(path)?;
    let root = format!("params/{LORA}");
    let prefix = if whole.names().iter().any(|name| name.starts_with(&root)) { "params/" } else { "" };
    let own = View::below(whole, prefix);
    let own = View::select(Box::new(own), |name| name.starts_with(LORA));
    match own.is_empty() {
        true => Err(Error::NoAdapters { path: path.to_owned() }),
        false => Ok(Box::new(own)),
    }
}

fn of_peft(adapter: &Adapter, sizes: &Sizes) -> Result<Vec<(String, HostArray)>, Error> {
    let fail = |problem| in_file(adapter.directory())(problem);
    let weights = &adapter.weights;
    let mut left = adapter.changes.clone();
    // One rank and one factor for all: smaller ones are filled up, and other factors go into `b`.
    let rank_of = |change: &Change| match change {
        Change::Add { a, .. } => weights.find(a).and_then(|a| a.dims().first().copied()).unwrap_or(0),
        Change::Replace { .. } => 0,
    };
    let rank = left.values().map(rank_of).max().unwrap_or(0);
    let common = left.values().find_map(|change| match change {
        Change::Add { scale, .. } => Some(*scale),
        Change::Replace { .. } => None,
    });
    let Some(common) = common.filter(|scale| *scale != 0.0) else {
        return Err(Error::NoAdapters { path: adapter.directory().to_owned() });
    };
    let f32s = |dims: Vec<usize>| HostArray::zeros(Shape::new(DType::F32, dims));
    let mut found = vec![(LORA_ALPHA.to_owned(), HostArray::scalar(common * rank as f32))];
    for entry in entries(sizes) {
        let Some(dims) = kernel_of(&entry) else { continue };
        if !entry.keys.iter().any(|key| left.contains_key(key)) {
            continue;
        }
        let (slots, (inputs, outputs)) = (dims.num_slots(), dims.slot());
        let (mut a_all, mut b_all) = (f32s(vec![slots, rank, inputs]), f32s(vec![slots, outputs, rank]));
        let mut m_all = None;
        for (index, key) in entry.keys.iter().enumerate() {
            let Some(change) = left.swap_remove(key) else { continue };
            let Change::Add { a, b, scale, magnitude } = &change else {
                left.insert(key.clone(), change);
                continue;
            };
            let own_rank = rank_of(&change);
            let expect = |name: &String, expected: Vec<usize>| match weights.shape(name)? {
                got if got.dims() == expected => Ok(weights.read(name)?.cast(DType::F32)),
                got => Err(fail(Problem::Extents { name: name.clone(), expected, got: got.clone() })),
            };
            let a = expect(a, vec![own_rank, inputs])?;
            let b = expect(b, vec![outputs, own_rank])?.to_f64();
            let size = rank * inputs * size_of::<f32>();
            a_all.bytes_mut()[index * size..][..a.bytes().len()].copy_from_slice(a.bytes());
            if let Ok(values) = b_all.values_mut::<f32>() {
                let rows = values[index * outputs * rank..][..outputs * rank].chunks_mut(rank);
                for (to, from) in rows.zip(b.chunks(own_rank.max(1))) {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32 * (scale / common));
                }
            }
            if let Some(name) = magnitude {
                let m = expect(name, vec![outputs])?;
                let all = m_all.get_or_insert_with(|| f32s(vec![slots, outputs]));
                let size = m.bytes().len();
                all.bytes_mut()[index * size..][..size].copy_from_slice(m.bytes());
            }
        }
        let lead = [&dims.layers[..], &dims.groups].concat();
        let mut add = |part: &str, array: HostArray, rest: &[&[usize]]| -> Result<(), Error> {
            let shape = [&[&lead[..]][..], rest].concat().concat();
            let array = array
                .reshaped(shape)
                .map_err(|error| fail(Problem::UnsupportedAdapter { what: error.to_string() }))?;
            found.push((format!("{LORA}{}/{part}", entry.name), array));
            Ok(())
        };
        add("a", transposed(slots, rank, inputs, &a_all), &[&dims.inputs, &[rank]])?;
        add("b", transposed(slots, outputs, rank, &b_all), &[&[rank], &dims.outputs])?;
        if let Some(m) = m_all {
            add("m", m, &[&dims.outputs])?;
        }
    }
    match left.is_empty() {
        true => Ok(found),
        false => Err(fail(Problem::UnknownTargets { names: left.into_keys().collect() })),
    }
}
