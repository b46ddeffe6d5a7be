//! A body whose end is missing is read as if all that is open ended where it is cut.

use memchr::memchr2;

/// A text that ends everything that another one has left open.
pub(super) struct Closed {
    pub(super) text: Vec<u8>,
    /// So many bytes at its beginning are those of the other one.
    pub(super) kept: usize,
}

/// What stands last before the place that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nothing, `{` or `[`.
    Begin,
    Comma {
        at: usize,
    },
    Key,
    Colon,
    Value,
}

/// Closes strings, arrays and objects; drops a key, a number or a word that is cut.
pub(super) fn close(text: &[u8]) -> Closed {
    let mut open = Vec::new();
    let mut last = Last::Begin;
    let mut in_string = false;
    let (mut at, mut kept) = (0, text.len());
    while let Some(byte) = text.get(at) {
        let begun = at;
        at += 1;
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {}
            b'{' | b'[' => {
                open.push(if *byte == b'{' { b'}' } else { b']' });
                last = Last::Begin;
            }
            b'}' | b']' => {
                open.pop();
                last = Last::Value;
            }
            b',' => last = Last::Comma { at: begun },
            b':' => last = Last::Colon,
            b'"' => {
                let is_key = open.last() == Some(&b'}') && last != Last::Colon;
                match string_end(text, at) {
                    Ok(end) => {
                        at = end;
                        last = if is_key { Last::Key } else { Last::Value };
                    }
                    Err(_) if is_key => {
                        kept = begun;
                        break;
                    }
                    Err(whole) => {
                        (kept, in_string, last) = (whole, true, Last::Value);
                        break;
                    }
                }
            }
            _ => {
                let is_end = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}' | b']');
                let Some(length) = text.get(at..).unwrap_or_default().iter().position(is_end) else {
                    kept = begun;
                    break;
                };
                at += length;
                last = Last::Value;
            }
        }
    }
    if let Last::Comma { at } = last {
        kept = at;
    }
    let mut closed = text.get(..kept).unwrap_or(text).to_vec();
    closed.extend_from_slice(match last {
        Last::Key => b":null",
        Last::Colon => b"null",
        _ if in_string => b"\"",
        _ => b"",
    });
    closed.extend(open.into_iter().rev());
    Closed { text: closed, kept }
}

/// The place behind the quotes that end the string whose content begins at `start`, or where its last whole character ends.
fn string_end(text: &[u8], start: usize) -> Result<usize, usize> {
    let mut at = start;
    while let Some(found) = memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
        let found = at + found;
        if text.get(found) == Some(&b'"') {
            return Ok(found + 1);
        }
        at = found + escape_length(text, found);
        if at > text.len() {
            return Err(found);
        }
    }
    Err(whole_characters(text))
}

/// Bytes of the escape that begins at `at`, those that are missing included; a pair of surrogates is one.
fn escape_length(text: &[u8], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2), text.get(at + 3)) {
        (Some(b'u'), Some(b'd' | b'D'), Some(b'8' | b'9' | b'a' | b'A' | b'b' | b'B')) => 12,
        (Some(b'u'), ..) => 6,
        _ => 2,
    }
}

/// Length of a text without a character that is cut at its end.
fn whole_characters(text: &[u8]) -> usize {
    let begins = |byte: &u8| byte & 0xC0 != 0x80;
    let Some(back) = text.iter().rev().take(4).position(begins).map(|back| back + 1) else {
        return text.len();
    };
    let length = match text.get(text.len() - back) {
        Some(0xF0..) => 4,
        Some(0xE0..) => 3,
        Some(0xC0..) => 2,
        _ => 1,
    };
    if length > back { text.len() - back } else { text.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_cut_is_closed() {
        let text = r#"{"a" : [1, {"b":"x\n\u00e9\ud83d\ude00é😀","c":true}, null ],"d":-1.5e3}"#;
        for end in 1..text.len() {
            let closed = close(&text.as_bytes()[..end]);
            let value: Result<serde_json::Value, _> = serde_json::from_slice(&closed.text);
            assert!(value.is_ok(), "{}: {value:?}", String::from_utf8_lossy(&closed.text));
            assert!(closed.text.starts_with(&text.as_bytes()[..closed.kept]) && closed.kept <= end);
        }
        for (cut, expected) in [
            (r#"{"a":"x\u00"#, r#"{"a":"x"}"#),
            (r#"{"a":"x\ud83d\ude0"#, r#"{"a":"x"}"#),
            (r#"{"a":1,"b"#, r#"{"a":1}"#),
            (r#"{"a":1,"b":tru"#, r#"{"a":1,"b":null}"#),
            ("[[12", "[[]]"),
        ] {
            assert_eq!(String::from_utf8(close(cut.as_bytes()).text).unwrap(), expected);
        }
    }
}
