//! Recordings of learning-rate schedules, durations, and the steps at which things happen.

use std::path::Path;

use serde_json::Value as Json;

use super::recording::{files_of, read_json};
use super::tally::Tally;
use super::tolerance::{SCHEDULE_NOISE, SCHEDULE_SQUARE_ROOT};
use super::{Error, Row};
use crate::config::{DecayType, Duration, Horizon, ScheduleSpec, When, itstime};
use crate::optim::schedule::Schedule;

/// A part of the recording: its file, and how to replay it.
type Part = (&'static str, fn(&Json) -> Option<Vec<Row>>);

const PARTS: [Part; 3] =
    [("lr_schedules.json", schedules), ("steps.json", durations), ("itstime.json", moments)];

pub(super) const FILES: [&str; PARTS.len()] = files_of(&PARTS);

/// Every part that the folder holds.
pub(super) fn schedule(dir: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for (file, part) in PARTS {
        let path = dir.join(file);
        if path.is_file() {
            let recorded: Json = read_json(&path)?;
            let message = "it lacks something that such a recording has".to_owned();
            rows.extend(part(&recorded).ok_or(Error::Unsupported { path, message })?);
        }
    }
    Ok(rows)
}

/// The four forms of a duration among keys that begin with its name.
fn duration(keys: &Json, name: &str) -> Duration {
    let [steps, examples, epochs, percent] =
        Duration::SUFFIXES.map(|suffix| keys[format!("{name}_{suffix}")].as_f64());
    Duration { steps, examples, epochs, percent }
}

/// The config of a schedule; `None` for a kind of decay that configs cannot name.
fn spec(args: &Json) -> Option<ScheduleSpec> {
    let number = |key: &str| args[key].as_f64();
    let numbers = |key: &str| args[key].as_array().into_iter().flatten().filter_map(Json::as_f64).collect();
    Some(ScheduleSpec {
        mult: number("base").unwrap_or(1.0),
        decay_type: match args["decay_type"].as_str() {
            Some("cosine") => DecayType::Cosine,
            Some("linear") => DecayType::Linear,
            Some("polynomial") => DecayType::Polynomial,
            Some("rsqrt") => DecayType::Rsqrt,
            Some("stair") | None => DecayType::Stair,
            Some(_) => return None,
        },
        scale_with_batchsize: args["scale_with_batchsize"].as_bool().unwrap_or(false),
        warmup: duration(args, "warmup"),
        cooldown: duration(args, "cooldown"),
        power: number("power"),
        end: number("end"),
        linear_end: number("linear_end"),
        timescale: number("timescale"),
        timescale_for: duration(args, "timescale"),
        shift: number("shift"),
        shift_for: duration(args, "shift"),
        steps: numbers("steps"),
        mults: numbers("mults"),
    })
}

/// The rates of all schedules, and which of them are refused. The tolerance is `1e-5` of a rate and, beside that, a
/// part of the schedule's base, in which the rows count.
fn schedules(recorded: &Json) -> Option<Vec<Row>> {
    let [mut noise, mut amplified] = [Vec::new(), Vec::new()];
    let mut refused = Tally::new("schedules refused");
    for case in recorded["cases"].as_array()? {
        let args = &case["args"];
        let int = |key: &str| args[key].as_u64();
        let spec = spec(args);
        // Where steps descend, the reference's answer depends on its way of searching; configs cannot have them.
        if spec.as_ref().is_some_and(|spec| !spec.steps.is_sorted()) {
            continue;
        }
        let schedule = spec.as_ref().and_then(|spec| {
            Schedule::new(spec, int("total_steps")?, int("batch_size"), int("data_size")).ok()
        });
        let (Some(spec), Some(schedule), None) = (spec, &schedule, case["error"].as_str()) else {
            refused.case(case["error"].is_string() && schedule.is_none(), args);
            continue;
        };
        let scale = if spec.scale_with_batchsize { int("batch_size")? as f64 / 256.0 } else { 1.0 };
        // The square root amplifies what is left of a linear decay at its end.
        let differences = if spec.power == Some(0.5) { &mut amplified } else { &mut noise };
        for (step, expected) in case["steps"].as_array()?.iter().zip(case["values"].as_array()?) {
            let got = f64::from(schedule.value(step.as_u64()?));
            let expected = expected.as_f64().or_else(|| expected.as_str()?.parse().ok())?;
            differences.push(match (got.is_nan(), expected.is_nan()) {
                (true, true) => 0.0,
                (true, false) | (false, true) => f64::INFINITY,
                _ => ((got - expected).abs() - 1e-5 * expected.abs()).max(0.0) / (spec.mult * scale),
            });
        }
    }
    let row = |name: &str, differences: &[f64], tolerance| {
        let none = vec![0.0; differences.len()];
        Row::numbers(name, differences, &none, tolerance)
    };
    let rows = vec![
        row("schedules", &noise, SCHEDULE_NOISE),
        row("schedules with a square root", &amplified, SCHEDULE_SQUARE_ROOT),
    ];
    Some([rows, refused.rows()].concat())
}

fn durations(recorded: &Json) -> Option<Vec<Row>> {
    let mut tally = Tally::new("durations");
    for case in recorded["cases"].as_array()? {
        let name = case["prefix"].as_str()?;
        let known = |key: &str| case["kw"][key].as_u64();
        let horizon = Horizon {
            data_size: known("data_size"),
            batch_size: known("batch_size"),
            total_steps: known("total_steps"),
        };
        let got = duration(&case["config"], name).steps(name, horizon);
        let holds = match case["error"].as_str() {
            Some("AssertionError") => got.is_err(),
            // Nothing that can be converted, and no default.
            Some(_) => got == Ok(None),
            None => {
                got.is_ok_and(|got| got.or_else(|| case["kw"]["default"].as_f64()) == case["value"].as_f64())
            }
        };
        tally.case(holds, case);
    }
    Some(tally.rows())
}

fn moments(recorded: &Json) -> Option<Vec<Row>> {
    let mut tally = Tally::new("itstime");
    for case in recorded["cases"].as_array()? {
        let kw = &case["kw"];
        let when = When {
            first: kw["first"].as_bool().unwrap_or(true),
            last: kw["last"].as_bool().unwrap_or(true),
            drop_close_to_last: kw["drop_close_to_last"].as_f64().unwrap_or(0.25),
            on_this_host: kw["host"].as_u64().unwrap_or(0) == 0,
        };
        let total = case["total_steps"].as_u64()?;
        let every = case["every_n_steps"].as_f64();
        let (from, to) = (case["checked"][0].as_u64()?, case["checked"][1].as_u64()?);
        let got = (from..=to).filter(|&step| itstime(step, every, total, when));
        let expected = case["true_at"].as_array()?.iter().map(Json::as_u64).collect::<Option<Vec<_>>>()?;
        tally.case(got.eq(expected), case);
    }
    Some(tally.rows())
}
