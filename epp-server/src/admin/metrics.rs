//! What is served at `/metrics`.
//!
//! Names, labels and buckets that begin with `llm_d_epp_` are those of the reference endpoint picker, so that
//! dashboards made for it keep working; `p3sched_` is what only this picker knows.

use std::collections::HashMap;
use std::sync::Arc;

use p3sched::Outcome;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::pool_metrics::PoolMetrics;
use crate::discovery::Pool;

/// Model names come from clients: so many different ones are told apart, the rest is [`OTHER_MODEL`].
const MAX_MODELS: usize = 1_000;
/// A longer name counts as [`OTHER_MODEL`]: every series of a model holds it twice.
const MAX_MODEL_BYTES: usize = 256;
const OTHER_MODEL: &str = "other";

const DURATION_SECONDS: [f64; 35] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
    3600.0,
];
const FIRST_TOKEN_SECONDS: [f64; 24] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0, 120.0,
];
const OUTPUT_TOKEN_SECONDS: [f64; 19] = [
    0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8,
    1.0, 2.0,
];
/// The reference's buckets begin at 0.1 ms, which is longer than a pick takes here.
const PICK_SECONDS: [f64; 15] = [
    0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01,
    0.02, 0.05, 0.1,
];
const PROMPT_TOKENS: [f64; 19] = [
    1.0,
    8.0,
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
    32778.0,
    65536.0,
    131_072.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
];
const OUTPUT_TOKENS: [f64; 12] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];
const RESPONSE_BYTES: [f64; 15] = [
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32778.0,
    65536.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model_name: String,
    target_model_name: String,
    fairness_id: &'static str,
    priority: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    error_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScrapeLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    commit: &'static str,
    build_ref: &'static str,
}

type Histograms = Family<ModelLabels, Histogram, fn() -> Histogram>;

/// Everything that is counted while the server runs.
pub struct Metrics {
    registry: RwLock<Registry>,
    models: RwLock<HashMap<String, Arc<ModelMetrics>>>,
    families: Families,
    errors: Family<ErrorLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    scrapes: Family<ScrapeLabels, Counter>,
    pick_seconds: Histogram,
    streams: Gauge,
    failed_open: Counter,
}

/// One family per metric that is kept per model.
struct Families {
    requests: Family<ModelLabels, Counter>,
    running: Family<ModelLabels, Gauge>,
    duration: Histograms,
    first_token: Histograms,
    output_token: Histograms,
    request_bytes: Histograms,
    response_bytes: Histograms,
    input_tokens: Histograms,
    output_tokens: Histograms,
    cached_tokens: Histograms,
}

/// What is counted for the requests of one model.
pub struct ModelMetrics {
    requests: Counter,
    running: Gauge,
    duration: Histogram,
    first_token: Histogram,
    output_token: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    input_tokens: Histogram,
    output_tokens: Histogram,
    cached_tokens: Histogram,
}

