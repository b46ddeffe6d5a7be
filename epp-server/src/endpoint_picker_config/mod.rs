//! `EndpointPickerConfig`, the configuration of the reference picker, translated into ours.
//!
//! Both API groups and the spellings of all releases are read. What is not built, or not known, is an error with its place;
//! what works otherwise than in the reference picker becomes a note.
//!
//! | there | here |
//! |---|---|
//! | scorers, filters, pickers of the profile | the same, weights 1 where none is given |
//! | filters by label | the endpoints of the profile's scheduler |
//! | – | always subset, role and reachable filter; the load gate where a prefix-cache-scorer is added up |
//! | a handler of several profiles | one scheduler that requests go to, and one for prefill elsewhere |
//! | `approx-prefix-cache-producer`, or the same parameters on the scorer | block size, length and capacity of the index |
//! | `precise-prefix-cache-producer`, or the same parameters on its scorer | block size, and where KV events are read |
//! | `metrics-data-source`, `core-metrics-extractor` | scheme, path and names of the engines' metrics |

mod data_layer;
mod document;
mod handler;
mod label_filters;
mod parameters;
mod plugin_types;
mod prefix_events;
mod profile;
mod saturation;
mod sections;

use p3sched::Scheduler;
use serde_norway::Value;

use self::document::{Fault, Node, nearest};
use self::handler::Chosen;
use self::plugin_types::Part;
pub(crate) use self::saturation::WrittenSaturation;
use crate::config_source::Configuration;
use crate::profiles::{PrefillSettings, ProfileSettings};

/// What the reference picker runs without a configuration.
pub(crate) const DEFAULT: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
";

const API_VERSIONS: [&str; 3] =
    ["llm-d.ai/v1", "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"];

/// Whether a text is written in this format, right or wrong.
pub(crate) fn is_one(text: &str) -> bool {
    match serde_norway::from_str::<Value>(text) {
        Ok(value) => {
            let keys = ["kind", "apiVersion", "plugins", "schedulingProfiles"];
            keys.iter().any(|key| value.get(key).is_some())
        }
        // What cannot be read at all is told apart by its name.
        Err(_unreadable) => text.contains("EndpointPickerConfig"),
    }
}

/// Translates a text.
///
/// # Errors
///
/// The message names what is wrong with path, line and column, and what would be right.
pub(crate) fn translate(text: &str) -> Result<Configuration, String> {
    let mut value: Value = serde_norway::from_str(text).map_err(|error| error.to_string())?;
    value.apply_merge().map_err(|error| error.to_string())?;
    let configuration = read(&Node::root(&value)).map_err(|fault| fault.describe(text))?;
    // What only the scheduler checks.
    let prefill = configuration.profiles.prefill.iter().map(|prefill| &prefill.scheduler);
    for scheduler in prefill.chain([&configuration.scheduler]) {
        Scheduler::new(scheduler.clone()).map_err(|error| error.to_string())?;
    }
    Ok(configuration)
}

/// One entry of `plugins`.
struct Plugin<'a> {
    name: &'a str,
    part: Part,
    node: Node<'a>,
    parameters: Option<Node<'a>>,
}

/// One reference of a profile.
struct Reference<'p, 'a> {
    plugin: &'p Plugin<'a>,
    node: Option<Node<'a>>,
    weight: Option<f64>,
}

fn read(root: &Node<'_>) -> Result<Configuration, Fault> {
    root.only(&[
        "apiVersion",
        "kind",
        "metadata",
        "plugins",
        "schedulingProfiles",
        "dataLayer",
        "saturationDetector",
        "flowControl",
        "requestHandler",
        "parser",
        "featureGates",
    ])?;
    check_version(root)?;
    let plugins = plugins(root)?;
    let mut configuration = Configuration::default();
    configuration.scheduler.filters.clear();
    configuration.scheduler.scorers.clear();
    let chosen = handler::chosen(root, &plugins, &mut configuration.notes)?;
    read_server_plugins(&plugins, &mut configuration)?;
    read_profiles(&plugins, chosen, &mut configuration)?;
    sections::read(root, &plugins, &mut configuration)?;
    let mut seen = std::collections::HashSet::new();
    configuration.notes.retain(|note| seen.insert(note.clone()));
    Ok(configuration)
}

