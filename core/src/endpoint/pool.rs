//! All endpoints, by slot and by name, and the rows that a pick sees of them.

use std::sync::Arc;

use ahash::AHashMap;
use xxhash_rust::xxh3::xxh3_64;

use super::cold_order::ColdOrder;
use super::ledger::Booking;
use super::prediction::CachePrediction;
use super::rate::PrefillRate;
use super::{AdapterState, Candidate, Endpoint, EndpointMetrics, ScrapeFailure};

pub(crate) const NANOSECONDS: f64 = 1e9;

pub(crate) fn nanoseconds(seconds: f64) -> u64 {
    (seconds * NANOSECONDS) as u64
}

/// How load is computed from what was scraped and what was booked; times in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadModel {
    /// Up to this age a scrape counts fully.
    pub(crate) fresh: u64,
    /// From this age on a scrape counts nothing.
    pub(crate) expire: u64,
    /// Failed scrapes in a row after which an endpoint may be taken for dead …
    pub(crate) dead_after_scrapes: u32,
    /// … when the first of them is at least this old.
    pub(crate) dead_after: u64,
    /// Prefill rate of every endpoint in tokens per second, when configured.
    pub(crate) prefill_tokens_per_second: Option<f64>,
}

impl LoadModel {
    /// Weight in [0, 1] of a scrape of this age.
    fn freshness(&self, age: u64) -> f32 {
        if age <= self.fresh {
            return 1.0;
        }
        if age >= self.expire {
            return 0.0;
        }
        (self.expire - age) as f32 / (self.expire - self.fresh) as f32
    }
}

/// What is known of one endpoint. What a pick does not read is boxed, so that it reads few cache lines per endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) endpoint: Box<Endpoint>,
    pub(crate) generation: u32,
    pub(crate) metrics: Box<EndpointMetrics>,
    pub(crate) scraped_at: Option<u64>,
    /// Uncached tokens of own requests without a first token.
    pub(crate) queued_tokens: u64,
    /// Own requests without a first token.
    pub(crate) queued_requests: u32,
    pub(crate) requests_in_flight: u32,
    pub(crate) tokens_in_flight: u64,
    pub(crate) rate: PrefillRate,
    pub(crate) prediction: Box<CachePrediction>,
    /// What a pick sees, but for what depends on the request or the time.
    row: Candidate,
    scraped: ScrapedLoad,
    queued_tokens_at_scrape: u64,
    queued_requests_at_scrape: u32,
    booked_since_scrape: u64,
    failed_scrapes: u32,
    first_failure_at: u64,
    unreachable: bool,
}

impl EndpointState {
    fn new(endpoint: Endpoint, generation: u32, slot: u32) -> Self {
        Self {
            row: Candidate {
                endpoint: slot,
                name_hash: xxh3_64(endpoint.name.as_bytes()),
                prefill_only: is_prefill_only(&endpoint),
                ..Candidate::default()
            },
            endpoint: Box::new(endpoint),
            generation,
            metrics: Box::default(),
            scraped_at: None,
            queued_tokens: 0,
            queued_requests: 0,
            requests_in_flight: 0,
            tokens_in_flight: 0,
            rate: PrefillRate::default(),
            prediction: Box::default(),
            scraped: ScrapedLoad::of(&EndpointMetrics::default()),
            queued_tokens_at_scrape: 0,
            queued_requests_at_scrape: 0,
            booked_since_scrape: 0,
            failed_scrapes: 0,
            first_failure_at: 0,
            unreachable: false,
        }
    }

    /// Stores a good scrape; true if it shows that the engine restarted since the last one.
    pub(crate) fn observe(&mut self, metrics: EndpointMetrics, now: u64) -> bool {
        let restarted = went_back(self.metrics.request_success_total, metrics.request_success_total)
            || went_back(self.metrics.prefix_cache_queries_total, metrics.prefix_cache_queries_total);
        self.scraped = ScrapedLoad::of(&metrics);
        *self.metrics = metrics;
        self.scraped_at = Some(now);
        self.queued_tokens_at_scrape = self.queued_tokens;
        self.queued_requests_at_scrape = self.queued_requests;
        self.booked_since_scrape = 0;
        self.failed_scrapes = 0;
        self.unreachable = false;
        self.refresh_row();
        if restarted {
            self.prediction.forget_misses();
        }
        restarted
    }

    /// Takes note of a scrape that brought nothing.
    pub(crate) fn scrape_failed(&mut self, failure: ScrapeFailure, now: u64) {
        if self.failed_scrapes == 0 {
            self.first_failure_at = now;
        }
        self.failed_scrapes = self.failed_scrapes.saturating_add(1);
        self.unreachable |= failure == ScrapeFailure::Unreachable;
    }

