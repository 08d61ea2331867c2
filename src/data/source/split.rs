//! Which rows of which split: `train[:98%]+validation[-10240:]`, in the words of TensorFlow Datasets
//! (`core/splits.py`).

use std::ops::Range;

/// A split as it is stored: its name and how many rows each of its files holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredSplit {
    pub name: String,
    pub shard_lengths: Vec<u64>,
}

/// A part of one stored split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Number of the split among the stored ones.
    pub split: usize,
    /// Rows of that split.
    pub rows: Range<u64>,
}

impl Part {
    /// The files with rows in this part: each file's number in the split, and its rows that are in the part.
    pub fn shards(&self, split: &StoredSplit) -> Vec<(usize, Range<u64>)> {
        let mut begin = 0;
        let mut parts = Vec::new();
        for (shard, &length) in split.shard_lengths.iter().enumerate() {
            let within = self.rows.start.max(begin)..self.rows.end.min(begin + length);
            if !within.is_empty() {
                parts.push((shard, within.start - begin..within.end - begin));
            }
            begin += length;
        }
        parts
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Rows,
    Percent,
    Shards,
}

/// The parts that `spec` names, in its order.
///
/// A term is a split's name, or `all`, with an optional range in rows, percent or shards; negative bounds count
/// from the end, percentages are rounded to the nearest row (halves to even).
///
/// # Errors
/// When the text cannot be understood, a split is unknown, or a bound lies outside of its split.
pub(super) fn resolve(spec: &str, splits: &[StoredSplit]) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    for term in spec.split('+').map(str::trim) {
        parts.extend(resolve_term(term, splits).map_err(|problem| format!("split \"{spec}\": {problem}"))?);
    }
    if parts.iter().all(|part| part.rows.is_empty()) {
        return Err(format!("split \"{spec}\" has no rows"));
    }
    Ok(parts)
}

fn resolve_term(term: &str, splits: &[StoredSplit]) -> Result<Vec<Part>, String> {
    const FORM: &str =
        "expected name, name[from:to] with rows or percent such as train[10%:-5%], or name[7shard]";
    let (name, range) = match term.split_once('[') {
        None => (term, None),
        Some((name, rest)) => (name, Some(rest.strip_suffix(']').ok_or(FORM)?)),
    };
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(format!("\"{term}\" is no split, {FORM}"));
    }
    let rows = |split: &StoredSplit| split.shard_lengths.iter().sum::<u64>();
    if name == "all" && range.is_some() {
        return Err("\"all\" cannot be cut: cut each split".to_owned());
    }
    if name == "all" {
        let part = |(number, split): (usize, &StoredSplit)| Part { split: number, rows: 0..rows(split) };
        return Ok(splits.iter().enumerate().map(part).collect());
    }
    let Some(number) = splits.iter().position(|split| split.name == name) else {
        let names: Vec<&str> = splits.iter().map(|split| split.name.as_str()).collect();
        return Err(format!("there is no split \"{name}\", only {}", names.join(", ")));
    };
    let split = &splits[number];
    let Some(range) = range else { return Ok(vec![Part { split: number, rows: 0..rows(split) }]) };

    let bounds: Vec<Option<(i64, Option<Unit>)>> =
        range.split(':').map(bound).collect::<Option<_>>().ok_or_else(|| format!("\"[{range}]\": {FORM}"))?;
    let (from, to) = match bounds[..] {
        [Some((from, Some(Unit::Shards)))] => (Some((from, Some(Unit::Shards))), Some((from + 1, None))),
        [from, to] if from.is_some() || to.is_some() => (from, to),
        _ => return Err(format!("\"[{range}]\": {FORM}")),
    };
    let unit = |bound: Option<(i64, Option<Unit>)>| bound.and_then(|(_, unit)| unit);
    // As the reference reads it, one unit is enough for both bounds.
    let unit = unit(from).or(unit(to)).unwrap_or(Unit::Rows);
    let bounds = [from, to].map(|bound| bound.map(|(value, _)| value));
    let rows = absolute(bounds, unit, split).map_err(|problem| format!("\"[{range}]\" {problem}"))?;
    Ok(vec![Part { split: number, rows }])
}

/// `10`, `-5%`, `3shard` or nothing.
fn bound(text: &str) -> Option<Option<(i64, Option<Unit>)>> {
    if text.is_empty() {
        return Some(None);
    }
    let (number, unit) = match (text.strip_suffix('%'), text.strip_suffix("shard")) {
        (Some(number), _) => (number, Some(Unit::Percent)),
        (_, Some(number)) => (number, Some(Unit::Shards)),
        _ => (text, None),
    };
    let digits = number.strip_prefix('-').unwrap_or(number);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    // Bounds of more than 18 digits are beyond any split, and would overflow what is computed with them.
    let number = number.replace('_', "").parse::<i64>().ok().filter(|n| n.unsigned_abs() < 1 << 59)?;
    Some(Some((number, unit)))
}

