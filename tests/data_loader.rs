//! The loader's promises: what a batch holds depends on the options and the position alone, errors surface,
//! nothing hangs.

use std::collections::HashSet;
use std::error::Error as _;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paligemma::array::{DType, HostArray};
use paligemma::data::{
    Batch, Error, Jsonl, JsonlOptions, Loader, LoaderOptions, MASK, MemorySource, Preprocess,
    PreprocessError, Processed, Remainder, Row, Shuffle, Source, Stream, Value,
};
use pretty_assertions::assert_eq;
use proptest::prelude::*;

fn numbers(len: usize) -> Arc<MemorySource> {
    Arc::new(MemorySource::new(
        "numbers",
        (0..len as i64).map(|n| Row::from([("n".into(), n.into())])).collect(),
    ))
}

/// Gives the row's number, the seed it was called with, and the number as text.
fn plain(row: Row, seed: u64) -> Result<Processed, PreprocessError> {
    let n: i64 = row["n"].to_string().parse()?;
    let mut out = Processed::default();
    out.arrays.insert("n".into(), HostArray::new([2], &[n as i32, -(n as i32)])?);
    out.arrays.insert("seed".into(), HostArray::scalar(seed));
    out.strings.insert("text".into(), format!("row {n}"));
    Ok(out)
}

fn loader(len: usize, options: LoaderOptions) -> Loader {
    Loader::new(numbers(len), Arc::new(plain), options).unwrap()
}

fn batches(loader: Loader) -> Vec<Batch> {
    loader.collect::<Result<_, _>>().unwrap()
}

fn real_rows(batches: &[Batch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.ids.iter().flatten().copied()).collect()
}

fn options(batch_size: usize, epochs: u64) -> LoaderOptions {
    LoaderOptions { batch_size, epochs: Some(epochs), seed: 7, threads: 2, ..LoaderOptions::default() }
}

#[test]
fn arrays_strings_and_ids_stand_in_the_same_order() {
    let all = batches(loader(10, options(4, 1)));
    assert_eq!(all.len(), 2);
    for batch in &all {
        assert_eq!(batch.arrays["n"].dims(), [4, 2]);
        assert_eq!(batch.arrays["seed"].dims(), [4]);
        assert!(!batch.arrays.contains_key(MASK));
        for (place, id) in batch.ids.iter().enumerate() {
            let id = id.unwrap();
            let n = batch.arrays["n"].values::<i32>().unwrap();
            assert_eq!(n[2 * place..2 * place + 2], [id as i32, -(id as i32)]);
            assert_eq!(batch.strings["text"][place], format!("row {id}"));
        }
    }
    assert_eq!([all[0].position_after, all[1].position_after], [4, 8]);
}

#[test]
fn batches_do_not_depend_on_threads() {
    let make = |threads, prefetch| {
        batches(loader(53, LoaderOptions { threads, prefetch, remainder: Remainder::Pad, ..options(8, 3) }))
    };
    let expected = make(1, 1);
    assert_eq!(expected.len(), (53 * 3usize).div_ceil(8));
    for (threads, prefetch) in [(2, 1), (2, 3), (7, 2), (7, 20)] {
        assert_eq!(make(threads, prefetch), expected);
    }
}

#[test]
fn every_epoch_visits_every_row_with_other_seeds() {
    let all = batches(loader(30, options(5, 2)));
    let rows = real_rows(&all);
    assert_ne!(rows[..30], rows[30..]);
    for epoch in rows.chunks(30) {
        assert_eq!(epoch.iter().copied().collect::<HashSet<_>>(), (0..30).collect());
    }
    let seeds = all.iter().flat_map(|batch| batch.arrays["seed"].values::<u64>().unwrap());
    assert_eq!(seeds.collect::<HashSet<_>>().len(), 60);
}

#[test]
fn padding_is_masked_and_zero() {
    let all =
        batches(loader(10, LoaderOptions { remainder: Remainder::Pad, shuffle: false, ..options(4, 1) }));
    assert_eq!(real_rows(&all), (0..10).collect::<Vec<_>>());
    let last = &all[2];
    assert_eq!(last.arrays[MASK].dtype(), DType::Pred);
    assert_eq!(last.arrays[MASK].bytes(), [1, 1, 0, 0]);
    assert_eq!(last.arrays["n"].values::<i32>().unwrap(), [8, -8, 9, -9, 0, 0, 0, 0]);
    assert_eq!(last.strings["text"], ["row 8", "row 9", "", ""]);
    assert_eq!(last.ids, [Some(8), Some(9), None, None]);
    assert_eq!(last.position_after, 10);
}

