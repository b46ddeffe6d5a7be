//! Any bytes as a metrics page: read or refused, and no number of it is infinite.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p3sched::EndpointMetrics;

fuzz_target!(|page: &[u8]| {
    let Ok(metrics) = EndpointMetrics::from_page(page) else { return };
    for number in [metrics.waiting_requests, metrics.running_requests, metrics.kv_cache_utilization] {
        assert!(number.is_none_or(f64::is_finite));
    }
});
