//! One request's state machine: what the gateway is told, and when.
//!
//! Messages go in, answers come out; time is an argument and nothing here waits. The order is the protocol's:
//! headers, body, trailers of the request, then the same of the response.
//!
//! | request body mode | the pick is made | and sent in |
//! |---|---|---|
//! | full duplex | at the end of the body, by its last chunk or by trailers | the headers answer, then the body is echoed |
//! | buffered, buffered partial | at the body message | the body answer |
//! | streamed, none, and any request without a body that can be read | at the headers | the headers answer |

use std::collections::VecDeque;

use bytes::Bytes;
use p3sched::gateway::{Refusal, RequestHead, ResponseHead, TEST_SERVED};

use super::protocol::{Answer, BodyMode, BodyModes, Hints, Limits, MAX_CHUNK, Message};
use super::response::Response;
use super::route::Route;
use super::router::{Pick, Query, Router};

/// What a held piece of a body takes beside its bytes, about: its handle and its share of the allocator.
const CHUNK_OVERHEAD: usize = 96;
const CONTENT_LENGTH: &str = "content-length";
/// What the reference picker counts an endpoint's own errors under.
const MODEL_SERVER_ERROR: &str = "ModelServerError";
/// What the reference picker tells a conformance test of a gateway that does not say who served.
const NOBODY_SAID_WHO_SERVED: &str = "fail: missing destination endpoint served metadata";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Start,
    /// Headers have come; the pick waits for the body.
    Gathering,
    /// The pick is sent, or the gateway answers without one.
    Settled,
    /// An immediate answer was given: nothing follows.
    Refused,
}

/// One request, from its headers to the end of its response.
pub struct RequestStream {
    limits: Limits,
    modes: BodyModes,
    phase: Phase,
    head: RequestHead,
    subset: Option<Vec<String>>,
    started: u64,
    body: Vec<Bytes>,
    body_length: usize,
    /// What the router counts for this body, until it is no longer gathered.
    gathered: usize,
    pick: Option<Pick>,
    /// Whether the gateway has sent all of the request.
    request_ended: bool,
    response: Response,
}

