//! Requests of gateways that send the name of a cluster as `:authority`.
//!
//! Envoy does so where its configuration names no authority. Istio's names of clusters hold `|`, those of others `/`, and
//! the HTTP/2 library refuses both, which would be an error for every request. So they are replaced on their way in: `|` by `+`
//! and `/` by `.`, whose Huffman codes are as long, so that no other byte of a header block changes (RFC 7541).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client sends before its first frame.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
/// Most that a frame may hold here (RFC 9113, 4.2); the HTTP/2 library refuses a larger one by its head.
const MAX_FRAME: usize = 16_384;
const PADDED: u8 = 0x08;
const WITH_PRIORITY: u8 = 0x20;
/// Place of `:authority` in the static table.
const AUTHORITY: usize = 1;

/// A connection whose requests have authorities that can be read.
pub(crate) struct ClusterAuthority<S> {
    stream: S,
    /// Bytes that go on before the next frame begins.
    skip: usize,
    /// A frame of headers that came in pieces, until it is whole.
    held: Vec<u8>,
    is_whole: bool,
    delivered: usize,
}

impl<S> ClusterAuthority<S> {
    /// A connection on which nothing was read yet.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, skip: PREFACE, held: Vec::new(), is_whole: false, delivered: 0 }
    }

    /// Reads on in bytes that have come; returns how many of them can go on.
    fn pass(&mut self, read: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let step = self.skip.min(read.len() - at);
            (at, self.skip) = (at + step, self.skip - step);
            let Some(head) = read.get(at..).and_then(<[u8]>::first_chunk) else { return at };
            let (length, kind) = read_head(head);
            if kind != HEADERS || length > MAX_FRAME {
                self.skip = FRAME_HEAD + length;
                continue;
            }
            let Some(frame) = read.get_mut(at..at + FRAME_HEAD + length) else { return at };
            replace_authority(frame);
            at += FRAME_HEAD + length;
        }
    }

    /// Bytes that a frame in pieces needs before more is known of it.
    fn missing(&mut self) -> usize {
        let Some(head) = self.held.first_chunk() else { return FRAME_HEAD - self.held.len() };
        let (length, kind) = read_head(head);
        let missing = (FRAME_HEAD + length).saturating_sub(self.held.len());
        if kind != HEADERS || length > MAX_FRAME {
            self.skip = missing;
            return 0;
        }
        if missing == 0 {
            replace_authority(&mut self.held);
        }
        missing
    }

    fn deliver(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.held.get(self.delivered..).unwrap_or_default();
        let piece = rest.get(..buffer.remaining()).unwrap_or(rest);
        buffer.put_slice(piece);
        self.delivered += piece.len();
        if self.delivered == self.held.len() {
            self.held.clear();
            (self.is_whole, self.delivered) = (false, 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClusterAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.is_whole {
            if this.held.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
                let (_, read) = buffer.filled_mut().split_at_mut(before);
                let passed = this.pass(read);
                this.held.extend(read.get(passed..).unwrap_or_default());
                buffer.set_filled(before + passed);
                if passed > 0 || this.held.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            let mut piece = [0; 1024];
            let missing = this.missing().min(piece.len());
            let mut piece = ReadBuf::new(piece.split_at_mut(missing).0);
            if missing > 0 {
                ready!(Pin::new(&mut this.stream).poll_read(context, &mut piece))?;
            }
            this.held.extend(piece.filled());
            // Where the connection ends within a frame, that goes on as it is.
            this.is_whole = piece.filled().is_empty();
        }
        this.deliver(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClusterAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for ClusterAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

/// Length of a frame's content, and its type.
fn read_head(head: &[u8; FRAME_HEAD]) -> (usize, u8) {
    let [high, middle, low, kind, ..] = *head;
    (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low), kind)
}

/// Replaces what no authority may hold in a frame of headers; `None` where the frame is not as it should be.
fn replace_authority(frame: &mut [u8]) -> Option<()> {
    let flags = *frame.get(4)?;
    let mut block = frame.get_mut(FRAME_HEAD..)?;
    if flags & PADDED != 0 {
        let end = block.len().checked_sub(usize::from(*block.first()?))?;
        block = block.get_mut(1..end)?;
    }
    if flags & WITH_PRIORITY != 0 {
        block = block.get_mut(5..)?;
    }
    while !block.is_empty() {
        block = pass_field(block)?;
    }
    Some(())
}

/// Reads one header of a block, and returns what follows.
fn pass_field(block: &mut [u8]) -> Option<&mut [u8]> {
    let (prefix, is_literal) = match *block.first()? {
        0x80.. => (7, false),
        0x40.. => (6, true),
        0x20.. => (5, false),
        _ => (4, true),
    };
    let (name, mut rest) = integer(block, prefix)?;
    if !is_literal {
        return Some(rest);
    }
    if name == 0 {
        (_, _, rest) = string(rest)?;
    }
    let (is_coded, value, rest) = string(rest)?;
    match (name, is_coded) {
        (AUTHORITY, true) => replace_coded(value),
        (AUTHORITY, false) => replace_plain(value),
        _ => {}
    }
    Some(rest)
}

/// A number that begins in the last bits of a byte.
fn integer(block: &mut [u8], prefix: u32) -> Option<(usize, &mut [u8])> {
    let (first, mut rest) = block.split_first_mut()?;
    let most = (1 << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Some((value, rest));
    }
    for shift in [0, 7, 14, 21] {
        let (byte, after) = rest.split_first_mut()?;
        rest = after;
        value += usize::from(*byte & 0x7f) << shift;
        if *byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// Whether a string is Huffman-coded, its bytes, and what follows.
fn string(block: &mut [u8]) -> Option<(bool, &mut [u8], &mut [u8])> {
    let is_coded = *block.first()? & 0x80 != 0;
    let (length, rest) = integer(block, 7)?;
    let (value, rest) = rest.split_at_mut_checked(length)?;
    Some((is_coded, value, rest))
}

fn replace_plain(value: &mut [u8]) {
    for byte in value {
        match byte {
            b'|' => *byte = b'+',
            b'/' => *byte = b'.',
            _ => {}
        }
    }
}

/// Lengths of the Huffman codes and how many have each: the codes of a length follow each other, and those of the next.
const CODES: [(u32, u64); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

fn replace_coded(value: &mut [u8]) {
    let mut at = 0;
    while let Some((length, code)) = code_at(value, at) {
        at += length;
        // The bits at the end of the code that differ from the other character's.
        let changed = match (length, code) {
            (11, 0x7fc) => 3,
            (6, 0x18) => 4,
            _ => 0,
        };
        for bit in at - changed..at {
            if let Some(byte) = value.get_mut(bit / 8) {
                *byte ^= 0x80 >> (bit % 8);
            }
        }
    }
}

/// Length and value of the code that begins at a bit; `None` at the end.
fn code_at(value: &[u8], at: usize) -> Option<(usize, u64)> {
    // 40 bits hold the longest code wherever it begins in the first byte.
    let bytes = (0..5).map(|byte| value.get(at / 8 + byte).copied().unwrap_or(0xff));
    let window = bytes.fold(0, |window, byte| window << 8 | u64::from(byte));
    let (mut first, mut before) = (0, 0);
    for (length, count) in CODES {
        first <<= length - before;
        let code = window >> (40 - length as usize - at % 8) & ((1 << length) - 1);
        if code < first + count {
            let length = length as usize;
            return (at + length <= value.len() * 8).then_some((length, code));
        }
        (first, before) = (first + count, length);
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A string of zeros and ones, filled up with ones.
    fn bits(text: &str) -> Vec<u8> {
        let mut bits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').map(|byte| byte - b'0').collect();
        bits.resize(bits.len().next_multiple_of(8), 1);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | bit)).collect()
    }

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], content].concat()
    }

    fn literal(first: u8, coded: bool, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap() | if coded { 0x80 } else { 0 };
        [&[first, length], value].concat()
    }

    /// What is read of a connection on which the bytes come in pieces.
    async fn read(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(piece);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await });
        let mut all = Vec::new();
        ClusterAuthority::new(server).read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn names_of_clusters_become_authorities_however_the_bytes_come() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let coded = bits("00011 11111111100 100011 011000 11111111100 11111111100 00100");
        let cleaned = bits("00011 11111111011 100011 010111 11111111011 11111111011 00100");
        let connection = |plain: &[u8], coded: &[u8]| {
            let other = [&[0x82, 0x44, 2][..], b"/|", &[0x40, 1, b'x', 1, b'|']].concat();
            let block = [other, literal(0x41, false, plain), literal(0x01, true, coded)].concat();
            let padded = [&[2, 0, 0, 0, 0, 7][..], &block, &[0, 0]].concat();
            let data = frame(0, 0, b"\x00\x00\x05\x01|outbound|9002||x");
            let frames = [frame(4, 0, &[]), frame(1, 4, &block), data, frame(1, 0x2c, &padded)];
            [preface.clone(), frames.concat()].concat()
        };
        let sent = connection(b"outbound|9002||epp/x", &coded);
        let expected = connection(b"outbound+9002++epp.x", &cleaned);
        for piece in [1, 7, 64, 4096] {
            assert_eq!(read(&sent, piece).await, expected, "{piece}");
        }
    }

    #[tokio::test]
    async fn what_is_right_or_broken_goes_on_unchanged() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // www.example.com, the example of RFC 7541.
        let example = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        for rest in [
            frame(1, 4, &literal(0x41, true, &example)),
            frame(1, 4, &[0x41, 0xff, 0xff]),
            frame(1, 8, &[200, 1, 2]),
            frame(1, 0x20, &[1]),
            [0, 1, 0, 1, 4, 0, 0, 0, 1, 0x41].to_vec(),
            [0, 0].to_vec(),
            // A frame of 16 KiB and a byte.
            [&[0, 0x40, 1, 1, 4, 0, 0, 0, 1, 0x41, 1, b'|'][..], &[0; 16_382]].concat(),
        ] {
            let sent = [preface.clone(), rest].concat();
            for piece in [7, 4096] {
                assert_eq!(read(&sent, piece).await, sent);
            }
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n", 5).await, b"GET / HTTP/1.1\r\n\r\n");
    }
}
