use super::{CODEBOOK_SIZE, Codes, Decoder, Error, NUM_CODES, SIDE, pillow};
use crate::tokenizer::NUM_LOC;

/// One object as a model describes it: `<locY1><locX1><locY2><locX2>` and 16 `<seg…>` tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// Edges y1, x1, y2, x2 as numbers of location tokens: 0 is one border of the image and 1023 the other.
    pub bins: [u16; 4],
    pub codes: Codes,
}

impl Prediction {
    /// Reads the first 20 of the `ids` that a model emitted; `loc0` and `seg0` are those of `<loc0000>` and
    /// `<seg000>`. `None` where there are too few, one is of another kind, or the box is empty.
    pub fn from_ids(ids: &[i32], loc0: i32, seg0: i32) -> Option<Self> {
        let number = |id: i32, first: i32, count: usize| {
            let number = usize::try_from(id.checked_sub(first)?).ok()?;
            (number < count).then_some(number)
        };
        let (loc, seg) = ids.get(..4 + NUM_CODES)?.split_at(4);
        let mut bins = [0; 4];
        for (bin, &id) in bins.iter_mut().zip(loc) {
            *bin = number(id, loc0, NUM_LOC)? as u16;
        }
        let mut codes = [0; NUM_CODES];
        for (code, &id) in codes.iter_mut().zip(seg) {
            *code = number(id, seg0, CODEBOOK_SIZE)? as u8;
        }
        let [y1, x1, y2, x2] = bins;
        (y2 > y1 && x2 > x1).then_some(Prediction { bins, codes })
    }

    /// The box's edges y1, x1, y2, x2 as fractions of the image.
    pub fn bbox(&self) -> [f64; 4] {
        self.bins.map(|bin| f64::from(bin) / (NUM_LOC - 1) as f64)
    }

    /// The mask in an image of `height` x `width` pixels, by rows: the decoded mask stretched over the box's
    /// pixels, and nothing outside of them. `None` where the box is so thin that it has no pixel.
    ///
    /// # Errors
    /// When a code is not in the codebook.
    pub fn mask(&self, decoder: &Decoder, height: usize, width: usize) -> Result<Option<Vec<bool>>, Error> {
        let [y1, x1, y2, x2] = self.bbox();
        let [top, bottom] = [y1, y2].map(|edge| (edge * height as f64) as usize);
        let [left, right] = [x1, x2].map(|edge| (edge * width as f64) as usize);
        if bottom <= top || right <= left {
            return Ok(None);
        }
        let decoded = decoder.decode(&self.codes)?;
        let stretched = pillow::resize(&decoded, [SIDE; 2], [bottom - top, right - left]);
        let mut mask = vec![false; height * width];
        for (y, row) in (top..bottom).zip(stretched.chunks_exact(right - left)) {
            let out = &mut mask[y * width + left..y * width + right];
            out.iter_mut().zip(row).for_each(|(out, &value)| *out = value > 0.0);
        }
        Ok(Some(mask))
    }
}
