//! Where and which metrics are read.

use p3sched::config::MetricNames;

use super::document::{Fault, Node};
use crate::config_source::MetricsPage;
use crate::metric_names::WrittenNames;
use crate::scrape::Scheme;

/// Parameters of `metrics-data-source`.
pub(super) fn metrics_source(parameters: &Node<'_>) -> Result<MetricsPage, Fault> {
    parameters.only(&["scheme", "path", "insecureSkipVerify"])?;
    let mut page = MetricsPage::default();
    if let Some(scheme) = parameters.get("scheme") {
        page.scheme = match scheme.text()? {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => return Err(scheme.fault("must be `http` or `https`")),
        };
    }
    if let Some(path) = parameters.get("path") {
        let text = path.text()?;
        if !text.starts_with('/') {
            return Err(path.fault("path must begin with `/`"));
        }
        page.path = Some(text.to_owned());
    }
    page.skip_verify = parameters.get("insecureSkipVerify").map(|skip| skip.boolean()).transpose()?;
    Ok(page)
}

/// Names of metrics in the parameters of an extractor: of one engine, or in older releases of all.
const NAMES: [&str; 5] =
    ["queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec", "loraSpec", "cacheInfoSpec"];

/// Engines whose metrics are known without a configuration.
const KNOWN_ENGINES: [&str; 4] = ["vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm"];

/// Parameters of `core-metrics-extractor`.
///
/// Engines are told apart by their pages, so that labels of pods do not count; one engine at most has names of its own.
pub(super) fn metrics_extractor(
    parameters: &Node<'_>,
    names: &mut MetricNames,
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    parameters.only(&[&["engineLabelKey", "defaultEngine", "engineConfigs"], &NAMES[..]].concat())?;
    if parameters.get("engineLabelKey").is_some() {
        notes.push("`engineLabelKey` has no effect: an engine is known by the names on its page".to_owned());
    }
    written(parameters)?.apply(names);
    let default = parameters.get("defaultEngine");
    let default_name = default.as_ref().map_or(Ok("vllm"), Node::text)?;
    let configured = parameters.list("engineConfigs")?;
    for engine in &configured {
        engine.only(&[&["name"], &NAMES[..]].concat())?;
        let name = engine.required("name")?;
        if name == default_name {
            written(engine)?.apply(names);
        } else if !KNOWN_ENGINES.contains(&name) {
            return Err(engine.fault(&format!(
                "only the default engine can have names of its own; hint: set `defaultEngine`: `{name}`"
            )));
        } else {
            notes.push(format!("metrics of {name} are read by the names that it uses itself"));
        }
    }
    let is_configured =
        configured.iter().any(|engine| engine.required("name").is_ok_and(|name| name == default_name));
    match default {
        Some(default) if !is_configured && !KNOWN_ENGINES.contains(&default_name) => Err(default.fault(
            "must be one of `engineConfigs`, `vllm`, `sglang`, `trtllm-serve`, `triton-tensorrt-llm`",
        )),
        _ => Ok(()),
    }
}

fn written<'a>(node: &Node<'a>) -> Result<WrittenNames<'a>, Fault> {
    let name = |key: &str| node.get(key).map(|name| name.text()).transpose();
    let [waiting, running, utilization, adapters, cache] = NAMES.map(name);
    Ok(WrittenNames {
        waiting: waiting?,
        running: running?,
        utilization: utilization?,
        adapters: adapters?,
        cache: cache?,
    })
}
