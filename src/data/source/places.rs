//! Indexes of records: where the rows of a set lie in its files, in few bytes a row.

use prost::encoding::{decode_varint, encode_varint};

use super::shards::Extent;

/// How records follow each other in a file: so many bytes come between, and what then is left to a multiple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spacing {
    pub gap: u64,
    pub align: u64,
}

/// Where rows are stored, in their order: two to four bytes a row where one follows the other, since the index of
/// a large set must not take the memory that the set does not.
#[derive(Debug)]
pub(super) struct Places {
    spacing: Spacing,
    parts: Vec<Part>,
}

/// Rows that were indexed together: those of one file.
#[derive(Debug, Default)]
struct Part {
    /// Rows before this part.
    before: usize,
    len: usize,
    /// The lengths of all rows, as varints of protocol buffers: few bytes for short ones.
    lens: Vec<u8>,
    marks: Vec<Mark>,
}

/// A row whose place is written down. The rows up to the next mark follow it, as their lengths say.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Number in the part.
    row: usize,
    /// Where its length begins.
    at: usize,
    offset: u64,
    shard: u32,
    number: u32,
}

/// A row's record, and the number of that record in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub extent: Extent,
    pub number: u32,
}

/// Rows from one mark to the next, at most: lengths that are added up when a row is looked for.
const MARK_ROWS: usize = 64;

impl Places {
    pub fn new(spacing: Spacing) -> Self {
        Places { spacing, parts: Vec::new() }
    }

    /// All rows of `places`, one after the other. They are not copied: threads that made them would keep the memory of
    /// the first copy.
    pub fn concat(spacing: Spacing, places: Vec<Places>) -> Self {
        let mut all = Places::new(spacing);
        for mut part in places.into_iter().flat_map(|places| places.parts) {
            part.before = all.len();
            part.lens.shrink_to_fit();
            part.marks.shrink_to_fit();
            all.parts.push(part);
        }
        all
    }

    pub fn push(&mut self, place: Place) {
        if self.parts.is_empty() {
            self.parts.push(Part::default());
        }
        if let Some(part) = self.parts.last_mut() {
            part.push(place, self.spacing);
        }
    }

    pub fn len(&self) -> usize {
        self.parts.last().map_or(0, |last| last.before + last.len)
    }

    pub fn get(&self, row: usize) -> Option<Place> {
        let part = self.parts[..self.parts.partition_point(|part| part.before <= row)].last()?;
        part.get(row - part.before, self.spacing)
    }

    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        (0..self.len()).filter_map(|row| Some(self.get(row)?.extent))
    }
}

impl Part {
    fn push(&mut self, place: Place, spacing: Spacing) {
        let Place { extent: Extent { offset, shard, len }, number } = place;
        let row = self.len;
        // The place, but for its length, that is not written down when it comes after the last row.
        let follower = row.checked_sub(1).and_then(|last| self.get(last, spacing)).map(|last| {
            (spacing.next(last.extent.offset, last.extent.len), last.extent.shard, last.number + 1)
        });
        let is_due = self.marks.last().is_none_or(|mark| row - mark.row >= MARK_ROWS);
        if is_due || follower != Some((offset, shard, number)) {
            self.marks.push(Mark { row, at: self.lens.len(), offset, shard, number });
        }
        encode_varint(len.into(), &mut self.lens);
        self.len += 1;
    }

    fn get(&self, row: usize, spacing: Spacing) -> Option<Place> {
        if row >= self.len {
            return None;
        }
        let mark = self.marks[..self.marks.partition_point(|mark| mark.row <= row)].last()?;
        let mut lens = &self.lens[mark.at..];
        let mut read = || decode_varint(&mut lens).ok().map(|len| len as u32);
        let (mut offset, mut len) = (mark.offset, read()?);
        for _ in mark.row..row {
            offset = spacing.next(offset, len);
            len = read()?;
        }
        let number = mark.number + (row - mark.row) as u32;
        Some(Place { extent: Extent { offset, shard: mark.shard, len }, number })
    }
}

impl Spacing {
    /// Where the record begins that follows one.
    fn next(self, offset: u64, len: u32) -> u64 {
        (offset + u64::from(len) + self.gap).next_multiple_of(self.align)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_come_back_wherever_they_are(
            rows in proptest::collection::vec((0u32..3000, 0u64..20, 0u32..30), 0..400), split in 0usize..400,
        ) {
            let spacing = Spacing { gap: 16, align: 4 };
            let (mut expected, mut end, mut shard, mut number) = (Vec::new(), 0u64, 0, 0);
            for (len, skip, change) in rows {
                // Now and then something else lies between two rows, or a file ends.
                end += if skip == 0 { 512 } else { 0 };
                (shard, number) = if change == 0 { (shard + 1, 7) } else { (shard, number + 1) };
                expected.push(Place { extent: Extent { offset: end, shard, len }, number });
                end = (end + u64::from(len) + 16).next_multiple_of(4);
            }
            let of = |rows: &[Place]| {
                let mut places = Places::new(spacing);
                rows.iter().for_each(|&place| places.push(place));
                places
            };
            let parts = expected.split_at(split.min(expected.len()));
            for places in [of(&expected), Places::concat(spacing, vec![of(parts.0), of(parts.1)])] {
                let got: Vec<Place> = (0..places.len()).filter_map(|row| places.get(row)).collect();
                prop_assert_eq!(&got, &expected);
                prop_assert_eq!(places.get(places.len()), None);
            }
        }
    }

    #[test]
    fn rows_that_follow_each_other_take_few_bytes() {
        let mut places = Places::new(Spacing { gap: 0, align: 512 });
        for row in 0..10_000 {
            places.push(Place {
                extent: Extent { offset: row * 1024, shard: 3, len: 700 },
                number: row as u32,
            });
        }
        assert_eq!(places.parts[0].marks.len(), 10_000usize.div_ceil(MARK_ROWS));
        assert_eq!(places.parts[0].lens.len(), 20_000);
        assert_eq!(places.get(9_999).unwrap().extent.offset, 9_999 * 1024);
    }
}
