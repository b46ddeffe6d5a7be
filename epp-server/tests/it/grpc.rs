//! The whole server over loopback: `ext_proc`, health, metrics, drain.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HeadersResponse, HttpBody, HttpHeaders, ImmediateResponse, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, body_mutation, processing_request, processing_response,
};
use envoy_types::pb::google::protobuf::value::Kind;
use epp_server::config::Settings;
use epp_server::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support;

pub(crate) const ENDPOINT: &str = "10.0.0.1:8000";
pub(crate) const CHAT: &str = r#"{"model":"llama","messages":[{"role":"user","content":"What is rain?"}]}"#;
pub(crate) const DUPLEX: ProtocolConfiguration = ProtocolConfiguration {
    request_body_mode: 4,
    response_body_mode: 4,
    send_body_without_waiting_for_header_response: false,
};
pub(crate) const BUFFERED: ProtocolConfiguration =
    ProtocolConfiguration { request_body_mode: 2, response_body_mode: 0, ..DUPLEX };

pub(crate) struct Running {
    pub(crate) grpc: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<(), String>>,
}

pub(crate) async fn start(arguments: &[&str]) -> Running {
    start_with(arguments, |_| {}).await
}

/// Starts with settings that no argument makes.
pub(crate) async fn start_with(arguments: &[&str], change: impl FnOnce(&mut Settings)) -> Running {
    let endpoints = format!("--endpoints={ENDPOINT}");
    // The endpoint does not exist; one scrape per hour keeps the logs still.
    let mut settings =
        support::settings(&[&[&endpoints, "--refresh-metrics-interval=1h"], arguments].concat());
    change(&mut settings);
    let server = Server::bind(settings).await.unwrap();
    let [grpc, health, metrics] = server.ports().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        stopped.await.unwrap();
    }));
    Running { grpc, health, metrics, stop, task }
}

