//! Why plain data cannot be read, in words that hold for Python: without names of Rust types.

/// The reason of `error`, which reading `text` gave.
pub(crate) fn reason(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(reason, _)| reason);
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
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
    let Some((found, expected)) = wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let (right, value) = (right(expected), value(found));
    match field_read_last(text, error.column()) {
        Some(name) => format!("{name} must be {right}: `{value}`"),
        None => format!("expected {right}: `{value}`"),
    }
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

/// The field whose value ends at the column; none where a whole object or array has been read.
fn field_read_last(text: &str, column: usize) -> Option<&str> {
    let read = text.get(..column).filter(|read| !read.ends_with(['}', ']']))?;
    let (before, _) = read.rsplit_once("\":")?;
    let (_, name) = before.rsplit_once('"')?;
    // Quotes within a text look like the end of a name.
    (!name.ends_with('\\')).then_some(name)
}

fn right(expected: &str) -> String {
    let right = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`True` or `False`",
        "a sequence" => "a list",
        "a map" => "a dict",
        "string or map" | "variant identifier" | "field identifier" => "a string",
        rust if rust.starts_with("struct ") || rust.contains("enum ") => "a dict",
        other => other,
    };
    right.to_owned()
}

fn value(found: &str) -> &str {
    match found {
        "sequence" => "list",
        "map" => "dict",
        // A kind, and a value in quotes of some sort: `integer `-1``, `string "x"`.
        found => found.split_once(['`', '"']).map_or(found, |(_, value)| value.trim_end_matches(['`', '"'])),
    }
}
