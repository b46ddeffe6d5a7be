//! tonic's messages to and from the state machine's; no decisions are made here.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, ImmediateResponse,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse, body_mutation,
    processing_request, processing_response,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use futures_core::Stream;
use p3sched::gateway::{self, Refusal, RequestHead, ResponseHead};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Request, Response, Status, Streaming};

use super::router::Router;
use super::stream::{Answer, BodyMode, BodyModes, Hints, Limits, Message, RequestStream};
use crate::clock;

/// Envoy's attribute with the address of the host that answered.
const UPSTREAM_ADDRESS: &str = "upstream.address";

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

/// Envoy's external processor over a router.
pub struct Service {
    router: Arc<Router>,
    limits: ServiceLimits,
}

impl Service {
    /// The gRPC service.
    pub fn server(router: Arc<Router>, limits: ServiceLimits) -> ExternalProcessorServer<Self> {
        ExternalProcessorServer::new(Self { router, limits })
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
        Ok(Response::new(Exchange::open(request.into_inner(), Arc::clone(&self.router), self.limits)))
    }
}

/// One gRPC stream: pulls the gateway's messages when it is asked for answers.
///
/// There is no task and no channel per request; dropping it settles the request's booking.
pub struct Exchange {
    inbound: Streaming<ProcessingRequest>,
    router: Arc<Router>,
    request: RequestStream,
    answers: VecDeque<Answer>,
    timer: Option<Pin<Box<Sleep>>>,
    max_message_bytes: usize,
    closed: bool,
}

impl Exchange {
    fn open(inbound: Streaming<ProcessingRequest>, router: Arc<Router>, limits: ServiceLimits) -> Self {
        let open = router.metrics().stream_opened();
        let mut exchange = Self {
            inbound,
            router,
            request: RequestStream::new(limits.request),
            answers: VecDeque::new(),
            timer: None,
            max_message_bytes: limits.max_message_bytes,
            closed: false,
        };
        if open > limits.max_streams {
            let refusal = Refusal::saturated(limits.max_streams);
            exchange.request.refuse_at_start(refusal, &exchange.router, &mut exchange.answers);
        }
        exchange
    }

    fn on_message(&mut self, message: ProcessingRequest) {
        let hints = read_hints(&message);
        if let Some(message) = message.request.map(read_message) {
            self.request.on_message(message, hints, &self.router, clock::now(), &mut self.answers);
        }
    }

