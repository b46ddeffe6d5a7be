//! What a configuration would run, as text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use p3sched::filter::{load_gate, lora, power_of_two, prefix_affinity, reachable, role, subset};
use p3sched::picker::{max_score, random, round_robin, weighted_random};
use p3sched::scorer::{
    active_request, kv_cache_utilization, least_requests, load_aware, lora_affinity, no_hit_lru,
    prefix_cache, queue, running_requests_size, session_affinity, time_to_first_token, token_load,
    uncached_times_batch,
};
use p3sched::{Scheduler, SchedulerConfig, gateway};

use crate::config_source::{Configuration, read_file};
use crate::label_selector::LabelSelector;
use crate::pool_config;
use crate::scrape::Scheme;

/// Explains the configuration in a file.
///
/// # Errors
///
/// The message names the file and what is wrong, where the content is with line and column.
pub fn explain_file(path: &Path) -> Result<String, String> {
    let configuration = read_file(path)?;
    Scheduler::new(configuration.scheduler.clone())
        .map_err(|error| format!("{error}: `{}`", path.display()))?;
    for scheduler in configuration.pools.iter().filter_map(|pool| pool.scheduler.clone()) {
        Scheduler::new(scheduler).map_err(|error| format!("{error}: `{}`", path.display()))?;
    }
    pool_config::check_entries(&configuration.pools)
        .map_err(|error| format!("invalid configuration file, {error}: `{}`", path.display()))?;
    Ok(explain(&configuration))
}

