//! A scanner for JSON that validates everything and keeps nothing.
//!
//! It accepts what RFC 8259 accepts and `serde_json` does: UTF-8 only, no lone surrogates, at most 127 levels. Numbers are
//! checked for their form, not for their range.

use std::borrow::Cow;
use std::mem;
use std::ops::Range;

use simdutf8::compat::from_utf8;

#[cfg(target_arch = "x86_64")]
use super::classify::classify_avx2;
use super::classify::{CHUNK, Classes, classify, plain_chunks};

/// Levels of arrays and objects that may be open at once.
const MAX_DEPTH: u8 = 127;
/// Stands for the quotes of strings in compact form; like all bytes from 0xF8 on it never occurs in UTF-8.
pub(super) const STRING: u8 = 0xFC;

/// What is wrong with a text, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Byte offset.
    pub(crate) at: usize,
    /// What would be right.
    pub(crate) rule: &'static str,
}

impl Fault {
    /// The fault in words, with what stands at its place in `text`.
    pub(crate) fn describe(self, text: &[u8]) -> String {
        let Self { at, rule } = self;
        match text.get(at..).unwrap_or_default() {
            [] => format!("{rule}, at byte {at}: the body ends here"),
            found => format!("{rule}, at byte {at}: `{}`", excerpt(found)),
        }
    }
}

/// The token a text starts with, shortened: enough to find it, too little to give a prompt away.
fn excerpt(text: &[u8]) -> String {
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}' | b']' | b':');
    let length = text.iter().skip(1).take(15).take_while(|byte| !is_end(byte)).count() + 1;
    let mut token = text.get(..length).unwrap_or(text);
    // Not to cut a character in two.
    while str::from_utf8(token).is_err_and(|error| error.error_len().is_none()) {
        token = token.get(..token.len() - 1).unwrap_or_default();
    }
    // A line break in a message would break the line of a log.
    String::from_utf8_lossy(token).replace(char::is_control, " ")
}

/// Result of one step of a scan.
pub(crate) type Scan<T> = Result<T, Fault>;

