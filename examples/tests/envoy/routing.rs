//! Requests reach the replica that was picked, unchanged, in every way that gateways are configured.

use crate::stack::{Stack, WAYS, chat_body, read, text};
use futures_util::StreamExt;
use p3sched_examples::envoy::{EnvoyConfig, PickSource};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_one_prefix_share_a_replica() {
    for (config, source) in WAYS {
        let way = format!("{config:?} by {source:?}");
        let stack = Stack::start("one-prefix", config, source).await;
        stack.assert_prefixes_find_their_replicas(&way).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_body_modes_decide_the_same() {
    let mut histories = Vec::new();
    for config in [EnvoyConfig::FullDuplexOverrideHost, EnvoyConfig::BufferedOverrideHost] {
        // The first scrape is the only one, so that nothing depends on when later ones come.
        let stack = Stack::start_with("same-decisions", config, |_, picker| {
            picker.refresh_metrics_interval = Duration::from_secs(3_600);
        })
        .await;
        let mut history = Vec::new();
        for number in 0..40 {
            let prompt =
                text(&format!("tenant {}", number % 7), 100 + 30 * (number % 5)) + &number.to_string();
            history.push(stack.chat(&prompt).await.engine().to_owned());
        }
        histories.push(history);
    }
    assert_eq!(histories[0], histories[1]);
    assert_eq!(histories[0].iter().collect::<BTreeSet<_>>().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_arrive_byte_for_byte() {
    for (config, source) in WAYS {
        let stack = Stack::start("large-bodies", config, source).await;
        for megabytes in [0, 1, 10] {
            // Spaces, an integer above 2^53 and the order of keys would not survive being written anew.
            let prompt = text("long", megabytes * 250_000);
            let body = format!(r#"{{ "model":"simulated",  "seed": 9007199254740993, "prompt":"{prompt}"}}"#);
            let answer = stack.post("/simulator/echo/v1/completions", body.clone()).await;
            let way = format!("{config:?} by {source:?}, {megabytes} MB");
            assert_eq!(answer.status, 200, "{way}: {}", answer.body);
            assert_eq!(answer.header("x-body-bytes"), body.len().to_string(), "{way}");
            assert_eq!(answer.header("x-body-hash"), format!("{:016x}", xxh3_64(body.as_bytes())), "{way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_body_are_picked_too() {
    for (config, source) in WAYS {
        let stack = Stack::start("no-body", config, source).await;
        let answer = stack.get("/v1/models").await;
        assert_eq!(answer.status, 200, "{config:?} by {source:?}: {}", answer.body);
        assert!(answer.engine().starts_with("engine-"));
        assert!(answer.body.contains("simulated"));
        for method in [Method::HEAD, Method::OPTIONS] {
            let url = format!("{}/simulator/echo/v1/chat/completions", stack.envoy.url());
            let answer = read(stack.http.request(method.clone(), url)).await;
            assert_eq!(answer.status, 200, "{config:?} by {source:?}, {method}: {}", answer.body);
            assert!(answer.engine().starts_with("engine-"));
        }
        assert_eq!(stack.picker_metric("p3sched_picks_total").await, Some(3.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_read_are_passed_on() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let stack = Stack::start("unreadable-bodies", config, source).await;
        for (name, value) in
            [("content-encoding", "gzip"), ("content-type", "multipart/form-data; boundary=x")]
        {
            let body = b"\x1f\x8b not JSON".as_slice();
            let request = stack.http.post(format!("{}/simulator/echo/v1/completions", stack.envoy.url()));
            let answer = read(request.header(name, value).body(body)).await;
            assert_eq!(answer.status, 200, "{config:?}, {value}: {}", answer.body);
            assert_eq!(
                answer.header("x-body-hash"),
                format!("{:016x}", xxh3_64(body)),
                "{config:?}, {value}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_pass_as_they_are() {
    for (config, source) in WAYS {
        let stack = Stack::start("headers", config, source).await;
        let request = stack.request("/simulator/echo").header("x-twice", "a").header("x-twice", "b");
        let answer = read(request.body("{}")).await;
        let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["first=1", "second=2"], "{config:?}");
        let seen: Value = serde_json::from_str(&answer.body).unwrap();
        let twice = seen["headers"].as_array().unwrap().iter().filter(|header| header[0] == "x-twice");
        let values: Vec<_> = twice.map(|header| header[1].as_str().unwrap().to_owned()).collect();
        assert_eq!(values.join(","), "a,b", "{config:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_answers_pass_event_by_event() {
    for (config, source) in [WAYS[0], WAYS[2], WAYS[4]] {
        let stack = Stack::start("events", config, source).await;
        let mut body = chat_body(&text("stream", 200), true);
        // 0.3 ms a token at this speed: the stream lasts for a good while after its first event.
        body["max_tokens"] = 1_000.into();
        body["stream_options"] = serde_json::json!({"include_usage": true});
        let response = stack.request("/v1/chat/completions").body(body.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut chunks = response.bytes_stream();
        let mut received = Vec::new();
        let mut first = None;
        while let Some(chunk) = chunks.next().await {
            first.get_or_insert_with(Instant::now);
            received.extend_from_slice(&chunk.unwrap());
        }
        let lasted = first.unwrap().elapsed();
        assert!(lasted > Duration::from_millis(100), "{config:?}: events were held back, {lasted:?}");
        let events = String::from_utf8(received).unwrap();
        assert!(events.contains(r#""usage""#) && events.ends_with("data: [DONE]\n\n"), "{config:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_first_tokens_reach_the_scheduler() {
    let stack = Stack::start("feedback", EnvoyConfig::FullDuplexOverrideHost, PickSource::Metadata).await;
    let mut body = chat_body(&text("feedback", 600), true);
    body["stream_options"] = serde_json::json!({"include_usage": true});
    for _ in 0..2 {
        let answer = stack.post("/v1/chat/completions", body.to_string()).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(stack.picker_metric("llm_d_epp_inflight_requests").await, Some(0.0));
    assert!(stack.picker_metric("p3sched_actual_cached_tokens_total").await > Some(500.0));
    assert!(stack.picker_metric("p3sched_predicted_cached_tokens_total").await > Some(500.0));
    assert_eq!(stack.picker_metric("llm_d_epp_request_ttft_seconds_count").await, Some(2.0));
}
