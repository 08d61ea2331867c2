//! Decoded blocks of rows, and the memory they lie in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::{Array, RecordBatch, make_array};
use arrow_data::ArrayData;
use memmap2::{MmapMut, MmapOptions};
use parquet::errors::ParquetError;
use prost::bytes::Bytes;

use super::Error;

/// Decoded blocks, those used last, for all threads.
#[derive(Debug)]
pub(super) struct Cache {
    /// The latest at the end.
    slots: Mutex<Vec<Slot>>,
    max_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    number: usize,
    batch: Arc<Mutex<Option<RecordBatch>>>,
    num_bytes: usize,
}

impl Cache {
    /// Holds blocks of `max_bytes` together, or a single one that is larger.
    pub fn new(max_bytes: usize) -> Self {
        Cache { slots: Mutex::default(), max_bytes }
    }

    /// A block, decoded by the first thread that asks for it while the others wait; `load` also gives its bytes.
    pub fn get(
        &self,
        number: usize,
        load: impl FnOnce() -> Result<(RecordBatch, usize), Error>,
    ) -> Result<RecordBatch, Error> {
        let cell = {
            let mut slots = self.lock();
            let slot = match slots.iter().position(|slot| slot.number == number) {
                Some(at) => slots.remove(at),
                None => Slot { number, batch: Arc::default(), num_bytes: 0 },
            };
            let cell = slot.batch.clone();
            slots.push(slot);
            cell
        };
        let mut batch = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = &*batch {
            return Ok(batch.clone());
        }
        let (loaded, num_bytes) = load()?;
        *batch = Some(loaded.clone());
        let mut slots = self.lock();
        if let Some(slot) = slots.iter_mut().find(|slot| slot.number == number) {
            slot.num_bytes = num_bytes;
        }
        let mut total: usize = slots.iter().map(|slot| slot.num_bytes).sum();
        while total > self.max_bytes && slots.len() > 1 {
            total -= slots.remove(0).num_bytes;
        }
        Ok(loaded)
    }

    #[cfg(test)]
    pub fn num_bytes(&self) -> usize {
        self.lock().iter().map(|slot| slot.num_bytes).sum()
    }

    /// Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves a batch's values to memory that the system gives for them alone and takes back when they go; also says
/// how many bytes that is.
///
/// The decoder leaves them in vectors with room to grow. Megabytes that live long among short-lived ones of other
/// sizes tear the allocator's heap to pieces, so that it held up to twice what was in use, the more the longer a
/// run went on.
///
/// # Errors
/// When there is no memory, or the values are not what their type says.
pub(super) fn settle(batch: &RecordBatch) -> Result<(RecordBatch, usize), ParquetError> {
    let columns: Vec<ArrayData> = batch.columns().iter().map(|column| column.to_data()).collect();
    let num_bytes: usize = columns.iter().map(room).sum();
    if num_bytes == 0 {
        return Ok((batch.clone(), 0));
    }
    // Page by page, as they are touched, the kernel would take longer.
    let mut map = MmapOptions::new().len(num_bytes).populate().map_anon()?;
    let mut end = 0;
    columns.iter().for_each(|column| copy(column, &mut map, &mut end));
    let (map, mut end) = (Bytes::from_owner(map), 0);
    let place = |column| Ok(make_array(placed(column, &map, &mut end)?));
    let columns = columns.into_iter().map(place).collect::<Result<_, ParquetError>>()?;
    Ok((RecordBatch::try_new(batch.schema(), columns)?, num_bytes))
}

/// Bytes that a buffer takes: buffers begin at multiples of this, as Arrow advises.
const ALIGNMENT: usize = 64;

/// Bytes of an array's buffers in a map. Its nulls, one bit a row, stay where they are.
fn room(data: &ArrayData) -> usize {
    let own = data.buffers().iter().map(|buffer| buffer.len().next_multiple_of(ALIGNMENT));
    own.chain(data.child_data().iter().map(room)).sum()
}

/// Copies an array's buffers, then those of its children, to the map from `end` on, which moves behind them.
fn copy(data: &ArrayData, map: &mut MmapMut, end: &mut usize) {
    for buffer in data.buffers() {
        map[*end..*end + buffer.len()].copy_from_slice(buffer);
        *end += buffer.len().next_multiple_of(ALIGNMENT);
    }
    data.child_data().iter().for_each(|child| copy(child, map, end));
}

/// The array that [`copy`] copied, over the copies.
fn placed(data: ArrayData, map: &Bytes, end: &mut usize) -> Result<ArrayData, ParquetError> {
    let mut buffers = Vec::with_capacity(data.buffers().len());
    for buffer in data.buffers() {
        buffers.push(map.slice(*end..*end + buffer.len()).into());
        *end += buffer.len().next_multiple_of(ALIGNMENT);
    }
    let children = data.child_data().iter().cloned();
    let children = children.map(|child| placed(child, map, end)).collect::<Result<_, _>>()?;
    Ok(data.into_builder().buffers(buffers).child_data(children).build()?)
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{ListBuilder, StringDictionaryBuilder, StringViewBuilder};
    use arrow_array::types::Int8Type;
    use arrow_array::{ArrayRef, BinaryArray, BooleanArray, Int64Array, StructArray};

    use super::*;

    #[test]
    fn settled_batches_are_equal_and_take_what_they_need() {
        let mut words = StringDictionaryBuilder::<Int8Type>::new();
        words.extend([Some("a"), None, Some("b"), Some("a")]);
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        lists.append_value([Some("short"), Some("a text that does not fit into a view")]);
        lists.append_null();
        lists.append_value([None::<&str>]);
        lists.append_value([None::<&str>; 0]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true, true]));
        let mut bytes = Vec::with_capacity(1 << 20);
        bytes.extend([7; 1000]);
        let bytes = BinaryArray::from_iter_values([&bytes[..], b"", b"x", b"yz"]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("word", Arc::new(words.finish())),
            ("list", Arc::new(lists.finish())),
            ("struct", Arc::new(StructArray::try_from(vec![("n", numbers), ("flag", flags)]).unwrap())),
            ("bytes", Arc::new(bytes)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        for batch in [batch.clone(), batch.slice(1, 3)] {
            let (settled, num_bytes) = settle(&batch).unwrap();
            assert_eq!(settled, batch);
            assert!((1000..2500).contains(&num_bytes), "{num_bytes}");
        }
        assert_eq!(settle(&batch.project(&[]).unwrap()).unwrap().1, 0);
    }
}
