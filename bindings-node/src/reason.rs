//! Why plain data cannot be read, in words that hold for JavaScript: without names of Rust types.

/// The reason of `error`, which reading `text` gave; `renamed` spells names of fields as this package does.
pub(crate) fn reason(text: &str, error: &serde_json::Error, renamed: fn(&str) -> String) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(reason, _)| reason);
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) else {
        return names_in_text(message, renamed);
    };
    let (right, value) = (right(expected), value(found));
    match field_read_last(text, error.column()) {
        Some(name) => format!("{} must be {right}: `{value}`", renamed(name)),
        None => format!("expected {right}: `{value}`"),
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
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" => "an object",
        "string or map" | "variant identifier" | "field identifier" => "a string",
        rust if rust.starts_with("struct ") || rust.contains("enum ") => "an object",
        other => other,
    };
    right.to_owned()
}

fn value(found: &str) -> &str {
    match found {
        "sequence" => "array",
        "map" => "object",
        // A kind, and a value in quotes of some sort: `integer `-1``, `string "x"`.
        found => found.split_once(['`', '"']).map_or(found, |(_, value)| value.trim_end_matches(['`', '"'])),
    }
}

/// The names of fields in a message, which stand in backticks.
fn names_in_text(text: &str, renamed: fn(&str) -> String) -> String {
    let spelled = text.split('`').enumerate().map(|(place, part)| match place % 2 {
        1 => renamed(part),
        _ => part.to_owned(),
    });
    spelled.collect::<Vec<_>>().join("`")
}
