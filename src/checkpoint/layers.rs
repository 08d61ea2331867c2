//! Layers that a checkpoint holds one by one, as models without `scan` have them, stacked as `scan` wants them.
//!
//! ```text
//! img/Transformer/encoderblock_0/LayerNorm_0/bias  ┐
//! img/Transformer/encoderblock_1/LayerNorm_0/bias  ┴► img/Transformer/encoderblock/LayerNorm_0/bias
//! llm/layers/0/attn/q_einsum/w …                    ► llm/layers/attn/q_einsum/w
//! ```
//!
//! Names are those of `models/vit.py` and `models/ppp/gemma.py` of big_vision. Optimizer states, which repeat the
//! names of the parameters, are stacked alike.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::view::View;
use super::{Error, Reader};
use crate::array::Shape;

/// Where a name belongs in a stack.
pub(crate) struct Place {
    /// Name of the stack of layers, such as `img/Transformer/encoderblock`.
    pub stack: String,
    pub layer: usize,
    /// Name within the layer.
    pub inner: String,
}

/// A reader whose layers are stacked; the reader itself when it holds none that are not.
///
/// # Errors
/// When the layers are not numbered 0, 1, … without a gap, differ in their tensors, or are there stacked too.
pub(crate) fn stack(reader: Box<dyn Reader>) -> Result<Box<dyn Reader>, Error> {
    stack_as(reader, place)
}

/// As [`stack`], for layers that are called otherwise; `place` tells them by their names.
pub(crate) fn stack_as(
    reader: Box<dyn Reader>,
    place: impl Fn(&str) -> Option<Place>,
) -> Result<Box<dyn Reader>, Error> {
    let mut groups: IndexMap<String, Group> = IndexMap::new();
    let mut depths: HashMap<String, usize> = HashMap::new();
    for name in reader.names() {
        let Some(Place { stack, layer, inner }) = place(name) else { continue };
        let depth = depths.entry(stack.clone()).or_default();
        *depth = (*depth).max(layer.saturating_add(1));
        let group = groups.entry(format!("{stack}/{inner}"));
        group.or_insert_with(|| Group { stack, layers: vec![] }).layers.push((layer, name.to_owned()));
    }
    if groups.is_empty() {
        return Ok(reader);
    }
    let mut stacked = Vec::new();
    for (name, group) in groups {
        let depth = depths[&group.stack];
        let (shape, sources) = group.complete(&name, depth, reader.as_ref())?;
        stacked.push((name, shape, sources));
    }
    let others: Vec<String> =
        reader.names().into_iter().filter(|name| place(name).is_none()).map(str::to_owned).collect();
    let mut view = View::empty(reader);
    for name in others {
        view.add(name.clone(), name)?;
    }
    for (name, shape, sources) in stacked {
        view.add_stacked(name, &shape, sources)?;
    }
    Ok(Box::new(view))
}

/// The tensors that become one.
struct Group {
    stack: String,
    /// Numbers and names of layers, in the order of the checkpoint.
    layers: Vec<(usize, String)>,
}

impl Group {
    /// Shape of one layer, and the names of all in order.
    fn complete(
        mut self,
        name: &str,
        depth: usize,
        reader: &dyn Reader,
    ) -> Result<(Shape, Vec<String>), Error> {
        let broken = |layer: usize, problem: String| Error::Layers {
            path: reader.path().to_owned(),
            name: name.to_owned(),
            layer,
            problem,
        };
        self.layers.sort();
        let numbers = self.layers.iter().map(|(layer, _)| *layer);
        let in_order = numbers.zip(0..).take_while(|(layer, expected)| layer == expected).count();
        if in_order < depth {
            return Err(broken(in_order, format!("is missing, the last layer is {}", depth - 1)));
        }
        let shape = reader.shape(&self.layers[0].1)?.clone();
        for (layer, source) in &self.layers {
            let other = reader.shape(source)?;
            if *other != shape {
                return Err(broken(*layer, format!("is {other}, layer 0 is {shape}")));
            }
        }
        Ok((shape, self.layers.into_iter().map(|(_, name)| name).collect()))
    }
}

