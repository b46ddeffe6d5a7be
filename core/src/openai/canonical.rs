//! Writes prompts in canonical form, which [the parent module](super) defines, while a scan passes over them.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::json::{Scan, Scanner};

/// Begins a message.
const MESSAGE: u8 = 0xFF;
/// Begins every field of a message but the role.
const FIELD: u8 = 0xFE;
/// Stands between the parts of a content and between the prompts of a batch.
const NEXT: u8 = 0xFD;
/// Stands before the hash of what is no text.
const OPAQUE: u8 = 0xFB;
/// Begins the tools.
const TOOLS: u8 = 0xFA;
/// Stands between the prompts of a batch of token ids.
const NEXT_TOKEN: u32 = u32::MAX;

const TOKEN_RULE: &str = "expected token ids from 0 to 4294967295";

/// Pieces of the canonical form, which may arrive in any order.
///
/// The last piece of a kind replaces earlier ones, as in any JSON object.
#[derive(Debug)]
pub(super) struct Pieces<const KINDS: usize> {
    ranges: [Option<Range<usize>>; KINDS],
    base: usize,
}

impl<const KINDS: usize> Pieces<KINDS> {
    pub(super) fn new(out: &[u8]) -> Self {
        Self { ranges: [const { None }; KINDS], base: out.len() }
    }

    pub(super) fn get(&self, kind: usize) -> Option<&Range<usize>> {
        self.ranges.get(kind)?.as_ref()
    }

    /// Writes a piece at the end of `out`; a `null` or nothing written leaves it absent.
    pub(super) fn write(
        &mut self,
        kind: usize,
        scanner: &mut Scanner<'_>,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Scanner<'_>, &mut Vec<u8>) -> Scan<()>,
    ) -> Scan<()> {
        self.remove(kind, out);
        if scanner.peek() == Some(b'n') {
            return scanner.skip();
        }
        let start = out.len();
        write(scanner, out)?;
        if let Some(range) = self.ranges.get_mut(kind)
            && start < out.len()
        {
            *range = Some(start..out.len());
        }
        Ok(())
    }

    /// Brings the pieces into the order of their kinds. They mostly are in it already.
    pub(super) fn arrange(&mut self, out: &mut [u8]) {
        let mut sorted_to = self.base;
        for kind in 0..KINDS {
            let Some(range) = self.get(kind).cloned() else { continue };
            if range.start > sorted_to {
                let piece = out.get(range.clone()).unwrap_or_default().to_vec();
                out.copy_within(sorted_to..range.start, sorted_to + piece.len());
                if let Some(place) = out.get_mut(sorted_to..sorted_to + piece.len()) {
                    place.copy_from_slice(&piece);
                }
                self.shift(sorted_to..range.start, |at| at + piece.len());
            }
            sorted_to += range.len();
        }
    }

    fn remove(&mut self, kind: usize, out: &mut Vec<u8>) {
        if let Some(range) = self.ranges.get_mut(kind).and_then(Option::take) {
            out.drain(range.clone());
            self.shift(range.end..usize::MAX, |at| at - range.len());
        }
    }

    /// Moves the pieces that start within `from`.
    fn shift(&mut self, from: Range<usize>, to: impl Fn(usize) -> usize) {
        for range in self.ranges.iter_mut().flatten().filter(|range| from.contains(&range.start)) {
            *range = to(range.start)..to(range.end);
        }
    }
}

/// Writes the tools; an empty list counts as none.
pub(super) fn tools(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    compact_list(TOOLS, scanner, out)
}

/// Writes a message of the given role from its content alone.
pub(super) fn message_of(role: &str, scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    out.push(MESSAGE);
    out.extend_from_slice(role.as_bytes());
    out.push(FIELD);
    content(scanner, out)
}

/// Writes the elements of an array as messages.
pub(super) fn messages(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    let mut items = scanner.open()?;
    while scanner.next_element(&mut items)? {
        if scanner.peek() == Some(b'{') {
            message(scanner, out)?;
        } else {
            out.push(MESSAGE);
            scanner.compact(out)?;
        }
    }
    Ok(())
}

/// Writes a prompt, or a batch of them: text to `out`, token ids to `tokens`.
pub(super) fn prompt(scanner: &mut Scanner<'_>, out: &mut Vec<u8>, tokens: &mut Vec<u32>) -> Scan<()> {
    match scanner.peek() {
        Some(b'"') => return scanner.string(out),
        Some(b'[') => {}
        _ => return scanner.compact(out),
    }
    let (mut is_first, mut has_text) = (true, false);
    let mut items = scanner.open()?;
    while scanner.next_element(&mut items)? {
        match scanner.peek() {
            Some(b'-' | b'0'..=b'9') => tokens.push(scanner.unsigned(TOKEN_RULE)?),
            Some(b'[') => {
                if !is_first {
                    tokens.push(NEXT_TOKEN);
                }
                token_list(scanner, tokens)?;
            }
            _ => {
                has_text = true;
                if !is_first {
                    out.push(NEXT);
                }
                text_or_compact(scanner, out)?;
            }
        }
        if has_text && !tokens.is_empty() {
            return Err(scanner.fault("expected a prompt of either text or token ids"));
        }
        is_first = false;
    }
    Ok(())
}

