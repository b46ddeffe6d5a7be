//! The response to one request, as far as it was seen.

use bytes::Bytes;
use p3sched::Outcome;
use p3sched::gateway::ResponseHead;
use p3sched::usage::UsageScanner;

use super::model_name::ModelNames;
use super::protocol::BodyMode;

/// What is known of a response and what is changed in it.
#[derive(Default)]
pub(super) struct Response {
    head: ResponseHead,
    /// Whether its first piece is its first token: not in an answer that comes as one.
    shows_first_token: bool,
    bytes: u64,
    scanner: Option<UsageScanner>,
    names: Option<ModelNames>,
    /// The endpoint that served, if the gateway says so.
    pub(super) served_by: Option<String>,
}

impl Response {
    /// Takes the headers; `names` is for a response whose model has another name for the client.
    pub(super) fn begin(&mut self, head: ResponseHead, mode: BodyMode, names: Option<ModelNames>) {
        self.shows_first_token =
            head.event_stream && head.succeeds() && matches!(mode, BodyMode::Streamed | BodyMode::FullDuplex);
        if head.succeeds() && !head.encoded {
            self.scanner = Some(UsageScanner::new());
        }
        self.names = names.filter(|_| mode != BodyMode::None && !head.encoded);
        self.head = head;
    }

    /// Whether the body may become longer or shorter.
    pub(super) fn changes_length(&self) -> bool {
        self.names.as_ref().is_some_and(ModelNames::changes_length)
    }

    /// Whether the body is a stream of events.
    pub(super) fn is_event_stream(&self) -> bool {
        self.head.event_stream
    }

    /// Whether this piece of the body, which has not been taken yet, is or follows the first token.
    pub(super) fn shows_token(&self, body: &[u8]) -> bool {
        self.shows_first_token && !body.is_empty()
    }

    /// Takes a piece of the body; gives what goes on instead of it, if that is something else.
    pub(super) fn take(&mut self, body: &Bytes, mode: BodyMode, end_of_stream: bool) -> Option<Bytes> {
        self.bytes += body.len() as u64;
        if let Some(scanner) = &mut self.scanner {
            scanner.push(body);
        }
        let may_hold = mode == BodyMode::FullDuplex && !end_of_stream;
        self.names.as_mut().map(|names| names.pass(body.clone(), may_hold))
    }

    /// The end of the body that was held back, when trailers follow.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        self.names.as_mut().map(ModelNames::rest).filter(|rest| !rest.is_empty())
    }

    /// Bytes of the body that were seen.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the headers have come and say that the endpoint could not do what it was asked for.
    pub(super) fn is_failure(&self) -> bool {
        self.head.status != 0 && !self.head.succeeds()
    }

    /// How the request ended; `whole` if nothing of the response is missing.
    pub(super) fn outcome(&mut self, whole: bool) -> Outcome {
        let usage = self.scanner.take().map(|scanner| scanner.finish()).unwrap_or_default();
        Outcome {
            success: whole && self.head.succeeds(),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: usage.cached_tokens,
            served_by: self.served_by.take(),
        }
    }
}
