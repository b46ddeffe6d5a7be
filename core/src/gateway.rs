//! What gateways and endpoint pickers tell each other: names of headers and metadata, what is read under them, refusals.
//!
//! Use this in a proxy's filter or an endpoint picker, so that clients and dashboards see the same names whoever picks. The
//! names are those of the Gateway API Inference Extension's endpoint-picker protocol (proposal 004).

use crate::Error;

/// Request header and metadata key that carry the picked endpoints: `ip:port[,ip:port…]`.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";

/// Metadata key under which the gateway says which endpoint really served.
pub const DESTINATION_SERVED: &str = "x-gateway-destination-endpoint-served";

/// Metadata key of the scores of the endpoints that were rated: an object from `ip:port` to number.
pub const DESTINATION_SCORES: &str = "x-gateway-destination-endpoint-scores";

/// Metadata key that limits the endpoints to choose from.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";

/// Metadata namespace of [`DESTINATION`], [`DESTINATION_SERVED`] and [`DESTINATION_SCORES`].
pub const DESTINATION_NAMESPACE: &str = "envoy.lb";

/// Metadata namespace of [`SUBSET`].
pub const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";

/// Response header that says why a request was refused.
pub const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// Value of [`DROPPED_REASON`] when no endpoint can serve the request.
pub const REJECTED_NO_ENDPOINTS: &str = "rejected-no-endpoints";

/// Value of [`DROPPED_REASON`] when the picker or the endpoints have too much to do.
pub const REJECTED_SATURATED: &str = "rejected-saturated";

/// Request header that names the prefill endpoint, which the decode endpoint asks for the prompt's KV cache.
pub const PREFILLER: &str = "x-llm-d-prefiller-host-port";

/// The same as older sidecars read it.
pub const OLD_PREFILLER: &str = "x-prefiller-host-port";

/// Request header that names the endpoint, where requests go to a sidecar before several of them.
pub const DATA_PARALLEL: &str = "x-data-parallel-host-port";

/// Request header that gives the request the priority of an `InferenceObjective`.
pub const OBJECTIVE: &str = "x-llm-d-inference-objective";

/// Request header that says who the request is counted for.
pub const FAIRNESS_ID: &str = "x-llm-d-inference-fairness-id";

/// Request header with the model that shall serve instead of the one in the body.
pub const MODEL_REWRITE: &str = "x-llm-d-model-name-rewrite";

/// Request header in which a conformance test names the endpoints to route to.
pub const TEST_SELECTION: &str = "test-epp-endpoint-selection";

/// Response header that tells a conformance test who served.
pub const TEST_SERVED: &str = "x-conformance-test-served-endpoint";

/// What a request is counted under that says no [`FAIRNESS_ID`].
pub const DEFAULT_FAIRNESS_ID: &str = "default-flow";

const OLD_OBJECTIVE: &str = "x-gateway-inference-objective";
const OLD_FAIRNESS_ID: &str = "x-gateway-inference-fairness-id";
const OLD_MODEL_REWRITE: &str = "x-gateway-model-name-rewrite";

/// Headers between gateways, pickers and engines: whoever sends one as a client steers what is not his, or tells an engine
/// what it should not know.
const STEERING: [&str; 18] = [
    DESTINATION,
    DESTINATION_SERVED,
    DESTINATION_SCORES,
    SUBSET,
    DROPPED_REASON,
    PREFILLER,
    OLD_PREFILLER,
    "x-llm-d-encoder-hosts-ports",
    "x-encoder-hosts-ports",
    "x-llm-d-kv-cache-source-host-port",
    "x-kv-cache-source-host-port",
    DATA_PARALLEL,
    OBJECTIVE,
    OLD_OBJECTIVE,
    FAIRNESS_ID,
    OLD_FAIRNESS_ID,
    MODEL_REWRITE,
    OLD_MODEL_REWRITE,
];

/// Request headers that name a session, the first that is present counts.
const SESSION: [&[u8]; 3] = [b"x-session-token", b"x-session-id", b"session-id"];

