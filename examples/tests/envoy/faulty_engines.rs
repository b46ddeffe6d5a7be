//! Engines that break in one way after the other, and an endpoint list that loses them all.

use crate::stack::{Stack, WAYS, chat_body, eventually, folder, http, text};
use futures_util::future::join_all;
use p3sched_examples::benchmark::usage::resident_memory;
use p3sched_examples::engine_simulator::Fault;
use std::time::Duration;

/// Requests that are sent together.
const TOGETHER: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_bad_metrics_page_is_survived_and_counted() {
    let (config, source) = WAYS[0];
    let mut stack = Stack::start("faulty-metrics", config, source).await;
    let before = resident_memory(stack.picker.process()).unwrap();
    for (fault, result) in [
        (Fault::GarbageMetrics, "invalid_page"),
        (Fault::LargeMetrics, "too_large"),
        (Fault::CutMetrics, "transport"),
        (Fault::HangMetrics, "timeout"),
    ] {
        stack.engines.iter().flatten().for_each(|engine| engine.set_fault(fault));
        let label = format!("result=\"{result}\"");
        let is_counted = async || {
            stack.picker_series("p3sched_scrapes_total", &label).await.is_some_and(|count| count > 0.0)
        };
        eventually(&format!("a scrape is counted as `{result}`"), is_counted).await;
        for number in 0..6 {
            let answer = stack.chat(&text(&format!("{result} {number}"), 50)).await;
            assert_eq!(answer.status, 200, "{fault:?}: {}", answer.body);
        }
        stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::None));
        let recovers = async || stack.picker_metric("p3sched_endpoint_reachable").await == Some(3.0);
        eventually(&format!("all engines are back after {fault:?}"), recovers).await;
        stack.assert_nothing_is_left(result).await;
    }
    let grown = resident_memory(stack.picker.process()).unwrap() - before;
    assert!(grown < 20.0, "pages that were refused are still held: {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_hang_crawl_or_die_leave_nothing_behind() {
    let (config, source) = WAYS[0];
    let mut stack = Stack::start_with("faulty-engines", config, |envoy, _| {
        (envoy.retries, envoy.pick_source) = (0, source);
    })
    .await;

    stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::Hang));
    let impatient = http(Duration::from_millis(500));
    let url = format!("{}/v1/chat/completions", stack.envoy.url());
    let body = |number: usize| chat_body(&text(&format!("hang {number}"), 50), false).to_string();
    let requests = (0..TOGETHER).map(|number| impatient.post(&url).body(body(number)).send());
    assert!(join_all(requests).await.into_iter().all(|answer| answer.unwrap_err().is_timeout()));
    stack.assert_nothing_is_left("engines that hang").await;
    assert_eq!(stack.picker_metric("p3sched_failed_requests_total").await, Some(TOGETHER as f64));

    stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::Slow));
    let prompts: Vec<_> = (0..TOGETHER).map(|number| text(&format!("slow {number}"), 50)).collect();
    let answers = join_all(prompts.iter().map(|prompt| stack.chat(prompt))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    stack.assert_nothing_is_left("slow engines").await;
    assert_eq!(stack.picker_metric("p3sched_failed_requests_total").await, Some(TOGETHER as f64));

    stack.engines.iter().flatten().for_each(|engine| engine.set_fault(Fault::None));
    let mut body = chat_body("dying", true);
    body["max_tokens"] = 10_000.into();
    let response = stack.request("/v1/chat/completions").body(body.to_string()).send().await.unwrap();
    let engine = response.headers()["x-engine-id"].to_str().unwrap().to_owned();
    let number: usize = engine.strip_prefix("engine-").unwrap().parse().unwrap();
    stack.engines[number - 1].take().unwrap().kill();
    let received = response.text().await;
    assert!(!received.is_ok_and(|text| text.ends_with("data: [DONE]\n\n")), "the answer was cut");
    stack.assert_nothing_is_left("a dead engine").await;
    assert_eq!(stack.picker_metric("p3sched_failed_requests_total").await, Some(TOGETHER as f64 + 1.0));
    let is_out = async || stack.picker_metric("p3sched_endpoint_reachable").await == Some(2.0);
    eventually("the dead engine is out", is_out).await;
    assert!(stack.picker_series("p3sched_scrapes_total", "result=\"unreachable\"").await > Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_list_that_empties_and_fills_again_cuts_no_answer() {
    let (config, source) = WAYS[0];
    let file = folder("emptied-list").join("endpoints.yaml");
    let write = |endpoints: &[String]| {
        std::fs::write(&file, serde_json::json!({"endpoints": endpoints}).to_string()).unwrap();
    };
    write(&[]);
    let stack = Stack::start_with("emptied-list", config, |envoy, picker| {
        envoy.pick_source = source;
        write(&picker.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>());
        picker.endpoints.clear();
        picker.arguments = vec![format!("--endpoints-file={}", file.display())];
    })
    .await;
    let all: Vec<_> = stack.engines.iter().flatten().map(|engine| engine.addr().to_string()).collect();
    let mut body = chat_body("long", true);
    body["max_tokens"] = 4_000.into();
    let open = stack.request("/v1/chat/completions").body(body.to_string()).send().await.unwrap();
    assert_eq!(open.status(), 200);

    write(&[]);
    let is_refused = async || stack.chat("hello").await.status == 503;
    eventually("an empty list is refused", is_refused).await;
    assert!(open.text().await.unwrap().ends_with("data: [DONE]\n\n"), "the open answer was cut");
    stack.assert_nothing_is_left("an emptied list").await;

    write(&all);
    let is_served = async || stack.chat("hello").await.status == 200;
    eventually("a filled list is served", is_served).await;
    stack.assert_nothing_is_left("a filled list").await;
    assert!(stack.picker_metric("llm_d_epp_request_error_total").await > Some(0.0));
    assert_eq!(stack.picker_metric("llm_d_epp_ready_endpoints").await, Some(3.0));
}
