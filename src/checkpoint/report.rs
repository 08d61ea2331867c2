//! Matching what a model wants with what a checkpoint holds, and saying everything that does not fit at
//! once.

use std::fmt;
use std::path::PathBuf;

use rayon::prelude::*;

use super::variant::{Variant, detect};
use super::{Error, Reader};
use crate::array::{HostArray, Shape};
use crate::params::{ParamSpec, ParamSpecs, Patterns, nearest, nearest_hint};

/// Suggesting names costs time that grows with the product of both lists, and helps nobody when the
/// checkpoint is of another model altogether.
const MAX_SUGGESTIONS: usize = 64;

/// How many names of one kind a message lists when the checkpoint is of another PaliGemma: then nearly all of them
/// differ, and the variants say why.
const MAX_LISTED: usize = 6;

/// How the tensors of a checkpoint relate to the parameters of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub path: PathBuf,
    /// Parameters that the checkpoint provides.
    pub applied: Vec<String>,
    /// Parameters and tensors that were left out on request (`dont_load`).
    pub left_out: Vec<String>,
    /// Parameters that the checkpoint lacks.
    pub missing: Vec<Unmatched>,
    /// Tensors that the model has no use for.
    pub unexpected: Vec<Unmatched>,
    pub mismatched: Vec<Mismatch>,
    /// Which PaliGemma the checkpoint is and which one the model, when both are one and they differ.
    pub variants: Option<Box<(Variant, Variant)>>,
}

/// A name on one side only, with names of the other side that look like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmatched {
    pub name: String,
    pub shape: Shape,
    pub nearest: Vec<String>,
}

/// A name on both sides whose arrays cannot be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    pub name: String,
    pub expected: Shape,
    pub got: Shape,
}

/// Compares names and shapes; reads no data.
///
/// As in big_vision's `merge_params`, a name that `dont_load` matches is neither loaded nor missed, on
/// either side. Dtypes fit when they are equal or both are floats.
pub fn compare(specs: &ParamSpecs, reader: &dyn Reader, dont_load: &Patterns<()>) -> Report {
    let mut report = Report {
        path: reader.path().to_owned(),
        applied: Vec::new(),
        left_out: Vec::new(),
        missing: Vec::new(),
        unexpected: Vec::new(),
        mismatched: Vec::new(),
        variants: detect(reader)
            .zip(Variant::of_specs(specs))
            .filter(|(got, wanted)| got != wanted)
            .map(Box::new),
    };
    let unmatched = |name: &str, shape: &Shape| Unmatched {
        name: name.to_owned(),
        shape: shape.clone(),
        nearest: vec![],
    };
    for spec in specs {
        match reader.find(&spec.name) {
            _ if dont_load.get(&spec.name).is_some() => report.left_out.push(spec.name.clone()),
            None => report.missing.push(unmatched(&spec.name, &spec.shape)),
            Some(got) if fits(&spec.shape, got) => report.applied.push(spec.name.clone()),
            Some(got) => report.mismatched.push(Mismatch {
                name: spec.name.clone(),
                expected: spec.shape.clone(),
                got: got.clone(),
            }),
        }
    }
    let names = reader.names();
    for &name in names.iter().filter(|name| specs.find(name).is_none()) {
        match reader.find(name) {
            Some(shape) if dont_load.get(name).is_none() => report.unexpected.push(unmatched(name, shape)),
            _ => report.left_out.push(name.to_owned()),
        }
    }
    if report.missing.len() + report.unexpected.len() <= MAX_SUGGESTIONS {
        // What has found its partner under its own name is not suggested to others.
        let unused: Vec<&str> = names.into_iter().filter(|name| specs.find(name).is_none()).collect();
        let wanting: Vec<&str> = specs.names().filter(|name| reader.find(name).is_none()).collect();
        let suggest = |list: &mut [Unmatched], known: &[&str]| {
            list.iter_mut().for_each(|item| item.nearest = nearest(&item.name, known.iter().copied()));
        };
        suggest(&mut report.missing, &unused);
        suggest(&mut report.unexpected, &wanting);
    }
    report
}

fn fits(wanted: &Shape, got: &Shape) -> bool {
    let both_floats = wanted.dtype().is_float() && got.dtype().is_float();
    wanted.dims() == got.dims() && (wanted.dtype() == got.dtype() || both_floats)
}

