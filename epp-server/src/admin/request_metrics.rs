//! What is counted for requests, by the labels that the reference endpoint picker gives them.
//!
//! Labels come from clients. The series of a set of labels are looked up once per request; so many different sets are
//! told apart, the rest is [`OTHER`].

use std::sync::{Arc, OnceLock};

use hashbrown::{Equivalent, HashMap};
use p3sched::Outcome;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Sets of labels that are told apart.
pub(super) const MAX_LABEL_SETS: usize = 1_000;
/// Pairs of a model and an endpoint that are told apart.
const MAX_ATTEMPT_SERIES: usize = 5_000;
/// A longer value counts as [`OTHER`]: every series holds its labels.
const MAX_LABEL_BYTES: usize = 256;
/// Stands for all values that are not told apart.
pub(super) const OTHER: &str = "other";

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
const TOKEN_GAP_SECONDS: [f64; 15] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0];
const SECONDS_PER_TOKEN: [f64; 13] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const OUTPUT_TOKENS: [f64; 12] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

/// What a request is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestLabels<'a> {
    /// The model that the client named.
    pub model: &'a str,
    /// The model that serves.
    pub target_model: &'a str,
    /// Who the request is counted for.
    pub fairness_id: &'a str,
    /// Its priority.
    pub priority: i32,
}

/// The same, kept; fields in the order of [`RequestLabels`], so that both have one hash.
#[derive(Debug, PartialEq, Eq, Hash)]
struct LabelKey {
    model: String,
    target_model: String,
    fairness_id: String,
    priority: i32,
}

impl Equivalent<LabelKey> for RequestLabels<'_> {
    fn equivalent(&self, key: &LabelKey) -> bool {
        self.model == key.model
            && self.target_model == key.target_model
            && self.fairness_id == key.fairness_id
            && self.priority == key.priority
    }
}

/// Labels as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    model_name: String,
    target_model_name: String,
    fairness_id: String,
    priority: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FirstTokenLabels {
    model_name: String,
    target_model_name: String,
    fairness_id: String,
    priority: i32,
    streaming: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    model_name: String,
    target_model_name: String,
    fairness_id: String,
    priority: i32,
    error_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    status: &'static str,
    target_model_name: String,
    endpoint_name: String,
    namespace: &'static str,
    port: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RewriteLabels {
    model_rewrite_name: String,
    model_name: String,
    target_model: String,
}

#[derive(PartialEq, Eq, Hash)]
struct AttemptKey(String, String);

#[derive(Hash)]
struct Attempt<'a>(&'a str, &'a str);

impl Equivalent<AttemptKey> for Attempt<'_> {
    fn equivalent(&self, key: &AttemptKey) -> bool {
        self.0 == key.0 && self.1 == key.1
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The series of all requests.
pub(super) struct RequestFamilies {
    sets: RwLock<HashMap<LabelKey, Arc<RequestMetrics>>>,
    attempts: RwLock<HashMap<AttemptKey, Counter>>,
    families: Arc<Families>,
}

/// One family per metric.
struct Families {
    requests: Family<Labels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    running: Family<Labels, Gauge>,
    duration: Histograms<Labels>,
    per_token: Histograms<Labels>,
    first_token: Histograms<FirstTokenLabels>,
    output_token: Histograms<Labels>,
    token_gap: Histograms<Labels>,
    request_bytes: Histograms<Labels>,
    response_bytes: Histograms<Labels>,
    input_tokens: Histograms<Labels>,
    output_tokens: Histograms<Labels>,
    cached_tokens: Histograms<Labels>,
    attempts: Family<AttemptLabels, Counter>,
    rewrites: Family<RewriteLabels, Counter>,
}

/// What is counted for the requests of one set of labels.
pub struct RequestMetrics {
    labels: Labels,
    families: Arc<Families>,
    requests: Counter,
    running: Gauge,
    request_bytes: Histogram,
    ended: OnceLock<EndedMetrics>,
    streamed: OnceLock<StreamedMetrics>,
}

/// What is counted at the end of a request.
struct EndedMetrics {
    duration: Histogram,
    per_token: Histogram,
    first_token: Histogram,
    response_bytes: Histogram,
    input_tokens: Histogram,
    output_tokens: Histogram,
    cached_tokens: Histogram,
}

/// What is counted for answers that come token by token.
struct StreamedMetrics {
    first_token: Histogram,
    output_token: Histogram,
    token_gap: Histogram,
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

impl RequestFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            sets: RwLock::default(),
            attempts: RwLock::default(),
            families: Arc::new(Families::register(registry)),
        }
    }

    /// The series of a set of labels; `is_configured` for models that operators wrote down, which always show.
    pub(super) fn of(
        &self,
        labels: RequestLabels<'_>,
        is_configured: impl Fn() -> bool,
    ) -> Arc<RequestMetrics> {
        let labels = labels.bounded();
        let folded = |known: usize| match known {
            ..MAX_LABEL_SETS => labels,
            _ if is_configured() => RequestLabels { fairness_id: OTHER, ..labels },
            _ => RequestLabels { model: OTHER, target_model: OTHER, fairness_id: OTHER, ..labels },
        };
        {
            let sets = self.sets.read();
            if let Some(known) = sets.get(&labels).or_else(|| sets.get(&folded(sets.len()))) {
                return Arc::clone(known);
            }
        }
        let mut sets = self.sets.write();
        let labels = folded(sets.len());
        let made = sets
            .entry(labels.to_key())
            .or_insert_with(|| Arc::new(RequestMetrics::new(Arc::clone(&self.families), labels)));
        Arc::clone(made)
    }

    /// Counts a pick of an endpoint, `ip:port`, for a model as labels write it; without an endpoint a failed one.
    pub(super) fn attempt(&self, target_model: &str, endpoint: Option<&str>) {
        let endpoint = endpoint.unwrap_or_default();
        {
            let attempts = self.attempts.read();
            if let Some(counter) = attempts.get(&Attempt(target_model, endpoint)) {
                counter.inc();
                return;
            }
        }
        let mut attempts = self.attempts.write();
        let target_model = if attempts.len() < MAX_ATTEMPT_SERIES { target_model } else { OTHER };
        let made =
            attempts.entry(AttemptKey(target_model.to_owned(), endpoint.to_owned())).or_insert_with(|| {
                let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
                self.families.attempts.get_or_create_owned(&AttemptLabels {
                    status: if endpoint.is_empty() { "failure" } else { "success" },
                    target_model_name: target_model.to_owned(),
                    endpoint_name: host.to_owned(),
                    namespace: "",
                    port: port.to_owned(),
                })
            });
        made.inc();
    }
}

