//! A picker that is killed and started again while requests come.

use crate::stack::{PATIENCE, Stack, WAYS, eventually, http, text};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const CLIENTS: usize = 8;

/// Answers of both kinds that one client has got.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    served: usize,
    refused: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_picker_restarts_requests_are_refused_and_never_changed() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let mut stack = Stack::start("restarted-picker", config, source).await;
        let stopped = Arc::new(AtomicBool::new(false));
        let url = format!("{}/simulator/echo/v1/completions", stack.envoy.url());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| tokio::spawn(send(url.clone(), client, Arc::clone(&stopped))))
            .collect();
        for _ in 0..2 {
            let works = async || stack.picker_metric("p3sched_picks_total").await > Some(20.0);
            eventually("the picker picks", works).await;
            stack.picker.process().kill();
            // Long enough for every client to be refused.
            tokio::time::sleep(Duration::from_millis(200)).await;
            stack.picker.restart().await.unwrap();
        }
        let works = async || stack.picker_metric("p3sched_picks_total").await > Some(20.0);
        eventually("the picker picks again", works).await;
        stopped.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.await.unwrap();
            assert!(seen.served > 0 && seen.refused > 0, "{config:?}: {seen:?}");
        }
        stack.assert_no_stream_is_left("a restart").await;
        assert_eq!(stack.chat("hello").await.status, 200, "{config:?}");
    }
}

/// Whatever is served was picked and has the body that was sent.
async fn send(url: String, client: usize, stopped: Arc<AtomicBool>) -> Seen {
    let http = http(PATIENCE);
    let mut seen = Seen::default();
    while !stopped.load(Ordering::Relaxed) {
        let prompt = text(&format!("client {client}, request {}", seen.served), 500);
        let body = format!(r#"{{"model":"simulated","prompt":"{prompt}"}}"#);
        let hash = format!("{:016x}", xxh3_64(body.as_bytes()));
        let answer = http.post(&url).body(body).send().await.unwrap();
        if answer.status() == 200 {
            assert_eq!(answer.headers()["x-body-hash"], hash.as_str(), "another body was served");
            seen.served += 1;
        } else {
            assert!(answer.status().is_server_error(), "{}", answer.status());
            seen.refused += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    seen
}
