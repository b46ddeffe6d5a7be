//! How large each step of the workload is.

use crate::engines::EngineKind;
use serde::Serialize;
use std::time::Duration;

/// One level of the throughput step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Clients that send at the same time, each its next request as soon as the last is answered.
    pub concurrency: usize,
    /// Conversations, spread evenly over the groups.
    pub conversations: usize,
    /// Requests of each conversation.
    pub turns: usize,
}

/// Sizes of a whole run; tokens are four bytes of text.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Seed of every prompt.
    pub seed: u64,
    /// Groups of conversations; each group shares a system prompt.
    pub groups: usize,
    /// Tokens of a system prompt.
    pub system_tokens: usize,
    /// Tokens of what the user says in each turn.
    pub user_tokens: usize,
    /// Tokens of each answer.
    pub answer_tokens: usize,
    /// The throughput step.
    pub levels: Vec<Level>,
    /// Unique tokens that each request of the burst adds to the hot prefix.
    pub burst_tail_tokens: usize,
    /// Clients of the failure step.
    pub failure_clients: usize,
    /// Duration of the failure step; the replica is killed after a third of it.
    pub failure_duration: Duration,
}

impl Plan {
    /// The workload for an engine; the short one checks the same in less than a minute.
    ///
    /// For the simulator the groups are sized so that system prompts and running conversations come to about 2.5 times
    /// the 16 384 tokens of one replica's cache: they fit three replicas together and not each of them.
    #[must_use]
    pub fn new(kind: EngineKind, short: bool) -> Self {
        let level = |concurrency, conversations, turns| Level { concurrency, conversations, turns };
        let simulator = Self {
            seed: 20,
            groups: 24,
            system_tokens: 1400,
            user_tokens: 40,
            answer_tokens: 8,
            levels: vec![
                level(1, 24, 2),
                level(5, 24, 3),
                level(10, 48, 2),
                level(20, 48, 3),
                level(50, 72, 3),
            ],
            burst_tail_tokens: 1500,
            failure_clients: 6,
            failure_duration: Duration::from_secs(9),
        };
        match (kind, short) {
            (EngineKind::Simulator, false) => simulator,
            (EngineKind::Simulator, true) => Self {
                levels: vec![
                    level(1, 3, 1),
                    level(5, 24, 1),
                    level(10, 12, 1),
                    level(20, 48, 1),
                    level(50, 50, 1),
                ],
                failure_duration: Duration::from_secs(5),
                ..simulator
            },
            // Twelve groups of ten requests with little of their own, from four clients.
            (EngineKind::Vllm, _) => Self {
                groups: 12,
                user_tokens: 24,
                levels: vec![level(4, 120, 1)],
                burst_tail_tokens: 800,
                failure_clients: 3,
                failure_duration: Duration::from_secs(12),
                ..simulator
            },
        }
    }

    /// Requests of a whole run, for the progress bar; the failure step counts as one.
    #[must_use]
    pub fn requests(&self) -> usize {
        let throughput: usize = self.levels.iter().map(|level| level.conversations * level.turns).sum();
        FUNCTION_CHECKS + CACHE_ROUTING_REQUESTS + DISTRIBUTION_REQUESTS + throughput + 1 + BURST_REQUESTS + 1
    }
}

/// Requests of the step *health and functions*.
pub(crate) const FUNCTION_CHECKS: usize = 5;

/// Requests of the step *cache routing*.
pub(crate) const CACHE_ROUTING_REQUESTS: usize = 10;

/// Tokens that the requests of the step *cache routing* share.
pub(crate) const CACHE_ROUTING_TOKENS: usize = 400;

/// Requests of the step *distribution*.
pub(crate) const DISTRIBUTION_REQUESTS: usize = 30;

/// Tokens of each prompt of the step *distribution*.
pub(crate) const DISTRIBUTION_TOKENS: usize = 300;

/// Requests of the step *burst*.
pub(crate) const BURST_REQUESTS: usize = 60;
