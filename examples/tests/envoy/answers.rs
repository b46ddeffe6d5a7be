//! What a client is told when its request cannot be served, and what it cannot make the gateway do.

use crate::stack::{PATIENCE, Stack, WAYS, chat_body, read, text};
use p3sched_examples::envoy::{EnvoyConfig, PickSource};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A stack whose picker has one more argument.
async fn limited(test: &str, config: EnvoyConfig, source: PickSource, argument: &str) -> Stack {
    Stack::start_with(test, config, |envoy, picker| {
        envoy.pick_source = source;
        picker.arguments = vec![argument.to_owned()];
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_told_what_is_wrong() {
    for (config, source) in WAYS {
        let stack = Stack::start("bad-request", config, source).await;
        for (body, reason) in [
            ("{\"model\": \"simulated\", \"messages\": [", "inference error: BadRequest - "),
            ("{\"messages\": []}", "`model`"),
        ] {
            let answer = stack.post("/v1/chat/completions", body).await;
            assert_eq!(answer.status, 400, "{config:?}: {}", answer.body);
            assert!(answer.body.contains(reason), "{config:?}: {}", answer.body);
        }
        assert_eq!(stack.requests_received(), 0, "{config:?}: no engine was bothered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_pool_is_a_503_with_its_reason() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let file = crate::stack::folder("empty-pool").join("endpoints.yaml");
        std::fs::write(&file, "endpoints: []\n").unwrap();
        let stack = Stack::start_with("empty-pool", config, |envoy, picker| {
            envoy.pick_source = source;
            picker.endpoints.clear();
            picker.arguments = vec![format!("--endpoints-file={}", file.display())];
        })
        .await;
        let answer = stack.chat("hello").await;
        assert_eq!(answer.status, 503, "{config:?}: {}", answer.body);
        assert!(
            answer.body.starts_with("inference error: ServiceUnavailable - no endpoints"),
            "{}",
            answer.body
        );
        assert_eq!(answer.header("x-llm-d-request-dropped-reason"), "rejected-no-endpoints");

        let address = stack.engines[0].as_ref().unwrap().addr();
        std::fs::write(&file, format!("endpoints: ['{address}']\n")).unwrap();
        let mut answer = stack.chat("hello").await;
        for _ in 0..100 {
            if answer.status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = stack.chat("hello").await;
        }
        assert_eq!(answer.engine(), "engine-1", "{config:?}: the file is read again when it changes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_a_429_with_its_reason() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let stack = limited("too-many", config, source, "--max-streams=0").await;
        let answer = stack.chat("hello").await;
        assert_eq!(answer.status, 429, "{config:?}: {}", answer.body);
        assert_eq!(answer.header("x-llm-d-request-dropped-reason"), "rejected-saturated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_a_413() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let stack = limited("too-large", config, source, "--max-body-size=100000").await;
        let answer = stack.chat(&text("large", 30_000)).await;
        assert_eq!(answer.status, 413, "{config:?}: {}", answer.body);
        assert!(answer.body.contains("`100000`"), "{}", answer.body);
        assert_eq!(stack.chat("small").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_choose_the_endpoint() {
    for (config, source) in WAYS {
        let stack = Stack::start("forged", config, source).await;
        let admin = stack.envoy.admin_url().replace("http://", "");
        for path in ["/v1/chat/completions", "/stats"] {
            let request = stack.request(path).header("x-gateway-destination-endpoint", &admin);
            let answer = read(request.body(chat_body("hello", false).to_string())).await;
            assert!(answer.engine().starts_with("engine-"), "{config:?} {path}: {}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_ends_in_trailers_is_served() {
    let stack = Stack::start("trailers", EnvoyConfig::FullDuplexOverrideHost, PickSource::Metadata).await;
    let body = chat_body("trailers", false).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\
                transfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n";
    let message = format!("{head}{:x}\r\n{body}\r\n0\r\nx-check: 1\r\n\r\n", body.len());
    let mut connection = TcpStream::connect(stack.envoy.addr()).await.unwrap();
    connection.write_all(message.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("chat.completion"), "{answer}");
}
