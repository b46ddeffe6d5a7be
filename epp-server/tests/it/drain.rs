//! What becomes of the streams that are open when the server is told to stop.

use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpHeaders, processing_request};

use crate::grpc::{self, BUFFERED, CHAT, DUPLEX, Gateway, Running};
use crate::support;

/// A stream whose request was picked for and whose response is on its way.
async fn answered_in_part(server: &Running) -> Gateway {
    let mut gateway = server.open().await;
    gateway.headers(DUPLEX, false).await;
    gateway.body(DUPLEX, CHAT, true).await;
    for _ in 0..2 {
        gateway.answer().await;
    }
    gateway.send(DUPLEX, processing_request::Request::ResponseHeaders(HttpHeaders::default())).await;
    gateway.answer().await;
    response_chunk(&mut gateway, false).await;
    gateway
}

async fn response_chunk(gateway: &mut Gateway, end_of_stream: bool) {
    let body = HttpBody { body: b"data: x\n\n".to_vec(), end_of_stream, ..HttpBody::default() };
    gateway.send(DUPLEX, processing_request::Request::ResponseBody(body)).await;
    gateway.answer().await;
}

/// The stream ends without an error.
async fn ends_well(mut gateway: Gateway) {
    let end = tokio::time::timeout(Duration::from_secs(5), gateway.answers.message()).await;
    assert!(matches!(end, Ok(Ok(None))), "{end:?}");
}

#[tokio::test]
async fn running_streams_are_finished_and_the_server_ends_after_them() {
    let server = grpc::start(&["--drain-timeout=1m"]).await;
    let mut gateway = answered_in_part(&server).await;
    let late = server.open().await;
    let Running { stop, task, .. } = server;
    stop.send(()).unwrap();
    response_chunk(&mut gateway, false).await;
    late.headers(DUPLEX, false).await;
    response_chunk(&mut gateway, true).await;
    assert!(!task.is_finished());
    drop((gateway, late));
    tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn without_time_to_drain_open_streams_are_left_to_the_gateway_or_refused() {
    for timeout in ["--drain-timeout=0", "--drain-timeout=100ms"] {
        let server = grpc::start(&[timeout]).await;
        let picked = answered_in_part(&server).await;
        let mut waiting = server.open().await;
        waiting.headers(DUPLEX, false).await;
        let mut gathering = server.open().await;
        gathering.headers(BUFFERED, false).await;
        gathering.answer().await;
        let page = async || server.metrics_page().await;
        let mut open = page().await;
        while !open.contains("llm_d_epp_extproc_streams_inflight 3\n") {
            open = page().await;
        }
        let Running { stop, task, .. } = server;
        stop.send(()).unwrap();
        for gateway in [&mut waiting, &mut gathering] {
            let refused = gateway.immediate().await;
            assert_eq!(refused.status.unwrap().code, 503);
            assert!(String::from_utf8(refused.body).unwrap().contains("shutting down"));
        }
        for gateway in [picked, waiting, gathering] {
            ends_well(gateway).await;
        }
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_gateway_that_does_not_let_go_is_cut() {
    let server = grpc::start(&["--drain-timeout=0"]).await;
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", server.grpc)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut silent, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let Running { stop, task, .. } = server;
    stop.send(()).unwrap();
    support::eventually("the server ends", || task.is_finished()).await;
}
