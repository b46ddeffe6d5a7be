//! `SchedulerConfig`: the only configuration type, the same YAML or JSON in every language.

mod file;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Error, picker, preset};

/// Everything that can be set about a [`Scheduler`](crate::Scheduler).
///
/// Every field has a default, so `SchedulerConfig::default()` is a working configuration and a file names only what it
/// changes. A [preset] sets the filters, scorers, picker and load gate that a file does not. Unknown
/// fields are errors.
///
/// # Example
///
/// ```
/// use p3sched::SchedulerConfig;
///
/// let config: SchedulerConfig = serde_norway::from_str("
/// scorers:
///   - {type: prefix-cache-scorer, weight: 5}
///   - {type: queue-scorer}
/// fallbacks: 1
/// ").unwrap();
/// assert_eq!(config.scorers[1].weight, 1.0);
///
/// let config: SchedulerConfig = serde_norway::from_str("{preset: latency, load_gate_seconds: 2}").unwrap();
/// assert_eq!(config.scorers, SchedulerConfig::preset("latency").unwrap().scorers);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "file::ConfigFile")]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// The [preset] that set what the configuration did not. To change it in code, start from
    /// [`SchedulerConfig::preset`]; writing another name here changes nothing else.
    pub preset: String,
    /// The filters, in the order in which they run.
    pub filters: Vec<FilterConfig>,
    /// The scorers and their weights; by default prefix 3, queue 1, KV use 1.
    pub scorers: Vec<ScorerConfig>,
    /// How one of the scored endpoints is chosen.
    pub picker: PickerConfig,
    /// How many further endpoints a decision names, to be tried in order if the first fails.
    pub fallbacks: usize,
    /// Seconds that an endpoint's predicted wait may be longer than the shortest one, beyond what its cached prefix
    /// saves, before `load-gate-filter` drops it; `null` switches the gate off.
    pub load_gate_seconds: Option<f64>,
    /// Where chance decides, the same seed makes the same choices.
    pub seed: u64,
    /// Tokens per block of the prefix index. Engines use 16, some 32 or more; smaller finds shorter matches.
    pub block_size_tokens: u32,
    /// Bytes of prompt text that stand for one token where there are no token ids.
    pub bytes_per_token: u32,
    /// Tokens of the prompt's head that are looked up and remembered; `null` for all.
    pub max_prefix_tokens: Option<u32>,
    /// Bound of the prefix index in bytes, all endpoints together.
    pub index_max_bytes: usize,
    /// KV cache of an endpoint in tokens, where the engine does not report it. Too small costs far more than too large.
    pub default_capacity_tokens: u64,
    /// Prefill rate of every endpoint in tokens per second; `null` to learn it from first-token times.
    pub prefill_tokens_per_second: Option<f64>,
    /// When scraped metrics stop to count.
    pub metrics: MetricsConfig,
    /// When bookings that nobody ended expire.
    pub bookings: BookingConfig,
    /// What the KV events of engines are taken for.
    pub kv_events: KvEventConfig,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        let mut config = Self {
            preset: String::new(),
            filters: Vec::new(),
            scorers: Vec::new(),
            picker: PickerConfig::default(),
            fallbacks: 0,
            load_gate_seconds: None,
            seed: 0,
            block_size_tokens: 16,
            bytes_per_token: 4,
            max_prefix_tokens: None,
            index_max_bytes: 1 << 30,
            default_capacity_tokens: 4 << 20,
            prefill_tokens_per_second: None,
            metrics: MetricsConfig::default(),
            bookings: BookingConfig::default(),
            kv_events: KvEventConfig::default(),
        };
        preset::apply("default", &mut config);
        config
    }
}

