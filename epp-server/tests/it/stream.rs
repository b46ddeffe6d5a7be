//! The state machine of one request, by tables of messages and answers.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use epp_server::discovery::Pool;
use epp_server::ext_proc::protocol::{Answer, BodyMode, BodyModes, Hints, Limits, MAX_CHUNK, Message};
use epp_server::ext_proc::route::Route;
use epp_server::ext_proc::router::{Router, RoutingSettings};
use epp_server::ext_proc::stream::RequestStream;
use p3sched::SchedulerConfig;
use p3sched::config::ScorerConfig;
use p3sched::gateway::{DESTINATION, PREFILLER, RequestHead, ResponseHead};
use p3sched::stats::Counters;

use crate::support;

pub(crate) const SECOND: u64 = 1_000_000_000;
const LIMITS: Limits =
    Limits { max_body_bytes: 200_000, max_gathered_bytes: 300_000, pick_deadline: 10 * SECOND };
pub(crate) const ENDPOINT: &str = "10.0.0.1:8000";
pub(crate) const CHAT: &str = r#"{"model":"llama","messages":[{"role":"user","content":"What is rain?"}]}"#;
const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}"#;

pub(crate) const DUPLEX: BodyModes =
    BodyModes { request: BodyMode::FullDuplex, response: BodyMode::FullDuplex };
pub(crate) const BUFFERED: BodyModes =
    BodyModes { request: BodyMode::Buffered, response: BodyMode::Buffered };
const BUFFERED_UNSEEN: BodyModes = BodyModes { request: BodyMode::Buffered, response: BodyMode::None };

/// One request on a pool.
pub(crate) struct Exchange {
    pub(crate) pool: Arc<Pool>,
    pub(crate) router: Router,
    pub(crate) stream: RequestStream,
    modes: BodyModes,
    now: u64,
}

impl Exchange {
    fn new(modes: BodyModes) -> Self {
        Self::on(support::pool(&[ENDPOINT]), modes)
    }

    pub(crate) fn on(pool: Arc<Pool>, modes: BodyModes) -> Self {
        Self::with(pool, modes, RoutingSettings::default())
    }

    pub(crate) fn with(pool: Arc<Pool>, modes: BodyModes, settings: RoutingSettings) -> Self {
        let router = support::router(&pool, settings);
        Self::over(pool, router, modes)
    }

    pub(crate) fn over(pool: Arc<Pool>, router: Router, modes: BodyModes) -> Self {
        Self { pool, router, stream: Self::new_stream(), modes, now: SECOND }
    }

    /// The next request; nothing has come of it.
    pub(crate) fn new_stream() -> RequestStream {
        RequestStream::new(LIMITS)
    }

    /// Sends one message and writes the answers down.
    pub(crate) fn send(&mut self, message: Message) -> Vec<String> {
        self.send_with(message, Hints::default())
    }

    pub(crate) fn send_with(&mut self, message: Message, hints: Hints) -> Vec<String> {
        let hints = Hints { modes: Some(self.modes), ..hints };
        let mut answers = VecDeque::new();
        self.stream.on_message(message, hints, &self.router, self.now, &mut answers);
        self.now += 1_000_000;
        answers.iter().map(written).collect()
    }

    pub(crate) fn send_all(&mut self, messages: Vec<Message>) -> Vec<String> {
        messages.into_iter().flat_map(|message| self.send(message)).collect()
    }

    fn close(&mut self) {
        self.stream.on_close(&self.router, self.now);
    }

    fn counters(&self) -> Counters {
        self.pool.scheduler().stats(self.now).counters
    }

    fn in_flight(&self) -> usize {
        self.pool.scheduler().stats(self.now).requests_in_flight
    }
}

