//! Names of headers and metadata that gateways and endpoint pickers agree on, and what is read under them.
//!
//! They are those of the Gateway API Inference Extension's endpoint-picker protocol (proposal 004), and the same that
//! `epp-server` reads and writes.

/// Request header and metadata key that carry the picked endpoints: `ip:port[,ip:port…]`.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";

/// Metadata key that limits the endpoints to choose from.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";

/// Metadata namespace of [`DESTINATION`].
pub const DESTINATION_NAMESPACE: &str = "envoy.lb";

/// Metadata namespace of [`SUBSET`].
pub const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";

/// Response header that says why a request was refused.
pub const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// Metadata namespace of the explanation.
pub const EXPLANATION_NAMESPACE: &str = "p3sched";

/// Request headers that name a session, the first that is present counts.
const SESSION: [&[u8]; 3] = [b"x-session-token", b"x-session-id", b"session-id"];

/// What is read from the headers of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// The pseudo-header `:path`, query included.
    pub path: String,
    /// Session named by a header; it goes before the one in the body.
    pub session: Option<String>,
    /// Whether the client itself sent [`DESTINATION`].
    pub forged_destination: bool,
    /// Whether no prompt can be read from the body: it is compressed or multipart, or the connection is upgraded and what
    /// comes is no body.
    pub opaque_body: bool,
    /// Length of the body in bytes, if the client announced it.
    pub content_length: Option<u64>,
    /// Set by tests of debug builds to see what a panic does.
    #[cfg(debug_assertions)]
    pub panics: bool,
}

impl RequestHead {
    /// Reads lower-case names and their values.
    pub fn read<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut head = Self::default();
        let mut session_rank = SESSION.len();
        for (name, value) in headers {
            match name {
                b":path" => head.path = text(value),
                b":method" => head.opaque_body |= value == b"CONNECT",
                b"upgrade" => head.opaque_body = true,
                b"content-encoding" => head.opaque_body |= is_encoded(value),
                b"content-type" => head.opaque_body |= value.starts_with(b"multipart/"),
                b"content-length" => head.content_length = text(value).parse().ok(),
                #[cfg(debug_assertions)]
                b"x-p3sched-panic" => head.panics = true,
                name if name == DESTINATION.as_bytes() => head.forged_destination = true,
                name => {
                    let Some(rank) = SESSION.iter().position(|session| *session == name) else { continue };
                    if rank < session_rank && !value.is_empty() {
                        session_rank = rank;
                        head.session = Some(text(value));
                    }
                }
            }
        }
        head
    }
}

/// What is read from the headers of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// The pseudo-header `:status`; 0 when it is missing.
    pub status: u16,
    /// Whether the body is a stream of server-sent events.
    pub event_stream: bool,
    /// Whether the body is compressed, so that its usage cannot be read.
    pub encoded: bool,
}

impl ResponseHead {
    /// Reads lower-case names and their values.
    pub fn read<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            match name {
                b":status" => head.status = text(value).parse().unwrap_or(0),
                b"content-type" => head.event_stream = value.starts_with(b"text/event-stream"),
                b"content-encoding" => head.encoded = is_encoded(value),
                _ => {}
            }
        }
        head
    }

    /// Whether the endpoint did what it was asked for.
    pub fn succeeds(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

/// The endpoints in a subset hint: one string holds a comma-separated list.
pub fn subset_entries(hint: &[u8]) -> Vec<String> {
    let entries = hint.split(|byte| *byte == b',').map(|entry| text(entry.trim_ascii()));
    entries.filter(|entry| !entry.is_empty()).collect()
}

/// Whether a value of `content-encoding` means that the body is compressed.
fn is_encoded(value: &[u8]) -> bool {
    !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> RequestHead {
        RequestHead::read(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn the_first_session_header_by_rank_counts() {
        let head = request(&[
            ("session-id", "third"),
            ("x-session-token", ""),
            ("x-session-id", "second"),
            (":path", "/v1/completions"),
            ("content-length", "12"),
        ]);
        assert_eq!(head.session.as_deref(), Some("second"));
        assert_eq!((head.path.as_str(), head.content_length), ("/v1/completions", Some(12)));
        assert!(!head.forged_destination && request(&[(DESTINATION, "")]).forged_destination);
    }

    #[test]
    fn a_request_says_whether_its_body_can_be_read() {
        for (name, value, opaque_body) in [
            ("content-encoding", "gzip", true),
            ("content-encoding", "Identity", false),
            ("content-type", "multipart/form-data; boundary=x", true),
            ("content-type", "application/json", false),
            ("upgrade", "websocket", true),
            (":method", "CONNECT", true),
            (":method", "POST", false),
        ] {
            assert_eq!(request(&[(name, value)]).opaque_body, opaque_body, "{name}: {value}");
        }
    }

    #[test]
    fn a_response_says_whether_its_usage_can_be_read() {
        let read = |headers: &[(&'static str, &'static str)]| {
            ResponseHead::read(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
        };
        let plain = read(&[(":status", "200"), ("content-type", "text/event-stream; charset=utf-8")]);
        assert_eq!(plain, ResponseHead { status: 200, event_stream: true, encoded: false });
        assert!(plain.succeeds());
        let gzip = read(&[(":status", "x"), ("content-type", "text/plain"), ("content-encoding", "gzip")]);
        assert_eq!(gzip, ResponseHead { status: 0, event_stream: false, encoded: true });
        assert!(!gzip.succeeds());
    }

    #[test]
    fn a_subset_hint_may_be_a_comma_list() {
        assert_eq!(subset_entries(b" 10.0.0.1:8000, 10.0.0.2,, "), ["10.0.0.1:8000", "10.0.0.2"]);
        assert!(subset_entries(b"").is_empty());
    }
}