/// How engines' metrics are read, and when they stop to count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "names and values of `metrics`")]
#[non_exhaustive]
pub struct MetricsConfig {
    /// The engine whose names alone count on a page; `null` for whichever wrote it.
    pub engine: Option<Engine>,
    /// Names of metrics that are not called as the engines call them.
    pub names: MetricNames,
    /// Seconds up to which a scrape counts fully.
    pub fresh_seconds: f64,
    /// Seconds after which a scrape counts nothing; between the two it fades linearly.
    pub expire_seconds: f64,
    /// Failed scrapes in a row that an endpoint may be dead after …
    pub dead_after_scrapes: u32,
    /// … and the seconds that must have passed since the first of them.
    pub dead_after_seconds: f64,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            engine: None,
            names: MetricNames::default(),
            fresh_seconds: 1.0,
            expire_seconds: 5.0,
            dead_after_scrapes: 3,
            dead_after_seconds: 3.0,
        }
    }
}

/// A model server whose metrics are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Engine {
    /// vLLM: `vllm:…`
    Vllm,
    /// SGLang: `sglang:…`
    Sglang,
    /// TensorRT-LLM's own server: `trtllm_…`
    TensorrtLlm,
    /// Triton with TensorRT-LLM: `nv_trt_llm_…`
    Triton,
    /// llama.cpp's server: `llamacpp:…`
    LlamaCpp,
}

/// Names of metrics, with labels that a sample must have where one name is not enough: `requests{kind="waiting"}`.
///
/// Each that is given takes the place of the engine's own name for the same thing; `null` leaves that.
///
/// # Example
///
/// ```
/// use p3sched::{Endpoint, Scheduler};
///
/// # fn main() -> Result<(), p3sched::Error> {
/// let config = serde_norway::from_str(r#"metrics: {names: {waiting_requests: 'gateway_requests{state="queued"}'}}"#);
/// let scheduler = Scheduler::new(config.unwrap())?;
/// scheduler.add_endpoint(Endpoint::new("10.0.0.1:8000"))?;
/// let page = b"gateway_requests{state=\"active\"} 9\ngateway_requests{state=\"queued\"} 2\n";
/// scheduler.ingest_metrics("10.0.0.1:8000", page, 0)?;
/// assert_eq!(scheduler.stats(0).endpoints[0].waiting_requests, Some(2.0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "names of metrics")]
#[non_exhaustive]
pub struct MetricNames {
    /// Gauge: requests that wait for their prefill to start.
    pub waiting_requests: Option<String>,
    /// Gauge: requests in the running batch.
    pub running_requests: Option<String>,
    /// Gauge: share of the KV cache in use, in [0, 1].
    pub kv_cache_utilization: Option<String>,
    /// Labels `block_size` (tokens) and `num_gpu_blocks`; the value does not count.
    pub cache_config: Option<String>,
    /// Labels `max_lora`, `running_lora_adapters` and `waiting_lora_adapters` (lists with commas); the value is the time of the
    /// report.
    pub adapters: Option<String>,
}

/// What the [KV events](crate::kv_event) of engines are taken for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "names and values of `kv_events`")]
#[non_exhaustive]
pub struct KvEventConfig {
    /// The model whose prompts the engines' blocks belong to, as requests name it: events do not say. An endpoint with a
    /// label `model` has its own. Blocks computed with an adapter belong to the model named like the adapter.
    pub model: String,
    /// Seconds that the prefix of a pick counts as held before the engine's events have to confirm it.
    pub confirm_within_seconds: f64,
}

impl Default for KvEventConfig {
    fn default() -> Self {
        Self { model: String::new(), confirm_within_seconds: 10.0 }
    }
}

/// When bookings that nobody ended expire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "names and values of `bookings`")]
#[non_exhaustive]
pub struct BookingConfig {
    /// Seconds after which a prefill is taken as done where no first token is reported and no prefill rate is known.
    /// With a known rate it is twice the predicted time, at least one second.
    pub first_token_timeout_seconds: f64,
    /// Seconds after which a request is taken as completed.
    pub request_timeout_seconds: f64,
}

