//! What a client writes to a model is nowhere but on its way: in no log line, metric, page or answer of the API.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProtocolConfiguration, processing_request};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::grpc::{BUFFERED, DUPLEX, Gateway, connect};

const SECRET: &str = "zebraquartz";

/// The binary with everything logged that it can log.
struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    fn start() -> Self {
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("privacy.log");
        let process = Command::new(env!("CARGO_BIN_EXE_epp-server"))
            .args(["--v=5", "--zap-encoder=json", "--log-decisions", "--emit-endpoint-scores"])
            .args([
                "--endpoints=127.0.0.1:1,127.0.0.1:2",
                "--bind-address=127.0.0.1",
                "--secure-serving=false",
            ])
            .args(["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--max-body-size=10000"])
            .args(["--config-text", "{model_rewrites: [{matches: [llama], targets: [{model: llama-8b}]}]}"])
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Ports of `ext_proc` and of metrics, once they are open.
    async fn ports(&self) -> (u16, u16) {
        for _ in 0..1_000 {
            let lines = self.log();
            let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.find(|line| line["message"] == "serving") {
                let port = |name: &str| u16::try_from(line[name].as_u64().unwrap()).unwrap();
                return (port("grpc_port"), port("metrics_port"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not serving: {}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn ask(port: u16, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn request_headers(gateway: &Gateway, config: ProtocolConfiguration, path: &str) {
    let header = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = HeaderMap { headers: vec![header(":method", "POST"), header(":path", path)] };
    let message = HttpHeaders { headers: Some(headers), ..HttpHeaders::default() };
    gateway.send(config, processing_request::Request::RequestHeaders(message)).await;
}

#[tokio::test]
async fn a_prompt_is_nowhere_but_on_its_way() {
    let server = Server::start();
    let (grpc, metrics) = server.ports().await;
    let chat = "/v1/chat/completions";
    let long = SECRET.repeat(2_000);
    let bodies = [
        (chat, format!(r#"{{"model":"llama","messages":[{{"role":"user","content":"{SECRET}"}}]}}"#)),
        (chat, format!(r#"{{"model":"llama","tools":["{SECRET}"],"messages":[{{"role":"{SECRET}"}}]}}"#)),
        (chat, format!(r#"{{"model":"llama","messages":{SECRET}"#)),
        (chat, format!(r#"{{"model":{SECRET}"#)),
        (chat, format!(r#"{{"messages":["{SECRET}"]}}"#)),
        (chat, format!(r#"{{"model":"llama","messages":["{long}"]}}"#)),
        ("/v1/completions", format!(r#"{{"model":"llama","prompt":["{SECRET}"],"user":"me"}}"#)),
        ("/v1/responses", format!(r#"{{"model":"llama","input":"{SECRET}","instructions":"{SECRET}"}}"#)),
        ("/v1/messages", format!(r#"{{"model":"llama","system":"{SECRET}","messages":[]}}"#)),
        ("/generate", format!(r#"{{"text":"{SECRET}"}}"#)),
        ("/upload", SECRET.to_owned()),
    ];
    for (path, body) in &bodies {
        for config in [DUPLEX, BUFFERED] {
            let mut gateway = Gateway::open(connect(grpc).await).await;
            request_headers(&gateway, config, path).await;
            if config == BUFFERED {
                gateway.answer().await;
            }
            gateway.body(config, body.as_str(), true).await;
            gateway.answer().await;
        }
    }
    let mut seen = ask(metrics, "POST", &format!("/api/explain?path={chat}"), &bodies[0].1).await;
    for path in ["", "metrics", "api/endpoints", "api/decisions", "api/config", "api/index", "api/history"] {
        seen += &ask(metrics, "GET", &format!("/{path}"), "").await;
    }
    for id in 1..=20 {
        seen += &ask(metrics, "GET", &format!("/api/decisions/{id}"), "").await;
    }
    assert!(seen.contains("llm_d_epp_request_total") && seen.contains("explanation"), "{seen}");
    let log = server.log();
    for message in [r#""message":"picked""#, r#""message":"refused""#, "epp_server::decision"] {
        assert!(log.contains(message), "everything is logged: {message}");
    }
    for line in seen.lines().chain(log.lines()) {
        assert!(!line.contains(SECRET), "{line}");
    }
}
