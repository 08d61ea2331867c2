//! Activations of both towers.

use super::program::{Batch, Session};
use super::recording::expect_names;
use super::tolerance::{DECODER, EXACT, LOW_PRECISION_VIT, VIT};
use super::{Error, Row, Tolerance};
use crate::array::{DType, HostArray};
use crate::model::{PaliGemmaConfig, Taps};

pub(super) const FILE: &str = "forward.safetensors";
pub(super) const LOW_PRECISION_FILE: &str = "forward_low_precision_vit.safetensors";

pub(super) fn forward(session: &Session) -> Result<Vec<Row>, Error> {
    let recording = &session.recording;
    let batch = Batch::read(recording, "batch.safetensors")?;
    let mut rows = Vec::new();
    if recording.has(FILE) {
        let recorded = recording.tensors(FILE)?;
        let activations = activations(session, &recording.config, &batch)?;
        expect_names(recorded.as_ref(), activations.iter().map(|(name, _)| name.as_str()))?;
        for (name, got) in &activations {
            rows.push(Row::tensor(name, got, &recorded.read(name)?, tolerance(name))?);
        }
    }
    if recording.has(LOW_PRECISION_FILE) {
        let recorded = recording.tensors(LOW_PRECISION_FILE)?;
        let names = [("zimg.float16", DType::F16), ("zimg.bfloat16", DType::BF16)];
        expect_names(recorded.as_ref(), names.map(|(name, _)| name))?;
        for (name, dtype) in names {
            let mut config = recording.config.clone();
            config.img.dtype_mm = dtype;
            let activations = activations(session, &config, &batch)?;
            let zimg = activations.iter().find(|(tap, _)| tap == "zimg");
            let (_, zimg) = zimg.expect("every forward pass notes the image tokens");
            rows.push(Row::tensor(name, zimg, &recorded.read(name)?, LOW_PRECISION_VIT)?);
        }
    }
    Ok(rows)
}

/// Everything that the model notes on its way through `text[:, :-1]`.
fn activations(
    session: &Session,
    config: &PaliGemmaConfig,
    batch: &Batch,
) -> Result<Vec<(String, HostArray)>, Error> {
    let mut names = Vec::new();
    let values = session.run_batch(&session.params, batch, |inputs| {
        let mut taps = Taps::all();
        let last = inputs.text.dims()[1] - 1;
        let text = inputs.text.slice_in_dim(1, 0, last)?;
        let mask_ar = inputs.mask_ar.slice_in_dim(1, 0, last)?;
        config.forward(&inputs.model, &inputs.image, &text, &mask_ar, None, &mut taps)?;
        let (tapped, values) = taps.into_values().into_iter().unzip();
        names = tapped;
        Ok(values)
    })?;
    Ok(names.into_iter().zip(values).collect())
}

fn tolerance(name: &str) -> Tolerance {
    match name {
        "attn_mask" => EXACT,
        "ztxt" | "zimg" => VIT,
        name if name.starts_with("img_") => VIT,
        _ => DECODER,
    }
}
