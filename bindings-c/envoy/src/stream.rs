//! One request's state machine: what Envoy is told, and when.
//!
//! | request | the pick is made |
//! |---|---|
//! | without a body, or with one that no prompt can be read from | at the headers, by load |
//! | with any other body | at its end, be that its last piece or trailers; until then it is held |

use std::borrow::Cow;

use p3sched::gateway::{DESTINATION, DESTINATION_NAMESPACE, Refusal, RequestHead, ResponseHead};
use p3sched::usage::UsageScanner;
use p3sched::{Decision, Outcome};

use crate::clock;
use crate::gateway::{Counter, Gateway, Side};
use crate::router::{Pick, Router, Verdict};
use crate::settings::PickTo;

/// What becomes of the part of the request that has just come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It goes on, with all that was held.
    Continue,
    /// It is held until more has come.
    Hold,
    /// It goes nowhere: the client has its answer.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Start,
    /// Headers have come; the pick waits for the body.
    Gathering,
    /// Envoy knows where the request goes.
    Settled,
    /// The client was given an answer.
    Refused,
}

/// The response, as far as it was seen.
#[derive(Debug, Default)]
struct Response {
    head: ResponseHead,
    has_body: bool,
    scanner: Option<UsageScanner>,
    served_by: Option<String>,
}

/// Metadata namespace of the explanation.
const EXPLANATION_NAMESPACE: &str = "p3sched";

/// One request, from its headers to the end of its response.
#[derive(Debug)]
pub struct RequestStream {
    phase: Phase,
    head: RequestHead,
    pick: Option<Pick>,
    response: Response,
}

impl Default for RequestStream {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestStream {
    /// A request of which nothing has come.
    pub fn new() -> Self {
        Self { phase: Phase::Start, head: RequestHead::default(), pick: None, response: Response::default() }
    }

    /// The request's headers have come; with `end_of_stream` there is no body.
    pub fn request_headers(
        &mut self,
        gateway: &mut impl Gateway,
        router: &Router,
        end_of_stream: bool,
    ) -> Flow {
        self.head = RequestHead::read(gateway.headers(Side::Request));
        for name in &self.head.steering {
            gateway.set_request_header(name, None);
        }
        if end_of_stream || self.head.opaque_body {
            return self.settle(gateway, router, None);
        }
        let limit = router.settings().max_body_bytes;
        if self.head.content_length.is_some_and(|length| length > limit) {
            return self.refuse(gateway, &Refusal::payload_too_large(limit));
        }
        gateway.raise_body_limit(limit);
        self.phase = Phase::Gathering;
        Flow::Hold
    }

    /// A piece of the request's body has come; with `end_of_stream` it is the last and no trailers follow.
    pub fn request_body(&mut self, gateway: &mut impl Gateway, router: &Router, end_of_stream: bool) -> Flow {
        match self.phase {
            Phase::Start | Phase::Settled => return Flow::Continue,
            Phase::Refused => return Flow::Stop,
            Phase::Gathering => {}
        }
        let (length, limit) = (gateway.request_body_length(), router.settings().max_body_bytes);
        if length > limit {
            return self.refuse(gateway, &Refusal::payload_too_large(limit));
        }
        if !end_of_stream {
            return Flow::Hold;
        }
        self.settle_on_body(gateway, router)
    }

    /// The request's trailers have come, which end it.
    pub fn request_trailers(&mut self, gateway: &mut impl Gateway, router: &Router) -> Flow {
        match self.phase {
            Phase::Start | Phase::Settled => Flow::Continue,
            Phase::Refused => Flow::Stop,
            Phase::Gathering => self.settle_on_body(gateway, router),
        }
    }

    /// The response's headers have come; with `end_of_stream` there is no body.
    pub fn response_headers(&mut self, gateway: &mut impl Gateway, router: &Router, end_of_stream: bool) {
        if self.pick.is_none() {
            return;
        }
        let head = ResponseHead::read(gateway.headers(Side::Response));
        self.response.scanner = (head.succeeds() && !head.encoded).then(UsageScanner::new);
        self.response.head = head;
        self.response.served_by = gateway.served_by();
        if end_of_stream {
            self.complete(gateway, router, true);
        }
    }

    /// A piece of the response's body has come; with `end_of_stream` it is the last and no trailers follow.
    pub fn response_body(&mut self, gateway: &mut impl Gateway, router: &Router, end_of_stream: bool) {
        let Some(pick) = &self.pick else { return };
        let response = &mut self.response;
        for piece in gateway.response_chunk().filter(|piece| !piece.is_empty()) {
            // The first piece of an answer that comes as one is no first token.
            if !response.has_body && response.head.event_stream && response.head.succeeds() {
                router.first_token(pick);
            }
            response.has_body = true;
            if let Some(scanner) = &mut response.scanner {
                scanner.push(piece);
            }
        }
        if end_of_stream {
            self.complete(gateway, router, true);
        }
    }

    /// The response's trailers have come, which end it.
    pub fn response_trailers(&mut self, gateway: &mut impl Gateway, router: &Router) {
        self.complete(gateway, router, true);
    }

    /// The stream is gone, by its end or by a reset.
    pub fn stream_complete(&mut self, gateway: &mut impl Gateway, router: &Router) {
        self.complete(gateway, router, false);
    }

