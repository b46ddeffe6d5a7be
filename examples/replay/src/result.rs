//! Step 5: what came of it.

use p3sched::Decision;
use serde::Serialize;

use crate::engine::EngineTotals;
use crate::trace::SECOND;

/// All of a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// The policy, as it was asked for.
    pub policy: String,
    /// The seed.
    pub seed: u64,
    /// Every request, in the order of the trace, one repetition after the other.
    pub requests: Vec<RequestResult>,
    /// The replicas' load over time, in the order of the samples.
    pub samples: Vec<ReplicaSample>,
    /// What each replica's engine has counted.
    pub replicas: Vec<EngineTotals>,
    /// The decisions that were to be explained.
    pub decisions: Vec<ExplainedDecision>,
}

/// What happened to one request; times in nanoseconds since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestResult {
    /// When it came.
    pub arrival: u64,
    /// When its first token came; 0 if none did.
    pub first_token: u64,
    /// When its last token came, or it was given up.
    pub end: u64,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens of its answer.
    pub output_tokens: u32,
    /// Prompt tokens that the engine had in its cache.
    pub cached_tokens: u32,
    /// Prompt tokens that the scheduler expected it to have.
    pub predicted_tokens: u32,
    /// Place of the replica that served it.
    pub replica: u16,
    /// Place of the scheduler that picked for it.
    pub scheduler: u16,
    /// How often it was sent again because a replica had failed.
    pub retries: u8,
    /// Whether nobody answered it.
    pub failed: bool,
}

impl RequestResult {
    /// Seconds to the first token; `None` if there was none.
    pub fn time_to_first_token(&self) -> Option<f64> {
        let waited = self.first_token.saturating_sub(self.arrival);
        (!self.failed && self.first_token > 0).then_some(waited as f64 / SECOND)
    }

    /// Seconds to the last token; `None` if it failed.
    pub fn latency(&self) -> Option<f64> {
        (!self.failed).then_some(self.end.saturating_sub(self.arrival) as f64 / SECOND)
    }
}

/// The load of one replica at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReplicaSample {
    /// Nanoseconds since the start.
    pub at: u64,
    /// Place of the replica.
    pub replica: u16,
    /// Requests that wait.
    pub waiting: u32,
    /// Requests in the batch.
    pub running: u32,
    /// Share of the KV cache that they hold, in [0, 1].
    pub kv_usage: f32,
}

/// A decision with its [explanation](p3sched::Explanation); its id is the request's number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedDecision {
    /// Number of the request.
    pub request: u64,
    /// What was decided, and why.
    pub decision: Decision,
    /// What each replica that could serve it would have done, in the order of the replicas.
    pub alternatives: Vec<Alternative>,
}

/// What a replica would have done with a request, had nobody come after it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    /// Name of the replica's endpoint.
    pub endpoint: String,
    /// Seconds to the first token.
    pub seconds: f64,
    /// Prompt tokens that it would have had in its cache.
    pub cached_tokens: u32,
}

/// The figures of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The policy, as it was asked for.
    pub policy: String,
    /// The seed.
    pub seed: u64,
    /// Requests that were answered.
    pub answered: usize,
    /// Requests that were not.
    pub failed: usize,
    /// Requests that were sent again.
    pub retries: u64,
    /// Seconds from the first arrival to the last token.
    pub seconds: f64,
    /// Seconds to the first token.
    pub time_to_first_token: Distribution,
    /// Seconds to the last token.
    pub latency: Distribution,
    /// Mean seconds between two tokens of an answer.
    pub time_per_output_token: f64,
    /// Prompt tokens found in the caches, as a share of all.
    pub cached_ratio: f64,
    /// Prompt tokens that the schedulers expected to be found, as a share of all.
    pub predicted_ratio: f64,
    /// Answers per second.
    pub requests_per_second: f64,
    /// Tokens of answers per second.
    pub output_tokens_per_second: f64,
    /// Prompt tokens per second, cached ones included.
    pub prompt_tokens_per_second: f64,
    /// The largest number of requests of a replica over the mean.
    pub max_over_mean_requests: f64,
    /// The largest number of prompt tokens of a replica over the mean.
    pub max_over_mean_prompt_tokens: f64,
    /// The largest time that a replica has computed over the mean.
    pub max_over_mean_busy: f64,
    /// Share of the time in which the replicas computed, on the mean.
    pub utilization: f64,
    /// Requests that gave their blocks back and started over.
    pub preempted: u64,
}

