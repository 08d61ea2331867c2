//! The table of parameters that is shown after a model is loaded.

use super::table::{Align, Table};
use super::units::{binary_size, grouped};
use crate::params::ParamSpecs;

/// A row per parameter with shape, dtype, size and whether it is trained, then the totals.
pub fn overview(specs: &ParamSpecs, is_trained: impl Fn(&str) -> bool) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("name", Left),
        ("shape", Left),
        ("dtype", Left),
        ("parameters", Right),
        ("bytes", Right),
        ("", Left),
    ]);
    // Number of parameters, scalars and bytes: trained, then frozen.
    let mut totals = [[0usize; 3]; 2];
    for spec in specs {
        let trained = is_trained(&spec.name);
        let (elements, bytes) = (spec.shape.num_elements(), spec.shape.num_bytes());
        for (total, more) in totals[usize::from(!trained)].iter_mut().zip([1, elements, bytes]) {
            *total += more;
        }
        table.row([
            spec.name.clone(),
            format!("{:?}", spec.shape.dims()),
            spec.shape.dtype().to_string(),
            grouped(elements),
            binary_size(bytes),
            if trained { "trained" } else { "frozen" }.to_owned(),
        ]);
    }
    table.rule();
    let [trained, frozen] = totals;
    let all = [0, 1, 2].map(|i| trained[i] + frozen[i]);
    for (label, [count, elements, bytes]) in [("trained", trained), ("frozen", frozen), ("total", all)] {
        let name = format!("{label} ({count})");
        table.row([name, String::new(), String::new(), grouped(elements), binary_size(bytes)]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{DType, Shape};
    use crate::params::{Init, ParamSpec};

    #[test]
    fn the_table_lists_every_parameter_and_the_totals() {
        let spec =
            |name: &str, dtype, dims: &[usize]| ParamSpec::new(name, Shape::new(dtype, dims), Init::Zeros);
        let specs = ParamSpecs::new([
            spec("img/embedding/kernel", DType::BF16, &[14, 14, 3, 1152]),
            spec("llm/layers/attn/q_einsum/w", DType::F32, &[18, 8, 2048, 256]),
            spec("t", DType::F32, &[]),
        ])
        .unwrap();
        let text = overview(&specs, |name| name.starts_with("llm/"));
        assert_eq!(
            text,
            "\
name                        shape               dtype  parameters       bytes
--------------------------------------------------------------------------------------
img/embedding/kernel        [14, 14, 3, 1152]   bf16      677,376    1.29 MiB  frozen
llm/layers/attn/q_einsum/w  [18, 8, 2048, 256]  f32    75,497,472  288.00 MiB  trained
t                           []                  f32             1         4 B  frozen
--------------------------------------------------------------------------------------
trained (1)                                            75,497,472  288.00 MiB
frozen (2)                                                677,377    1.29 MiB
total (3)                                              76,174,849  289.29 MiB
"
        );
    }
}
