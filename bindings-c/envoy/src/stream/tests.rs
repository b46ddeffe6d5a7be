use std::collections::BTreeMap;

use p3sched::ScrapeFailure;
use p3sched::stats::Counters;

use super::*;
use crate::settings::Settings;

const CHAT: &str = r#"{"model":"llama","messages":[{"role":"user","content":"What is rain?"}]}"#;
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}"#;
const TWO: &str = r#"{"endpoints": ["10.0.0.1:8000", "10.0.0.2:8000"], "failure_mode": "fail-closed"}"#;

/// An Envoy that writes down what it is told.
#[derive(Default)]
struct Proxy {
    request: Vec<(String, String)>,
    response: Vec<(String, String)>,
    body: Vec<Vec<u8>>,
    chunk: Vec<Vec<u8>>,
    subset: Option<Vec<String>>,
    served_by: Option<String>,
    told: Vec<String>,
    counters: BTreeMap<&'static str, u64>,
    pick_times: usize,
}

impl Gateway for Proxy {
    fn headers(&self, side: Side) -> impl Iterator<Item = (&[u8], &[u8])> {
        let headers = match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        };
        headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }

    fn request_body(&self) -> impl Iterator<Item = &[u8]> {
        self.body.iter().map(Vec::as_slice)
    }

    fn request_body_length(&self) -> u64 {
        self.body.iter().map(Vec::len).sum::<usize>() as u64
    }

    fn response_chunk(&self) -> impl Iterator<Item = &[u8]> {
        self.chunk.iter().map(Vec::as_slice)
    }

    fn subset_hint(&self) -> Option<Vec<String>> {
        self.subset.clone()
    }

    fn served_by(&self) -> Option<String> {
        self.served_by.clone()
    }

    fn raise_body_limit(&mut self, bytes: u64) {
        self.told.push(format!("limit {bytes}"));
    }

    fn set_request_header(&mut self, name: &str, value: Option<&str>) {
        self.told.push(format!("header {name}: {}", value.unwrap_or("-")));
    }

    fn override_host(&mut self, host: &str) {
        self.told.push(format!("host {host}"));
    }

    fn set_text(&mut self, namespace: &str, key: &str, value: &str) {
        self.told.push(format!("{namespace}.{key} = {value}"));
    }

    fn set_number(&mut self, namespace: &str, key: &str, value: f64) {
        self.told.push(format!("{namespace}.{key} = {value}"));
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.told.push(format!("{} {}", refusal.status, refusal.body()));
    }

    fn count(&mut self, counter: Counter, by: u64) {
        *self.counters.entry(counter.name()).or_default() += by;
    }

    fn record_pick_time(&mut self, _nanoseconds: u64) {
        self.pick_times += 1;
    }
}

/// One request in a proxy.
struct Exchange {
    router: Router,
    stream: RequestStream,
    proxy: Proxy,
}

impl Exchange {
    fn new(settings: &str) -> Self {
        let router = Router::new(Settings::read(settings.as_bytes()).unwrap(), clock::now).unwrap();
        Self { router, stream: RequestStream::new(), proxy: Proxy::default() }
    }

    /// The headers of a request, beside its path.
    fn headers(&mut self, headers: &[(&str, &str)], end_of_stream: bool) -> Flow {
        let path = [(":path", "/v1/chat/completions?x=1")];
        let headers = path.iter().chain(headers);
        self.proxy.request = headers.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.stream.request_headers(&mut self.proxy, &self.router, end_of_stream)
    }

    fn body(&mut self, piece: &str, end_of_stream: bool) -> Flow {
        self.proxy.body.push(piece.as_bytes().to_vec());
        self.stream.request_body(&mut self.proxy, &self.router, end_of_stream)
    }

    fn picked(settings: &str) -> Self {
        let mut exchange = Self::new(settings);
        assert_eq!(exchange.headers(&[], false), Flow::Hold);
        assert_eq!(exchange.body(CHAT, true), Flow::Continue);
        exchange
    }

    fn response_headers(&mut self, status: &str, content_type: &str, end_of_stream: bool) {
        let headers = [(":status", status), ("content-type", content_type)];
        self.proxy.response =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.stream.response_headers(&mut self.proxy, &self.router, end_of_stream);
    }

    fn response_body(&mut self, piece: &str, end_of_stream: bool) {
        self.proxy.chunk = vec![piece.as_bytes().to_vec()];
        self.stream.response_body(&mut self.proxy, &self.router, end_of_stream);
    }

    fn in_flight(&self) -> usize {
        self.router.scheduler().stats(self.router.now()).requests_in_flight
    }

    fn counters(&self) -> Counters {
        self.router.scheduler().stats(self.router.now()).counters
    }

