//! The dynamic module `p3sched_envoy` picks inside a real Envoy, in every version and in every way it can be told.

use crate::module_stack::ModuleStack;
use crate::stack::{PATIENCE, chat_body, folder, http, read, text};
use futures_util::StreamExt;
use p3sched_examples::engine_simulator::Fault;
use p3sched_examples::envoy::{EnvoyOptions, EnvoyVersion, PickSource};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

const MODULE: &str = "p3sched_envoy";

const VERSIONS: [EnvoyVersion; 3] = [EnvoyVersion::V1_38, EnvoyVersion::V1_39, EnvoyVersion::V1_40];

/// How Envoy is told the host, and the name of that in the module's configuration.
const WAYS: [(PickSource, &str); 3] = [
    (PickSource::OverrideApi, "override-host"),
    (PickSource::Header, "header"),
    (PickSource::Metadata, "metadata"),
];

/// A configuration with the engines as endpoints and a scrape every 50 ms, and what a test adds.
fn config(addresses: &[SocketAddr], added: &Value) -> String {
    let mut config = json!({
        "endpoints": addresses,
        "scrape": {"cluster": "metrics", "period_seconds": 0.05},
        "failure_mode": "fail-closed",
    });
    config.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
    config.to_string()
}

async fn start(test: &str, added: Value, change: impl FnOnce(&mut EnvoyOptions)) -> ModuleStack {
    ModuleStack::start(test, MODULE, |addresses| config(addresses, &added), change).await.unwrap()
}

