use super::shards::Extent;

/// How records follow each other in a file: so many bytes come between, and what then is left to a multiple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spacing {
    pub gap: u64,
    pub align: u64,
}

/// Where rows are stored, in their order: about four bytes a row where one follows the other, since the index of a
/// large set must not take the memory that the set does not.
#[derive(Debug)]
pub(super) struct Places {
    spacing: Spacing,
    lens: Vec<u32>,
    marks: Vec<Mark>,
}

/// A row whose place is written down. The rows up to the next mark follow it, as their lengths say.
#[derive(Debug, Clone, Copy)]
struct Mark {
    row: usize,
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
        Places { spacing, lens: Vec::new(), marks: Vec::new() }
    }

    /// All rows of the parts, one part after the other.
    pub fn concat(spacing: Spacing, parts: &[Places]) -> Self {
        let sum = |count: fn(&Places) -> usize| parts.iter().map(count).sum();
        let lens = Vec::with_capacity(sum(|part| part.lens.len()));
        let marks = Vec::with_capacity(sum(|part| part.marks.len()));
        let mut all = Places { spacing, lens, marks };
        for part in parts {
            let before = all.len();
            all.marks.extend(part.marks.iter().map(|mark| Mark { row: before + mark.row, ..*mark }));
            all.lens.extend(&part.lens);
        }
        all
    }

    pub fn push(&mut self, place: Place) {
        let row = self.len();
        let follows = self.marks.last().is_some_and(|mark| row - mark.row < MARK_ROWS)
            && self.follower(row - 1) == Some((place.extent.offset, place.extent.shard, place.number));
        if !follows {
            let Place { extent: Extent { offset, shard, .. }, number } = place;
            self.marks.push(Mark { row, offset, shard, number });
        }
        self.lens.push(place.extent.len);
    }

    pub fn len(&self) -> usize {
        self.lens.len()
    }

    pub fn get(&self, row: usize) -> Option<Place> {
        let len = *self.lens.get(row)?;
        let mark = self.marks[..self.marks.partition_point(|mark| mark.row <= row)].last()?;
        let offset = self.lens[mark.row..row].iter().fold(mark.offset, |offset, &len| self.next(offset, len));
        let number = mark.number + (row - mark.row) as u32;
        Some(Place { extent: Extent { offset, shard: mark.shard, len }, number })
    }

    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        (0..self.len()).filter_map(|row| Some(self.get(row)?.extent))
    }

    /// The place, but for its length, that is not written down when it comes after a row.
    fn follower(&self, row: usize) -> Option<(u64, u32, u32)> {
        let Place { extent, number } = self.get(row)?;
        Some((self.next(extent.offset, extent.len), extent.shard, number + 1))
    }

    fn next(&self, offset: u64, len: u32) -> u64 {
        (offset + u64::from(len) + self.spacing.gap).next_multiple_of(self.spacing.align)
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
            for places in [of(&expected), Places::concat(spacing, &[of(parts.0), of(parts.1)])] {
                let got: Vec<Place> = (0..places.len()).filter_map(|row| places.get(row)).collect();
                prop_assert_eq!(&got, &expected);
                prop_assert_eq!(places.get(places.len()), None);
            }
        }
    }

    #[test]
    fn rows_that_follow_each_other_take_four_bytes() {
        let mut places = Places::new(Spacing { gap: 0, align: 512 });
        for row in 0..10_000 {
            places.push(Place {
                extent: Extent { offset: row * 1024, shard: 3, len: 700 },
                number: row as u32,
            });
        }
        assert_eq!(places.marks.len(), 10_000usize.div_ceil(MARK_ROWS));
        assert_eq!(places.get(9_999).unwrap().extent.offset, 9_999 * 1024);
    }
}