/// `…Transformer/encoderblock_N/…` and `…layers/N/…`.
fn place(name: &str) -> Option<Place> {
    let parts: Vec<&str> = name.split('/').collect();
    for (i, pair) in parts.windows(2).enumerate() {
        let vit = if pair[0] == "Transformer" { pair[1].strip_prefix("encoderblock_") } else { None };
        let gemma = (pair[0] == "layers").then_some(pair[1]);
        let Some(layer) = vit.or(gemma).and_then(number) else { continue };
        let mut stack = parts[..=i].join("/");
        if vit.is_some() {
            stack.push_str("/encoderblock");
        }
        let inner = parts[i + 2..].join("/");
        return (!inner.is_empty()).then_some(Place { stack, layer, inner });
    }
    None
}

/// A number as Python writes it: `7`, not `07`.
pub(crate) fn number(text: &str) -> Option<usize> {
    let number: usize = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::HostArray;
    use crate::checkpoint::npz::{self, Npz};

    /// Layers of the given names, each with its position as value.
    fn stacked(names: &[&str]) -> Result<Box<dyn Reader>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let mut writer = npz::Writer::create(&path).unwrap();
        for (i, name) in names.iter().enumerate() {
            writer.write(name, &HostArray::new([2], &[i as f32, 0.5]).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        stack(Box::new(Npz::open(&path).unwrap()))
    }

    #[test]
    fn layers_are_put_in_the_order_of_their_numbers() {
        let names: Vec<String> =
            (0..12).rev().map(|layer| format!("img/Transformer/encoderblock_{layer}/a/b")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.extend(["llm/layers/0/w", "llm/final_norm/scale", "llm/layers/1/w", "txt/encoderblock_1/w"]);
        names.extend(["opt/1/0/1/llm/layers/0/w", "opt/1/0/1/llm/layers/1/w"]);
        let reader = stacked(&names).unwrap();
        let mut found = reader.names();
        found.sort();
        assert_eq!(
            found,
            [
                "img/Transformer/encoderblock/a/b",
                "llm/final_norm/scale",
                "llm/layers/w",
                "opt/1/0/1/llm/layers/w",
                "txt/encoderblock_1/w"
            ]
        );
        let array = reader.read("img/Transformer/encoderblock/a/b").unwrap();
        assert_eq!(array.dims(), [12, 2]);
        let first: Vec<f64> = array.to_f64().into_iter().step_by(2).collect();
        assert_eq!(first, (0..12).rev().map(f64::from).collect::<Vec<_>>());
        assert_eq!(reader.read("opt/1/0/1/llm/layers/w").unwrap().to_f64(), [16.0, 0.5, 17.0, 0.5]);
    }

    #[test]
    fn what_is_no_stack_is_explained() {
        let message = |names: &[&str]| stacked(names).err().unwrap().to_string();
        let gap = ["layers/0/w", "layers/2/w"];
        assert!(message(&gap).ends_with("layer 1 of \"layers/w\" is missing, the last layer is 2"));
        let uneven = ["layers/0/w", "layers/1/w", "layers/0/v"];
        assert!(message(&uneven).ends_with("layer 1 of \"layers/v\" is missing, the last layer is 1"));
        let huge = ["layers/0/w", "layers/18446744073709551615/w"];
        assert!(message(&huge).contains("layer 1 of \"layers/w\" is missing"));
        let twice = ["layers/0/w", "layers/1/w", "layers/w"];
        assert!(message(&twice).starts_with("tensor \"layers/w\" occurs twice"));
        // Numbers that nobody writes, and layers without a name, are names like any other.
        assert_eq!(stacked(&["layers/00/w", "layers/0"]).unwrap().names(), ["layers/00/w", "layers/0"]);
    }
}