    /// Whether the endpoint is believed to serve.
    pub(crate) fn is_reachable(&self, model: &LoadModel, now: u64) -> bool {
        if self.failed_scrapes == 0 {
            return true;
        }
        let silent = self.failed_scrapes >= model.dead_after_scrapes
            && now.saturating_sub(self.first_failure_at) >= model.dead_after;
        !(self.unreachable || silent)
    }

    /// Prefill rate in tokens per second, configured or learned.
    pub(crate) fn prefill_tokens_per_second(&self, model: &LoadModel) -> Option<f64> {
        model.prefill_tokens_per_second.or_else(|| self.rate.tokens_per_second())
    }

    /// Tokens that fit into the engine's KV cache, when it says so.
    pub(crate) fn capacity_tokens(&self) -> Option<u64> {
        capacity_tokens(&self.metrics)
    }

    /// Adds a request.
    pub(crate) fn book(&mut self, prompt_tokens: u32, uncached_tokens: u64) {
        self.queued_tokens += uncached_tokens;
        self.queued_requests += 1;
        self.requests_in_flight += 1;
        self.tokens_in_flight += u64::from(prompt_tokens);
        self.booked_since_scrape += uncached_tokens;
        self.refresh_row();
    }

    /// Ends the waiting part of a booking.
    pub(crate) fn release_queued(&mut self, booking: &Booking) {
        self.queued_tokens = self.queued_tokens.saturating_sub(booking.uncached_tokens());
        self.queued_requests = self.queued_requests.saturating_sub(1);
    }

    /// Ends a booking.
    pub(crate) fn release(&mut self, booking: &Booking) {
        if booking.awaits_first_token {
            self.release_queued(booking);
        }
        self.requests_in_flight = self.requests_in_flight.saturating_sub(1);
        self.tokens_in_flight = self.tokens_in_flight.saturating_sub(u64::from(booking.prompt_tokens));
        self.refresh_row();
    }

    /// Brings the row up to date, after any change but of the queue.
    fn refresh_row(&mut self) {
        let scraped = &self.scraped;
        let booked = self.booked_since_scrape as f64 * scraped.share_per_token;
        self.row.kv_cache_utilization = (scraped.kv_cache_utilization + booked) as f32;
        self.row.running_requests = scraped.running_requests;
        self.row.scraped_waiting_requests = scraped.waiting_requests;
        self.row.scraped_kv_cache_utilization = scraped.kv_cache_utilization as f32;
        self.row.requests_in_flight = self.requests_in_flight;
        self.row.tokens_in_flight = self.tokens_in_flight;
    }

    /// W_e in tokens: own work that waits, or the scraped queue corrected by what own picks changed since.
    fn waiting_tokens(&self, freshness: f32, mean_uncached_tokens: f32) -> f32 {
        // Signed integers convert in one instruction.
        let own = self.queued_tokens as i64 as f32;
        let scraped = self.scraped.waiting_or_none * freshness * mean_uncached_tokens;
        let corrected = scraped + own - self.queued_tokens_at_scrape as i64 as f32;
        if corrected > own { corrected } else { own }
    }

    /// The same in requests, for endpoints whose prefill rate nobody knows.
    fn waiting_requests(&self, freshness: f32) -> f32 {
        let own = self.queued_requests as f32;
        let corrected =
            self.scraped.waiting_or_none * freshness + own - self.queued_requests_at_scrape as f32;
        if corrected > own { corrected } else { own }
    }

    /// Whether an adapter of this name is loaded, as last scraped.
    fn adapter_state(&self, name: &str) -> AdapterState {
        let metrics = &self.metrics;
        if metrics.running_adapters.iter().any(|running| running == name) {
            return AdapterState::Running;
        }
        if metrics.waiting_adapters.iter().any(|waiting| waiting == name) {
            return AdapterState::Waiting;
        }
        let Some(places) = metrics.max_adapters else { return AdapterState::Unknown };
        let running = &metrics.running_adapters;
        let waiting = metrics.waiting_adapters.iter().filter(|waiting| !running.contains(waiting)).count();
        if running.len() + waiting < places as usize { AdapterState::Room } else { AdapterState::Full }
    }
}

