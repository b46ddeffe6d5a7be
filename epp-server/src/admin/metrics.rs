//! What is served at `/metrics`.
//!
//! Names, labels and buckets that begin with `llm_d_epp_` are those of the reference endpoint picker, so that
//! dashboards made for it keep working, with finer buckets below its finest where this picker is faster; `p3sched_` is what
//! only this picker knows.

use std::sync::Arc;

use p3sched::gateway::DEFAULT_FAIRNESS_ID;
use p3sched::scheduler::SaturationLimits;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::pool_metrics::PoolMetrics;
use super::request_metrics::{RequestFamilies, seconds};
pub use super::request_metrics::{RequestLabels, RequestMetrics, Served};
use crate::discovery::Pool;

/// Times within this picker, which is done before the reference's first bucket ends at 0.1 ms.
const PICK_SECONDS: [f64; 15] = [
    0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01,
    0.02, 0.05, 0.1,
];
const REQUEST_PROCESSING_SECONDS: [f64; 20] = [
    0.000_02, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const RESPONSE_PROCESSING_SECONDS: [f64; 18] = [
    0.000_01, 0.000_02, 0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0,
];
const HIT_RATIO: [f64; 11] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
const HIT_BYTES: [f64; 18] = [
    0.0,
    16.0,
    32.0,
    64.0,
    128.0,
    256.0,
    512.0,
    1024.0,
    2048.0,
    4096.0,
    8192.0,
    16384.0,
    32768.0,
    65536.0,
    131_072.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
];
/// Prompt bytes that stand for a token where only text is known.
const BYTES_PER_TOKEN: f64 = 4.0;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DisaggregationLabels {
    plugin_name: &'static str,
    plugin_type: &'static str,
    model_name: String,
    decision_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    commit: &'static str,
    build_ref: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    extension_point: &'static str,
    plugin_type: &'static str,
    plugin_name: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IndexLabels {
    plugin_name: &'static str,
    plugin_type: &'static str,
}

const INDEX: IndexLabels =
    IndexLabels { plugin_name: "approx-prefix-cache-producer", plugin_type: "approx-prefix-cache-producer" };

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything that is counted while the server runs.
pub struct Metrics {
    registry: RwLock<Registry>,
    requests: RequestFamilies,
    scrapes: Family<ResultLabels, Counter>,
    kv_event_batches: Family<ResultLabels, Counter>,
    kv_event_gaps: Family<ResultLabels, Counter>,
    disaggregation: Family<DisaggregationLabels, Counter>,
    prefill_unavailable: Counter,
    pick_seconds: Histogram,
    parse_seconds: Histogram,
    profile_seconds: Histogram,
    request_processing: Histogram,
    response_processing: Histogram,
    hit_ratio: Histogram,
    hit_bytes: Histogram,
    streams: Gauge,
    failed_open: Counter,
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let plugins: Histograms<PluginLabels> = Family::new_with_constructor(|| Histogram::new(PICK_SECONDS));
        let plugin = |extension_point, name| {
            let labels = PluginLabels { extension_point, plugin_type: name, plugin_name: name };
            plugins.get_or_create_owned(&labels)
        };
        let hit_ratio: Histograms<IndexLabels> = Family::new_with_constructor(|| Histogram::new(HIT_RATIO));
        let hit_bytes: Histograms<IndexLabels> = Family::new_with_constructor(|| Histogram::new(HIT_BYTES));
        let metrics = Self {
            requests: RequestFamilies::register(&mut registry),
            scrapes: Family::default(),
            kv_event_batches: Family::default(),
            kv_event_gaps: Family::default(),
            disaggregation: Family::default(),
            prefill_unavailable: Counter::default(),
            pick_seconds: Histogram::new(PICK_SECONDS),
            parse_seconds: plugin("Parser", "openai-parser"),
            profile_seconds: plugin("ProfileHandler", "single-profile-handler"),
            request_processing: Histogram::new(REQUEST_PROCESSING_SECONDS),
            response_processing: Histogram::new(RESPONSE_PROCESSING_SECONDS),
            hit_ratio: hit_ratio.get_or_create_owned(&INDEX),
            hit_bytes: hit_bytes.get_or_create_owned(&INDEX),
            streams: Gauge::default(),
            failed_open: Counter::default(),
            registry: RwLock::default(),
        };
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { commit: "", build_ref: p3sched::VERSION }).set(1);
        registry.register("llm_d_epp_info", "Build of this endpoint picker", build);
        registry.register(
            "llm_d_epp_plugin_duration_seconds",
            "Time that reading a request and picking for it took, all plugins of a profile together",
            plugins,
        );
        registry.register(
            "llm_d_epp_prefix_indexer_hit_ratio",
            "Share of a prompt that the picked endpoint is expected to hold",
            hit_ratio,
        );
        registry.register(
            "llm_d_epp_prefix_indexer_hit_bytes",
            "Bytes of a prompt that the picked endpoint is expected to hold",
            hit_bytes,
        );
        metrics.name(&mut registry);
        Self { registry: RwLock::new(registry), ..metrics }
    }

    fn name(&self, registry: &mut Registry) {
        for (name, help, histogram) in [
            ("scheduler_e2e_duration_seconds", "Time that the scheduler took for a pick", &self.pick_seconds),
            (
                "request_processing_duration_seconds",
                "From the request's headers to the pick, the wait for the body included",
                &self.request_processing,
            ),
            (
                "response_processing_duration_seconds",
                "Time that the messages of a response took here, all together",
                &self.response_processing,
            ),
        ] {
            registry.register(format!("llm_d_epp_{name}"), help, histogram.clone());
        }
        registry.register(
            "llm_d_epp_extproc_streams_inflight",
            "Open streams, one per request that a gateway has in flight",
            self.streams.clone(),
        );
        registry.register(
            "p3sched_fail_open",
            "Picks made without the scheduler because it had no answer",
            self.failed_open.clone(),
        );
        registry.register(
            "llm_d_epp_disagg_decision",
            "Requests by whether another endpoint does their prefill",
            self.disaggregation.clone(),
        );
        registry.register(
            "p3sched_prefill_unavailable",
            "Requests whose prefill no other endpoint was left for",
            self.prefill_unavailable.clone(),
        );
        for (name, help, family) in [
            ("p3sched_scrapes", "Scrapes of engine metrics, by result", &self.scrapes),
            (
                "p3sched_kv_event_batches",
                "Batches of KV events, by what became of them",
                &self.kv_event_batches,
            ),
            (
                "p3sched_kv_event_gaps",
                "Times that KV events were missing, by what became of them",
                &self.kv_event_gaps,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
    }

    /// Adds what the scheduler knows of the endpoints of pools with different names, and how near they are to these limits.
    pub fn watch_pools(&self, pools: Vec<(String, Arc<Pool>)>, saturation: SaturationLimits) {
        self.registry.write().register_collector(Box::new(PoolMetrics::new(pools, saturation)));
    }

    /// The page, in the text format of `OpenMetrics`.
    ///
    /// # Errors
    ///
    /// Only if a value cannot be written as text.
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry.read())?;
        Ok(page)
    }

    /// The counters of the requests with these labels; `is_configured` tells models that operators wrote down, which
    /// are told apart however many others clients name.
    pub fn request(
        &self,
        labels: RequestLabels<'_>,
        is_configured: impl Fn() -> bool,
    ) -> Arc<RequestMetrics> {
        self.requests.of(labels, is_configured)
    }

    /// Counts a request that was refused before it was read.
    pub fn refused_unread(&self, error_code: &'static str) {
        let labels =
            RequestLabels { model: "", target_model: "", fairness_id: DEFAULT_FAIRNESS_ID, priority: 0 };
        self.request(labels, || true).failed(error_code);
    }

    /// Counts the reading of a request, which took so many nanoseconds.
    pub fn parsed(&self, nanoseconds: u64) {
        self.parse_seconds.observe(seconds(nanoseconds));
    }

    /// Counts a call of the scheduler for a request, which took so many nanoseconds; without an endpoint it failed.
    pub fn scheduled(&self, nanoseconds: u64, request: &RequestMetrics, endpoint: Option<&str>) {
        self.pick_seconds.observe(seconds(nanoseconds));
        self.profile_seconds.observe(seconds(nanoseconds));
        self.requests.attempt(request.target_model(), endpoint);
    }

    /// Counts how much of a prompt the picked endpoint is expected to hold.
    pub fn matched(&self, matched_tokens: u32, prompt_tokens: u32) {
        if prompt_tokens > 0 {
            self.hit_ratio.observe(f64::from(matched_tokens) / f64::from(prompt_tokens));
            self.hit_bytes.observe(f64::from(matched_tokens) * BYTES_PER_TOKEN);
        }
    }

    /// Counts a request that was answered with a pick so many nanoseconds after its headers had come.
    pub fn request_processed(&self, nanoseconds: u64) {
        self.request_processing.observe(seconds(nanoseconds));
    }

    /// Counts a response whose messages took so many nanoseconds.
    pub fn response_processed(&self, nanoseconds: u64) {
        self.response_processing.observe(seconds(nanoseconds));
    }

    /// Counts a pick without the scheduler.
    pub fn failed_open(&self) {
        self.failed_open.inc();
    }

    /// Counts a request by whether another endpoint does its prefill.
    pub fn disaggregation_decided(&self, request: &RequestMetrics, decision_type: &'static str) {
        const HANDLER: &str = "disagg-profile-handler";
        let model_name = request.target_model().to_owned();
        let labels =
            DisaggregationLabels { plugin_name: HANDLER, plugin_type: HANDLER, model_name, decision_type };
        self.disaggregation.get_or_create(&labels).inc();
    }

    /// Counts a request whose prefill no other endpoint was left for.
    pub fn prefill_unavailable(&self) {
        self.prefill_unavailable.inc();
    }

    /// Counts a scrape of an engine's metrics.
    pub fn scraped(&self, result: &'static str) {
        self.scrapes.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a batch of KV events.
    pub fn kv_event_batch(&self, result: &'static str) {
        self.kv_event_batches.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts missing batches of KV events.
    pub fn kv_event_gap(&self, result: &'static str) {
        self.kv_event_gaps.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a stream that was opened; returns how many are open, this one included.
    pub fn stream_opened(&self) -> usize {
        usize::try_from(self.streams.inc() + 1).unwrap_or(0)
    }

    /// Counts a stream that was closed.
    pub fn stream_closed(&self) {
        self.streams.dec();
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        usize::try_from(self.streams.get()).unwrap_or(0)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use p3sched::Outcome;

    use super::super::request_metrics::MAX_LABEL_SETS;
    use super::*;

    fn request(metrics: &Metrics, model: &str) -> Arc<RequestMetrics> {
        let labels = RequestLabels { model, target_model: model, fairness_id: "me", priority: -1 };
        metrics.request(labels, || model == "llama")
    }

    fn page(metrics: &Metrics) -> String {
        metrics.page().unwrap()
    }

    #[test]
    fn a_request_shows_under_the_names_of_the_reference() {
        let metrics = Metrics::new();
        let model = request(&metrics, "llama");
        model.picked(1_000);
        let labels = r#"{model_name="llama",target_model_name="llama",fairness_id="me",priority="-1"}"#;
        assert!(page(&metrics).contains(&format!("llm_d_epp_request_running{labels} 1\n")));
        let outcome = Outcome { completion_tokens: Some(11), cached_tokens: Some(64), ..Outcome::success() };
        let served =
            Served { duration: 3_000_000_000, first_token: Some(1_000_000_000), response_bytes: 500 };
        model.completed(served, &outcome);
        model.failed("ModelServerError");
        metrics.scheduled(1_000, &model, Some("10.0.0.1:8000"));
        let page = page(&metrics);
        let streaming = labels.replace('}', r#",streaming="true"}"#);
        let error = labels.replace('}', r#",error_code="ModelServerError"}"#);
        let attempt = r#"{status="success",target_model_name="llama",endpoint_name="10.0.0.1",namespace="",port="8000"}"#;
        for line in [
            format!("llm_d_epp_request_error_total{error} 1\n"),
            format!("llm_d_epp_scheduler_attempts_total{attempt} 1\n"),
            format!("llm_d_epp_request_ntpot_seconds_count{labels} 1\n"),
            format!("llm_d_epp_request_total{labels} 1\n"),
            format!("llm_d_epp_request_running{labels} 0\n"),
            format!("llm_d_epp_request_duration_seconds_sum{labels} 3.0\n"),
            format!("llm_d_epp_request_ttft_seconds_sum{streaming} 1.0\n"),
            format!("llm_d_epp_request_streaming_tpot_seconds_sum{labels} 0.2\n"),
            format!("llm_d_epp_request_cached_tokens_sum{labels} 64.0\n"),
            format!("llm_d_epp_request_input_tokens_count{labels} 0\n"),
        ] {
            assert!(page.contains(&line), "{line}{page}");
        }
    }

    #[test]
    fn a_flood_of_model_names_is_counted_as_other_and_hides_no_configured_one() {
        let metrics = Metrics::new();
        for number in 0..2 * MAX_LABEL_SETS {
            let model = request(&metrics, &format!("model-{number}"));
            model.picked(1);
            metrics.scheduled(1, &model, Some("10.0.0.1:8000"));
        }
        request(&metrics, "llama").picked(1);
        let page = page(&metrics);
        assert_eq!(page.matches("llm_d_epp_request_total{").count(), MAX_LABEL_SETS + 2);
        assert_eq!(page.matches("llm_d_epp_scheduler_attempts_total{").count(), MAX_LABEL_SETS + 1);
        for shown in
            [r#"{model_name="other""#, r#"{model_name="llama",target_model_name="llama",fairness_id="other""#]
        {
            assert!(page.contains(&format!("llm_d_epp_request_total{shown}")), "{shown}");
        }
    }

    #[test]
    fn a_model_name_cannot_break_the_page_or_fill_the_memory() {
        let metrics = Metrics::new();
        request(&metrics, "a\"} 1\nb\\").picked(1);
        request(&metrics, &"x".repeat(300)).picked(1);
        let page = page(&metrics);
        assert!(page.contains(r#"llm_d_epp_request_total{model_name="a\"} 1\nb\\",target"#), "{page}");
        assert!(page.contains(r#"llm_d_epp_request_total{model_name="other""#) && !page.contains("xxx"));
    }

    #[test]
    fn open_streams_are_counted() {
        let metrics = Metrics::new();
        assert_eq!(metrics.stream_opened(), 1);
        assert_eq!(metrics.stream_opened(), 2);
        metrics.stream_closed();
        assert_eq!(metrics.open_streams(), 1);
    }
}
