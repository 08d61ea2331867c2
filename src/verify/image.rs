use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::recording::read_json;
use super::tolerance::{EXACT, FLOAT_IMAGE, IMAGE_LEVELS};
use super::{Error, Row};
use crate::array::{DType, HostArray};
use crate::checkpoint::{self, Reader};
use crate::pp::{Env, Example, Pipeline, Value};

pub(super) const FILE: &str = "pp_image.json";
const TENSORS_FILE: &str = "pp_image.safetensors";
const NOTEBOOK_FILE: &str = "notebook.json";
const NOTEBOOK_TENSORS_FILE: &str = "notebook.safetensors";

/// `pp_image.json` or `notebook.json`.
#[derive(Debug, Deserialize)]
struct Recorded<C> {
    cases: Vec<C>,
}

/// One image under one pp string.
#[derive(Debug, Deserialize)]
struct Case {
    image: String,
    chain: String,
    /// The tensor that the reference made; it could not make one if there is none.
    key: Option<String>,
    bbox: Option<[f32; 4]>,
}

/// One image under the notebook's `preprocess_image`.
#[derive(Debug, Deserialize)]
struct NotebookCase {
    image: String,
    size: usize,
    key: Option<String>,
}

/// Every pp string on every image of the folder, with a row that says whether both refuse where the reference
/// did; and what the fine-tuning notebook made of the images.
pub(super) fn images(dir: &Path) -> Result<Vec<Row>, Error> {
    let recorded: Recorded<Case> = read_json(&dir.join(FILE))?;
    let tensors = checkpoint::open(dir.join(TENSORS_FILE))?;
    let mut rows = Vec::new();
    for case in &recorded.cases {
        let name = format!("{} {}", case.image, case.chain);
        let got = run(dir, &case.image, &case.chain, case.bbox.as_ref())?;
        rows.extend(match &case.key {
            Some(key) => Some(row(name, got, key, tensors.as_ref(), &case.chain)?),
            // The reference reads no WebP files, we do.
            None if is_webp(&case.image) => None,
            None => Some(Row::number(name, f64::from(u8::from(got.is_none())), 1.0, EXACT)),
        });
    }
    if dir.join(NOTEBOOK_FILE).is_file() {
        rows.extend(notebook(dir)?);
    }
    Ok(rows)
}

/// The notebook decodes with another library, which is exact, and resizes without truncation.
fn notebook(dir: &Path) -> Result<Vec<Row>, Error> {
    let recorded: Recorded<NotebookCase> = read_json(&dir.join(NOTEBOOK_FILE))?;
    let tensors = checkpoint::open(dir.join(NOTEBOOK_TENSORS_FILE))?;
    let mut rows = Vec::new();
    for NotebookCase { image, size, key } in &recorded.cases {
        // It takes palette indices, inks and 16-bit samples for levels of red, green and blue; we do not.
        let taken_as_is = ["palette", "anim", "cmyk", "gray16", "la_", "bilevel"];
        let Some(key) = key.as_ref().filter(|_| !taken_as_is.iter().any(|kind| image.starts_with(kind)))
        else {
            continue;
        };
        let decode = if image.ends_with(".jpg") { "decode(precise=True)" } else { "decode" };
        let chain = format!("{decode}|resize({size}, antialias=True, as_float=True)|value_range(-1, 1)");
        let got = run(dir, image, &chain, None)?;
        rows.push(row(format!("notebook {image} {size}"), got, key, tensors.as_ref(), &chain)?);
    }
    Ok(rows)
}

/// The entry `image` at the end of the chain, or nothing where the chain refuses the file.
fn run(dir: &Path, image: &str, chain: &str, bbox: Option<&[f32; 4]>) -> Result<Option<HostArray>, Error> {
    let path = dir.join("files").join(image);
    let encoded = fs::read(&path).map_err(|source| Error::Io { path, source })?;
    let mut example = Example::new();
    example.insert("image", Value::Bytes(encoded));
    if let Some(bbox) = bbox {
        example.insert("bbox", bbox.as_slice());
    }
    let result = Pipeline::parse(chain, &Env::new(dir))?.run(example, 0);
    Ok(result.ok().and_then(|example| example.get("image").and_then(Value::as_array).cloned()))
}

fn row(
    name: String,
    got: Option<HostArray>,
    key: &str,
    tensors: &dyn Reader,
    chain: &str,
) -> Result<Row, Error> {
    let recorded = tensors.read(key)?;
    let Some(got) = got else {
        return Ok(Row::number(name, 0.0, 1.0, EXACT));
    };
    let is_truncated = chain.contains("resize") && !chain.contains("as_float");
    let of_levels = match (chain.find("resize"), chain.find("value_range")) {
        // Behind a float image a resize does not truncate.
        (Some(resize), Some(range)) => is_truncated && resize < range,
        _ => is_truncated,
    };
    match recorded.dtype() {
        DType::U8 => Row::tensor(name, &got, &recorded, if of_levels { IMAGE_LEVELS } else { EXACT }),
        _ if of_levels => {
            // From [-1, 1] to levels.
            let levels = |array: &HostArray| -> Result<HostArray, Error> {
                let scaled: Vec<f32> = array.to_f64().iter().map(|value| (value * 127.5) as f32).collect();
                Ok(HostArray::new(array.dims(), &scaled)?)
            };
            Row::tensor(name, &levels(&got)?, &levels(&recorded)?, IMAGE_LEVELS)
        }
        _ => Row::tensor(name, &got, &recorded, FLOAT_IMAGE),
    }
}

fn is_webp(name: &str) -> bool {
    name.ends_with(".webp")
}
