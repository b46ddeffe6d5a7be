//! Where the configuration comes from: a file or text in one of two formats, or what runs without any.

use std::collections::HashMap;
use std::path::Path;

use p3sched::{Endpoint, SchedulerConfig};
use serde::Deserialize;

use crate::discovery::EndpointEntry;
use crate::endpoint_picker_config::{self, WrittenSaturation};
use crate::flags::Flags;
use crate::kv_events::KvEventSettings;
use crate::policies::{ModelRewrite, WrittenPolicies};
use crate::pool_config::PoolEntry;
use crate::profiles::ProfileSettings;
use crate::scrape::Scheme;

/// What was configured, before the flags that go over it.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// What said how endpoints are picked, for people.
    pub(crate) profile: String,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) profiles: ProfileSettings,
    /// The endpoints, if the configuration names them.
    pub(crate) endpoints: Option<Vec<Endpoint>>,
    pub(crate) policies: WrittenPolicies,
    pub(crate) saturation: WrittenSaturation,
    /// Whether conformance tests say in a header where to route.
    pub(crate) serves_tests: bool,
    pub(crate) metrics_page: MetricsPage,
    /// The pools, where the configuration is about several.
    pub(crate) pools: Vec<PoolEntry>,
    /// Where engines publish their KV events.
    pub(crate) kv_events: KvEventSettings,
    /// What works otherwise than where the configuration was written for.
    pub(crate) notes: Vec<String>,
}

/// How engines serve their metrics, as far as the configuration says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MetricsPage {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) path: Option<String>,
    pub(crate) skip_verify: Option<bool>,
}

/// Our own format.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    /// How endpoints are picked.
    scheduler: SchedulerConfig,
    /// The endpoints, where no flag names them.
    endpoints: Option<Vec<EndpointEntry>>,
    /// Priority by name of the objective.
    objectives: HashMap<String, i32>,
    /// Other names of models.
    #[serde(alias = "modelRewrites")]
    model_rewrites: Vec<ModelRewrite>,
    /// The models that are served, where requests for others shall be refused.
    models: Option<Vec<String>>,
    /// Several pools, each with its endpoints and its authorities.
    pools: Vec<PoolEntry>,
    /// Where engines publish their KV events, where no flag says it.
    kv_events: KvEventSettings,
}

/// What the flags name, else what runs without a configuration.
pub(crate) fn configuration(flags: &Flags) -> Result<Configuration, String> {
    if let Some(path) = &flags.config_file {
        return read_file(path);
    }
    match &flags.config_text {
        Some(text) if !text.trim().is_empty() => {
            parse(text).map_err(|error| format!("invalid configuration, {error}: `--config-text`"))
        }
        _ => without_configuration(flags.pool_name.is_some() || !flags.pool.is_empty()),
    }
}

/// Reads a configuration of either format.
///
/// # Errors
///
/// The message names the file and, where the content is wrong, line and column.
pub(crate) fn read_file(path: &Path) -> Result<Configuration, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read configuration file, {error}: `{}`", path.display()))?;
    parse(&text).map_err(|error| format!("invalid configuration file, {error}: `{}`", path.display()))
}

pub(crate) fn parse(text: &str) -> Result<Configuration, String> {
    if endpoint_picker_config::is_one(text) {
        return endpoint_picker_config::translate(text);
    }
    if text.trim().is_empty() {
        return without_configuration(false);
    }
    let file: ConfigFile = serde_norway::from_str(text).map_err(|error| error.to_string())?;
    Ok(Configuration {
        profile: "configuration".to_owned(),
        scheduler: file.scheduler,
        endpoints: file.endpoints.map(|entries| entries.into_iter().map(|entry| entry.0).collect()),
        policies: WrittenPolicies {
            objectives: file.objectives,
            model_rewrites: file.model_rewrites,
            served_models: file.models,
        },
        pools: file.pools,
        kv_events: file.kv_events,
        ..Configuration::default()
    })
}

/// Whoever starts the server for an `InferencePool` expects what the reference picker runs then.
fn without_configuration(for_pool: bool) -> Result<Configuration, String> {
    if !for_pool {
        return Ok(Configuration { profile: "preset `default`".to_owned(), ..Configuration::default() });
    }
    let translated = endpoint_picker_config::translate(endpoint_picker_config::DEFAULT)?;
    Ok(Configuration { profile: "default of an InferencePool".to_owned(), ..translated })
}