/// The numbers of a scrape that every pick reads; `NaN` where the page said nothing.
#[derive(Debug, Clone, Copy)]
struct ScrapedLoad {
    waiting_requests: f32,
    running_requests: f32,
    kv_cache_utilization: f64,
    /// Waiting requests, 0 where the page said nothing.
    waiting_or_none: f32,
    /// Share of the KV cache that one token fills; 0 where the capacity is not known.
    share_per_token: f64,
}

impl ScrapedLoad {
    fn of(metrics: &EndpointMetrics) -> Self {
        let capacity = capacity_tokens(metrics).filter(|&capacity| capacity > 0);
        Self {
            waiting_requests: or_unknown(metrics.waiting_requests),
            running_requests: or_unknown(metrics.running_requests),
            kv_cache_utilization: metrics.kv_cache_utilization.unwrap_or(f64::NAN),
            waiting_or_none: metrics.waiting_requests.unwrap_or(0.0) as f32,
            share_per_token: capacity.map_or(0.0, |capacity| 1.0 / capacity as f64),
        }
    }
}

fn capacity_tokens(metrics: &EndpointMetrics) -> Option<u64> {
    Some(metrics.block_count?.saturating_mul(u64::from(metrics.block_size_tokens?)))
}

/// Whether an endpoint's labels say that it only does prefill for others.
fn is_prefill_only(endpoint: &Endpoint) -> bool {
    let label = |name| endpoint.labels.get(name).map(String::as_str);
    label("llm-d.ai/role").or_else(|| label("role")) == Some("prefill")
}

/// All endpoints. A slot is a small number that belongs to one endpoint until that is removed.
#[derive(Debug, Default)]
pub(crate) struct EndpointPool {
    slots: Vec<Option<EndpointState>>,
    by_name: AHashMap<Arc<str>, u32>,
    generations: u32,
    cold_order: ColdOrder,
}

impl EndpointPool {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// One more than the largest slot in use so far.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn slot(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&EndpointState> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut EndpointState> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// The occupant of a slot, if it is still the one of that generation.
    pub(crate) fn occupant(&mut self, slot: u32, generation: u32) -> Option<&mut EndpointState> {
        self.get_mut(slot).filter(|state| state.generation == generation)
    }

