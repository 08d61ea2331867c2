//! Products with kernels, which may be kept in few bits and may have adapters.

use super::{Params, dropout};
use crate::array::{DType, HostArray, Shape};
use crate::graph::{Result, RngAlgorithm, Value};
use crate::params::{Kernel, NF4, Quant};

impl Params {
    /// `x` times the kernel `name`, by an `einsum` of which the kernel is the second operand: `W x`, or with an
    /// adapter `W x + alpha / rank · B (A x)` (Hu et al., "LoRA", 2021). The kernel, whatever it is kept in, takes part
    /// in the type of `x`; a matrix of its size that is the sum of both never exists.
    ///
    /// An adapter is `a [groups.., inputs.., rank]` and `b [groups.., rank, outputs..]`, whose groups are the kernel's
    /// first axes. With magnitudes `m [groups.., outputs..]` the kernel's directions are learned apart from its
    /// lengths, `m · (W + BA) / |W + BA|`, and the lengths' gradient is left out as in the paper (Liu et al., "DoRA",
    /// 2024, section 4.3).
    #[track_caller]
    pub fn product(&self, name: &str, x: &Value, spec: &str) -> Result<Value> {
        self.product_with(name, None, x, spec)
    }

    /// As [`product`](Self::product), with one group of the kernel; `spec` lacks the axis of groups.
    #[track_caller]
    pub fn product_with_group(&self, name: &str, group: usize, x: &Value, spec: &str) -> Result<Value> {
        self.product_with(name, Some(group), x, spec)
    }

    #[track_caller]
    fn product_with(&self, name: &str, group: Option<usize>, x: &Value, spec: &str) -> Result<Value> {
        let of_group = |value: &Value| match group {
            Some(group) => value.index_in_dim(0, group),
            None => Ok(value.clone()),
        };
        let kept = self.get(name)?;
        let scales = self.part(name, "scale");
        let weight = match scales {
            None => of_group(kept)?.convert(x.dtype())?,
            Some(scales) => of_group(&dequantised(kept, scales, x.dtype())?)?,
        };
        let y = match self.pieces.get(name).filter(|_| scales.is_none()) {
            None => x.einsum(spec, &weight)?,
            Some(pieces) => {
                let of_group = pieces.len() / group.map_or(1, |_| kept.dims()[0]);
                let pieces = &pieces[group.unwrap_or(0) * of_group..][..of_group];
                product_of_pieces(x, spec, weight.dims(), pieces)?
            }
        };
        let Some(a) = self.part(name, "a") else { return Ok(y) };
        let b = self.builder();
        let _scope = b.scope("lora");
        let missing = |part: &str| b.error(format!("the adapter of {name} expects a parameter {part}"));
        let (a, up) = (of_group(a)?, of_group(self.part(name, "b").ok_or_else(|| missing("b"))?)?);
        let alpha = self.lora.alpha.as_ref().ok_or_else(|| missing("alpha"))?;
        let axes = Axes::new(spec, &a).ok_or_else(|| {
            b.error(format!("the adapter of {name} expects the axes of \"{spec}\", got {}", a.shape()))
        })?;
        let rank = a.dims()[a.rank() - 1];
        let scale = alpha.div_scalar(rank as f64)?;

        let input = match self.part(name, "state") {
            Some(state) => dropout(x, state, self.lora.dropout)?,
            None => x.clone(),
        };
        let hidden = input.einsum(&axes.down(), &a.convert(x.dtype())?)?.mul(&scale.convert(x.dtype())?)?;
        let y = y.add(&hidden.einsum(&axes.up(), &up.convert(x.dtype())?)?)?;
        let Some(magnitude) = self.part(name, "m") else { return Ok(y) };

        let wide = |value: &Value| value.convert(DType::F32);
        let sum = wide(&a)?.mul(&scale)?.einsum(&axes.sum(), &wide(&up)?)?.add(&wide(&weight)?)?;
        let inputs = axes.kernel.char_indices().filter(|(_, axis)| axes.inputs.contains(*axis));
        let inputs: Vec<usize> = inputs.map(|(i, _)| i).collect();
        let length = sum.square()?.reduce_sum(&inputs)?.sqrt()?.stop_gradient()?;
        let factor = of_group(magnitude)?.div(&length)?.convert(x.dtype())?;
        let places = axes.free.chars().filter_map(|axis| axes.result.find(axis));
        y.mul(&factor.broadcast_in_dim(y.dims(), &places.collect::<Vec<_>>())?)
    }