/// How a picked request ended, as far as the picker saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Nanoseconds from the request's headers to the end.
    pub duration: u64,
    /// Nanoseconds from the request's headers to the first token, if it was seen.
    pub first_token: Option<u64>,
    /// Bytes of the response's body that were seen.
    pub response_bytes: u64,
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            families: Families::register(&mut registry),
            errors: Family::default(),
            attempts: Family::default(),
            scrapes: Family::default(),
            pick_seconds: Histogram::new(PICK_SECONDS),
            streams: Gauge::default(),
            failed_open: Counter::default(),
            models: RwLock::default(),
            registry: RwLock::default(),
        };
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { commit: "", build_ref: p3sched::VERSION }).set(1);
        registry.register("llm_d_epp_info", "Build of this endpoint picker", build);
        registry.register(
            "llm_d_epp_request_error",
            "Requests that the picker refused, by kind",
            metrics.errors.clone(),
        );
        registry.register("llm_d_epp_scheduler_attempts", "Picks by result", metrics.attempts.clone());
        registry.register(
            "llm_d_epp_scheduler_e2e_duration_seconds",
            "Time that the scheduler took for a pick",
            metrics.pick_seconds.clone(),
        );
        registry.register(
            "llm_d_epp_extproc_streams_inflight",
            "Open streams, one per request that a gateway has in flight",
            metrics.streams.clone(),
        );
        registry.register(
            "p3sched_fail_open",
            "Picks made without the scheduler because it had no answer",
            metrics.failed_open.clone(),
        );
        registry.register("p3sched_scrapes", "Scrapes of engine metrics, by result", metrics.scrapes.clone());
        Self { registry: RwLock::new(registry), ..metrics }
    }

    /// Adds what the scheduler knows of the endpoints of a pool.
    pub fn watch_pool(&self, pool: Arc<Pool>) {
        self.registry.write().register_collector(Box::new(PoolMetrics::new(pool)));
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

    /// The counters of one model.
    pub fn model(&self, name: &str) -> Arc<ModelMetrics> {
        let name = bounded_name(name);
        if let Some(model) = self.known_model(name) {
            return model;
        }
        let mut models = self.models.write();
        let name = if models.len() < MAX_MODELS { name } else { OTHER_MODEL };
        let model = models.entry(name.to_owned()).or_insert_with(|| Arc::new(self.families.model(name)));
        Arc::clone(model)
    }

    /// The counters of a model that was seen before; for an unseen one those of the rest, once they exist.
    fn known_model(&self, name: &str) -> Option<Arc<ModelMetrics>> {
        let models = self.models.read();
        let rest = || models.get(OTHER_MODEL).filter(|_| models.len() >= MAX_MODELS);
        models.get(name).or_else(rest).map(Arc::clone)
    }

    /// Counts a request that was refused.
    pub fn refused(&self, code: &'static str) {
        self.errors.get_or_create(&ErrorLabels { error_code: code }).inc();
    }

    /// Counts a call of the scheduler that took so many nanoseconds.
    pub fn picked(&self, nanoseconds: u64, success: bool) {
        self.pick_seconds.observe(seconds(nanoseconds));
        let status = if success { "success" } else { "failure" };
        self.attempts.get_or_create(&AttemptLabels { status }).inc();
    }

    /// Counts a pick without the scheduler.
    pub fn failed_open(&self) {
        self.failed_open.inc();
    }

    /// Counts a scrape of an engine's metrics.
    pub fn scraped(&self, result: &'static str) {
        self.scrapes.get_or_create(&ScrapeLabels { result }).inc();
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

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let families = Self {
            requests: Family::default(),
            running: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_SECONDS)),
            first_token: Family::new_with_constructor(|| Histogram::new(FIRST_TOKEN_SECONDS)),
            output_token: Family::new_with_constructor(|| Histogram::new(OUTPUT_TOKEN_SECONDS)),
            request_bytes: Family::new_with_constructor(|| Histogram::new(request_size_buckets())),
            response_bytes: Family::new_with_constructor(|| Histogram::new(RESPONSE_BYTES)),
            input_tokens: Family::new_with_constructor(|| Histogram::new(PROMPT_TOKENS)),
            output_tokens: Family::new_with_constructor(|| Histogram::new(OUTPUT_TOKENS)),
            cached_tokens: Family::new_with_constructor(|| Histogram::new(PROMPT_TOKENS)),
        };
        registry.register("llm_d_epp_request", "Requests that were picked for", families.requests.clone());
        registry.register("llm_d_epp_request_running", "Picked requests in flight", families.running.clone());
        for (name, help, family) in [
            ("request_duration_seconds", "From the request's headers to its end", &families.duration),
            ("request_ttft_seconds", "From the request's headers to the first token", &families.first_token),
            ("request_streaming_tpot_seconds", "Mean time per output token", &families.output_token),
            ("request_size_bytes", "Size of the request's body", &families.request_bytes),
            ("response_size_bytes", "Size of the response's body", &families.response_bytes),
            ("request_input_tokens", "Prompt tokens, as the engine counted them", &families.input_tokens),
            (
                "request_output_tokens",
                "Completion tokens, as the engine counted them",
                &families.output_tokens,
            ),
            ("request_cached_tokens", "Prompt tokens that the engine had cached", &families.cached_tokens),
        ] {
            registry.register(format!("llm_d_epp_{name}"), help, family.clone());
        }
        families
    }

    fn model(&self, name: &str) -> ModelMetrics {
        let model_name = escaped(name);
        let labels =
            ModelLabels { target_model_name: model_name.clone(), model_name, fairness_id: "", priority: "0" };
        ModelMetrics {
            requests: self.requests.get_or_create_owned(&labels),
            running: self.running.get_or_create_owned(&labels),
            duration: self.duration.get_or_create_owned(&labels),
            first_token: self.first_token.get_or_create_owned(&labels),
            output_token: self.output_token.get_or_create_owned(&labels),
            request_bytes: self.request_bytes.get_or_create_owned(&labels),
            response_bytes: self.response_bytes.get_or_create_owned(&labels),
            input_tokens: self.input_tokens.get_or_create_owned(&labels),
            output_tokens: self.output_tokens.get_or_create_owned(&labels),
            cached_tokens: self.cached_tokens.get_or_create_owned(&labels),
        }
    }
}

