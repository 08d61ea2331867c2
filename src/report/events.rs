//! TensorBoard event files: scalars only, the same numbers as `metrics.jsonl`.
//!
//! A file is a sequence of TFRecords, each an `Event` message (tensorflow/core/util/event.proto); the messages
//! are declared here by hand with the few fields that scalars need.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::Error;

/// Appends scalars to an `events.out.tfevents.…` file.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// Opens a new file in `dir`, which is created if need be. TensorBoard reads all event files of a folder
    /// in order of their names, so a resumed run adds one: `resumed_after` is the step of the checkpoint, and
    /// makes TensorBoard forget what earlier files say of later steps.
    pub fn create(dir: &Path, resumed_after: Option<u64>) -> Result<Self, Error> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let name = format!(
            "events.out.tfevents.{:010}.paligemma.{}.{}",
            wall_time() as u64,
            std::process::id(),
            FILES.fetch_add(1, Ordering::Relaxed)
        );
        let path = dir.join(name);
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut writer = EventWriter { file, path };
        writer.append(&Event {
            file_version: Some("brain.Event:2".into()),
            wall_time: wall_time(),
            ..Default::default()
        })?;
        if let Some(step) = resumed_after {
            writer.append(&Event {
                wall_time: wall_time(),
                step: step_of(step.saturating_add(1)),
                session_log: Some(SessionLog { status: SESSION_START }),
                ..Default::default()
            })?;
        }
        Ok(writer)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the scalars of one step as one event. TensorBoard keeps them in single precision.
    pub fn write<K: AsRef<str>>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (K, f64)>,
    ) -> Result<(), Error> {
        let value = |(tag, value): (K, f64)| SummaryValue {
            tag: tag.as_ref().into(),
            simple_value: Some(value as f32),
        };
        let value = values.into_iter().map(value).collect();
        self.append(&Event {
            wall_time: wall_time(),
            step: step_of(step),
            summary: Some(Summary { value }),
            ..Default::default()
        })
    }

    fn append(&mut self, event: &Event) -> Result<(), Error> {
        let record = record_of(&event.encode_to_vec());
        self.file.write_all(&record).map_err(Error::io("write", &self.path))
    }
}

/// One TFRecord: length, checksum of the length, data, checksum of the data.
fn record_of(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// TFRecord stores checksums rotated and offset, so that a checksum over data that holds checksums stays
/// meaningful (tensorflow/core/lib/hash/crc32c.h).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn step_of(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

const SESSION_START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    // These three are members of one `oneof`; on the wire that is a field that is there or not.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    /// CRC-32C bit by bit, so that the file is not checked with the code that wrote it.
    fn slow_crc(data: &[u8]) -> u32 {
        let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        !data.iter().fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
    }

    fn check(data: &[u8], stored: &[u8]) {
        let crc = slow_crc(data);
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(stored, masked.to_le_bytes());
    }

    fn events_of(path: &Path) -> Vec<Event> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            check(&rest[..8], &rest[8..12]);
            check(&rest[12..12 + length], &rest[12 + length..16 + length]);
            events.push(Event::decode(&rest[12..12 + length]).unwrap());
            rest = &rest[16 + length..];
        }
        events
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(slow_crc(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn scalars_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&dir.path().join("tb"), None).unwrap();
        writer.write(1, [("training_loss", 2.5), ("val/pplx/avg", 0.1)]).unwrap();
        writer.write(20, [("l2_grads", f64::NAN)]).unwrap();
        let name = writer.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents."), "{name}");

        let events = events_of(writer.path());
        assert_eq!(events.len(), 3);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert!(events.iter().all(|event| event.wall_time > 1e9));
        let values = &events[1].summary.as_ref().unwrap().value;
        let values: Vec<_> = values.iter().map(|v| (v.tag.as_str(), v.simple_value)).collect();
        assert_eq!(
            (events[1].step, values),
            (1, vec![("training_loss", Some(2.5)), ("val/pplx/avg", Some(0.1f32))])
        );
        assert_eq!(events[2].step, 20);
        assert!(events[2].summary.as_ref().unwrap().value[0].simple_value.unwrap().is_nan());
    }

    /// The bytes of an event as TensorFlow writes it, put together by hand from the field numbers.
    #[test]
    fn the_wire_format_is_tensorflows() {
        let value = SummaryValue { tag: "a".into(), simple_value: Some(0.0) };
        let event = Event { step: 3, summary: Some(Summary { value: vec![value] }), ..Default::default() };
        let value = [&[0x0a, 1, b'a', 0x15][..], &0f32.to_le_bytes()].concat();
        let summary = [&[0x0a, 8][..], &value].concat();
        assert_eq!(event.encode_to_vec(), [&[0x10, 3, 0x2a, 10][..], &summary].concat());
    }

    #[test]
    fn a_resumed_run_purges_later_steps() {
        let dir = tempfile::tempdir().unwrap();
        let first = EventWriter::create(dir.path(), None).unwrap();
        let second = EventWriter::create(dir.path(), Some(40)).unwrap();
        assert!(first.path() < second.path(), "TensorBoard reads them in order of names");
        let start = &events_of(second.path())[1];
        assert_eq!((start.step, start.session_log.unwrap().status), (41, SESSION_START));
    }
}