impl<'a> RequestLabels<'a> {
    fn bounded(self) -> Self {
        Self {
            model: bounded(self.model),
            target_model: bounded(self.target_model),
            fairness_id: bounded(self.fairness_id),
            ..self
        }
    }

    fn to_key(self) -> LabelKey {
        LabelKey {
            model: self.model.to_owned(),
            target_model: self.target_model.to_owned(),
            fairness_id: self.fairness_id.to_owned(),
            priority: self.priority,
        }
    }
}

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let families = Self {
            requests: Family::default(),
            errors: Family::default(),
            running: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_SECONDS)),
            per_token: Family::new_with_constructor(|| Histogram::new(SECONDS_PER_TOKEN)),
            first_token: Family::new_with_constructor(|| Histogram::new(FIRST_TOKEN_SECONDS)),
            output_token: Family::new_with_constructor(|| Histogram::new(OUTPUT_TOKEN_SECONDS)),
            token_gap: Family::new_with_constructor(|| Histogram::new(TOKEN_GAP_SECONDS)),
            request_bytes: Family::new_with_constructor(|| Histogram::new(powers_of_two(6, 30))),
            response_bytes: Family::new_with_constructor(|| Histogram::new(one_then_powers_of_two(16))),
            input_tokens: Family::new_with_constructor(|| Histogram::new(one_then_powers_of_two(20))),
            output_tokens: Family::new_with_constructor(|| Histogram::new(OUTPUT_TOKENS)),
            cached_tokens: Family::new_with_constructor(|| Histogram::new(one_then_powers_of_two(20))),
            attempts: Family::default(),
            rewrites: Family::default(),
        };
        families.name(registry);
        families
    }

    fn name(&self, registry: &mut Registry) {
        registry.register("llm_d_epp_request", "Requests that were picked for", self.requests.clone());
        registry.register("llm_d_epp_request_error", "Requests that failed, by kind", self.errors.clone());
        registry.register("llm_d_epp_request_running", "Picked requests in flight", self.running.clone());
        registry.register(
            "llm_d_epp_request_ttft_seconds",
            "From the request's headers to the first token, or to the end of an answer that comes as one",
            self.first_token.clone(),
        );
        registry.register("llm_d_epp_scheduler_attempts", "Picks by result", self.attempts.clone());
        registry.register(
            "llm_d_epp_model_rewrite_decisions",
            "Requests for which a rule named another model",
            self.rewrites.clone(),
        );
        for (name, help, family) in [
            ("request_duration_seconds", "From the request's headers to its end", &self.duration),
            ("request_ntpot_seconds", "Duration per output token", &self.per_token),
            ("request_streaming_tpot_seconds", "Mean time per further output token", &self.output_token),
            (
                "request_streaming_itl_seconds",
                "Time between two pieces of a streamed answer",
                &self.token_gap,
            ),
            ("request_size_bytes", "Size of the request's body", &self.request_bytes),
            ("response_size_bytes", "Size of the response's body", &self.response_bytes),
            ("request_input_tokens", "Prompt tokens, as the engine counted them", &self.input_tokens),
            ("request_output_tokens", "Completion tokens, as the engine counted them", &self.output_tokens),
            ("request_cached_tokens", "Prompt tokens that the engine had cached", &self.cached_tokens),
        ] {
            registry.register(format!("llm_d_epp_{name}"), help, family.clone());
        }
    }
}

impl RequestMetrics {
    /// The model that serves, as labels write it.
    pub(super) fn target_model(&self) -> &str {
        &self.labels.target_model_name
    }