    /// Every endpoint with its slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &EndpointState)> {
        (0u32..).zip(&self.slots).filter_map(|(slot, state)| Some((slot, state.as_ref()?)))
    }

    /// Adds an endpoint, or replaces the labels of the one of that name; returns its slot.
    pub(crate) fn add(&mut self, endpoint: Endpoint) -> u32 {
        if let Some(slot) = self.slot(&endpoint.name) {
            if let Some(state) = self.get_mut(slot) {
                state.row.prefill_only = is_prefill_only(&endpoint);
                *state.endpoint = endpoint;
            }
            return slot;
        }
        let name = Arc::clone(&endpoint.name);
        self.generations = self.generations.wrapping_add(1);
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let slot = free as u32;
        let state = Some(EndpointState::new(endpoint, self.generations, slot));
        match self.slots.get_mut(free) {
            Some(place) => *place = state,
            None => self.slots.push(state),
        }
        self.by_name.insert(name, slot);
        self.cold_order.add(slot);
        slot
    }

    /// Removes an endpoint and returns the slot that it leaves.
    pub(crate) fn remove(&mut self, name: &str) -> Option<u32> {
        let slot = self.by_name.remove(name)?;
        *self.slots.get_mut(slot as usize)? = None;
        self.cold_order.remove(slot);
        Some(slot)
    }

    /// Takes note that an endpoint was given a cold request.
    pub(crate) fn give_cold(&mut self, slot: u32) {
        self.cold_order.give(slot);
    }

    /// Writes a row per endpoint; `matched_tokens(slot)` says how much of the prompt each one holds. True if all of them
    /// are reachable and none only does prefill.
    pub(crate) fn candidates(
        &self,
        model: &LoadModel,
        mean_uncached_tokens: f64,
        now: u64,
        matched_tokens: impl Fn(u32) -> u32,
        out: &mut Vec<Candidate>,
    ) -> bool {
        let fleet_rate = self.fleet_rate(model);
        let mean_uncached_tokens = mean_uncached_tokens as f32;
        let (mut stale, mut all_admissible) = (false, true);
        out.clear();
        out.reserve(self.len());
        for (slot, state) in self.iter() {
            let mut row = state.row;
            row.matched_tokens = matched_tokens(slot);
            row.cold_rank = self.cold_order.rank(slot);
            row.reachable = state.is_reachable(model, now);
            all_admissible &= row.reachable && !row.prefill_only;

            let age = state.scraped_at.map(|at| now.saturating_sub(at));
            let freshness = age.map_or(0.0, |age| model.freshness(age));
            stale |= freshness < 1.0;
            row.metrics_age_seconds = age.map_or(f32::NAN, |age| age as i64 as f32 / NANOSECONDS as f32);
            if freshness == 0.0 {
                row.running_requests = f32::NAN;
                row.kv_cache_utilization = f32::NAN;
            }

            row.waiting_tokens = state.waiting_tokens(freshness, mean_uncached_tokens);
            row.waiting_requests = state.waiting_requests(freshness);
            row.queue = row.waiting_requests;
            if let Some(rate) = state.prefill_tokens_per_second(model).or(fleet_rate) {
                row.prefill_tokens_per_second = rate as f32;
                row.wait_seconds = row.waiting_tokens / row.prefill_tokens_per_second;
                row.queue = row.wait_seconds;
            }
            out.push(row);
        }
        if stale {
            self.blend_stale_utilization(model, now, out);
        }
        all_admissible
    }

    /// Notes in each row whether its endpoint has an adapter of this name. A name that is only `guessed` to be an adapter
    /// (a model's) is none unless an endpoint knows it as one.
    pub(crate) fn rate_adapter(&self, name: &str, guessed: bool, rows: &mut [Candidate]) {
        let mut is_known = false;
        for row in rows.iter_mut() {
            row.adapter =
                self.get(row.endpoint).map_or(AdapterState::Unknown, |state| state.adapter_state(name));
            is_known |= matches!(row.adapter, AdapterState::Running | AdapterState::Waiting);
        }
        if guessed && !is_known {
            rows.iter_mut().for_each(|row| row.adapter = AdapterState::NotNeeded);
        }
    }

    /// Mean of the known prefill rates: the best guess for an endpoint that has shown none yet.
    fn fleet_rate(&self, model: &LoadModel) -> Option<f64> {
        if model.prefill_tokens_per_second.is_some() {
            return model.prefill_tokens_per_second;
        }
        let rates = self.iter().filter_map(|(_, state)| state.rate.tokens_per_second());
        let (count, sum) = rates.fold((0u32, 0.0), |(count, sum), rate| (count + 1, sum + rate));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Moves the KV use of endpoints with an ageing scrape towards the mean of those that are known.
    fn blend_stale_utilization(&self, model: &LoadModel, now: u64, rows: &mut [Candidate]) {
        let known = rows.iter().map(|row| row.kv_cache_utilization).filter(|use_| use_.is_finite());
        let (count, sum) = known.fold((0u32, 0.0f32), |(count, sum), use_| (count + 1, sum + use_));
        if count == 0 {
            return;
        }
        let mean = sum / count as f32;
        for row in rows.iter_mut().filter(|row| row.kv_cache_utilization.is_finite()) {
            let scraped_at = self.get(row.endpoint).and_then(|state| state.scraped_at).unwrap_or(now);
            let freshness = model.freshness(now.saturating_sub(scraped_at));
            row.kv_cache_utilization = freshness * row.kv_cache_utilization + (1.0 - freshness) * mean;
        }
    }
}

fn or_unknown(value: Option<f64>) -> f32 {
    value.map_or(f32::NAN, |value| value as f32)
}

