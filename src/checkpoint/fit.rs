//! What big_vision changes in a checkpoint to make it fit a model: position embeddings of another resolution and
//! an embedding of fewer tokens.

use super::posemb;
use super::view::{View, cast_into};
use super::{Error, Reader};
use crate::array::{DType, Shape};
use crate::params::{Init, ParamSpec, ParamSpecs};

/// A checkpoint that was made to fit, and how.
pub struct Fitted {
    pub reader: Box<dyn Reader>,
    /// The parameters that were changed, and how.
    pub notes: Vec<(String, String)>,
}

/// Standard deviation of rows that a vocabulary is extended by (`extend_rows` in `models/ppp/gemma.py`).
const NEW_ROWS_STDDEV: f64 = 0.02;

/// Changes those tensors of `reader` that `specs` want in another size, where big_vision does so:
///
/// - position embeddings of a square grid are interpolated for another one, when `grid`, rows and columns of the
///   model's patches, is square too;
/// - an embedding with fewer rows than the model has tokens gets more, drawn from a normal distribution with
///   standard deviation 0.02 by the seed `new_rows`, when there is one.
///
/// Whatever else does not fit stays as it is, for [`load_params`](super::load_params) to tell.
pub fn fit(reader: Box<dyn Reader>, specs: &ParamSpecs, grid: [usize; 2], new_rows: Option<u64>) -> Fitted {
    let mut view = View::whole(reader);
    let mut notes = Vec::new();
    for spec in specs {
        let Some(shape) = view.find(&spec.name).cloned() else { continue };
        if shape.dims() == spec.shape.dims() || !shape.dtype().is_float() {
            continue;
        }
        if is_called(&spec.name, "pos_embedding") {
            notes.extend(resample(&mut view, spec, &shape, grid));
        }
        if let (true, Some(seed)) = (is_called(&spec.name, "embedder/input_embedding"), new_rows) {
            notes.extend(extend(&mut view, spec, &shape, seed));
        }
    }
    Fitted { reader: Box::new(view), notes }
}

fn is_called(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

fn resample(view: &mut View, spec: &ParamSpec, shape: &Shape, grid: [usize; 2]) -> Option<(String, String)> {
    let (&[1, count, width], &[1, wanted, same_width]) = (shape.dims(), spec.shape.dims()) else {
        return None;
    };
    let (from, to) = (posemb::side(count)?, grid[0]);
    if width != same_width || grid[0] != grid[1] || to * to != wanted {
        return None;
    }
    let made = spec.shape.with_dtype(DType::F32);
    view.replace(&spec.name, made, move |array, out| {
        out.copy_from_slice(posemb::resample(&array, from, to).bytes());
        Ok(())
    });
    let note = format!("interpolated from a grid of {from}x{from} to {to}x{to}");
    Some((spec.name.clone(), note))
}

fn extend(view: &mut View, spec: &ParamSpec, shape: &Shape, seed: u64) -> Option<(String, String)> {
    let (&[rows, width], &[wanted, same_width]) = (shape.dims(), spec.shape.dims()) else { return None };
    if width != same_width || rows > wanted {
        return None;
    }
    let (name, dtype) = (spec.name.clone(), shape.dtype());
    let new = Shape::new(DType::F32, [wanted - rows, width]);
    let drawn =
        Init::Normal { stddev: NEW_ROWS_STDDEV }.draw(&format!("{name}/new_rows"), &new, seed).ok()?;
    view.replace(&spec.name, shape.with_dims([wanted, width]), move |array, out| {
        let (old, added) = out.split_at_mut(array.bytes().len());
        old.copy_from_slice(array.bytes());
        cast_into(&drawn, dtype, added);
        Ok::<(), Error>(())
    });
    Some((spec.name.clone(), format!("extended from {rows} rows to {wanted}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::HostArray;
    use crate::checkpoint::npz::{self, Npz};

    fn fitted(name: &str, array: HostArray, wanted: &[usize], grid: [usize; 2]) -> Fitted {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let mut writer = npz::Writer::create(&path).unwrap();
        writer.write(name, &array).unwrap();
        writer.finish().unwrap();
        let spec = ParamSpec::new(name, Shape::new(DType::F32, wanted), Init::Zeros);
        fit(Box::new(Npz::open(&path).unwrap()), &ParamSpecs::new([spec]).unwrap(), grid, Some(3))
    }

    #[test]
    fn only_square_grids_are_interpolated() {
        let name = "img/pos_embedding";
        let old = HostArray::new([1, 4, 1], &[0f32, 2.0, 4.0, 6.0]).unwrap();
        let to_nine = fitted(name, old.clone(), &[1, 9, 1], [3, 3]);
        assert_eq!(to_nine.notes, [(name.into(), "interpolated from a grid of 2x2 to 3x3".into())]);
        let values = to_nine.reader.read(name).unwrap();
        assert_eq!(values.to_f64(), [0.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 6.0]);
        // As many patches as a square has, but in a strip; and other widths.
        for (wanted, grid) in
            [([1, 9, 1], [1, 9]), ([1, 6, 1], [2, 3]), ([1, 9, 2], [3, 3]), ([1, 4, 1], [2, 2])]
        {
            let same = fitted(name, old.clone(), &wanted, grid);
            assert!(same.notes.is_empty(), "{:?}", same.notes);
            assert_eq!(same.reader.read(name).unwrap(), old);
        }
        let odd = HostArray::new([1, 5, 1], &[0f32; 5]).unwrap();
        assert!(fitted(name, odd, &[1, 9, 1], [3, 3]).notes.is_empty());
    }

    #[test]
    fn a_vocabulary_grows_and_does_not_shrink() {
        let name = "embedder/input_embedding";
        let old = HostArray::new([2, 50], &[7f32; 100]).unwrap().cast(DType::BF16);
        let more = fitted(name, old.clone(), &[202, 50], [1, 1]);
        assert_eq!(more.notes, [(name.into(), "extended from 2 rows to 202".into())]);
        let values = more.reader.read(name).unwrap();
        assert_eq!(values.shape(), &Shape::new(DType::BF16, [202, 50]));
        let values = values.to_f64();
        assert_eq!(values[..100], [7.0; 100]);
        let added = &values[100..];
        let stddev = (added.iter().map(|value| value * value).sum::<f64>() / added.len() as f64).sqrt();
        assert!((stddev - NEW_ROWS_STDDEV).abs() < 1e-3, "{stddev}");
        assert!(fitted(name, old, &[1, 50], [1, 1]).notes.is_empty());
    }
}
