//! Any text as the load that an engine reports with a response: read or refused, and no number of it is infinite.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p3sched::EndpointMetrics;

fuzz_target!(|report: &str| {
    let Ok(metrics) = EndpointMetrics::from_load_header(&format!("JSON {report}")) else { return };
    for number in [metrics.waiting_requests, metrics.running_requests, metrics.kv_cache_utilization] {
        assert!(number.is_none_or(f64::is_finite));
    }
});
