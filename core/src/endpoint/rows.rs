//! The rows that picks see, kept from pick to pick.
//!
//! What a row says of its endpoint is written anew when that endpoint has changed, or when so much time has passed that
//! a scrape counts for less. The predicted waits change with every pick; they are computed for all rows at once, in
//! columns, which a compiler turns into vector instructions.
//!
//! Threads that pick at once have rows of their own, so that what every pick writes stays in the cache of its core; the
//! rows catch up with what others changed in the pool.

use super::cold_order::ColdOrder;
use super::pool::{EndpointPool, Versions};
use super::state::{EndpointState, LoadModel, NANOSECONDS};
use super::{AdapterState, Candidate};
use crate::gateway::names_endpoint;
use crate::scorer::{largest_known, smallest_known};

/// What holds for all rows of a pick together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowSummary {
    /// Whether all endpoints are reachable and none only does prefill.
    pub(crate) all_admissible: bool,
    /// Longest known wait less the shortest, in seconds; negative if none is known.
    pub(crate) wait_range_seconds: f32,
}

/// One row per endpoint. Columns have one place per row, in the same order.
#[derive(Debug)]
pub(crate) struct Rows {
    candidates: Vec<Candidate>,
    /// Position of an endpoint's row by its slot.
    positions: Vec<u32>,
    /// The pool as it was when the rows were last brought up to date.
    seen: Versions,
    /// Whether the last pick wrote into the rows which endpoints its request's subset allows …
    has_subset: bool,
    /// … and which have its adapter.
    has_adapter: bool,
    waits: WaitColumns,
    /// Weight of the endpoint's last scrape.
    freshness: Vec<f32>,
    /// Prefill rate in tokens per second, configured or learned; `NaN` where neither is known.
    own_rates: Vec<f64>,
    own_rates_changed: bool,
    /// How many endpoints are not reachable or only do prefill.
    inadmissible: usize,
    /// While nothing but time passes, the rows hold within it.
    steady: Stretch,
}

/// A stretch of time in nanoseconds, both ends included; empty if it ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) from: u64,
    pub(super) until: u64,
}

impl Stretch {
    pub(super) const ALWAYS: Self = Self { from: 0, until: u64::MAX };
    pub(super) const NEVER: Self = Self { from: 1, until: 0 };

    pub(super) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    fn is_empty(self) -> bool {
        self.until < self.from
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            candidates: Vec::new(),
            positions: Vec::new(),
            seen: Versions::default(),
            has_subset: false,
            has_adapter: false,
            waits: WaitColumns::default(),
            freshness: Vec::new(),
            own_rates: Vec::new(),
            own_rates_changed: false,
            inadmissible: 0,
            steady: Stretch::NEVER,
        }
    }
}

