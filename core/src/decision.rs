//! Step 5: the decision, and its reason.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::endpoint::Candidate;
use crate::filter::load_gate;
use crate::picker::TieRule;
use crate::profile::{Profile, RequestView, Workspace};

/// Which endpoint serves a request; serialised it is the same JSON in every language.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Decision {
    /// Name of this request for [`first_token`](crate::Scheduler::first_token) and
    /// [`complete`](crate::Scheduler::complete); below 2⁵³, never reused. 0 if nothing was booked.
    pub id: u64,
    /// The chosen endpoint.
    pub endpoint: Arc<str>,
    /// Further endpoints to be tried in this order if the chosen one fails; as many as configured.
    pub fallbacks: Vec<Arc<str>>,
    /// Leading tokens of the prompt that the chosen endpoint is expected to hold.
    pub matched_tokens: u32,
    /// Tokens of the prompt; an estimate where the prompt is text.
    pub prompt_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) explanation: Option<Box<Explanation>>,
}

impl Decision {
    /// Why this endpoint; `None` unless the request asked for it (`explain`).
    pub fn explanation(&self) -> Option<&Explanation> {
        self.explanation.as_deref()
    }
}

/// How every endpoint was rated for one request.
///
/// [`Display`](fmt::Display) writes a table for a terminal; serialised it is the same JSON in every language.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How a tie for the first place was broken.
    pub tie_rule: TieRule,
    /// How far the best other endpoint is behind the chosen one, in points; `None` if no other one was eligible.
    pub runner_up_distance: Option<f32>,
    /// Every endpoint: the chosen one first, then by total, those that a filter dropped last.
    pub endpoints: Vec<EndpointExplanation>,
}

/// How one endpoint was rated.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EndpointExplanation {
    /// Name of the endpoint.
    pub endpoint: Arc<str>,
    /// Σ weight · score; `None` if a filter dropped the endpoint.
    pub total: Option<f32>,
    /// The filter that dropped the endpoint.
    pub dropped_by: Option<&'static str>,
    /// Leading prompt tokens that it holds.
    pub matched_tokens: u32,
    /// Predicted seconds before the prefill would start; `None` while no prefill rate is known.
    pub wait_seconds: Option<f32>,
    /// Seconds that were left before the load gate would have dropped it, negative if it did; `None` if the gate is
    /// off or no prefill rate is known.
    pub gate_margin_seconds: Option<f32>,
    /// Seconds since the last good scrape; `None` if there was none.
    pub metrics_age_seconds: Option<f32>,
    /// Own requests in flight.
    pub requests_in_flight: u32,
    /// One entry per scorer, in the order of the configuration; empty if a filter dropped the endpoint.
    pub scores: Vec<ScoreExplanation>,
}

/// What one scorer contributed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScoreExplanation {
    /// Type name of the scorer.
    pub scorer: &'static str,
    /// The number that the score comes from; `None` if it is not known.
    pub raw: Option<f32>,
    /// The score in [0, 1].
    pub score: f32,
    /// Whether the input was missing and the score is the mean of the other endpoints.
    pub missing: bool,
    /// Weight of the scorer.
    pub weight: f32,
    /// weight · score
    pub contribution: f32,
}

impl Explanation {
    /// Describes the run of a profile that left this workspace.
    pub(crate) fn new(
        profile: &Profile,
        view: &RequestView,
        candidates: &[Candidate],
        workspace: &Workspace,
        tie_rule: TieRule,
        name: impl Fn(&Candidate) -> Arc<str>,
    ) -> Self {
        let seen = workspace.dropped.iter().filter(|(_, filter)| profile.gate_saw(filter));
        let gated = candidates.iter().chain(seen.map(|(candidate, _)| candidate));
        let (shortest, _) = load_gate::wait_range(gated);
        let describe = |candidate: &Candidate| EndpointExplanation {
            endpoint: name(candidate),
            total: None,
            dropped_by: None,
            matched_tokens: candidate.matched_tokens,
            wait_seconds: known_value(candidate.wait_seconds),
            gate_margin_seconds: (profile.load_gate.as_ref())
                .and_then(|gate| known_value(gate.margin_seconds(candidate, shortest))),
            metrics_age_seconds: known_value(candidate.metrics_age_seconds),
            requests_in_flight: candidate.requests_in_flight,
            scores: Vec::new(),
        };
        let chosen = workspace.ranking.first().copied();
        let total_at = |at: usize| workspace.totals.get(at).copied().unwrap_or(0.0);
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|&a, &b| {
            (Some(b) == chosen).cmp(&(Some(a) == chosen)).then(total_at(b).total_cmp(&total_at(a)))
        });
        let eligible = order.iter().filter_map(|&at| {
            let candidate = candidates.get(at)?;
            let scores = profile.scores_of(view, candidate, workspace, at).map(ScoreExplanation::new);
            Some(EndpointExplanation {
                total: Some(total_at(at)),
                scores: scores.collect(),
                ..describe(candidate)
            })
        });
        let dropped = workspace.dropped.iter().map(|(candidate, filter)| EndpointExplanation {
            dropped_by: Some(filter),
            ..describe(candidate)
        });
        let runner_up = order.get(1).map(|&at| total_at(at));
        Self {
            prompt_tokens: view.prompt_tokens,
            tie_rule,
            runner_up_distance: chosen.zip(runner_up).map(|(best, next)| total_at(best) - next),
            endpoints: eligible.chain(dropped).collect(),
        }
    }
}

impl ScoreExplanation {
    fn new((scorer, weight, raw, score): (&'static str, f32, f32, f32)) -> Self {
        let raw = known_value(raw);
        Self { scorer, raw, score, missing: raw.is_none(), weight, contribution: weight * score }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {:>8} {:>9} {:>8}", "endpoint", "total", "matched", "wait s")?;
        if let Some(best) = self.endpoints.first() {
            for score in &best.scores {
                write!(f, "  {} ×{}", score.scorer, score.weight)?;
            }
        }
        writeln!(f)?;
        self.endpoints.iter().try_for_each(|endpoint| endpoint.write_row(f))?;
        let tie = match self.tie_rule {
            TieRule::Unique => "the only best",
            TieRule::Rendezvous => "tied, the highest rendezvous hash",
            TieRule::LeastRecentlyCold => "tied, the longest without a cold request",
            TieRule::Random => "by chance",
            TieRule::RoundRobin => "in turn",
        };
        match self.runner_up_distance {
            Some(distance) => writeln!(f, "chosen: {tie}; runner-up {distance:.3} behind"),
            None => writeln!(f, "chosen: the only eligible endpoint"),
        }
    }
}

impl EndpointExplanation {
    fn write_row(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} ", self.endpoint)?;
        match self.total {
            Some(total) => write!(f, "{total:>8.3} ")?,
            None => write!(f, "{:>8} ", "-")?,
        }
        write!(f, "{:>9} ", self.matched_tokens)?;
        match self.wait_seconds {
            Some(wait) => write!(f, "{wait:>8.2}")?,
            None => write!(f, "{:>8}", "?")?,
        }
        for score in &self.scores {
            let width = score.scorer.len() + 2;
            let mark = if score.missing { "?" } else { "" };
            write!(f, "  {:>width$.3}{mark}", score.contribution)?;
        }
        match self.dropped_by {
            Some(filter) => writeln!(f, "  dropped by {filter}"),
            None => writeln!(f),
        }
    }
}

pub(crate) fn known_value(value: f32) -> Option<f32> {
    value.is_finite().then_some(value)
}