    /// The gateway's side ended; what is left to say is an answer, an error or nothing.
    fn on_end(&mut self, error: Option<&Status>) -> Option<Status> {
        self.closed = true;
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
        self.request.on_deadline(&self.router, clock::now().max(deadline), &mut self.answers);
        true
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
            if this.closed || this.request.is_refused() {
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
                    if !this.poll_deadline(context) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.request.on_close(&self.router, clock::now());
        self.router.metrics().stream_closed();
    }
}

fn read_message(request: processing_request::Request) -> Message {
    use processing_request::Request;
    match request {
        Request::RequestHeaders(message) => Message::RequestHeaders {
            head: RequestHead::read(header_pairs(message.headers.as_ref())),
            end_of_stream: message.end_of_stream,
        },
        Request::RequestBody(HttpBody { body, end_of_stream, .. }) => {
            Message::RequestBody { body: Bytes::from(body), end_of_stream }
        }
        Request::RequestTrailers(_) => Message::RequestTrailers,
        Request::ResponseHeaders(message) => Message::ResponseHeaders {
            head: ResponseHead::read(header_pairs(message.headers.as_ref())),
            end_of_stream: message.end_of_stream,
        },
        Request::ResponseBody(HttpBody { body, end_of_stream, .. }) => {
            Message::ResponseBody { body: Bytes::from(body), end_of_stream }
        }
        Request::ResponseTrailers(_) => Message::ResponseTrailers,
    }
}

fn header_pairs(map: Option<&HeaderMap>) -> impl Iterator<Item = (&[u8], &[u8])> {
    map.into_iter().flat_map(|map| &map.headers).map(|header| {
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        (header.key.as_bytes(), value)
    })
}

fn read_hints(message: &ProcessingRequest) -> Hints {
    let modes = message.protocol_config.as_ref().map(|config| BodyModes {
        request: BodyMode::from_number(config.request_body_mode),
        response: BodyMode::from_number(config.response_body_mode),
    });
    let metadata = |namespace: &str, key: &str| {
        message.metadata_context.as_ref()?.filter_metadata.get(namespace)?.fields.get(key)?.kind.as_ref()
    };
    let served_by = metadata(gateway::DESTINATION_NAMESPACE, gateway::DESTINATION_SERVED)
        .or_else(|| {
            let attributes = message.attributes.values();
            attributes.filter_map(|group| group.fields.get(UPSTREAM_ADDRESS)).next()?.kind.as_ref()
        })
        .and_then(text)
        .map(str::to_owned);
    let subset = metadata(gateway::SUBSET_NAMESPACE, gateway::SUBSET).map(subset_entries);
    Hints { modes, subset, served_by }
}

fn subset_entries(hint: &Kind) -> Vec<String> {
    match hint {
        Kind::ListValue(list) => {
            let entries = list.values.iter().filter_map(|value| text(value.kind.as_ref()?));
            entries.flat_map(|entry| gateway::subset_entries(entry.as_bytes())).collect()
        }
        hint => text(hint).map(|entry| gateway::subset_entries(entry.as_bytes())).unwrap_or_default(),
    }
}

fn text(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn write_answer(answer: Answer) -> ProcessingResponse {
    use processing_response::Response;
    let mut dynamic_metadata = None;
    let response = match answer {
        Answer::RequestHeaders { destination, remove_forged } => {
            dynamic_metadata = destination.as_deref().map(destination_metadata);
            let mut response = destination.map(picked);
            if remove_forged {
                let remove_headers = vec![gateway::DESTINATION.to_owned()];
                let header_mutation = Some(HeaderMutation { remove_headers, ..HeaderMutation::default() });
                response = Some(CommonResponse { header_mutation, ..CommonResponse::default() });
            }
            Response::RequestHeaders(HeadersResponse { response })
        }
        Answer::RequestBody { destination } => {
            dynamic_metadata = destination.as_deref().map(destination_metadata);
            Response::RequestBody(BodyResponse { response: destination.map(picked) })
        }
        Answer::RequestTrailers { destination } => {
            dynamic_metadata = destination.as_deref().map(destination_metadata);
            Response::RequestTrailers(TrailersResponse::default())
        }
        Answer::RequestChunk { body, end_of_stream } => Response::RequestBody(chunk(body, end_of_stream)),
        Answer::ResponseHeaders => Response::ResponseHeaders(HeadersResponse::default()),
        Answer::ResponseBody => Response::ResponseBody(BodyResponse::default()),
        Answer::ResponseChunk { body, end_of_stream } => Response::ResponseBody(chunk(body, end_of_stream)),
        Answer::ResponseTrailers => Response::ResponseTrailers(TrailersResponse::default()),
        Answer::Immediate(refusal) => Response::ImmediateResponse(immediate(&refusal)),
    };
    ProcessingResponse { response: Some(response), dynamic_metadata, ..ProcessingResponse::default() }
}

fn picked(destination: String) -> CommonResponse {
    let mutation = HeaderMutation {
        set_headers: vec![set_header(gateway::DESTINATION, destination)],
        remove_headers: Vec::new(),
    };
    CommonResponse { header_mutation: Some(mutation), clear_route_cache: true, ..CommonResponse::default() }
}

fn set_header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: String::new(),
            raw_value: value.into_bytes(),
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn destination_metadata(destination: &str) -> Struct {
    let value = Kind::StringValue(destination.to_owned());
    let inner = Struct { fields: HashMap::from([entry(gateway::DESTINATION, value)]) };
    Struct { fields: HashMap::from([entry(gateway::DESTINATION_NAMESPACE, Kind::StructValue(inner))]) }
}

fn entry(key: &str, kind: Kind) -> (String, Value) {
    (key.to_owned(), Value { kind: Some(kind) })
}

fn chunk(body: Bytes, end_of_stream: bool) -> BodyResponse {
    let streamed =
        StreamedBodyResponse { body: body.into(), end_of_stream, ..StreamedBodyResponse::default() };
    let mutation = BodyMutation { mutation: Some(body_mutation::Mutation::StreamedResponse(streamed)) };
    BodyResponse {
        response: Some(CommonResponse { body_mutation: Some(mutation), ..CommonResponse::default() }),
    }
}

fn immediate(refusal: &Refusal) -> ImmediateResponse {
    let mut set_headers = vec![set_header("content-type", "text/plain".to_owned())];
    set_headers.extend(refusal.reason.map(|reason| set_header(gateway::DROPPED_REASON, reason.to_owned())));
    ImmediateResponse {
        status: Some(HttpStatus { code: i32::from(refusal.status) }),
        headers: Some(HeaderMutation { set_headers, remove_headers: Vec::new() }),
        body: refusal.body().into_bytes(),
        details: refusal.code.to_owned(),
        ..ImmediateResponse::default()
    }
}
