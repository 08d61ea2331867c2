//! Numbers and durations as people read them.

use std::time::Duration;

/// Four significant digits without trailing zeros; very large and small values in scientific notation.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        // Of the two zeros people know one.
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    if !(1e-4..1e7).contains(&size) {
        let text = format!("{value:.3e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trim(digits));
    }
    let before_point = size.log10().floor() as i32 + 1;
    let decimals = (4 - before_point).max(0) as usize;
    trim(&format!("{value:.decimals$}")).to_owned()
}

/// `850 ms`, `12.3 s`, `2m 05s`, `1h 02m`, `3d 04h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = seconds.round() as u64;
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if whole < 3600 {
        format!("{}m {:02}s", whole / 60, whole % 60)
    } else if whole < 86400 {
        format!("{}h {:02}m", whole / 3600, whole / 60 % 60)
    } else {
        format!("{}d {:02}h", whole / 86400, whole / 3600 % 24)
    }
}

/// `1,234,567`.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.50 GiB`.
pub fn binary_size(bytes: usize) -> String {
    let (mut size, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.2} {unit}") }
}

fn trim(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn numbers() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (0.12345678, "0.1235"),
            (1.2345678, "1.235"),
            (123.45, "123.5"),
            (12345.6, "12346"),
            (2.5e9, "2.5e9"),
            (-3e-5, "-3e-5"),
            (0.0001, "0.0001"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.25, "250 ms"),
            (0.7, "700 ms"),
            (0.9999, "1.0 s"),
            (12.34, "12.3 s"),
            (59.97, "1m 00s"),
            (125.0, "2m 05s"),
            (3725.0, "1h 02m"),
            (273_600.0, "3d 04h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }
}