fn absolute([from, to]: [Option<i64>; 2], unit: Unit, split: &StoredSplit) -> Result<Range<u64>, String> {
    let count = split.shard_lengths.iter().sum::<u64>() as i64;
    let (from, to) = match unit {
        Unit::Rows => (from.unwrap_or(0), to.unwrap_or(count)),
        Unit::Percent => {
            if [from, to].into_iter().flatten().any(|percent| percent.abs() > 100) {
                return Err("is beyond 100 percent".to_owned());
            }
            let rows = |percent: i64| (percent as f64 * count as f64 / 100.0).round_ties_even() as i64;
            (from.map_or(0, rows), to.map_or(count, rows))
        }
        Unit::Shards => {
            let shards = split.shard_lengths.len() as i64;
            let before = |shard: i64| {
                let shard = if shard < 0 { shard + shards } else { shard }.clamp(0, shards);
                split.shard_lengths[..shard as usize].iter().sum::<u64>() as i64
            };
            let to = to.map(|to| if to <= 0 { to + shards } else { to });
            (from.map_or(0, before), to.map_or(count, before))
        }
    };
    if from.abs() > count || to.abs() > count {
        return Err(format!("is outside of the {count} rows of \"{}\"", split.name));
    }
    let from_end = |bound: i64| (if bound < 0 { bound + count } else { bound }) as u64;
    let (from, to) = (from_end(from), from_end(to));
    Ok(from..to.max(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits() -> [StoredSplit; 2] {
        let split = |name: &str, shard_lengths: &[u64]| StoredSplit {
            name: name.to_owned(),
            shard_lengths: shard_lengths.to_vec(),
        };
        [split("train", &[10, 10, 5]), split("restval", &[7])]
    }

    /// Rows of the one part of a spec.
    fn rows(spec: &str) -> Range<u64> {
        match &resolve(spec, &splits()).unwrap()[..] {
            [part] => part.rows.clone(),
            parts => panic!("{parts:?}"),
        }
    }

    /// Values worked out by hand from the reference's rules; Python's `round` takes halves to even.
    #[test]
    fn ranges_are_the_references() {
        for (spec, expected) in [
            ("train", 0..25),
            ("train[:5]", 0..5),
            ("train[-3:]", 22..25),
            ("train[1_0:-5]", 10..20),
            ("train[50%:]", 12..25),
            // 2.5 → 2, 7.5 → 8, 12.5 → 12, 17.5 → 18
            ("train[10%:30%]", 2..8),
            ("train[50%:70%]", 12..18),
            ("train[:98%]", 0..24),
            ("train[10:20%]", 2..5),
            ("train[1shard]", 10..20),
            ("train[-1shard:]", 20..25),
            ("train[:-1shard]", 0..20),
        ] {
            assert_eq!(rows(spec), expected, "{spec}");
        }
    }

    #[test]
    fn sums_keep_their_order_and_all_is_everything() {
        let parts = resolve("restval[2:] + train[:2]", &splits()).unwrap();
        assert_eq!(parts, [Part { split: 1, rows: 2..7 }, Part { split: 0, rows: 0..2 }]);
        assert_eq!(resolve("all", &splits()).unwrap(), resolve("train+restval", &splits()).unwrap());
        let part = &resolve("train[9:21]", &splits()).unwrap()[0];
        assert_eq!(part.shards(&splits()[0]), [(0, 9..10), (1, 0..10), (2, 0..1)]);
    }

    #[test]
    fn mistakes_are_explained() {
        for (spec, problem) in [
            ("val", "split \"val\": there is no split \"val\", only train, restval"),
            ("train[:26]", "split \"train[:26]\": \"[:26]\" is outside of the 25 rows of \"train\""),
            ("train[:101%]", "split \"train[:101%]\": \"[:101%]\" is beyond 100 percent"),
            ("all[:5]", "split \"all[:5]\": \"all\" cannot be cut: cut each split"),
            ("train[5:5]", "split \"train[5:5]\" has no rows"),
            ("train[10:5]", "split \"train[10:5]\" has no rows"),
        ] {
            assert_eq!(resolve(spec, &splits()).unwrap_err(), problem);
        }
        for spec in [
            "",
            "train[",
            "train[]",
            "train[:]",
            "train[5]",
            "train[5%]",
            "train[a:]",
            "train[1:2:3]",
            "train+",
        ] {
            assert!(resolve(spec, &splits()).unwrap_err().contains("expected name, name[from:to]"), "{spec}");
        }
    }
}
