//! Numbers with their units, as people read them.

use crate::result::Mean;

/// Seconds: `0.4 ms`, `123 ms`, `1.23 s`, `123 s`.
pub fn seconds(value: f64) -> String {
    match value.abs() {
        0.0 => "0 s".to_owned(),
        size if size < 0.01 => format!("{:.1} ms", value * 1e3),
        size if size < 1.0 => format!("{:.0} ms", value * 1e3),
        size if size < 10.0 => format!("{value:.2} s"),
        size if size < 100.0 => format!("{value:.1} s"),
        _ => format!("{value:.0} s"),
    }
}

/// A share: `12.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A number with three or four digits that count: `0.123`, `1.23`, `12.3`, `1234`.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A label of an axis: no digits beyond those of round numbers.
pub fn label(value: f64) -> String {
    let rounded = format!("{value:.3}");
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Seconds as a label of an axis: `20 ms`, `2 s`.
pub fn seconds_label(value: f64) -> String {
    if value > 0.0 && value < 0.9995 {
        format!("{} ms", label(value * 1e3))
    } else {
        format!("{} s", label(value))
    }
}

/// A share as a label of an axis.
pub fn percent_label(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A setting, without digits that nobody gave it.
pub fn setting(value: f64) -> String {
    if value.abs() >= 1e15 { format!("{value:.0e}") } else { value.to_string() }
}

/// How far the runs of a mean lie apart: `±3 %`; nothing where they do not.
pub fn spread(mean: Mean) -> String {
    match mean.spread * 50.0 {
        half if half < 0.05 => String::new(),
        half if half < 2.0 => format!("±{half:.1} %"),
        half => format!("±{half:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_digits_that_count() {
        let written = [0.0, 0.0004, 0.1234, 1.234, 12.34, 123.4].map(seconds);
        assert_eq!(written, ["0 s", "0.4 ms", "123 ms", "1.23 s", "12.3 s", "123 s"]);
        assert_eq!([0.5, 1.0, 12.345, 123.45].map(number), ["0.500", "1.00", "12.3", "123"]);
        assert_eq!([5.0, 0.25].map(setting), ["5", "0.25"]);
        assert_eq!([0.0, 20.0, 0.5, 12.5].map(label), ["0", "20", "0.5", "12.5"]);
        assert_eq!([0.02, 1.0, 30.0].map(seconds_label), ["20 ms", "1 s", "30 s"]);
        assert_eq!(spread(Mean { value: 1.0, spread: 0.08 }), "±4 %");
    }
}
