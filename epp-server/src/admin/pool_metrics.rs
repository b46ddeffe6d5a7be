//! What the scheduler knows, read when `/metrics` is asked for.

use std::fmt;
use std::sync::Arc;

use p3sched::scheduler::SaturationLimits;
use p3sched::stats::{EndpointStats, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::request_metrics::escaped;
use crate::clock;
use crate::discovery::Pool;

/// Collects from the schedulers of a pool.
pub(super) struct PoolMetrics {
    pool: Arc<Pool>,
    /// Name of the `InferencePool`; empty without one.
    name: String,
    saturation: SaturationLimits,
}

impl PoolMetrics {
    /// A collector for a pool.
    pub(super) fn new(pool: Arc<Pool>, name: &str, saturation: SaturationLimits) -> Self {
        Self { pool, name: escaped(name), saturation }
    }
}

impl fmt::Debug for PoolMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolMetrics")
    }
}

/// A number of one endpoint; `None` where it is not known.
type Column = (&'static str, &'static str, fn(&EndpointStats) -> Option<f64>);

const ENDPOINT_GAUGES: [Column; 10] = [
    ("llm_d_epp_per_endpoint_queue_size", "Requests that wait in the engine", |e| e.waiting_requests),
    ("p3sched_endpoint_reachable", "1 if the endpoint is believed to serve", |e| {
        Some(f64::from(u8::from(e.reachable)))
    }),
    ("p3sched_metrics_age_seconds", "Time since the last good scrape", |e| e.metrics_age_seconds),
    ("p3sched_kv_cache_utilization", "Share of the KV cache in use, as scraped", |e| e.kv_cache_utilization),
    (
        "p3sched_predictions_distrusted",
        "1 if the engine finds nothing cached where a hit is predicted",
        |e| Some(f64::from(u8::from(e.predictions_distrusted))),
    ),
    ("p3sched_queued_tokens", "Uncached tokens of own requests without a first token", |e| {
        Some(e.queued_tokens as f64)
    }),
    ("p3sched_predicted_wait_seconds", "Predicted time before a new prefill starts", |e| e.wait_seconds),
    ("p3sched_prefill_tokens_per_second", "Prefill rate, configured or learned", |e| {
        e.prefill_tokens_per_second
    }),
    ("p3sched_index_blocks", "Blocks of this endpoint in the prefix index", |e| Some(e.index_blocks as f64)),
    ("p3sched_sends_kv_events", "1 if the endpoint's engine tells what its cache holds", |e| {
        Some(f64::from(u8::from(e.sends_kv_events)))
    }),
];

/// What is in flight, which the reference labels in another way.
const IN_FLIGHT_GAUGES: [Column; 2] = [
    ("llm_d_epp_inflight_requests", "Requests in flight through this picker", |e| {
        Some(f64::from(e.requests_in_flight))
    }),
    ("llm_d_epp_inflight_tokens", "Prompt tokens in flight through this picker", |e| {
        Some(e.tokens_in_flight as f64)
    }),
];

const ENDPOINT_COUNTERS: [Column; 2] = [
    (
        "p3sched_predicted_cached_tokens",
        "Prompt tokens expected to be cached, where the engine reported",
        |e| Some(e.predicted_cached_tokens as f64),
    ),
    ("p3sched_actual_cached_tokens", "Prompt tokens that the engine reported as cached", |e| {
        Some(e.actual_cached_tokens as f64)
    }),
];

impl Collector for PoolMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.pool.profiles().stats(clock::now());
        let pool = [("name", self.name.as_str())];
        let by_endpoint = EndpointSeries { labels: &pool, endpoint_label: "model_server_endpoint" };
        for column in &ENDPOINT_GAUGES {
            by_endpoint.encode(&mut encoder, column, MetricType::Gauge, &stats.endpoints)?;
        }
        for column in &ENDPOINT_COUNTERS {
            by_endpoint.encode(&mut encoder, column, MetricType::Counter, &stats.endpoints)?;
        }
        for column in &IN_FLIGHT_GAUGES {
            IN_FLIGHT_SERIES.encode(&mut encoder, column, MetricType::Gauge, &stats.endpoints)?;
        }
        self.encode_saturation(&mut encoder, &stats)?;
        encode_pool_gauges(&mut encoder, &stats, &pool)?;
        encode_counters(&mut encoder, &stats)
    }
}

impl PoolMetrics {
    /// What decides whether requests of negative priority are refused.
    fn encode_saturation(&self, encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
        let saturation = self.pool.profiles().saturation(&self.saturation, None, clock::now());
        let name = "llm_d_epp_flow_control_pool_saturation";
        let help = "From 1 on requests of negative priority are refused";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = [("inference_pool", self.name.as_str()), ("stage", "effective")];
        ConstGauge::new(saturation).encode(metric.encode_family(&labels)?)?;
        let is_stale = |age: Option<f64>| age.is_none_or(|seconds| seconds > self.saturation.stale_seconds);
        let stale = stats.endpoints.iter().filter(|endpoint| is_stale(endpoint.metrics_age_seconds)).count();
        let name = "llm_d_epp_flow_control_stale_endpoints";
        let help = "Endpoints whose metrics are too old to tell whether they are saturated";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = [("detector", "utilization-detector")];
        ConstGauge::new(stale as f64).encode(metric.encode_family(&labels)?)
    }
}

/// How the series of one endpoint are labelled.
struct EndpointSeries<'a> {
    labels: &'a [(&'static str, &'a str)],
    endpoint_label: &'static str,
}

