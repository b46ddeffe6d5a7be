//! What is shipped for monitoring fits what is served.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpHeaders, processing_request};
use epp_server::config::EndpointSource;
use p3sched::Endpoint;

use crate::grpc::{self, CHAT, DUPLEX, Gateway, Running};
use crate::scrape;

const ANSWER: &str = r#"{"usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}"#;

/// The metrics page of a server that has served one request and refused another.
pub(crate) async fn page_after_requests() -> String {
    let (engine, _running) = scrape::engine(scrape::response("200 OK", scrape::PAGE), None).await;
    let server = grpc::start_with(&[], |settings| {
        settings.endpoints = EndpointSource::Fixed(vec![Endpoint::new(engine.to_string())]);
        settings.scheduler.prefill_tokens_per_second = Some(1_000.0);
    })
    .await;
    while !server.metrics_page().await.contains("p3sched_metrics_age_seconds{") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut gateway = serve_one(&server).await;
    let header = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = vec![header(":status", "200"), header("content-type", "text/event-stream")];
    let response = HttpHeaders { headers: Some(HeaderMap { headers }), ..HttpHeaders::default() };
    gateway.send(DUPLEX, processing_request::Request::ResponseHeaders(response)).await;
    let body = HttpBody { body: ANSWER.into(), end_of_stream: true, ..HttpBody::default() };
    gateway.send(DUPLEX, processing_request::Request::ResponseBody(body)).await;
    for _ in 0..2 {
        gateway.answer().await;
    }
    let mut refused = server.open().await;
    refused.headers(DUPLEX, false).await;
    refused.body(DUPLEX, "{", true).await;
    refused.immediate().await;
    server.metrics_page().await
}

/// A request that is picked for and waits for its response.
async fn serve_one(server: &Running) -> Gateway {
    let mut gateway = server.open().await;
    gateway.headers(DUPLEX, false).await;
    gateway.body(DUPLEX, CHAT, true).await;
    for _ in 0..2 {
        gateway.answer().await;
    }
    gateway
}

/// Names of the families on a page, with the suffixes that their series have.
fn served_names(page: &str) -> BTreeSet<String> {
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let suffixes = |kind: &str| match kind {
        "counter" => &["_total"][..],
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[""],
    };
    families
        .flat_map(|(name, kind)| suffixes(kind).iter().map(move |suffix| format!("{name}{suffix}")))
        .collect()
}

/// Names of our metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| word.starts_with("llm_d_epp_") || word.starts_with("p3sched_"))
        .collect()
}

#[tokio::test]
async fn dashboard_and_alert_rules_ask_for_metrics_that_are_served() {
    let served = served_names(&page_after_requests().await);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring");
    for file in ["dashboard.json", "alerts.yaml"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        // Texts for people name families, without suffix.
        let asked = text.lines().filter(|line| !line.trim_start().starts_with("\"description\""));
        let asked: Vec<&str> = asked.flat_map(named).collect();
        assert!(asked.len() > 20, "{file}: {asked:?}");
        for name in asked {
            let family = |served: &String| served.strip_suffix("_total") == Some(name);
            assert!(served.contains(name) || served.iter().any(family), "{file}: {name}");
        }
    }
}

#[test]
fn the_dashboard_holds_together() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{panel}");
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "two panels at {x}, {y}: {panel}");
            }
        }
        let queries = panel["targets"].as_array().map_or(0, Vec::len);
        assert!((panel["type"] == "row") != (queries > 0), "{panel}");
    }
}