/// Waits until a counter is there and not 0.
async fn wait_for_stat(stack: &ModuleStack, name: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Scrapes are counted with the next request.
        stack.get("/v1/models").await;
        match stack.stat(name).await {
            Some(count) if count > 0 => return count,
            _ => assert!(Instant::now() < deadline, "nothing was counted: {name}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_and_every_way_to_tell_the_host_works() {
    for version in VERSIONS {
        for (source, pick_to) in WAYS {
            let way = format!("{version:?}, {pick_to}");
            let stack = start("module-versions", json!({"pick_to": pick_to}), |options| {
                (options.version, options.pick_source) = (version, source);
            })
            .await;
            stack.assert_prefixes_find_their_replicas(&way).await;
            assert_eq!(stack.get("/v1/models").await.status, 200, "{way}");
            assert_eq!(stack.post("/v1/chat/completions", "{").await.status, 400, "{way}");
            assert_eq!(stack.stat("p3sched.picks").await, Some(16), "{way}");
            assert!(stack.stat("p3sched.matched_tokens").await > Some(2_000), "{way}");
            wait_for_stat(&stack, "p3sched.scrapes_succeeded").await;
            assert_eq!(stack.stat("p3sched.served_elsewhere").await, Some(0), "{way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_in_its_folder_works_in_every_version() {
    let shipped = include_str!("../../../bindings-c/envoy/envoy.yaml");
    for version in VERSIONS {
        let stack = ModuleStack::start_with("module-shipped", MODULE, version, |listen, admin, engines| {
            let ports = [10_000, 9_901, 8_001, 8_002, 8_003];
            let engines = engines.iter().map(SocketAddr::port);
            let used = [listen, admin].into_iter().chain(engines);
            ports.iter().zip(used).fold(shipped.to_owned(), |text, (port, used)| {
                text.replace(&format!("port_value: {port} "), &format!("port_value: {used} "))
            })
        })
        .await
        .unwrap();
        // The first requests may come before the hosts of the cluster are known.
        wait_for_stat(&stack, "p3sched.picks").await;
        stack.assert_prefixes_find_their_replicas(&format!("{version:?}")).await;
        wait_for_stat(&stack, "p3sched.scrapes_succeeded").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_arrive_byte_for_byte() {
    let stack = start("module-bodies", json!({}), |_| {}).await;
    for megabytes in [0, 1, 10] {
        let prompt = text("long", megabytes * 250_000);
        let body = format!(r#"{{ "model":"simulated",  "seed": 9007199254740993, "prompt":"{prompt}"}}"#);
        let answer = stack.post("/simulator/echo/v1/completions", body.clone()).await;
        assert_eq!(answer.status, 200, "{megabytes} MB: {}", answer.body);
        assert_eq!(answer.header("x-body-bytes"), body.len().to_string(), "{megabytes} MB");
        assert_eq!(
            answer.header("x-body-hash"),
            format!("{:016x}", xxh3_64(body.as_bytes())),
            "{megabytes} MB"
        );
    }
    // The whole body was read: its length shows in the estimate of its tokens.
    assert!(stack.stat("p3sched.prompt_tokens").await > Some(2_500_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_http2_without_tls_are_picked() {
    let stack = start("module-h2c", json!({}), |_| {}).await;
    let client =
        reqwest::Client::builder().no_proxy().timeout(PATIENCE).http2_prior_knowledge().build().unwrap();
    let url = format!("{}/v1/chat/completions", stack.envoy.url());
    let mut homes = BTreeSet::new();
    for turn in 0..4 {
        let body = chat_body(&(text("h2", 300) + &turn.to_string()), false).to_string();
        let answer = read(client.post(&url).body(body)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        homes.insert(answer.engine().to_owned());
    }
    assert_eq!(homes.len(), 1, "{homes:?}");
    assert_eq!(stack.stat("p3sched.picks").await, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_answers_pass_event_by_event_and_are_read() {
    let stack = start("module-events", json!({}), |_| {}).await;
    let mut body = chat_body(&text("stream", 600), true);
    body["max_tokens"] = 1_000.into();
    body["stream_options"] = json!({"include_usage": true});
    for _ in 0..2 {
        let response = stack.request("/v1/chat/completions").body(body.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut chunks = response.bytes_stream();
        let (mut received, mut first) = (Vec::new(), None);
        while let Some(chunk) = chunks.next().await {
            first.get_or_insert_with(Instant::now);
            received.extend_from_slice(&chunk.unwrap());
        }
        let lasted = first.unwrap().elapsed();
        assert!(lasted > Duration::from_millis(100), "events were held back, {lasted:?}");
        assert!(received.ends_with(b"data: [DONE]\n\n"));
    }
    assert!(
        stack.stat("p3sched.cached_tokens").await > Some(500),
        "the second one found the first one's prefix"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_read_are_passed_on() {
    let stack = start("module-unreadable", json!({}), |_| {}).await;
    for (name, value) in [("content-encoding", "gzip"), ("content-type", "multipart/form-data; boundary=x")] {
        let body = b"\x1f\x8b not JSON".as_slice();
        let request = stack.http.post(format!("{}/simulator/echo/v1/completions", stack.envoy.url()));
        let answer = read(request.header(name, value).body(body)).await;
        assert_eq!(answer.status, 200, "{value}: {}", answer.body);
        assert_eq!(answer.header("x-body-hash"), format!("{:016x}", xxh3_64(body)), "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_choose_the_endpoint() {
    for (source, pick_to) in WAYS {
        let stack =
            start("module-forged", json!({"pick_to": pick_to}), |options| options.pick_source = source).await;
        let admin = stack.envoy.admin_url().replace("http://", "");
        for path in ["/v1/chat/completions", "/stats"] {
            let request = stack.request(path).header("x-gateway-destination-endpoint", &admin);
            let answer = read(request.body(chat_body("hello", false).to_string())).await;
            assert!(answer.engine().starts_with("engine-"), "{pick_to} {path}: {}", answer.body);
        }
        let request = stack.request("/simulator/echo").header("x-gateway-destination-endpoint", &admin);
        let seen = read(request.body("{}")).await.body;
        assert!(!seen.contains(&admin), "{pick_to}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_told_what_is_wrong() {
    let stack = start("module-refusals", json!({"max_body_bytes": 100_000}), |_| {}).await;
    for (body, status, reason) in [
        ("{\"model\": \"simulated\", \"messages\": [".to_owned(), 400, "inference error: BadRequest - "),
        ("{\"messages\": []}".to_owned(), 400, "`model`"),
        (chat_body(&text("large", 30_000), false).to_string(), 413, "`100000`"),
    ] {
        let answer = stack.post("/v1/chat/completions", body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(reason), "{}", answer.body);
        assert_eq!(answer.header("content-type"), "text/plain");
    }
    let chunks = (0..30).map(|_| Ok::<_, std::io::Error>(vec![b' '; 10_000]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    assert_eq!(stack.post("/v1/chat/completions", body).await.status, 413, "the length was not announced");
    assert!(stack.engines.iter().flatten().all(|engine| engine.requests_received() == 0));
    assert_eq!(stack.chat("small").await.status, 200);
    assert_eq!(stack.stat("p3sched.refused_bad_request").await, Some(2));
    assert_eq!(stack.stat("p3sched.refused_too_large").await, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_requests_fail_or_pass_as_configured() {
    for (mode, status) in [("fail-closed", 503), ("fail-open", 200)] {
        let stack = start("module-empty", json!({"endpoints": [], "failure_mode": mode}), |_| {}).await;
        let answer = stack.chat("hello").await;
        assert_eq!(answer.status, status, "{mode}: {}", answer.body);
        if status == 503 {
            assert!(answer.body.starts_with("inference error: ServiceUnavailable - no endpoints"));
            assert_eq!(answer.header("x-llm-d-request-dropped-reason"), "rejected-no-endpoints");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_is_avoided_after_the_next_scrape() {
    for version in VERSIONS {
        let mut stack = start("module-dead-replica", json!({}), |options| {
            (options.retries, options.version) = (0, version);
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
            assert_eq!(answer.status, 200, "{version:?}, request {number}: {}", answer.body);
            assert_ne!(answer.engine(), home);
        }
        assert!(stack.stat("p3sched.scrapes_failed").await > Some(0), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_retries_nobody_notices_a_dying_replica() {
    let mut stack = start("module-dying-replica", json!({}), |_| {}).await;
    stack.assert_nobody_notices_a_dying_replica().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_served_in_place_of_the_picked_one_is_known_in_every_version() {
    for version in VERSIONS {
        // Never scraped, so that the dead replica is still picked.
        let mut stack = start("module-served-elsewhere", json!({"scrape": null}), |options| {
            options.version = version;
        })
        .await;
        let home = stack.chat(&text("home", 300)).await.engine().to_owned();
        let number: usize = home.strip_prefix("engine-").unwrap().parse().unwrap();
        stack.engines[number - 1].take().unwrap().kill();
        assert_ne!(stack.chat(&text("home", 300)).await.engine(), home);
        assert_eq!(stack.stat("p3sched.served_elsewhere").await, Some(1), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_or_missing_metrics_do_not_stop_requests() {
    for fault in [Fault::GarbageMetrics, Fault::HangMetrics] {
        let stack = start("module-bad-metrics", json!({}), |_| {}).await;
        stack.engines.iter().flatten().for_each(|engine| engine.set_fault(fault));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut homes = BTreeSet::new();
        for number in 0..5 {
            let answer = stack.chat(&format!("{}{number}", text("shared", 300))).await;
            assert_eq!(answer.status, 200, "{fault:?}: {}", answer.body);
            homes.insert(answer.engine().to_owned());
        }
        assert_eq!(homes.len(), 1, "{fault:?}: prefixes still find their replica");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_request() {
    let stack = start("module-leaving-client", json!({}), |_| {}).await;
    stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::Hang));
    let url = format!("{}/v1/chat/completions", stack.envoy.url());
    let body = chat_body("hello", false).to_string();
    let impatient = http(Duration::from_millis(300));
    assert!(impatient.post(url).body(body).send().await.unwrap_err().is_timeout());
    let deadline = Instant::now() + PATIENCE;
    while stack.stat("p3sched.failed").await != Some(1) {
        assert!(Instant::now() < deadline, "the request was not ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_the_hosts_of_a_cluster() {
    for version in VERSIONS {
        let added = json!({
            "endpoints": null,
            "cluster": {"name": "pool", "admin_cluster": "admin", "period_seconds": 0.05},
        });
        let stack = start("module-cluster", added, |options| options.version = version).await;
        wait_for_stat(&stack, "p3sched.picks").await;
        stack.assert_prefixes_find_their_replicas(&format!("{version:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_explained_in_the_access_log() {
    let log = folder("module-explanation").join("access.log");
    // What an earlier run wrote.
    let _ = std::fs::remove_file(&log);
    let stack = start("module-explanation", json!({"explanation": true}), |options| {
        options.access_log = Some(log.clone());
    })
    .await;
    let answer = stack.chat(&text("explain", 100)).await;
    let deadline = Instant::now() + PATIENCE;
    let line = loop {
        match std::fs::read_to_string(&log) {
            Ok(text) if text.ends_with('\n') => break text,
            _ => assert!(Instant::now() < deadline, "nothing was logged"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let metadata: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(metadata["endpoint"], answer.header("x-served-by"));
    assert!(metadata["prompt_tokens"].as_f64() > Some(90.0), "{metadata}");
    let explanation: Value = serde_json::from_str(metadata["explanation"].as_str().unwrap()).unwrap();
    assert_eq!(explanation["endpoints"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_survived_in_every_version() {
    for version in VERSIONS {
        for (mode, status) in [("fail-closed", 500), ("fail-open", 200)] {
            let stack =
                start("module-panic", json!({"failure_mode": mode}), |options| options.version = version)
                    .await;
            for path in ["/v1/models", "/v1/chat/completions"] {
                let request = stack.request(path).header("x-p3sched-panic", "1");
                let request = if path == "/v1/models" {
                    stack.http.get(format!("{}{path}", stack.envoy.url())).header("x-p3sched-panic", "1")
                } else {
                    request.body(chat_body("hello", false).to_string())
                };
                let answer = read(request).await;
                assert_eq!(answer.status, status, "{version:?}, {mode}, {path}: {}", answer.body);
            }
            assert_eq!(stack.chat("hello").await.status, 200, "{version:?}, {mode}: Envoy lives");
            assert_eq!(stack.stat("p3sched.panics").await, Some(2), "{version:?}, {mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_refused_with_its_reason() {
    for version in VERSIONS {
        for (added, reason) in [
            (json!({"schedular": {}}), "unknown field `schedular`"),
            (
                json!({"endpoints": ["engine:8000"]}),
                "endpoint must be ip:port, with IPv6 in brackets: `engine:8000`",
            ),
            (json!({"scheduler": {"scorers": [{"type": "quue-scorer"}]}}), "did you mean `queue-scorer`?"),
        ] {
            let refused = ModuleStack::start(
                "module-bad-configuration",
                MODULE,
                |addresses| config(addresses, &added),
                |options| options.version = version,
            )
            .await;
            let error = refused.err().unwrap().to_string();
            assert!(error.contains("Envoy ended while starting"), "{version:?}: {error}");
            assert!(error.contains(reason), "{version:?}: {error}");
        }
    }
}