#[test]
fn a_host_without_rows_still_gives_batches_of_the_right_shape() {
    let hosts: Vec<Vec<Batch>> = (0..3)
        .map(|host_index| {
            let remainder = Remainder::Pad;
            let base = LoaderOptions { host_index, host_count: 3, remainder, ..options(6, 1) };
            batches(loader(7, base))
        })
        .collect();
    assert!(hosts.iter().all(|batches| batches.len() == 2));
    let last = &hosts[2][1];
    assert_eq!(last.ids, [None, None]);
    assert_eq!(last.arrays["n"].dims(), [2, 2]);
    assert_eq!(last.arrays["n"].values::<i32>().unwrap(), [0; 4]);
    assert_eq!(last.strings["text"], ["", ""]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_run_resumes_as_if_it_had_not_stopped(
        len in 1usize..40, batch_size in 1usize..9, stop in 0usize..12, seed: u64, threads in 1usize..4,
        pad: bool,
    ) {
        let remainder = if pad { Remainder::Pad } else { Remainder::Drop };
        let base = LoaderOptions { seed, threads, remainder, epochs: pad.then_some(3), ..options(batch_size, 1) };
        let straight: Vec<Batch> = loader(len, base.clone()).take(12).collect::<Result<_, _>>().unwrap();
        let stop = stop.min(straight.len());
        let mut first = loader(len, base.clone());
        let mut resumed: Vec<Batch> = first.by_ref().take(stop).collect::<Result<_, _>>().unwrap();
        let start = first.position();
        drop(first);
        let rest = loader(len, LoaderOptions { start, ..base }).take(12 - stop);
        resumed.extend(rest.map(|batch| batch.unwrap()));
        prop_assert_eq!(resumed, straight);
    }

    #[test]
    fn hosts_share_every_batch(
        len in 1usize..60, per_host in 1usize..5, host_count in 1usize..5, seed: u64, shuffle: bool,
    ) {
        let base = LoaderOptions { seed, shuffle, remainder: Remainder::Pad, ..options(per_host * host_count, 1) };
        let alone = batches(loader(len, base.clone()));
        let hosts: Vec<Vec<Batch>> = (0..host_count)
            .map(|host_index| batches(loader(len, LoaderOptions { host_index, host_count, ..base.clone() })))
            .collect();
        for (number, batch) in alone.iter().enumerate() {
            let shared: Vec<Option<usize>> = hosts.iter().flat_map(|host| host[number].ids.clone()).collect();
            prop_assert_eq!(&shared, &batch.ids);
        }
        prop_assert!(hosts.iter().all(|host| host.len() == alone.len()));
        let mut rows: Vec<usize> = hosts.iter().flat_map(|host| real_rows(host)).collect();
        rows.sort_unstable();
        prop_assert!(rows.into_iter().eq(0..len));
    }
}

/// `plain`, but rows divisible by `of` fail, or panic.
fn failing(of: i64, panic: bool) -> Arc<dyn Preprocess> {
    Arc::new(move |row: Row, seed| {
        let n: i64 = row["n"].to_string().parse()?;
        match n % of {
            0 if panic => panic!("no decoder for {n}"),
            0 => Err(format!("no decoder for {n}").into()),
            _ => plain(row, seed),
        }
    })
}

#[test]
fn errors_and_panics_name_the_row_and_end_the_loader() {
    let expected = [
        "cannot preprocess numbers[13], no decoder for 13",
        "reading or preprocessing numbers[13] panicked: no decoder for 13",
    ];
    for (panic, message) in [false, true].into_iter().zip(expected) {
        for threads in [1, 5] {
            let options = LoaderOptions { shuffle: false, threads, start: 1, ..options(4, 1) };
            let mut loader = Loader::new(numbers(40), failing(13, panic), options).unwrap();
            for _ in 0..3 {
                assert!(loader.next().unwrap().is_ok());
            }
            let error = loader.next().unwrap().unwrap_err();
            let cause = error.source().map(|cause| format!(", {cause}")).unwrap_or_default();
            assert_eq!(format!("{error}{cause}"), message);
            assert!(loader.next().is_none());
            assert_eq!(loader.position(), 13);
        }
    }
}

#[test]
fn a_missing_image_names_the_file_and_its_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/data/jsonl");
    let fopen_keys = [("image".to_owned(), folder.clone())].into();
    let source = Jsonl::open(
        folder.join("bad_missing_image.jsonl"),
        JsonlOptions { fopen_keys, ..Default::default() },
    );
    let size = |row: Row, _| {
        let mut out = Processed::default();
        let bytes = row["image"].as_bytes().ok_or("no image")?;
        out.arrays.insert("bytes".into(), HostArray::scalar(bytes.len() as u32));
        Ok(out)
    };
    let options = LoaderOptions { shuffle: false, ..options(1, 1) };
    let mut loader = Loader::new(Arc::new(source.unwrap()), Arc::new(size), options).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().arrays["bytes"].to_f64(), [1700.0]);
    let message = loader.next().unwrap().unwrap_err().to_string();
    assert!(message.contains("bad_missing_image.jsonl:2: cannot read file"), "{message}");
}