    fn part(&self, name: &str, part: &str) -> Option<&Value> {
        self.parts.get(&format!("{name}/{part}"))
    }

    /// The same parameters, whose adapters' inputs are dropped at this rate; `state` (`u64[2]`) is what random numbers
    /// are drawn from. For parameters under their full names. Groups of one kernel lose the same inputs.
    #[track_caller]
    pub fn with_adapter_dropout(&self, state: &Value, rate: f64) -> Result<Params> {
        // Another sequence than that of the model's own dropout, which begins at the same state.
        const OWN: [u64; 2] = [0x6c6f_7261, 0];
        let b = self.builder();
        let own = HostArray::new([2], &OWN).map_err(|error| b.error(error.to_string()))?;
        let mut state = state.xor(&b.constant(own)?)?;
        let mut params = self.clone();
        params.lora.dropout = rate;
        for (part, a) in &self.parts {
            let Some(name) = part.strip_suffix("/a") else { continue };
            let layers = Kernel::find(name).filter(|kernel| kernel.is_stacked).map(|_| a.dims()[0]);
            let dims: Vec<usize> = layers.into_iter().chain([2]).collect();
            let (next, states) =
                b.rng_bit_generator(RngAlgorithm::ThreeFry, &state, Shape::new(DType::U64, dims))?;
            state = next;
            params.parts.insert(format!("{name}/state"), states);
        }
        Ok(params)
    }
}

/// `x` times a kernel of these extents in pieces: the matrices that its first axes count, or parts of each along its first
/// input. The products do not depend on each other, so that they may run at the same time.
///
/// They are products of vectors and matrices as the pieces are them. Were a piece given its axes back, the compiler would
/// make its product one loop with that, of one thread and in an order that no cache likes.
#[track_caller]
fn product_of_pieces(x: &Value, spec: &str, dims: &[usize], pieces: &[Value]) -> Result<Value> {
    let unknown = || x.builder().error(format!("cannot cut the kernel of \"{spec}\" into {}", pieces.len()));
    let (operands, result) = spec.split_once("->").ok_or_else(unknown)?;
    let (operand, kernel) = operands.split_once(',').ok_or_else(unknown)?;
    let first_input = kernel.find(|axis| !result.contains(axis)).ok_or_else(unknown)?;
    let (counting, matrix) = kernel.split_at(first_input);
    let (count, dims) = dims.split_at_checked(first_input).ok_or_else(unknown)?;
    let num_inputs = matrix.chars().take_while(|axis| !result.contains(*axis)).count();
    let (inputs, outputs) = matrix.split_at(num_inputs);
    let kept = operand.strip_suffix(inputs).ok_or_else(unknown)?;
    let num_parts = pieces.len() / count.iter().product::<usize>();
    let rows = dims[0] / num_parts;
    let depth = rows * dims[1..num_inputs].iter().product::<usize>();
    let of_rows = x.dims()[..kept.len()].to_vec();

    let products = pieces.chunks(num_parts).map(|parts| {
        let products = parts.iter().enumerate().map(|(i, part)| {
            let x = x.slice_in_dim(kept.len(), i * rows, (i + 1) * rows)?;
            let x = x.reshape(&[&of_rows[..], &[depth]].concat())?;
            x.einsum(&format!("{kept}k,kn->{kept}n"), &part.convert(x.dtype())?)
        });
        let products = products.collect::<Result<Vec<_>>>()?;
        let product = match products.as_slice() {
            [product] => product.clone(),
            parts => {
                let stacked = Value::stack(&parts.iter().collect::<Vec<_>>(), 0)?;
                // Or the compiler would add each product to the one before, and wait for it.
                Value::optimization_barrier(&[&stacked])?[0].reduce_sum(&[0])?
            }
        };
        product.reshape(&[&of_rows[..], &dims[num_inputs..]].concat())
    });
    let products = products.collect::<Result<Vec<_>>>()?;
    if counting.is_empty() {
        return Ok(products[0].clone());
    }
    let all = Value::stack(&products.iter().collect::<Vec<_>>(), 0)?;
    let all = all.reshape(&[count, &all.dims()[1..]].concat())?;
    let axes = format!("{counting}{kept}{outputs}");
    let places = result.chars().filter_map(|axis| axes.find(axis)).collect::<Vec<_>>();
    all.transpose(&places)
}

