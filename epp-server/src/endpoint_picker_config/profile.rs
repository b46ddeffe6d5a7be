//! Filters, scorers and picker of one profile.

use p3sched::SchedulerConfig;
use p3sched::config::{FilterConfig, PickerConfig, ScorerConfig};
use p3sched::filter::{load_gate, prefix_affinity, reachable, role, subset};
use p3sched::picker::{max_score, random};
use p3sched::scorer::prefix_cache;

use super::document::Fault;
use super::label_filters::LabelFilter;
use super::plugin_types::Part;
use super::{Plugin, Reference, parameters};
use crate::label_selector::LabelSelector;

/// Producers that are there without being configured.
const DEFAULT_PRODUCERS: [&str; 2] = ["approx-prefix-cache-producer", "inflight-load-producer"];

const LOAD_GATE: &str = "endpoints whose queue costs more than their cached prefix saves are dropped before the sum; hint: \
                         `--load-gate off` for the sum alone";

/// Puts the plugins of a profile into a scheduler's configuration; returns the endpoints that it picks among.
pub(super) fn read(
    plugins: &[Plugin<'_>],
    references: &[Reference<'_, '_>],
    scheduler: &mut SchedulerConfig,
    notes: &mut Vec<String>,
) -> Result<LabelSelector, Fault> {
    let mut endpoints = LabelSelector::default();
    let names: Vec<&str> = plugins.iter().map(|plugin| plugin.name).chain(DEFAULT_PRODUCERS).collect();
    let (mut filters, mut picker) = (Vec::new(), None);
    for Reference { plugin, node, weight } in references {
        let parameters = plugin.parameters.as_ref();
        if weight.is_some() && !matches!(plugin.part, Part::Scorer(_) | Part::EventScorer) {
            notes.push(format!("the weight of {} has no effect: it is no scorer", plugin.name));
        }
        match plugin.part {
            Part::Scorer(our_type) => {
                let mut scorer = ScorerConfig::new(our_type, weight.unwrap_or(1.0));
                scorer.parameters = parameters::read(parameters, our_type, &names, scheduler, notes)?;
                scheduler.scorers.push(scorer);
            }
            Part::EventScorer => {
                scheduler.scorers.push(ScorerConfig::new(prefix_cache::TYPE, weight.unwrap_or(1.0)));
            }
            Part::Filter(our_type) => {
                let mut filter = FilterConfig::new(our_type);
                filter.parameters = parameters::read(parameters, our_type, &names, scheduler, notes)?;
                filters.push(filter);
            }
            Part::Labels(filter) => filter.read(&plugin.node, parameters, &mut endpoints)?,
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
    let selects = |reference: &Reference<'_, '_>| matches!(reference.plugin.part, Part::Labels(filter) if filter != LabelFilter::Decode);
    scheduler.filters = [subset::TYPE, role::TYPE, reachable::TYPE].map(FilterConfig::new).to_vec();
    if references.iter().any(selects) {
        // Labels say which endpoints are meant, and those may do prefill only.
        scheduler.filters.retain(|filter| filter.filter_type != role::TYPE);
    }
    scheduler.filters.extend(filters);
    // A picker that is there but not in the profile counts, as it does in the reference picker.
    let picker = picker.or_else(|| plugins.iter().find(|plugin| matches!(plugin.part, Part::Picker(_))));
    read_picker(picker, scheduler, notes)?;
    set_load_gate(scheduler, notes);
    Ok(endpoints)
}

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
                scheduler.fallbacks = count.whole(1, 64)? as usize - 1;
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

fn set_load_gate(scheduler: &mut SchedulerConfig, notes: &mut Vec<String>) {
    let adds_up_prefixes = scheduler.scorers.iter().any(|scorer| scorer.scorer_type == prefix_cache::TYPE);
    let has_policy = scheduler.filters.iter().any(|filter| filter.filter_type == prefix_affinity::TYPE);
    if adds_up_prefixes && !has_policy {
        scheduler.filters.push(FilterConfig::new(load_gate::TYPE));
        notes.push(LOAD_GATE.to_owned());
    } else {
        scheduler.load_gate_seconds = None;
    }
}

/// Says which filters and scorers no profile that runs names.
pub(super) fn note_unused<'p>(
    plugins: &[Plugin<'_>],
    used: impl Fn(&str) -> bool + 'p,
    notes: &mut Vec<String>,
) {
    for plugin in plugins {
        let counts =
            matches!(plugin.part, Part::Filter(_) | Part::Scorer(_) | Part::EventScorer | Part::Labels(_));
        if counts && !used(plugin.name) {
            notes.push(format!("{} has no effect: no profile that runs names it", plugin.name));
        }
    }
}
