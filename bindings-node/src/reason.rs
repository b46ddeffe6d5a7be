//! Why plain data cannot be read, in words that hold for JavaScript: without names of Rust types.

use p3sched::wrong_value::Words;

const WORDS: Words = Words { booleans: "true or false", list: "array", map: "object" };

/// The reason of `error`, which reading `text` gave; `renamed` spells names of fields as this package does.
pub(crate) fn reason(text: &str, error: &serde_json::Error, renamed: fn(&str) -> String) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(reason, _)| reason);
    let wrong = WORDS.wrong_value(text, message, error.column(), renamed);
    wrong.unwrap_or_else(|| names_in_text(message, renamed))
}

/// The names of fields in a message, which stand in backticks.
fn names_in_text(text: &str, renamed: fn(&str) -> String) -> String {
    let spelled = text.split('`').enumerate().map(|(place, part)| match place % 2 {
        1 => renamed(part),
        _ => part.to_owned(),
    });
    spelled.collect::<Vec<_>>().join("`")
}
