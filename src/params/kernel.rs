//! What the axes of the model's kernels mean: for those who add a product of two thin matrices to them.

/// A parameter by which a layer multiplies.
///
/// Its axes are, in memory, the layers (where they are stacked), the groups, and then inputs and outputs in some
/// order. A group is a matrix of its own that shares its input with the others: keys and values, the two halves of
/// a gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    pub name: &'static str,
    pub is_stacked: bool,
    /// A letter for each axis of one layer, those of `models/ppp/gemma.py` and `models/vit.py`.
    axes: &'static str,
    /// The first of `axes`, where it counts groups.
    num_groups: usize,
    /// Those of `axes` that are summed over.
    inputs: &'static str,
}

const fn stacked(name: &'static str, axes: &'static str, num_groups: usize, inputs: &'static str) -> Kernel {
    Kernel { name, is_stacked: true, axes, num_groups, inputs }
}

#[rustfmt::skip]
const KERNELS: [Kernel; 13] = [
    stacked("img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel", "DF", 0, "D"),
    stacked("img/Transformer/encoderblock/MlpBlock_0/Dense_1/kernel", "FD", 0, "F"),
    stacked("img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/kernel", "DNH", 0, "D"),
    stacked("img/Transformer/encoderblock/MultiHeadDotProductAttention_0/out/kernel", "NHD", 0, "NH"),
    stacked("img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel", "DNH", 0, "D"),
    stacked("img/Transformer/encoderblock/MultiHeadDotProductAttention_0/value/kernel", "DNH", 0, "D"),
    Kernel { name: "img/head/kernel", is_stacked: false, axes: "WD", num_groups: 0, inputs: "W" },
    stacked("llm/layers/attn/attn_vec_einsum/w", "NHD", 0, "NH"),
    stacked("llm/layers/attn/kv_einsum/w", "CKDH", 1, "D"),
    stacked("llm/layers/attn/q_einsum/w", "NDH", 0, "D"),
    stacked("llm/layers/attn/qkv_einsum/w", "CKDH", 1, "D"),
    stacked("llm/layers/mlp/gating_einsum", "CDF", 1, "D"),
    stacked("llm/layers/mlp/linear", "FD", 0, "F"),
];

/// The extents of a kernel, by what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelDims {
    /// The layers, where they are stacked.
    pub layers: Vec<usize>,
    pub groups: Vec<usize>,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
}

impl Kernel {
    /// The kernel of this name; `None` for parameters that are none, such as norms, biases and embeddings.
    pub fn find(name: &str) -> Option<&'static Kernel> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }

    /// The extents of an array that has this kernel's axes; `None` where their number differs.
    pub fn dims(&self, dims: &[usize]) -> Option<KernelDims> {
        let (layers, of_layer) = dims.split_at_checked(usize::from(self.is_stacked))?;
        let (groups, matrix) = of_layer.split_at_checked(self.num_groups)?;
        let letters = &self.axes[self.num_groups..];
        if matrix.len() != letters.len() {
            return None;
        }
        let pick = |wanted: bool| {
            let axes = letters.chars().zip(matrix);
            axes.filter(|(axis, _)| self.inputs.contains(*axis) == wanted).map(|(_, &dim)| dim).collect()
        };
        Some(KernelDims {
            layers: layers.to_vec(),
            groups: groups.to_vec(),
            inputs: pick(true),
            outputs: pick(false),
        })
    }

    /// How many axes of one layer come before those that are summed over. They count matrices `[inputs, outputs]`.
    pub fn num_counting_axes(&self) -> usize {
        self.axes.chars().take_while(|axis| !self.inputs.contains(*axis)).count()
    }

    /// How many axes are summed over.
    pub fn num_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Which axes of an array of this kernel are summed over, all layers and groups before them counted.
    pub fn input_axes(&self) -> Vec<usize> {
        let first = usize::from(self.is_stacked);
        let axes = self.axes.chars().enumerate();
        axes.filter(|(_, axis)| self.inputs.contains(*axis)).map(|(i, _)| first + i).collect()
    }
}

impl KernelDims {
    /// How many matrices the kernel consists of: one for each layer and group, in the order in which they lie.
    pub fn num_slots(&self) -> usize {
        self.layers.iter().chain(&self.groups).product()
    }

    /// Inputs and outputs of one of them.
    pub fn slot(&self) -> (usize, usize) {
        (self.inputs.iter().product(), self.outputs.iter().product())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_told_apart() {
        let kernel = Kernel::find("llm/layers/attn/kv_einsum/w").unwrap();
        let dims = kernel.dims(&[18, 2, 1, 2048, 256]).unwrap();
        assert_eq!((&dims.layers[..], &dims.groups[..]), (&[18][..], &[2][..]));
        assert_eq!((&dims.inputs[..], &dims.outputs[..]), (&[2048][..], &[1, 256][..]));
        assert_eq!((dims.num_slots(), dims.slot()), (36, (2048, 256)));
        assert_eq!(kernel.input_axes(), [3]);
        let out = Kernel::find("llm/layers/attn/attn_vec_einsum/w").unwrap();
        assert_eq!(out.dims(&[18, 8, 256, 2048]).unwrap().slot(), (2048, 2048));
        assert_eq!(out.input_axes(), [1, 2]);
        assert_eq!(out.dims(&[8, 256, 2048]), None);
        assert_eq!(Kernel::find("llm/final_norm/scale"), None);
    }

    #[test]
    fn letters_and_inputs_fit_together() {
        for kernel in KERNELS {
            let axes = kernel.axes;
            assert!(kernel.inputs.chars().all(|axis| axes[kernel.num_groups..].contains(axis)), "{axes}");
            assert!(axes.len() > kernel.num_groups + kernel.inputs.len(), "{axes}");
        }
    }
}
