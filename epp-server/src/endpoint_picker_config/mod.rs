//! `EndpointPickerConfig`, the configuration of the reference picker, translated into ours.
//!
//! Both API groups and the spellings of all releases are read. What is not built, or not known, is an error with its place;
//! what works otherwise than in the reference picker becomes a note.
//!
//! | there | here |
//! |---|---|
//! | scorers, filters, pickers of the profile | the same, weights 1 where none is given |
//! | – | always subset, role and reachable filter; the load gate where a prefix-cache-scorer is added up |
//! | `approx-prefix-cache-producer`, or the same parameters on the scorer | block size, length and capacity of the index |
//! | `metrics-data-source`, `core-metrics-extractor` | scheme, path and names of the engines' metrics |

mod data_layer;
mod document;
mod parameters;
mod plugin_types;
mod saturation;

use p3sched::config::{FilterConfig, PickerConfig, ScorerConfig};
use p3sched::filter::{load_gate, prefix_affinity, reachable, role, subset};
use p3sched::picker::{max_score, random};
use p3sched::scorer::prefix_cache;
use p3sched::{Scheduler, SchedulerConfig};
use serde_norway::Value;

use self::document::{Fault, Node, nearest};
use self::plugin_types::{Decider, Part};
pub(crate) use self::saturation::WrittenSaturation;
use crate::config_source::Configuration;

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
    Scheduler::new(configuration.scheduler.clone()).map_err(|error| error.to_string())?;
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
    let (profile, references) = chosen_profile(root, &plugins, &mut configuration.notes)?;
    configuration.profile = format!("EndpointPickerConfig, profile `{profile}`");
    read_server_plugins(&plugins, &mut configuration)?;
    read_profile(&plugins, &references, &mut configuration)?;
    read_other_sections(root, &plugins, &mut configuration)?;
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

/// Name and plugins of the profile that runs.
fn chosen_profile<'p, 'a>(
    root: &Node<'a>,
    plugins: &'p [Plugin<'a>],
    notes: &mut Vec<String>,
) -> Result<(&'a str, Vec<Reference<'p, 'a>>), Fault> {
    let mut handlers = plugins
        .iter()
        .filter(|plugin| matches!(plugin.part, Part::SingleProfile | Part::DisaggregatedProfiles));
    let handler = handlers.next();
    if let Some(second) = handlers.next() {
        return Err(second.node.fault(&format!("only one profile handler can run: `{}`", second.name)));
    }
    let profiles = root.list("schedulingProfiles")?;
    for profile in &profiles {
        profile.only(&["name", "plugins"])?;
        profile.required("name")?;
    }
    if let Some(handler) = handler.filter(|handler| handler.part == Part::DisaggregatedProfiles) {
        let name = decode_profile(handler, plugins)?;
        let Some(profile) =
            profiles.iter().find(|profile| profile.required("name").is_ok_and(|found| found == name))
        else {
            return Err(handler
                .node
                .fault(&format!("there is no profile for decode of this name: `{name}`")));
        };
        if profiles.len() > 1 {
            notes.push(format!("only the profile `{name}` runs: no decider asks for another one"));
        }
        return Ok((name, references(profile, plugins)?));
    }
    match profiles.as_slice() {
        // Without profiles all that could be in one is.
        [] => Ok(("default", every_reference(plugins))),
        [profile] => Ok((profile.required("name")?, references(profile, plugins)?)),
        [_, second, ..] => Err(second.fault(&format!(
            "only one profile can run without a handler that chooses among them: `{}`",
            second.required("name")?
        ))),
    }
}