#[test]
fn skipped_rows_are_counted_and_replaced_alike_on_all_threads() {
    let make = |threads, panic| {
        let options = LoaderOptions { threads, skip_errors: true, ..options(6, 2) };
        let mut loader = Loader::new(numbers(30), failing(5, panic), options).unwrap();
        let all: Vec<Batch> = loader.by_ref().collect::<Result<_, _>>().unwrap();
        assert_eq!(all.iter().map(|batch| batch.num_skipped).sum::<u64>(), loader.stats().num_skipped);
        all
    };
    let expected = make(1, false);
    assert_eq!(make(2, false), expected);
    assert_eq!(make(7, true), expected);
    let rows = real_rows(&expected);
    assert_eq!(rows.len(), 60);
    assert!(rows.iter().all(|row| row % 5 != 0));
    // Six of 30 rows fail in each of two epochs; a substitute may fail as well.
    assert!((12..24).contains(&expected.iter().map(|batch| batch.num_skipped).sum::<u64>()));
}

#[test]
fn skipped_rows_become_padding_in_evaluation() {
    let base =
        LoaderOptions { skip_errors: true, remainder: Remainder::Pad, shuffle: false, ..options(4, 1) };
    let mut loader = Loader::new(numbers(6), failing(3, false), base).unwrap();
    let all: Vec<Batch> = loader.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(all[0].ids, [None, Some(1), Some(2), None]);
    assert_eq!(all[1].arrays[MASK].bytes(), [1, 1, 0, 0]);
    assert_eq!((loader.stats().num_skipped, loader.stats().num_rows), (2, 4));
}

#[test]
fn a_source_that_always_fails_is_an_error_despite_skipping() {
    for remainder in [Remainder::Drop, Remainder::Pad] {
        let options = LoaderOptions { skip_errors: true, remainder, ..options(2, 1) };
        let mut loader = Loader::new(numbers(4), failing(1, false), options).unwrap();
        let error = loader.next().unwrap().unwrap_err();
        assert!(matches!(error, Error::TooManySkipped { .. }), "{error}");
    }
}

#[test]
fn rows_of_different_shapes_are_named() {
    let ragged = |row: Row, _| {
        let n: i64 = row["n"].to_string().parse()?;
        let mut out = Processed::default();
        out.arrays.insert(
            "text".into(),
            HostArray::new([2 + (n == 5) as usize], &vec![0i32; 2 + (n == 5) as usize])?,
        );
        Ok(out)
    };
    let options = LoaderOptions { shuffle: false, ..options(4, 1) };
    let mut loader = Loader::new(numbers(8), Arc::new(ragged), options).unwrap();
    assert!(loader.next().unwrap().is_ok());
    assert_eq!(
        loader.next().unwrap().unwrap_err().to_string(),
        "numbers[5] gives \"text\" as s32[3], but the batch's first row gave s32[2]: every row must come to the same shape"
    );
}

#[test]
fn no_more_is_made_than_was_asked_for_ahead() {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    let counting = move |row: Row, seed| {
        counter.fetch_add(1, Ordering::SeqCst);
        plain(row, seed)
    };
    let options = LoaderOptions { threads: 4, prefetch: 3, epochs: None, ..options(5, 1) };
    let mut loader = Loader::new(numbers(1000), Arc::new(counting), options).unwrap();
    assert_eq!(loader.num_batches(), None);
    for consumed in 1..=20 {
        loader.next().unwrap().unwrap();
        assert!(made.load(Ordering::SeqCst) <= (consumed + 3) * 5);
    }
    drop(loader);
    // The threads have been joined: the only owner of the preprocessing left is this test.
    assert_eq!(Arc::strong_count(&made), 1);
    assert!(made.load(Ordering::SeqCst) <= 23 * 5);
}

