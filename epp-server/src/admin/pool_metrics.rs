//! What the scheduler knows, read when `/metrics` is asked for.

use std::fmt;
use std::sync::Arc;

use p3sched::scheduler::SaturationLimits;
use p3sched::stats::{Counters, EndpointStats, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::request_metrics::escaped;
use crate::clock;
use crate::discovery::Pool;

/// Collects from the schedulers of all pools.
pub(super) struct PoolMetrics {
    /// By name of the `InferencePool`; empty without one.
    pools: Vec<(String, Arc<Pool>)>,
    saturation: SaturationLimits,
}

impl PoolMetrics {
    /// A collector for pools with different names.
    pub(super) fn new(pools: Vec<(String, Arc<Pool>)>, saturation: SaturationLimits) -> Self {
        let pools = pools.into_iter().map(|(name, pool)| (escaped(&name), pool)).collect();
        Self { pools, saturation }
    }
}

/// What is known of a pool now.
struct Observed<'a> {
    name: &'a str,
    stats: Stats,
    saturation: f64,
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
        let now = clock::now();
        let observed = self.pools.iter().map(|(name, pool)| Observed {
            name,
            stats: pool.profiles().stats(now),
            saturation: pool.profiles().saturation(&self.saturation, None, now),
        });
        let pools: Vec<Observed<'_>> = observed.collect();
        for column in &ENDPOINT_GAUGES {
            BY_ENDPOINT.encode(&mut encoder, column, MetricType::Gauge, &pools)?;
        }
        for column in &ENDPOINT_COUNTERS {
            BY_ENDPOINT.encode(&mut encoder, column, MetricType::Counter, &pools)?;
        }
        for column in &IN_FLIGHT_GAUGES {
            IN_FLIGHT.encode(&mut encoder, column, MetricType::Gauge, &pools)?;
        }
        self.encode_saturation(&mut encoder, &pools)?;
        encode_pool_gauges(&mut encoder, &pools)?;
        encode_counters(&mut encoder, &pools)
    }
}

impl PoolMetrics {
    /// What decides whether requests of negative priority are refused.
    fn encode_saturation(&self, encoder: &mut DescriptorEncoder<'_>, pools: &[Observed<'_>]) -> fmt::Result {
        let name = "llm_d_epp_flow_control_pool_saturation";
        let help = "From 1 on requests of negative priority are refused";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for pool in pools {
            let labels = [("inference_pool", pool.name), ("stage", "effective")];
            ConstGauge::new(pool.saturation).encode(metric.encode_family(&labels)?)?;
        }
        let is_stale = |age: Option<f64>| age.is_none_or(|seconds| seconds > self.saturation.stale_seconds);
        let endpoints = pools.iter().flat_map(|pool| &pool.stats.endpoints);
        let stale = endpoints.filter(|endpoint| is_stale(endpoint.metrics_age_seconds)).count();
        let name = "llm_d_epp_flow_control_stale_endpoints";
        let help = "Endpoints whose metrics are too old to tell whether they are saturated";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = [("detector", "utilization-detector")];
        ConstGauge::new(stale as f64).encode(metric.encode_family(&labels)?)
    }
}

/// How the series of one endpoint are labelled.
struct EndpointSeries {
    /// Label of the pool's name; `None` where there is none.
    pool_label: Option<&'static str>,
    labels: &'static [(&'static str, &'static str)],
    endpoint_label: &'static str,
}

const BY_ENDPOINT: EndpointSeries =
    EndpointSeries { pool_label: Some("name"), labels: &[], endpoint_label: "model_server_endpoint" };

const IN_FLIGHT: EndpointSeries = EndpointSeries {
    pool_label: None,
    labels: &[("namespace", ""), ("producer_name", "inflight-load-producer")],
    endpoint_label: "endpoint_name",
};