/// An answer as a row of a table.
fn written(answer: &Answer) -> String {
    let to = |route: &Option<Route>| route.as_ref().map_or("-", |route| &*route.destination).to_owned();
    let chunk = |body: &Bytes, end: bool| {
        let text = if body.len() > 100 {
            format!("{} bytes", body.len())
        } else {
            String::from_utf8_lossy(body).into_owned()
        };
        format!("{text}{}", if end { " end" } else { "" })
    };
    let removed = |names: &[&str]| names.iter().map(|name| format!(" -{name}")).collect::<String>();
    let changed = |route: &Option<Route>| {
        let extras = route.as_ref().and_then(Route::extras).cloned().unwrap_or_default();
        let set = extras.set_headers.iter().map(|(name, value)| format!(" {name}={value}"));
        let scores = extras.scores.iter().map(|(endpoint, score)| format!(" {endpoint}:{score:.1}"));
        set.chain(scores).collect::<String>()
    };
    match answer {
        Answer::RequestHeaders { route, remove } => {
            format!("headers {}{}{}", to(route), changed(route), removed(remove))
        }
        Answer::RequestBody { route, replacement } => {
            let body = replacement.as_ref().map(|body| format!(" = {}", chunk(body, false)));
            format!("body {}{}{}", to(route), changed(route), body.unwrap_or_default())
        }
        Answer::RequestChunk { body, end_of_stream } => format!("chunk {}", chunk(body, *end_of_stream)),
        Answer::RequestTrailers { route } => format!("trailers {}", to(route)),
        Answer::ResponseHeaders { set, remove } => {
            let set: String = set.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("response headers{set}{}", removed(remove))
        }
        Answer::ResponseBody { replacement: None } => "response body".to_owned(),
        Answer::ResponseBody { replacement: Some(body) } => format!("response body = {}", chunk(body, false)),
        Answer::ResponseChunk { body, end_of_stream } => {
            format!("response chunk {}", chunk(body, *end_of_stream))
        }
        Answer::ResponseTrailers => "response trailers".to_owned(),
        Answer::Immediate(refusal) => format!("immediate {} {}", refusal.status, refusal.body()),
    }
}

pub(crate) fn headers(end_of_stream: bool) -> Message {
    let head = RequestHead { path: "/v1/chat/completions".to_owned(), ..RequestHead::default() };
    Message::RequestHeaders { head, end_of_stream }
}

pub(crate) fn body(text: &str, end_of_stream: bool) -> Message {
    Message::RequestBody { body: Bytes::copy_from_slice(text.as_bytes()), end_of_stream }
}

pub(crate) fn response_headers(status: u16, event_stream: bool) -> Message {
    let head = ResponseHead { status, event_stream, encoded: false };
    Message::ResponseHeaders { head, end_of_stream: false }
}

pub(crate) fn response_body(text: &str, end_of_stream: bool) -> Message {
    Message::ResponseBody { body: Bytes::copy_from_slice(text.as_bytes()), end_of_stream }
}

pub(crate) fn mode(request: BodyMode) -> BodyModes {
    BodyModes { request, response: BodyMode::None }
}

