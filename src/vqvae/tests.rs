//! Against recordings of big_vision with random weights (tests/data/masks/README.md).

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::*;
use crate::array::HostArray;
use crate::checkpoint::{Reader, npz, safetensors::Safetensors};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/masks").join(name)
}

fn recorded() -> Safetensors {
    Safetensors::open(&data("segmentation.safetensors")).unwrap()
}

fn floats(array: &HostArray) -> Vec<f32> {
    array.values::<f32>().unwrap().to_vec()
}

#[test]
fn masks_give_the_references_codes() {
    let (reader, encoder) = (recorded(), Encoder::open(&data("vqvae_random.npz")).unwrap());
    let [masks, outputs, margins] =
        ["enc_masks", "enc_output", "enc_margin"].map(|name| floats(&reader.read(name).unwrap()));
    let indices = reader.read("enc_indices").unwrap();
    let indices = indices.values::<i32>().unwrap();
    let (mut worst, mut compared) = (0.0f32, 0);
    for (n, mask) in masks.chunks_exact(NUM_PIXELS).enumerate() {
        let mask: &[f32; NUM_PIXELS] = mask.try_into().unwrap();
        let output = encoder.output(mask);
        let expected = &outputs[n * output.len()..][..output.len()];
        worst = output.iter().zip(expected).fold(worst, |worst, (a, b)| worst.max((a - b).abs()));
        for (place, code) in encoder.encode(mask).into_iter().enumerate() {
            // Where two words are about as near, rounding decides.
            if margins[n * NUM_CODES + place] > 1e-2 {
                assert_eq!(i32::from(code), indices[n * NUM_CODES + place], "mask {n}, place {place}");
                compared += 1;
            }
        }
    }
    assert!(worst < 1e-4, "{worst}");
    assert!(compared > 180, "{compared} of {}", indices.len());
}

#[test]
fn codes_give_the_references_masks() {
    let (reader, decoder) = (recorded(), Decoder::open(&data("vqvae_random.npz")).unwrap());
    let indices = reader.read("dec_indices").unwrap();
    let indices: Vec<u8> = indices.values::<i32>().unwrap().iter().map(|&index| index as u8).collect();
    let codes: Vec<Codes> = indices.chunks_exact(NUM_CODES).map(|codes| codes.try_into().unwrap()).collect();
    let masks = decoder.decode_all(&codes).unwrap().concat();
    let expected = floats(&reader.read("dec_masks").unwrap());
    assert_eq!(masks.len(), expected.len());
    let worst = masks.iter().zip(&expected).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst < 1e-4, "{worst}");
    assert_eq!(
        decoder.decode(&[128; NUM_CODES]).unwrap_err().to_string(),
        "128 is no code word, there are 128"
    );
}

/// The evaluator's mask IoU of every recorded prediction.
#[test]
fn predictions_are_pasted_where_the_reference_pastes_them() {
    let (reader, decoder) = (recorded(), Decoder::open(&data("vqvae_random.npz")).unwrap());
    let json: Json = serde_json::from_slice(&std::fs::read(data("segmentation.json")).unwrap()).unwrap();
    let [loc0, seg0] = ["loc0", "seg0"].map(|key| json[key].as_i64().unwrap() as i32);
    let mut valid = 0;
    for example in json["evaluator"]["examples"].as_array().unwrap() {
        let ids: Vec<i32> =
            example["tokens"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        let truth = reader.read(example["mask"].as_str().unwrap()).unwrap();
        let &[height, width] = truth.dims() else { panic!("{}", truth.shape()) };
        let mask = Prediction::from_ids(&ids, loc0, seg0)
            .and_then(|prediction| prediction.mask(&decoder, height, width).unwrap());
        let expected = example["metrics"]["miou"].as_f64().unwrap();
        assert_eq!(mask.is_none(), example["metrics"]["invalid"] == 1, "{example}");
        let Some(mask) = mask else { continue };
        let both = mask.iter().zip(truth.bytes()).filter(|&(&mask, &truth)| mask && truth > 0).count();
        let either = mask.iter().zip(truth.bytes()).filter(|&(&mask, &truth)| mask || truth > 0).count();
        let iou = both as f64 / either as f64;
        // Two pixels of slack, as the recording's README has it.
        assert!((iou - expected).abs() <= 2.0 / either as f64, "{example}: {iou}");
        valid += 1;
    }
    assert!(valid > 10, "{valid}");
}

#[test]
fn predictions_need_four_locations_and_sixteen_codes() {
    let ids = |first: [i32; 4]| [&first.map(|id| 5000 + id)[..], &[6024; 16]].concat();
    let read = |ids: &[i32]| Prediction::from_ids(ids, 5000, 6024);
    let prediction = read(&ids([0, 1, 1023, 2])).unwrap();
    assert_eq!((prediction.bins, prediction.codes), ([0, 1, 1023, 2], [0; NUM_CODES]));
    assert_eq!(prediction.bbox()[2], 1.0);
    for wrong in [[3, 1, 3, 2], [0, 2, 1, 1], [-1, 1, 2, 2], [0, 0, 1024, 2]] {
        assert_eq!(read(&ids(wrong)), None, "{wrong:?}");
    }
    let good = ids([0, 0, 9, 9]);
    assert_eq!(read(&good[..19]), None);
    assert_eq!(read(&[&good[..19], &[6024 + 128]].concat()), None);
    assert_eq!(Prediction::from_ids(&[i32::MIN; 20], i32::MAX, i32::MAX), None);
}

#[test]
fn files_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vae.npz");
    let whole = npz::Npz::open(&data("vqvae_random.npz")).unwrap();
    let write = |change: &dyn Fn(&str, HostArray) -> Option<HostArray>| {
        let mut writer = npz::Writer::create(&path).unwrap();
        for name in whole.names() {
            if let Some(array) = change(name, whole.read(name).unwrap()) {
                writer.write(name, &array).unwrap();
            }
        }
        writer.finish().unwrap();
        (Encoder::open(&path).map(drop), Decoder::open(&path).map(drop))
    };
    let (encoder, decoder) = write(&|name, array| (!name.starts_with("encoder.8")).then_some(array));
    let error = encoder.unwrap_err().to_string();
    assert!(error.contains("encoder.8.net.0.weight"), "{error}");
    assert!(decoder.is_ok());
    let (encoder, decoder) = write(&|name, array| {
        Some(if name == "_vq_vae._embedding" {
            HostArray::new([64, 128], &floats(&array)).unwrap()
        } else {
            array
        })
    });
    let expected = format!(
        "{} is no mask VQ-VAE: \"_vq_vae._embedding\" has the shape f32[64,128], expected [128,any]",
        path.display()
    );
    assert_eq!(encoder.unwrap_err().to_string(), expected);
    assert_eq!(decoder.unwrap_err().to_string(), expected);
    let (encoder, decoder) = write(&|name, array| {
        Some(if name == "decoder.4.bias" { HostArray::new([2], &[0.0f32, 1.0]).unwrap() } else { array })
    });
    assert!(encoder.is_ok());
    let error = decoder.unwrap_err().to_string();
    assert!(error.ends_with("\"decoder.4.bias\" has the shape f32[2], expected [128]"), "{error}");
}
