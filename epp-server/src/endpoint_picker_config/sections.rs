//! What stands beside plugins and profiles.

use super::document::{Fault, Node};
use super::plugin_types::{self, Part};
use super::{Plugin, referenced, saturation};
use crate::config_source::Configuration;

/// Reads the sections; what has no effect here becomes a note.
pub(super) fn read(
    root: &Node<'_>,
    plugins: &[Plugin<'_>],
    configuration: &mut Configuration,
) -> Result<(), Fault> {
    if let Some(detector) = root.get("saturationDetector") {
        let known: Vec<&str> = saturation::PARAMETERS.into_iter().chain(["pluginRef"]).collect();
        detector.only(&known)?;
        saturation::read(&detector, &mut configuration.saturation, &mut configuration.notes)?;
        if let Some(name) = detector.get("pluginRef")
            && name.text()? != "utilization-detector"
        {
            expect(&detector, plugins, Part::Saturation, "must be a `utilization-detector`")?;
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
        if referenced(source, plugins)?.part == Part::EndpointEvents {
            for extractor in source.list("extractors")? {
                extractor.only(&["pluginRef"])?;
                referenced(&extractor, plugins)?;
            }
            continue;
        }
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