impl EndpointSeries {
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, value): &Column,
        kind: MetricType,
        pools: &[Observed<'_>],
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for (pool, endpoint) in
            pools.iter().flat_map(|pool| pool.stats.endpoints.iter().map(move |e| (pool.name, e)))
        {
            let Some(value) = value(endpoint) else { continue };
            let mut labels: Vec<(&str, &str)> =
                self.pool_label.map(|label| (label, pool)).into_iter().collect();
            labels.extend(self.labels);
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

/// A number of a pool.
type Figure<S, N> = (&'static str, &'static str, fn(&S) -> N);

const POOL_GAUGES: [Figure<Stats, f64>; 7] = [
    ("llm_d_epp_ready_endpoints", "Endpoints that are believed to serve", |stats| {
        stats.endpoints.iter().filter(|endpoint| endpoint.reachable).count() as f64
    }),
    ("llm_d_epp_average_kv_cache_utilization", "Mean share of the KV cache in use", |stats| {
        mean(stats, |endpoint| endpoint.kv_cache_utilization)
    }),
    ("llm_d_epp_average_queue_size", "Mean number of requests that wait in an engine", |stats| {
        mean(stats, |endpoint| endpoint.waiting_requests)
    }),
    ("llm_d_epp_average_running_requests", "Mean number of requests in an engine's batch", |stats| {
        mean(stats, |endpoint| endpoint.running_requests)
    }),
    (
        "llm_d_epp_std_dev_kv_cache_utilization",
        "Standard deviation of the share of the KV cache in use",
        |stats| deviation(stats, |endpoint| endpoint.kv_cache_utilization),
    ),
    (
        "llm_d_epp_std_dev_queue_size",
        "Standard deviation of the number of requests that wait in an engine",
        |stats| deviation(stats, |endpoint| endpoint.waiting_requests),
    ),
    (
        "llm_d_epp_std_dev_running_requests",
        "Standard deviation of the number of requests in an engine's batch",
        |stats| deviation(stats, |endpoint| endpoint.running_requests),
    ),
];

const INDEX_GAUGES: [Figure<Stats, usize>; 2] = [
    ("llm_d_epp_prefix_indexer_size", "Different blocks in the prefix index", |stats| {
        stats.index.unique_blocks
    }),
    ("p3sched_index_bytes", "Memory of the prefix index", |stats| stats.index.bytes),
];

const COUNTERS: [Figure<Counters, u64>; 18] = [
    ("p3sched_picks", "Picks", |c| c.picks),
    ("p3sched_refused_picks", "Picks that failed because no endpoint was left", |c| c.refused_picks),
    ("p3sched_warm_picks", "Picks whose endpoint held a part of the prompt", |c| c.warm_picks),
    ("p3sched_prompt_tokens", "Prompt tokens of all picks", |c| c.prompt_tokens),
    ("p3sched_matched_tokens", "Prompt tokens that the chosen endpoints were expected to hold", |c| {
        c.matched_tokens
    }),
    ("p3sched_load_gate_drops", "Endpoints that the load gate dropped", |c| c.load_gate_drops),
    ("p3sched_tied_picks", "Picks that a tie rule decided", |c| c.tied_picks),
    ("p3sched_completed_requests", "Requests reported as complete", |c| c.completed_requests),
    ("p3sched_failed_requests", "Requests reported as failed", |c| c.failed_requests),
    ("p3sched_served_elsewhere", "Requests that another endpoint than the chosen one served", |c| {
        c.served_elsewhere
    }),
    ("p3sched_expired_bookings", "Bookings whose progress nobody reported in time", |c| c.expired_bookings),
    ("p3sched_engine_restarts", "Engine restarts seen in metrics", |c| c.engine_restarts),
    ("p3sched_kv_events", "KV events that were applied", |c| c.kv_events),
    ("p3sched_skipped_kv_events", "KV events left out: of another medium, attention or block size", |c| {
        c.skipped_kv_events
    }),
    ("p3sched_orphaned_kv_events", "KV events about blocks that continue one which is not known", |c| {
        c.orphaned_kv_events
    }),
    ("p3sched_kv_event_restarts", "Engine restarts seen in the numbers of batches", |c| c.kv_event_restarts),
    ("p3sched_unconfirmed_blocks", "Blocks of picks that no KV event confirmed in time", |c| {
        c.unconfirmed_blocks
    }),
    (
        "p3sched_prediction_clears",
        "Endpoints whose index entries were forgotten because predictions came to nothing",
        |c| c.prediction_clears,
    ),
];

fn encode_pool_gauges(encoder: &mut DescriptorEncoder<'_>, pools: &[Observed<'_>]) -> fmt::Result {
    for (name, help, value) in POOL_GAUGES {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for pool in pools {
            ConstGauge::new(value(&pool.stats)).encode(metric.encode_family(&[("name", pool.name)])?)?;
        }
    }
    for (name, help, value) in INDEX_GAUGES {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        encode_own(metric, pools, |pool| ConstGauge::new(value(&pool.stats) as f64))?;
    }
    Ok(())
}

fn encode_counters(encoder: &mut DescriptorEncoder<'_>, pools: &[Observed<'_>]) -> fmt::Result {
    for (name, help, value) in COUNTERS {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_own(metric, pools, |pool| ConstCounter::new(value(&pool.stats.counters)))?;
    }
    Ok(())
}

/// A metric that the reference picker does not have; it needs no label where there is one pool.
fn encode_own<M: EncodeMetric>(
    mut metric: MetricEncoder<'_>,
    pools: &[Observed<'_>],
    value: impl Fn(&Observed<'_>) -> M,
) -> fmt::Result {
    if let [only] = pools {
        return value(only).encode(metric);
    }
    for pool in pools {
        value(pool).encode(metric.encode_family(&[("name", pool.name)])?)?;
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
