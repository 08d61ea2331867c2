use indexmap::IndexMap;

use super::{Error, Fields, Processed};
use crate::array::{DType, HostArray, Shape};

/// Name of the array that tells real rows from padding, as in big_vision.
pub const MASK: &str = "_mask";

/// One host's share of a batch: `rows` is the batch size divided by the number of hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Each of shape `[rows, ...]`. With [`Remainder::Pad`](super::Remainder::Pad) there is a `pred` array
    /// [`MASK`] of shape `[rows]`, false where a row is padding, whose other arrays are zero there.
    pub arrays: IndexMap<String, HostArray>,
    /// `rows` texts each; empty for padding.
    pub strings: IndexMap<String, Vec<String>>,
    /// What evaluation needs of each row; empty for padding.
    pub fields: Vec<Fields>,
    /// Which row of the source stands where; `None` for padding. In a mixture, the rows of its sources are
    /// numbered one after the other.
    pub ids: Vec<Option<usize>>,
    /// Where the run stands once this batch is used: the [`start`](super::LoaderOptions::start) to resume at.
    pub position_after: u64,
    /// Rows of this host that failed and were passed over (`skip_errors`).
    pub num_skipped: u64,
}

/// A row in its place in the batch.
pub(super) struct Part {
    /// Number in the source and what became of it; `None` is padding.
    pub row: Option<(usize, Processed)>,
    pub num_skipped: u64,
}

/// Stacks rows in order. `template` says what to pad with when `parts` has no real row; `locate` names a row.
pub(super) fn stack(
    parts: Vec<Part>,
    position_after: u64,
    with_mask: bool,
    template: impl FnOnce() -> Result<(usize, Processed), Error>,
    locate: impl Fn(usize) -> String,
) -> Result<Batch, Error> {
    let rows = parts.len();
    let num_skipped = parts.iter().map(|part| part.num_skipped).sum();
    let mut made: Vec<Option<(usize, Processed)>> = parts.into_iter().map(|part| part.row).collect();
    let stand_in = if made.iter().all(Option::is_none) { Some(template()?) } else { None };
    let first = made.iter().flatten().next().or(stand_in.as_ref());
    let first = &first.expect("there is a real row, or the template was made").1;

    for (index, processed) in made.iter().flatten() {
        check_same(first, processed).map_err(|[name, expected, got]| Error::Ragged {
            row: locate(*index),
            name,
            expected,
            got,
        })?;
    }
    let likes: Vec<(String, Shape)> =
        first.arrays.iter().map(|(name, like)| (name.clone(), like.shape().clone())).collect();
    let strings = first.strings.keys().map(|name| {
        let text = |row: &Option<(usize, Processed)>| row.as_ref().map(|(_, row)| row.strings[name].clone());
        (name.clone(), made.iter().map(|row| text(row).unwrap_or_default()).collect())
    });
    let strings = strings.collect();
    let take = |row: &mut Option<(usize, Processed)>| {
        row.as_mut().map(|(_, row)| std::mem::take(&mut row.fields)).unwrap_or_default()
    };
    let fields = made.iter_mut().map(take).collect();
    let mut arrays: IndexMap<String, HostArray> = IndexMap::new();
    for (name, like) in likes {
        let stacked = stack_arrays(&name, &like, &mut made);
        arrays.insert(name, stacked);
    }
    if with_mask && !arrays.contains_key(MASK) {
        arrays.insert(MASK.to_owned(), mask(&made));
    }
    let ids = made.iter().map(|row| row.as_ref().map(|(index, _)| *index)).collect::<Vec<_>>();
    debug_assert_eq!(ids.len(), rows);
    Ok(Batch { arrays, strings, fields, ids, position_after, num_skipped })
}

/// The first difference in names or shapes: the name, what was expected, what there is.
fn check_same(expected: &Processed, got: &Processed) -> Result<(), [String; 3]> {
    let shape = |row: &Processed, name: &str| match row.arrays.get(name) {
        Some(array) => array.shape().to_string(),
        None => "no array".to_owned(),
    };
    for name in expected.arrays.keys().chain(got.arrays.keys()) {
        let shapes = [expected, got].map(|row| shape(row, name));
        if let [expected, got] = shapes
            && expected != got
        {
            return Err([name.clone(), expected, got]);
        }
    }
    let text = |row: &Processed, name: &str| {
        if row.strings.contains_key(name) { "a text" } else { "no text" }.to_owned()
    };
    match expected.strings.keys().chain(got.strings.keys()).find(|&n| text(expected, n) != text(got, n)) {
        Some(name) => Err([name.clone(), text(expected, name), text(got, name)]),
        None => Ok(()),
    }
}

/// Takes an array out of every row, so that a batch of pictures is not there twice while it is stacked.
fn stack_arrays(name: &str, like: &Shape, rows: &mut [Option<(usize, Processed)>]) -> HostArray {
    let dims: Vec<usize> = [rows.len()].into_iter().chain(like.dims().iter().copied()).collect();
    let mut out = HostArray::zeros(like.with_dims(dims));
    let row_bytes = like.num_bytes();
    if row_bytes > 0 {
        for (to, row) in out.bytes_mut().chunks_exact_mut(row_bytes).zip(rows) {
            if let Some(array) = row.as_mut().and_then(|(_, row)| row.arrays.swap_remove(name)) {
                to.copy_from_slice(array.bytes());
            }
        }
    }
    out
}

fn mask(rows: &[Option<(usize, Processed)>]) -> HostArray {
    let mut mask = HostArray::zeros(Shape::new(DType::Pred, [rows.len()]));
    mask.bytes_mut().iter_mut().zip(rows).for_each(|(to, row)| *to = row.is_some() as u8);
    mask
}