impl Default for BookingConfig {
    fn default() -> Self {
        Self { first_token_timeout_seconds: 10.0, request_timeout_seconds: 600.0 }
    }
}

/// One scorer of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a scorer with its `type`")]
#[non_exhaustive]
pub struct ScorerConfig {
    /// Type name, for example `prefix-cache-scorer`.
    #[serde(rename = "type")]
    pub scorer_type: String,
    /// What its score is multiplied by.
    #[serde(default = "one")]
    pub weight: f64,
    /// Parameters of the type, by name; each scorer's documentation lists its own.
    #[serde(default)]
    pub parameters: BTreeMap<String, f64>,
}

impl ScorerConfig {
    /// A scorer with default parameters.
    pub fn new(scorer_type: impl Into<String>, weight: f64) -> Self {
        Self { scorer_type: scorer_type.into(), weight, parameters: BTreeMap::new() }
    }

    pub(crate) fn parameters(&self) -> Parameters<'_> {
        Parameters { owner: &self.scorer_type, left: self.parameters.clone() }
    }
}

/// One filter of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a filter with its `type`")]
#[non_exhaustive]
pub struct FilterConfig {
    /// Type name, for example `reachable-filter`.
    #[serde(rename = "type")]
    pub filter_type: String,
    /// Parameters of the type, by name; each filter's documentation lists its own.
    #[serde(default)]
    pub parameters: BTreeMap<String, f64>,
}

impl FilterConfig {
    /// A filter with default parameters.
    pub fn new(filter_type: impl Into<String>) -> Self {
        Self { filter_type: filter_type.into(), parameters: BTreeMap::new() }
    }

    pub(crate) fn parameters(&self) -> Parameters<'_> {
        Parameters { owner: &self.filter_type, left: self.parameters.clone() }
    }
}

/// How one of the scored endpoints is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a picker with its `type`")]
#[non_exhaustive]
pub struct PickerConfig {
    /// Type name, for example `max-score-picker`.
    #[serde(rename = "type")]
    pub picker_type: String,
    /// Parameters of the type, by name; each picker's documentation lists its own.
    #[serde(default)]
    pub parameters: BTreeMap<String, f64>,
}

impl PickerConfig {
    /// A picker with default parameters.
    pub fn new(picker_type: impl Into<String>) -> Self {
        Self { picker_type: picker_type.into(), parameters: BTreeMap::new() }
    }

    pub(crate) fn parameters(&self) -> Parameters<'_> {
        Parameters { owner: &self.picker_type, left: self.parameters.clone() }
    }
}

impl Default for PickerConfig {
    fn default() -> Self {
        Self::new(picker::max_score::TYPE)
    }
}

impl SchedulerConfig {
    /// The configuration of a [preset], all else at its default.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] lists the presets if there is none of this name.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::{Scheduler, SchedulerConfig};
    ///
    /// let mut config = SchedulerConfig::preset("kserve-current")?;
    /// config.fallbacks = 1;
    /// let scheduler = Scheduler::new(config)?;
    /// # Ok::<(), p3sched::Error>(())
    /// ```
    pub fn preset(name: &str) -> Result<Self, Error> {
        preset::check(name)?;
        let mut config = Self::default();
        preset::apply(name, &mut config);
        Ok(config)
    }

    /// Checks every value that a type alone does not.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] names the first field that cannot work, its value and what would be right.
    pub fn validate(&self) -> Result<(), Error> {
        preset::check(&self.preset)?;
        for scorer in &self.scorers {
            require_weight(&scorer.scorer_type, scorer.weight)?;
        }
        if let Some(gate) = self.load_gate_seconds {
            require(
                "load_gate_seconds",
                gate,
                gate.is_finite() && gate >= 0.0,
                "seconds, 0 or more, or null",
            )?;
        }
        require("index_max_bytes", self.index_max_bytes, self.index_max_bytes >= 1 << 16, "65536 or more")?;
        if let Some(rate) = self.prefill_tokens_per_second {
            require(
                "prefill_tokens_per_second",
                rate,
                rate.is_finite() && rate > 0.0,
                "more than 0, or null",
            )?;
        }
        self.metrics.validate()?;
        self.bookings.validate()?;
        require_duration("kv_events.confirm_within_seconds", self.kv_events.confirm_within_seconds)
    }
}