impl Report {
    /// # Errors
    /// With the whole report, when anything is missing, unexpected or mismatched.
    pub fn check(self) -> Result<Report, Error> {
        if self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty() {
            return Ok(self);
        }
        Err(Error::DoesNotFit(Box::new(self)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, applied) = (self.path.display(), self.applied.len());
        let (missing, unexpected) = (self.missing.len(), self.unexpected.len());
        let mismatched = self.mismatched.len();
        if missing + unexpected + mismatched == 0 {
            write!(f, "{path} provides all of {applied} parameters")?;
            if !self.left_out.is_empty() {
                write!(f, ", {} left out on request", self.left_out.len())?;
            }
            return Ok(());
        }
        write!(f, "{path} does not fit the model: ")?;
        if let Some((got, wanted)) = self.variants.as_deref() {
            write!(f, "the checkpoint is {got}, the model is {wanted}; ")?;
        }
        write!(
            f,
            "{applied} parameters fit, {missing} are missing, {unexpected} are unexpected, {mismatched} have \
             another shape (name in dont_load what should be left out)"
        )?;
        let shown = if self.variants.is_some() { MAX_LISTED } else { usize::MAX };
        let rest = |f: &mut fmt::Formatter<'_>, count: usize| match count.checked_sub(shown) {
            None | Some(0) => Ok(()),
            Some(rest) => write!(f, "\n  and {rest} more"),
        };
        for (title, list) in [
            ("missing, in the model only", &self.missing),
            ("unexpected, in the checkpoint only", &self.unexpected),
        ] {
            if !list.is_empty() {
                write!(f, "\n{title}:")?;
            }
            for item in list.iter().take(shown) {
                write!(f, "\n  {} {}{}", item.name, item.shape, nearest_hint(&item.nearest))?;
            }
            rest(f, list.len())?;
        }
        if mismatched > 0 {
            f.write_str("\nanother shape:")?;
        }
        for item in self.mismatched.iter().take(shown) {
            write!(f, "\n  {}: the model has {}, the checkpoint {}", item.name, item.expected, item.got)?;
        }
        rest(f, mismatched)?;
        Ok(())
    }
}

/// Parameters read from a checkpoint.
#[derive(Debug)]
pub struct Loaded {
    /// In the order of the specs, in their dtype; `None` for what `dont_load` left out.
    pub values: Vec<Option<HostArray>>,
    pub report: Report,
}

/// Reads all parameters of a model, several at a time.
///
/// # Errors
/// With one error for everything that does not fit, before any data are read; or when data are damaged.
pub fn load_params(
    specs: &ParamSpecs,
    reader: &dyn Reader,
    dont_load: &Patterns<()>,
) -> Result<Loaded, Error> {
    let report = compare(specs, reader, dont_load).check()?;
    let specs: Vec<&ParamSpec> = specs.iter().collect();
    let load = |spec: &&ParamSpec| match dont_load.get(&spec.name) {
        Some(()) => Ok(None),
        None => load_param(spec, reader).map(Some),
    };
    Ok(Loaded { values: specs.par_iter().map(load).collect::<Result<_, Error>>()?, report })
}

/// Reads one parameter, rounded to the dtype that its spec asks for: for those who move parameters to a
/// device one by one.
///
/// # Errors
/// When the checkpoint lacks it, has it in another shape, or is damaged.
pub fn load_param(spec: &ParamSpec, reader: &dyn Reader) -> Result<HostArray, Error> {
    let array = reader.read(&spec.name)?;
    if !fits(&spec.shape, array.shape()) {
        let mismatch =
            Mismatch { name: spec.name.clone(), expected: spec.shape.clone(), got: array.shape().clone() };
        return Err(Error::DoesNotFit(Box::new(Report {
            path: reader.path().to_owned(),
            applied: Vec::new(),
            left_out: Vec::new(),
            missing: Vec::new(),
            unexpected: Vec::new(),
            mismatched: vec![mismatch],
            variants: None,
        })));
    }
    // A cast to the same dtype would copy.
    Ok(if array.dtype() == spec.shape.dtype() { array } else { array.cast(spec.shape.dtype()) })
}
