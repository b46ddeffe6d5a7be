//! Why plain data cannot be read, in words that hold for Python: without names of Rust types.

use p3sched::wrong_value::{Words, field_read_last};

const WORDS: Words = Words { booleans: "`True` or `False`", list: "list", map: "dict" };

/// The reason of `error`, which reading `text` gave.
pub(crate) fn reason(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(reason, _)| reason);
    if let Some(value) = not_finite(text, error.column()) {
        let right = format!("a finite number: `{value}`");
        let name = field_read_last(text, error.column());
        return name.map_or(format!("expected {right}"), |name| format!("{name} must be {right}"));
    }
    // A choice between names, which gets something that has none.
    if message == "expected value" {
        let rest = error.column().checked_sub(1).and_then(|start| text.get(start..)).unwrap_or(text);
        let value = rest.split([',', '}', ']']).next().unwrap_or(rest);
        return format!("expected a string: `{value}`");
    }
    let wrong = WORDS.wrong_value(text, message, error.column(), str::to_owned);
    wrong.unwrap_or_else(|| message.to_owned())
}

/// Python's JSON has numbers that no other has; reading ends at their first letter.
fn not_finite(text: &str, column: usize) -> Option<&'static str> {
    let before = text.get(..column.checked_sub(1)?)?;
    let rest = text.get(before.len()..)?;
    match rest {
        _ if rest.starts_with("NaN") => Some("nan"),
        _ if rest.starts_with("Infinity") && before.ends_with('-') => Some("-inf"),
        _ if rest.starts_with("Infinity") => Some("inf"),
        _ => None,
    }
}
