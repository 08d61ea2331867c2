use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Error, Row, Source, fingerprint, out_of_range};
use crate::data::{Value, mix};

/// Rows of noise, for trying out a run without its data: `image` (PNG bytes), `prefix`, `suffix`, `answer` and `label`
/// (texts of random words), `id`.
#[derive(Debug, Clone)]
pub struct Mock {
    rows: usize,
    seed: u64,
}

/// Side of a picture in pixels.
const SIDE: u32 = 96;
const MAX_WORDS: usize = 8;

impl Mock {
    pub fn new(rows: usize, seed: u64) -> Self {
        Mock { rows, seed }
    }
}

impl Source for Mock {
    fn len(&self) -> usize {
        self.rows
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        if index >= self.rows {
            return Err(out_of_range(self, index));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(mix(self.seed, index as u64));
        let noise = RgbImage::from_fn(SIDE, SIDE, |_, _| image::Rgb(rng.random()));
        let mut png = Cursor::new(Vec::new());
        noise
            .write_to(&mut png, ImageFormat::Png)
            .expect("noise of this size is a picture, and memory holds it");
        let mut words = |most: usize| {
            let count = rng.random_range(1..=most);
            let word =
                |_| (0..rng.random_range(1..=6)).map(|_| rng.random_range(b'a'..=b'z') as char).collect();
            (0..count).map(word).collect::<Vec<String>>().join(" ")
        };
        let mut row = Row::new();
        row.insert("prefix".into(), Value::Str(words(MAX_WORDS)));
        row.insert("suffix".into(), Value::Str(words(MAX_WORDS)));
        row.insert("answer".into(), Value::Str(words(1)));
        row.insert("label".into(), Value::Str(words(1)));
        row.insert("id".into(), Value::Int(index as i64));
        row.insert("image".into(), Value::Bytes(png.into_inner()));
        Ok(row)
    }

    fn describe(&self) -> String {
        format!("{} random rows", self.rows)
    }

    fn locate(&self, index: usize) -> String {
        format!("random row {index}")
    }

    fn fingerprint(&self) -> u64 {
        fingerprint([self.rows.to_string(), self.seed.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_noise_that_stays_the_same() {
        let source = Mock::new(3, 7);
        let row = source.get(2).unwrap();
        assert_eq!(row, source.get(2).unwrap());
        assert_ne!(row["image"], source.get(1).unwrap()["image"]);
        let image = image::load_from_memory(row["image"].as_bytes().unwrap()).unwrap();
        assert_eq!((image.width(), image.height()), (SIDE, SIDE));
        assert!(source.get(3).unwrap_err().to_string().contains("3 random rows"));
    }
}
