//! Prefill and decode on different endpoints, through the whole server.

use envoy_types::pb::envoy::service::ext_proc::v3::{HeaderMutation, processing_response};
use epp_server::config::{EndpointSource, Settings};
use p3sched::{Endpoint, gateway};

use crate::grpc::{self, DUPLEX, Running, destination};

const CONFIGURATION: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 64}}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: prefix-based-pd-decider}}}
- type: decode-filter
- type: prefill-filter
- type: queue-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: prefix-cache-scorer}, {pluginRef: queue-scorer}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer}]}
";

const DECODE: (&str, &str) = ("10.0.0.1:8000", "decode");
const PREFILL: (&str, &str) = ("10.0.0.2:8000", "prefill");

async fn start_with(endpoints: &[(&str, &str)]) -> Running {
    let labelled = |(name, role): &(&str, &str)| {
        let mut endpoint = Endpoint::new(*name);
        endpoint.labels.insert("llm-d.ai/role".to_owned(), (*role).to_owned());
        endpoint
    };
    let endpoints = endpoints.iter().map(labelled).collect();
    let change = |settings: &mut Settings| settings.endpoints = EndpointSource::Fixed(endpoints);
    grpc::start_with(&["--config-text", CONFIGURATION], change).await
}

/// The pick for one request, and the endpoint for its prefill.
async fn pick(running: &Running, prompt: &str) -> (String, Option<String>) {
    let mut gateway = running.open().await;
    gateway.headers(DUPLEX, false).await;
    let body = format!(r#"{{"model":"llama","messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
    gateway.body(DUPLEX, body, true).await;
    let answer = gateway.answer().await;
    let Some(processing_response::Response::RequestHeaders(headers)) = &answer.response else {
        panic!("the headers first: {answer:?}");
    };
    let mutation = headers.response.as_ref().unwrap().header_mutation.as_ref().unwrap();
    (destination(&answer).0, prefiller(mutation))
}

/// Both headers say the same.
fn prefiller(mutation: &HeaderMutation) -> Option<String> {
    let values = [gateway::PREFILLER, gateway::OLD_PREFILLER].map(|name| {
        let headers = mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
        let mut values = headers.filter(|header| header.key == name).map(|header| header.raw_value.clone());
        values.next().map(|value| String::from_utf8(value).unwrap())
    });
    assert_eq!(values[0], values[1]);
    values.into_iter().next().flatten()
}

#[tokio::test]
async fn the_decode_endpoint_is_told_who_does_the_prefill() {
    let running = start_with(&[DECODE, PREFILL]).await;
    let (decode, prefill) = ("10.0.0.1:8000".to_owned(), "10.0.0.2:8000".to_owned());
    let long = "How does rain form? ".repeat(100);
    assert_eq!(pick(&running, &long).await, (decode.clone(), Some(prefill)));
    assert_eq!(pick(&running, &long).await, (decode.clone(), None), "the decode endpoint holds it now");
    assert_eq!(pick(&running, "What is rain?").await, (decode, None), "too short");

    let page = running.metrics_page().await;
    let labels = |decision: &str| {
        format!(
            "llm_d_epp_disagg_decision_total{{plugin_name=\"disagg-profile-handler\",\
             plugin_type=\"disagg-profile-handler\",model_name=\"llama\",decision_type=\"{decision}\"}}"
        )
    };
    for line in [
        format!("{} 1\n", labels("prefill-decode")),
        format!("{} 2\n", labels("decode-only")),
        "p3sched_prefill_unavailable_total 0\n".to_owned(),
        "p3sched_picks_total 3\n".to_owned(),
        "llm_d_epp_ready_endpoints{name=\"\"} 2.0\n".to_owned(),
    ] {
        assert!(page.contains(&line), "{line}{page}");
    }
    let decisions = running.get("/api/decisions").await;
    assert!(decisions.contains(r#""prefill_endpoint":"10.0.0.2:8000""#), "{decisions}");
    let config = running.get("/api/config").await;
    assert!(config.contains("lacks 64 tokens or more"), "{config}");
    let decision = running.get("/api/decisions/1").await;
    assert!(decision.contains(r#""prefill":{"id":1,"endpoint":"10.0.0.2:8000""#), "{decision}");
}

#[tokio::test]
async fn without_an_endpoint_for_prefill_requests_are_served_alone() {
    let running = start_with(&[DECODE]).await;
    assert_eq!(pick(&running, &"rain ".repeat(400)).await, ("10.0.0.1:8000".to_owned(), None));
    assert!(running.metrics_page().await.contains("p3sched_prefill_unavailable_total 1\n"));
}
