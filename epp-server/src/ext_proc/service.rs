//! The gRPC service: one state machine per stream, driven by tonic.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures_core::Stream;
use opentelemetry::{Context as TraceContext, ContextGuard};
use p3sched::gateway::Refusal;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Request, Response, Status, Streaming};

use super::messages::{read_hints, read_message, request_headers, write_answer};
use super::pool_selection::Routers;
use super::protocol::{Answer, Limits};
use super::router::Router;
use super::stream::RequestStream;
use crate::clock;

/// What the service may use for all its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceLimits {
    /// What one request may use.
    pub request: Limits,
    /// Largest gRPC message, in bytes.
    pub max_message_bytes: usize,
    /// Streams that may be open at the same time.
    pub max_streams: usize,
}

/// Envoy's external processor over the routers of one or more pools.
pub struct Service {
    routers: Arc<Routers>,
    limits: ServiceLimits,
}

impl Service {
    /// The gRPC service.
    pub fn server(routers: Arc<Routers>, limits: ServiceLimits) -> ExternalProcessorServer<Self> {
        ExternalProcessorServer::new(Self { routers, limits })
            .max_decoding_message_size(limits.max_message_bytes)
            .max_encoding_message_size(usize::MAX)
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Service {
    type ProcessStream = Exchange;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Exchange>, Status> {
        Ok(Response::new(Exchange::open(request.into_inner(), Arc::clone(&self.routers), self.limits)))
    }
}

/// One gRPC stream: pulls the gateway's messages when it is asked for answers.
///
/// There is no task and no channel per request; dropping it settles the request's booking.
pub struct Exchange {
    inbound: Streaming<ProcessingRequest>,
    /// Until the request's headers have said which pool it is for.
    routers: Option<Arc<Routers>>,
    router: Arc<Router>,
    request: RequestStream,
    answers: VecDeque<Answer>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The request's span, while it is sampled.
    trace: Option<TraceContext>,
    server_end: Pin<Box<OwnedNotified>>,
    waits_for_end: bool,
    max_message_bytes: usize,
    /// Nanoseconds that the messages of the response took.
    response_processing: u64,
    closed: bool,
}

impl Exchange {
    fn open(inbound: Streaming<ProcessingRequest>, routers: Arc<Routers>, limits: ServiceLimits) -> Self {
        let router = Arc::clone(routers.first());
        let open = router.metrics().stream_opened();
        let server_end = Box::pin(router.closing().notified());
        let mut exchange = Self {
            inbound,
            routers: Some(routers),
            router,
            request: RequestStream::new(limits.request),
            answers: VecDeque::new(),
            timer: None,
            trace: None,
            server_end,
            waits_for_end: false,
            max_message_bytes: limits.max_message_bytes,
            response_processing: 0,
            closed: false,
        };
        if open > limits.max_streams {
            let refusal = Refusal::saturated(limits.max_streams);
            exchange.request.refuse_at_start(refusal, &exchange.router, &mut exchange.answers);
        }
        exchange
    }

    fn on_message(&mut self, message: ProcessingRequest) {
        if let Some(router) = self.routers.as_ref().and_then(|routers| routers.select(&message)) {
            self.router = Arc::clone(router);
            self.routers = None;
        }
        if let Some(traces) = self.router.traces()
            && let Some(headers) = request_headers(&message)
        {
            self.trace = traces.begin(headers);
        }
        let _current = self.enter_trace();
        let hints = read_hints(&message);
        let Some(message) = message.request.map(read_message) else { return };
        let now = clock::now();
        let is_response = message.is_response();
        self.request.on_message(message, hints, &self.router, now, &mut self.answers);
        if is_response {
            self.response_processing += clock::now().saturating_sub(now);
        }
    }

    /// The gateway's side ended; what is left to say is an answer, an error or nothing.
    fn on_end(&mut self, error: Option<&Status>) -> Option<Status> {
        self.closed = true;
        let _current = self.enter_trace();
        let too_large = error.is_some_and(|status| status.code() == Code::OutOfRange);
        let limit = self.max_message_bytes;
        if too_large && self.request.on_oversized_message(limit, &self.router, &mut self.answers) {
            return None;
        }
        // An end without an error would let the gateway send the request on, unpicked or even without its body.
        self.request.is_unanswered().then(|| Status::aborted("stream ended before the request was complete"))
    }

    /// Whether the deadline has passed; arms the timer while there is one.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> bool {
        let Some(deadline) = self.request.deadline() else {
            self.timer = None;
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| {
            let left = Duration::from_nanos(deadline.saturating_sub(clock::now()));
            Box::pin(sleep_until(Instant::now() + left))
        });
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        self.timer = None;
        let _current = self.enter_trace();
        self.request.on_deadline(&self.router, clock::now().max(deadline), &mut self.answers);
        true
    }

    /// Whether the server ends now; says then what is left to say.
    fn poll_server_end(&mut self, context: &mut Context<'_>) -> bool {
        // A stream is polled by one task for all its life, so that its waker is left only once.
        let woken = !self.waits_for_end && self.server_end.as_mut().poll(context).is_ready();
        self.waits_for_end = true;
        let ended = woken || self.router.closing().has_begun();
        if ended {
            let _current = self.enter_trace();
            self.closed = !self.request.on_server_end(&self.router, &mut self.answers);
        }
        ended
    }

    /// Makes the request's span the current one.
    fn enter_trace(&self) -> Option<ContextGuard> {
        self.trace.clone().map(TraceContext::attach)
    }
}

impl Stream for Exchange {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(answer) = this.answers.pop_front() {
                return Poll::Ready(Some(Ok(write_answer(answer))));
            }
            if this.closed || this.request.is_refused() || this.request.is_done(&this.router) {
                return Poll::Ready(None);
            }
            match Pin::new(&mut this.inbound).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => this.on_message(message),
                Poll::Ready(Some(Err(status))) => {
                    if let Some(status) = this.on_end(Some(&status)) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                Poll::Ready(None) => {
                    if let Some(status) = this.on_end(None) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                Poll::Pending => {
                    if !this.poll_server_end(context) && !this.poll_deadline(context) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let _current = self.enter_trace();
        self.request.on_close(&self.router, clock::now());
        let metrics = self.router.metrics();
        metrics.stream_closed();
        if self.response_processing > 0 {
            metrics.response_processed(self.response_processing);
        }
    }
}