/// What is read from the headers of a request.
///
/// # Example
///
/// ```
/// use p3sched::gateway::RequestHead;
///
/// let headers = [(b":path".as_slice(), b"/v1/completions".as_slice()), (b"x-session-id", b"me")];
/// let head = RequestHead::read(headers);
/// assert_eq!((head.path.as_str(), head.session.as_deref()), ("/v1/completions", Some("me")));
/// assert!(head.steering.is_empty() && !head.opaque_body);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// The pseudo-header `:path`, query included.
    pub path: String,
    /// Session named by a header; it goes before the one in the body.
    pub session: Option<String>,
    /// Name of the objective that gives the request its priority.
    pub objective: Option<String>,
    /// Who the request is counted for.
    pub fairness_id: Option<String>,
    /// The model that shall serve instead of the one in the body.
    pub model_rewrite: Option<String>,
    /// The value of [`TEST_SELECTION`].
    pub test_selection: Option<String>,
    /// Name of this request in the logs of everybody who sees it, `x-request-id`.
    pub request_id: Option<String>,
    /// Headers that came and must not go on: they are between gateways, pickers and engines.
    pub steering: Vec<&'static str>,
    /// Whether no prompt can be read from the body: it is compressed or multipart, or the connection is upgraded and what
    /// comes is no body.
    pub opaque_body: bool,
    /// Length of the body in bytes, if the client announced it.
    pub content_length: Option<u64>,
}

impl RequestHead {
    /// Reads lower-case names and their values.
    pub fn read<'a>(headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut head = Self::default();
        let mut session_rank = SESSION.len();
        let mut old = Self::default();
        for (name, value) in headers {
            match name {
                b":path" => head.path = text(value),
                b":method" => head.opaque_body |= value == b"CONNECT",
                b"upgrade" => head.opaque_body = true,
                b"content-encoding" => head.opaque_body |= is_encoded(value),
                b"content-type" => head.opaque_body |= value.starts_with(b"multipart/"),
                b"content-length" => head.content_length = text(value).parse().ok(),
                b"x-request-id" => head.request_id = some_text(value),
                name if name == TEST_SELECTION.as_bytes() => head.test_selection = some_text(value),
                name => {
                    head.read_steering(&mut old, name, value);
                    let Some(rank) = SESSION.iter().position(|session| *session == name) else { continue };
                    if rank < session_rank && !value.is_empty() {
                        session_rank = rank;
                        head.session = Some(text(value));
                    }
                }
            }
        }
        head.objective = head.objective.or(old.objective);
        head.fairness_id = head.fairness_id.or(old.fairness_id);
        head.model_rewrite = head.model_rewrite.or(old.model_rewrite);
        head
    }

    /// Reads a header that must not go on; values under names of earlier releases go to `old`.
    fn read_steering(&mut self, old: &mut Self, name: &[u8], value: &[u8]) {
        if !name.starts_with(b"x-") {
            return;
        }
        let Some(known) = STEERING.into_iter().find(|known| known.as_bytes() == name) else { return };
        self.steering.push(known);
        match known {
            OBJECTIVE => self.objective = some_text(value),
            OLD_OBJECTIVE => old.objective = some_text(value),
            FAIRNESS_ID => self.fairness_id = some_text(value),
            OLD_FAIRNESS_ID => old.fairness_id = some_text(value),
            MODEL_REWRITE => self.model_rewrite = some_text(value),
            OLD_MODEL_REWRITE => old.model_rewrite = some_text(value),
            _ => {}
        }
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
    pub fn read<'a>(headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
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

/// The endpoints in a subset hint: a list with commas.
pub fn subset_entries(hint: &[u8]) -> Vec<String> {
    let entries = hint.split(|byte| *byte == b',').map(|entry| text(entry.trim_ascii()));
    entries.filter(|entry| !entry.is_empty()).collect()
}

/// Whether an entry of a subset hint, with or without a port, means this endpoint.
pub fn names_endpoint(entry: &str, endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    entry == endpoint
        || entry == host
        || host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) == Some(entry)
}

/// A request that gets an answer from the picker instead of from an endpoint.
///
/// # Example
///
/// ```
/// use p3sched::Error;
/// use p3sched::gateway::Refusal;
///
/// let refusal = Refusal::from_error(&Error::NoEndpoints);
/// assert_eq!((refusal.status, refusal.reason), (503, Some("rejected-no-endpoints")));
/// assert_eq!(
///     refusal.body(),
///     "inference error: ServiceUnavailable - no endpoints: add at least one before picking"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Name of the kind of refusal, as clients and dashboards know it.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
    /// Value of [`DROPPED_REASON`].
    pub reason: Option<&'static str>,
}

impl Refusal {
    /// 400 for a request that cannot be read, 503 when the scheduler has no answer.
    pub fn from_error(error: &Error) -> Self {
        match error {
            Error::InvalidRequest(message) => Self::new(400, "BadRequest", message.clone()),
            Error::NoEndpoints | Error::NoEligibleEndpoint { .. } => Self {
                reason: Some(REJECTED_NO_ENDPOINTS),
                ..Self::new(503, "ServiceUnavailable", error.to_string())
            },
            _ => Self::new(503, "ServiceUnavailable", error.to_string()),
        }
    }

    /// 404: no endpoint serves this model.
    pub fn unknown_model(model: &str) -> Self {
        Self::new(404, "NotFound", format!("no endpoint of this pool serves the model: `{model}`"))
    }

