//! The traffic on which default numbers are judged: eight replicas at a load at which routing matters.

use crate::Error;
use crate::engine::EngineParameters;
use crate::policy::Policy;
use crate::simulation::Options;
use crate::trace::Trace;
use crate::workload::Workload;

/// Traffic, and what serves it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What it is like.
    pub explanation: &'static str,
    workload: &'static str,
    cache_blocks: Option<usize>,
}

/// All scenarios.
pub const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "hot prefix",
        explanation: "one system prompt of 6000 tokens in every third request (Zipf 1.4), caches that hold all",
        workload: "shared-prefix:groups=100:zipf=1.4:system_tokens=6000:question_tokens=600:answer_tokens=128\
                   :conversations=2500:rate=50",
        cache_blocks: None,
    },
    Scenario {
        name: "tight cache",
        explanation: "150 system prompts of 6000 tokens, of which each cache holds some 30",
        workload: "shared-prefix:groups=150:system_tokens=6000:question_tokens=200:answer_tokens=100\
                   :conversations=2500:rate=50",
        cache_blocks: Some(12_000),
    },
    Scenario {
        name: "conversations",
        explanation: "six turns each, short system prompts, caches that hold a third of the conversations",
        workload: "shared-prefix:groups=40:system_tokens=800:question_tokens=400:answer_tokens=200:turns=6\
                   :conversations=500:rate=11",
        cache_blocks: Some(6_000),
    },
    Scenario {
        name: "bursts",
        explanation: "steady groups, and every 10 seconds 150 requests with one new prefix at once",
        workload: "bursts:burst_requests=150:burst_every=10:burst_prefix_tokens=4000:burst_tail_tokens=400\
                   :steady.groups=60:steady.system_tokens=3000:steady.question_tokens=400:steady.rate=30\
                   :steady.conversations=1500",
        cache_blocks: None,
    },
    Scenario {
        name: "agents",
        explanation: "tasks of eight steps with two helpers each, prompts of up to 16 000 tokens",
        workload: "agents:tasks=100:rate=0.9",
        cache_blocks: Some(20_000),
    },
    Scenario {
        name: "adapters",
        explanation: "two models with three adapters each, of which an engine loads four at once",
        workload: "mixed:conversation.conversations=2000:conversation.rate=40:conversation.system_tokens=2000\
                   :conversation.question_tokens=400",
        cache_blocks: Some(6_000),
    },
];

impl Scenario {
    /// The requests under a seed.
    ///
    /// # Errors
    ///
    /// Those of [`Workload::parse`].
    pub fn trace(&self, seed: u64) -> Result<Trace, Error> {
        Ok(Workload::parse(self.workload)?.generate(seed))
    }

    /// What serves them under a policy.
    ///
    /// # Errors
    ///
    /// Those of [`EngineParameters::preset`].
    pub fn options(&self, policy: Policy) -> Result<Options, Error> {
        let engine =
            EngineParameters { cache_blocks: self.cache_blocks, ..EngineParameters::preset("a100")? };
        Ok(Options::new(policy, &engine, 8))
    }
}
