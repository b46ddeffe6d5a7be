//! Every second of the last ten minutes, as columns for charts.

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Seconds that are kept.
const LENGTH: usize = 600;
const SECOND: u64 = 1_000_000_000;
/// Pick times are told apart up to a minute, to two digits.
const LONGEST_PICK: u64 = 60 * SECOND;
const DIGITS: u8 = 2;

/// What happened in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Second {
    picks: u32,
    refusals: u32,
    prompt_tokens: u64,
    predicted_cached_tokens: u64,
    actual_cached_tokens: u64,
    /// Median, 95th and 99th percentile of pick times in microseconds, if anything was picked.
    pick_microseconds: Option<[f64; 3]>,
}

/// The seconds that are over, and the one that runs.
pub(super) struct History {
    /// The last one is the second before `running_since`.
    over: VecDeque<Second>,
    running: Second,
    /// Number of the running second, counted from the clock's origin.
    running_since: u64,
    /// Pick times of the running second in nanoseconds.
    pick_times: Histogram<u32>,
}

/// All columns are equally long, one value per second, oldest first. Tokens are sums over the second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct HistoryColumns {
    /// Begin of each second, since 1970.
    pub seconds: Vec<u64>,
    /// Requests that were picked for.
    pub picks: Vec<u32>,
    /// Requests that were refused.
    pub refusals: Vec<u32>,
    /// Median time of a pick in microseconds; `null` in a second without picks, here and in the next two.
    pub pick_microseconds_p50: Vec<Option<f64>>,
    /// 95th percentile.
    pub pick_microseconds_p95: Vec<Option<f64>>,
    /// 99th percentile.
    pub pick_microseconds_p99: Vec<Option<f64>>,
    /// Prompt tokens of the picks.
    pub prompt_tokens: Vec<u64>,
    /// Those of them that the chosen endpoints were expected to hold.
    pub predicted_cached_tokens: Vec<u64>,
    /// Tokens that engines reported as found in their caches, for the requests that ended in this second.
    pub actual_cached_tokens: Vec<u64>,
}

impl History {
    /// An empty history that begins now.
    ///
    /// # Errors
    ///
    /// The message says why pick times cannot be summed up.
    pub(super) fn new(now: u64) -> Result<Self, String> {
        let pick_times = Histogram::new_with_bounds(1, LONGEST_PICK, DIGITS)
            .map_err(|error| format!("cannot sum up pick times: {error}"))?;
        Ok(Self {
            over: VecDeque::with_capacity(LENGTH),
            running: Second::default(),
            running_since: now / SECOND,
            pick_times,
        })
    }

    /// Counts a pick.
    pub(super) fn picked(&mut self, nanoseconds: u64, prompt_tokens: u32, matched_tokens: u32, now: u64) {
        self.advance(now);
        self.pick_times.saturating_record(nanoseconds);
        self.running.picks += 1;
        self.running.prompt_tokens += u64::from(prompt_tokens);
        self.running.predicted_cached_tokens += u64::from(matched_tokens);
    }

    /// Counts a refusal.
    pub(super) fn refused(&mut self, now: u64) {
        self.advance(now);
        self.running.refusals += 1;
    }

    /// Counts what an engine reported at the end of a request.
    pub(super) fn completed(&mut self, cached_tokens: u32, now: u64) {
        self.advance(now);
        self.running.actual_cached_tokens += u64::from(cached_tokens);
    }

    /// The seconds that are over; `origin` is the wall clock at the clock's origin, in seconds since 1970.
    pub(super) fn columns(&mut self, origin: f64, now: u64) -> HistoryColumns {
        self.advance(now);
        let first = origin as u64 + self.running_since - self.over.len() as u64;
        let percentile = |at: usize| {
            let of = |second: &Second| second.pick_microseconds.and_then(|times| times.get(at).copied());
            self.over.iter().map(of).collect()
        };
        HistoryColumns {
            seconds: (first..).take(self.over.len()).collect(),
            picks: self.over.iter().map(|second| second.picks).collect(),
            refusals: self.over.iter().map(|second| second.refusals).collect(),
            pick_microseconds_p50: percentile(0),
            pick_microseconds_p95: percentile(1),
            pick_microseconds_p99: percentile(2),
            prompt_tokens: self.over.iter().map(|second| second.prompt_tokens).collect(),
            predicted_cached_tokens: self.over.iter().map(|second| second.predicted_cached_tokens).collect(),
            actual_cached_tokens: self.over.iter().map(|second| second.actual_cached_tokens).collect(),
        }
    }

