//! The last decisions with their reasons, bounded in number, in size and per second.

use std::collections::VecDeque;
use std::sync::Arc;

use p3sched::{Decision, Outcome};
use serde::Serialize;

use super::metrics::Served;
use crate::profiles::Picks;

/// Decisions that are kept.
const MAX_DECISIONS: usize = 500;
/// Rated endpoints of all kept decisions together, about 200 bytes each.
const MAX_ROWS: usize = 20_000;
/// Decisions that are kept in one second; the rest is counted.
const MAX_PER_SECOND: u32 = 20;
const SECOND: u64 = 1_000_000_000;

/// What the router knows of a pick beside the decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Observed {
    /// When it was made, in seconds since 1970.
    pub at: f64,
    /// The model that serves.
    pub model: Box<str>,
    /// Bytes of the request's body.
    pub request_bytes: usize,
    /// Time that the scheduler took; an explained pick takes longer than others.
    pub pick_microseconds: f64,
}

/// One decision, its reason included.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DecisionRecord {
    /// Place in the log, from 1.
    pub sequence: u64,
    /// What the router saw.
    #[serde(flatten)]
    pub observed: Observed,
    /// The decision with its explanation, the same JSON as in every language.
    pub decision: Decision,
    /// The same for the endpoint that does the prefill, if that is another one.
    pub prefill: Option<Decision>,
    /// How the request ended; `null` while it runs, and for good where the gateway does not show responses.
    pub outcome: Option<ObservedOutcome>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ObservedOutcome {
    /// What the engine reported.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Seconds from the request's headers to the end.
    pub seconds: f64,
    /// Seconds from the request's headers to the first token, if it was seen.
    pub first_token_seconds: Option<f64>,
}

/// A ring of decisions.
#[derive(Debug, Default)]
pub(super) struct DecisionLog {
    kept: VecDeque<Arc<DecisionRecord>>,
    rows: usize,
    last_sequence: u64,
    skipped: u64,
    second: u64,
    kept_in_second: u32,
}

impl DecisionLog {
    /// Whether a decision of now will be kept, and so shall carry its explanation.
    pub(super) fn wants_explanation(&mut self, now: u64) -> bool {
        let second = now / SECOND;
        if second != self.second {
            self.second = second;
            self.kept_in_second = 0;
        }
        let wanted = self.kept_in_second < MAX_PER_SECOND;
        self.kept_in_second += u32::from(wanted);
        wanted
    }

    /// Counts a decision that is not kept.
    pub(super) fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Keeps a decision and returns its place.
    pub(super) fn push(&mut self, observed: Observed, picks: Picks) -> u64 {
        let Picks { decision, prefill } = picks;
        let prefill = prefill.into_remote();
        self.rows += rows(&decision, prefill.as_ref());
        self.last_sequence += 1;
        let record =
            DecisionRecord { sequence: self.last_sequence, observed, decision, prefill, outcome: None };
        self.kept.push_back(Arc::new(record));
        while self.kept.len() > MAX_DECISIONS || (self.rows > MAX_ROWS && self.kept.len() > 1) {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.rows -= rows(&oldest.decision, oldest.prefill.as_ref());
        }
        self.last_sequence
    }

    /// Notes how the request of a kept decision ended.
    pub(super) fn completed(&mut self, sequence: u64, served: Served, outcome: &Outcome) {
        let Some(record) = self.place(sequence).and_then(|place| self.kept.get_mut(place)) else { return };
        let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
        Arc::make_mut(record).outcome = Some(ObservedOutcome {
            outcome: outcome.clone(),
            seconds: seconds(served.duration),
            first_token_seconds: served.first_token.map(seconds),
        });
    }

    /// The kept decisions after a place, oldest first; the last place; how many decisions were not kept.
    ///
    /// A place that was never handed out is one of an earlier run: everything is new then.
    pub(super) fn after(&self, after: u64) -> (Vec<Arc<DecisionRecord>>, u64, u64) {
        let after = if after > self.last_sequence { 0 } else { after };
        let known = self.place(after + 1).unwrap_or(0);
        let known = if after == self.last_sequence { self.kept.len() } else { known };
        (self.kept.iter().skip(known).cloned().collect(), self.last_sequence, self.skipped)
    }

