//! Image ops against recordings of big_vision on TensorFlow, and of the fine-tuning notebook.

use std::path::PathBuf;

use paligemma::array::{DType, HostArray};
use paligemma::pp::{Env, Example, Pipeline, Value};
use safetensors::SafeTensors;
use serde_json::Value as Json;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/image").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).unwrap()
}

fn cases(name: &str) -> Vec<Json> {
    let recording: Json = serde_json::from_slice(&read(name)).unwrap();
    let cases = recording["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn run(chain: &str, case: &Json) -> Result<HostArray, String> {
    let mut example = Example::new();
    example.insert("image", Value::Bytes(read(&format!("files/{}", case["image"].as_str().unwrap()))));
    if let Some(bbox) = case.get("bbox") {
        let bbox: Vec<f32> = bbox.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        example.insert("bbox", bbox.as_slice());
    }
    let pipeline = Pipeline::parse(chain, &Env::new(".")).map_err(|error| error.to_string())?;
    let example = pipeline.run(example, 0).map_err(|error| error.to_string())?;
    Ok(example.get("image").unwrap().as_array().unwrap().clone())
}

/// The largest difference, the part of the values that differ by more than `exact`, and the mean difference.
fn compare(got: &HostArray, expected: &[u8], exact: f64) -> (f64, f64, f64) {
    let expected = HostArray::from_bytes(got.shape().clone(), expected).unwrap();
    let differences: Vec<f64> =
        got.to_f64().iter().zip(expected.to_f64()).map(|(a, b)| (a - b).abs()).collect();
    let largest = differences.iter().copied().fold(0.0, f64::max);
    let wrong = differences.iter().filter(|&&difference| difference > exact).count();
    let len = differences.len() as f64;
    (largest, wrong as f64 / len, differences.iter().sum::<f64>() / len)
}

#[test]
fn chains_match_big_vision() {
    let tensors = read("pp_image.safetensors");
    let tensors = SafeTensors::deserialize(&tensors).unwrap();
    let (mut compared, mut webp) = (0, 0);
    for case in cases("pp_image.json") {
        let (image, chain) = (case["image"].as_str().unwrap(), case["chain"].as_str().unwrap());
        let result = run(chain, &case);
        if image.ends_with(".webp") && !chain.contains("precise") {
            // TensorFlow cannot read it, we can.
            assert!(result.is_ok());
            webp += 1;
            continue;
        }
        let Some(key) = case["key"].as_str() else {
            assert!(result.is_err(), "{image} {chain} gave {result:?}");
            continue;
        };
        let got = result.unwrap_or_else(|error| panic!("{image} {chain}: {error}"));
        let expected = tensors.tensor(key).unwrap();
        assert_eq!(got.dims(), expected.shape(), "{image} {chain}");
        let is_float = expected.dtype() == safetensors::Dtype::F32;
        assert_eq!(got.dtype(), if is_float { DType::F32 } else { DType::U8 }, "{image} {chain}");
        let (largest, part, mean) = compare(&got, expected.data(), if is_float { 1e-4 } else { 0.0 });
        let what = format!("{image} {chain}: at most {largest}, {part} of the values, {mean} on average");
        if image.ends_with(".jpg") {
            // The decoder's IDCT and chroma upsampling are not libjpeg's; this holds it where it is.
            let (most, average) = match (is_float, chain.contains("precise=True")) {
                (false, true) => (8.0, 0.45),
                (false, false) => (12.0, 1.35),
                (true, _) => (0.1, 0.02),
            };
            assert!(largest <= most && mean <= average, "{what}");
            continue;
        }
        let behind_u8 = chain.find("resize") < chain.find("value_range");
        let (most, part_wrong) = match (is_float, behind_u8) {
            (false, _) => (1.0, 1e-3),
            (true, true) => (2.0 / 255.0 + 1e-6, 1e-3),
            (true, false) => (1e-4, 0.0),
        };
        assert!(largest <= most && part <= part_wrong, "{what}");
        compared += 1;
    }
    assert!(compared > 100 && webp > 0, "{compared} {webp}");
}

#[test]
fn random_ops_cut_and_mirror_what_is_there() {
    let case = serde_json::json!({ "image": "grad_37x53.png" });
    let env = Env::new(".");
    let original = run("decode", &case).unwrap();
    let pixel = |image: &HostArray, y: usize, x: usize| {
        let width = image.dims()[1];
        image.bytes()[(y * width + x) * 3..][..3].to_vec()
    };
    let draw = |chain: &str, seed: u64| {
        let mut example = Example::new();
        example.insert("image", original.clone());
        let example = Pipeline::parse(chain, &env).unwrap().run(example, seed).unwrap();
        example.get("image").unwrap().as_array().unwrap().clone()
    };
    let mut mirrored = 0;
    for seed in 0..64 {
        let image = draw("flip_lr", seed);
        if image != original {
            mirrored += 1;
            for (y, x) in [(0, 0), (36, 52), (7, 30)] {
                assert_eq!(pixel(&image, y, x), pixel(&original, y, 52 - x));
            }
        }
    }
    assert!((16..48).contains(&mirrored), "{mirrored}");

    let offsets: std::collections::HashSet<(usize, usize)> = (0..64)
        .map(|seed| {
            let cut = draw("random_crop((20, 30))", seed);
            assert_eq!(cut.dims(), [20, 30, 3]);
            let is_at = |&(y, x): &(usize, usize)| {
                (0..20).all(|i| (0..30).all(|j| pixel(&cut, i, j) == pixel(&original, y + i, x + j)))
            };
            let mut places = (0..=17).flat_map(|y| (0..=23).map(move |x| (y, x)));
            places.find(is_at).expect("the crop is a part of the image")
        })
        .collect();
    assert!(offsets.len() > 32, "{offsets:?}");
    assert_eq!(draw("inception_crop(16)", 5).dims(), [16, 16, 3]);
    assert_eq!(draw("inception_crop(16)", 5), draw("inception_crop(16)", 5));
    assert_ne!(draw("inception_crop(16)", 5), draw("inception_crop(16)", 6));
}

#[test]
fn absurd_sizes_are_errors() {
    let case = serde_json::json!({ "image": "thin_31x1000.png" });
    for chain in [
        "decode|resize(16777216)",
        "decode|resize_small(16777216)",
        "decode|convert_to_video(16777216)",
        "decode|pad_to_shape((16777216, 16777216, 3))",
        "decode|resize_long(0)",
        "decode|resize_long(1)",
        "decode|resize(0)",
    ] {
        let error = run(chain, &case).unwrap_err();
        assert!(!error.is_empty(), "{chain}");
    }
}

#[test]
fn the_notebook_matches() {
    let tensors = read("notebook.safetensors");
    let tensors = SafeTensors::deserialize(&tensors).unwrap();
    for case in cases("notebook.json") {
        let chain = "decode|resize(64, antialias=True, as_float=True)|value_range(-1, 1)";
        let got = run(chain, &case).unwrap();
        let expected = tensors.tensor(case["key"].as_str().unwrap()).unwrap();
        let (largest, _, _) = compare(&got, expected.data(), 0.0);
        // Of [-1, 1]; for JPEG files see above.
        let most = if case["image"].as_str().unwrap().ends_with(".jpg") { 8e-3 } else { 1e-4 };
        assert!(largest <= most, "{}: {largest}", case["image"]);
    }
}
