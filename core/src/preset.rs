//! Presets: filters, scorers, picker and load gate by one name.
//!
//! Use one by `preset: NAME` in a configuration, which can still set any of the four itself, or by
//! [`SchedulerConfig::preset`].
//!
//! Weighted sums, with the load gate at 5 seconds unless said:
//!
//! | preset | weights | note |
//! |---|---|---|
//! | `default` | prefix-cache 3, queue 1, kv-cache-utilization 1 | |
//! | `kserve-0.15` | prefix-cache 2, load-aware 1 | |
//! | `kserve-basic` | prefix-cache 1, least-requests 0.5 | |
//! | `kserve-current` | queue 2, kv-cache-utilization 2, prefix-cache 3, no-hit-lru 2, lora-affinity 4 | lora-affinity rates all alike where no adapter is named |
//! | `latency` | prefix-cache 5, queue 1, kv-cache-utilization 1 | |
//! | `throughput` | prefix-cache 1, queue 3, kv-cache-utilization 2 | |
//! | `capacity` | prefix-cache 1, queue 1, kv-cache-utilization 5 | |
//! | `literal-3-1-1` | prefix-cache 3, queue 1, kv-cache-utilization 1 | the arithmetic of the Gateway API Inference Extension's endpoint picker, for comparison: scraped values alone, whole blocks, random ties, no gate |
//!
//! Policies, all without the load gate:
//!
//! | preset | rule |
//! |---|---|
//! | `affinity-token` | of the [holders](crate::filter::prefix_affinity) of the prompt, unless the wait for them is too long, the one with the [fewest tokens](crate::scorer::token_load) in flight |
//! | `min-ttft` | the shortest predicted [time to the first token](crate::scorer::time_to_first_token) |
//! | `lmetric` | the smallest product of [uncached tokens and batch](crate::scorer::uncached_times_batch) |
//! | `power-of-two` | [two candidates](crate::filter::power_of_two), of these the shortest predicted time to the first token |
//! | `random` | any, by chance |
//! | `round-robin` | one after the other |
//! | `least-requests` | the fewest own requests in flight, ties by chance |

use crate::Error;
use crate::config::{FilterConfig, PickerConfig, SchedulerConfig, ScorerConfig, unknown_name};
use crate::filter::{load_gate, power_of_two, prefix_affinity, reachable, role, subset};
use crate::picker::{max_score, random, round_robin};
use crate::scorer::{
    kv_cache_utilization, least_requests, load_aware, lora_affinity, no_hit_lru, prefix_cache, queue,
    time_to_first_token, token_load, uncached_times_batch,
};