pub(crate) async fn connect(port: u16) -> Channel {
    Endpoint::new(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap()
}

impl Running {
    pub(crate) async fn open(&self) -> Gateway {
        Gateway::open(connect(self.grpc).await).await
    }

    pub(crate) async fn metrics_page(&self) -> String {
        self.get("/metrics").await
    }

    pub(crate) async fn page_of(port: u16) -> String {
        Self::get_of(port, "/metrics").await
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        Self::get_of(self.metrics, path).await
    }

    async fn get_of(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }

    pub(crate) async fn status(&self, service: &str) -> i32 {
        let mut client = HealthClient::new(connect(self.health).await);
        let request = HealthCheckRequest { service: service.to_owned() };
        client.check(request).await.unwrap().into_inner().status
    }
}

/// The gateway's end of one stream.
pub(crate) struct Gateway {
    pub(crate) requests: mpsc::Sender<ProcessingRequest>,
    pub(crate) answers: Streaming<ProcessingResponse>,
}

impl Gateway {
    pub(crate) async fn open(channel: Channel) -> Self {
        let (requests, messages) = mpsc::channel(16);
        let mut client = ExternalProcessorClient::new(channel).max_encoding_message_size(usize::MAX);
        let answers = client.process(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    pub(crate) async fn send(&self, config: ProtocolConfiguration, request: processing_request::Request) {
        let message = ProcessingRequest {
            request: Some(request),
            protocol_config: Some(config),
            ..ProcessingRequest::default()
        };
        self.requests.send(message).await.unwrap();
    }

    pub(crate) async fn headers(&self, config: ProtocolConfiguration, end_of_stream: bool) {
        let header = |key: &str, value: &str| HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let headers =
            HeaderMap { headers: vec![header(":method", "POST"), header(":path", "/v1/chat/completions")] };
        let message = HttpHeaders { headers: Some(headers), end_of_stream, ..HttpHeaders::default() };
        self.send(config, processing_request::Request::RequestHeaders(message)).await;
    }

    pub(crate) async fn body(
        &self,
        config: ProtocolConfiguration,
        body: impl Into<Vec<u8>>,
        end_of_stream: bool,
    ) {
        let message = HttpBody { body: body.into(), end_of_stream, ..HttpBody::default() };
        self.send(config, processing_request::Request::RequestBody(message)).await;
    }

    pub(crate) async fn answer(&mut self) -> ProcessingResponse {
        let answer = tokio::time::timeout(Duration::from_secs(5), self.answers.message()).await;
        answer.expect("an answer in time").unwrap().expect("an answer")
    }

    pub(crate) async fn immediate(&mut self) -> ImmediateResponse {
        match self.answer().await.response {
            Some(processing_response::Response::ImmediateResponse(immediate)) => immediate,
            other => panic!("an immediate response: {other:?}"),
        }
    }
}

/// The pick as the gateway reads it: from the header mutation and from the metadata.
pub(crate) fn destination(answer: &ProcessingResponse) -> (String, String) {
    let common = match answer.response.as_ref().unwrap() {
        processing_response::Response::RequestHeaders(headers) => headers.response.as_ref(),
        processing_response::Response::RequestBody(body) => body.response.as_ref(),
        other => panic!("headers or body: {other:?}"),
    }
    .unwrap();
    assert!(common.clear_route_cache);
    let option = &common.header_mutation.as_ref().unwrap().set_headers[0];
    assert_eq!(option.append_action, 2, "overwrite if exists or add");
    let header = option.header.as_ref().unwrap();
    assert_eq!((header.key.as_str(), header.value.as_str()), ("x-gateway-destination-endpoint", ""));
    let Some(Kind::StructValue(namespace)) =
        &answer.dynamic_metadata.as_ref().unwrap().fields["envoy.lb"].kind
    else {
        panic!("a namespace")
    };
    let Some(Kind::StringValue(metadata)) = &namespace.fields["x-gateway-destination-endpoint"].kind else {
        panic!("a string")
    };
    (String::from_utf8(header.raw_value.clone()).unwrap(), metadata.clone())
}

#[tokio::test]
async fn full_duplex_holds_the_headers_until_the_body_has_ended() {
    let server = start(&[]).await;
    let mut gateway = server.open().await;
    gateway.headers(DUPLEX, false).await;
    gateway.body(DUPLEX, &CHAT[..10], false).await;
    let early = tokio::time::timeout(Duration::from_millis(200), gateway.answers.message()).await;
    assert!(early.is_err(), "an answer before the end: {early:?}");
    gateway.body(DUPLEX, &CHAT[10..], true).await;
    assert_eq!(destination(&gateway.answer().await), (ENDPOINT.to_owned(), ENDPOINT.to_owned()));
    let mut echoed = Vec::new();
    for end in [false, true] {
        let Some(processing_response::Response::RequestBody(body)) = gateway.answer().await.response else {
            panic!("a body")
        };
        let Some(body_mutation::Mutation::StreamedResponse(chunk)) =
            body.response.unwrap().body_mutation.unwrap().mutation
        else {
            panic!("a streamed chunk")
        };
        assert_eq!(chunk.end_of_stream, end);
        echoed.extend(chunk.body);
    }
    assert_eq!(echoed, CHAT.as_bytes());
    let page = server.metrics_page().await;
    assert!(page.contains(r#"llm_d_epp_request_total{model_name="llama""#), "{page}");
    assert!(page.contains("llm_d_epp_extproc_streams_inflight 1\n"), "{page}");
    for counted in
        ["p3sched_picks_total 1\n", "p3sched_refused_picks_total 0\n", "p3sched_prediction_clears_total 0\n"]
    {
        assert!(page.contains(counted), "{counted}{page}");
    }
}

#[tokio::test]
async fn buffered_answers_the_headers_at_once_and_picks_with_the_body() {
    let server = start(&[]).await;
    let mut gateway = server.open().await;
    gateway.headers(BUFFERED, false).await;
    let answer = gateway.answer().await;
    assert_eq!(
        answer.response,
        Some(processing_response::Response::RequestHeaders(HeadersResponse::default())),
        "nothing is changed"
    );
    gateway.body(BUFFERED, CHAT, true).await;
    assert_eq!(destination(&gateway.answer().await), (ENDPOINT.to_owned(), ENDPOINT.to_owned()));
    drop(gateway.requests);
    assert!(gateway.answers.message().await.unwrap().is_none(), "the stream ends with the gateway's");
}

#[tokio::test]
async fn refusals_reach_the_client_with_status_reason_and_text() {
    let server = start(&["--max-body-size=1000", "--grpc-max-recv-msg-size=5000"]).await;
    for (config, body, status) in [
        (DUPLEX, "{".to_owned(), 400),
        (BUFFERED, "{".to_owned(), 400),
        (DUPLEX, " ".repeat(2_000), 413),
        (BUFFERED, " ".repeat(2_000), 413),
        (DUPLEX, " ".repeat(10_000), 413),
        (BUFFERED, " ".repeat(10_000), 413),
    ] {
        let mut gateway = server.open().await;
        gateway.headers(config, false).await;
        if config == BUFFERED {
            gateway.answer().await;
        }
        gateway.body(config, body, true).await;
        let immediate = gateway.immediate().await;
        assert_eq!(immediate.status.unwrap().code, status);
        let text = String::from_utf8(immediate.body).unwrap();
        assert!(text.starts_with("inference error: "), "{text}");
    }
    let page = server.metrics_page().await;
    assert!(page.contains(r#"error_code="PayloadTooLarge"} 4"#), "{page}");
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_at_the_deadline() {
    let server = start(&["--pick-deadline=200ms"]).await;
    let mut gateway = server.open().await;
    gateway.headers(DUPLEX, false).await;
    gateway.body(DUPLEX, "{", false).await;
    assert_eq!(gateway.immediate().await.status.unwrap().code, 408);
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_and_places_come_back() {
    let server = start(&["--max-streams=1"]).await;
    let mut first = server.open().await;
    first.headers(DUPLEX, true).await;
    first.answer().await;
    let mut second = server.open().await;
    let immediate = second.immediate().await;
    assert_eq!(immediate.status.unwrap().code, 429);
    let headers = immediate.headers.unwrap().set_headers;
    let reason = headers
        .iter()
        .filter_map(|option| option.header.as_ref())
        .find(|header| header.key == "x-llm-d-request-dropped-reason");
    assert_eq!(reason.unwrap().raw_value, b"rejected-saturated");
    drop((first, second));
    for _ in 0..500 {
        let mut third = server.open().await;
        third.headers(DUPLEX, true).await;
        if matches!(third.answer().await.response, Some(processing_response::Response::RequestHeaders(_))) {
            return;
        }
        drop(third);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place did not come back");
}

#[tokio::test]
async fn an_end_before_the_pick_is_an_error_and_never_a_silent_close() {
    let server = start(&[]).await;
    let mut gateway = server.open().await;
    gateway.headers(DUPLEX, false).await;
    drop(gateway.requests);
    let status = gateway.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
}

#[tokio::test]
async fn probes_ask_under_several_names_and_readiness_ends_with_the_drain() {
    let server = start(&["--drain-timeout=1s"]).await;
    let names =
        ["", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"];
    for name in names {
        assert_eq!(server.status(name).await, 1, "serving: `{name}`");
    }
    let mut gateway = server.open().await;
    gateway.headers(DUPLEX, true).await;
    gateway.answer().await;

    let started = Instant::now();
    let Running { stop, task, grpc, health, .. } = server;
    stop.send(()).unwrap();
    let mut client = HealthClient::new(connect(health).await);
    let mut status = 1;
    for _ in 0..50 {
        let request = HealthCheckRequest { service: "readiness".to_owned() };
        status = client.check(request).await.unwrap().into_inner().status;
        if status == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status, 2, "not serving");
    let alive = HealthCheckRequest { service: "liveness".to_owned() };
    assert_eq!(client.check(alive).await.unwrap().into_inner().status, 1);
    let mut late = Gateway::open(connect(grpc).await).await;
    late.headers(DUPLEX, true).await;
    assert_eq!(destination(&late.answer().await).0, ENDPOINT, "new requests are served while draining");
    task.await.unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

/// A folder with the files of `--cert-path`.
fn certificate_folder(name: &str, certificate: &str, key: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tls.crt"), certificate).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
    folder
}

#[tokio::test]
async fn the_port_can_be_served_with_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = certificate_folder("tls", &made.cert.pem(), &made.signing_key.serialize_pem());
    let server = start(&["--secure-serving=true", "--cert-path", folder.to_str().unwrap()]).await;
    let trust = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(made.cert.pem()))
        .domain_name("localhost");
    let channel =
        Endpoint::new(format!("https://127.0.0.1:{}", server.grpc)).unwrap().tls_config(trust).unwrap();
    let mut gateway = Gateway::open(channel.connect().await.unwrap()).await;
    gateway.headers(DUPLEX, true).await;
    assert_eq!(destination(&gateway.answer().await).0, ENDPOINT);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_certificate_is_replaced_without_cutting_what_is_open() {
    let make = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (old, new) = (make(), make());
    let folder = certificate_folder("reload-tls", &old.cert.pem(), &old.signing_key.serialize_pem());
    let shown = folder.display().to_string();
    let server = start(&["--secure-serving", "--enable-cert-reload", "--cert-path", &shown]).await;
    let connect = async |certificate: &str| {
        let trust = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name("localhost");
        let address = format!("https://127.0.0.1:{}", server.grpc);
        Endpoint::new(address).unwrap().tls_config(trust).unwrap().connect().await
    };
    let mut before = Gateway::open(connect(&old.cert.pem()).await.unwrap()).await;

    // What cannot be used changes nothing.
    std::fs::write(folder.join("tls.crt"), "nothing").unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    connect(&old.cert.pem()).await.unwrap();
    std::fs::write(folder.join("tls.key"), new.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), new.cert.pem()).unwrap();
    let mut replaced = connect(&new.cert.pem()).await;
    for _ in 0..500 {
        if replaced.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        replaced = connect(&new.cert.pem()).await;
    }
    let mut after = Gateway::open(replaced.unwrap()).await;
    for gateway in [&mut before, &mut after] {
        gateway.headers(DUPLEX, true).await;
        assert_eq!(destination(&gateway.answer().await).0, ENDPOINT);
    }
    assert!(connect(&old.cert.pem()).await.is_err(), "the old certificate is no longer shown");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_end_holds_up_no_other_one() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = certificate_folder("silent-tls", &made.cert.pem(), &made.signing_key.serialize_pem());
    let server = start(&["--secure-serving", "--cert-path", folder.to_str().unwrap()]).await;
    let threads = std::thread::available_parallelism().unwrap().get();
    let mut silent = Vec::new();
    for _ in 0..threads {
        silent.push(TcpStream::connect(("127.0.0.1", server.grpc)).await.unwrap());
    }
    let trust = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(made.cert.pem()))
        .domain_name("localhost");
    let address = format!("https://127.0.0.1:{}", server.grpc);
    let endpoint = Endpoint::new(address).unwrap().tls_config(trust).unwrap();
    let channel = tokio::time::timeout(Duration::from_secs(5), endpoint.connect()).await.unwrap().unwrap();
    let mut gateway = Gateway::open(channel).await;
    gateway.headers(DUPLEX, true).await;
    assert_eq!(destination(&gateway.answer().await).0, ENDPOINT);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn an_unusable_certificate_is_refused_before_anything_is_served() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (certificate, key, reason) in [
        ("nothing", &*key, "no certificate"),
        (&*certificate, "nothing", "invalid tls.crt or tls.key"),
        (&*certificate, &*other.signing_key.serialize_pem(), "invalid tls.crt or tls.key"),
    ] {
        let folder = certificate_folder("unusable-tls", certificate, key);
        let shown = folder.display().to_string();
        let settings =
            support::settings(&["--endpoints=10.0.0.1:8000", "--secure-serving", "--cert-path", &shown]);
        let error = Server::bind(settings).await.map(|_| ()).unwrap_err();
        assert!(error.contains(reason) && error.ends_with(&format!("`{shown}`")), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[tokio::test]
async fn without_requests_the_drain_is_short() {
    let Running { stop, task, .. } = start(&["--drain-timeout=30s"]).await;
    let started = Instant::now();
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_port_that_cannot_be_opened_is_named_with_what_changes_it() {
    let server = start(&[]).await;
    let taken: fn(&mut Settings, u16) = |settings, port| settings.grpc_port = port;
    let foreign: fn(&mut Settings, u16) = |settings, _| settings.bind_address = Some([192, 0, 2, 1].into());
    for (change, hint) in [(taken, "`--grpc-port`"), (foreign, "`--bind-address`")] {
        let mut settings = support::settings(&["--endpoints=10.0.0.1:8000"]);
        change(&mut settings, server.grpc);
        let port = settings.grpc_port.to_string();
        let error = Server::bind(settings).await.map(|_| ()).unwrap_err();
        assert!(error.contains(&port) && error.contains(hint), "{error}");
    }
}
