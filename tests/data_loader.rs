//! The loader's promises: what a batch holds depends on the options and the position alone, errors surface,
//! nothing hangs.

use std::collections::HashSet;
use std::error::Error as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use paligemma::array::{DType, HostArray};
use paligemma::data::{
    Batch, Error, Jsonl, JsonlOptions, Loader, LoaderOptions, MASK, MemorySource, Preprocess,
    PreprocessError, Processed, Remainder, Row,
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
