//! Adapters of low rank beside kernels that are not trained (Hu et al., "LoRA", 2021), and how those are kept.

use crate::array::{DType, Shape};
use crate::params::{Distribution, Error, FanMode, Init, Kernel, ParamSpec, Quant};

/// Which kernels have adapters, and of what kind.
///
/// The adapter of `llm/layers/mlp/linear` consists of `lora/llm/layers/mlp/linear/a` and `…/b`, with magnitudes also
/// `…/m`; what they are is said at [`Params::product`](crate::nn::Params::product). `lora/alpha` is one number for all.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    /// What products of adapters are multiplied by, times the rank.
    pub alpha: f64,
    /// Rate at which inputs of adapters are dropped in training.
    pub dropout: f64,
    /// Whether kernels have magnitudes of their own (Liu et al., "DoRA", 2024).
    pub dora: bool,
    /// Names of the kernels that have adapters.
    pub kernels: Vec<String>,
    /// How stacked kernels are kept, adapted or not; `None` keeps floats.
    pub quant: Option<Quant>,
}

/// Below this lie the adapters of all parameters.
pub const LORA: &str = "lora";

impl LoraConfig {
    /// The parameters of a model with adapters, from those without.
    ///
    /// As in PEFT, `a` is uniform within `1 / sqrt(inputs)` and `b` zero, so that training begins at the base. Fresh
    /// magnitudes are ones here: the lengths of a base's kernels are known when it is read.
    ///
    /// # Errors
    /// When a kernel cannot be kept as `quant`.
    pub fn params(&self, base: Vec<ParamSpec>) -> Result<Vec<ParamSpec>, Error> {
        let mut specs = Vec::new();
        let f32s = |dims: Vec<usize>| Shape::new(DType::F32, dims);
        for spec in base {
            let kernel = Kernel::find(&spec.name);
            let dims = kernel.and_then(|kernel| kernel.dims(spec.shape.dims()));
            if let Some(dims) = dims.filter(|_| self.kernels.contains(&spec.name)) {
                let lead = [dims.layers, dims.groups].concat();
                let under = |part: &str| format!("{LORA}/{}/{part}", spec.name);
                let a = [&lead[..], &dims.inputs, &[self.rank]].concat();
                let b = [&lead[..], &[self.rank], &dims.outputs].concat();
                specs.push(ParamSpec::new(
                    under("a"),
                    f32s(a),
                    kaiming_uniform(lead.len(), dims.inputs.len()),
                ));
                specs.push(ParamSpec::new(under("b"), f32s(b), Init::Zeros));
                if self.dora {
                    specs.push(ParamSpec::new(under("m"), f32s([lead, dims.outputs].concat()), Init::Ones));
                }
            }
            match self.quant.filter(|_| is_quantised(&spec.name)) {
                None => specs.push(spec),
                Some(quant) => {
                    let (codes, scales) = quant.shapes(&spec.shape).ok_or_else(|| Error::NotQuantisable {
                        name: spec.name.clone(),
                        shape: spec.shape.clone(),
                        quant,
                    })?;
                    specs.push(ParamSpec::new(scale_name(&spec.name), scales, Init::Zeros));
                    specs.push(ParamSpec::new(spec.name, codes, Init::Zeros));
                }
            }
        }
        specs.push(ParamSpec::new(format!("{LORA}/alpha"), f32s(vec![]), Init::Constant(self.alpha)));
        Ok(specs)
    }
}

/// Whether a base in few bits has this parameter so: the kernels of all layers, and nothing else.
pub fn is_quantised(name: &str) -> bool {
    Kernel::find(name).is_some_and(|kernel| kernel.is_stacked)
}

/// What the scales of a kernel in few bits are called.
pub fn scale_name(kernel: &str) -> String {
    format!("quant/{kernel}/scale")
}

/// `torch.nn.init.kaiming_uniform_(a=sqrt(5))`: a variance of a third over the inputs, which follow `lead` axes.
fn kaiming_uniform(lead: usize, inputs: usize) -> Init {
    let axes = |range: std::ops::Range<usize>| range.map(|axis| axis as isize).collect::<Vec<_>>();
    let (in_axis, out_axis) = (axes(lead..lead + inputs), [(lead + inputs) as isize]);
    let init = Init::variance_scaling(1.0 / 3.0, FanMode::In, Distribution::Uniform, &in_axis, &out_axis);
    match init {
        Init::VarianceScaling(mut scaling) => {
            scaling.batch_axis = axes(0..lead);
            Init::VarianceScaling(scaling)
        }
        other => other,
    }
}
