use std::collections::HashMap;

use super::{Error, Init, nearest};
use crate::array::{HostArray, Shape};

/// One parameter of a model: what it is called, how large it is, how a fresh one is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// big_vision's flat name, such as `img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel`.
    pub name: String,
    pub shape: Shape,
    pub init: Init,
}

impl ParamSpec {
    pub fn new(name: impl Into<String>, shape: Shape, init: Init) -> Self {
        ParamSpec { name: name.into(), shape, init }
    }

    /// The same parameter of `depth` layers, stacked along a new leading axis as `scan` wants it. Every
    /// layer is drawn as one alone would be: the new axis is a batch axis of the initialiser.
    pub fn stacked(self, depth: usize) -> Self {
        let dims: Vec<usize> = [depth].iter().chain(self.shape.dims()).copied().collect();
        ParamSpec { name: self.name, shape: self.shape.with_dims(dims), init: self.init.stacked() }
    }

    /// The same parameter under `prefix/`.
    pub fn under(self, prefix: &str) -> Self {
        ParamSpec { name: format!("{prefix}/{}", self.name), ..self }
    }

    /// A fresh value; see [`Init::draw`].
    ///
    /// # Errors
    /// When the initialiser does not suit the shape.
    pub fn init(&self, seed: u64) -> Result<HostArray, Error> {
        self.init.draw(&self.name, &self.shape, seed)
    }
}

/// The parameters of a model in big_vision's order: that of a depth-first walk of the tree of names with
/// sorted keys, whatever the order they were declared in.
#[derive(Debug, Clone, Default)]
pub struct ParamSpecs {
    specs: Vec<ParamSpec>,
    index: HashMap<String, usize>,
}

impl ParamSpecs {
    /// # Errors
    /// When a name is malformed, is given twice, or is also the parent of another.
    pub fn new(specs: impl IntoIterator<Item = ParamSpec>) -> Result<Self, Error> {
        let mut specs: Vec<ParamSpec> = specs.into_iter().collect();
        specs.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
        if let Some(spec) = specs.iter().find(|spec| spec.name.split('/').any(str::is_empty)) {
            return Err(Error::BadName { name: spec.name.clone() });
        }
        // In this order a parent is directly followed by its children.
        for pair in specs.windows(2) {
            let (name, next) = (&pair[0].name, &pair[1].name);
            if name == next {
                return Err(Error::DuplicateName { name: name.clone() });
            }
            if next.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/')) {
                return Err(Error::ParameterAndParent { name: name.clone(), child: next.clone() });
            }
        }
        let index = specs.iter().enumerate().map(|(i, spec)| (spec.name.clone(), i)).collect();
        Ok(ParamSpecs { specs, index })
    }

    pub fn len(&self) -> usize {
        self.specs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, ParamSpec> {
        self.specs.iter()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.specs.iter().map(|spec| spec.name.as_str())
    }

    pub fn find(&self, name: &str) -> Option<&ParamSpec> {
        self.index.get(name).map(|&i| &self.specs[i])
    }

    /// # Errors
    /// When no parameter has this name; the error lists the nearest.
    pub fn get(&self, name: &str) -> Result<&ParamSpec, Error> {
        self.find(name)
            .ok_or_else(|| Error::UnknownName { name: name.to_owned(), nearest: nearest(name, self.names()) })
    }

    /// The position of a parameter in this list's order.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The parameters in the subtree `prefix` (`llm` holds `llm/final_norm/scale`, not `llm2/x`).
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a ParamSpec> {
        self.specs.iter().filter(move |spec| {
            spec.name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Number of scalars in all parameters together.
    pub fn num_elements(&self) -> usize {
        self.specs.iter().map(|spec| spec.shape.num_elements()).sum()
    }

    /// Size of all parameters together.
    pub fn num_bytes(&self) -> usize {
        self.specs.iter().map(|spec| spec.shape.num_bytes()).sum()
    }
}

impl<'a> IntoIterator for &'a ParamSpecs {
    type Item = &'a ParamSpec;
    type IntoIter = std::slice::Iter<'a, ParamSpec>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::DType;

    fn specs(names: &[&str]) -> Result<ParamSpecs, Error> {
        let spec = |name: &&str| ParamSpec::new(*name, Shape::new(DType::F32, [2, 3]), Init::Zeros);
        ParamSpecs::new(names.iter().map(spec))
    }

    #[test]
    fn the_order_is_that_of_the_sorted_tree() {
        // '-' sorts before '/', so that comparing whole strings would separate a's children.
        let specs = specs(&["b", "a/z", "a-b/c", "a/y/k"]).unwrap();
        assert_eq!(specs.names().collect::<Vec<_>>(), ["a/y/k", "a/z", "a-b/c", "b"]);
        assert_eq!(specs.position("a/z"), Some(1));
        assert_eq!(specs.under("a").count(), 2);
        assert_eq!(specs.num_elements(), 24);
        assert_eq!(specs.num_bytes(), 96);
    }

    #[test]
    fn impossible_trees_are_refused() {
        let message = |names: &[&str]| specs(names).unwrap_err().to_string();
        assert_eq!(message(&["a", "b", "a"]), "parameter \"a\" is declared twice");
        assert_eq!(message(&["a/b", "a"]), "\"a\" is a parameter and also the parent of parameter \"a/b\"");
        assert!(message(&["/a"]).contains("\"/a\" is not a path"));
        assert!(message(&["a//b"]).contains("is not a path"));
        let error = specs(&["final_norm/scale"]).unwrap().get("final_norm/scales").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no parameter is called \"final_norm/scales\", nearest: final_norm/scale"
        );
    }

    #[test]
    fn stacking_adds_a_leading_axis() {
        let spec = ParamSpec::new("w", Shape::new(DType::F32, [2, 3]), Init::Ones).stacked(5).under("llm");
        assert_eq!((spec.name.as_str(), spec.shape.dims()), ("llm/w", &[5, 2, 3][..]));
    }
}