    /// 429: requests of negative priority are refused while the endpoints have enough to do.
    pub fn shed(priority: i32) -> Self {
        Self::too_much(format!(
            "endpoints are saturated and the request may wait, by its priority: `{priority}`"
        ))
    }

    /// 408: the request body did not end within the deadline in nanoseconds.
    pub fn request_timeout(deadline: u64) -> Self {
        let seconds = deadline as f64 / 1e9;
        Self::new(408, "RequestTimeout", format!("request body did not end within seconds: `{seconds}`"))
    }

    /// 413: the request body is larger than the configured limit in bytes.
    pub fn payload_too_large(limit: u64) -> Self {
        Self::new(
            413,
            "PayloadTooLarge",
            format!("request body is larger than the limit of bytes: `{limit}`"),
        )
    }

    /// 429: as many requests as configured are in flight.
    pub fn saturated(limit: usize) -> Self {
        Self::too_much(format!("this picker serves its limit of concurrent requests: `{limit}`"))
    }

    /// 429: the bodies that are gathered hold as many bytes as configured.
    pub fn bodies_saturated(limit: usize) -> Self {
        Self::too_much(format!("request bodies that are being received hold the limit of bytes: `{limit}`"))
    }

    /// 503: the picker ends, another one has to be asked.
    pub fn shutting_down() -> Self {
        Self::new(503, "ServiceUnavailable", "this picker is shutting down; try again".to_owned())
    }

    /// The picker broke; its log says where. The status is 500 inside of the proxy, 503 where the picker is a service.
    pub fn internal(status: u16) -> Self {
        let code = if status == 503 { "ServiceUnavailable" } else { "Internal" };
        Self::new(status, code, "internal error of the endpoint picker".to_owned())
    }

    /// The body that the client sees.
    pub fn body(&self) -> String {
        format!("inference error: {} - {}", self.code, self.message)
    }

    fn too_much(message: String) -> Self {
        Self { reason: Some(REJECTED_SATURATED), ..Self::new(429, "InferencePoolResourceExhausted", message) }
    }

    fn new(status: u16, code: &'static str, message: String) -> Self {
        Self { status, code, message, reason: None }
    }
}

/// Whether a value of `content-encoding` means that the body is compressed.
fn is_encoded(value: &[u8]) -> bool {
    !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
}

/// A value that is not empty.
fn some_text(value: &[u8]) -> Option<String> {
    (!value.is_empty()).then(|| text(value))
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
        assert!(head.steering.is_empty());
    }

    #[test]
    fn what_a_client_says_about_its_request_is_read_and_does_not_go_on() {
        let head = request(&[
            ("x-gateway-inference-objective", "old"),
            (OBJECTIVE, "chat"),
            ("x-gateway-inference-fairness-id", "me"),
            (MODEL_REWRITE, ""),
            (DESTINATION, "127.0.0.1:15000"),
            (PREFILLER, "127.0.0.1:15000"),
            ("x-request-id", "7"),
            ("x-other", "1"),
        ]);
        assert_eq!((head.objective.as_deref(), head.fairness_id.as_deref()), (Some("chat"), Some("me")));
        assert_eq!((head.model_rewrite, head.request_id.as_deref()), (None, Some("7")));
        assert_eq!(
            head.steering,
            [
                "x-gateway-inference-objective",
                OBJECTIVE,
                "x-gateway-inference-fairness-id",
                MODEL_REWRITE,
                DESTINATION,
                PREFILLER
            ]
        );
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

    #[test]
    fn a_refusal_tells_the_client_its_kind_and_its_reason() {
        let refusal = Refusal::from_error(&Error::NoEndpoints);
        assert_eq!((refusal.status, refusal.reason), (503, Some(REJECTED_NO_ENDPOINTS)));
        assert_eq!(
            refusal.body(),
            "inference error: ServiceUnavailable - no endpoints: add at least one before picking"
        );
        assert_eq!(Refusal::from_error(&Error::InvalidRequest("x".to_owned())).status, 400);
        assert_eq!(
            Refusal::payload_too_large(10).body(),
            "inference error: PayloadTooLarge - request body is larger than the limit of bytes: `10`"
        );
        assert_eq!(Refusal::internal(500).code, "Internal");
        assert_eq!(Refusal::internal(503).code, "ServiceUnavailable");
        assert_eq!(
            Refusal::request_timeout(1_500_000_000).body(),
            "inference error: RequestTimeout - request body did not end within seconds: `1.5`"
        );
        assert_eq!(Refusal::saturated(3).reason, Some(REJECTED_SATURATED));
        assert_eq!(Refusal::bodies_saturated(3).status, 429);
    }
}
