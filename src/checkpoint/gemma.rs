//! Gemma's own checkpoints, as `models/ppp/gemma.py` of big_vision turns them into its names.
//!
//! They hold `transformer/layer_0/mlp/gating_einsum/w`, … where big_vision has the stack `layers/mlp/gating_einsum`;
//! some have the gates' matrices transposed, and some 128 rows of padding behind the vocabulary.

use super::layers::{Place, number, stack_as};
use super::view::{View, swap_last_axes};
use super::{Error, Reader};

const ROOT: &str = "transformer/";
const EMBEDDING: &str = "embedder/input_embedding";
/// Rows of an embedding with padding, and those of them that belong to tokens.
const PADDED_ROWS: usize = 256_128;
const ROWS: usize = 256_000;

/// A reader under big_vision's names; the reader itself when it is no checkpoint of Gemma's own.
///
/// # Errors
/// As [`stack`](super::layers::stack).
pub(crate) fn rename(reader: Box<dyn Reader>) -> Result<Box<dyn Reader>, Error> {
    let root = match reader.names().iter().any(|name| name.starts_with(&format!("{ROOT}layer_"))) {
        true => ROOT,
        false => "",
    };
    if !reader.names().iter().any(|name| name.strip_prefix(root).and_then(place).is_some()) {
        return Ok(reader);
    }
    let reader = stack_as(Box::new(View::below(reader, root)), place)?;
    let mut plain: Vec<(String, String)> = Vec::new();
    for name in reader.names() {
        // The feed-forward layers of Gemma's own library are modules with one parameter.
        let short = ["layers/mlp/gating_einsum", "layers/mlp/linear"];
        let short = short.into_iter().find(|short| name.strip_prefix(short) == Some("/w"));
        plain.push((short.unwrap_or(name).to_owned(), name.to_owned()));
    }
    let mut view = View::empty(reader);
    for (name, source) in plain {
        view.add(name, source)?;
    }
    let gates = "layers/mlp/gating_einsum";
    if let Some(shape) = view.find(gates).cloned()
        && let [.., rows, columns] = *shape.dims()
        && rows > columns
    {
        let mut dims = shape.dims().to_vec();
        let last = dims.len() - 1;
        dims.swap(last - 1, last);
        view.replace(gates, shape.with_dims(dims), |array, out| {
            swap_last_axes(array.shape(), array.bytes(), out);
            Ok(())
        });
    }
    if let Some(shape) = view.find(EMBEDDING).cloned()
        && let [PADDED_ROWS, width] = *shape.dims()
    {
        view.replace(EMBEDDING, shape.with_dims([ROWS, width]), |array, out| {
            out.copy_from_slice(&array.bytes()[..out.len()]);
            Ok(())
        });
    }
    Ok(Box::new(view))
}

/// `layer_N/…`.
fn place(name: &str) -> Option<Place> {
    let (layer, inner) = name.strip_prefix("layer_")?.split_once('/')?;
    Some(Place { stack: "layers".to_owned(), layer: number(layer)?, inner: inner.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{DType, HostArray, Shape};
    use crate::checkpoint::npz::{self, Npz};

    fn renamed(arrays: &[(&str, HostArray)]) -> Box<dyn Reader> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let mut writer = npz::Writer::create(&path).unwrap();
        arrays.iter().for_each(|(name, array)| writer.write(name, array).unwrap());
        writer.finish().unwrap();
        rename(Box::new(Npz::open(&path).unwrap())).unwrap()
    }

    fn counting(dims: &[usize]) -> HostArray {
        let values: Vec<f32> = (0..dims.iter().product()).map(|i: usize| i as f32).collect();
        HostArray::new(dims, &values).unwrap()
    }

    #[test]
    fn names_axes_and_padding_become_big_visions() {
        let reader = renamed(&[
            ("transformer/layer_1/mlp/gating_einsum/w", counting(&[2, 3, 2])),
            ("transformer/layer_0/mlp/gating_einsum/w", counting(&[2, 3, 2])),
            ("transformer/layer_0/mlp/linear/w", counting(&[3, 2])),
            ("transformer/layer_1/mlp/linear/w", counting(&[3, 2])),
            ("transformer/layer_0/attn/q_einsum/w", counting(&[1])),
            ("transformer/layer_1/attn/q_einsum/w", counting(&[1])),
            (
                "transformer/embedder/input_embedding",
                HostArray::zeros(Shape::new(DType::BF16, [PADDED_ROWS, 1])),
            ),
            ("transformer/final_norm/scale", counting(&[2])),
        ]);
        let mut names = reader.names();
        names.sort();
        assert_eq!(
            names,
            [
                EMBEDDING,
                "final_norm/scale",
                "layers/attn/q_einsum/w",
                "layers/mlp/gating_einsum",
                "layers/mlp/linear"
            ]
        );
        assert_eq!(reader.shape(EMBEDDING).unwrap(), &Shape::new(DType::BF16, [ROWS, 1]));
        assert_eq!(reader.read(EMBEDDING).unwrap().dims(), [ROWS, 1]);
        let gates = reader.read("layers/mlp/gating_einsum").unwrap();
        assert_eq!(gates.dims(), [2, 2, 2, 3]);
        assert_eq!(gates.to_f64()[..12], [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0]);
        assert_eq!(gates.to_f64()[..12], gates.to_f64()[12..]);
    }

    #[test]
    fn other_checkpoints_stay_as_they_are() {
        let reader = renamed(&[("layers/mlp/linear", counting(&[2, 3, 2])), ("layer_x/w", counting(&[1]))]);
        assert_eq!(reader.names(), ["layers/mlp/linear", "layer_x/w"]);
    }
}