/// Writes a value that is no text as its hash.
pub(super) fn opaque(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    let start = out.len();
    scanner.compact(out)?;
    let hash = xxh3_64(out.get(start..).unwrap_or_default());
    out.truncate(start);
    out.push(OPAQUE);
    out.extend_from_slice(&hash.to_le_bytes());
    Ok(())
}

fn token_list(scanner: &mut Scanner<'_>, tokens: &mut Vec<u32>) -> Scan<()> {
    let mut items = scanner.open()?;
    while scanner.next_element(&mut items)? {
        scanner.peek();
        tokens.push(scanner.unsigned(TOKEN_RULE)?);
    }
    Ok(())
}

/// Fields of a message, in canonical order.
const ROLE: usize = 0;
const CONTENT: usize = 1;
const OUTPUT: usize = 2;
const TOOL_CALLS: usize = 3;
const FUNCTION_CALL: usize = 4;

fn message(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    let (from, base) = (scanner.position(), out.len());
    let mut fields = Pieces::<5>::new(out);
    let mut kind = None;
    let mut items = scanner.open()?;
    while let Some(key) = scanner.next_key(&mut items)? {
        match key.as_ref() {
            b"role" => fields.write(ROLE, scanner, out, |scanner, out| {
                out.push(MESSAGE);
                text_or_compact(scanner, out)
            })?,
            b"content" => fields.write(CONTENT, scanner, out, content_field)?,
            b"output" => fields.write(OUTPUT, scanner, out, content_field)?,
            b"tool_calls" => fields.write(TOOL_CALLS, scanner, out, calls_field)?,
            b"function_call" => fields.write(FUNCTION_CALL, scanner, out, calls_field)?,
            b"type" => kind = read_kind(scanner)?,
            _ => scanner.skip()?,
        }
    }
    if out.len() == base {
        out.push(MESSAGE);
        return other(scanner.rewound(from), kind.as_deref(), out);
    }
    fields.arrange(out);
    if fields.get(ROLE).is_none() {
        out.insert(base, MESSAGE);
    }
    if fields.get(CONTENT).is_none() {
        out.insert(base + fields.get(ROLE).map_or(1, Range::len), FIELD);
    }
    Ok(())
}

fn content_field(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    out.push(FIELD);
    content(scanner, out)
}

fn calls_field(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    compact_list(FIELD, scanner, out)
}

/// Writes a content: a text, or parts. A text and a single part with that text are the same.
fn content(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    match scanner.peek() {
        Some(b'n') => scanner.skip(),
        Some(b'[') => {
            let mut items = scanner.open()?;
            let mut is_first = true;
            while scanner.next_element(&mut items)? {
                if !is_first {
                    out.push(NEXT);
                }
                is_first = false;
                part(scanner, out)?;
            }
            Ok(())
        }
        _ => part(scanner, out),
    }
}

/// Writes a part: a text, or of an object its `content` (results of tools), else its `text`, else what [`other`] makes of it.
fn part(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    if scanner.peek() != Some(b'{') {
        return text_or_compact(scanner, out);
    }
    let (from, base) = (scanner.position(), out.len());
    let (mut has_text, mut has_content) = (false, false);
    let mut kind = None;
    let mut items = scanner.open()?;
    while let Some(key) = scanner.next_key(&mut items)? {
        match key.as_ref() {
            b"content" => {
                out.truncate(base);
                has_content = true;
                content(scanner, out)?;
            }
            b"text" if !has_content => {
                out.truncate(base);
                has_text = true;
                if scanner.peek() == Some(b'n') {
                    scanner.skip()?;
                } else {
                    text_or_compact(scanner, out)?;
                }
            }
            b"type" => kind = read_kind(scanner)?,
            _ => scanner.skip()?,
        }
    }
    let is_text = || matches!(kind.as_deref(), None | Some(b"text" | b"input_text" | b"output_text"));
    if has_content || (has_text && is_text()) {
        return Ok(());
    }
    out.truncate(base);
    other(scanner.rewound(from), kind.as_deref(), out)
}

/// Writes a message or part without a text of its own: calls in compact form, anything else (images, audio, files) as a hash.
fn other(mut scanner: Scanner<'_>, kind: Option<&[u8]>, out: &mut Vec<u8>) -> Scan<()> {
    let is_call = |kind: &[u8]| kind.ends_with(b"call") || kind.ends_with(b"tool_use");
    if kind.is_some_and(is_call) { scanner.compact(out) } else { opaque(&mut scanner, out) }
}

fn read_kind(scanner: &mut Scanner<'_>) -> Scan<Option<Vec<u8>>> {
    if scanner.peek() == Some(b'"') {
        return scanner.text_bytes().map(|kind| Some(kind.into_owned()));
    }
    scanner.skip()?;
    Ok(None)
}

fn text_or_compact(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    if scanner.peek() == Some(b'"') { scanner.string(out) } else { scanner.compact(out) }
}

fn compact_list(lead: u8, scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Scan<()> {
    let start = out.len();
    out.push(lead);
    scanner.compact(out)?;
    if out.get(start + 1..) == Some(b"[]") {
        out.truncate(start);
    }
    Ok(())
}
