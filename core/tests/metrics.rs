//! Metrics pages of real engines and the traps in them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use p3sched::{Endpoint, EndpointMetrics, Error, Scheduler};
use proptest::prelude::*;
use serde::Deserialize;

/// A written page with what it says, or the error it gives.
#[derive(Deserialize)]
struct Page {
    name: String,
    page: String,
    metrics: Option<EndpointMetrics>,
    error: Option<String>,
}

const CAPTURES: [(&str, &str); 10] = [
    ("llamacpp-under-load.txt", include_str!("../testdata/metrics/llamacpp-under-load.txt")),
    ("sglang-0.5.23-idle.txt", include_str!("../testdata/metrics/sglang-0.5.23-idle.txt")),
    ("sglang-0.5.23-under-load.txt", include_str!("../testdata/metrics/sglang-0.5.23-under-load.txt")),
    ("vllm-0.13-idle.txt", include_str!("../testdata/metrics/vllm-0.13-idle.txt")),
    ("vllm-0.13-under-load.txt", include_str!("../testdata/metrics/vllm-0.13-under-load.txt")),
    ("vllm-0.32-data-parallel-2.txt", include_str!("../testdata/metrics/vllm-0.32-data-parallel-2.txt")),
    ("vllm-0.32-idle.txt", include_str!("../testdata/metrics/vllm-0.32-idle.txt")),
    ("vllm-0.32-lora-after.txt", include_str!("../testdata/metrics/vllm-0.32-lora-after.txt")),
    ("vllm-0.32-lora-under-load.txt", include_str!("../testdata/metrics/vllm-0.32-lora-under-load.txt")),
    ("vllm-0.32-under-load.txt", include_str!("../testdata/metrics/vllm-0.32-under-load.txt")),
];

#[test]
fn captures_hold_what_an_independent_parser_finds() {
    let expected = include_str!("../testdata/metrics/expected.json");
    let expected: BTreeMap<String, EndpointMetrics> = serde_json::from_str(expected).unwrap();
    assert_eq!(expected.len(), CAPTURES.len());
    for (name, page) in CAPTURES {
        assert_eq!(EndpointMetrics::from_page(page).unwrap(), expected[name], "{name}");
    }
}

#[test]
fn written_pages() {
    let pages: Vec<Page> = serde_json::from_str(include_str!("../testdata/metrics/pages.json")).unwrap();
    assert!(pages.len() > 10);
    for page in pages {
        match (EndpointMetrics::from_page(&page.page), page.metrics, page.error) {
            (Ok(metrics), Some(expected), None) => assert_eq!(metrics, expected, "{}", page.name),
            (Err(error), None, Some(expected)) => {
                assert_eq!(error.code(), "InvalidMetrics");
                assert_eq!(error.to_string(), format!("invalid metrics: {expected}"), "{}", page.name);
            }
            (result, ..) => panic!("{}: {result:?}", page.name),
        }
    }
}

/// What a scheduler with this configuration reads from a page.
fn read(config: &str, page: &str) -> Result<[Option<f64>; 3], Error> {
    let scheduler = Scheduler::new(serde_norway::from_str(config).unwrap()).unwrap();
    scheduler.add_endpoint(Endpoint::new("a:1")).unwrap();
    scheduler.ingest_metrics("a:1", page.as_bytes(), 0)?;
    let read = scheduler.stats(0).endpoints.remove(0);
    Ok([read.waiting_requests, read.running_requests, read.kv_cache_utilization])
}

#[test]
fn a_named_engine_is_the_only_one_that_counts() {
    let page = "vllm:num_requests_waiting 3\nsglang:num_queue_reqs 5\n";
    assert_eq!(read("{}", page).unwrap(), [Some(8.0), None, None]);
    assert_eq!(read("metrics: {engine: vllm}", page).unwrap(), [Some(3.0), None, None]);
    assert_eq!(read("metrics: {engine: sglang}", page).unwrap(), [Some(5.0), None, None]);
    let error = read("metrics: {engine: llama-cpp}", page).unwrap_err().to_string();
    assert!(error.contains("expected one of `llamacpp:requests_deferred`: `vllm:num_"), "{error}");
}

#[test]
fn names_from_the_configuration_take_the_place_of_the_engines() {
    let page = "vllm:num_requests_waiting 3\nvllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.5\n\
                own_total 9\nown{state=\"queued\",pool=\"a\"} 7\nown{state=\"active\",pool=\"a\"} 8\n";
    let names = r#"metrics: {names: {waiting_requests: 'own{state=queued}', running_requests: 'own{state="active", pool="a"}'}}"#;
    assert_eq!(read(names, page).unwrap(), [Some(7.0), Some(8.0), Some(0.5)]);
    let absent = "metrics: {names: {waiting_requests: 'own{state=lost}'}}";
    assert_eq!(read(absent, page).unwrap(), [None, Some(4.0), Some(0.5)]);
    let error = read(absent, "nothing 1").unwrap_err().to_string();
    assert!(error.contains("expected one of `own`, `vllm:num_requests_waiting`"), "{error}");
}

proptest! {
    /// Whatever is wrong with a page, it is an error or a reading, never a panic.
    #[test]
    fn damaged_pages(capture in 0..CAPTURES.len(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut in any::<prop::sample::Index>()) {
        let mut page = CAPTURES[capture].1.as_bytes().to_vec();
        for (place, byte) in damage {
            let place = place.index(page.len());
            page[place] = byte;
        }
        page.truncate(cut.index(page.len()) + 1);
        if let Ok(metrics) = EndpointMetrics::from_page(&page) {
            prop_assert!(metrics.waiting_requests.is_none_or(f64::is_finite));
        }
    }

    /// The order of lines and what else is on a page do not matter.
    #[test]
    fn written_values_come_back(waiting in proptest::collection::vec(0_u32..1000, 1..5), usage in 0.0_f64..1.0, noise in "[a-z_:]{1,20}( |\\{)[0-9]{1,5}", last in any::<bool>()) {
        let mut lines: Vec<String> =
            waiting.iter().enumerate().map(|(engine, value)| format!("vllm:num_requests_waiting{{engine=\"{engine}\"}} {value}")).collect();
        lines.push(format!("vllm:kv_cache_usage_perc{{}} {usage}"));
        lines.insert(if last { lines.len() } else { 0 }, noise);
        let metrics = EndpointMetrics::from_page(lines.join("\n")).unwrap();
        prop_assert_eq!(metrics.waiting_requests, Some(f64::from(waiting.iter().sum::<u32>())));
        prop_assert_eq!(metrics.kv_cache_utilization, Some(usage));
    }
}