impl RequestStream {
    /// A stream on which nothing has happened.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            modes: BodyModes::default(),
            phase: Phase::Start,
            head: RequestHead::default(),
            subset: None,
            started: 0,
            body: Vec::new(),
            body_length: 0,
            gathered: 0,
            pick: None,
            request_ended: false,
            response: Response::default(),
        }
    }

    /// Takes one message and appends what has to be answered now, in order.
    pub fn on_message(
        &mut self,
        message: Message,
        hints: Hints,
        router: &Router,
        now: u64,
        answers: &mut VecDeque<Answer>,
    ) {
        if self.phase == Phase::Refused {
            return;
        }
        self.take_hints(hints);
        self.request_ended |= message.ends_request();
        match message {
            Message::RequestHeaders { head, end_of_stream } => {
                self.request_headers(head, end_of_stream, router, now, answers);
            }
            Message::RequestBody { body, end_of_stream } => {
                self.request_body(body, end_of_stream, router, now, answers);
            }
            Message::RequestTrailers => self.request_trailers(router, now, answers),
            Message::ResponseHeaders { head, end_of_stream } => {
                answers.push_back(self.response_headers(head, end_of_stream, router, now));
            }
            Message::ResponseBody { body, end_of_stream } => {
                let replacement = self.response_body(&body, end_of_stream, router, now);
                match self.modes.response {
                    BodyMode::FullDuplex => {
                        echo_response(replacement.unwrap_or(body), end_of_stream, answers);
                    }
                    _ => answers.push_back(Answer::ResponseBody { replacement }),
                }
            }
            Message::ResponseTrailers => {
                if let Some(rest) = self.response.rest() {
                    echo_response(rest, false, answers);
                }
                self.complete(true, router, now);
                answers.push_back(Answer::ResponseTrailers);
            }
        }
        if self.phase != Phase::Gathering {
            self.release_gathered(router);
        }
    }

    /// When [`on_deadline`](Self::on_deadline) has to be called, in nanoseconds, while a pick is due.
    pub fn deadline(&self) -> Option<u64> {
        (self.phase == Phase::Gathering).then(|| self.started.saturating_add(self.limits.pick_deadline))
    }

    /// Refuses a request whose body did not end in time.
    pub fn on_deadline(&mut self, router: &Router, now: u64, answers: &mut VecDeque<Answer>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.refuse(Refusal::request_timeout(self.limits.pick_deadline), router, answers);
        }
    }

    /// Refuses a request whose message was larger than the transport accepts.
    ///
    /// Returns false when the request is past that point, so that there is nothing to refuse.
    pub fn on_oversized_message(
        &mut self,
        limit: usize,
        router: &Router,
        answers: &mut VecDeque<Answer>,
    ) -> bool {
        let refusable = matches!(self.phase, Phase::Start | Phase::Gathering);
        if refusable {
            self.refuse(Refusal::payload_too_large(limit as u64), router, answers);
        }
        refusable
    }

    /// Refuses the request before anything of it was read.
    pub fn refuse_at_start(&mut self, refusal: Refusal, router: &Router, answers: &mut VecDeque<Answer>) {
        if self.phase == Phase::Start {
            self.refuse(refusal, router, answers);
        }
    }

    /// Settles the booking when the gateway's stream is gone, by its end or by a reset.
    ///
    /// A gateway that does not send the response's body closes its side while the engine is still at work. Such a
    /// booking stays until it expires.
    pub fn on_close(&mut self, router: &Router, now: u64) {
        self.release_gathered(router);
        if self.modes.response != BodyMode::None && !self.is_done(router) {
            self.complete(false, router, now);
        } else if let Some(pick) = self.pick.take() {
            router.lost(&pick);
        }
    }

    /// Refuses the request or leaves it to the gateway, because the server ends; false when nothing is left to say.
    ///
    /// A gateway whose stream ends after the pick passes on by itself what else the engine answers.
    pub fn on_server_end(&mut self, router: &Router, answers: &mut VecDeque<Answer>) -> bool {
        if self.is_unanswered() {
            router.closing().refused();
            self.refuse(Refusal::shutting_down(), router, answers);
            return true;
        }
        if let Some(pick) = self.pick.take() {
            router.closing().left();
            router.lost(&pick);
        }
        if let Some(rest) = self.response.rest() {
            echo_response(rest, false, answers);
        }
        false
    }

    /// Whether nothing is left to say and nothing to learn, so that the stream can be closed.
    ///
    /// The gateway then passes on the response by itself.
    pub fn is_done(&self, router: &Router) -> bool {
        let changes_answer = || self.pick.as_ref().is_some_and(Pick::is_renamed);
        self.phase == Phase::Settled
            && !router.settings().watches_responses
            && !router.settings().serves_tests
            && (self.request_ended || self.modes.request == BodyMode::None)
            && !changes_answer()
    }

    /// Whether an immediate answer ended the exchange.
    pub fn is_refused(&self) -> bool {
        self.phase == Phase::Refused
    }

    /// Whether the gateway still waits for the answer that lets the request go on.
    pub fn is_unanswered(&self) -> bool {
        matches!(self.phase, Phase::Start | Phase::Gathering)
    }

    fn take_hints(&mut self, hints: Hints) {
        if let Some(modes) = hints.modes {
            self.modes = modes;
        }
        if hints.subset.is_some() {
            self.subset = hints.subset;
        }
        if hints.served_by.is_some() {
            self.response.served_by = hints.served_by;
        }
    }

    fn request_headers(
        &mut self,
        head: RequestHead,
        end_of_stream: bool,
        router: &Router,
        now: u64,
        answers: &mut VecDeque<Answer>,
    ) {
        self.started = now;
        self.head = head;
        // Nothing can be read from an opaque body; that of an upgraded connection does not even end.
        let body_will_come = !end_of_stream
            && !self.head.opaque_body
            && !matches!(self.modes.request, BodyMode::None | BodyMode::Streamed);
        if body_will_come {
            self.phase = Phase::Gathering;
            if self.modes.request != BodyMode::FullDuplex {
                let remove = std::mem::take(&mut self.head.steering);
                answers.push_back(Answer::RequestHeaders { route: None, remove });
            }
            return;
        }
        if let Some(route) = self.settle(false, router, now, answers) {
            self.answer_headers(route, answers);
        }
    }

    fn request_body(
        &mut self,
        body: Bytes,
        end_of_stream: bool,
        router: &Router,
        now: u64,
        answers: &mut VecDeque<Answer>,
    ) {
        if self.phase != Phase::Gathering {
            match self.modes.request {
                BodyMode::FullDuplex => echo_request(body, end_of_stream, answers),
                _ => answers.push_back(Answer::RequestBody { route: None, replacement: None }),
            }
            return;
        }
        self.body_length += body.len();
        if self.body_length > self.limits.max_body_bytes {
            let refusal = Refusal::payload_too_large(self.limits.max_body_bytes as u64);
            return self.refuse(refusal, router, answers);
        }
        let is_further = !self.body.is_empty() && !body.is_empty();
        let held = body.len() + if is_further { CHUNK_OVERHEAD } else { 0 };
        if !router.gather(held, self.limits.max_gathered_bytes) {
            let refusal = Refusal::bodies_saturated(self.limits.max_gathered_bytes);
            return self.refuse(refusal, router, answers);
        }
        self.gathered += held;
        if !body.is_empty() {
            self.body.push(body);
        }
        if self.modes.request == BodyMode::FullDuplex {
            if end_of_stream {
                self.settle_and_echo(false, router, now, answers);
            }
            return;
        }
        let truncated = self.modes.request == BodyMode::BufferedPartial && !end_of_stream;
        if let Some(mut route) = self.settle(truncated, router, now, answers) {
            let body = std::mem::take(&mut self.body);
            let replacement = route.take_splice().map(|splice| Bytes::from(splice.apply(body).concat()));
            if let Some(replacement) = replacement.as_ref().filter(|_| !truncated) {
                self.announce_length(replacement.len(), &mut route);
            }
            answers.push_back(Answer::RequestBody { route: Some(route), replacement });
        }
    }

    fn request_trailers(&mut self, router: &Router, now: u64, answers: &mut VecDeque<Answer>) {
        let mut route = None;
        if self.phase == Phase::Gathering {
            if self.modes.request == BodyMode::FullDuplex {
                self.settle_and_echo(true, router, now, answers);
            } else {
                route = self.settle(false, router, now, answers);
            }
        }
        if self.phase != Phase::Refused {
            answers.push_back(Answer::RequestTrailers { route });
        }
    }

    fn settle_and_echo(
        &mut self,
        trailers_follow: bool,
        router: &Router,
        now: u64,
        answers: &mut VecDeque<Answer>,
    ) {
        let Some(mut route) = self.settle(false, router, now, answers) else { return };
        let mut chunks = std::mem::take(&mut self.body);
        if let Some(splice) = route.take_splice() {
            chunks = splice.apply(chunks);
            self.announce_length(chunks.iter().map(Bytes::len).sum(), &mut route);
        }
        self.answer_headers(route, answers);
        let last = match chunks.pop() {
            Some(last) => last,
            None if trailers_follow => return,
            None => Bytes::new(),
        };
        for body in chunks {
            echo_request(body, false, answers);
        }
        echo_request(last, !trailers_follow, answers);
    }

    /// Sends the pick with the headers, without those of the client that must not go on.
    fn answer_headers(&mut self, route: Route, answers: &mut VecDeque<Answer>) {
        let remove = std::mem::take(&mut self.head.steering);
        answers.push_back(Answer::RequestHeaders { route: Some(route), remove });
    }

    /// Corrects the length that the client announced.
    fn announce_length(&self, length: usize, route: &mut Route) {
        if self.head.content_length.is_some() {
            route.extras_mut().set_headers.push((CONTENT_LENGTH, length.to_string()));
        }
    }

    /// Picks on what was gathered; the route, or `None` after a refusal.
    fn settle(
        &mut self,
        truncated: bool,
        router: &Router,
        now: u64,
        answers: &mut VecDeque<Answer>,
    ) -> Option<Route> {
        let joined: Vec<u8>;
        let body = match self.body.as_slice() {
            [] => None,
            [only] => Some(only.as_ref()),
            chunks => {
                joined = chunks.concat();
                Some(joined.as_slice())
            }
        };
        let query =
            Query { head: &self.head, body, truncated, subset: self.subset.take(), received: self.started };
        match router.pick(query, now) {
            Ok((pick, route)) => {
                self.pick = Some(pick);
                self.phase = Phase::Settled;
                Some(route)
            }
            Err(refusal) => {
                self.answer_refusal(refusal, router, answers);
                None
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, router: &Router, answers: &mut VecDeque<Answer>) {
        router.refused(&refusal);
        self.answer_refusal(refusal, router, answers);
    }

    fn answer_refusal(&mut self, refusal: Refusal, router: &Router, answers: &mut VecDeque<Answer>) {
        self.phase = Phase::Refused;
        self.body = Vec::new();
        self.release_gathered(router);
        answers.push_back(Answer::Immediate(refusal));
    }

    fn response_headers(
        &mut self,
        head: ResponseHead,
        end_of_stream: bool,
        router: &Router,
        now: u64,
    ) -> Answer {
        if self.is_unanswered() {
            // The gateway answers by itself, after a limit of its own for example: no pick is due any more.
            self.phase = Phase::Settled;
            self.body = Vec::new();
        }
        let names = self.pick.as_ref().and_then(Pick::model_names);
        self.response.begin(head, self.modes.response, names);
        let mut set = Vec::new();
        if router.settings().serves_tests {
            let served_by = self.response.served_by.clone();
            set.push((TEST_SERVED, served_by.unwrap_or_else(|| NOBODY_SAID_WHO_SERVED.to_owned())));
        }
        let remove = if self.response.changes_length() { vec![CONTENT_LENGTH] } else { Vec::new() };
        // A plain answer's headers come when it is complete. A stream's come before its first token and say nothing.
        let complete_unseen = self.modes.response == BodyMode::None && !self.response.is_event_stream();
        if end_of_stream || complete_unseen {
            self.complete(true, router, now);
        }
        Answer::ResponseHeaders { set, remove }
    }

    /// Gives what goes on instead of the piece, if that is something else.
    fn response_body(
        &mut self,
        body: &Bytes,
        end_of_stream: bool,
        router: &Router,
        now: u64,
    ) -> Option<Bytes> {
        if self.response.shows_token(body)
            && let Some(pick) = &mut self.pick
        {
            router.token(pick, now);
        }
        let replacement = self.response.take(body, self.modes.response, end_of_stream);
        if end_of_stream {
            self.complete(true, router, now);
        }
        replacement
    }

    fn release_gathered(&mut self, router: &Router) {
        // Most messages come when nothing is gathered; they leave the counter that all requests share alone.
        if self.gathered > 0 {
            router.release(std::mem::take(&mut self.gathered));
        }
    }

    fn complete(&mut self, whole: bool, router: &Router, now: u64) {
        let Some(pick) = self.pick.take() else { return };
        let error_code = self.response.is_failure().then_some(MODEL_SERVER_ERROR);
        let outcome = self.response.outcome(whole);
        router.complete(&pick, outcome, self.response.bytes(), error_code, now);
    }
}

fn echo_request(body: Bytes, end_of_stream: bool, answers: &mut VecDeque<Answer>) {
    echo(body, end_of_stream, answers, |body, end_of_stream| Answer::RequestChunk { body, end_of_stream });
}

fn echo_response(body: Bytes, end_of_stream: bool, answers: &mut VecDeque<Answer>) {
    echo(body, end_of_stream, answers, |body, end_of_stream| Answer::ResponseChunk { body, end_of_stream });
}

/// Sends a body back in pieces of [`MAX_CHUNK`] at most; only the last one carries the end.
fn echo(
    mut body: Bytes,
    end_of_stream: bool,
    answers: &mut VecDeque<Answer>,
    chunk: impl Fn(Bytes, bool) -> Answer,
) {
    while body.len() > MAX_CHUNK {
        let piece = body.split_to(MAX_CHUNK);
        answers.push_back(chunk(piece, false));
    }
    answers.push_back(chunk(body, end_of_stream));
}
