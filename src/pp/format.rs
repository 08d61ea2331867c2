//! Numbers as text, the way `tf.strings.format("{}", x, summarize=-1)` prints them.

use crate::array::{DType, HostArray};

/// `7`, `[1 2 3]`, `[[1 2]\n [3 4]]`; booleans as 0 and 1.
pub(super) fn array(array: &HostArray) -> String {
    let numbers = numbers(array);
    let mut out = String::new();
    nested(array.dims(), 0, &numbers, &mut out);
    out
}

fn nested(dims: &[usize], depth: usize, numbers: &[String], out: &mut String) {
    let Some((&len, inner)) = dims.split_first() else {
        return out.push_str(numbers.first().map_or("", String::as_str));
    };
    out.push('[');
    let size: usize = inner.iter().product();
    for i in 0..len {
        if i > 0 && inner.is_empty() {
            out.push(' ');
        } else if i > 0 {
            out.push_str(&"\n".repeat(inner.len()));
            out.push_str(&" ".repeat(depth + 1));
        }
        nested(inner, depth + 1, &numbers[i * size..(i + 1) * size], out);
    }
    out.push(']');
}

fn numbers(array: &HostArray) -> Vec<String> {
    let values = array.to_f64();
    match array.dtype() {
        DType::F64 => values.into_iter().map(|v| float(v, 15, |text| text.parse() == Ok(v))).collect(),
        DType::F32 | DType::F16 | DType::BF16 => {
            values.into_iter().map(|v| float(v, 6, |text| text.parse() == Ok(v as f32))).collect()
        }
        DType::S64 => array.values::<i64>().unwrap_or_default().iter().map(i64::to_string).collect(),
        DType::U64 => array.values::<u64>().unwrap_or_default().iter().map(u64::to_string).collect(),
        _ => values.into_iter().map(|v| (v as i64).to_string()).collect(),
    }
}

/// `digits` significant digits if they read back as the same number, else two (f64) or three (f32) more.
fn float(value: f64, digits: usize, reads_back: impl Fn(&str) -> bool) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let short = percent_g(value, digits);
    if reads_back(&short) { short } else { percent_g(value, if digits == 15 { 17 } else { 9 }) }
}

/// C's `%.{digits}g` of a finite number.
fn percent_g(value: f64, digits: usize) -> String {
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_c_prints_them() {
        let show = |v: f32| array(&HostArray::scalar(v));
        assert_eq!(show(0.1), "0.1");
        assert_eq!(show(1.0 / 3.0), "0.333333343");
        assert_eq!(show(1e-5), "1e-05");
        assert_eq!(show(1e10), "1e+10");
        assert_eq!(show(-0.0), "-0");
        assert_eq!(show(123_456.79), "123456.789");
        assert_eq!(array(&HostArray::scalar(1.0f64 / 3.0)), "0.33333333333333331");
        assert_eq!(array(&HostArray::scalar(i64::MAX)), "9223372036854775807");
        let cube = HostArray::new([2, 1, 2], &[1i32, 2, 3, 4]).unwrap();
        assert_eq!(array(&cube), "[[[1 2]]\n\n [[3 4]]]");
    }
}