/// One row takes until all the others of its batch are done: it still comes first.
#[test]
fn a_slow_row_keeps_its_place() {
    let (send, receive) = std::sync::mpsc::channel();
    let (send, receive) = (Mutex::new(send), Mutex::new(receive));
    let slow = move |row: Row, seed| {
        if row["n"].to_string() == "0" {
            for _ in 1..4 {
                receive.lock().unwrap().recv()?;
            }
        } else {
            send.lock().unwrap().send(())?;
        }
        plain(row, seed)
    };
    let options = LoaderOptions { shuffle: false, threads: 2, ..options(4, 1) };
    let mut loader = Loader::new(numbers(4), Arc::new(slow), options).unwrap();
    let batch = loader.next().unwrap().unwrap();
    assert_eq!(batch.ids, [Some(0), Some(1), Some(2), Some(3)]);
    assert!(loader.stats().waited >= loader.stats().waited_last);
}

#[test]
fn options_that_cannot_work_say_why() {
    let message = |len: usize, options: LoaderOptions| {
        Loader::new(numbers(len), Arc::new(plain), options).err().unwrap().to_string()
    };
    assert_eq!(message(0, options(1, 1)), "numbers (0 rows in memory) has no rows");
    assert_eq!(message(9, options(0, 1)), "batch_size is 0, expected at least 1");
    assert_eq!(message(9, options(4, 0)), "epochs is 0, expected at least 1");
    let hosts = |host_index, host_count| LoaderOptions { host_index, host_count, ..options(4, 1) };
    assert_eq!(message(9, hosts(3, 3)), "host_index 3 is not one of 3 hosts");
    assert_eq!(message(9, hosts(0, 3)), "batch_size 4 does not divide among 3 hosts");
    assert_eq!(
        message(9, options(20, 2)),
        "18 rows over all epochs do not fill one batch of 20: lower batch_size, or pad the last batch"
    );
}

/// Numbers from `first` on, stored in blocks of seven.
struct InBlocks {
    rows: MemorySource,
    blocks: Vec<Range<usize>>,
}

impl InBlocks {
    fn new(name: &str, first: i64, len: usize) -> Self {
        let rows = (first..first + len as i64).map(|n| Row::from([("n".into(), n.into())])).collect();
        let blocks = (0..len).step_by(7).map(|begin| begin..(begin + 7).min(len)).collect();
        InBlocks { rows: MemorySource::new(name, rows), blocks }
    }
}

impl Source for InBlocks {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        self.rows.get(index)
    }

    fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    fn describe(&self) -> String {
        self.rows.describe()
    }

    fn locate(&self, index: usize) -> String {
        self.rows.locate(index)
    }
}

fn stream(name: &str, source: impl Source + 'static, weight: f64, shuffle: Shuffle) -> Stream {
    Stream {
        name: name.into(),
        source: Arc::new(source),
        preprocess: Arc::new(plain),
        weight,
        shuffle,
        skip_errors: false,
    }
}

/// 30 rows of one source in blocks, 11 of another as they are, 5 of a third that is rare and in order.
fn mixture() -> Vec<Stream> {
    let rare = (0..5i64).map(|n| Row::from([("n".into(), (1000 + n).into())])).collect();
    vec![
        stream("blocks", InBlocks::new("blocks", 0, 30), 3.0, Shuffle::Whole { buffer: 14 }),
        stream("free", Arc::try_unwrap(numbers(11)).unwrap(), 1.0, Shuffle::WHOLE),
        stream("rare", MemorySource::new("rare", rare), 0.25, Shuffle::InOrder),
    ]
}

fn mixed(options: LoaderOptions) -> Loader {
    Loader::of_streams(mixture(), options).unwrap()
}

#[test]
fn a_mixture_does_not_depend_on_threads() {
    let make = |threads, prefetch| {
        batches(mixed(LoaderOptions { threads, prefetch, remainder: Remainder::Pad, ..options(8, 3) }))
    };
    let expected = make(1, 1);
    assert_eq!(expected.len(), (46 * 3usize).div_ceil(8));
    for (threads, prefetch) in [(2, 1), (2, 3), (7, 2), (7, 20)] {
        assert_eq!(make(threads, prefetch), expected);
    }
}

