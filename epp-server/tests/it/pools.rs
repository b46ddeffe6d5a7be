//! Several pools in one server: each request goes to its own, and each is seen by itself.

use std::fs;
use std::path::PathBuf;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, processing_request, processing_response};
use epp_server::config::EndpointSource;
use epp_server::discovery::kubernetes::PodSource;
use epp_server::server::Server;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::grpc::{CHAT, DUPLEX, Gateway, Running};
use crate::support;

const POOLS: &str = "
pools:
- name: models/chat
  endpoints: ['10.0.0.1:8000']
- name: models/code
  authorities: [code.example.com, '*.code.example.com']
  endpoints: ['10.0.0.2:8000', '10.0.0.3:8000']
  scheduler: {fallbacks: 1}
";

async fn start(arguments: &[&str]) -> Running {
    let fixed = ["--refresh-metrics-interval=1h", "--drain-timeout=0s", "--config-text", POOLS];
    let server = Server::bind(support::settings(&[&fixed, arguments].concat())).await.unwrap();
    let [grpc, health, metrics] = server.ports().unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        stopped.await.unwrap();
    }));
    Running { grpc, health, metrics, stop, task }
}

/// Where a chat with these headers goes.
async fn destination(running: &Running, headers: &[(&str, &str)]) -> String {
    let mut gateway: Gateway = running.open().await;
    let own = [(":method", "POST"), (":path", "/v1/chat/completions")];
    let headers = own.iter().chain(headers).map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    });
    let headers = Some(HeaderMap { headers: headers.collect() });
    let message = HttpHeaders { headers, ..HttpHeaders::default() };
    gateway.send(DUPLEX, processing_request::Request::RequestHeaders(message)).await;
    gateway.body(DUPLEX, CHAT, true).await;
    let Some(processing_response::Response::RequestHeaders(answer)) = gateway.answer().await.response else {
        panic!("no pick");
    };
    let mutation = answer.response.unwrap().header_mutation.unwrap();
    let header = mutation.set_headers.into_iter().filter_map(|option| option.header);
    let mut header = header.filter(|header| header.key == "x-gateway-destination-endpoint");
    String::from_utf8(header.next().unwrap().raw_value).unwrap()
}

async fn json_of(port: u16, path: &str) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn requests_go_to_the_pool_of_their_authority_or_name() {
    let running = start(&["--pool-header=X-Pool"]).await;
    assert_eq!(destination(&running, &[(":authority", "other.example.com")]).await, "10.0.0.1:8000");
    for headers in [
        &[(":authority", "code.example.com:443")][..],
        &[(":authority", "eu.code.example.com")],
        &[(":authority", "other.example.com"), ("x-pool", "models/code")],
    ] {
        let destination = destination(&running, headers).await;
        // That pool's own scheduler names a fallback.
        let expected = ["10.0.0.2:8000,10.0.0.3:8000", "10.0.0.3:8000,10.0.0.2:8000"];
        assert!(expected.contains(&destination.as_str()), "{headers:?}: {destination}");
    }
    let page = running.metrics_page().await;
    for line in [
        r#"p3sched_picks_total{name="models/chat"} 1"#,
        r#"p3sched_picks_total{name="models/code"} 3"#,
        r#"llm_d_epp_ready_endpoints{name="models/code"} 2"#,
        r#"llm_d_epp_per_endpoint_queue_size"#,
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert_eq!(page.matches("# TYPE p3sched_picks ").count(), 1);

    assert_eq!(
        json_of(running.metrics, "/api/pools").await,
        json!({"pools": ["models/chat", "models/code"]})
    );
    for (path, endpoints, picks) in
        [("/api", 1, 1), ("/api/pools/models/chat", 1, 1), ("/api/pools/models/code", 2, 3)]
    {
        let shown = json_of(running.metrics, &format!("{path}/endpoints")).await;
        assert_eq!(shown["endpoints"].as_array().unwrap().len(), endpoints, "{path}");
        assert_eq!(
            json_of(running.metrics, &format!("{path}/decisions")).await["last_sequence"],
            picks,
            "{path}"
        );
    }
    assert_eq!(json_of(running.metrics, "/api/pools/nobody/endpoints").await["code"], "NotFound");
}

#[tokio::test]
async fn each_pool_keeps_its_own_state() {
    let name = format!("pools-{}", std::process::id());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let state = format!("--state-file={}", folder.join("state").display());
    let running = start(&[&state]).await;
    destination(&running, &[(":authority", "code.example.com")]).await;
    running.stop.send(()).unwrap();
    running.task.await.unwrap().unwrap();
    let files: Vec<u64> =
        ["state", "state.models.code"].map(|file| fs::metadata(folder.join(file)).unwrap().len()).to_vec();
    assert!(files[0] < files[1], "{files:?}");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn pools_of_kubernetes_are_named_on_the_command_line() {
    let settings = support::settings(&["--pool=models/chat=chat.example.com,*.chat", "--pool", "code"]);
    let pools = settings.pools();
    let named: Vec<_> = pools.iter().map(|pool| (pool.name.as_str(), pool.authorities.join(" "))).collect();
    assert_eq!(named, [("models/chat", "chat.example.com *.chat".to_owned()), ("code", String::new())]);
    let sources: Vec<_> = pools
        .iter()
        .map(|pool| match &pool.endpoints {
            EndpointSource::Kubernetes(source) => match &source.pods {
                PodSource::Pool { name, .. } => (source.namespace.as_str(), name.as_str()),
                PodSource::Selector { .. } => panic!("a pool"),
            },
            other => panic!("of Kubernetes: {other:?}"),
        })
        .collect();
    assert_eq!(sources[0], ("models", "chat"));
    assert_eq!(sources[1].1, "code");
    assert!(settings.needs_kubernetes());
    // What an InferencePool is used to, as for a single one.
    assert!(settings.profile.contains("InferencePool"), "{}", settings.profile);
}