impl Rows {
    /// One row per endpoint, in the order of their slots, as they were last brought up to date.
    pub(crate) fn all(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Brings the rows up to date, but for what depends on a request and for what [`date`](Self::date) notes.
    pub(crate) fn update(
        &mut self,
        pool: &EndpointPool,
        model: &LoadModel,
        mean_uncached_tokens: f64,
        now: u64,
    ) -> RowSummary {
        let versions = pool.versions();
        if self.seen.members != versions.members {
            self.make_room(pool);
        } else {
            pool.for_each_changed(self.seen, |endpoint| self.write(endpoint, model, now));
        }
        if !self.hold_at(now) {
            self.write_all(pool, model, now);
        }
        if self.seen.cold_order != versions.cold_order || self.seen.members != versions.members {
            self.write_cold_ranks(pool.cold_order());
        }
        self.seen = versions;
        self.write_waits(mean_uncached_tokens as f32)
    }

    /// Notes in each row how much of a prompt its endpoint holds.
    pub(crate) fn match_prompt(&mut self, matched_tokens: impl Fn(u32) -> u32) {
        self.candidates.iter_mut().for_each(|row| row.matched_tokens = matched_tokens(row.endpoint));
    }

    /// Notes in each row how old its scrape is, which no score of this crate depends on.
    pub(crate) fn date(&mut self, pool: &EndpointPool, now: u64) {
        for (row, (_, state)) in self.candidates.iter_mut().zip(pool.iter()) {
            let age = state.scraped_at.map(|at| now.saturating_sub(at));
            row.metrics_age_seconds = age.map_or(f32::NAN, |age| age as i64 as f32 / NANOSECONDS as f32);
        }
    }

    /// Notes in each row whether a request's subset allows its endpoint; without a subset all are allowed.
    pub(crate) fn restrict(&mut self, pool: &EndpointPool, subset: Option<&[String]>) {
        if subset.is_none() && !self.has_subset {
            return;
        }
        for (row, (_, state)) in self.candidates.iter_mut().zip(pool.iter()) {
            let is_allowed = |allowed: &String| names_endpoint(allowed, &state.endpoint.name);
            row.in_subset = subset.is_none_or(|subset| subset.iter().any(is_allowed));
        }
        self.has_subset = subset.is_some();
    }

    /// Notes in each row whether its endpoint has an adapter of this name. A name that is only `guessed` to be an adapter
    /// (a model's) is none unless an endpoint knows it as one.
    pub(crate) fn rate_adapter(&mut self, pool: &EndpointPool, name: Option<&str>, guessed: bool) {
        if name.is_none() && !self.has_adapter {
            return;
        }
        let mut is_known = false;
        for (row, (_, state)) in self.candidates.iter_mut().zip(pool.iter()) {
            row.adapter = name.map_or(AdapterState::NotNeeded, |name| state.adapter_state(name));
            is_known |= matches!(row.adapter, AdapterState::Running | AdapterState::Waiting);
        }
        if guessed && !is_known {
            self.candidates.iter_mut().for_each(|row| row.adapter = AdapterState::NotNeeded);
        }
        self.has_adapter = name.is_some();
    }

    /// Whether the rows of endpoints that did not change still hold.
    fn hold_at(&self, now: u64) -> bool {
        (self.steady.from..=self.steady.until).contains(&now)
    }

    /// Makes room for rows of other endpoints than before; each has to be written.
    fn make_room(&mut self, pool: &EndpointPool) {
        let endpoints = pool.len();
        self.candidates.clear();
        self.candidates.resize(endpoints, Candidate::default());
        self.positions.clear();
        self.positions.resize(pool.slot_count(), 0);
        for (position, (slot, _)) in (0..).zip(pool.iter()) {
            set(&mut self.positions, slot as usize, position);
        }
        self.freshness.resize(endpoints, 0.0);
        self.own_rates.resize(endpoints, f64::NAN);
        self.waits.resize(endpoints);
        self.own_rates_changed = true;
        self.inadmissible = 0;
        self.steady = Stretch::NEVER;
    }

    fn write_all(&mut self, pool: &EndpointPool, model: &LoadModel, now: u64) {
        self.steady = Stretch::ALWAYS;
        pool.iter().for_each(|(_, endpoint)| self.write(endpoint, model, now));
        if self.steady.is_empty() {
            self.blend_ageing_utilization();
        }
    }

    /// Writes what a row says of its endpoint.
    fn write(&mut self, endpoint: &EndpointState, model: &LoadModel, now: u64) {
        let Some(at) = self.positions.get(endpoint.slot as usize).map(|&at| at as usize) else { return };
        let Some(row) = self.candidates.get_mut(at) else { return };
        self.inadmissible -= usize::from(!is_admissible(row));
        let (freshness, steady) = endpoint.write_row(row, model, now);
        self.inadmissible += usize::from(!is_admissible(row));
        self.steady = self.steady.and(steady);
        set(&mut self.freshness, at, freshness);
        self.waits.write(at, endpoint.waiting_work(freshness));
        let rate = endpoint.prefill_tokens_per_second(model).unwrap_or(f64::NAN);
        if self.own_rates.get(at).is_none_or(|before| before.to_bits() != rate.to_bits()) {
            set(&mut self.own_rates, at, rate);
            self.own_rates_changed = true;
        }
    }

    /// Brings up to date what depends on other endpoints and on the mean of a request's uncached tokens.
    fn write_waits(&mut self, mean_uncached_tokens: f32) -> RowSummary {
        if std::mem::take(&mut self.own_rates_changed) {
            self.write_rates();
        }
        self.waits.compute(mean_uncached_tokens);
        let waits = self.waits.tokens.iter().zip(&self.waits.seconds);
        for (row, (&tokens, &seconds)) in self.candidates.iter_mut().zip(waits) {
            row.waiting_tokens = tokens;
            row.wait_seconds = seconds;
            row.queue = if row.prefill_tokens_per_second.is_nan() { row.waiting_requests } else { seconds };
        }
        let seconds = &self.waits.seconds;
        RowSummary {
            all_admissible: self.inadmissible == 0,
            wait_range_seconds: largest_known(seconds) - smallest_known(seconds),
        }
    }

    fn write_cold_ranks(&mut self, order: &ColdOrder) {
        self.candidates.iter_mut().for_each(|row| row.cold_rank = order.rank(row.endpoint));
    }

    /// The mean of the known prefill rates is the best guess for an endpoint that has shown none yet.
    fn write_rates(&mut self) {
        let known = self.own_rates.iter().filter(|rate| !rate.is_nan());
        let (count, sum) = known.fold((0u32, 0.0), |(count, sum), rate| (count + 1, sum + rate));
        // Without any rate this is 0 over 0, `NaN`.
        let mean = sum / f64::from(count);
        let rates = self.own_rates.iter().zip(&mut self.waits.rates);
        for (row, (&own, rate)) in self.candidates.iter_mut().zip(rates) {
            *rate = if own.is_nan() { mean } else { own } as f32;
            row.prefill_tokens_per_second = *rate;
        }
    }

    /// Moves the KV use of endpoints with an ageing scrape towards the mean of those that are known.
    fn blend_ageing_utilization(&mut self) {
        let used = self.candidates.iter().map(|row| row.kv_cache_utilization).filter(|used| used.is_finite());
        let (count, sum) = used.fold((0u32, 0.0f32), |(count, sum), used| (count + 1, sum + used));
        let mean = sum / count as f32;
        for (row, &freshness) in self.candidates.iter_mut().zip(&self.freshness) {
            if row.kv_cache_utilization.is_finite() {
                row.kv_cache_utilization = freshness * row.kv_cache_utilization + (1.0 - freshness) * mean;
            }
        }
    }
}

/// The work that waits on an endpoint, apart from what is not known before a pick.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingWork {
    /// Requests that waited when the endpoint was scraped, by the weight of that scrape.
    pub(super) scraped_requests: f32,
    /// Uncached tokens of own requests without a first token, now …
    pub(super) own_tokens: f32,
    /// … and when the endpoint was scraped.
    pub(super) own_tokens_at_scrape: f32,
}

