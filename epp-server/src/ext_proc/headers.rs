//! Names of headers and metadata that gateways and endpoint pickers agree on, and what is read under them.
//!
//! They are those of the Gateway API Inference Extension's endpoint-picker protocol (proposal 004).

/// Request header and metadata key that carry the picked endpoints: `ip:port[,ip:port…]`.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";

/// Metadata key under which the gateway says which endpoint really served.
pub const DESTINATION_SERVED: &str = "x-gateway-destination-endpoint-served";

/// Metadata key that limits the endpoints to choose from.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";

/// Metadata namespace of [`DESTINATION`] and [`DESTINATION_SERVED`].
pub const DESTINATION_NAMESPACE: &str = "envoy.lb";

/// Metadata namespace of [`SUBSET`].
pub const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";

/// Envoy's attribute with the address of the host that answered.
pub const UPSTREAM_ADDRESS: &str = "upstream.address";

/// Response header that says why a request was refused.
pub const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// Request headers that name a session, the first that is present counts.
const SESSION: [&str; 3] = ["x-session-token", "x-session-id", "session-id"];

/// What is read from the headers of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// The pseudo-header `:path`, query included.
    pub path: String,
    /// Session named by a header; it goes before the one in the body.
    pub session: Option<String>,
    /// Whether the client itself sent [`DESTINATION`].
    pub forged_destination: bool,
    /// Whether the body is compressed or multipart, so that no prompt can be read from it.
    pub opaque_body: bool,
}

impl RequestHead {
    /// Reads lower-case names and their values.
    pub fn read<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut head = Self::default();
        let mut session_rank = SESSION.len();
        for (name, value) in headers {
            match name {
                ":path" => head.path = text(value),
                DESTINATION => head.forged_destination = true,
                "content-encoding" => head.opaque_body |= is_encoded(value),
                "content-type" => head.opaque_body |= value.starts_with(b"multipart/"),
                _ => {
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
    pub fn read<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            match name {
                ":status" => head.status = text(value).parse().unwrap_or(0),
                "content-type" => head.event_stream = value.starts_with(b"text/event-stream"),
                "content-encoding" => head.encoded = is_encoded(value),
                _ => {}
            }
        }
        head
    }
}

/// The endpoints in a subset hint: one string holds a comma-separated list.
pub fn subset_entries(hint: &str) -> impl Iterator<Item = String> {
    hint.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned)
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

    #[test]
    fn the_first_session_header_by_rank_counts() {
        let head = RequestHead::read([
            ("session-id", b"third".as_slice()),
            ("x-session-token", b""),
            ("x-session-id", b"second"),
            (":path", b"/v1/completions"),
        ]);
        assert_eq!(head.session.as_deref(), Some("second"));
        assert_eq!(head.path, "/v1/completions");
        assert!(!head.forged_destination);
    }

    #[test]
    fn a_request_says_whether_its_body_can_be_read() {
        for (name, value, opaque_body) in [
            ("content-encoding", "gzip", true),
            ("content-encoding", "Identity", false),
            ("content-type", "multipart/form-data; boundary=x", true),
            ("content-type", "application/json", false),
        ] {
            let head = RequestHead::read([(name, value.as_bytes())]);
            assert_eq!(head.opaque_body, opaque_body, "{name}: {value}");
        }
    }

    #[test]
    fn a_response_says_whether_its_usage_can_be_read() {
        let plain = ResponseHead::read([
            (":status", b"200".as_slice()),
            ("content-type", b"text/event-stream; charset=utf-8"),
        ]);
        assert_eq!(plain, ResponseHead { status: 200, event_stream: true, encoded: false });
        let gzip = ResponseHead::read([
            (":status", b"nonsense".as_slice()),
            ("content-type", b"application/json"),
            ("content-encoding", b"gzip"),
        ]);
        assert_eq!(gzip, ResponseHead { status: 0, event_stream: false, encoded: true });
    }

    #[test]
    fn a_subset_hint_may_be_a_comma_list() {
        let entries: Vec<String> = subset_entries(" 10.0.0.1:8000, 10.0.0.2,, ").collect();
        assert_eq!(entries, ["10.0.0.1:8000", "10.0.0.2"]);
        assert_eq!(subset_entries("").count(), 0);
    }
}
