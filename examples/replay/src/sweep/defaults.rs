//! The default numbers of the scheduler's configuration, and what is tried in their place.

use p3sched::SchedulerConfig;
use serde_json::Value;

use crate::Error;
use crate::policy::Policy;
use crate::simulation::Options;

/// A number and the values to be tried.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The number, as a configuration names it.
    pub name: &'static str,
    /// Where it is in a configuration.
    pub place: Place,
    /// The policy that is varied.
    pub policy: &'static str,
    /// Another number that has to be set for this one to count.
    pub with: Option<(Place, f64)>,
    /// What the schedulers get to know.
    pub under: Under,
    /// The default; `None` is `null`.
    pub default: Option<f64>,
    /// The values, the default among them.
    pub values: Vec<Option<f64>>,
}

/// Where a number is in a configuration.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// The weight of a scorer.
    Weight(&'static str),
    /// A field, by its path.
    Field(&'static str),
    /// A parameter of a scorer.
    Scorer(&'static str, &'static str),
    /// A parameter of a filter.
    Filter(&'static str, &'static str),
}

/// What schedulers get to know, so that a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// Metrics every 50 ms, first tokens, ends and cached tokens.
    Everything,
    /// Metrics are scraped every 2 seconds, and nobody reports first tokens.
    OldMetrics,
    /// Nobody reports first tokens.
    NoFirstTokens,
    /// Nobody reports the ends of answers.
    NoEnds,
    /// The engines' metrics do not say how large their caches are.
    NoCapacity,
    /// Everything, and to which conversation a request belongs.
    Sessions,
}

/// Fields that are no numbers to be swept, or that a replay cannot judge, with the reason.
pub const LEFT_OUT: [(&str, &str); 14] = [
    ("preset", "a name; `replay run --policy all` compares the presets"),
    ("filters", "a list; their parameters are swept"),
    ("scorers", "a list; weights and parameters are swept"),
    ("picker", "a name; `replay run` compares policies"),
    ("fallbacks", "names further replicas besides the chosen one, which stays the same"),
    ("seed", "any number is as good"),
    ("bytes_per_token", "a property of texts; prompts of a replay have one byte per token"),
    ("metrics.engine", "a name"),
    ("metrics.dead_after_scrapes", "a request to a replica that is gone is sent on at once in a replay"),
    ("metrics.dead_after_seconds", "as metrics.dead_after_scrapes"),
    ("metrics.names", "names"),
    ("kv_events.model", "a name"),
    ("kv_events.confirm_within_seconds", "simulated engines send no KV events"),
    ("the band of ties, 1e-6", "not configurable; smaller than what scores differ by for a reason"),
];

/// Every number that is swept.
pub fn all() -> Vec<Sweep> {
    [weights(), fields(), knowledge(), parameters()].concat()
}

fn weights() -> Vec<Sweep> {
    [
        ("weight of prefix-cache-scorer", "prefix-cache-scorer", 3.0, [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 12.0]),
        ("weight of queue-scorer", "queue-scorer", 1.0, [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 6.0]),
        (
            "weight of kv-cache-utilization-scorer",
            "kv-cache-utilization-scorer",
            1.0,
            [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 6.0],
        ),
    ]
    .into_iter()
    .map(|(name, scorer, default, values)| sweep(name, Place::Weight(scorer), default, &values))
    .collect()
}

