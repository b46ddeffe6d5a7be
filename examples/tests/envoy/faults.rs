//! What breaks, and what the client sees of it.

use crate::stack::{PATIENCE, Stack, WAYS, addresses, chat_body, engines, folder, http, text};
use p3sched_examples::engine_simulator::{EngineSimulator, Fault};
use p3sched_examples::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use p3sched_examples::process::free_ports;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

/// Envoy in front of engines, with whatever is at `picker`.
async fn with_picker_at(
    test: &str,
    picker: SocketAddr,
    config: EnvoyConfig,
    allow: bool,
) -> (Vec<EngineSimulator>, Envoy) {
    let engines = engines();
    let mut options = EnvoyOptions::new(config, addresses(&engines), picker);
    (options.failure_mode_allow, options.message_timeout) = (allow, 1);
    (engines, Envoy::start(&options, &folder(test)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_picker_requests_fail_or_pass_as_configured() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_ports(1).unwrap()[0]));
    // What running Envoy does: fail-open does not reach requests with a body in full duplex.
    for (config, allow, get, post) in [
        (EnvoyConfig::BufferedOverrideHost, false, 500, 500),
        (EnvoyConfig::BufferedOverrideHost, true, 200, 200),
        (EnvoyConfig::FullDuplexOverrideHost, false, 500, 500),
        (EnvoyConfig::FullDuplexOverrideHost, true, 200, 500),
    ] {
        let (_engines, envoy) = with_picker_at("no-picker", nobody, config, allow).await;
        let http = http(PATIENCE);
        let answer = http.get(format!("{}/v1/models", envoy.url())).send().await.unwrap();
        assert_eq!(answer.status(), get, "GET, {config:?}, fail-open {allow}");
        let url = format!("{}/v1/chat/completions", envoy.url());
        let answer = http.post(url).body(chat_body("hello", false).to_string()).send().await.unwrap();
        assert_eq!(answer.status(), post, "POST, {config:?}, fail-open {allow}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_picker_is_cut_off_where_envoy_has_a_limit() {
    // Accepts connections in its backlog and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = EnvoyConfig::BufferedOverrideHost;
    let (engines, envoy) =
        with_picker_at("hanging-picker", silent.local_addr().unwrap(), config, false).await;
    let url = format!("{}/v1/chat/completions", envoy.url());
    let answer = http(PATIENCE).post(url).body(chat_body("hello", false).to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 504);
    assert!(engines.iter().all(|engine| engine.requests_received() == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_is_avoided_after_the_next_scrape() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let mut stack = Stack::start_with("dead-replica", config, |envoy, _| {
            (envoy.retries, envoy.pick_source) = (0, source);
        })
        .await;
        let prompt = text("home", 300);
        let home = stack.chat(&prompt).await.engine().to_owned();
        let number: usize = home.strip_prefix("engine-").unwrap().parse().unwrap();
        stack.engines[number - 1].take().unwrap().kill();
        // Several scrape intervals of 50 ms.
        tokio::time::sleep(Duration::from_millis(500)).await;
        for number in 0..12 {
            let answer = stack.chat(&format!("{prompt}{number}")).await;
            assert_eq!(answer.status, 200, "{config:?}, request {number}: {}", answer.body);
            assert_ne!(answer.engine(), home);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_retries_nobody_notices_a_dying_replica() {
    let (config, source) = WAYS[0];
    let mut stack = Stack::start("dying-replica", config, source).await;
    stack.assert_nobody_notices_a_dying_replica().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_or_missing_metrics_do_not_stop_requests() {
    for fault in [Fault::GarbageMetrics, Fault::HangMetrics] {
        let (config, source) = WAYS[0];
        let stack = Stack::start("bad-metrics", config, source).await;
        stack.engines.iter().flatten().for_each(|engine| engine.set_fault(fault));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let prompt = text("shared", 300);
        let mut homes = BTreeSet::new();
        for number in 0..5 {
            let answer = stack.chat(&format!("{prompt}{number}")).await;
            assert_eq!(answer.status, 200, "{fault:?}: {}", answer.body);
            homes.insert(answer.engine().to_owned());
        }
        assert_eq!(homes.len(), 1, "{fault:?}: prefixes still find their replica");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_gives_its_booking_back() {
    let (config, source) = WAYS[0];
    let stack = Stack::start("leaving-client", config, source).await;
    stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::Hang));
    let impatient = http(Duration::from_millis(300));
    let url = format!("{}/v1/chat/completions", stack.envoy.url());
    let body = chat_body("hello", false).to_string();
    assert!(impatient.post(url).body(body).send().await.unwrap_err().is_timeout());
    let mut in_flight = None;
    for _ in 0..100 {
        in_flight = stack.picker_metric("llm_d_epp_inflight_requests").await;
        if in_flight == Some(0.0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(in_flight, Some(0.0));
    assert_eq!(stack.picker_metric("p3sched_picks_total").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_picker_finishes_its_streams() {
    let (config, source) = WAYS[0];
    let mut stack = Stack::start("drain", config, source).await;
    let mut body = chat_body("drain", true);
    body["max_tokens"] = 3_000.into();
    let response = stack.request("/v1/chat/completions").body(body.to_string()).send().await.unwrap();
    let ending = stack.picker.process().terminate(PATIENCE);
    let (answer, ()) = tokio::join!(response.text(), ending);
    assert!(answer.unwrap().ends_with("data: [DONE]\n\n"));
    assert!(!stack.picker.process().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn running_answers_outlive_a_picker_that_has_no_time_to_drain() {
    for (config, source) in WAYS {
        let mut stack = Stack::start_with("no-drain", config, |envoy, picker| {
            envoy.pick_source = source;
            picker.arguments.push("--drain-timeout=0".to_owned());
        })
        .await;
        let mut body = chat_body("drain", true);
        body["max_tokens"] = 3_000.into();
        let mut response = stack.request("/v1/chat/completions").body(body.to_string()).send().await.unwrap();
        let mut answer = response.chunk().await.unwrap().unwrap().to_vec();
        stack.picker.process().terminate(PATIENCE).await;
        assert!(!stack.picker.process().is_running());
        assert!(!answer.ends_with(b"data: [DONE]\n\n"), "{config:?}");
        while let Some(chunk) = response.chunk().await.unwrap() {
            answer.extend(chunk);
        }
        assert!(answer.ends_with(b"data: [DONE]\n\n"), "{config:?} {source:?}");
    }
}
