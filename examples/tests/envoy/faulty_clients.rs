//! Clients that send what nobody can read, leave early or never come to an end.

use crate::stack::{PATIENCE, Stack, WAYS, eventually, text};
use p3sched_examples::benchmark::usage::resident_memory;
use p3sched_examples::engine_simulator::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xxhash_rust::xxh3::xxh3_64;

/// Streams that are open at the same time.
const TOGETHER: usize = 500;
const BATCHES: usize = 20;

/// A request to the echo of an engine, which looks like a completion to the picker.
const ECHO: &str = "/simulator/echo/v1/completions";

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_that_are_reset_leave_nothing_behind() {
    let (config, source) = WAYS[0];
    let mut stack = Stack::start("reset-streams", config, source).await;
    stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::Hang));
    let body = crate::stack::chat_body(&text("reset", 100), false).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: ";
    let message = format!("{head}{}\r\n\r\n{body}", body.len());
    let mut memory = Vec::new();
    for batch in 0..BATCHES {
        // One batch leaves before the pick, the next one after it.
        let is_whole = batch % 2 == 1;
        let sent = if is_whole { message.len() } else { message.len() - 1 };
        let mut connections = Vec::new();
        for _ in 0..TOGETHER {
            let mut connection = TcpStream::connect(stack.envoy.addr()).await.unwrap();
            connection.write_all(&message.as_bytes()[..sent]).await.unwrap();
            connections.push(connection);
        }
        let metric =
            if is_whole { "llm_d_epp_inflight_requests" } else { "llm_d_epp_extproc_streams_inflight" };
        let are_open = async || stack.picker_metric(metric).await == Some(TOGETHER as f64);
        eventually(&format!("all streams of batch {batch} are open"), are_open).await;
        drop(connections);
        stack.assert_nothing_is_left("a reset").await;
        memory.push(resident_memory(stack.picker.process()).unwrap());
    }
    let picked = (BATCHES * TOGETHER / 2) as f64;
    assert_eq!(stack.picker_metric("p3sched_picks_total").await, Some(picked));
    assert_eq!(stack.picker_metric("p3sched_failed_requests_total").await, Some(picked));
    let grown = memory[BATCHES - 1] - memory[BATCHES / 2];
    assert!(grown < 8.0, "memory grows with every batch, MiB: {memory:?}");
    stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::None));
    assert_eq!(stack.chat("hello").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_kind_are_answered_and_leave_nothing_behind() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let stack = Stack::start("strange-bodies", config, source).await;
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"model":"simulated","prompt":"hello","extra":{open}{close}}}"#).into_bytes()
        };
        let mut refused = 0.0;
        for (what, body, status) in [
            ("malformed", br#"{"model": "simulated", "prompt": "#.to_vec(), 400),
            ("nothing", Vec::new(), 200),
            ("a list", b"[1, 2]".to_vec(), 400),
            ("nested a little", nested(50), 200),
            ("nested deeply", nested(100_000), 400),
            ("nested without an end", [b'['; 100_000].to_vec(), 400),
            ("not UTF-8", b"{\"model\":\"simulated\",\"prompt\":\"\xff\xfe\"}".to_vec(), 400),
            ("gzip that nobody names", b"\x1f\x8b\x08\x00 compressed".to_vec(), 400),
        ] {
            let answer = stack.post(ECHO, body).await;
            assert_eq!(answer.status, status, "{config:?}, {what}: {}", answer.body);
            refused += if status == 400 { 1.0 } else { 0.0 };
        }
        let url = format!("{}{ECHO}", stack.envoy.url());
        let untyped = stack.http.post(&url).body(r#"{"model":"simulated","prompt":"hello"}"#).send().await;
        assert_eq!(untyped.unwrap().status(), 200, "{config:?}: no content-type");
        assert_eq!(stack.picker_metric("llm_d_epp_request_error_total").await, Some(refused), "{config:?}");
        stack.assert_no_stream_is_left("strange bodies").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_50_megabytes_arrives_and_its_memory_comes_back() {
    let (config, source) = WAYS[0];
    let mut stack = Stack::start("huge-body", config, source).await;
    let body = format!(r#"{{"model":"simulated","prompt":"{}"}}"#, text("huge", 12_500_000));
    let hash = format!("{:016x}", xxh3_64(body.as_bytes()));
    for _ in 0..2 {
        let answer = stack.post(ECHO, body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-body-hash"), hash);
    }
    stack.assert_nothing_is_left("a huge body").await;
    // Smaller requests go on; what the huge one took is given back meanwhile.
    let mut number = 0;
    let (http, url, picker) = (stack.http.clone(), stack.envoy.url(), &mut stack.picker);
    let comes_back = async || {
        number += 1;
        let body = format!(r#"{{"model":"simulated","prompt":"small {number}"}}"#);
        assert_eq!(http.post(format!("{url}{ECHO}")).body(body).send().await.unwrap().status(), 200);
        resident_memory(picker.process()).unwrap() < 100.0
    };
    eventually("memory comes back", comes_back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_body_holds_nothing() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let stack = Stack::start_with("unfinished-body", config, |envoy, picker| {
            envoy.pick_source = source;
            picker.arguments = vec!["--pick-deadline=500ms".to_owned()];
        })
        .await;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: 1000\r\n\r\n{";
        let mut connections = Vec::new();
        for _ in 0..20 {
            let mut connection = TcpStream::connect(stack.envoy.addr()).await.unwrap();
            connection.write_all(head.as_bytes()).await.unwrap();
            connections.push(connection);
        }
        for connection in &mut connections {
            let mut answer = [0; 12];
            tokio::time::timeout(PATIENCE, connection.read_exact(&mut answer)).await.unwrap().unwrap();
            assert_eq!(&answer, b"HTTP/1.1 408", "{config:?}");
        }
        // The clients are still there.
        stack.assert_nothing_is_left("the deadline").await;
        assert_eq!(stack.picker_metric("llm_d_epp_request_error_total").await, Some(20.0), "{config:?}");
    }
}