/// The profile that a disaggregating handler runs first, which here has to be the only one.
fn decode_profile<'a>(handler: &Plugin<'a>, plugins: &[Plugin<'a>]) -> Result<&'a str, Fault> {
    let Some(parameters) = &handler.parameters else { return Ok("decode") };
    parameters.only(&[
        "profiles",
        "deciders",
        "deciderPluginName",
        "decodeProfile",
        "prefillProfile",
        "encodeProfile",
    ])?;
    if let Some(deciders) = parameters.get("deciders") {
        deciders.only(&["prefill", "encode"])?;
    }
    let old = parameters.get("deciderPluginName");
    let stages = ["prefill", "encode"].into_iter();
    let deciders = stages.filter_map(|stage| parameters.get("deciders")?.get(stage)).chain(old);
    for node in deciders {
        let name = node.text()?;
        let decider = plugins.iter().find(|plugin| plugin.name == name);
        let Some(Plugin { part: Part::Decider(decider), parameters, .. }) = decider else {
            return Err(node.fault("there is no decider of this name"));
        };
        if may_decide(*decider, parameters.as_ref())? {
            return Err(node.fault(
                "this version does no prefill or encoding on other endpoints; hint: let every endpoint do all of it, with \
                 single-profile-handler and one profile",
            ));
        }
    }
    match parameters
        .get("profiles")
        .and_then(|profiles| profiles.get("decode"))
        .or(parameters.get("decodeProfile"))
    {
        Some(name) => name.text(),
        None => Ok("decode"),
    }
}

/// Whether a decider can ever ask for another profile.
fn may_decide(decider: Decider, parameters: Option<&Node<'_>>) -> Result<bool, Fault> {
    match (decider, parameters) {
        (Decider::Always, _) => Ok(true),
        (Decider::ByUncachedTokens, None) => Ok(false),
        (Decider::ByUncachedTokens, Some(parameters)) => {
            parameters.only(&["nonCachedTokens"])?;
            let tokens = parameters.get("nonCachedTokens").map(|tokens| tokens.count()).transpose()?;
            Ok(tokens.unwrap_or(0) > 0)
        }
    }
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
    let fits =
        |plugin: &&Plugin<'_>| matches!(plugin.part, Part::Filter(_) | Part::Scorer(_) | Part::Picker(_));
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
    let Configuration { scheduler, metrics_page, notes, saturation, serves_tests, .. } = configuration;
    let mut index: Option<&str> = None;
    for plugin in plugins {
        match (plugin.part, &plugin.parameters) {
            (Part::PrefixIndex, parameters) => {
                if let Some(first) = index.replace(plugin.name) {
                    return Err(plugin
                        .node
                        .fault(&format!("there can be one prefix index, there is: `{first}`")));
                }
                if let Some(parameters) = parameters {
                    parameters.only(&parameters::INDEX)?;
                    parameters::index(parameters, scheduler, notes)?;
                }
            }
            (Part::MetricsSource, Some(parameters)) => {
                *metrics_page = data_layer::metrics_source(parameters)?;
            }
            (Part::MetricsExtractor, Some(parameters)) => {
                data_layer::metrics_extractor(parameters, &mut scheduler.metrics.names, notes)?;
            }
            (Part::TokenEstimate, Some(parameters)) => {
                parameters.only(&["estimate"]).map_err(|_| {
                    parameters.fault(
                        "this version has no tokenizer; hint: leave the parameters out, prompts are then counted as four bytes per token",
                    )
                })?;
            }
            (Part::Saturation, Some(parameters)) => {
                parameters.only(&saturation::PARAMETERS)?;
                saturation::read(parameters, saturation, notes)?;
            }
            (Part::ConformanceTest, _) => *serves_tests = true,
            (Part::SingleProfile | Part::BuiltIn, Some(parameters)) => parameters.only(&[])?,
            (Part::WithoutEffect(why), _) => notes.push(format!("{} has no effect: {why}", plugin.name)),
            _ => {}
        }
    }
    Ok(())
}

/// Filters, scorers and picker of the profile.
fn read_profile(
    plugins: &[Plugin<'_>],
    references: &[Reference<'_, '_>],
    configuration: &mut Configuration,
) -> Result<(), Fault> {
    let Configuration { scheduler, notes, .. } = configuration;
    scheduler.filters = [subset::TYPE, role::TYPE, reachable::TYPE].map(FilterConfig::new).to_vec();
    let names: Vec<&str> = plugins.iter().map(|plugin| plugin.name).chain(DEFAULT_PRODUCERS).collect();
    let mut picker = None;
    for Reference { plugin, node, weight } in references {
        let parameters = plugin.parameters.as_ref();
        if weight.is_some() && !matches!(plugin.part, Part::Scorer(_)) {
            notes.push(format!("the weight of {} has no effect: it is no scorer", plugin.name));
        }
        match plugin.part {
            Part::Scorer(our_type) => {
                let mut scorer = ScorerConfig::new(our_type, weight.unwrap_or(1.0));
                scorer.parameters = parameters::read(parameters, our_type, &names, scheduler, notes)?;
                scheduler.scorers.push(scorer);
            }
            // Is there already, whether configured or not.
            Part::Filter(role::TYPE) => {
                let note = "drops only endpoints of role `prefill`: those without a role stay";
                notes.push(format!("{} {note}", plugin.name));
            }
            Part::Filter(our_type) => {
                let mut filter = FilterConfig::new(our_type);
                filter.parameters = parameters::read(parameters, our_type, &names, scheduler, notes)?;
                scheduler.filters.push(filter);
            }
            Part::OtherRole => {
                let node = node.as_ref().unwrap_or(&plugin.node);
                return Err(node.fault(&format!(
                    "this version picks endpoints for whole requests only; hint: use `decode-filter`: `{}`",
                    plugin.name
                )));
            }
            Part::Picker(_) => {
                if picker.replace(*plugin).is_some() {
                    let node = node.as_ref().unwrap_or(&plugin.node);
                    return Err(node.fault(&format!("a profile has one picker: `{}`", plugin.name)));
                }
            }
            _ => notes.push(format!(
                "{} in the profile has no effect: it is no scorer, filter or picker",
                plugin.name
            )),
        }
    }
    // A picker that is there but not in the profile counts, as it does in the reference picker.
    let picker = picker.or_else(|| plugins.iter().find(|plugin| matches!(plugin.part, Part::Picker(_))));
    read_picker(picker, scheduler, notes)?;
    let adds_up_prefixes = scheduler.scorers.iter().any(|scorer| scorer.scorer_type == prefix_cache::TYPE);
    let has_policy = scheduler.filters.iter().any(|filter| filter.filter_type == prefix_affinity::TYPE);
    if adds_up_prefixes && !has_policy {
        scheduler.filters.push(FilterConfig::new(load_gate::TYPE));
        notes.push(LOAD_GATE.to_owned());
    } else {
        scheduler.load_gate_seconds = None;
    }
    note_unused(plugins, references, notes);
    Ok(())
}

/// Producers that are there without being configured.
const DEFAULT_PRODUCERS: [&str; 2] = ["approx-prefix-cache-producer", "inflight-load-producer"];

const LOAD_GATE: &str = "endpoints whose queue costs more than their cached prefix saves are dropped before the sum; hint: \
                         `--load-gate off` for the sum alone";

fn read_picker(
    picker: Option<&Plugin<'_>>,
    scheduler: &mut SchedulerConfig,
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    let mut picker_type = max_score::TYPE;
    if let Some(Plugin { part: Part::Picker(our_type), parameters, .. }) = picker {
        picker_type = our_type;
        if let Some(parameters) = parameters {
            parameters.only(&["maxNumOfEndpoints"])?;
            if let Some(count) = parameters.get("maxNumOfEndpoints") {
                scheduler.fallbacks = count.number(1.0, 64.0)? as usize - 1;
            }
        }
    }
    if scheduler.scorers.is_empty() && picker_type == max_score::TYPE {
        picker_type = random::TYPE;
        notes.push("no scorer is in the profile: all endpoints are equal, chance decides".to_owned());
    }
    scheduler.picker = PickerConfig::new(picker_type);
    Ok(())
}

fn note_unused(plugins: &[Plugin<'_>], references: &[Reference<'_, '_>], notes: &mut Vec<String>) {
    for plugin in plugins {
        let is_used = references.iter().any(|reference| reference.plugin.name == plugin.name);
        if !is_used && matches!(plugin.part, Part::Filter(_) | Part::Scorer(_)) {
            notes.push(format!("{} has no effect: the profile that runs does not name it", plugin.name));
        }
    }
}

/// Sections beside plugins and profiles.
fn read_other_sections(
    root: &Node<'_>,
    plugins: &[Plugin<'_>],
    configuration: &mut Configuration,
) -> Result<(), Fault> {
    if let Some(detector) = root.get("saturationDetector") {
        let known: Vec<&str> = saturation::PARAMETERS.into_iter().chain(["pluginRef"]).collect();
        detector.only(&known)?;
        saturation::read(&detector, &mut configuration.saturation, &mut configuration.notes)?;
        if detector
            .get("pluginRef")
            .is_some_and(|name| name.text().is_ok_and(|name| name != "utilization-detector"))
        {
            referenced(&detector, plugins)?;
        }
    }
    let notes = &mut configuration.notes;
    read_feature_gates(root, notes)?;
    if root.get("flowControl").is_some() {
        notes.push("`flowControl` has no effect: its feature gate is off".to_owned());
    }
    let handler = root.get("requestHandler");
    if let Some(handler) = &handler {
        handler.only(&["parsers"])?;
    }
    let parsers = handler.map(|handler| handler.list("parsers")).transpose()?.unwrap_or_default();
    for parser in parsers.into_iter().chain(root.get("parser")) {
        parser.only(&["pluginRef"])?;
        let name = parser.required("pluginRef")?;
        if !plugins.iter().any(|plugin| plugin.name == name) {
            let reference = parser.get("pluginRef").unwrap_or(parser);
            plugin_types::part_of(name).map_err(|message| reference.fault(&message))?;
        }
    }
    root.get("dataLayer").map_or(Ok(()), |layer| check_data_layer(&layer, plugins))
}

fn read_feature_gates(root: &Node<'_>, notes: &mut Vec<String>) -> Result<(), Fault> {
    const GATES: [&str; 5] = [
        "flowControl",
        "dataLayer",
        "prepareDataPlugins",
        "enableLegacyMetrics",
        "haPopulateNonLeaderDatastore",
    ];
    for gate in root.list("featureGates")? {
        let text = gate.text()?;
        let (name, is_on) = match text.split_once('=') {
            Some((name, value)) => (name, value == "true"),
            None => (text, true),
        };
        if !GATES.contains(&name) {
            return Err(gate.fault(&format!("unknown feature gate, known are `{}`", GATES.join("`, `"))));
        }
        if name == "flowControl" && is_on {
            return Err(gate.fault("this version does not queue requests; hint: leave the gate out"));
        }
        if is_on {
            notes.push(format!("feature gate {name} has no effect: nothing here depends on it"));
        }
    }
    Ok(())
}

fn check_data_layer(layer: &Node<'_>, plugins: &[Plugin<'_>]) -> Result<(), Fault> {
    layer.only(&["injectDefaults", "sources", "discovery"])?;
    if let Some(discovery) = layer.get("discovery") {
        return Err(
            discovery.fault("this version discovers nothing by plugins; hint: use `--endpoints-file`")
        );
    }
    let sources = layer.list("sources")?;
    for source in &sources {
        source.only(&["pluginRef", "extractors"])?;
        expect(source, plugins, Part::MetricsSource, "must be a `metrics-data-source`")?;
        for extractor in source.list("extractors")? {
            extractor.only(&["pluginRef"])?;
            expect(&extractor, plugins, Part::MetricsExtractor, "must be a `core-metrics-extractor`")?;
        }
    }
    match layer.get("injectDefaults") {
        Some(inject) if !inject.boolean()? && sources.is_empty() => {
            Err(inject.fault("metrics are always read; hint: leave it out"))
        }
        _ => Ok(()),
    }
}

fn expect(node: &Node<'_>, plugins: &[Plugin<'_>], part: Part, message: &str) -> Result<(), Fault> {
    match referenced(node, plugins)?.part == part {
        true => Ok(()),
        false => Err(node.get("pluginRef").unwrap_or_else(|| node.clone()).fault(message)),
    }
}