/// What the predicted waits are made of, and the waits.
#[derive(Debug, Default)]
struct WaitColumns {
    scraped_requests: Vec<f32>,
    own_tokens: Vec<f32>,
    own_tokens_at_scrape: Vec<f32>,
    /// Prefill rates in tokens per second, a guess where the endpoint has shown none; `NaN` if there is none to guess from.
    rates: Vec<f32>,
    /// W_e in tokens.
    tokens: Vec<f32>,
    /// W_e in seconds.
    seconds: Vec<f32>,
}

impl WaitColumns {
    fn resize(&mut self, endpoints: usize) {
        let Self { scraped_requests, own_tokens, own_tokens_at_scrape, rates, tokens, seconds } = self;
        for column in [scraped_requests, own_tokens, own_tokens_at_scrape, rates, tokens, seconds] {
            column.resize(endpoints, f32::NAN);
        }
    }

    fn write(&mut self, at: usize, work: WaitingWork) {
        set(&mut self.scraped_requests, at, work.scraped_requests);
        set(&mut self.own_tokens, at, work.own_tokens);
        set(&mut self.own_tokens_at_scrape, at, work.own_tokens_at_scrape);
    }

    /// Own work that waits, or the scraped queue corrected by what own picks changed since.
    fn compute(&mut self, mean_uncached_tokens: f32) {
        let own = self.own_tokens.iter().zip(&self.own_tokens_at_scrape);
        let work = self.scraped_requests.iter().zip(own);
        let out = self.tokens.iter_mut().zip(&mut self.seconds);
        for ((&scraped, (&own, &own_at_scrape)), (&rate, (tokens, seconds))) in
            work.zip(self.rates.iter().zip(out))
        {
            let corrected = scraped * mean_uncached_tokens + own - own_at_scrape;
            *tokens = if corrected > own { corrected } else { own };
            *seconds = *tokens / rate;
        }
    }
}

fn is_admissible(row: &Candidate) -> bool {
    row.reachable && !row.prefill_only
}

fn set<T>(column: &mut [T], at: usize, value: T) {
    if let Some(place) = column.get_mut(at) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_meet_where_both_hold() {
        let (early, late) = (Stretch { from: 0, until: 5 }, Stretch { from: 5, until: 9 });
        assert_eq!(early.and(late), Stretch { from: 5, until: 5 });
        assert!(!early.and(late).is_empty());
        assert!(late.and(Stretch { from: 0, until: 4 }).is_empty());
        assert!(Stretch::ALWAYS.and(Stretch::NEVER).is_empty());
    }
}