#[test]
fn streams_come_by_their_weights_and_go_through_their_rows_epoch_by_epoch() {
    let all = batches(mixed(options(10, 8)));
    let ids = real_rows(&all);
    assert_eq!(ids.len(), 360);
    let of = |range: Range<usize>| ids.iter().copied().filter(|id| range.contains(id)).collect::<Vec<_>>();
    let (blocks, free, rare) = (of(0..30), of(30..41), of(41..46));
    for (rows, share) in [(&blocks, 3.0), (&free, 1.0), (&rare, 0.25)] {
        let expected = 360.0 * share / 4.25;
        assert!((rows.len() as f64 - expected).abs() < 3.0, "{} of {expected}", rows.len());
    }
    for (rows, len) in [(&blocks, 30), (&free, 11)] {
        for epoch in rows.chunks_exact(len) {
            assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), len);
        }
        assert_ne!(rows[..len], rows[len..2 * len]);
    }
    assert!(rare.iter().enumerate().all(|(visit, id)| *id == 41 + visit % 5), "{rare:?}");
    // Of every batch of 10, about seven rows are of the first stream.
    for batch in &all {
        let first = batch.ids.iter().flatten().filter(|&&id| id < 30).count();
        assert!((5..=9).contains(&first), "{:?}", batch.ids);
    }
    let loader = mixed(options(10, 8));
    let visits: Vec<(String, u64, f64)> =
        loader.visits(360).map(|(stream, visits, epochs)| (stream.name.clone(), visits, epochs)).collect();
    assert_eq!(visits[1], ("free".to_owned(), free.len() as u64, free.len() as f64 / 11.0));
    assert_eq!(
        [loader.locate(0), loader.locate(30), loader.locate(45)],
        ["blocks[0]", "numbers[0]", "rare[4]"]
    );
}

#[test]
fn rows_know_where_they_are_from_and_how_often_they_came() {
    let tell = |row: Row, _| {
        let text = |key: &str| row.get(key).map(Value::to_string).unwrap_or_default();
        let mut out = Processed::default();
        out.arrays.insert("n".into(), HostArray::scalar(0i32));
        out.strings.insert("from".into(), [text("_source"), text("_id"), text("_epoch")].join(" "));
        Ok(out)
    };
    let rows = vec![
        Row::from([("n".into(), 0i64.into())]),
        Row::from([("_id".into(), "own".into()), ("n".into(), 1i64.into())]),
    ];
    let source = MemorySource::new("two", rows);
    let alone = LoaderOptions { shuffle: false, ..options(4, 2) };
    let mut loader = Loader::new(Arc::new(source.clone()), Arc::new(tell), alone).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().strings["from"], [" 0 0", " own 0", " 0 1", " own 1"]);

    let mut streams = vec![stream("a", source, 1.0, Shuffle::InOrder)];
    streams[0].preprocess = Arc::new(tell);
    let mut loader = Loader::of_streams(streams, options(4, 2)).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().strings["from"], ["a 0 0", "a own 0", "a 0 1", "a own 1"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_mixture_resumes_as_if_it_had_not_stopped(
        batch_size in 1usize..9, stop in 0usize..20, seed: u64, threads in 1usize..4,
    ) {
        let base = LoaderOptions { seed, threads, epochs: None, ..options(batch_size, 1) };
        let straight: Vec<Batch> = mixed(base.clone()).take(20).collect::<Result<_, _>>().unwrap();
        let mut first = mixed(base.clone());
        let mut resumed: Vec<Batch> = first.by_ref().take(stop).collect::<Result<_, _>>().unwrap();
        let start = first.position();
        drop(first);
        let rest = mixed(LoaderOptions { start, ..base }).take(20 - stop);
        resumed.extend(rest.map(|batch| batch.unwrap()));
        prop_assert_eq!(resumed, straight);
    }
}

#[test]
fn one_two_and_four_hosts_share_the_batches_of_a_mixture() {
    let alone = batches(mixed(LoaderOptions { remainder: Remainder::Pad, ..options(8, 2) }));
    for host_count in [1, 2, 4] {
        let host =
            |host_index| LoaderOptions { host_index, host_count, remainder: Remainder::Pad, ..options(8, 2) };
        let hosts: Vec<Vec<Batch>> = (0..host_count).map(|index| batches(mixed(host(index)))).collect();
        for (number, batch) in alone.iter().enumerate() {
            let shared: Vec<Option<usize>> = hosts.iter().flat_map(|host| host[number].ids.clone()).collect();
            assert_eq!(shared, batch.ids);
        }
        assert!(hosts.iter().all(|host| host.len() == alone.len()));
    }
}

