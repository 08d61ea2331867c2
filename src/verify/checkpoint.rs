//! Train states as big_vision writes them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::recording::{expect_names, read_json};
use super::tolerance::{EXACT, SUM_OF_ABS, sum_of};
use super::{Error, Row};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint;

/// The runs whose states a recording may hold, each in a folder of that name.
const RUNS: [&str; 2] = ["adam", "adafactor"];
/// The model that was trained, in a folder beside the recording.
const MODEL: &str = "gemma1";

#[derive(Debug, Deserialize)]
struct Recorded {
    arrays: BTreeMap<String, RecordedArray>,
}

#[derive(Debug, Deserialize)]
struct RecordedArray {
    shape: Vec<usize>,
    dtype: String,
    sum: f64,
    sum_abs: f64,
}

/// Shape, type and sums of every array of a state; and its parameters against those that the run ended with.
pub(super) fn states(dir: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for run in RUNS.into_iter().filter(|run| dir.join(run).is_dir()) {
        let folder = dir.join(run);
        let path = folder.join("arrays.json");
        let recorded: Recorded = read_json(&path)?;
        let reader = checkpoint::open_as_is(folder.join("checkpoint.bv-LAST"))?;
        expect_names(reader.as_ref(), recorded.arrays.keys().map(String::as_str))?;
        for (name, recorded) in &recorded.arrays {
            let array = reader.read(name)?;
            let name = format!("{run}.{name}");
            let dtype = recorded.dtype.parse::<DType>()?;
            let shape = Shape::new(dtype, recorded.shape.as_slice());
            if *array.shape() != shape {
                return Err(Error::OtherShape { name, recorded: shape, got: array.shape().clone() });
            }
            let values = array.to_f64();
            let (sum, sum_abs) = (values.iter().sum(), values.iter().map(|value| value.abs()).sum());
            rows.push(Row::number(format!("{name}.sum"), sum, recorded.sum, sum_of(recorded.sum_abs)));
            rows.push(Row::number(format!("{name}.sum_abs"), sum_abs, recorded.sum_abs, SUM_OF_ABS));
        }
        let finals = dir.with_file_name(MODEL).join(format!("{run}_params.safetensors"));
        if finals.is_file() {
            let finals = checkpoint::open(finals)?;
            let params = checkpoint::open(&folder)?;
            let compare = |name: &str| -> Result<Row, Error> {
                let (got, recorded): (HostArray, HostArray) = (params.read(name)?, finals.read(name)?);
                Row::tensor(format!("{run}.{name}"), &got, &recorded, EXACT)
            };
            rows.extend(finals.names().into_iter().map(compare).collect::<Result<Vec<_>, _>>()?);
        }
    }
    Ok(rows)
}
