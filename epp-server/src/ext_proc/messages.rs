//! Envoy's messages to and from the state machine's; no decisions are made here.

use std::collections::HashMap;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, ImmediateResponse,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse, body_mutation,
    processing_request, processing_response,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use p3sched::gateway::{self, Refusal, RequestHead, ResponseHead};

use super::protocol::{Answer, BodyMode, BodyModes, Hints, Message};
use super::route::{Extras, Route};

/// Envoy's attribute with the address of the host that answered.
const UPSTREAM_ADDRESS: &str = "upstream.address";

/// A message of the gateway, without what may come with any of them.
pub(super) fn read_message(request: processing_request::Request) -> Message {
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

/// The headers of a request, if they are what the message brings.
pub(super) fn request_headers(message: &ProcessingRequest) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
    match &message.request {
        Some(processing_request::Request::RequestHeaders(message)) => {
            Some(header_pairs(message.headers.as_ref()))
        }
        _ => None,
    }
}

fn header_pairs(map: Option<&HeaderMap>) -> impl Iterator<Item = (&[u8], &[u8])> {
    map.into_iter().flat_map(|map| &map.headers).map(|header| {
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        (header.key.as_bytes(), value)
    })
}

/// What may come with any message.
pub(super) fn read_hints(message: &ProcessingRequest) -> Hints {
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

/// An answer as the gateway reads it.
pub(super) fn write_answer(answer: Answer) -> ProcessingResponse {
    use processing_response::Response;
    let mut dynamic_metadata = None;
    let mut picked = |route: Option<Route>| {
        let (destination, extras) = route?.into_parts();
        dynamic_metadata = Some(destination_metadata(&destination, &extras));
        Some(picked(destination, extras))
    };
    let response = match answer {
        Answer::RequestHeaders { route, remove } => {
            let response = match picked(route) {
                Some(mut response) => {
                    remove_headers(&mut response, remove);
                    Some(response)
                }
                None => changed(Vec::new(), remove),
            };
            Response::RequestHeaders(HeadersResponse { response })
        }
        Answer::RequestBody { route, replacement } => {
            let mut response = picked(route);
            if let Some(body) = replacement {
                response.get_or_insert_default().body_mutation = Some(replaced(body));
            }
            Response::RequestBody(BodyResponse { response })
        }
        Answer::RequestTrailers { route } => {
            // Headers can no longer be changed.
            picked(route);
            Response::RequestTrailers(TrailersResponse::default())
        }
        Answer::RequestChunk { body, end_of_stream } => Response::RequestBody(chunk(body, end_of_stream)),
        Answer::ResponseHeaders { set, remove } => {
            Response::ResponseHeaders(HeadersResponse { response: changed(set, remove) })
        }
        Answer::ResponseBody { replacement } => {
            let response = replacement.map(|body| CommonResponse {
                body_mutation: Some(replaced(body)),
                ..CommonResponse::default()
            });
            Response::ResponseBody(BodyResponse { response })
        }
        Answer::ResponseChunk { body, end_of_stream } => Response::ResponseBody(chunk(body, end_of_stream)),
        Answer::ResponseTrailers => Response::ResponseTrailers(TrailersResponse::default()),
        Answer::Immediate(refusal) => Response::ImmediateResponse(immediate(&refusal)),
    };
    ProcessingResponse { response: Some(response), dynamic_metadata, ..ProcessingResponse::default() }
}

fn picked(destination: String, extras: Extras) -> CommonResponse {
    let mut set_headers = vec![set_header(gateway::DESTINATION, destination)];
    set_headers.extend(extras.set_headers.into_iter().map(|(name, value)| set_header(name, value)));
    let mutation = HeaderMutation { set_headers, remove_headers: Vec::new() };
    let mut response = CommonResponse {
        header_mutation: Some(mutation),
        clear_route_cache: true,
        ..CommonResponse::default()
    };
    remove_headers(&mut response, extras.remove_headers);
    response
}

/// Removes headers, but for those that are set.
fn remove_headers(response: &mut CommonResponse, remove: Vec<&'static str>) {
    if remove.is_empty() {
        return;
    }
    let HeaderMutation { set_headers, remove_headers } = response.header_mutation.get_or_insert_default();
    let is_set =
        |name: &str| set_headers.iter().filter_map(|set| set.header.as_ref()).any(|set| set.key == name);
    remove_headers.extend(remove.into_iter().filter(|name| !is_set(name)).map(str::to_owned));
}

fn changed(set: Vec<(&'static str, String)>, remove: Vec<&'static str>) -> Option<CommonResponse> {
    if set.is_empty() && remove.is_empty() {
        return None;
    }
    let set_headers = set.into_iter().map(|(name, value)| set_header(name, value)).collect();
    let remove_headers = remove.into_iter().map(str::to_owned).collect();
    let header_mutation = Some(HeaderMutation { set_headers, remove_headers });
    Some(CommonResponse { header_mutation, ..CommonResponse::default() })
}

fn replaced(body: Bytes) -> BodyMutation {
    BodyMutation { mutation: Some(body_mutation::Mutation::Body(body.into())) }
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

fn destination_metadata(destination: &str, extras: &Extras) -> Struct {
    let value = Kind::StringValue(destination.to_owned());
    let mut inner = Struct { fields: HashMap::from([entry(gateway::DESTINATION, value)]) };
    if !extras.scores.is_empty() {
        let scores = extras.scores.iter();
        let fields = scores.map(|(endpoint, score)| entry(endpoint, Kind::NumberValue(f64::from(*score))));
        let scores = Kind::StructValue(Struct { fields: fields.collect() });
        inner.fields.extend([entry(gateway::DESTINATION_SCORES, scores)]);
    }
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
