//! What happened lately, for people: the last decisions with their reasons, and every second of the last minutes.
//!
//! No prompt comes here: a decision holds names and numbers.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p3sched::Outcome;
use parking_lot::Mutex;

use super::decision_log::{DecisionLog, DecisionRecord, Observed};
use super::history::{History, HistoryColumns};
use super::metrics::Served;
use super::request_metrics::bounded;
use crate::clock;
use crate::profiles::{Picks, Prefill};

/// Target of the lines that [`Recorder`] logs, one per pick.
pub const LOG_TARGET: &str = "epp_server::decision";

/// Records picks, refusals and ends.
pub struct Recorder {
    state: Mutex<State>,
    /// Wall clock when [`clock::now`] was 0, as the time since 1970.
    origin: Duration,
    log_decisions: bool,
}

struct State {
    decisions: DecisionLog,
    history: History,
}

/// A pick as the router saw it.
#[derive(Debug, Clone, Copy)]
pub struct PickContext<'a> {
    /// The model that serves.
    pub model: &'a str,
    /// Name of the request in the logs of everybody who sees it.
    pub request_id: Option<&'a str>,
    /// Bytes of the request's body.
    pub request_bytes: usize,
    /// Nanoseconds that the scheduler took.
    pub nanoseconds: u64,
    /// Whether the decision log keeps the decision, as [`Recorder::wants_explanation`] said.
    pub is_kept: bool,
}

/// What links the end of a request to what was recorded at its pick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordedPick {
    /// Place in the decision log, if the decision was kept.
    sequence: Option<u64>,
}

impl Recorder {
    /// Nothing recorded yet; with `log_decisions` every pick becomes a line under [`LOG_TARGET`].
    ///
    /// # Errors
    ///
    /// The message says why pick times cannot be summed up.
    pub fn new(log_decisions: bool) -> Result<Self, String> {
        let now = clock::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let state = State { decisions: DecisionLog::default(), history: History::new(now)? };
        Ok(Self {
            state: Mutex::new(state),
            origin: unix.saturating_sub(Duration::from_nanos(now)),
            log_decisions,
        })
    }

    /// Whether the next pick shall carry its explanation: so many per second do.
    pub fn wants_explanation(&self, now: u64) -> bool {
        self.state.lock().decisions.wants_explanation(now)
    }

    /// Records the picks for a request.
    pub fn picked(&self, picks: Picks, context: PickContext<'_>, now: u64) -> RecordedPick {
        let model = bounded(context.model);
        if self.log_decisions {
            log_picks(&picks, PickContext { model, ..context });
        }
        let mut state = self.state.lock();
        let prefill = picks.prefilled_by();
        let (prompt, matched) = (prefill.prompt_tokens, prefill.matched_tokens);
        state.history.picked(context.nanoseconds, prompt, matched, now);
        if !context.is_kept {
            state.decisions.skip();
            return RecordedPick::default();
        }
        let observed = Observed {
            at: self.unix_seconds(now),
            model: model.into(),
            request_bytes: context.request_bytes,
            pick_microseconds: context.nanoseconds as f64 / 1e3,
        };
        RecordedPick { sequence: Some(state.decisions.push(observed, picks)) }
    }

    /// Records a pick that was made without the scheduler.
    pub fn picked_without_scheduler(&self, endpoint: &str, context: PickContext<'_>, now: u64) {
        if self.log_decisions {
            tracing::info!(
                target: LOG_TARGET,
                id = 0,
                endpoint,
                model = bounded(context.model),
                request_id = context.request_id,
                request_bytes = context.request_bytes,
                pick_microseconds = context.nanoseconds as f64 / 1e3,
                "picked without the scheduler"
            );
        }
        self.state.lock().history.picked(context.nanoseconds, 0, 0, now);
    }

    /// Records a request that was refused.
    pub fn refused(&self, now: u64) {
        self.state.lock().history.refused(now);
    }

    /// Records the end of a picked request.
    pub fn completed(&self, pick: RecordedPick, served: Served, outcome: &Outcome, now: u64) {
        let mut state = self.state.lock();
        state.history.completed(outcome.cached_tokens.unwrap_or(0), now);
        if let Some(sequence) = pick.sequence {
            state.decisions.completed(sequence, served, outcome);
        }
    }

    /// The whole seconds up to now.
    pub(super) fn history(&self, now: u64) -> HistoryColumns {
        self.state.lock().history.columns(self.origin.as_secs_f64(), now)
    }

    /// The kept decisions after a place in the log, oldest first; the place of the last one; and how many were not kept.
    pub(super) fn decisions_after(&self, after: u64) -> (Vec<Arc<DecisionRecord>>, u64, u64) {
        self.state.lock().decisions.after(after)
    }

    /// A kept decision by the scheduler's name of the request.
    pub(super) fn decision(&self, id: u64) -> Option<Arc<DecisionRecord>> {
        self.state.lock().decisions.find(id)
    }

    fn unix_seconds(&self, now: u64) -> f64 {
        self.origin.saturating_add(Duration::from_nanos(now)).as_secs_f64()
    }
}

fn log_picks(Picks { decision, prefill }: &Picks, context: PickContext<'_>) {
    let remote = prefill.remote();
    tracing::info!(
        target: LOG_TARGET,
        id = decision.id,
        endpoint = %decision.endpoint,
        fallbacks = decision.fallbacks.join(","),
        model = context.model,
        request_id = context.request_id,
        prompt_tokens = decision.prompt_tokens,
        matched_tokens = decision.matched_tokens,
        prefill_endpoint = remote.map(|prefill| &*prefill.endpoint),
        prefill_matched_tokens = remote.map(|prefill| prefill.matched_tokens),
        prefill_unavailable = (*prefill == Prefill::Unavailable).then_some(true),
        request_bytes = context.request_bytes,
        pick_microseconds = context.nanoseconds as f64 / 1e3,
        "picked"
    );
}
