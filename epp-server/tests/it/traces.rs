//! Spans as a collector gets them.

use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingResponse, processing_request, processing_response,
};
use epp_server::config::Settings;
use epp_server::traces::TraceSettings;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::grpc::{self, DUPLEX, Gateway, Running};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "the prompt that nobody may see";

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// A running collector and its URL.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let scopes =
            requests.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

async fn start(endpoint: &str) -> Running {
    grpc::start_with(&["--drain-timeout=0"], |settings: &mut Settings| {
        let traces = TraceSettings::from_variables(|_| None).unwrap().unwrap();
        settings.traces = Some(TraceSettings { endpoint: endpoint.to_owned(), ..traces });
    })
    .await
}

/// Sends a request with a trace of its own, sampled or not, to the end of its answer.
async fn request(server: &Running, flags: &str) -> Vec<ProcessingResponse> {
    let mut gateway: Gateway = server.open().await;
    let header = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = vec![
        header(":path", "/v1/chat/completions"),
        header("x-request-id", "request-7"),
        header("traceparent", &format!("00-{TRACE}-{PARENT}-{flags}")),
        header("tracestate", "vendor=x"),
    ];
    let message = HttpHeaders { headers: Some(HeaderMap { headers }), ..HttpHeaders::default() };
    gateway.send(DUPLEX, processing_request::Request::RequestHeaders(message)).await;
    let body = format!(r#"{{"model": "llama", "messages": [{{"role": "user", "content": "{SECRET}"}}]}}"#);
    gateway.body(DUPLEX, body, true).await;
    let mut answers = vec![gateway.answer().await, gateway.answer().await];
    let headers = Some(HeaderMap { headers: vec![header(":status", "200")] });
    let message = HttpHeaders { headers, ..HttpHeaders::default() };
    gateway.send(DUPLEX, processing_request::Request::ResponseHeaders(message)).await;
    let usage = br#"{"usage": {"prompt_tokens": 9, "completion_tokens": 3}}"#.to_vec();
    let message = HttpBody { body: usage, end_of_stream: true, ..HttpBody::default() };
    gateway.send(DUPLEX, processing_request::Request::ResponseBody(message)).await;
    answers.extend([gateway.answer().await, gateway.answer().await]);
    answers
}

/// The request header that the gateway is told to set.
fn set_header(answer: &ProcessingResponse, name: &str) -> Option<String> {
    let Some(processing_response::Response::RequestHeaders(headers)) = &answer.response else {
        panic!("headers: {answer:?}")
    };
    let mutation = headers.response.as_ref()?.header_mutation.as_ref()?;
    let mut headers = mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
    let header = headers.find(|header| header.key == name)?;
    Some(String::from_utf8(header.raw_value.clone()).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    format!("{:?}", found.unwrap_or_else(|| panic!("{key}: {span:?}")).value)
}

#[tokio::test]
async fn a_sampled_request_is_three_spans_below_the_callers() {
    let (collector, url) = Collector::start().await;
    let server = start(&url).await;
    let answers = request(&server, "01").await;
    let sent_on = set_header(&answers[0], "traceparent").unwrap();
    assert_eq!(set_header(&answers[0], "tracestate").unwrap(), "vendor=x");
    let mut refused = server.open().await;
    refused.headers(DUPLEX, false).await;
    refused.body(DUPLEX, "{", true).await;
    refused.immediate().await;
    let Running { stop, task, .. } = server;
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();

    let spans = collector.spans();
    let of_trace =
        |name: &str| spans.iter().find(|span| span.name == name && hex(&span.trace_id) == TRACE).unwrap();
    let [request, orchestration, pick] = ["request", "request_orchestration", "pick_endpoints"].map(of_trace);
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!(orchestration.parent_span_id, request.span_id);
    assert_eq!(pick.parent_span_id, orchestration.span_id);
    assert_eq!(sent_on, format!("00-{TRACE}-{}-01", hex(&orchestration.span_id)));
    assert!(request.end_time_unix_nano >= pick.end_time_unix_nano);
    assert!(pick.start_time_unix_nano >= orchestration.start_time_unix_nano);
    for (span, key, value) in [
        (request, "gen_ai.request.id", "request-7"),
        (request, "gen_ai.usage.output_tokens", "IntValue(3)"),
        (orchestration, "target_model", "llama"),
        (orchestration, "request_prio", "IntValue(0)"),
        (pick, "gen_ai.request.model", "llama"),
        (pick, "llm_d.epp.picker.candidate_endpoints", "IntValue(1)"),
        (pick, "llm_d.epp.picker.top_endpoints", grpc::ENDPOINT),
        (pick, "p3sched.endpoint", grpc::ENDPOINT),
    ] {
        let written = attribute(span, key);
        assert!(written.contains(value), "{key}: {written}");
    }
    assert!(!format!("{:?}", collector.0.lock().unwrap()).contains(SECRET));
}

#[tokio::test]
async fn what_the_caller_does_not_sample_makes_no_span_and_changes_no_header() {
    let (collector, url) = Collector::start().await;
    let server = start(&url).await;
    let answers = request(&server, "00").await;
    assert_eq!(set_header(&answers[0], "traceparent"), None);
    let Running { stop, task, .. } = server;
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn without_a_collector_requests_are_served_all_the_same() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = start(&format!("http://{nobody}")).await;
    for _ in 0..3 {
        let answers = request(&server, "01").await;
        assert!(set_header(&answers[0], "x-gateway-destination-endpoint").is_some());
    }
    let Running { stop, task, .. } = server;
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
}