fn fields() -> Vec<Sweep> {
    vec![
        field("load_gate_seconds", 5.0, &[0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]).or_null(),
        field("block_size_tokens", 16.0, &[8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
        null_field("max_prefix_tokens", &[1024.0, 4096.0, 16_384.0]),
        field(
            "index_max_bytes",
            1_073_741_824.0,
            &[65_536.0, 262_144.0, 1_048_576.0, 16_777_216.0, 1_073_741_824.0],
        ),
        null_field("prefill_tokens_per_second", &[2_500.0, 5_000.0, 10_000.0, 20_000.0, 40_000.0]),
    ]
}

fn knowledge() -> Vec<Sweep> {
    vec![
        field("metrics.fresh_seconds", 1.0, &[0.0, 0.5, 1.0, 2.0, 4.0]).under(Under::OldMetrics),
        field("metrics.expire_seconds", 5.0, &[1.5, 2.5, 5.0, 10.0, 30.0]).under(Under::OldMetrics),
        field("bookings.first_token_timeout_seconds", 10.0, &[0.5, 1.0, 3.0, 10.0, 30.0, 120.0])
            .under(Under::NoFirstTokens),
        field("bookings.request_timeout_seconds", 600.0, &[10.0, 60.0, 600.0, 3600.0]).under(Under::NoEnds),
        field(
            "default_capacity_tokens",
            4_194_304.0,
            &[65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 67_108_864.0],
        )
        .under(Under::NoCapacity),
    ]
}

fn parameters() -> Vec<Sweep> {
    let scorer = |name, (scorer, parameter), policy, default, values: &[f64]| {
        sweep(name, Place::Scorer(scorer, parameter), default, values).of(policy)
    };
    let filter = |name, parameter, default, values: &[f64]| {
        sweep(name, Place::Filter("prefix-affinity-filter", parameter), default, values).of("affinity-token")
    };
    vec![
        scorer(
            "prefix-cache-scorer.length_weight",
            ("prefix-cache-scorer", "length_weight"),
            "default",
            0.0,
            &[0.0, 0.1, 0.25, 0.5, 1.0],
        ),
        scorer(
            "prefix-cache-scorer.scale_tokens",
            ("prefix-cache-scorer", "scale_tokens"),
            "default",
            8192.0,
            &[1024.0, 4096.0, 8192.0, 32_768.0],
        )
        .with(Place::Scorer("prefix-cache-scorer", "length_weight"), 0.5),
        scorer(
            "token-load-scorer.threshold_tokens",
            ("token-load-scorer", "threshold_tokens"),
            "default:token-load-scorer=1",
            4_194_304.0,
            &[16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0],
        ),
        scorer(
            "load-aware-scorer.threshold_requests",
            ("load-aware-scorer", "threshold_requests"),
            "kserve-0.15",
            128.0,
            &[8.0, 32.0, 128.0, 512.0],
        ),
        scorer(
            "active-request-scorer.idle_requests",
            ("active-request-scorer", "idle_requests"),
            "default:active-request-scorer=1",
            0.0,
            &[0.0, 1.0, 4.0, 16.0],
        ),
        scorer(
            "active-request-scorer.busy_max",
            ("active-request-scorer", "busy_max"),
            "default:active-request-scorer=1",
            1.0,
            &[0.25, 0.5, 1.0],
        ),
        scorer(
            "session-affinity-scorer.ttl_seconds",
            ("session-affinity-scorer", "ttl_seconds"),
            "default:session-affinity-scorer=1",
            300.0,
            &[1.0, 10.0, 60.0, 300.0, 3600.0],
        )
        .under(Under::Sessions),
        scorer(
            "session-affinity-scorer.max_sessions",
            ("session-affinity-scorer", "max_sessions"),
            "default:session-affinity-scorer=1",
            65_536.0,
            &[16.0, 256.0, 4096.0, 65_536.0],
        )
        .under(Under::Sessions),
        filter("prefix-affinity-filter.min_share", "min_share", 0.8, &[0.2, 0.4, 0.6, 0.8, 0.9, 1.0]),
        filter(
            "prefix-affinity-filter.max_wait_seconds",
            "max_wait_seconds",
            18.0,
            &[0.5, 2.0, 5.0, 18.0, 60.0],
        ),
    ]
}

fn sweep(name: &'static str, place: Place, default: f64, values: &[f64]) -> Sweep {
    let values = values.iter().copied().map(Some).collect();
    Sweep {
        name,
        place,
        policy: "default",
        with: None,
        under: Under::Everything,
        default: Some(default),
        values,
    }
}

fn field(name: &'static str, default: f64, values: &[f64]) -> Sweep {
    sweep(name, Place::Field(name), default, values)
}

fn null_field(name: &'static str, values: &[f64]) -> Sweep {
    Sweep { default: None, ..field(name, 0.0, values) }.or_null()
}

impl Sweep {
    fn or_null(mut self) -> Self {
        self.values.push(None);
        self
    }

    fn of(self, policy: &'static str) -> Self {
        Self { policy, ..self }
    }

    fn with(self, place: Place, value: f64) -> Self {
        Self { with: Some((place, value)), ..self }
    }

    fn under(self, under: Under) -> Self {
        Self { under, ..self }
    }

    /// The policy that is varied.
    ///
    /// # Errors
    ///
    /// Those of [`Policy::parse`].
    pub fn start(&self) -> Result<Policy, Error> {
        let mut policy = Policy::parse(self.policy)?;
        if let Some((place, value)) = self.with {
            place.set(&mut policy.config, Some(value))?;
        }
        Ok(policy)
    }
}

impl Under {
    /// In words; empty for everything.
    pub fn words(self) -> &'static str {
        match self {
            Self::Everything => "",
            Self::OldMetrics => "with metrics every 2 seconds and without first tokens reported",
            Self::NoFirstTokens => "without first tokens reported",
            Self::NoEnds => "without ends reported",
            Self::NoCapacity => "without the capacity of the caches reported",
            Self::Sessions => "with session keys",
        }
    }

    /// Lets the schedulers know this, and no more.
    pub(super) fn apply(self, options: &mut Options) {
        match self {
            Self::Everything => {}
            Self::OldMetrics => {
                options.scrape.period = 2.0;
                options.feedback.first_tokens = false;
            }
            Self::NoFirstTokens => options.feedback.first_tokens = false,
            Self::NoEnds => options.feedback.ends = false,
            Self::NoCapacity => options.feedback.capacity = false,
            Self::Sessions => options.session_keys = true,
        }
    }
}

impl Place {
    /// Sets the number; `None` is `null`.
    pub(super) fn set(self, config: &mut SchedulerConfig, value: Option<f64>) -> Result<(), Error> {
        let number = value.unwrap_or(0.0);
        match self {
            Self::Weight(scorer) => {
                let own = config.scorers.iter_mut().filter(|known| known.scorer_type == scorer);
                own.for_each(|scorer| scorer.weight = number);
            }
            Self::Scorer(scorer, parameter) => {
                let own = config.scorers.iter_mut().filter(|known| known.scorer_type == scorer);
                own.for_each(|scorer| scorer.parameters.extend([(parameter.to_owned(), number)]));
            }
            Self::Filter(filter, parameter) => {
                let own = config.filters.iter_mut().filter(|known| known.filter_type == filter);
                own.for_each(|filter| filter.parameters.extend([(parameter.to_owned(), number)]));
            }
            Self::Field(path) => {
                let refused = |error: serde_json::Error| Error::InvalidOption(format!("{path}: {error}"));
                let mut all = serde_json::to_value(&*config).map_err(refused)?;
                crate::workload::set("the configuration", &mut all, path, json(value))?;
                *config = serde_json::from_value(all).map_err(refused)?;
            }
        }
        Ok(())
    }
}

/// Whole numbers as such: counts are refused as fractions.
fn json(value: Option<f64>) -> Value {
    match value {
        Some(number) if number.fract() == 0.0 && number.abs() < 1e15 => Value::from(number as i64),
        Some(number) => Value::from(number),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths of all fields but those of lists.
    fn paths(value: &Value, path: &str, all: &mut Vec<String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() && !["picker", "metrics.names"].contains(&path) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    paths(value, &path, all);
                }
            }
            _ => all.push(path.to_owned()),
        }
    }

    #[test]
    fn every_number_of_the_configuration_is_swept_or_left_out_with_a_reason() {
        let mut fields = Vec::new();
        paths(&serde_json::to_value(SchedulerConfig::default()).unwrap(), "", &mut fields);
        let sweeps = all();
        let unknown = fields.iter().filter(|field| {
            sweeps.iter().all(|sweep| sweep.name != **field)
                && LEFT_OUT.iter().all(|(name, _)| name != *field)
        });
        assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());
        for scorer in SchedulerConfig::default().scorers {
            let name = format!("weight of {}", scorer.scorer_type);
            assert!(
                sweeps.iter().any(|sweep| sweep.name == name && sweep.default == Some(scorer.weight)),
                "{name}"
            );
        }
    }

    #[test]
    fn defaults_are_those_of_the_configuration_and_all_values_work() {
        for sweep in all() {
            assert!(sweep.values.contains(&sweep.default), "{}", sweep.name);
            let start = sweep.start().unwrap();
            for &value in &sweep.values {
                let mut config = start.config.clone();
                sweep.place.set(&mut config, value).unwrap();
                assert!(Policy::of_config("", config.clone()).build(0).is_ok(), "{} {value:?}", sweep.name);
                if value == sweep.default && matches!(sweep.place, Place::Field(_) | Place::Weight(_)) {
                    assert_eq!(config, start.config, "{}", sweep.name);
                }
            }
        }
    }
}
