//! What a replay is made of, besides the trace.

use serde::Serialize;

use crate::engine::EngineParameters;
use crate::policy::Policy;

/// Everything about one replay; a place to start from is [`Options::new`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The engines, equal or not.
    pub replicas: Vec<Replica>,
    /// How requests find their replica.
    pub policy: Policy,
    /// Where chance decides, the same seed makes the same choices.
    pub seed: u64,
    /// When requests come.
    pub arrivals: Arrivals,
    /// How many times the trace is replayed, one after the other; repetitions share no prefix.
    pub repeat: u32,
    /// The schedulers that requests are spread over.
    pub schedulers: Schedulers,
    /// How metrics reach the schedulers.
    pub scrape: Scrape,
    /// What else reaches the schedulers.
    pub feedback: Feedback,
    /// Whether requests name their conversation (`prompt_cache_key`, `user`), as few clients do.
    pub session_keys: bool,
    /// Replicas that fail.
    pub failures: Vec<Failure>,
    /// Schedulers that restart.
    pub restarts: Vec<SchedulerRestart>,
    /// The machine that all engines are on; `None` where each has its own.
    pub machine: Option<Machine>,
    /// Numbers of the requests whose decisions are kept with their explanations.
    pub explain: Vec<u64>,
    /// Seconds between two samples of the replicas' load.
    pub sample_period: f64,
}

impl Options {
    /// Equal replicas under a policy, in an open loop at the trace's own speed, scraped every 50 ms, with first tokens and
    /// cached tokens reported.
    pub fn new(policy: Policy, engine: &EngineParameters, replicas: usize) -> Self {
        Self {
            replicas: vec![Replica { engine: engine.clone(), models: Vec::new() }; replicas],
            policy,
            seed: 0,
            arrivals: Arrivals::Open { speed: 1.0, jitter: true },
            repeat: 1,
            schedulers: Schedulers { count: 1, sharing: Sharing::Private },
            scrape: Scrape { period: 0.05, delay: 0.0 },
            feedback: Feedback { first_tokens: true, cached_tokens: true, ends: true, capacity: true },
            session_keys: false,
            failures: Vec::new(),
            restarts: Vec::new(),
            machine: None,
            explain: Vec::new(),
            sample_period: 1.0,
        }
    }
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replica {
    /// Its engine.
    pub engine: EngineParameters,
    /// The models that it serves, by their position in the trace; empty for all.
    pub models: Vec<u16>,
}

/// A machine that engines share: while they want more cores than it has, all are slower in proportion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Machine {
    /// Its cores.
    pub cores: f64,
    /// Cores that an engine uses for what a step takes per token; for what it takes whatever it computes, it uses one.
    pub threads: f64,
}

/// When requests come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// At the times of the trace, whatever the answers take.
    Open {
        /// How many times faster than the trace.
        speed: f64,
        /// Whether times that were rounded are spread evenly, by the seed, over what they were rounded to.
        jitter: bool,
    },
    /// First turns at the times of the trace, others their think time after the answer before.
    Sessions {
        /// How many times faster first turns come than in the trace.
        speed: f64,
    },
    /// So many clients, each of which sends its next request when the last one is answered.
    Clients {
        /// How many.
        count: usize,
    },
}

/// The schedulers that requests are spread over, by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Schedulers {
    /// How many.
    pub count: usize,
    /// What they know of each other.
    pub sharing: Sharing,
}

/// What schedulers know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Nothing.
    Private,
    /// Each learns at once what the others pick, and how it goes on.
    Shared,
}

/// How metrics reach the schedulers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scrape {
    /// Seconds between two scrapes of a replica.
    pub period: f64,
    /// Seconds from the moment that a page describes to the moment at which it counts.
    pub delay: f64,
}

/// What reaches the schedulers besides metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Feedback {
    /// Whether first tokens are reported.
    pub first_tokens: bool,
    /// Whether answers say how many tokens were cached.
    pub cached_tokens: bool,
    /// Whether the ends of answers are reported.
    pub ends: bool,
    /// Whether engines' metrics say how large their KV caches are.
    pub capacity: bool,
}

/// A replica that fails: its requests are sent to another one, and nobody listens until it is back with an empty cache.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Failure {
    /// Its place among the replicas.
    pub replica: usize,
    /// Seconds after the start.
    pub at: f64,
    /// Seconds that it is gone.
    pub lasts: f64,
}

/// A scheduler that is replaced by a new one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SchedulerRestart {
    /// Its place among the schedulers.
    pub scheduler: usize,
    /// Seconds after the start.
    pub at: f64,
    /// Whether the new one starts from a snapshot of the old one.
    pub snapshot: bool,
}