    /// Ends the running second once its time is over; the seconds in which nothing happened count as well.
    ///
    /// A caller whose `now` is a little older than another's counts into the second that runs.
    fn advance(&mut self, now: u64) {
        let second = now / SECOND;
        if second <= self.running_since {
            return;
        }
        self.end_running_second();
        let idle = (second - self.running_since - 1).min(LENGTH as u64);
        for _ in 0..idle {
            self.push(Second::default());
        }
        self.running_since = second;
    }

    fn end_running_second(&mut self) {
        let mut second = std::mem::take(&mut self.running);
        if second.picks > 0 {
            let microseconds = |quantile| self.pick_times.value_at_quantile(quantile) as f64 / 1e3;
            second.pick_microseconds = Some([0.5, 0.95, 0.99].map(microseconds));
            self.pick_times.reset();
        }
        self.push(second);
    }

    fn push(&mut self, second: Second) {
        if self.over.len() == LENGTH {
            self.over.pop_front();
        }
        self.over.push_back(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_in_a_second_is_one_row() {
        let mut history = History::new(0).unwrap();
        for microseconds in 1..=100 {
            history.picked(microseconds * 1_000, 10, 4, SECOND / 2);
        }
        history.refused(SECOND - 1);
        assert!(history.columns(50.0, SECOND - 1).picks.is_empty(), "the second still runs");
        history.completed(3, SECOND);
        let columns = history.columns(50.0, 3 * SECOND);
        assert_eq!(columns.seconds, [50, 51, 52]);
        assert_eq!(columns.picks, [100, 0, 0]);
        assert_eq!(columns.refusals, [1, 0, 0]);
        assert_eq!(columns.prompt_tokens, [1_000, 0, 0]);
        assert_eq!(columns.predicted_cached_tokens, [400, 0, 0]);
        assert_eq!(columns.actual_cached_tokens, [0, 3, 0]);
        for (column, expected) in [
            (&columns.pick_microseconds_p50, 50.0),
            (&columns.pick_microseconds_p95, 95.0),
            (&columns.pick_microseconds_p99, 99.0),
        ] {
            let (first, rest) = column.split_first().unwrap();
            assert!((first.unwrap() - expected).abs() <= expected / 100.0, "{first:?}");
            assert_eq!(rest, [None, None]);
        }
    }

    #[test]
    fn each_second_has_its_own_pick_times() {
        let mut history = History::new(0).unwrap();
        history.picked(1_000_000, 0, 0, 0);
        history.picked(1_000, 0, 0, SECOND);
        let columns = history.columns(0.0, 2 * SECOND);
        assert!(columns.pick_microseconds_p99[1].unwrap() < 2.0, "{columns:?}");
    }

    #[test]
    fn ten_minutes_are_kept_however_long_nothing_happened() {
        let mut history = History::new(7 * SECOND).unwrap();
        history.picked(1, 0, 0, 7 * SECOND);
        let columns = history.columns(1_000.0, 1_000_000 * SECOND);
        assert_eq!(columns.picks, [0; LENGTH]);
        assert_eq!(columns.seconds.last(), Some(&1_000_999));
        history.picked(1, 0, 0, 999_999 * SECOND);
        let columns = history.columns(1_000.0, 1_000_001 * SECOND);
        assert_eq!(
            (columns.picks.last(), columns.picks.len()),
            (Some(&1), LENGTH),
            "an older `now` is no new second"
        );
    }
}