/// The axes of a product by an adapter, as letters.
struct Axes {
    /// Of the operand, the kernel and the result.
    operand: String,
    kernel: String,
    result: String,
    groups: String,
    inputs: String,
    outputs: String,
    /// Groups and outputs: the kernel's axes that the result has.
    free: String,
}

impl Axes {
    /// Of `spec`, for an adapter whose `a` says how many groups there are.
    fn new(spec: &str, a: &Value) -> Option<Axes> {
        let (operands, result) = spec.split_once("->")?;
        let (operand, kernel) = operands.split_once(',')?;
        let (inputs, free): (String, String) = kernel.chars().partition(|&axis| !result.contains(axis));
        let num_groups = a.rank().checked_sub(inputs.len() + 1)?;
        let (groups, outputs) = free.split_at_checked(num_groups)?;
        Some(Axes {
            operand: operand.to_owned(),
            kernel: kernel.to_owned(),
            result: result.to_owned(),
            groups: groups.to_owned(),
            inputs,
            outputs: outputs.to_owned(),
            free: free.clone(),
        })
    }

    /// The operand's axes that are not summed over.
    fn rest(&self) -> String {
        self.operand.chars().filter(|axis| !self.inputs.contains(*axis)).collect()
    }

    fn down(&self) -> String {
        let Axes { operand, groups, inputs, .. } = self;
        format!("{operand},{groups}{inputs}r->{groups}{}r", self.rest())
    }

    fn up(&self) -> String {
        let Axes { groups, outputs, result, .. } = self;
        format!("{groups}{}r,{groups}r{outputs}->{result}", self.rest())
    }

    /// `a` times `b`, as the kernel lies.
    fn sum(&self) -> String {
        let Axes { groups, inputs, outputs, kernel, .. } = self;
        format!("{groups}{inputs}r,{groups}r{outputs}->{kernel}")
    }
}

/// The kernel of one layer from its codes and scales (`f32 [blocks]`).
fn dequantised(codes: &Value, scales: &Value, dtype: DType) -> Result<Value> {
    let b = codes.builder();
    let blocks = scales.dims()[0];
    let (values, dims) = match Quant::of_codes(codes.dtype()) {
        Some(Quant::Int8) => (codes.convert(DType::F32)?, codes.dims().to_vec()),
        Some(Quant::Nf4) => {
            let mut dims = codes.dims().to_vec();
            let last = dims.len() - 1;
            dims[last] *= 2;
            let wide = codes.convert(DType::S32)?;
            let low = wide.and(&wide.full_like(15.0)?)?;
            let high = wide.shift_right_logical(&wide.full_like(4.0)?)?;
            let table = HostArray::new([NF4.len()], &NF4).map_err(|error| b.error(error.to_string()))?;
            let code = Value::stack(&[&low, &high], last + 1)?;
            (b.constant(table)?.take(&code)?, dims)
        }
        None => return Err(b.error(format!("codes expect s8 or u8, got {}", codes.shape()))),
    };
    let elements: usize = dims.iter().product();
    let values = values.reshape(&[blocks, elements / blocks])?.mul(&scales.expand_dim(1)?)?;
    values.convert(dtype)?.reshape(&dims)
}