fn check_version(root: &Node<'_>) -> Result<(), Fault> {
    let kind = root.required("kind")?;
    if kind != "EndpointPickerConfig" {
        return Err(root
            .get("kind")
            .map_or_else(|| root.fault(""), |kind| kind.fault("must be `EndpointPickerConfig`")));
    }
    let version = root.required("apiVersion")?;
    match root.get("apiVersion") {
        Some(node) if !API_VERSIONS.contains(&version) => {
            Err(node.fault(&format!("must be one of `{}`", API_VERSIONS.join("`, `"))))
        }
        _ => Ok(()),
    }
}

fn plugins<'a>(root: &Node<'a>) -> Result<Vec<Plugin<'a>>, Fault> {
    let mut plugins: Vec<Plugin<'a>> = Vec::new();
    for node in root.list("plugins")? {
        node.only(&["name", "type", "parameters"])?;
        let written = node.required("type")?;
        let Some(type_node) = node.get("type") else { continue };
        let part = plugin_types::part_of(written).map_err(|message| type_node.fault(&message))?;
        let name_node = node.get("name").unwrap_or(type_node);
        let name = name_node.text()?;
        if plugins.iter().any(|plugin| plugin.name == name) {
            return Err(name_node.fault("two plugins have this name"));
        }
        let parameters = node.get("parameters");
        plugins.push(Plugin { name, part, node, parameters });
    }
    Ok(plugins)
}

fn references<'p, 'a>(
    profile: &Node<'a>,
    plugins: &'p [Plugin<'a>],
) -> Result<Vec<Reference<'p, 'a>>, Fault> {
    let mut references = Vec::new();
    for node in profile.list("plugins")? {
        node.only(&["pluginRef", "weight"])?;
        let plugin = referenced(&node, plugins)?;
        let weight = node.get("weight").map(|weight| weight.number(0.0, f64::MAX)).transpose()?;
        references.push(Reference { plugin, node: Some(node), weight });
    }
    Ok(references)
}

fn every_reference<'p, 'a>(plugins: &'p [Plugin<'a>]) -> Vec<Reference<'p, 'a>> {
    let fits = |plugin: &&Plugin<'_>| {
        matches!(plugin.part, Part::Filter(_) | Part::Labels(_) | Part::Scorer(_) | Part::Picker(_))
    };
    plugins.iter().filter(fits).map(|plugin| Reference { plugin, node: None, weight: None }).collect()
}