/// A scorer's type and weight, and the parameters that are switched on.
type Scorer = (&'static str, f64, &'static [&'static str]);

struct Preset {
    name: &'static str,
    filters: &'static [&'static str],
    scorers: &'static [Scorer],
    picker: (&'static str, &'static [&'static str]),
    load_gate_seconds: Option<f64>,
}

const DEFAULT: Preset = Preset {
    name: "default",
    filters: &[subset::TYPE, role::TYPE, reachable::TYPE, load_gate::TYPE],
    scorers: &[
        (prefix_cache::TYPE, 3.0, &[]),
        (queue::TYPE, 1.0, &[]),
        (kv_cache_utilization::TYPE, 1.0, &[]),
    ],
    picker: (max_score::TYPE, &[]),
    load_gate_seconds: Some(5.0),
};

/// A policy decides alone, without the gate.
const POLICY: Preset = Preset { load_gate_seconds: None, ..DEFAULT };

const PRESETS: [Preset; 15] = [
    DEFAULT,
    Preset {
        name: "kserve-0.15",
        scorers: &[(prefix_cache::TYPE, 2.0, &[]), (load_aware::TYPE, 1.0, &[])],
        ..DEFAULT
    },
    Preset {
        name: "kserve-basic",
        scorers: &[(prefix_cache::TYPE, 1.0, &[]), (least_requests::TYPE, 0.5, &[])],
        ..DEFAULT
    },
    Preset {
        name: "kserve-current",
        scorers: &[
            (queue::TYPE, 2.0, &[]),
            (kv_cache_utilization::TYPE, 2.0, &[]),
            (prefix_cache::TYPE, 3.0, &[]),
            (no_hit_lru::TYPE, 2.0, &[]),
            (lora_affinity::TYPE, 4.0, &[]),
        ],
        ..DEFAULT
    },
    Preset {
        name: "latency",
        scorers: &[
            (prefix_cache::TYPE, 5.0, &[]),
            (queue::TYPE, 1.0, &[]),
            (kv_cache_utilization::TYPE, 1.0, &[]),
        ],
        ..DEFAULT
    },
    Preset {
        name: "throughput",
        scorers: &[
            (prefix_cache::TYPE, 1.0, &[]),
            (queue::TYPE, 3.0, &[]),
            (kv_cache_utilization::TYPE, 2.0, &[]),
        ],
        ..DEFAULT
    },
    Preset {
        name: "capacity",
        scorers: &[
            (prefix_cache::TYPE, 1.0, &[]),
            (queue::TYPE, 1.0, &[]),
            (kv_cache_utilization::TYPE, 5.0, &[]),
        ],
        ..DEFAULT
    },
    Preset {
        name: "literal-3-1-1",
        scorers: &[
            (prefix_cache::TYPE, 3.0, &["whole_blocks"]),
            (queue::TYPE, 1.0, &["scraped"]),
            (kv_cache_utilization::TYPE, 1.0, &["scraped"]),
        ],
        picker: (max_score::TYPE, &["random_ties"]),
        load_gate_seconds: None,
        ..DEFAULT
    },
    Preset {
        name: "affinity-token",
        filters: &[subset::TYPE, role::TYPE, reachable::TYPE, prefix_affinity::TYPE],
        scorers: &[(token_load::TYPE, 1.0, &[])],
        ..POLICY
    },
    Preset { name: "min-ttft", scorers: &[(time_to_first_token::TYPE, 1.0, &[])], ..POLICY },
    Preset { name: "lmetric", scorers: &[(uncached_times_batch::TYPE, 1.0, &[])], ..POLICY },
    Preset {
        name: "power-of-two",
        filters: &[subset::TYPE, role::TYPE, reachable::TYPE, power_of_two::TYPE],
        scorers: &[(time_to_first_token::TYPE, 1.0, &[])],
        ..POLICY
    },
    Preset { name: "random", scorers: &[], picker: (random::TYPE, &[]), ..POLICY },
    Preset { name: "round-robin", scorers: &[], picker: (round_robin::TYPE, &[]), ..POLICY },
    Preset {
        name: "least-requests",
        scorers: &[(least_requests::TYPE, 1.0, &[])],
        picker: (max_score::TYPE, &["random_ties"]),
        ..POLICY
    },
];

/// Names of all presets, in the order of the tables above.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

/// Refuses a name that is none of [`names`].
pub(crate) fn check(name: &str) -> Result<(), Error> {
    if names().any(|known| known == name) {
        return Ok(());
    }
    Err(unknown_name("preset", name, &names().collect::<Vec<_>>()))
}

/// Sets what a preset decides; one that does not exist sets what the default does.
pub(crate) fn apply(name: &str, config: &mut SchedulerConfig) {
    let preset = PRESETS.iter().find(|preset| preset.name == name).unwrap_or(&DEFAULT);
    config.preset = preset.name.to_owned();
    config.filters = preset.filters.iter().map(|&filter_type| FilterConfig::new(filter_type)).collect();
    config.scorers = preset.scorers.iter().map(scorer).collect();
    let (picker_type, switches) = preset.picker;
    config.picker = PickerConfig { parameters: switched_on(switches), ..PickerConfig::new(picker_type) };
    config.load_gate_seconds = preset.load_gate_seconds;
}

fn scorer((scorer_type, weight, switches): &Scorer) -> ScorerConfig {
    ScorerConfig { parameters: switched_on(switches), ..ScorerConfig::new(*scorer_type, *weight) }
}

fn switched_on(switches: &[&str]) -> std::collections::BTreeMap<String, f64> {
    switches.iter().map(|&switch| (switch.to_owned(), 1.0)).collect()
}
