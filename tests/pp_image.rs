//! Image ops against recordings of big_vision on TensorFlow, and of the fine-tuning notebook.

use std::fs;
use std::path::{Path, PathBuf};

use paligemma::array::HostArray;
use paligemma::pp::{self, DecodeOptions, Env, Example, Pipeline, Value};
use paligemma::verify::{self, Check, CheckReport, Measure, Report};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

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

fn pixel(image: &HostArray, y: usize, x: usize) -> &[u8] {
    &image.bytes()[(y * image.dims()[1] + x) * 3..][..3]
}

fn replay(dir: &Path) -> Report {
    // Nothing here needs a device.
    verify::replay(&|| panic!("no client is needed"), dir, &verify::Options::default()).unwrap()
}

#[test]
fn chains_and_the_notebook_match_their_recordings() {
    let report = replay(&data(""));
    assert!(report.passed(), "{}", report.to_text(false));
    let [CheckReport { check: Check::Image, rows }] = &report.cases[0].checks[..] else {
        panic!("{report:?}");
    };
    let of = |part: &str| rows.iter().filter(|row| row.name.contains(part)).count();
    assert_eq!((rows.len(), of(".jpg "), of("notebook "), of("resize")), (219, 85, 8, 152));
    // All are exact where sine and exponential functions are the recording machine's; elsewhere few values are off.
    let off = rows.iter().filter(|row| row.error > 0.0 && row.tolerance.measure == Measure::Levels);
    assert!(off.count() <= 4, "{}", report.to_text(true));
}

#[test]
fn one_wrong_pixel_fails_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("files")).unwrap();
    fs::copy(data("files/tiny_2x3.png"), dir.path().join("files/tiny_2x3.png")).unwrap();
    let case = cases("pp_image.json").into_iter().find(|case| case["image"] == "tiny_2x3.png").unwrap();
    let key = case["key"].as_str().unwrap();
    let tensors = read("pp_image.safetensors");
    let tensor = SafeTensors::deserialize(&tensors).unwrap().tensor(key).unwrap();
    let mut pixels = tensor.data().to_vec();
    pixels[4] ^= 1;
    let wrong = TensorView::new(tensor.dtype(), tensor.shape().to_vec(), &pixels).unwrap();
    let file = safetensors::serialize([(key, wrong)], None).unwrap();
    fs::write(dir.path().join("pp_image.safetensors"), file).unwrap();
    fs::write(dir.path().join("pp_image.json"), serde_json::json!({ "cases": [case] }).to_string()).unwrap();
    let report = replay(dir.path());
    assert!(!report.passed());
    assert!(report.to_text(false).contains("tiny_2x3.png decode  u8[2,3,3]"), "{}", report.to_text(false));
}

/// Also the files whose pixels are too many to be recorded here.
#[test]
fn decoded_pixels_are_exact() {
    let digests: Json = serde_json::from_slice(&read("decoded.json")).unwrap();
    let mut compared = 0;
    for (image, kinds) in digests.as_object().unwrap() {
        for (kind, chain) in [("decode", "decode"), ("decode_precise", "decode(precise=True)")] {
            let Some(expected) = kinds[kind].as_str() else { continue };
            let got = run(chain, &serde_json::json!({ "image": image })).unwrap();
            let digest: String =
                Sha256::digest(got.bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, expected, "{image} {chain}");
            compared += 1;
        }
    }
    assert_eq!(compared, 48);
}

#[test]
fn webp_files_are_read_too() {
    for image in ["lossy_77x91.webp", "lossless_77x91.webp"] {
        let case = serde_json::json!({ "image": image });
        assert_eq!(run("decode", &case).unwrap().dims(), [77, 91, 3]);
        assert!(run("decode(precise=True)", &case).is_err());
    }
}

#[test]
fn exif_turns_images_when_asked_to() {
    let case = serde_json::json!({ "image": "exif_120x80.jpg" });
    let (stored, turned) = (run("decode", &case).unwrap(), run("decode(exif=True)", &case).unwrap());
    assert_eq!((stored.dims(), turned.dims()), (&[120, 80, 3][..], &[80, 120, 3][..]));
    // Orientation 6: what is stored left is seen on top, from its lower end on.
    for (y, x) in [(0, 0), (17, 99), (79, 119)] {
        assert_eq!(pixel(&turned, y, x), pixel(&stored, 119 - x, y));
    }
    let case = serde_json::json!({ "image": "photo_427x640.jpg" });
    assert_eq!(run("decode", &case).unwrap(), run("decode(exif=True)", &case).unwrap());
}

/// Every prefix of every kind of JPEG file, as a transfer that broke off leaves it, is an error that says so.
#[test]
fn cut_files_are_errors() {
    for image in ["odd420_49x35.jpg", "progressive_150x200.jpg", "cmyk_96x128.jpg", "gray_75x101.jpg"] {
        let encoded = read(&format!("files/{image}"));
        for end in (0..encoded.len()).step_by(97).chain([encoded.len() - 2, encoded.len() - 1]) {
            let error = pp::decode(&encoded[..end], &DecodeOptions::default()).unwrap_err().to_string();
            let says_so =
                ["it is cut", "the file is empty", "none of JPEG"].iter().any(|part| error.contains(part));
            assert!(says_so, "{image} cut at {end}: {error}");
        }
    }
}

#[test]
fn a_short_file_claims_no_large_image() {
    let mut encoded = read("files/odd420_49x35.jpg");
    let frame = encoded.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    encoded[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x40, 0]);
    let error = pp::decode(&encoded, &DecodeOptions::default()).unwrap_err().to_string();
    assert!(error.contains("it claims 8192x16384 pixels, more than its bytes can tell"), "{error}");
}

/// Any byte may be wrong: that gives other pixels or an error, and takes no longer than a good file.
#[test]
fn damaged_files_do_no_harm() {
    for image in [
        "odd422_51x63.jpg",
        "progressive_150x200.jpg",
        "cmyk_96x128.jpg",
        "adam7_45x58.png",
        "anim_50x60.gif",
    ] {
        let encoded = read(&format!("files/{image}"));
        for at in (0..encoded.len()).step_by(encoded.len() / 150 + 1) {
            for value in [0x00, 0xFF, 0xD9, encoded[at] ^ 0x10] {
                let mut damaged = encoded.clone();
                damaged[at] = value;
                let decoded = pp::decode(&damaged, &DecodeOptions::default());
                assert!(
                    decoded.is_ok_and(|image| image.dims()[2] == 3) || value != encoded[at],
                    "{image} {at}"
                );
            }
        }
    }
}

#[test]
fn random_ops_cut_and_mirror_what_is_there() {
    let case = serde_json::json!({ "image": "grad_37x53.png" });
    let env = Env::new(".");
    let original = run("decode", &case).unwrap();
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
    let resized: std::collections::HashSet<Vec<u8>> =
        (0..64).map(|seed| draw("resize_r((11, 19))", seed).bytes().to_vec()).collect();
    // Five methods with and without antialias; area has no antialias.
    assert_eq!(resized.len(), 9);
    assert_eq!(draw("random_jpeg(0)", 3), original);
    let rewritten = (0..64).filter(|&seed| draw("random_jpeg(0.5)", seed) != original).count();
    assert!((16..48).contains(&rewritten), "{rewritten}");
    let noise = draw("random_jpeg(1.0)", 3)
        .to_f64()
        .iter()
        .zip(original.to_f64())
        .map(|(a, b)| (a - b).abs())
        .sum::<f64>();
    assert!((0.1..20.0).contains(&(noise / original.to_f64().len() as f64)), "{noise}");
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