impl ModelMetrics {
    /// Counts a request that was picked for.
    pub fn picked(&self, request_bytes: usize) {
        self.requests.inc();
        self.running.inc();
        self.request_bytes.observe(request_bytes as f64);
    }

    /// Counts the end of a request that was picked for.
    pub fn completed(&self, served: Served, outcome: &Outcome) {
        self.running.dec();
        self.duration.observe(seconds(served.duration));
        if served.response_bytes > 0 {
            self.response_bytes.observe(served.response_bytes as f64);
        }
        for (histogram, tokens) in [
            (&self.input_tokens, outcome.prompt_tokens),
            (&self.output_tokens, outcome.completion_tokens),
            (&self.cached_tokens, outcome.cached_tokens),
        ] {
            if let Some(tokens) = tokens {
                histogram.observe(f64::from(tokens));
            }
        }
        let Some(first_token) = served.first_token else { return };
        self.first_token.observe(seconds(first_token));
        if let Some(further) = outcome.completion_tokens.and_then(|tokens| tokens.checked_sub(1))
            && further > 0
        {
            let generation = seconds(served.duration.saturating_sub(first_token));
            self.output_token.observe(generation / f64::from(further));
        }
    }

    /// Takes a request back whose end nobody will report.
    pub fn lost(&self) {
        self.running.dec();
    }
}

/// The name of a model, unless it is longer than names are.
pub(super) fn bounded_name(model: &str) -> &str {
    if model.len() <= MAX_MODEL_BYTES { model } else { OTHER_MODEL }
}

/// A label's value as the text format wants it; prometheus-client writes what it is given.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// 64 bytes to 1 GiB, doubling.
fn request_size_buckets() -> impl Iterator<Item = f64> {
    (6..=30).map(|exponent| f64::from(1u32 << exponent))
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(metrics: &Metrics) -> String {
        metrics.page().unwrap()
    }

    #[test]
    fn a_request_shows_under_the_names_of_the_reference() {
        let metrics = Metrics::new();
        let model = metrics.model("llama");
        model.picked(1_000);
        let labels = r#"{model_name="llama",target_model_name="llama",fairness_id="",priority="0"}"#;
        assert!(page(&metrics).contains(&format!("llm_d_epp_request_running{labels} 1\n")));
        let outcome = Outcome { completion_tokens: Some(11), cached_tokens: Some(64), ..Outcome::success() };
        let served =
            Served { duration: 3_000_000_000, first_token: Some(1_000_000_000), response_bytes: 500 };
        model.completed(served, &outcome);
        let page = page(&metrics);
        for line in [
            format!("llm_d_epp_request_total{labels} 1\n"),
            format!("llm_d_epp_request_running{labels} 0\n"),
            format!("llm_d_epp_request_duration_seconds_sum{labels} 3.0\n"),
            format!("llm_d_epp_request_ttft_seconds_sum{labels} 1.0\n"),
            format!("llm_d_epp_request_streaming_tpot_seconds_sum{labels} 0.2\n"),
            format!("llm_d_epp_request_cached_tokens_sum{labels} 64.0\n"),
            format!("llm_d_epp_request_input_tokens_count{labels} 0\n"),
        ] {
            assert!(page.contains(&line), "{line}{page}");
        }
    }

    #[test]
    fn a_flood_of_model_names_is_counted_as_other() {
        let metrics = Metrics::new();
        for number in 0..2 * MAX_MODELS {
            metrics.model(&format!("model-{number}")).picked(1);
        }
        let page = page(&metrics);
        assert_eq!(page.matches("llm_d_epp_request_total{").count(), MAX_MODELS + 1);
        assert!(page.contains(r#"llm_d_epp_request_total{model_name="other""#));
    }

    #[test]
    fn a_model_name_cannot_break_the_page_or_fill_the_memory() {
        let metrics = Metrics::new();
        metrics.model("a\"} 1\nb\\").picked(1);
        metrics.model(&"x".repeat(MAX_MODEL_BYTES + 1)).picked(1);
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
