//! A program as text, close to XLA's own dump, for people.

use std::collections::HashMap;
use std::fmt::{self, Display, Write as _};

use super::convert::dtype_of;
use super::emit::Module;
use super::proto::*;

impl Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let module = &self.0;
        write!(f, "HloModule {}", module.name)?;
        if let Some(alias) = &module.input_output_alias {
            let entries: Vec<String> = alias
                .entries
                .iter()
                .map(|e| {
                    format!("{{{}}}: ({}, {{}}, must-alias)", join(&e.output_shape_index), e.parameter_number)
                })
                .collect();
            write!(f, ", input_output_alias={{ {} }}", entries.join(", "))?;
        }
        writeln!(f)?;
        let names: HashMap<i64, &str> = module.computations.iter().map(|c| (c.id, c.name.as_str())).collect();
        for computation in &module.computations {
            let entry = if computation.id == module.entry_computation_id { "ENTRY " } else { "" };
            writeln!(f, "\n{entry}{} {{", computation.name)?;
            let operands: HashMap<i64, &str> =
                computation.instructions.iter().map(|i| (i.id, i.name.as_str())).collect();
            for instruction in &computation.instructions {
                let root = if instruction.id == computation.root_id { "ROOT " } else { "" };
                writeln!(f, "  {root}{}", line(instruction, &operands, &names))?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

fn line(i: &HloInstructionProto, names: &HashMap<i64, &str>, computations: &HashMap<i64, &str>) -> String {
    let operands: Vec<&str> = i.operand_ids.iter().map(|id| names[id]).collect();
    let arguments = match (&i.literal, i.opcode.as_str()) {
        (Some(literal), _) => value(literal),
        (None, "parameter") => i.parameter_number.to_string(),
        _ => operands.join(", "),
    };
    let mut text = format!("{} = {} {}({arguments})", i.name, shape(i.shape.as_ref()), i.opcode);
    let mut attribute = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {name}={value}");
    };
    match i.opcode.as_str() {
        "get-tuple-element" => attribute("index", i.tuple_index.to_string()),
        "iota" => attribute("iota_dimension", join(&i.dimensions)),
        "broadcast" | "transpose" | "concatenate" | "reverse" | "reduce" | "sort" => {
            attribute("dimensions", format!("{{{}}}", join(&i.dimensions)));
        }
        "compare" => attribute("direction", i.comparison_direction.clone()),
        "dynamic-slice" => {
            attribute("dynamic_slice_sizes", format!("{{{}}}", join(&i.dynamic_slice_sizes)));
        }
        "custom-call" => attribute("custom_call_target", format!("{:?}", i.custom_call_target)),
        _ => {}
    }
    if !i.slice_dimensions.is_empty() {
        let ranges: Vec<String> =
            i.slice_dimensions.iter().map(|s| format!("[{}:{}:{}]", s.start, s.limit, s.stride)).collect();
        attribute("slice", format!("{{{}}}", ranges.join(", ")));
    }
    if let Some(padding) = &i.padding_config {
        let dims: Vec<String> = padding
            .dimensions
            .iter()
            .map(|p| format!("{}_{}_{}", p.edge_padding_low, p.edge_padding_high, p.interior_padding))
            .collect();
        attribute("padding", dims.join("x"));
    }
    if let Some(dims) = &i.dot_dimension_numbers {
        for (name, dims) in [
            ("lhs_batch_dims", &dims.lhs_batch_dimensions),
            ("lhs_contracting_dims", &dims.lhs_contracting_dimensions),
            ("rhs_batch_dims", &dims.rhs_batch_dimensions),
            ("rhs_contracting_dims", &dims.rhs_contracting_dimensions),
        ] {
            if !dims.is_empty() {
                attribute(name, format!("{{{}}}", join(dims)));
            }
        }
    }
    if let Some(dims) = &i.gather_dimension_numbers {
        attribute("offset_dims", format!("{{{}}}", join(&dims.offset_dims)));
        attribute("collapsed_slice_dims", format!("{{{}}}", join(&dims.collapsed_slice_dims)));
        attribute("start_index_map", format!("{{{}}}", join(&dims.start_index_map)));
        attribute("slice_sizes", format!("{{{}}}", join(&i.gather_slice_sizes)));
    }
    if let Some(dims) = &i.scatter_dimension_numbers {
        attribute("update_window_dims", format!("{{{}}}", join(&dims.update_window_dims)));
        attribute("inserted_window_dims", format!("{{{}}}", join(&dims.inserted_window_dims)));
        let target = join(&dims.scatter_dims_to_operand_dims);
        attribute("scatter_dims_to_operand_dims", format!("{{{target}}}"));
    }
    if !i.called_computation_ids.is_empty() {
        let called: Vec<&str> = i.called_computation_ids.iter().map(|id| computations[id]).collect();
        attribute("calls", format!("{{{}}}", called.join(", ")));
    }
    if let Some(sharding) = &i.sharding {
        let tiles = join(&sharding.tile_assignment_dimensions);
        let devices = join(&sharding.tile_assignment_devices);
        attribute("sharding", format!("{{devices=[{tiles}]{devices}}}"));
    }
    if let Some(metadata) = &i.metadata {
        let place = match metadata.source_line {
            0 => String::new(),
            line => format!(" {}:{line}", metadata.source_file),
        };
        attribute("metadata", format!("{{{}{place}}}", metadata.op_name));
    }
    text
}

fn join<T: Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn shape(shape: Option<&ShapeProto>) -> String {
    match shape {
        None => "()".into(),
        Some(shape) if !shape.tuple_shapes.is_empty() => {
            let elements: Vec<String> = shape.tuple_shapes.iter().map(|s| self::shape(Some(s))).collect();
            format!("({})", elements.join(", "))
        }
        // An empty tuple is the only shape without an element type of its own.
        Some(shape) if shape.layout.is_none() => "()".into(),
        Some(shape) => format!("{}[{}]", dtype_of(shape), join(&shape.dimensions)),
    }
}

/// The literal's elements, cut after the first few.
fn value(literal: &LiteralProto) -> String {
    const SHOWN: usize = 8;
    fn head<T: Display>(values: &[T]) -> Option<String> {
        let shown = join(&values[..values.len().min(SHOWN)]);
        let more = if values.len() > SHOWN { ",…" } else { "" };
        (!values.is_empty()).then(|| format!("{shown}{more}"))
    }
    head(&literal.preds)
        .or_else(|| head(&literal.s32s))
        .or_else(|| head(&literal.s64s))
        .or_else(|| head(&literal.u32s))
        .or_else(|| head(&literal.u64s))
        .or_else(|| head(&literal.f32s))
        .or_else(|| head(&literal.f64s))
        .unwrap_or_else(|| "…".into())
}