    fn count(&self, counter: Counter) -> u64 {
        self.proxy.counters.get(counter.name()).copied().unwrap_or(0)
    }
}

#[test]
fn the_pick_is_made_when_the_request_is_complete() {
    let (first, rest) = CHAT.split_at(20);
    type Steps = fn(&mut Exchange, &str, &str) -> Vec<Flow>;
    let table: [(&str, Steps, &[Flow]); 8] = [
        ("no body", |e, _, _| vec![e.headers(&[], true)], &[Flow::Continue]),
        (
            "a body in one piece",
            |e, a, b| vec![e.headers(&[], false), e.body(&(a.to_owned() + b), true)],
            &[Flow::Hold, Flow::Continue],
        ),
        (
            "a body in pieces, the end in an empty one",
            |e, a, b| vec![e.headers(&[], false), e.body(a, false), e.body(b, false), e.body("", true)],
            &[Flow::Hold, Flow::Hold, Flow::Hold, Flow::Continue],
        ),
        (
            "the end in trailers",
            |e, a, b| {
                let body = vec![e.headers(&[], false), e.body(a, false), e.body(b, false)];
                let end = e.stream.request_trailers(&mut e.proxy, &e.router);
                [body, vec![end]].concat()
            },
            &[Flow::Hold, Flow::Hold, Flow::Hold, Flow::Continue],
        ),
        (
            "an empty body",
            |e, _, _| vec![e.headers(&[], false), e.body("", true)],
            &[Flow::Hold, Flow::Continue],
        ),
        (
            "a compressed body is not held",
            |e, a, _| vec![e.headers(&[("content-encoding", "gzip")], false), e.body(a, true)],
            &[Flow::Continue, Flow::Continue],
        ),
        (
            "an upgraded connection is not held",
            |e, a, _| vec![e.headers(&[("upgrade", "websocket")], false), e.body(a, false)],
            &[Flow::Continue, Flow::Continue],
        ),
        (
            "an announced length within the limit",
            |e, a, b| vec![e.headers(&[("content-length", "9")], false), e.body(&(a.to_owned() + b), true)],
            &[Flow::Hold, Flow::Continue],
        ),
    ];
    for (case, steps, expected) in table {
        let mut exchange = Exchange::new(TWO);
        assert_eq!(steps(&mut exchange, first, rest), expected, "{case}");
        let hosts: Vec<_> =
            exchange.proxy.told.iter().filter(|told| told.starts_with("host 10.0.0.")).collect();
        assert_eq!(hosts.len(), 1, "{case}: {:?}", exchange.proxy.told);
        assert_eq!((exchange.in_flight(), exchange.count(Counter::Picks)), (1, 1), "{case}");
        assert_eq!(exchange.proxy.pick_times, 1, "{case}");
    }
}

