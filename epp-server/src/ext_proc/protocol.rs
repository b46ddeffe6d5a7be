//! What gateway and picker say to each other about one request, free of gRPC types.

use bytes::Bytes;
use p3sched::gateway::{Refusal, RequestHead, ResponseHead};

use super::route::Route;

/// Largest piece of a body in one answer, in bytes: Envoy refuses 64 KiB and more.
pub const MAX_CHUNK: usize = 62_000;

/// How the gateway sends a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyMode {
    /// Not at all.
    None,
    /// Chunk by chunk, each answered before the next.
    Streamed,
    /// In one message.
    Buffered,
    /// In one message, which may hold only the body's beginning.
    BufferedPartial,
    /// Chunk by chunk; what goes on is only what is sent back.
    FullDuplex,
}

impl BodyMode {
    /// The mode with this number in `BodySendMode`; those added later than full duplex are variants of it.
    pub fn from_number(number: i32) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Streamed,
            2 => Self::Buffered,
            3 => Self::BufferedPartial,
            _ => Self::FullDuplex,
        }
    }
}

/// How the gateway sends both bodies, from `protocol_config` of the first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyModes {
    /// The request's body.
    pub request: BodyMode,
    /// The response's body.
    pub response: BodyMode,
}

impl Default for BodyModes {
    /// Full duplex, which the endpoint-picker protocol demands of gateways that do not say.
    fn default() -> Self {
        Self { request: BodyMode::FullDuplex, response: BodyMode::FullDuplex }
    }
}

/// What may come with any message, beside its own content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The configured body modes; the first message carries them.
    pub modes: Option<BodyModes>,
    /// The endpoints to choose from; present but empty means none.
    pub subset: Option<Vec<String>>,
    /// The endpoint that really served.
    pub served_by: Option<String>,
}

/// One message of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Headers of the request; with `end_of_stream` there is no body.
    RequestHeaders {
        /// What was read from them.
        head: RequestHead,
        /// Whether nothing follows.
        end_of_stream: bool,
    },
    /// A piece of the request's body.
    RequestBody {
        /// The bytes.
        body: Bytes,
        /// Whether it is the last piece and no trailers follow.
        end_of_stream: bool,
    },
    /// Trailers, which end the request.
    RequestTrailers,
    /// Headers of the response; with `end_of_stream` there is no body.
    ResponseHeaders {
        /// What was read from them.
        head: ResponseHead,
        /// Whether nothing follows.
        end_of_stream: bool,
    },
    /// A piece of the response's body.
    ResponseBody {
        /// The bytes.
        body: Bytes,
        /// Whether it is the last piece and no trailers follow.
        end_of_stream: bool,
    },
    /// Trailers, which end the response.
    ResponseTrailers,
}

impl Message {
    /// Whether nothing of the request follows.
    pub fn ends_request(&self) -> bool {
        match self {
            Self::RequestHeaders { end_of_stream, .. } | Self::RequestBody { end_of_stream, .. } => {
                *end_of_stream
            }
            Self::RequestTrailers => true,
            _ => self.is_response(),
        }
    }

    /// Whether it belongs to the response.
    pub fn is_response(&self) -> bool {
        matches!(self, Self::ResponseHeaders { .. } | Self::ResponseBody { .. } | Self::ResponseTrailers)
    }
}

/// One answer to the gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To the request's headers.
    RequestHeaders {
        /// Where the request goes, once the pick is made.
        route: Option<Route>,
        /// Headers that the client sent and that must not go on.
        remove: Vec<&'static str>,
    },
    /// To a piece of the request's body that is not sent back piece by piece.
    RequestBody {
        /// Where the request goes, when the pick is sent here.
        route: Option<Route>,
        /// What goes on instead of the piece.
        replacement: Option<Bytes>,
    },
    /// A piece of the request's body to send on (full duplex).
    RequestChunk {
        /// The bytes, [`MAX_CHUNK`] at most.
        body: Bytes,
        /// Whether it is the last piece and no trailers follow.
        end_of_stream: bool,
    },
    /// To the request's trailers.
    RequestTrailers {
        /// Where the request goes, when the pick could be sent nowhere else: only metadata can say it here.
        route: Option<Route>,
    },
    /// To the response's headers.
    ResponseHeaders {
        /// Headers to set.
        set: Vec<(&'static str, String)>,
        /// Headers that must not go on.
        remove: Vec<&'static str>,
    },
    /// To a piece of the response's body that is not sent back piece by piece.
    ResponseBody {
        /// What goes on instead of the piece.
        replacement: Option<Bytes>,
    },
    /// A piece of the response's body to send on (full duplex).
    ResponseChunk {
        /// The bytes, [`MAX_CHUNK`] at most.
        body: Bytes,
        /// Whether it is the last piece and no trailers follow.
        end_of_stream: bool,
    },
    /// To the response's trailers.
    ResponseTrailers,
    /// Instead of everything else: the gateway answers the client with this.
    Immediate(Refusal),
}

/// What a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body that is gathered, in bytes.
    pub max_body_bytes: usize,
    /// What the bodies that are gathered at the same time, of all requests together, may hold, in bytes.
    pub max_gathered_bytes: usize,
    /// Time from the headers to the pick, in nanoseconds.
    pub pick_deadline: u64,
}