#[test]
fn requests_are_answered_in_the_order_of_their_body_mode() {
    let (first, rest) = CHAT.split_at(20);
    let picked = format!("headers {ENDPOINT}");
    let body_picked = format!("body {ENDPOINT}");
    let table: Vec<(&str, BodyModes, Vec<Message>, Vec<String>)> = vec![
        ("no body, duplex", DUPLEX, vec![headers(true)], vec![picked.clone()]),
        ("no body, buffered", BUFFERED, vec![headers(true)], vec![picked.clone()]),
        ("no body, no mode", mode(BodyMode::None), vec![headers(true)], vec![picked.clone()]),
        ("duplex waits for the end", DUPLEX, vec![headers(false), body(first, false)], vec![]),
        (
            "duplex, one chunk",
            DUPLEX,
            vec![headers(false), body(CHAT, true)],
            vec![picked.clone(), format!("chunk {CHAT} end")],
        ),
        (
            "duplex, two chunks",
            DUPLEX,
            vec![headers(false), body(first, false), body(rest, true)],
            vec![picked.clone(), format!("chunk {first}"), format!("chunk {rest} end")],
        ),
        (
            "duplex, the end in an empty chunk",
            DUPLEX,
            vec![headers(false), body(CHAT, false), body("", true)],
            vec![picked.clone(), format!("chunk {CHAT} end")],
        ),
        (
            "duplex, the end in trailers",
            DUPLEX,
            vec![headers(false), body(CHAT, false), Message::RequestTrailers],
            vec![picked.clone(), format!("chunk {CHAT}"), "trailers -".to_owned()],
        ),
        (
            "duplex, trailers and no body",
            DUPLEX,
            vec![headers(false), Message::RequestTrailers],
            vec![picked.clone(), "trailers -".to_owned()],
        ),
        (
            "duplex, an empty body",
            DUPLEX,
            vec![headers(false), body("", true)],
            vec![picked.clone(), "chunk  end".to_owned()],
        ),
        (
            "buffered answers the headers at once",
            BUFFERED,
            vec![headers(false)],
            vec!["headers -".to_owned()],
        ),
        (
            "buffered",
            BUFFERED,
            vec![headers(false), body(CHAT, true)],
            vec!["headers -".to_owned(), body_picked.clone()],
        ),
        (
            "buffered, trailers follow",
            BUFFERED,
            vec![headers(false), body(CHAT, false), Message::RequestTrailers],
            vec!["headers -".to_owned(), body_picked.clone(), "trailers -".to_owned()],
        ),
        (
            "buffered, trailers and no body",
            BUFFERED,
            vec![headers(false), Message::RequestTrailers],
            vec!["headers -".to_owned(), format!("trailers {ENDPOINT}")],
        ),
        (
            "buffered, cut off",
            mode(BodyMode::BufferedPartial),
            vec![headers(false), body(first, false)],
            vec!["headers -".to_owned(), body_picked],
        ),
        (
            "streamed picks on the headers",
            mode(BodyMode::Streamed),
            vec![headers(false), body(first, false), body(rest, true)],
            vec![picked.clone(), "body -".to_owned(), "body -".to_owned()],
        ),
        ("none picks on the headers", mode(BodyMode::None), vec![headers(false)], vec![picked.clone()]),
        (
            "a mode of the future is a kind of duplex",
            mode(BodyMode::from_number(99)),
            vec![headers(false), body(CHAT, true)],
            vec![picked, format!("chunk {CHAT} end")],
        ),
    ];
    for (name, modes, messages, expected) in table {
        let mut exchange = Exchange::new(modes);
        assert_eq!(exchange.send_all(messages), expected, "{name}");
    }
}

#[test]
fn a_gateway_that_skips_the_headers_is_not_kept_waiting() {
    let messages = || vec![body(CHAT, false), Message::RequestTrailers];
    assert_eq!(
        Exchange::new(DUPLEX).send_all(messages()),
        [format!("chunk {CHAT}"), "trailers -".to_owned()]
    );
    assert_eq!(Exchange::new(BUFFERED).send_all(messages()), ["body -", "trailers -"]);
}

#[test]
fn large_bodies_are_echoed_unchanged_in_pieces_that_envoy_accepts() {
    let text = format!(
        r#"{{"model":"llama","messages":[{{"role":"user","content":"{}"}}]}}"#,
        "rain ".repeat(30_000)
    );
    let bytes = Bytes::from(text);
    let mut exchange = Exchange::new(DUPLEX);
    let mut answers = VecDeque::new();
    for message in [
        headers(false),
        Message::RequestBody { body: bytes.slice(..100_000), end_of_stream: false },
        Message::RequestBody { body: bytes.slice(100_000..), end_of_stream: true },
    ] {
        exchange.stream.on_message(message, Hints::default(), &exchange.router, SECOND, &mut answers);
    }
    assert!(matches!(answers.pop_front(), Some(Answer::RequestHeaders { route: Some(_), .. })));
    let mut echoed = Vec::new();
    let count = answers.len();
    for (place, answer) in answers.into_iter().enumerate() {
        let Answer::RequestChunk { body, end_of_stream } = answer else { panic!("a chunk: {answer:?}") };
        assert!(body.len() <= MAX_CHUNK);
        assert_eq!(end_of_stream, place + 1 == count);
        echoed.extend_from_slice(&body);
    }
    assert_eq!(echoed, bytes);
}

