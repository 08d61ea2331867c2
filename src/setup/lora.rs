//! Adapters of a config: which kernels have them, and their first values.

use std::collections::HashMap;

use super::Error;
use crate::array::HostArray;
use crate::checkpoint::hf;
use crate::config::{self, FrozenType, Loaded};
use crate::model::{LORA, LoraConfig, is_quantised, scale_name};
use crate::params::{Kernel, ParamSpec, ParamSpecs};

/// The adapters that a config asks for, beside a model of these parameters.
///
/// # Errors
/// When a pattern matches no kernel, or kernels are to be in few bits without adapters beside them.
pub fn lora_config(loaded: &Loaded, base: &[ParamSpec]) -> Result<Option<LoraConfig>, Error> {
    let quant = loaded.config.frozen_dtype.and_then(FrozenType::quant);
    let Some(lora) = &loaded.config.lora else {
        return match quant {
            None => Ok(None),
            Some(quant) => {
                let message = format!(
                    "frozen_dtype {} keeps kernels that cannot be trained: set lora, which trains adapters beside them",
                    quant.name()
                );
                Err(loaded.error_at("frozen_dtype", message).into())
            }
        };
    };
    let known: Vec<&str> =
        base.iter().map(|spec| spec.name.as_str()).filter(|name| Kernel::find(name).is_some()).collect();
    let mut kernels = Vec::new();
    for (prefix, pattern) in lora.targets.patterns() {
        let is_meant = |name: &&&str| name.strip_prefix(prefix).is_some_and(|rest| pattern.is_match(rest));
        let before = kernels.len();
        kernels.extend(known.iter().filter(is_meant).map(|&name| name.to_owned()));
        if kernels.len() == before {
            let of_tower: Vec<&str> = known.iter().filter_map(|name| name.strip_prefix(prefix)).collect();
            let message = format!(
                "pattern \"{}\" of lora.targets matches no kernel; it must match the whole of one of: {}",
                pattern.as_str(),
                of_tower.join(", ")
            );
            return Err(loaded.error_at("lora.targets", message).into());
        }
    }
    if kernels.is_empty() {
        return Err(loaded.error_at("lora.targets", "lora.targets names no kernel").into());
    }
    kernels.sort();
    kernels.dedup();
    Ok(Some(LoraConfig {
        rank: lora.rank,
        alpha: lora.alpha.unwrap_or(lora.rank as f64),
        dropout: lora.dropout,
        dora: lora.dora,
        kernels,
        quant,
    }))
}

/// The values of everything that belongs to kernels, and of kernels in few bits, from the base's; in the order of
/// `specs`, which has them all. `base` are values by name, of which those are taken that `specs` has as they are.
///
/// # Errors
/// When adapters to start from cannot be read or are of another kind.
pub(super) fn with_adapters(
    loaded: &Loaded,
    lora: &LoraConfig,
    specs: &ParamSpecs,
    mut base: HashMap<String, HostArray>,
) -> Result<Vec<HostArray>, Error> {
    let mut found = match loaded.config.lora.as_ref().and_then(|lora| lora.init.as_ref()) {
        None => HashMap::new(),
        Some(path) => given(loaded, path, specs, &base)?,
    };
    let mut scales = HashMap::new();
    if let Some(quant) = lora.quant {
        let names: Vec<String> = base.keys().filter(|name| is_quantised(name)).cloned().collect();
        for name in names {
            let Some((codes, scale)) = base.get(&name).and_then(|kernel| quant.quantise(kernel)) else {
                continue;
            };
            if lora.dora {
                // Magnitudes are those of what is multiplied with.
                insert_lengths(&name, &quant.dequantise(&codes, &scale), specs, &mut found);
            }
            base.insert(name.clone(), codes);
            scales.insert(scale_name(&name), scale);
        }
    }
    if lora.dora {
        for name in &lora.kernels {
            let Some(kernel) = base.get(name).filter(|kernel| kernel.dtype().is_float()) else { continue };
            insert_lengths(name, kernel, specs, &mut found);
        }
    }
    let value = |spec: &ParamSpec| {
        let value = base.remove(&spec.name).or_else(|| scales.remove(&spec.name));
        match value.or_else(|| found.remove(&spec.name)) {
            Some(value) => Ok(value),
            None => spec.init(loaded.config.seed),
        }
    };
    Ok(specs.iter().map(value).collect::<Result<_, _>>()?)
}

/// The first magnitudes of a kernel, unless there are some: the lengths over its inputs.
fn insert_lengths(
    name: &str,
    kernel: &HostArray,
    specs: &ParamSpecs,
    found: &mut HashMap<String, HostArray>,
) {
    let magnitudes = format!("{LORA}/{name}/m");
    let (Some(spec), Some(axes)) = (specs.find(&magnitudes), Kernel::find(name)) else { return };
    if found.contains_key(&magnitudes) {
        return;
    }
    let mut lengths = vec![0f64; spec.shape.num_elements()];
    let inputs = axes.input_axes();
    // Where each axis moves to among the lengths; inputs do not move.
    let mut stride = 1;
    let mut strides = vec![0; kernel.dims().len()];
    for (axis, &dim) in kernel.dims().iter().enumerate().rev().filter(|(axis, _)| !inputs.contains(axis)) {
        strides[axis] = stride;
        stride *= dim;
    }
    let mut index = vec![0; strides.len()];
    for value in kernel.to_f64() {
        let place: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        lengths[place] += value * value;
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < kernel.dims()[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    let mut array = HostArray::zeros(spec.shape.clone());
    if let Ok(values) = array.values_mut::<f32>() {
        values.iter_mut().zip(lengths).for_each(|(to, sum)| *to = sum.sqrt() as f32);
    }
    found.insert(magnitudes, array);
}

/// The adapters that `lora.init` names, which must be those of the config.
fn given(
    loaded: &Loaded,
    path: &config::FilePath,
    specs: &ParamSpecs,
    base: &HashMap<String, HostArray>,
) -> Result<HashMap<String, HostArray>, Error> {
    let adapters = hf::read_adapters(path.as_path(), &|name| base.get(name).map(HostArray::shape))?;
    let is_wanted = |spec: &&ParamSpec| spec.name.starts_with("lora/");
    let mut found = HashMap::new();
    for (name, array) in adapters {
        match specs.find(&name) {
            Some(spec) if spec.shape.dims() == array.dims() => found.insert(name, array),
            other => {
                let expected = other.map_or("nothing of this name".to_owned(), |spec| spec.shape.to_string());
                let message = format!(
                    "{} has {name} of shape {}, the config wants {expected}",
                    path.as_path().display(),
                    array.shape()
                );
                return Err(loaded.error_at("lora.init", message).into());
            }
        };
    }
    match specs.iter().filter(is_wanted).find(|spec| !found.contains_key(&spec.name)) {
        None => Ok(found),
        Some(spec) => {
            let message = format!("{} lacks {}, which the config wants", path.as_path().display(), spec.name);
            Err(loaded.error_at("lora.init", message).into())
        }
    }
}