    /// A hook of the request panicked: the request passes or is refused, as configured, and is not looked at again.
    pub fn request_panicked(&mut self, gateway: &mut impl Gateway, router: &Router) -> Flow {
        gateway.count(Counter::Panics, 1);
        if self.phase == Phase::Refused {
            return Flow::Stop;
        }
        if router.fails_open() {
            self.phase = Phase::Settled;
            return Flow::Continue;
        }
        self.refuse(gateway, &Refusal::internal(500))
    }

    fn settle_on_body(&mut self, gateway: &mut impl Gateway, router: &Router) -> Flow {
        #[cfg(debug_assertions)]
        panic_if_asked(gateway);
        let started = clock::now();
        let (subset, body) = (gateway.subset_hint(), joined(gateway.request_body()));
        let verdict = router.pick(&self.head, Some(&*body).filter(|body| !body.is_empty()), subset);
        drop(body);
        self.apply(verdict, gateway, router, started)
    }

    fn settle(&mut self, gateway: &mut impl Gateway, router: &Router, body: Option<&[u8]>) -> Flow {
        #[cfg(debug_assertions)]
        panic_if_asked(gateway);
        let started = clock::now();
        let verdict = router.pick(&self.head, body, gateway.subset_hint());
        self.apply(verdict, gateway, router, started)
    }

    fn apply(&mut self, verdict: Verdict, gateway: &mut impl Gateway, router: &Router, started: u64) -> Flow {
        let decision = match verdict {
            Verdict::Picked(decision) => decision,
            Verdict::FailedOpen => {
                gateway.count(Counter::FailedOpen, 1);
                self.phase = Phase::Settled;
                return Flow::Continue;
            }
            Verdict::Refused(refusal) => return self.refuse(gateway, &refusal),
        };
        gateway.record_pick_time(clock::now().saturating_sub(started));
        gateway.count(Counter::Picks, 1);
        gateway.count(Counter::PromptTokens, decision.prompt_tokens.into());
        gateway.count(Counter::MatchedTokens, decision.matched_tokens.into());
        match router.settings().pick_to {
            PickTo::OverrideHost => gateway.override_host(&decision.endpoint),
            PickTo::Header => gateway.set_request_header(DESTINATION, Some(&destination(&decision))),
            PickTo::Metadata => gateway.set_text(DESTINATION_NAMESPACE, DESTINATION, &destination(&decision)),
        }
        if router.settings().explanation {
            explain(gateway, &decision);
        }
        self.pick = Some(Pick::new(&decision));
        self.phase = Phase::Settled;
        Flow::Continue
    }

    fn refuse(&mut self, gateway: &mut impl Gateway, refusal: &Refusal) -> Flow {
        let counter = match refusal.status {
            400 => Some(Counter::RefusedBadRequest),
            413 => Some(Counter::RefusedTooLarge),
            503 => Some(Counter::RefusedNoEndpoint),
            // A panic, which is counted where it is caught.
            _ => None,
        };
        if let Some(counter) = counter {
            gateway.count(counter, 1);
        }
        self.phase = Phase::Refused;
        gateway.refuse(refusal);
        Flow::Stop
    }

    fn complete(&mut self, gateway: &mut impl Gateway, router: &Router, whole: bool) {
        let Some(pick) = self.pick.take() else { return };
        let response = std::mem::take(&mut self.response);
        let usage = response.scanner.map(|scanner| scanner.finish()).unwrap_or_default();
        let outcome = Outcome {
            success: whole && response.head.succeeds(),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: usage.cached_tokens,
            served_by: response.served_by.filter(|served_by| **served_by != *pick.endpoint),
        };
        gateway.count(Counter::CachedTokens, usage.cached_tokens.unwrap_or(0).into());
        gateway.count(Counter::Failed, u64::from(!outcome.success));
        gateway.count(Counter::ServedElsewhere, u64::from(outcome.served_by.is_some()));
        router.complete(&pick, outcome);
    }
}

/// The chosen endpoint, then the fallbacks that the configuration asks for.
fn destination(decision: &Decision) -> Cow<'_, str> {
    if decision.fallbacks.is_empty() {
        return Cow::Borrowed(&decision.endpoint);
    }
    let mut destination = decision.endpoint.to_string();
    for fallback in &decision.fallbacks {
        destination.push(',');
        destination.push_str(fallback);
    }
    Cow::Owned(destination)
}

#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "tests see what a mistake in this module does")]
fn panic_if_asked(gateway: &impl Gateway) {
    if gateway.headers(Side::Request).any(|(name, _)| name == b"x-p3sched-panic") {
        panic!("a panic was asked for");
    }
}

fn explain(gateway: &mut impl Gateway, decision: &Decision) {
    gateway.set_text(EXPLANATION_NAMESPACE, "endpoint", &decision.endpoint);
    gateway.set_number(EXPLANATION_NAMESPACE, "prompt_tokens", decision.prompt_tokens.into());
    gateway.set_number(EXPLANATION_NAMESPACE, "matched_tokens", decision.matched_tokens.into());
    // Numbers and texts only: nothing in it that JSON has no form for.
    let explanation = serde_json::to_string(&decision.explanation()).unwrap_or_default();
    gateway.set_text(EXPLANATION_NAMESPACE, "explanation", &explanation);
}

/// One piece as it is, several put together.
fn joined<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Cow<'a, [u8]> {
    let mut joined = Cow::Borrowed(&[][..]);
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        if joined.is_empty() {
            joined = Cow::Borrowed(piece);
        } else {
            joined.to_mut().extend_from_slice(piece);
        }
    }
    joined
}

#[cfg(test)]
mod tests;