#[test]
fn envoy_is_told_the_host_as_configured() {
    let with = |field: &str| format!(r#"{{"endpoints": ["10.0.0.1:8000", "10.0.0.2:8000"], {field}}}"#);
    let fallback = r#""scheduler": {"fallbacks": 1}"#;
    for (settings, told) in [
        (with(fallback), "host 10.0.0."),
        (with(r#""pick_to": "header""#), "header x-gateway-destination-endpoint: 10.0.0."),
        (with(&format!(r#""pick_to": "header", {fallback}"#)), ":8000,10.0.0."),
        (with(r#""pick_to": "metadata""#), "envoy.lb.x-gateway-destination-endpoint = 10.0.0."),
    ] {
        let exchange = Exchange::picked(&settings);
        let last = exchange.proxy.told.last().unwrap();
        assert!(last.contains(told), "{settings}: {last}");
        assert_eq!(exchange.proxy.told.len(), 2, "the limit and the host: {:?}", exchange.proxy.told);
    }
}

#[test]
fn the_clients_own_destination_is_removed() {
    let mut exchange = Exchange::new(TWO);
    exchange.headers(&[(DESTINATION, "10.9.9.9:1")], true);
    assert_eq!(exchange.proxy.told[0], "header x-gateway-destination-endpoint: -");
    assert!(exchange.proxy.told[1].starts_with("host 10.0.0."));
}

#[test]
fn a_request_that_cannot_be_read_is_told_why() {
    for (body, reason) in [
        ("{\"model\": \"llama\", \"messages\": [", "400 inference error: BadRequest - "),
        (r#"{"messages": []}"#, "`model`"),
    ] {
        let mut exchange = Exchange::new(TWO);
        exchange.headers(&[], false);
        assert_eq!(exchange.body(body, true), Flow::Stop);
        assert!(exchange.proxy.told.last().unwrap().contains(reason), "{:?}", exchange.proxy.told);
        assert_eq!((exchange.count(Counter::RefusedBadRequest), exchange.in_flight()), (1, 0));
        assert_eq!(exchange.body("more", false), Flow::Stop);
        exchange.response_headers("400", "text/plain", false);
        exchange.stream.stream_complete(&mut exchange.proxy, &exchange.router);
        assert_eq!(exchange.count(Counter::Failed), 0, "no endpoint failed");
    }
}

#[test]
fn a_body_over_the_limit_is_a_413() {
    let settings = r#"{"endpoints": ["10.0.0.1:8000"], "max_body_bytes": 30}"#;
    let mut announced = Exchange::new(settings);
    assert_eq!(announced.headers(&[("content-length", "31")], false), Flow::Stop);
    let mut counted = Exchange::new(settings);
    counted.headers(&[], false);
    assert_eq!(counted.body(&CHAT[..30], false), Flow::Hold);
    assert_eq!(counted.body(&CHAT[30..], false), Flow::Stop);
    for exchange in [announced, counted] {
        let last = exchange.proxy.told.last().unwrap();
        assert!(last.starts_with("413 inference error: PayloadTooLarge") && last.contains("`30`"), "{last}");
        assert_eq!(exchange.count(Counter::RefusedTooLarge), 1);
    }
}

#[test]
fn without_an_endpoint_a_request_is_refused_or_left_to_envoy() {
    for (mode, flow) in [("fail-closed", Flow::Stop), ("fail-open", Flow::Continue)] {
        let mut exchange = Exchange::new(&format!(r#"{{"endpoints": [], "failure_mode": "{mode}"}}"#));
        assert_eq!(exchange.headers(&[], true), flow);
        let refused = exchange.proxy.told.iter().any(|told| told.starts_with("503 inference error"));
        assert_eq!(refused, flow == Flow::Stop, "{:?}", exchange.proxy.told);
        assert_eq!(exchange.count(Counter::FailedOpen), u64::from(!refused));
        assert_eq!(exchange.count(Counter::RefusedNoEndpoint), u64::from(refused));
    }
}

#[test]
fn a_subset_hint_is_obeyed_even_if_nobody_is_left() {
    let mut exchange = Exchange::new(r#"{"endpoints": ["10.0.0.1:8000", "10.0.0.2:8000"]}"#);
    exchange.proxy.subset = Some(vec!["10.0.0.2".to_owned()]);
    exchange.headers(&[], true);
    assert_eq!(exchange.proxy.told, ["host 10.0.0.2:8000"]);

    let mut exchange = Exchange::new(r#"{"endpoints": ["10.0.0.1:8000"]}"#);
    exchange.proxy.subset = Some(Vec::new());
    assert_eq!(exchange.headers(&[], true), Flow::Stop);
    assert!(exchange.proxy.told[0].starts_with("503 "), "{:?}", exchange.proxy.told);
}

#[test]
fn one_prefix_and_one_session_go_to_one_endpoint() {
    let settings = r#"{"endpoints": ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"],
        "scheduler": {"scorers": [{"type": "session-affinity-scorer", "weight": 5}, {"type": "prefix-cache-scorer"}]}}"#;
    let mut exchange = Exchange::new(settings);
    for _ in 0..5 {
        exchange.stream = RequestStream::new();
        exchange.headers(&[("x-session-id", "s")], true);
    }
    let hosts: std::collections::BTreeSet<_> = exchange.proxy.told.iter().collect();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
}

#[test]
fn the_end_of_the_answer_settles_the_booking() {
    type Steps = fn(&mut Exchange);
    let table: [(&str, Steps, bool); 7] = [
        (
            "an answer in one piece",
            |e| {
                e.response_headers("200", "application/json", false);
                e.response_body(ANSWER, true);
            },
            true,
        ),
        ("an answer without a body", |e| e.response_headers("204", "", true), true),
        (
            "an answer that ends in trailers",
            |e| {
                e.response_headers("200", "application/json", false);
                e.response_body(ANSWER, false);
                e.stream.response_trailers(&mut e.proxy, &e.router);
            },
            true,
        ),
        (
            "an error of the endpoint",
            |e| {
                e.response_headers("500", "text/plain", false);
                e.response_body("broken", true);
            },
            false,
        ),
        ("a client that leaves before the answer", |_| {}, false),
        (
            "a client that leaves during the answer",
            |e| {
                e.response_headers("200", "text/event-stream", false);
                e.response_body("data: {}\n\n", false);
            },
            false,
        ),
        ("an endpoint that cannot be reached", |e| e.response_headers("503", "text/plain", false), false),
    ];
    for (case, steps, success) in table {
        let mut exchange = Exchange::picked(TWO);
        steps(&mut exchange);
        exchange.stream.stream_complete(&mut exchange.proxy, &exchange.router);
        assert_eq!(exchange.in_flight(), 0, "{case}");
        assert_eq!(exchange.counters().completed_requests, 1, "{case}");
        assert_eq!(exchange.counters().failed_requests, u64::from(!success), "{case}");
        assert_eq!(exchange.count(Counter::Failed), u64::from(!success), "{case}");
    }
}

#[test]
fn usage_is_read_from_the_answer_in_pieces() {
    let mut exchange = Exchange::picked(TWO);
    exchange.response_headers("200", "application/json", false);
    let (first, rest) = ANSWER.split_at(40);
    exchange.response_body(first, false);
    exchange.response_body(rest, true);
    assert_eq!(exchange.count(Counter::CachedTokens), 8);
}

#[test]
fn the_host_that_served_is_told_if_it_is_another() {
    for (served_by, elsewhere) in [("10.9.9.9:1", 1), ("", 0)] {
        let mut exchange = Exchange::picked(TWO);
        let host = exchange.proxy.told.last().unwrap().strip_prefix("host ").unwrap().to_owned();
        exchange.proxy.served_by = Some(if served_by.is_empty() { host } else { served_by.to_owned() });
        exchange.response_headers("200", "application/json", true);
        assert_eq!(exchange.counters().served_elsewhere, elsewhere);
        assert_eq!(exchange.count(Counter::ServedElsewhere), elsewhere);
    }
}

#[test]
fn only_a_stream_shows_a_first_token() {
    for (content_type, status, shows) in [
        ("text/event-stream", "200", true),
        ("application/json", "200", false),
        ("text/event-stream", "500", false),
    ] {
        let mut exchange = Exchange::picked(TWO);
        let queued = |exchange: &Exchange| {
            let stats = exchange.router.scheduler().stats(exchange.router.now());
            stats.endpoints.iter().map(|endpoint| endpoint.queued_tokens).sum::<u64>()
        };
        exchange.response_headers(status, content_type, false);
        exchange.response_body("", false);
        assert!(queued(&exchange) > 0, "{content_type}: headers and nothing are no token");
        exchange.response_body("data: {}\n\n", false);
        assert_eq!(queued(&exchange) == 0, shows, "{status} {content_type}");
    }
}

#[test]
fn a_decision_is_explained_when_asked_for() {
    let exchange = Exchange::picked(r#"{"endpoints": ["10.0.0.1:8000"], "explanation": true}"#);
    let told = exchange.proxy.told.join("\n");
    assert!(told.contains("p3sched.endpoint = 10.0.0.1:8000"), "{told}");
    assert!(told.contains("p3sched.matched_tokens = 0"), "{told}");
    let json = told.split("p3sched.explanation = ").nth(1).unwrap();
    let explanation: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(explanation["endpoints"][0]["endpoint"], "10.0.0.1:8000");
}

#[test]
fn after_a_panic_the_request_passes_or_is_refused() {
    for (mode, flow, told) in
        [("fail-open", Flow::Continue, ""), ("fail-closed", Flow::Stop, "500 inference error")]
    {
        let settings = format!(r#"{{"endpoints": ["10.0.0.1:8000"], "failure_mode": "{mode}"}}"#);
        let mut exchange = Exchange::new(&settings);
        exchange.headers(&[], false);
        assert_eq!(exchange.stream.request_panicked(&mut exchange.proxy, &exchange.router), flow);
        assert_eq!(exchange.body("more", true), flow);
        assert!(told.is_empty() || exchange.proxy.told.last().unwrap().starts_with(told));
        assert_eq!(exchange.count(Counter::Panics), 1);
    }
}

#[test]
fn an_answer_of_envoy_itself_before_the_pick_is_no_failure() {
    let mut exchange = Exchange::new(TWO);
    exchange.headers(&[], false);
    exchange.response_headers("408", "text/plain", false);
    exchange.response_body("too slow", true);
    exchange.stream.stream_complete(&mut exchange.proxy, &exchange.router);
    assert!(exchange.proxy.counters.is_empty(), "{:?}", exchange.proxy.counters);
}

#[test]
fn an_endpoint_that_nobody_listens_at_is_not_picked() {
    let mut exchange = Exchange::new(TWO);
    let scheduler = exchange.router.scheduler();
    scheduler.scrape_failed("10.0.0.1:8000", ScrapeFailure::Unreachable, exchange.router.now()).unwrap();
    for _ in 0..3 {
        exchange.stream = RequestStream::new();
        exchange.headers(&[], true);
    }
    assert_eq!(exchange.proxy.told, ["host 10.0.0.2:8000"; 3]);
}