impl MetricsConfig {
    fn validate(&self) -> Result<(), Error> {
        require_duration("metrics.fresh_seconds", self.fresh_seconds)?;
        require_duration("metrics.expire_seconds", self.expire_seconds)?;
        require_duration("metrics.dead_after_seconds", self.dead_after_seconds)?;
        let later = self.expire_seconds > self.fresh_seconds;
        require("metrics.expire_seconds", self.expire_seconds, later, "more than metrics.fresh_seconds")
    }
}

impl BookingConfig {
    fn validate(&self) -> Result<(), Error> {
        require_duration("bookings.first_token_timeout_seconds", self.first_token_timeout_seconds)?;
        require_duration("bookings.request_timeout_seconds", self.request_timeout_seconds)
    }
}

/// Parameters of one plugin; what nobody asked for is an error.
pub(crate) struct Parameters<'a> {
    owner: &'a str,
    left: BTreeMap<String, f64>,
}

impl Parameters<'_> {
    /// Takes one number, or its default.
    pub(crate) fn number(
        &mut self,
        name: &str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> Result<f64, Error> {
        let value = self.left.remove(name).unwrap_or(default);
        let right = format!("{} to {}", range.start(), range.end());
        require(&format!("parameter `{name}` of {}", self.owner), value, range.contains(&value), &right)?;
        Ok(value)
    }

    /// Takes a switch: 1 is on, 0 and nothing are off.
    pub(crate) fn switch(&mut self, name: &str) -> Result<bool, Error> {
        let value = self.left.remove(name).unwrap_or(0.0);
        let holds = value == 0.0 || value == 1.0;
        require(&format!("parameter `{name}` of {}", self.owner), value, holds, "0 or 1")?;
        Ok(value == 1.0)
    }

    /// Refuses what is left.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(Error::InvalidConfig(format!("{} has no parameter of this name: `{name}`", self.owner)))
            }
        }
    }
}

/// The error for a name that is none of the known ones; proposes the nearest of them.
pub(crate) fn unknown_name(kind: &str, name: &str, known: &[&str]) -> Error {
    /// From this similarity in [0, 1] on, the known name is likely to be what was meant.
    const LIKELY: f64 = 0.8;
    let rated = known.iter().map(|known| (strsim::jaro_winkler(known, name), known));
    let nearest =
        rated.max_by(|(a, _), (b, _)| a.total_cmp(b)).filter(|(similarity, _)| *similarity >= LIKELY);
    let hint = nearest.map_or_else(String::new, |(_, known)| format!(" (did you mean `{known}`?)"));
    Error::InvalidConfig(format!("unknown {kind} `{name}`{hint}, expected one of: {}", known.join(", ")))
}

pub(crate) fn require(
    name: &str,
    value: impl std::fmt::Display,
    holds: bool,
    right: &str,
) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::InvalidConfig(format!("{name} must be {right}: `{value}`")))
}

pub(crate) fn require_weight(scorer: &str, weight: f64) -> Result<(), Error> {
    let usable = weight.is_finite() && weight >= 0.0;
    require(&format!("weight of {scorer}"), weight, usable, "a number, 0 or more")
}

/// A year is longer than any sensible time span and still fits into nanoseconds.
fn require_duration(name: &str, seconds: f64) -> Result<(), Error> {
    require(name, seconds, (0.0..=31_536_000.0).contains(&seconds), "seconds, 0 or more")
}