#[test]
fn each_stream_skips_its_own_errors() {
    let mut streams = mixture();
    streams[1].preprocess = failing(5, false);
    let position = |error: Error| matches!(error, Error::Preprocess { .. });
    let mut loader = Loader::of_streams(streams.clone(), options(8, 4)).unwrap();
    assert!(position(loader.find_map(Result::err).unwrap()));
    streams[1].skip_errors = true;
    let mut loader = Loader::of_streams(streams, options(8, 4)).unwrap();
    let all: Vec<Batch> = loader.by_ref().collect::<Result<_, _>>().unwrap();
    assert!(loader.stats().num_skipped > 0);
    // What takes the place of a row is of the same stream.
    let count = |batches: &[Batch]| real_rows(batches).iter().filter(|id| (30..41).contains(*id)).count();
    assert_eq!(count(&all), count(&batches(mixed(options(8, 4)))));
    assert!(real_rows(&all).iter().all(|id| !(30..41).contains(id) || (id - 30) % 5 != 0));
}

#[test]
fn mixtures_that_cannot_be_say_why() {
    let message = |streams| Loader::of_streams(streams, options(1, 1)).err().unwrap().to_string();
    let [mut one, mut other] = [mixture(), mixture()];
    one[1].weight = -1.0;
    assert_eq!(message(one), "the weights [3.0, -1.0, 0.25] give no mixture: each must be greater than 0");
    let broken =
        InBlocks { rows: MemorySource::new("broken", vec![Row::new(); 9]), blocks: vec![0..7, 7..8] };
    other[0].source = Arc::new(broken);
    assert_eq!(
        message(other),
        "the blocks of broken (9 rows in memory) are not its rows, one after the other"
    );
}

/// A source that takes its time holds a run up and is told of, but does not hold it for ever.
#[test]
fn waiting_for_a_slow_source_is_counted_and_has_an_end() {
    let slow = |row: Row, seed| {
        std::thread::sleep(Duration::from_millis(60));
        plain(row, seed)
    };
    let options = LoaderOptions { threads: 1, ..options(2, 1) };
    let mut loader = Loader::new(numbers(10), Arc::new(slow), options).unwrap();
    assert!(!loader.wait(Duration::from_millis(1)));
    assert!(loader.wait(Duration::from_secs(60)));
    loader.next().unwrap().unwrap();
    // Two rows of 60 ms, less what passed before the first wait.
    let waited = loader.stats().waited;
    assert!(waited >= Duration::from_millis(20), "{waited:?}");
    assert_eq!(waited, loader.stats().waited_last);
    let began = Instant::now();
    drop(loader);
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Rows of 4 MiB in batches of eight. There are the batch in use, the two made ahead and the rows of the next,
/// and as much again as rows that the allocator keeps for the rows to come; a thread has a row twice while it
/// makes it. Nothing else may be large, and nothing may grow.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_bounded_by_the_batches_made_ahead() {
    const ROW: usize = 4 << 20;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    };
    let large = |row: Row, _: u64| -> Result<Processed, PreprocessError> {
        let n: i64 = row["n"].to_string().parse()?;
        let mut out = Processed::default();
        out.arrays.insert("image".into(), HostArray::new([ROW], &vec![n as u8; ROW])?);
        Ok(out)
    };
    let options = LoaderOptions { threads: 2, prefetch: 2, epochs: None, ..options(8, 1) };
    let before = resident();
    let mut loader = Loader::new(numbers(100), Arc::new(large), options).unwrap();
    let mut peak = 0;
    for _ in 0..40 {
        let batch = loader.next().unwrap().unwrap();
        // Until those ahead are complete.
        std::thread::sleep(Duration::from_millis(10));
        peak = peak.max(resident().saturating_sub(before));
        drop(batch);
    }
    println!("{} MiB over 40 batches of {} MiB", peak >> 20, (8 * ROW) >> 20);
    assert!(peak < (1 + 2 + 1 + 1) * 8 * ROW + 2 * 2 * ROW, "{} MiB", peak >> 20);
}