    fn new(families: Arc<Families>, labels: RequestLabels<'_>) -> Self {
        let labels = Labels {
            model_name: escaped(labels.model),
            target_model_name: escaped(labels.target_model),
            fairness_id: escaped(labels.fairness_id),
            priority: labels.priority,
        };
        Self {
            requests: families.requests.get_or_create_owned(&labels),
            running: families.running.get_or_create_owned(&labels),
            request_bytes: families.request_bytes.get_or_create_owned(&labels),
            ended: OnceLock::new(),
            streamed: OnceLock::new(),
            labels,
            families,
        }
    }

    /// Counts a request that was picked for.
    pub fn picked(&self, request_bytes: usize) {
        self.requests.inc();
        self.running.inc();
        self.request_bytes.observe(request_bytes as f64);
    }

    /// Counts the time in nanoseconds between two pieces of a streamed answer.
    pub fn token_gap(&self, nanoseconds: u64) {
        self.streamed().token_gap.observe(seconds(nanoseconds));
    }

    /// Counts the end of a request that was picked for.
    pub fn completed(&self, served: Served, outcome: &Outcome) {
        self.running.dec();
        let ended = self.ended();
        ended.duration.observe(seconds(served.duration));
        if served.response_bytes > 0 {
            ended.response_bytes.observe(served.response_bytes as f64);
        }
        for (histogram, tokens) in [
            (&ended.input_tokens, outcome.prompt_tokens),
            (&ended.output_tokens, outcome.completion_tokens),
            (&ended.cached_tokens, outcome.cached_tokens),
        ] {
            if let Some(tokens) = tokens {
                histogram.observe(f64::from(tokens));
            }
        }
        let completion_tokens = outcome.completion_tokens.unwrap_or(0);
        if completion_tokens > 0 {
            ended.per_token.observe(seconds(served.duration) / f64::from(completion_tokens));
        }
        let Some(first_token) = served.first_token else {
            if outcome.success {
                ended.first_token.observe(seconds(served.duration));
            }
            return;
        };
        let streamed = self.streamed();
        streamed.first_token.observe(seconds(first_token));
        if completion_tokens > 1 {
            let generation = seconds(served.duration.saturating_sub(first_token));
            streamed.output_token.observe(generation / f64::from(completion_tokens - 1));
        }
    }

    /// Takes a request back whose end nobody will report.
    pub fn lost(&self) {
        self.running.dec();
    }

    /// Counts a request that failed in this way.
    pub fn failed(&self, error_code: &'static str) {
        let Labels { model_name, target_model_name, fairness_id, priority } = self.labels.clone();
        let labels = ErrorLabels { model_name, target_model_name, fairness_id, priority, error_code };
        self.families.errors.get_or_create(&labels).inc();
    }

    /// Counts a rule that named another model.
    pub fn rewritten(&self, rule: &str) {
        let labels = RewriteLabels {
            model_rewrite_name: escaped(rule),
            model_name: self.labels.model_name.clone(),
            target_model: self.labels.target_model_name.clone(),
        };
        self.families.rewrites.get_or_create(&labels).inc();
    }

    fn ended(&self) -> &EndedMetrics {
        let Self { families, labels, .. } = self;
        self.ended.get_or_init(|| EndedMetrics {
            duration: families.duration.get_or_create_owned(labels),
            per_token: families.per_token.get_or_create_owned(labels),
            first_token: families.first_token.get_or_create_owned(&labels.with_streaming("false")),
            response_bytes: families.response_bytes.get_or_create_owned(labels),
            input_tokens: families.input_tokens.get_or_create_owned(labels),
            output_tokens: families.output_tokens.get_or_create_owned(labels),
            cached_tokens: families.cached_tokens.get_or_create_owned(labels),
        })
    }

    fn streamed(&self) -> &StreamedMetrics {
        let Self { families, labels, .. } = self;
        self.streamed.get_or_init(|| StreamedMetrics {
            first_token: families.first_token.get_or_create_owned(&labels.with_streaming("true")),
            output_token: families.output_token.get_or_create_owned(labels),
            token_gap: families.token_gap.get_or_create_owned(labels),
        })
    }
}

impl Labels {
    fn with_streaming(&self, streaming: &'static str) -> FirstTokenLabels {
        let Self { model_name, target_model_name, fairness_id, priority } = self.clone();
        FirstTokenLabels { model_name, target_model_name, fairness_id, priority, streaming }
    }
}

/// A value from a client, unless it is longer than names are.
pub(super) fn bounded(value: &str) -> &str {
    if value.len() <= MAX_LABEL_BYTES { value } else { OTHER }
}

/// A label's value as the text format wants it; prometheus-client writes what it is given.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn powers_of_two(from: u32, to: u32) -> impl Iterator<Item = f64> {
    (from..=to).map(|exponent| f64::from(1_u32 << exponent))
}

/// 1, 8, 16, 32 and so on.
fn one_then_powers_of_two(to: u32) -> impl Iterator<Item = f64> {
    [1.0].into_iter().chain(powers_of_two(3, to))
}