#[test]
fn both_body_modes_pick_the_same() {
    let endpoints = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];
    let (duplex, buffered) = (support::pool(&endpoints), support::pool(&endpoints));
    let mut destinations = Vec::new();
    for turn in 0..30 {
        let topic = ["rain", "snow", "hail", "sleet", "fog"][turn % 5].repeat(200);
        let text =
            format!(r#"{{"model":"llama","messages":[{{"role":"user","content":"{topic} {turn}"}}]}}"#);
        let messages = || vec![headers(false), body(&text, true)];
        let by_duplex = Exchange::on(Arc::clone(&duplex), DUPLEX).send_all(messages());
        let by_buffer = Exchange::on(Arc::clone(&buffered), BUFFERED).send_all(messages());
        let destination = by_duplex[0].strip_prefix("headers ").unwrap().to_owned();
        assert_eq!(Some(&*destination), by_buffer[1].strip_prefix("body "), "turn {turn}");
        destinations.push(destination);
    }
    destinations.sort();
    destinations.dedup();
    assert_eq!(destinations, endpoints);
}

#[test]
fn a_body_that_is_cut_off_still_finds_its_prefix() {
    let pool = support::pool(&["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]);
    for topic in ["rain", "snow", "hail"] {
        let topic = topic.repeat(500);
        let text = format!(r#"{{"model":"llama","messages":[{{"role":"user","content":"{topic}"}}]}}"#);
        let whole =
            Exchange::on(Arc::clone(&pool), BUFFERED).send_all(vec![headers(false), body(&text, true)]);
        let cut = Exchange::on(Arc::clone(&pool), mode(BodyMode::BufferedPartial))
            .send_all(vec![headers(false), body(&text[..1_500], false)]);
        assert_eq!(cut, whole);
    }
    assert_eq!(pool.scheduler().stats(SECOND).counters.warm_picks, 3);
}

#[test]
fn responses_are_passed_on_and_their_usage_is_counted() {
    let (first, rest) = ANSWER.split_at(60);
    let expected_duplex = vec![
        "response headers".to_owned(),
        format!("response chunk {first}"),
        format!("response chunk {rest} end"),
    ];
    let expected_buffered = vec!["response headers", "response body", "response body"];
    for (modes, expected) in
        [(DUPLEX, expected_duplex), (BUFFERED, expected_buffered.into_iter().map(str::to_owned).collect())]
    {
        let mut exchange = Exchange::new(modes);
        exchange.send_all(vec![headers(false), body(CHAT, true)]);
        assert_eq!(exchange.in_flight(), 1);
        let answers = exchange.send_all(vec![
            response_headers(200, false),
            response_body(first, false),
            response_body(rest, true),
        ]);
        assert_eq!(answers, expected);
        let stats = exchange.pool.scheduler().stats(exchange.now);
        assert_eq!((stats.requests_in_flight, stats.counters.completed_requests), (0, 1));
        assert_eq!(stats.counters.failed_requests, 0);
        assert_eq!(stats.endpoints[0].actual_cached_tokens, 8);
        exchange.close();
        assert_eq!(exchange.counters().completed_requests, 1, "the end is counted once");
    }
}

#[test]
fn a_stream_shows_its_first_token_and_ends_in_trailers() {
    let mut exchange = Exchange::new(DUPLEX);
    exchange.send_all(vec![headers(false), body(CHAT, true)]);
    let queued =
        |exchange: &Exchange| exchange.pool.scheduler().stats(exchange.now).endpoints[0].queued_tokens;
    assert!(queued(&exchange) > 0);
    assert_eq!(exchange.send(response_headers(200, true)), ["response headers"]);
    assert!(queued(&exchange) > 0, "headers of a stream come before its first token");
    assert_eq!(exchange.send(response_body("", false)), ["response chunk "]);
    assert!(queued(&exchange) > 0, "an empty chunk is no token");
    assert_eq!(exchange.send(response_body("data: {}\n\n", false)), ["response chunk data: {}\n\n"]);
    assert_eq!(queued(&exchange), 0);
    let (usage, split) = (
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,",
        "\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\ndata: [DONE]\n\n",
    );
    exchange.send_all(vec![response_body(usage, false), response_body(split, false)]);
    assert_eq!(exchange.in_flight(), 1);
    assert_eq!(exchange.send(Message::ResponseTrailers), ["response trailers"]);
    let stats = exchange.pool.scheduler().stats(exchange.now);
    assert_eq!((stats.requests_in_flight, stats.endpoints[0].actual_cached_tokens), (0, 8));
}

#[test]
fn an_answer_in_one_piece_shows_no_first_token() {
    for (modes, event_stream, shown) in
        [(DUPLEX, true, true), (DUPLEX, false, false), (BUFFERED, true, false), (BUFFERED, false, false)]
    {
        let mut exchange = Exchange::new(modes);
        exchange.send_all(vec![headers(false), body(CHAT, true)]);
        exchange.send_all(vec![response_headers(200, event_stream), response_body("data: {}\n\n", true)]);
        let page = exchange.router.metrics().page().unwrap();
        let streamed = |line: &&str| {
            line.starts_with("llm_d_epp_request_ttft_seconds_count") && line.contains(r#"streaming="true""#)
        };
        let count = page.lines().find(streamed).map(|line| line.ends_with(" 1"));
        assert_eq!(count, shown.then_some(true), "{modes:?}, event stream {event_stream}");
    }
}

#[test]
fn a_reset_settles_the_booking_at_every_stage() {
    let stages = [
        (headers(false), 0, 0),
        (body(CHAT, true), 1, 1),
        (response_headers(200, true), 1, 1),
        (response_body("data: {}\n\n", false), 1, 1),
        (response_body("", true), 1, 0),
    ];
    for stage in 0..stages.len() {
        let mut exchange = Exchange::new(DUPLEX);
        for (message, ..) in stages.iter().take(stage + 1) {
            exchange.send(message.clone());
        }
        exchange.close();
        let (_, completed, failed) = stages[stage];
        let counters = exchange.counters();
        assert_eq!(exchange.in_flight(), 0, "stage {stage}");
        assert_eq!(
            (counters.completed_requests, counters.failed_requests),
            (completed, failed),
            "stage {stage}"
        );
    }
}

#[test]
fn a_response_that_the_gateway_keeps_leaves_the_booking_to_expire() {
    let mut unseen = Exchange::new(BUFFERED_UNSEEN);
    unseen.send_all(vec![headers(false), body(CHAT, true)]);
    unseen.close();
    assert_eq!((unseen.in_flight(), unseen.counters().completed_requests), (1, 0));

    let mut streamed = Exchange::new(BUFFERED_UNSEEN);
    streamed.send_all(vec![headers(false), body(CHAT, true), response_headers(200, true)]);
    streamed.close();
    assert_eq!((streamed.in_flight(), streamed.counters().completed_requests), (1, 0));

    let mut plain = Exchange::new(BUFFERED_UNSEEN);
    plain.send_all(vec![headers(false), body(CHAT, true), response_headers(200, false)]);
    assert_eq!(
        (plain.in_flight(), plain.counters().completed_requests),
        (0, 1),
        "headers come with the answer"
    );
}

#[test]
fn an_error_of_the_engine_is_a_failure() {
    let mut exchange = Exchange::new(DUPLEX);
    exchange.send_all(vec![
        headers(false),
        body(CHAT, true),
        response_headers(503, false),
        response_body("busy", true),
    ]);
    assert_eq!((exchange.in_flight(), exchange.counters().failed_requests), (0, 1));
}

#[test]
fn who_really_served_is_told_to_the_scheduler() {
    for (served_by, elsewhere) in [(ENDPOINT, 0), ("10.0.0.2:8000", 1)] {
        let pool = support::pool(&[ENDPOINT]);
        let mut exchange = Exchange::on(pool, DUPLEX);
        exchange.send_all(vec![headers(false), body(CHAT, true)]);
        let hints = Hints { served_by: Some(served_by.to_owned()), ..Hints::default() };
        exchange.send_with(response_headers(200, false), hints);
        exchange.send(response_body(ANSWER, true));
        assert_eq!(exchange.counters().served_elsewhere, elsewhere, "{served_by}");
    }
}

#[test]
fn refusals_are_immediate_and_final() {
    let malformed = "{\"model\":";
    let long = "x".repeat(LIMITS.max_body_bytes + 1);
    for modes in [DUPLEX, BUFFERED] {
        for (text, status, kind) in [(malformed, 400, "BadRequest"), (&long, 413, "PayloadTooLarge")] {
            let mut exchange = Exchange::new(modes);
            exchange.send(headers(false));
            let answers = exchange.send(body(text, true));
            let start = format!("immediate {status} inference error: {kind} - ");
            assert!(answers.len() == 1 && answers[0].starts_with(&start), "{answers:?}");
            assert!(exchange.stream.is_refused());
            assert!(exchange.send(body(CHAT, true)).is_empty(), "nothing follows");
            exchange.close();
            assert_eq!(exchange.in_flight(), 0);
        }
    }
}

#[test]
fn bodies_that_are_received_at_the_same_time_share_a_bound() {
    let large = "x".repeat(LIMITS.max_gathered_bytes * 3 / 5);
    let mut first = Exchange::new(DUPLEX);
    let send_beside = |first: &Exchange| {
        let mut stream = RequestStream::new(LIMITS);
        let mut answers = VecDeque::new();
        for message in [headers(false), body(&large, false)] {
            let hints = Hints { modes: Some(DUPLEX), ..Hints::default() };
            stream.on_message(message, hints, &first.router, SECOND, &mut answers);
        }
        stream.on_close(&first.router, SECOND);
        answers.iter().map(written).collect::<Vec<_>>()
    };
    assert!(send_beside(&first).is_empty(), "alone it fits, and closing gives its room back");
    first.send_all(vec![headers(false), body(&large, false)]);
    let refused = send_beside(&first);
    assert!(refused.len() == 1 && refused[0].starts_with("immediate 429"), "{refused:?}");
    first.close();
    assert!(send_beside(&first).is_empty());
}

#[test]
fn a_body_that_holds_no_readable_prompt_is_picked_by_load() {
    let duplex = vec![format!("headers {ENDPOINT}"), "chunk not JSON end".to_owned()];
    let waits = vec!["headers -".to_owned(), format!("body {ENDPOINT}")];
    let at_once = vec![format!("headers {ENDPOINT}"), "body -".to_owned()];
    for (path, opaque_body, buffered) in [
        ("/v1/chat/completions", true, at_once),
        ("/v1/audio/transcriptions", false, waits.clone()),
        ("/v1/models", false, waits),
    ] {
        for (modes, expected) in [(DUPLEX, duplex.clone()), (BUFFERED, buffered)] {
            let head = RequestHead { path: path.to_owned(), opaque_body, ..RequestHead::default() };
            let headers = Message::RequestHeaders { head, end_of_stream: false };
            let mut exchange = Exchange::new(modes);
            assert_eq!(exchange.send_all(vec![headers, body("not JSON", true)]), expected, "{path}");
            assert_eq!((exchange.counters().picks, exchange.counters().prompt_tokens), (1, 0), "{path}");
        }
    }
}

#[test]
fn a_connection_that_is_upgraded_flows_both_ways() {
    let head = RequestHead { path: "/v1/realtime".to_owned(), opaque_body: true, ..RequestHead::default() };
    let mut exchange = Exchange::new(DUPLEX);
    assert_eq!(
        exchange.send(Message::RequestHeaders { head, end_of_stream: false }),
        [format!("headers {ENDPOINT}")]
    );
    assert_eq!(exchange.stream.deadline(), None, "its body does not end");
    assert_eq!(exchange.send(response_headers(101, false)), ["response headers"]);
    for _ in 0..2 {
        assert_eq!(exchange.send(body("ping", false)), ["chunk ping"]);
        assert_eq!(exchange.send(response_body("pong", false)), ["response chunk pong"]);
    }
    assert_eq!(exchange.in_flight(), 1);
    exchange.close();
    assert_eq!(exchange.in_flight(), 0);
}

#[test]
fn an_empty_pool_is_a_503_with_a_reason() {
    let mut exchange = Exchange::on(support::pool(&[]), DUPLEX);
    let mut answers = VecDeque::new();
    exchange.stream.on_message(headers(true), Hints::default(), &exchange.router, SECOND, &mut answers);
    let Some(Answer::Immediate(refusal)) = answers.pop_front() else { panic!("an immediate answer") };
    assert_eq!((refusal.status, refusal.reason), (503, Some("rejected-no-endpoints")));
}

#[test]
fn a_subset_hint_is_obeyed_with_and_without_port() {
    let endpoints = ["10.0.0.1:8000", "10.0.0.2:8000", "[fd00::3]:8000"];
    for (entries, expected) in [
        (vec!["10.0.0.2:8000"], "headers 10.0.0.2:8000"),
        (vec!["10.0.0.2"], "headers 10.0.0.2:8000"),
        (vec!["10.9.9.9:1", "[fd00::3]:8000"], "headers [fd00::3]:8000"),
        (vec!["10.9.9.9:1"], "immediate 503"),
        (vec![], "immediate 503"),
    ] {
        let mut exchange = Exchange::on(support::pool(&endpoints), DUPLEX);
        let subset = Some(entries.iter().map(|entry| (*entry).to_owned()).collect());
        let answers = exchange.send_with(headers(true), Hints { subset, ..Hints::default() });
        assert!(answers[0].starts_with(expected), "{entries:?}: {answers:?}");
    }
}

#[test]
fn the_requests_of_one_session_go_to_one_endpoint() {
    let mut config = SchedulerConfig::default();
    config.scorers = vec![ScorerConfig::new("session-affinity-scorer", 1.0)];
    let endpoints = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];
    let mut exchange = Exchange::on(support::pool_with(config, &endpoints), DUPLEX);
    // The session of a header counts before the one of a body.
    let bodies = ["a", "b", "c", "d", "e"]
        .map(|user| format!(r#"{{"model":"llama","messages":[],"prompt_cache_key":"{user}"}}"#));
    let picked: BTreeSet<String> = bodies
        .iter()
        .map(|text| {
            exchange.stream = Exchange::new_stream();
            let head = RequestHead {
                path: "/v1/chat/completions".to_owned(),
                session: Some("s".to_owned()),
                ..RequestHead::default()
            };
            let headers = Message::RequestHeaders { head, end_of_stream: false };
            exchange.send_all(vec![headers, body(text, true)]).swap_remove(0)
        })
        .collect();
    assert_eq!(picked.len(), 1, "{picked:?}");
}

#[test]
fn fallbacks_are_named_only_when_configured() {
    let endpoints = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];
    for (fallbacks, count) in [(0, 1), (1, 2), (5, 3)] {
        let mut config = SchedulerConfig::default();
        config.fallbacks = fallbacks;
        let mut exchange = Exchange::on(support::pool_with(config, &endpoints), DUPLEX);
        let answers = exchange.send(headers(true));
        assert_eq!(answers[0].strip_prefix("headers ").unwrap().split(',').count(), count);
    }
}

#[test]
fn what_a_client_must_not_say_is_removed_with_the_first_answer() {
    let forged = |end_of_stream| {
        let head = RequestHead {
            steering: vec![DESTINATION, PREFILLER],
            path: "/v1/chat/completions".to_owned(),
            ..RequestHead::default()
        };
        Message::RequestHeaders { head, end_of_stream }
    };
    let removed = format!(" -{DESTINATION} -{PREFILLER}");
    assert_eq!(Exchange::new(BUFFERED).send(forged(false)), [format!("headers -{removed}")]);
    assert_eq!(Exchange::new(DUPLEX).send(forged(true)), [format!("headers {ENDPOINT}{removed}")]);
}

#[test]
fn a_body_that_never_ends_is_refused_at_the_deadline() {
    let mut exchange = Exchange::new(DUPLEX);
    assert_eq!(exchange.stream.deadline(), None);
    exchange.send_all(vec![headers(false), body("{", false)]);
    let deadline = exchange.stream.deadline().unwrap();
    assert_eq!(deadline, SECOND + LIMITS.pick_deadline);
    let mut answers = VecDeque::new();
    exchange.stream.on_deadline(&exchange.router, deadline - 1, &mut answers);
    assert!(answers.is_empty());
    exchange.stream.on_deadline(&exchange.router, deadline, &mut answers);
    assert!(written(&answers[0]).starts_with("immediate 408"), "{answers:?}");
    assert_eq!(exchange.stream.deadline(), None);
}

#[test]
fn a_gateway_that_answers_by_itself_ends_the_wait_for_the_body() {
    let mut exchange = Exchange::new(DUPLEX);
    exchange.send_all(vec![headers(false), body("{", false)]);
    assert_eq!(exchange.send(response_headers(413, false)), ["response headers"]);
    assert_eq!(exchange.stream.deadline(), None);
    assert!(!exchange.stream.is_unanswered());
    assert_eq!(exchange.send(response_body("too large", true)), ["response chunk too large end"]);
    assert_eq!(exchange.send(body("}", true)), ["chunk } end"], "only what is sent back goes on");
    exchange.close();
    assert_eq!(exchange.counters().picks, 0);
}

#[test]
fn a_response_that_nobody_watches_lets_the_stream_close_with_the_pick() {
    let settings = RoutingSettings { watches_responses: false, ..RoutingSettings::default() };
    for (modes, messages, done_after) in [
        (DUPLEX, vec![headers(false), body(CHAT, false), Message::RequestTrailers], 3),
        (DUPLEX, vec![headers(false), body(CHAT, true)], 2),
        (BUFFERED, vec![headers(false), body(CHAT, true)], 2),
        (DUPLEX, vec![headers(true)], 1),
        (mode(BodyMode::None), vec![headers(false)], 1),
        (mode(BodyMode::Streamed), vec![headers(false), body(CHAT, false), body("", true)], 3),
        (
            mode(BodyMode::BufferedPartial),
            vec![headers(false), body(CHAT, false), response_headers(200, true)],
            3,
        ),
    ] {
        let mut exchange = Exchange::with(support::pool(&[ENDPOINT]), modes, settings);
        let mut watched = Exchange::on(support::pool(&[ENDPOINT]), modes);
        for (place, message) in messages.into_iter().enumerate() {
            assert!(!exchange.stream.is_done(&exchange.router), "{modes:?}: before message {place}");
            watched.send(message.clone());
            exchange.send(message);
            let is_last = place + 1 == done_after;
            assert_eq!(exchange.stream.is_done(&exchange.router), is_last, "{modes:?}: message {place}");
        }
        exchange.close();
        assert_eq!((exchange.in_flight(), exchange.counters().completed_requests), (1, 0), "it ends by time");
        assert!(!watched.stream.is_done(&watched.router));
    }
}