/// The plugin that `pluginRef` names.
fn referenced<'p, 'a>(node: &Node<'_>, plugins: &'p [Plugin<'a>]) -> Result<&'p Plugin<'a>, Fault> {
    let name = node.required("pluginRef")?;
    if let Some(plugin) = plugins.iter().find(|plugin| plugin.name == name) {
        return Ok(plugin);
    }
    let hint = nearest(name, plugins.iter().map(|plugin| plugin.name))
        .map_or_else(String::new, |nearest| format!(", the nearest one is `{nearest}`"));
    let reference = node.get("pluginRef").unwrap_or_else(|| node.clone());
    Err(reference.fault(&format!("there is no plugin of this name{hint}")))
}

/// Plugins that are not part of a profile.
fn read_server_plugins(plugins: &[Plugin<'_>], configuration: &mut Configuration) -> Result<(), Fault> {
    let Configuration { scheduler, metrics_page, kv_events, notes, saturation, serves_tests, .. } =
        configuration;
    let has_event_index = plugins.iter().any(|plugin| plugin.part == Part::EventIndex);
    let mut index: Option<&str> = None;
    for plugin in plugins {
        match (plugin.part, &plugin.parameters) {
            (Part::PrefixIndex | Part::EventIndex | Part::EventScorer, parameters) => {
                if plugin.part == Part::EventScorer && parameters.is_none() && has_event_index {
                    continue;
                }
                if let Some(first) = index.replace(plugin.name) {
                    return Err(plugin
                        .node
                        .fault(&format!("there can be one prefix index, there is: `{first}`")));
                }
                match (plugin.part, parameters) {
                    (Part::PrefixIndex, None) => {}
                    (Part::PrefixIndex, Some(parameters)) => {
                        parameters.only(&parameters::INDEX)?;
                        parameters::index(parameters, scheduler, notes)?;
                    }
                    (_, parameters) => {
                        prefix_events::read(parameters.as_ref(), scheduler, kv_events, notes)?;
                    }
                }
            }
            (Part::MetricsSource, Some(parameters)) => {
                *metrics_page = data_layer::metrics_source(parameters)?;
            }
            (Part::MetricsExtractor, Some(parameters)) => {
                data_layer::metrics_extractor(parameters, &mut scheduler.metrics.names, notes)?;
            }
            (Part::TokenEstimate, Some(parameters)) => token_producer(parameters, notes)?,
            (Part::Saturation, Some(parameters)) => {
                parameters.only(&saturation::PARAMETERS)?;
                saturation::read(parameters, saturation, notes)?;
            }
            (Part::ConformanceTest, _) => *serves_tests = true,
            (Part::InFlightLoad, Some(parameters)) => parameters.only(&["prefixMatchInfoProducerName"])?,
            (Part::BuiltIn | Part::EndpointEvents, Some(parameters)) => parameters.only(&[])?,
            (Part::WithoutEffect(why), _) => notes.push(format!("{} has no effect: {why}", plugin.name)),
            _ => {}
        }
    }
    Ok(())
}

/// What would make tokens of prompts; nothing here does.
fn token_producer(parameters: &Node<'_>, notes: &mut Vec<String>) -> Result<(), Fault> {
    parameters.only(&[
        "estimate",
        "modelName",
        "vllm",
        "vllmHTTP",
        "udsTokenizerConfig",
        "tokenizersPoolConfig",
    ])?;
    let (estimate, is_told) = (parameters.get("estimate"), !parameters.entries()?.is_empty());
    if estimate.is_none() && is_told {
        notes.push(
            "nothing here makes tokens of text: prompts are counted as four bytes per token".to_owned(),
        );
    }
    if let Some(estimate) = estimate
        && !estimate.entries()?.is_empty()
    {
        notes.push("`estimate` has no effect: images are not counted as tokens".to_owned());
    }
    Ok(())
}

/// The profiles that run, over what is configured for all of them.
fn read_profiles(
    plugins: &[Plugin<'_>],
    chosen: Chosen<'_, '_>,
    configuration: &mut Configuration,
) -> Result<(), Fault> {
    let Configuration { scheduler, notes, .. } = configuration;
    let Chosen { first, prefill, primary_port } = chosen;
    if prefill.is_some() {
        // There is an index for each, and the bound is one for all.
        scheduler.index_max_bytes /= 2;
    }
    let mut prefill_scheduler = scheduler.clone();
    let endpoints = profile::read(plugins, &first.references, scheduler, notes)?;
    configuration.profile = format!("EndpointPickerConfig, profile `{}`", first.name);
    let mut used: Vec<&str> = first.references.iter().map(|reference| reference.plugin.name).collect();
    let prefill = match prefill {
        None => None,
        Some((prefill, decider)) => {
            let endpoints = profile::read(plugins, &prefill.references, &mut prefill_scheduler, notes)?;
            used.extend(prefill.references.iter().map(|reference| reference.plugin.name));
            let name = prefill.name.to_owned();
            Some(PrefillSettings { name, scheduler: prefill_scheduler, endpoints, decider })
        }
    };
    profile::note_unused(plugins, |name| used.contains(&name), notes);
    configuration.profiles = ProfileSettings { endpoints, prefill, primary_port };
    Ok(())
}
