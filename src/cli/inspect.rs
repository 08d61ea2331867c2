//! `paligemma inspect`: what is in a checkpoint.

use std::io::{self, Write as _};
use std::path::PathBuf;

use regex::Regex;
use serde_json::{Value, json};

use super::Error;
use crate::array::Shape;
use crate::checkpoint::{self, Reader, Stats, View};
use crate::report::console::Console;
use crate::report::table::{Align, Table};
use crate::report::units::{binary_size, grouped, number};

/// Show the tensors of a checkpoint: names, shapes, dtypes, sizes, statistics, and which model it is
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A file or directory of any format; FILE:img shows a part
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Only tensors whose names contain a match of this regex
    #[arg(long, value_name = "REGEX")]
    only: Vec<Regex>,
    /// Everything under the names that stand in the file, also what is no parameter
    #[arg(long)]
    as_is: bool,
    /// Leave out minimum, maximum, mean and the number of NaNs, for which all data are read
    #[arg(long)]
    no_stats: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Row {
    name: String,
    shape: Shape,
    stats: Option<Stats>,
}

/// Prints the table on stdout.
///
/// # Errors
/// When the checkpoint cannot be opened or, where statistics are asked for, is damaged.
pub fn run(args: &Args, console: &Console) -> Result<(), Error> {
    let open = |path: &PathBuf| match args.as_is {
        true => checkpoint::open_as_is(path),
        false => checkpoint::open(path),
    };
    let whole = open(&args.checkpoint)?;
    let variant = checkpoint::variant::detect(whole.as_ref());
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|regex| regex.is_match(name));
    let reader = View::select(whole, is_wanted);
    let total =
        reader.names().iter().filter_map(|name| reader.find(name)).map(Shape::num_bytes).sum::<usize>();
    let transfer = (!args.no_stats).then(|| console.transfer("reading", total as u64));
    let mut rows = Vec::new();
    for name in reader.names() {
        let shape = reader.shape(name)?.clone();
        let stats = match &transfer {
            Some(transfer) => {
                let stats = Stats::of(&reader, name)?;
                transfer.advance(shape.num_bytes() as u64);
                Some(stats)
            }
            None => None,
        };
        rows.push(Row { name: name.to_owned(), shape, stats });
    }
    if let Some(transfer) = transfer {
        transfer.done();
    }
    let path = reader.path().display().to_string();
    let variant = variant.map(|variant| variant.to_string());
    let text = match args.json {
        true => format!("{:#}\n", to_json(&path, variant.as_deref(), &rows)),
        false => to_text(&path, variant.as_deref(), &rows),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(source)),
        _ => Ok(()),
    }
}

fn to_text(path: &str, variant: Option<&str>, rows: &[Row]) -> String {
    use Align::{Left, Right};
    let has_stats = rows.iter().any(|row| row.stats.is_some());
    let stats_header = ["min", "max", "mean", "NaN"].map(|name| (if has_stats { name } else { "" }, Right));
    let [min, max, mean, nan] = stats_header;
    let header = [("name", Left), ("shape", Left), ("dtype", Left), ("parameters", Right), ("bytes", Right)];
    let [name, shape, dtype, parameters, bytes] = header;
    let mut table = Table::new([name, shape, dtype, parameters, bytes, min, max, mean, nan]);
    for row in rows {
        let mut cells = vec![
            row.name.clone(),
            format!("{:?}", row.shape.dims()),
            row.shape.dtype().to_string(),
            grouped(row.shape.num_elements()),
            binary_size(row.shape.num_bytes()),
        ];
        if let Some(stats) = &row.stats {
            let finite = |value: f64| if stats.num_finite > 0 { number(value) } else { "-".to_owned() };
            cells.extend([finite(stats.min), finite(stats.max), finite(stats.mean())]);
            cells.push(match (stats.num_nan, stats.num_infinite) {
                (nan, 0) => grouped(nan),
                (nan, infinite) => format!("{} (+{} inf)", grouped(nan), grouped(infinite)),
            });
        }
        table.row(cells);
    }
    table.rule();
    let (elements, bytes) = totals(rows);
    let label = format!("total ({})", rows.len());
    table.row([label, String::new(), dtypes(rows).join(" "), grouped(elements), binary_size(bytes)]);
    format!("{path}: {}\n{table}", variant.unwrap_or("not a PaliGemma that is known by its shapes"))
}

fn to_json(path: &str, variant: Option<&str>, rows: &[Row]) -> Value {
    let (elements, bytes) = totals(rows);
    let tensor = |row: &Row| {
        let mut tensor = json!({
            "name": row.name,
            "shape": row.shape.dims(),
            "dtype": row.shape.dtype().name(),
            "bytes": row.shape.num_bytes(),
        });
        if let Some(stats) = &row.stats {
            // JSON has no infinities: where no element is finite, these are null.
            let finite = |value: f64| value.is_finite().then_some(value);
            tensor["min"] = json!(finite(stats.min));
            tensor["max"] = json!(finite(stats.max));
            tensor["mean"] = json!(finite(stats.mean()));
            tensor["num_nan"] = json!(stats.num_nan);
            tensor["num_infinite"] = json!(stats.num_infinite);
        }
        tensor
    };
    json!({
        "path": path,
        "variant": variant,
        "num_parameters": elements,
        "bytes": bytes,
        "tensors": rows.iter().map(tensor).collect::<Vec<_>>(),
    })
}

/// Number of elements, and of bytes.
fn totals(rows: &[Row]) -> (usize, usize) {
    rows.iter().fold((0, 0), |(elements, bytes), row| {
        (elements + row.shape.num_elements(), bytes + row.shape.num_bytes())
    })
}

/// Those that occur, in the order in which they do.
fn dtypes(rows: &[Row]) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        let name = row.shape.dtype().name();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
