//! The scheduler's memory as bytes: the prefix index and what was learned about endpoints.
//!
//! ```text
//! "p3sched\0"   version 1   block size   bytes per token                     8 bytes, then u32 each
//! mean uncached tokens of a request                                          f64
//! endpoints: number, then each: length of the name, name, sums of its rate   u32, then u32, UTF-8, 2 × f64
//! runs: number, lengths, hashes                                              u32, u32 each, u64 each
//! per endpoint: number of segments, each run, start, end; oldest first       u32, 3 × u32 each
//! XXH3-64 of all that                                                        u64
//! ```
//!
//! All numbers are little endian. What KV events told is not part of it: engines repeat that themselves.

use xxhash_rust::xxh3::xxh3_64;

use crate::Error;

const MAGIC: &[u8; 8] = b"p3sched\0";
const VERSION: u32 = 1;

/// The first bytes of every snapshot.
pub(crate) fn begin() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out
}

/// Appends the checksum.
pub(crate) fn seal(mut out: Vec<u8>) -> Vec<u8> {
    out.extend(xxh3_64(&out).to_le_bytes());
    out
}

/// The part between version and checksum.
pub(crate) fn open(bytes: &[u8]) -> Result<Input<'_>, Error> {
    let (content, checksum) = bytes.split_last_chunk().ok_or_else(|| invalid("it ends too early"))?;
    let body = content.strip_prefix(MAGIC).ok_or_else(|| invalid("it is of another format"))?;
    let (version, body) = body.split_first_chunk().ok_or_else(|| invalid("it ends too early"))?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(invalid(&format!("version must be `{VERSION}`: `{version}`")));
    }
    if xxh3_64(content) != u64::from_le_bytes(*checksum) {
        return Err(invalid("it is truncated or corrupted"));
    }
    Ok(Input::new(body))
}

/// Bytes that are read from the front, never past their end.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| invalid("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| invalid("it ends too early"))?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*taken))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| invalid("it ends too early"))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*taken))
    }
}

pub(crate) fn invalid(message: &str) -> Error {
    Error::InvalidSnapshot(message.to_owned())
}
