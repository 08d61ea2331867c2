//! Image files of any kind, the input being the file.

use std::fs;

use paligemma::pp::{DecodeOptions, decode};

use super::test_data;

pub fn run(data: &[u8]) -> Option<()> {
    let mut all = Some(());
    for options in [
        DecodeOptions::default(),
        DecodeOptions { channels: 0, accurate: true, exif: true },
        DecodeOptions { channels: 1, ..DecodeOptions::default() },
    ] {
        let Ok(image) = decode(data, &options) else {
            // Inks have no gray form.
            if options.channels != 1 {
                all = None;
            }
            continue;
        };
        let &[height, width, channels] = image.dims() else { panic!("{} is no image", image.shape()) };
        assert!(height > 0 && width > 0);
        assert!(if options.channels == 0 {
            (1..=4).contains(&channels)
        } else {
            channels == options.channels
        });
        assert!(decode(data, &options).expect("it was decoded before") == image, "the pixels change");
    }
    all
}

/// Small files of every kind that is read.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(test_data("image/files"))
        .expect("the images of the tests")
        .map(|entry| entry.expect("the images of the tests").path())
        .collect();
    paths.sort();
    let is_good = |path: &&std::path::PathBuf| {
        !path.file_name().unwrap_or_default().to_string_lossy().starts_with("bad_")
    };
    let files = paths.iter().filter(is_good).map(|path| fs::read(path).expect("an image of the tests"));
    files.filter(|file| file.len() < 20_000).collect()
}
