//! How a configuration is read: its preset fills what it leaves out.

use serde::{Deserialize, Deserializer};

use super::{
    BookingConfig, FilterConfig, KvEventConfig, MetricsConfig, PickerConfig, SchedulerConfig, ScorerConfig,
};

/// A configuration as it is written; what a preset decides is `None` where it is left out.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    rename = "SchedulerConfig",
    expecting = "a configuration of the scheduler, names and values"
)]
pub(super) struct ConfigFile {
    preset: String,
    #[serde(deserialize_with = "given")]
    filters: Option<Vec<FilterConfig>>,
    #[serde(deserialize_with = "given")]
    scorers: Option<Vec<ScorerConfig>>,
    #[serde(deserialize_with = "given")]
    picker: Option<PickerConfig>,
    fallbacks: usize,
    #[serde(deserialize_with = "given")]
    load_gate_seconds: Option<Option<f64>>,
    seed: u64,
    block_size_tokens: u32,
    bytes_per_token: u32,
    max_prefix_tokens: Option<u32>,
    index_max_bytes: usize,
    default_capacity_tokens: u64,
    prefill_tokens_per_second: Option<f64>,
    metrics: MetricsConfig,
    bookings: BookingConfig,
    kv_events: KvEventConfig,
}

impl Default for ConfigFile {
    fn default() -> Self {
        let config = SchedulerConfig::default();
        Self {
            preset: config.preset,
            filters: None,
            scorers: None,
            picker: None,
            fallbacks: config.fallbacks,
            load_gate_seconds: None,
            seed: config.seed,
            block_size_tokens: config.block_size_tokens,
            bytes_per_token: config.bytes_per_token,
            max_prefix_tokens: config.max_prefix_tokens,
            index_max_bytes: config.index_max_bytes,
            default_capacity_tokens: config.default_capacity_tokens,
            prefill_tokens_per_second: config.prefill_tokens_per_second,
            metrics: config.metrics,
            bookings: config.bookings,
            kv_events: config.kv_events,
        }
    }
}

impl From<ConfigFile> for SchedulerConfig {
    fn from(file: ConfigFile) -> Self {
        // A preset that does not exist stays in the configuration, for `validate` to refuse it with its name.
        let preset = Self::preset(&file.preset).unwrap_or_default();
        Self {
            preset: file.preset,
            filters: file.filters.unwrap_or(preset.filters),
            scorers: file.scorers.unwrap_or(preset.scorers),
            picker: file.picker.unwrap_or(preset.picker),
            fallbacks: file.fallbacks,
            load_gate_seconds: file.load_gate_seconds.unwrap_or(preset.load_gate_seconds),
            seed: file.seed,
            block_size_tokens: file.block_size_tokens,
            bytes_per_token: file.bytes_per_token,
            max_prefix_tokens: file.max_prefix_tokens,
            index_max_bytes: file.index_max_bytes,
            default_capacity_tokens: file.default_capacity_tokens,
            prefill_tokens_per_second: file.prefill_tokens_per_second,
            metrics: file.metrics,
            bookings: file.bookings,
            kv_events: file.kv_events,
        }
    }
}

/// Tells a value that is written, `null` included, from one that is left out.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}
