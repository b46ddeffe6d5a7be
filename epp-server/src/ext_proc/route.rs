//! What the gateway is told about a picked request.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Where a picked request goes, and what has to be changed in it.
///
/// Most requests need no more than the destination, which is the one allocation of such a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Route {
    /// Value of the destination header and metadata: `ip:port[,ip:port…]`, the fallbacks in their order.
    pub destination: String,
    extras: Option<Box<Extras>>,
}

/// What goes beyond the destination.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extras {
    /// Request headers to set over whatever the client sent, as name and value.
    pub set_headers: Vec<(&'static str, String)>,
    /// Request headers that must not go on.
    pub remove_headers: Vec<&'static str>,
    /// Score of every endpoint that was rated, for the metadata; empty when nobody asked for it.
    pub scores: Vec<(Arc<str>, f32)>,
    /// What is replaced in the body.
    pub splice: Option<Splice>,
}

/// A piece of a body and what stands there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// The piece, in bytes of the whole body.
    pub span: Range<usize>,
    /// The new bytes.
    pub replacement: Bytes,
}

impl Route {
    /// A route with nothing but a destination.
    pub fn to(destination: String) -> Self {
        Self { destination, extras: None }
    }

    /// What goes beyond the destination, if anything does.
    pub fn extras(&self) -> Option<&Extras> {
        self.extras.as_deref()
    }

    /// What goes beyond the destination, to be filled.
    pub fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Takes out what is replaced in the body.
    pub fn take_splice(&mut self) -> Option<Splice> {
        self.extras.as_mut()?.splice.take()
    }

    /// The destination and what goes beyond it.
    pub fn into_parts(self) -> (String, Extras) {
        (self.destination, self.extras.map(|extras| *extras).unwrap_or_default())
    }
}

impl Splice {
    /// The body with the piece replaced; nothing of it is copied.
    pub fn apply(&self, chunks: Vec<Bytes>) -> Vec<Bytes> {
        let mut spliced = Vec::with_capacity(chunks.len() + 2);
        let mut start = 0;
        for chunk in chunks {
            let end = start + chunk.len();
            let within = |at: usize| at.clamp(start, end) - start;
            spliced.push(chunk.slice(..within(self.span.start)));
            if (start..end).contains(&self.span.start) {
                spliced.push(self.replacement.clone());
            }
            spliced.push(chunk.slice(within(self.span.end)..));
            start = end;
        }
        spliced.retain(|chunk| !chunk.is_empty());
        spliced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_replaced_wherever_the_chunks_end() {
        let body = Bytes::from_static(b"{\"model\": \"llama\", \"n\": 12345678901234567890}");
        let splice = Splice { span: 10..17, replacement: Bytes::from_static(b"\"llama-8b\"") };
        for size in 1..=body.len() {
            let chunks = (0..body.len()).step_by(size);
            let chunks = chunks.map(|at| body.slice(at..body.len().min(at + size))).collect();
            assert_eq!(
                splice.apply(chunks).concat(),
                b"{\"model\": \"llama-8b\", \"n\": 12345678901234567890}",
                "chunks of {size}"
            );
        }
    }
}