const IN_FLIGHT_SERIES: EndpointSeries<'static> = EndpointSeries {
    labels: &[("namespace", ""), ("producer_name", "inflight-load-producer")],
    endpoint_label: "endpoint_name",
};

impl EndpointSeries<'_> {
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, value): &Column,
        kind: MetricType,
        endpoints: &[EndpointStats],
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for endpoint in endpoints {
            let Some(value) = value(endpoint) else { continue };
            let mut labels = self.labels.to_vec();
            labels.push((self.endpoint_label, &endpoint.endpoint));
            let series = metric.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(series)?,
                _ => ConstGauge::new(value).encode(series)?,
            }
        }
        Ok(())
    }
}

fn encode_pool_gauges(
    encoder: &mut DescriptorEncoder<'_>,
    stats: &Stats,
    pool: &[(&'static str, &str); 1],
) -> fmt::Result {
    let ready = stats.endpoints.iter().filter(|endpoint| endpoint.reachable).count();
    for (name, help, value) in [
        ("llm_d_epp_ready_endpoints", "Endpoints that are believed to serve", ready as f64),
        (
            "llm_d_epp_average_kv_cache_utilization",
            "Mean share of the KV cache in use",
            mean(stats, |endpoint| endpoint.kv_cache_utilization),
        ),
        (
            "llm_d_epp_average_queue_size",
            "Mean number of requests that wait in an engine",
            mean(stats, |endpoint| endpoint.waiting_requests),
        ),
        (
            "llm_d_epp_average_running_requests",
            "Mean number of requests in an engine's batch",
            mean(stats, |endpoint| endpoint.running_requests),
        ),
        (
            "llm_d_epp_std_dev_kv_cache_utilization",
            "Standard deviation of the share of the KV cache in use",
            deviation(stats, |endpoint| endpoint.kv_cache_utilization),
        ),
        (
            "llm_d_epp_std_dev_queue_size",
            "Standard deviation of the number of requests that wait in an engine",
            deviation(stats, |endpoint| endpoint.waiting_requests),
        ),
        (
            "llm_d_epp_std_dev_running_requests",
            "Standard deviation of the number of requests in an engine's batch",
            deviation(stats, |endpoint| endpoint.running_requests),
        ),
    ] {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric.encode_family(pool)?)?;
    }
    for (name, help, value) in [
        ("llm_d_epp_prefix_indexer_size", "Different blocks in the prefix index", stats.index.unique_blocks),
        ("p3sched_index_bytes", "Memory of the prefix index", stats.index.bytes),
    ] {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value as f64).encode(metric)?;
    }
    Ok(())
}

fn encode_counters(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let counters = &stats.counters;
    for (name, help, value) in [
        ("p3sched_picks", "Picks", counters.picks),
        ("p3sched_refused_picks", "Picks that failed because no endpoint was left", counters.refused_picks),
        ("p3sched_warm_picks", "Picks whose endpoint held a part of the prompt", counters.warm_picks),
        ("p3sched_prompt_tokens", "Prompt tokens of all picks", counters.prompt_tokens),
        (
            "p3sched_matched_tokens",
            "Prompt tokens that the chosen endpoints were expected to hold",
            counters.matched_tokens,
        ),
        ("p3sched_load_gate_drops", "Endpoints that the load gate dropped", counters.load_gate_drops),
        ("p3sched_tied_picks", "Picks that a tie rule decided", counters.tied_picks),
        ("p3sched_completed_requests", "Requests reported as complete", counters.completed_requests),
        ("p3sched_failed_requests", "Requests reported as failed", counters.failed_requests),
        (
            "p3sched_served_elsewhere",
            "Requests that another endpoint than the chosen one served",
            counters.served_elsewhere,
        ),
        (
            "p3sched_expired_bookings",
            "Bookings whose progress nobody reported in time",
            counters.expired_bookings,
        ),
        ("p3sched_engine_restarts", "Engine restarts seen in metrics", counters.engine_restarts),
        ("p3sched_kv_events", "KV events that were applied", counters.kv_events),
        (
            "p3sched_skipped_kv_events",
            "KV events left out: of another medium, attention or block size",
            counters.skipped_kv_events,
        ),
        (
            "p3sched_orphaned_kv_events",
            "KV events about blocks that continue one which is not known",
            counters.orphaned_kv_events,
        ),
        (
            "p3sched_kv_event_restarts",
            "Engine restarts seen in the numbers of batches",
            counters.kv_event_restarts,
        ),
        (
            "p3sched_unconfirmed_blocks",
            "Blocks of picks that no KV event confirmed in time",
            counters.unconfirmed_blocks,
        ),
        (
            "p3sched_prediction_clears",
            "Endpoints whose index entries were forgotten because predictions came to nothing",
            counters.prediction_clears,
        ),
    ] {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)?;
    }
    Ok(())
}

/// Standard deviation over the endpoints where the number is known, of them as the whole population.
fn deviation(stats: &Stats, value: impl Fn(&EndpointStats) -> Option<f64>) -> f64 {
    let mean_value = mean(stats, &value);
    mean(stats, |endpoint| value(endpoint).map(|value| (value - mean_value).powi(2))).sqrt()
}

/// Mean over the endpoints where the number is known; 0 where it is known of none.
fn mean(stats: &Stats, value: impl Fn(&EndpointStats) -> Option<f64>) -> f64 {
    let known: Vec<f64> = stats.endpoints.iter().filter_map(value).collect();
    if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
}