/// What many values are like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[expect(
    missing_docs,
    reason = "mean, percentiles and the largest value have no better description than their names"
)]
pub struct Distribution {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Distribution {
    /// Of these values; all 0 if there are none.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched_replay::result::Distribution;
    ///
    /// let of_ten = Distribution::of((1..=10).map(f64::from).collect());
    /// assert_eq!((of_ten.mean, of_ten.p50, of_ten.p90, of_ten.max), (5.5, 5.0, 9.0, 10.0));
    /// ```
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        // The nearest rank: the smallest value that so many are not larger than.
        let at = |share: f64| {
            let rank = (share * count as f64).ceil() as usize;
            values.get(rank.max(1) - 1).copied().unwrap_or(0.0)
        };
        let mean = if count == 0 { 0.0 } else { values.iter().sum::<f64>() / count as f64 };
        Self { mean, p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max: at(1.0) }
    }
}

impl Summary {
    /// The figures of a replay.
    pub fn of(replayed: &Replayed) -> Self {
        let requests = &replayed.requests;
        let answered = || requests.iter().filter(|request| !request.failed);
        let sum = |of: fn(&RequestResult) -> u32| {
            answered().map(|request| u64::from(of(request))).sum::<u64>() as f64
        };
        let first = requests.iter().map(|request| request.arrival).min().unwrap_or(0);
        let last = requests.iter().map(|request| request.end).max().unwrap_or(0);
        let seconds = (last.saturating_sub(first) as f64 / SECOND).max(1e-9);
        let prompt_tokens = sum(|request| request.prompt_tokens);
        let output_tokens = sum(|request| request.output_tokens);
        let decode: f64 =
            answered().map(|request| request.end.saturating_sub(request.first_token) as f64 / SECOND).sum();
        let count = answered().count();
        let replicas = replayed.replicas.len();
        let per_replica = |of: fn(&RequestResult) -> f64| {
            let mut sums = vec![0.0; replicas];
            for request in answered() {
                if let Some(place) = sums.get_mut(usize::from(request.replica)) {
                    *place += of(request);
                }
            }
            max_over_mean(&sums)
        };
        let busy: Vec<_> = replayed.replicas.iter().map(|totals| totals.busy as f64 / SECOND).collect();
        Self {
            policy: replayed.policy.clone(),
            seed: replayed.seed,
            answered: count,
            failed: requests.len() - count,
            retries: requests.iter().map(|request| u64::from(request.retries)).sum(),
            seconds,
            time_to_first_token: Distribution::of(
                answered().filter_map(RequestResult::time_to_first_token).collect(),
            ),
            latency: Distribution::of(answered().filter_map(RequestResult::latency).collect()),
            time_per_output_token: decode / (output_tokens - count as f64).max(1.0),
            cached_ratio: sum(|request| request.cached_tokens) / prompt_tokens.max(1.0),
            predicted_ratio: sum(|request| request.predicted_tokens) / prompt_tokens.max(1.0),
            requests_per_second: count as f64 / seconds,
            output_tokens_per_second: output_tokens / seconds,
            prompt_tokens_per_second: prompt_tokens / seconds,
            max_over_mean_requests: per_replica(|_| 1.0),
            max_over_mean_prompt_tokens: per_replica(|request| f64::from(request.prompt_tokens)),
            max_over_mean_busy: max_over_mean(&busy),
            utilization: busy.iter().sum::<f64>() / (replicas as f64 * seconds).max(1e-9),
            preempted: replayed.replicas.iter().map(|totals| totals.preempted).sum(),
        }
    }
}

/// The largest value over the mean; 1 if all are 0.
fn max_over_mean(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    if mean > 0.0 { values.iter().copied().fold(0.0, f64::max) / mean } else { 1.0 }
}

/// The mean of some runs' values, and how far they lie apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// The largest less the smallest, over the mean.
    pub spread: f64,
}

impl Mean {
    /// Of these values; 0 if there are none.
    pub fn of(values: &[f64]) -> Self {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let range = values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            - values.iter().copied().fold(f64::INFINITY, f64::min);
        Self { value: mean, spread: if mean > 0.0 { range.max(0.0) / mean } else { 0.0 } }
    }
}