    /// A kept decision by the scheduler's name of the request.
    pub(super) fn find(&self, id: u64) -> Option<Arc<DecisionRecord>> {
        self.kept.iter().rev().find(|record| record.decision.id == id).map(Arc::clone)
    }

    /// Where in the ring the decision of this sequence number is; places have no gaps.
    fn place(&self, sequence: u64) -> Option<usize> {
        let first = self.kept.front()?.sequence;
        usize::try_from(sequence.checked_sub(first)?).ok()
    }
}

/// Rated endpoints of a request's decisions.
fn rows(decision: &Decision, prefill: Option<&Decision>) -> usize {
    let rows = |decision: &Decision| decision.explanation().map_or(0, |why| why.endpoints.len());
    rows(decision) + prefill.map_or(0, rows)
}

#[cfg(test)]
mod tests {
    use p3sched::{Endpoint, Request, Scheduler, SchedulerConfig};

    use super::*;
    use crate::profiles::Prefill;

    fn scheduler(endpoints: usize) -> Scheduler {
        let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
        scheduler.set_endpoints((0..endpoints).map(|at| Endpoint::new(format!("e{at}"))).collect()).unwrap();
        scheduler
    }

    fn push(log: &mut DecisionLog, scheduler: &Scheduler) -> u64 {
        let mut request = Request::from_text("m", "x");
        request.explain = true;
        let observed = Observed { at: 0.0, model: "m".into(), request_bytes: 1, pick_microseconds: 1.0 };
        let decision = scheduler.pick(&request, 0).unwrap();
        log.push(observed, Picks { decision, prefill: Prefill::NotConfigured })
    }

    fn sequences(log: &DecisionLog, after: u64) -> Vec<u64> {
        log.after(after).0.iter().map(|record| record.sequence).collect()
    }

    #[test]
    fn a_busy_second_is_sampled() {
        let mut log = DecisionLog::default();
        let wanted = |log: &mut DecisionLog, now| (0..100).filter(|_| log.wants_explanation(now)).count();
        assert_eq!(wanted(&mut log, 5), MAX_PER_SECOND as usize);
        assert_eq!(wanted(&mut log, SECOND - 1), 0);
        assert_eq!(wanted(&mut log, SECOND), MAX_PER_SECOND as usize);
    }

    #[test]
    fn decisions_have_places_and_those_that_are_not_kept_are_counted() {
        let (mut log, scheduler) = (DecisionLog::default(), scheduler(2));
        assert_eq!(push(&mut log, &scheduler), 1);
        log.skip();
        assert_eq!(push(&mut log, &scheduler), 2);
        let (kept, last, skipped) = log.after(0);
        assert_eq!((kept.len(), last, skipped), (2, 2, 1));
        assert_eq!((sequences(&log, 1), sequences(&log, 2)), (vec![2], vec![]));
        assert_eq!(sequences(&log, 77), [1, 2], "a place of an earlier run");
        assert_eq!(log.find(2).unwrap().sequence, 2);
        assert!(log.find(3).is_none());
    }

    #[test]
    fn the_log_is_bounded_in_number_and_in_size() {
        let (mut log, small) = (DecisionLog::default(), scheduler(1));
        for _ in 0..MAX_DECISIONS + 3 {
            push(&mut log, &small);
        }
        assert_eq!(log.kept.len(), MAX_DECISIONS);
        assert_eq!(log.rows, MAX_DECISIONS);
        assert_eq!(sequences(&log, 1)[0], 4, "what was dropped in between is not waited for");

        let large = scheduler(MAX_ROWS / 2);
        for _ in 0..3 {
            push(&mut log, &large);
        }
        assert_eq!((log.kept.len(), log.rows), (2, MAX_ROWS));
    }

    #[test]
    fn an_end_finds_its_decision() {
        let (mut log, scheduler) = (DecisionLog::default(), scheduler(1));
        let first = push(&mut log, &scheduler);
        push(&mut log, &scheduler);
        let served = Served { duration: 2 * SECOND, first_token: Some(SECOND), response_bytes: 0 };
        log.completed(first, served, &Outcome { cached_tokens: Some(7), ..Outcome::success() });
        log.completed(99, served, &Outcome::success());
        let (kept, ..) = log.after(0);
        let outcome = kept[0].outcome.as_ref().unwrap();
        assert_eq!((outcome.outcome.cached_tokens, outcome.seconds), (Some(7), 2.0));
        assert_eq!(kept[1].outcome, None);
    }
}