fn one() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(yaml: &str) -> String {
        let config: SchedulerConfig = serde_norway::from_str(yaml).unwrap();
        let error = crate::Scheduler::new(config).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), "InvalidConfig");
        error.to_string()
    }

    #[test]
    fn a_bad_value_is_named_with_what_would_be_right() {
        for (yaml, message) in [
            ("scorers: []", "scorers must be at least one scorer: `0`"),
            ("block_size_tokens: 0", "block_size_tokens must be 1 to 1024: `0`"),
            ("load_gate_seconds: -1", "load_gate_seconds must be seconds, 0 or more, or null: `-1`"),
            ("metrics: {fresh_seconds: 5, expire_seconds: 5}", "more than metrics.fresh_seconds: `5`"),
            (
                "scorers: [{type: quue-scorer}]",
                "unknown scorer type `quue-scorer` (did you mean `queue-scorer`?), expected one of: prefix-cache",
            ),
            ("scorers: [{type: queue-scorer, weight: .nan}]", "weight of queue-scorer must be a number"),
            ("scorers: [{type: queue-scorer, parameters: {x: 1}}]", "no parameter of this name: `x`"),
            (
                "scorers: [{type: prefix-cache-scorer, parameters: {length_weight: 2}}]",
                "parameter `length_weight` of prefix-cache-scorer must be 0 to 1: `2`",
            ),
            ("scorers: [{type: queue-scorer, parameters: {scraped: 2}}]", "must be 0 or 1: `2`"),
            (
                "filters: [{type: subset}]",
                "`subset` (did you mean `subset-filter`?), expected one of: subset-",
            ),
            ("filters: [{type: role-filter, parameters: {x: 1}}]", "no parameter of this name: `x`"),
            (
                "preset: kserve",
                "unknown preset `kserve` (did you mean `kserve-0.15`?), expected one of: default",
            ),
            ("picker: {type: random-picker, parameters: {x: 1}}", "no parameter of this name: `x`"),
            (
                "metrics: {names: {adapters: 'lora info'}}",
                "metrics.names.adapters must be a metric's name, with labels or without (`engine:waiting{kind=\"prefill\"}`): `lora info`",
            ),
            ("picker: {type: best}", "unknown picker type `best`, expected one of: max-score-picker"),
        ] {
            let refusal = refused(yaml);
            assert!(refusal.contains(message), "{yaml}: {refusal}");
        }
    }

    #[test]
    fn unknown_fields_are_errors() {
        let error = serde_norway::from_str::<SchedulerConfig>("fallback: 1").unwrap_err().to_string();
        assert!(error.contains("unknown field `fallback`"), "{error}");
        let error = serde_norway::from_str::<SchedulerConfig>("scorers: null").unwrap_err().to_string();
        assert!(error.contains("scorers"), "{error}");
    }

    #[test]
    fn a_preset_fills_what_the_file_leaves_out() {
        let read = |yaml| serde_norway::from_str::<SchedulerConfig>(yaml).unwrap();
        assert_eq!(read("preset: literal-3-1-1"), SchedulerConfig::preset("literal-3-1-1").unwrap());
        let mut expected = SchedulerConfig::preset("min-ttft").unwrap();
        expected.load_gate_seconds = Some(2.0);
        expected.fallbacks = 3;
        assert_eq!(read("{fallbacks: 3, load_gate_seconds: 2, preset: min-ttft}"), expected);
        assert_eq!(read("load_gate_seconds: null").load_gate_seconds, None);
        assert_eq!(read("{}"), SchedulerConfig::default());
    }

    #[test]
    fn every_preset_works_and_survives_a_round_trip() {
        for name in preset::names() {
            let config = SchedulerConfig::preset(name).unwrap();
            assert!(crate::Scheduler::new(config.clone()).is_ok(), "{name}");
            let text = serde_norway::to_string(&config).unwrap();
            assert_eq!(serde_norway::from_str::<SchedulerConfig>(&text).unwrap(), config, "{name}");
        }
    }
}