fn explain(configuration: &Configuration) -> String {
    let Configuration {
        profile,
        scheduler,
        profiles,
        endpoints,
        policies,
        metrics_page,
        kv_events,
        notes,
        ..
    } = configuration;
    let mut lines = vec![format!("profile: {profile}")];
    explain_profile(scheduler, &profiles.endpoints, &mut lines);
    if let Some(port) = profiles.primary_port {
        lines.push(format!("port: {port} for every endpoint, which `{}` names", gateway::DATA_PARALLEL));
    }
    if let Some(prefill) = &profiles.prefill {
        lines.push(format!("prefill elsewhere: {}, by profile `{}`", prefill.decider, prefill.name));
        lines.push(format!("prefill headers: `{}`, `{}`", gateway::PREFILLER, gateway::OLD_PREFILLER));
        explain_profile(&prefill.scheduler, &prefill.endpoints, &mut lines);
    }
    let scheme = match metrics_page.scheme {
        Some(Scheme::Https) => "https",
        Some(Scheme::Http) | None => "http",
    };
    lines.push(format!(
        "metrics: {scheme}, {}{}",
        metrics_page.path.as_deref().unwrap_or("/metrics"),
        renamed(scheduler)
    ));
    lines.push(format!("KV events: {kv_events}"));
    lines.extend(configuration.pools.iter().map(ToString::to_string));
    if let Some(endpoints) = endpoints {
        let names: Vec<&str> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        lines.push(format!("endpoints: {}", names.join(", ")));
    }
    let limits = &configuration.saturation.limits;
    lines.push(format!(
        "saturated, so that negative priorities are refused: {} waiting or {} of the KV cache in use, on average",
        limits.waiting_requests, limits.kv_cache_utilization
    ));
    if configuration.serves_tests {
        lines.push("conformance tests: any client may choose the endpoint by a header".to_owned());
    }
    lines.extend(policies.lines());
    lines.extend(notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

/// What one scheduler does.
fn explain_profile(scheduler: &SchedulerConfig, endpoints: &LabelSelector, lines: &mut Vec<String>) {
    if !endpoints.selects_all() {
        lines.push(format!("picks among endpoints whose {endpoints}"));
    }
    lines.push("filters, in this order:".to_owned());
    for filter in &scheduler.filters {
        let meaning = meaning(&filter.filter_type, scheduler);
        lines.push(format!("  {}{}: {meaning}", filter.filter_type, shown(&filter.parameters)));
    }
    lines.push("scorers, added up by weight:".to_owned());
    for scorer in &scheduler.scorers {
        let meaning = meaning(&scorer.scorer_type, scheduler);
        lines.push(format!(
            "  {} × {}{}: {meaning}",
            scorer.weight,
            scorer.scorer_type,
            shown(&scorer.parameters)
        ));
    }
    let picker = &scheduler.picker;
    let meaning = meaning(&picker.picker_type, scheduler);
    lines.push(format!("picker: {}{}: {meaning}", picker.picker_type, shown(&picker.parameters)));
    lines.push(format!("fallbacks: {}", scheduler.fallbacks));
    lines.push(index(scheduler));
}

fn index(scheduler: &SchedulerConfig) -> String {
    let head = match scheduler.max_prefix_tokens {
        Some(tokens) => format!("the first {tokens} tokens of a prompt"),
        None => "whole prompts".to_owned(),
    };
    format!(
        "prefix index: blocks of {} tokens, {head}, {} tokens per endpoint that reports no KV cache, {} MiB at most",
        scheduler.block_size_tokens,
        scheduler.default_capacity_tokens,
        scheduler.index_max_bytes >> 20
    )
}

fn renamed(scheduler: &SchedulerConfig) -> String {
    let names = &scheduler.metrics.names;
    let mut text = String::new();
    for (what, name) in [
        ("waiting requests", &names.waiting_requests),
        ("running requests", &names.running_requests),
        ("KV use", &names.kv_cache_utilization),
        ("adapters", &names.adapters),
        ("cache", &names.cache_config),
    ] {
        if let Some(name) = name {
            // Writing into a string cannot fail.
            let _written = write!(text, ", {what} from `{name}`");
        }
    }
    if text.is_empty() { ", names as the engine that wrote the page has them".to_owned() } else { text }
}

fn shown(parameters: &BTreeMap<String, f64>) -> String {
    if parameters.is_empty() {
        return String::new();
    }
    let list: Vec<String> = parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!(" ({})", list.join(", "))
}

/// One line per filter, scorer and picker; each one's documentation says more.
fn meaning(our_type: &str, scheduler: &SchedulerConfig) -> String {
    let line = match our_type {
        subset::TYPE => "keeps the endpoints that the gateway's subset hint names",
        role::TYPE => "drops endpoints whose label `llm-d.ai/role` is `prefill`",
        reachable::TYPE => "drops endpoints that stopped answering their scrapes, while another one answers",
        lora::TYPE => "drops endpoints that would have to evict another adapter for the request's",
        load_gate::TYPE => return gate(scheduler),
        prefix_affinity::TYPE => "keeps the holders of the prompt, unless the wait for them is far longer",
        power_of_two::TYPE => "keeps the request's home and one other drawn by chance",
        prefix_cache::TYPE => "matched tokens / prompt tokens",
        queue::TYPE => {
            "(longest queue - its queue) / (longest - shortest), corrected by own picks since the scrape"
        }
        kv_cache_utilization::TYPE => "1 - share of the KV cache in use",
        running_requests_size::TYPE => "(largest batch - its batch) / (largest - smallest)",
        load_aware::TYPE => "0.5 without a queue, else 0.5 (1 - queue / threshold)",
        least_requests::TYPE => "(most in flight - its requests in flight) / (most - fewest)",
        active_request::TYPE => "1 if idle, else (most in flight - its requests in flight) / most",
        token_load::TYPE => "1 - (tokens in flight + uncached tokens of the request) / threshold",
        lora_affinity::TYPE => "adapter loaded 1, room for it 0.8, waiting 0.6, else 0",
        session_affinity::TYPE => "1 for the endpoint that served the session last, else 0",
        no_hit_lru::TYPE => "for prompts that nobody holds: 1 - rank by the last cold request",
        time_to_first_token::TYPE => "shortest predicted time to the first token / its time",
        uncached_times_batch::TYPE => "smallest uncached tokens × (batch + 1) / its product",
        max_score::TYPE => "the highest sum; ties by session or prefix, else least recently cold",
        weighted_random::TYPE => "by chance, in proportion to the sums",
        random::TYPE => "by chance, all alike",
        round_robin::TYPE => "in turn",
        _ => "see its documentation",
    };
    line.to_owned()
}

fn gate(scheduler: &SchedulerConfig) -> String {
    match scheduler.load_gate_seconds {
        Some(seconds) => {
            format!(
                "drops endpoints whose wait is over {seconds} s longer than the shortest, beyond what their prefix saves"
            )
        }
        None => "off".to_owned(),
    }
}
