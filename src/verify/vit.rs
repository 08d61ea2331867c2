//! A vision tower alone: its two forms of checkpoint, and position embeddings for other resolutions.

use std::path::Path;

use serde::Deserialize;

use super::program::run;
use super::recording::read_json;
use super::tolerance::{EXACT, VIT};
use super::{Error, Row};
use crate::array::{DType, HostArray};
use crate::checkpoint;
use crate::graph::RematPolicy;
use crate::model::{PoolType, PosEmb, SiglipConfig, Taps};
use crate::params::{ParamSpecs, Patterns};
use crate::runtime::Client;

pub(super) const FILE: &str = "vit.json";
const IO_FILE: &str = "vit_io.safetensors";
const RESAMPLE_FILE: &str = "resample_posemb.safetensors";
/// Layers one by one, and stacked.
const PARAMS_FILES: [&str; 2] = ["vit_unscanned.npz", "vit_scanned.npz"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    width: usize,
    depth: usize,
    mlp_dim: usize,
    num_heads: usize,
    patch_size: [usize; 2],
    pool_type: String,
    num_classes: usize,
    layer_norm_eps: f64,
    image_size: [usize; 2],
}

/// That both forms of the checkpoint are one, what the tower makes of images with it, and every resampling.
pub(super) fn vit(client: &Client, dir: &Path) -> Result<Vec<Row>, Error> {
    let recorded: Recorded = read_json(&dir.join(FILE))?;
    let config = recorded.model().map_err(|message| Error::Unsupported { path: dir.join(FILE), message })?;
    let specs = ParamSpecs::new(config.params(recorded.image_size, recorded.num_classes))?;
    let mut rows = Vec::new();
    let [unscanned, scanned] = PARAMS_FILES.map(|file| params(&dir.join(file), &specs));
    let (unscanned, scanned) = (unscanned?, scanned?);
    for ((name, got), expected) in specs.names().zip(&unscanned).zip(&scanned) {
        rows.push(Row::tensor(format!("stacked.{name}"), got, expected, EXACT)?);
    }

    let io = checkpoint::open(dir.join(IO_FILE))?;
    let image = io.read("image")?;
    let outputs = run(client, &specs, &unscanned, &[("image", &image)], |params, _, inputs| {
        let mut taps = Taps::all();
        let tokens = config.encode(params, &inputs[0], &mut taps)?;
        let encoded = taps.into_values().into_iter().find(|(name, _)| name == "img_encoded");
        let (_, encoded) = encoded.expect("every forward pass notes the encoded patches");
        Ok(vec![encoded, tokens])
    })?;
    for (name, got) in ["encoded", "zimg"].into_iter().zip(&outputs) {
        rows.push(Row::tensor(name, got, &io.read(name)?, VIT)?);
    }
    rows.extend(resampled(&dir.join(RESAMPLE_FILE))?);
    Ok(rows)
}

fn params(path: &Path, specs: &ParamSpecs) -> Result<Vec<HostArray>, Error> {
    let reader = checkpoint::open(path)?;
    let loaded = checkpoint::load_params(specs, reader.as_ref(), &Patterns::default())?;
    Ok(loaded.values.into_iter().flatten().collect())
}

/// Position embeddings for other resolutions: `AtoB.old`, on a grid of A by A, becomes `AtoB.new`.
fn resampled(path: &Path) -> Result<Vec<Row>, Error> {
    let recorded = checkpoint::open(path)?;
    let mut rows = Vec::new();
    for name in recorded.names() {
        let Some(case) = name.strip_suffix(".new") else { continue };
        let (old, new) = (recorded.read(&format!("{case}.old"))?, recorded.read(name)?);
        let sides = case.split_once("to").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        let Some((from, to)) = sides.filter(|(from, to)| is_grid(&old, *from) && is_grid(&new, *to)) else {
            let message = format!("{name} does not hold grids of the sides that it is called after");
            return Err(Error::Unsupported { path: path.to_owned(), message });
        };
        let got = checkpoint::resample_posemb(&old, from, to);
        rows.push(Row::tensor(format!("resampled.{case}"), &got, &new, EXACT)?);
    }
    Ok(rows)
}

fn is_grid(array: &HostArray, side: usize) -> bool {
    matches!(array.dims(), &[1, count, _] if side > 0 && side.checked_mul(side) == Some(count))
}

impl Recorded {
    fn model(&self) -> Result<SiglipConfig, String> {
        if self.pool_type != "none" {
            return Err(format!("pool_type is \"{}\", this program replays only none", self.pool_type));
        }
        if self.layer_norm_eps != 1e-6 {
            return Err(format!("layer_norm_eps is {}, this program replays only 1e-6", self.layer_norm_eps));
        }
        for (name, value) in [
            ("width", self.width),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("patch_size", self.patch_size[0].min(self.patch_size[1])),
        ] {
            if value == 0 {
                return Err(format!("{name} is 0"));
            }
        }
        Ok(SiglipConfig {
            width: self.width,
            depth: self.depth,
            mlp_dim: self.mlp_dim,
            num_heads: self.num_heads,
            patch_size: self.patch_size,
            pool_type: PoolType::None,
            posemb: PosEmb::Learn,
            dropout: 0.0,
            dtype_mm: DType::F32,
            remat_policy: RematPolicy::NothingSaveable,
            head_zeroinit: true,
        })
    }
}