fn went_back(before: Option<f64>, after: Option<f64>) -> bool {
    matches!((before, after), (Some(before), Some(after)) if after < before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn model() -> LoadModel {
        LoadModel {
            fresh: SECOND,
            expire: 5 * SECOND,
            dead_after_scrapes: 3,
            dead_after: 3 * SECOND,
            prefill_tokens_per_second: Some(1_000.0),
        }
    }

    fn rows(pool: &EndpointPool, mean_uncached: f64, now: u64) -> Vec<Candidate> {
        let mut out = Vec::new();
        pool.candidates(&model(), mean_uncached, now, |_| 0, &mut out);
        out
    }

    fn waiting(requests: f64, utilization: f64) -> EndpointMetrics {
        EndpointMetrics {
            waiting_requests: Some(requests),
            kv_cache_utilization: Some(utilization),
            ..EndpointMetrics::default()
        }
    }

    #[test]
    fn own_work_counts_before_the_scrape_shows_it() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        pool.get_mut(slot).unwrap().observe(waiting(0.0, 0.0), 0);
        pool.get_mut(slot).unwrap().book(3_000, 2_500);
        assert_eq!(rows(&pool, 500.0, 0)[0].wait_seconds, 2.5);
    }

    #[test]
    fn a_scraped_queue_is_corrected_by_what_happened_since() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        let state = pool.get_mut(slot).unwrap();
        state.book(1_000, 1_000);
        state.observe(waiting(4.0, 0.0), 0);
        assert_eq!(rows(&pool, 500.0, 0)[0].wait_seconds, 2.0, "4 waiting of 500 tokens each");
        pool.get_mut(slot).unwrap().book(1_000, 600);
        assert!((rows(&pool, 500.0, 0)[0].wait_seconds - 2.6).abs() < 1e-6);
    }

    #[test]
    fn an_old_scrape_fades_and_own_booking_takes_over() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        pool.get_mut(slot).unwrap().observe(waiting(4.0, 0.5), 0);
        assert_eq!(rows(&pool, 500.0, SECOND)[0].wait_seconds, 2.0);
        assert_eq!(rows(&pool, 500.0, 3 * SECOND)[0].wait_seconds, 1.0);
        assert_eq!(rows(&pool, 500.0, 5 * SECOND)[0].wait_seconds, 0.0);
        assert!(rows(&pool, 500.0, 5 * SECOND)[0].kv_cache_utilization.is_nan());
    }

    #[test]
    fn a_refused_connection_is_dead_at_once_and_silence_after_a_while() {
        let mut pool = EndpointPool::default();
        let (a, b) = (pool.add(Endpoint::new("a")), pool.add(Endpoint::new("b")));
        pool.get_mut(a).unwrap().scrape_failed(ScrapeFailure::Unreachable, 0);
        (0..3).for_each(|_| pool.get_mut(b).unwrap().scrape_failed(ScrapeFailure::Failed, SECOND));
        let reachable = |now| rows(&pool, 0.0, now).iter().map(|row| row.reachable).collect::<Vec<_>>();
        assert_eq!(reachable(SECOND), [false, true]);
        assert_eq!(reachable(4 * SECOND), [false, false]);
    }

    #[test]
    fn slots_are_reused_with_a_new_generation() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        let generation = pool.get(slot).unwrap().generation;
        assert_eq!(pool.remove("a"), Some(slot));
        assert_eq!(pool.add(Endpoint::new("b")), slot);
        assert!(pool.occupant(slot, generation).is_none());
        assert_eq!(pool.add(Endpoint::new("b")), slot, "adding twice changes nothing");
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn counters_that_went_back_show_a_restart() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        let state = pool.get_mut(slot).unwrap();
        let page = |total| EndpointMetrics { request_success_total: Some(total), ..Default::default() };
        assert!(!state.observe(page(5.0), 0));
        assert!(!state.observe(page(5.0), 1));
        assert!(state.observe(page(0.0), 2));
    }

    #[test]
    fn adapters_are_looked_up_by_name_and_models_only_if_known_as_one() {
        let mut pool = EndpointPool::default();
        let adapters = [(&["law", "tax"][..], &[][..], Some(2)), (&[], &["law"], Some(1)), (&[], &[], None)];
        for (name, (running, waiting, max_adapters)) in ["a", "b", "c"].into_iter().zip(adapters) {
            let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let (running_adapters, waiting_adapters) = (names(running), names(waiting));
            let slot = pool.add(Endpoint::new(name));
            *pool.get_mut(slot).unwrap().metrics =
                EndpointMetrics { running_adapters, waiting_adapters, max_adapters, ..Default::default() };
        }
        let states = |name: &str, guessed| {
            let mut rows = rows(&pool, 0.0, 0);
            pool.rate_adapter(name, guessed, &mut rows);
            rows.iter().map(|row| row.adapter).collect::<Vec<_>>()
        };
        use AdapterState::{Full, NotNeeded, Running, Unknown, Waiting};
        assert_eq!(states("law", true), [Running, Waiting, Unknown]);
        assert_eq!(states("tax", false), [Running, Full, Unknown]);
        assert_eq!(states("new", false), [Full, Full, Unknown]);
        assert_eq!(states("llama", true), [NotNeeded; 3]);
    }

    #[test]
    fn labels_say_who_only_does_prefill() {
        let mut pool = EndpointPool::default();
        for (name, label, role) in [
            ("a", "llm-d.ai/role", "prefill"),
            ("b", "role", "prefill"),
            ("c", "role", "decode"),
            ("d", "role", "both"),
        ] {
            let mut endpoint = Endpoint::new(name);
            endpoint.labels.insert(label.to_owned(), role.to_owned());
            pool.add(endpoint);
        }
        let prefill_only: Vec<_> = rows(&pool, 0.0, 0).iter().map(|row| row.prefill_only).collect();
        assert_eq!(prefill_only, [true, true, false, false]);
    }
}