/// Where the content of what is scanned goes.
pub(crate) trait Sink: Default {
    /// Takes the first `length` bytes of a text, at most all.
    fn start_of(&mut self, text: &[u8], length: usize);
    /// Takes a few bytes.
    fn bytes(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline]
    fn start_of(&mut self, text: &[u8], length: usize) {
        // Copying a fixed length and cutting it is faster than copying a variable one.
        if length <= CHUNK
            && let Some(chunk) = text.first_chunk::<CHUNK>()
        {
            self.extend_from_slice(chunk);
            self.truncate(self.len() - CHUNK + length);
        } else if length <= 2 * CHUNK
            && let Some(chunks) = text.first_chunk::<{ 2 * CHUNK }>()
        {
            self.extend_from_slice(chunks);
            self.truncate(self.len() - 2 * CHUNK + length);
        } else {
            self.extend_from_slice(text.get(..length).unwrap_or(text));
        }
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Drops everything: for values that only have to be valid.
#[derive(Default)]
pub(crate) struct Ignore;

impl Sink for Ignore {
    #[inline]
    fn start_of(&mut self, _: &[u8], _: usize) {}

    #[inline]
    fn bytes(&mut self, _: &[u8]) {}
}

/// After this many chunks without anything special it pays to ask for a run of them.
const QUIET_CHUNKS: u32 = 3;
/// Chunks that are passed over before they are copied: few enough to be in the first-level cache when they are.
const RUN_CHUNKS: usize = 128;

/// A string as it stands in the text.
struct RawString {
    /// Between the quotes.
    range: Range<usize>,
    escaped: bool,
}

/// A position in a text.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    depth: u8,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Byte offset of what comes next.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The same scan from an earlier position at the same depth.
    pub(crate) fn rewound(&self, at: usize) -> Self {
        Self { at, ..*self }
    }

    /// A fault at this position.
    pub(crate) fn fault(&self, rule: &'static str) -> Fault {
        Fault { at: self.at, rule }
    }

    /// The next byte that is not white space, which the scan then stands at.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                next => return next.copied(),
            }
        }
    }

    /// Fails unless only white space is left.
    pub(crate) fn end(&mut self) -> Scan<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault("expected nothing behind the JSON value")),
        }
    }

    /// Steps into the array or object that the scan stands at.
    #[inline]
    pub(crate) fn open(&mut self) -> Scan<Items> {
        if self.depth == MAX_DEPTH {
            return Err(self.fault("expected at most 127 levels of arrays and objects"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(Items { any: false })
    }

    /// Whether an array has another element; steps out of it when not.
    #[inline]
    pub(crate) fn next_element(&mut self, items: &mut Items) -> Scan<bool> {
        self.next_item(items, b']', "expected `,` or `]`")
    }

    /// The next key of an object, with the scan behind its colon; steps out of it when there is none.
    #[inline]
    pub(crate) fn next_key(&mut self, items: &mut Items) -> Scan<Option<Cow<'a, [u8]>>> {
        if !self.next_item(items, b'}', "expected `,` or `}`")? {
            return Ok(None);
        }
        self.key_quote()?;
        let key = self.text_bytes()?;
        self.colon()?;
        Ok(Some(key))
    }

    /// Passes over any value.
    pub(crate) fn skip(&mut self) -> Scan<()> {
        self.compact(&mut Ignore)
    }

    /// Writes any value in compact form: no white space, strings without escapes between two [`STRING`] bytes, numbers as
    /// they stand.
    pub(crate) fn compact<S: Sink>(&mut self, sink: &mut S) -> Scan<()> {
        match self.peek() {
            Some(b'"') => self.quoted(sink),
            Some(b'{') => self.compact_object(sink),
            Some(b'[') => self.compact_array(sink),
            Some(b't') => self.literal(b"true", sink),
            Some(b'f') => self.literal(b"false", sink),
            Some(b'n') => self.literal(b"null", sink),
            Some(b'-' | b'0'..=b'9') => {
                let number = self.number()?;
                sink.bytes(number);
                Ok(())
            }
            _ => Err(self.fault("expected a JSON value")),
        }
    }

    /// Writes the content of the string that the scan stands at.
    pub(crate) fn string<S: Sink>(&mut self, sink: &mut S) -> Scan<()> {
        self.raw_string(sink).map(|_| ())
    }

    /// The content of the string that the scan stands at.
    pub(crate) fn text(&mut self) -> Scan<String> {
        let at = self.at;
        let bytes = self.text_bytes()?.into_owned();
        String::from_utf8(bytes).map_err(|_| Fault { at, rule: INVALID_UTF8 })
    }

    /// The number that the scan stands at, as it stands in the text.
    pub(crate) fn number(&mut self) -> Scan<&'a [u8]> {
        let start = self.at;
        if self.text.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// The whole number from 0 to 4294967295 that the scan stands at; fails with `rule` for anything else.
    #[inline]
    pub(crate) fn unsigned(&mut self, rule: &'static str) -> Scan<u32> {
        let fault = self.fault(rule);
        let start = self.at;
        let mut value = 0_u32;
        while let Some(digit @ b'0'..=b'9') = self.text.get(self.at) {
            let next = value.checked_mul(10).and_then(|tens| tens.checked_add(u32::from(digit - b'0')));
            value = next.ok_or(fault)?;
            self.at += 1;
        }
        let leading_zero = self.at > start + 1 && self.text.get(start) == Some(&b'0');
        let has_fraction = matches!(self.text.get(self.at), Some(b'.' | b'e' | b'E'));
        if self.at == start || leading_zero || has_fraction { Err(fault) } else { Ok(value) }
    }

    #[inline]
    fn next_item(&mut self, items: &mut Items, close: u8, rule: &'static str) -> Scan<bool> {
        let next = self.peek();
        if next == Some(close) {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        if items.any {
            if next != Some(b',') {
                return Err(self.fault(rule));
            }
            self.at += 1;
        }
        items.any = true;
        Ok(true)
    }

    #[inline]
    fn key_quote(&mut self) -> Scan<()> {
        if self.peek() == Some(b'"') { Ok(()) } else { Err(self.fault("expected a key in double quotes")) }
    }

    #[inline]
    fn colon(&mut self) -> Scan<()> {
        if self.peek() != Some(b':') {
            return Err(self.fault("expected `:`"));
        }
        self.at += 1;
        Ok(())
    }

    fn compact_object<S: Sink>(&mut self, sink: &mut S) -> Scan<()> {
        let mut items = self.open()?;
        let mut lead = b"{";
        while self.next_item(&mut items, b'}', "expected `,` or `}`")? {
            sink.bytes(lead);
            lead = b",";
            self.key_quote()?;
            self.quoted(sink)?;
            self.colon()?;
            sink.bytes(b":");
            self.compact(sink)?;
        }
        sink.bytes(if items.any { b"}" } else { b"{}" });
        Ok(())
    }

    fn compact_array<S: Sink>(&mut self, sink: &mut S) -> Scan<()> {
        let mut items = self.open()?;
        let mut lead = b"[";
        while self.next_element(&mut items)? {
            sink.bytes(lead);
            lead = b",";
            self.compact(sink)?;
        }
        sink.bytes(if items.any { b"]" } else { b"[]" });
        Ok(())
    }

    #[inline]
    fn quoted<S: Sink>(&mut self, sink: &mut S) -> Scan<()> {
        sink.bytes(&[STRING]);
        self.raw_string(sink)?;
        sink.bytes(&[STRING]);
        Ok(())
    }

    fn literal<S: Sink>(&mut self, literal: &'static [u8], sink: &mut S) -> Scan<()> {
        if !self.text.get(self.at..).is_some_and(|rest| rest.starts_with(literal)) {
            return Err(self.fault("expected a JSON value"));
        }
        self.at += literal.len();
        sink.bytes(literal);
        Ok(())
    }

    fn digits(&mut self) -> Scan<()> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("expected a digit")) } else { Ok(()) }
    }

    /// The content of the string that the scan stands at; a copy only where it has escapes.
    pub(crate) fn text_bytes(&mut self) -> Scan<Cow<'a, [u8]>> {
        if let Some(plain) = self.short_text() {
            return Ok(Cow::Borrowed(plain));
        }
        let mut again = self.clone();
        let raw = self.raw_string(&mut Ignore)?;
        if raw.escaped {
            let mut content = Vec::with_capacity(raw.range.len());
            again.raw_string(&mut content)?;
            return Ok(Cow::Owned(content));
        }
        Ok(Cow::Borrowed(self.text.get(raw.range).unwrap_or_default()))
    }

    /// A string of few bytes, as keys are, none of which is special: passed over in one step, if that is what comes.
    #[inline]
    fn short_text(&mut self) -> Option<&'a [u8]> {
        let rest = self.text.get(self.at + 1..)?;
        let classes = classify(rest.first_chunk()?);
        let text = rest.get(..classes.places().next()?)?;
        if classes.non_ascii || rest.get(text.len()) != Some(&b'"') {
            return None;
        }
        self.at += text.len() + 2;
        Some(text)
    }

    #[inline]
    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "without AVX2 the benchmark `body_scan` takes 1.5 times as long")
    )]
    fn raw_string<S: Sink>(&mut self, sink: &mut S) -> Scan<RawString> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the function is safe on every CPU that has AVX2, which has just been asked for.
            return unsafe { self.raw_string_avx2(sink) };
        }
        self.raw_string_by(classify, sink)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn raw_string_avx2<S: Sink>(&mut self, sink: &mut S) -> Scan<RawString> {
        self.raw_string_by(|chunk| classify_avx2(chunk), sink)
    }

    /// Compiled once for every set of instructions that it is called with.
    #[inline(always)]
    fn raw_string_by<S: Sink>(
        &mut self,
        classify: impl Fn(&[u8; CHUNK]) -> Classes,
        sink: &mut S,
    ) -> Scan<RawString> {
        // A local variable stays in registers. After a fault nobody asks for what has been written.
        let mut out = mem::take(sink);
        let start = self.at + 1;
        // Chunks are classified one after the other, whatever is found in them: only copies wait for escapes.
        let (mut base, mut copied) = (start, start);
        let (mut escaped, mut non_ascii) = (false, false);
        let mut quiet = 0_u32;
        let at = 'string: loop {
            let rest = self.text.get(base..).unwrap_or_default();
            let (chunks, _) = rest.as_chunks();
            let run = if quiet < QUIET_CHUNKS {
                0
            } else {
                plain_chunks(rest.get(..RUN_CHUNKS * CHUNK).unwrap_or(rest))
            };
            base += run * CHUNK;
            if run == RUN_CHUNKS {
                out.start_of(self.text.get(copied..).unwrap_or_default(), base - copied);
                copied = base;
                continue;
            }
            if run > 0 {
                quiet = 0; // The run ends soon.
            }
            let classes = match chunks.get(run) {
                Some(chunk) => classify(chunk),
                None => classify_end(rest.get(run * CHUNK..).unwrap_or_default()),
            };
            non_ascii |= classes.non_ascii;
            quiet = if classes.special != 0 || classes.non_ascii { 0 } else { quiet + 1 };
            for at in classes.places().map(|place| base + place) {
                if at < copied {
                    continue; // within the escape before
                }
                out.start_of(self.text.get(copied..).unwrap_or_default(), at - copied);
                match self.text.get(at) {
                    Some(b'"') => break 'string at,
                    Some(b'\\') => copied = self.escape(at + 1, &mut out)?,
                    Some(_) => return Err(Fault { at, rule: CONTROL_CHARACTER }),
                    None => return Err(Fault { at, rule: "expected a closing double quote" }),
                }
                escaped = true;
            }
            base += CHUNK;
        };
        *sink = out;
        // An escape is ASCII outside and valid inside, so the raw bytes are valid exactly when the content is.
        if non_ascii && let Err(error) = from_utf8(self.text.get(start..at).unwrap_or_default()) {
            return Err(Fault { at: start + error.valid_up_to(), rule: INVALID_UTF8 });
        }
        self.at = at + 1;
        Ok(RawString { range: start..at, escaped })
    }

    /// Writes what the escape whose letter is at `at` stands for; gives the position behind it.
    #[inline(always)]
    fn escape<S: Sink>(&self, at: usize, sink: &mut S) -> Scan<usize> {
        match short_escape(self.text.get(at).copied().unwrap_or_default()) {
            0 => self.unicode_escape(at, sink),
            byte => {
                sink.bytes(&[byte]);
                Ok(at + 1)
            }
        }
    }

    /// As [`Self::escape`], for the letter `u`, the only one that is left.
    #[inline(never)]
    fn unicode_escape<S: Sink>(&self, at: usize, sink: &mut S) -> Scan<usize> {
        if self.text.get(at) != Some(&b'u') {
            return Err(Fault { at, rule: "expected one of `\"\\/bfnrtu` behind a backslash" });
        }
        let lone = Fault { at, rule: "expected surrogates of UTF-16 in pairs" };
        let unit = self.hex(at + 1)?;
        let (code, end) = match unit {
            0xD800..=0xDBFF => {
                if self.text.get(at + 5..at + 7) != Some(b"\\u") {
                    return Err(lone);
                }
                let low = self.hex(at + 7)?;
                if !(0xDC00..=0xDFFF).contains(&low) {
                    return Err(lone);
                }
                (0x10000 + ((unit - 0xD800) << 10 | (low - 0xDC00)), at + 11)
            }
            _ => (unit, at + 5),
        };
        let character = char::from_u32(code).ok_or(lone)?;
        sink.bytes(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(end)
    }

    /// Four hexadecimal digits.
    fn hex(&self, at: usize) -> Scan<u32> {
        let digits = self.text.get(at..at + 4).unwrap_or_default();
        if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Fault { at, rule: "expected four hexadecimal digits behind `\\u`" });
        }
        let value = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or(0);
        Ok(digits.iter().fold(0, |code, digit| code << 4 | value(digit)))
    }
}

/// Whether the array or object that is being passed over had an item yet.
#[derive(Debug)]
pub(crate) struct Items {
    any: bool,
}

/// The byte that a letter behind a backslash stands for; 0 for letters that stand for none.
fn short_escape(letter: u8) -> u8 {
    match letter {
        b'"' | b'\\' | b'/' => letter,
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'b' => 0x08,
        b'f' => 0x0C,
        _ => 0,
    }
}

/// Classifies the last bytes of a text. What lies behind them counts as a control character, so that the scan stops there.
#[cold]
#[inline(never)]
fn classify_end(rest: &[u8]) -> Classes {
    let mut padded = [0; CHUNK];
    padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    classify(&padded)
}

const CONTROL_CHARACTER: &str = "expected control characters in strings as `\\u`";
const INVALID_UTF8: &str = "expected UTF-8";
