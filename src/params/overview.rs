//! The table of parameters that is shown after a model is loaded.

use super::ParamSpecs;

/// A row per parameter with shape, dtype, size and whether it is trained, then the totals.
pub fn overview(specs: &ParamSpecs, is_trained: impl Fn(&str) -> bool) -> String {
    let mut rows = vec![["name", "shape", "dtype", "parameters", "bytes", ""].map(str::to_owned)];
    // Number of parameters, scalars and bytes: trained, then frozen.
    let mut totals = [[0usize; 3]; 2];
    for spec in specs {
        let trained = is_trained(&spec.name);
        let (elements, bytes) = (spec.shape.num_elements(), spec.shape.num_bytes());
        for (total, more) in totals[usize::from(!trained)].iter_mut().zip([1, elements, bytes]) {
            *total += more;
        }
        rows.push([
            spec.name.clone(),
            format!("{:?}", spec.shape.dims()),
            spec.shape.dtype().to_string(),
            grouped(elements),
            binary_size(bytes),
            status(trained).to_owned(),
        ]);
    }
    let [trained, frozen] = totals;
    let all = [0, 1, 2].map(|i| trained[i] + frozen[i]);
    let last = rows.len();
    for (label, [count, elements, bytes]) in [("trained", trained), ("frozen", frozen), ("total", all)] {
        let name = format!("{label} ({count})");
        rows.push([name, String::new(), String::new(), grouped(elements), binary_size(bytes), String::new()]);
    }
    layout(&rows, &[1, last])
}

fn status(trained: bool) -> &'static str {
    if trained { "trained" } else { "frozen" }
}

/// Columns as wide as their widest cell, numbers to the right, a rule above the rows listed in `rules`.
fn layout(rows: &[[String; 6]], rules: &[usize]) -> String {
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        if rules.contains(&i) {
            text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
            text.push('\n');
        }
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let numeric = column == 3 || column == 4;
            let cell = if numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(if column == 0 { "" } else { "  " });
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.50 GiB`.
fn binary_size(bytes: usize) -> String {
    let (mut size, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.2} {unit}") }
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
