//! All endpoints, by slot and by name.

use std::sync::Arc;

use ahash::AHashMap;

use super::Endpoint;
use super::cold_order::ColdOrder;
use super::state::EndpointState;

/// All endpoints. A slot is a small number that belongs to one endpoint until that is removed.
#[derive(Debug, Default)]
pub(crate) struct EndpointPool {
    slots: Vec<Option<EndpointState>>,
    by_name: AHashMap<Arc<str>, u32>,
    generations: u32,
    cold_order: ColdOrder,
    versions: Versions,
    recent: RecentChanges,
}

/// How often each part of a pool has changed: what rows compare with what they have seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Versions {
    /// Endpoints came or went.
    pub(super) members: u64,
    /// An endpoint's own state changed.
    pub(super) states: u64,
    /// The order of the endpoints' last cold requests changed.
    pub(super) cold_order: u64,
}

/// How many changes are known one by one.
const RECENT: usize = 128;

/// Slots of the endpoints that changed last; change number `n` is at `n % RECENT`.
#[derive(Debug)]
struct RecentChanges([u32; RECENT]);

impl Default for RecentChanges {
    fn default() -> Self {
        Self([0; RECENT])
    }
}

impl RecentChanges {
    fn note(&mut self, number: u64, slot: u32) {
        if let Some(place) = self.0.get_mut(number as usize % RECENT) {
            *place = slot;
        }
    }

    fn get(&self, number: u64) -> Option<u32> {
        self.0.get(number as usize % RECENT).copied()
    }
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

    /// An endpoint that is going to change.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut EndpointState> {
        let state = self.slots.get_mut(slot as usize)?.as_mut()?;
        self.versions.states += 1;
        self.recent.note(self.versions.states, slot);
        state.changed_at = self.versions.states;
        Some(state)
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
                state.relabel(endpoint);
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
        self.versions.members += 1;
        slot
    }

    /// Removes an endpoint and returns the slot that it leaves.
    pub(crate) fn remove(&mut self, name: &str) -> Option<u32> {
        let slot = self.by_name.remove(name)?;
        *self.slots.get_mut(slot as usize)? = None;
        self.cold_order.remove(slot);
        self.versions.members += 1;
        Some(slot)
    }

    /// Takes note that an endpoint was given a cold request.
    pub(crate) fn give_cold(&mut self, slot: u32) {
        self.cold_order.give(slot);
        self.versions.cold_order += 1;
    }

    pub(super) fn cold_order(&self) -> &ColdOrder {
        &self.cold_order
    }

    pub(super) fn versions(&self) -> Versions {
        self.versions
    }

    /// Visits every endpoint that has changed since its pool was of this version, once.
    pub(super) fn for_each_changed<'a>(&'a self, since: Versions, mut visit: impl FnMut(&'a EndpointState)) {
        let changes = self.versions.states - since.states;
        if changes > RECENT as u64 {
            let all = self.slots.iter().flatten();
            return all.filter(|state| state.changed_at > since.states).for_each(visit);
        }
        for number in since.states + 1..=self.versions.states {
            let changed = self.recent.get(number).and_then(|slot| self.get(slot));
            // Only its last change counts.
            if let Some(state) = changed.filter(|state| state.changed_at == number) {
                visit(state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::ledger::Booking;
    use crate::endpoint::rows::Rows;
    use crate::endpoint::state::LoadModel;
    use crate::endpoint::{AdapterState, Candidate, EndpointMetrics, ScrapeFailure};

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
        let mut rows = Rows::default();
        rows.update(pool, &model(), mean_uncached, now);
        rows.all().to_vec()
    }

    fn waiting(requests: f64, utilization: f64) -> EndpointMetrics {
        EndpointMetrics {
            waiting_requests: Some(requests),
            kv_cache_utilization: Some(utilization),
            ..EndpointMetrics::default()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add,
        Remove,
        Observe { waiting: u32, utilization: f64 },
        Fail(ScrapeFailure),
        Book { tokens: u32 },
        Release { tokens: u32, awaits_first_token: bool },
        LearnRate { tokens: u64 },
        GiveCold,
        Pass { to: u64, mean_uncached: u32 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Add),
            Just(Step::Remove),
            (0u32..5, 0.0..1.2).prop_map(|(waiting, utilization)| Step::Observe { waiting, utilization }),
            prop_oneof![Just(ScrapeFailure::Failed), Just(ScrapeFailure::Unreachable)].prop_map(Step::Fail),
            (0u32..5_000).prop_map(|tokens| Step::Book { tokens }),
            (0u32..5_000, any::<bool>())
                .prop_map(|(tokens, awaits_first_token)| Step::Release { tokens, awaits_first_token }),
            (100u64..5_000).prop_map(|tokens| Step::LearnRate { tokens }),
            Just(Step::GiveCold),
            (0u64..32, 0u32..1_000).prop_map(|(quarters, mean_uncached)| Step::Pass {
                to: quarters * SECOND / 4,
                mean_uncached
            }),
        ]
    }

    fn apply(pool: &mut EndpointPool, step: &Step, name: &str, now: u64) {
        if matches!(step, Step::Add) {
            pool.add(Endpoint::new(name));
        }
        let Some(slot) = pool.slot(name) else { return };
        match *step {
            Step::Remove => {
                pool.remove(name);
            }
            Step::GiveCold => pool.give_cold(slot),
            _ => {}
        }
        let Some(state) = pool.get_mut(slot) else { return };
        match *step {
            Step::Observe { waiting: requests, utilization } => {
                let mut metrics = waiting(f64::from(requests), utilization);
                (metrics.block_count, metrics.block_size_tokens) = (Some(100), Some(16));
                state.observe(metrics, now);
            }
            Step::Fail(failure) => state.scrape_failed(failure, now),
            Step::Book { tokens } => state.book(tokens, u64::from(tokens)),
            Step::Release { tokens, awaits_first_token } => state.release(&Booking {
                endpoint: slot,
                endpoint_generation: state.generation,
                prompt_tokens: tokens,
                matched_tokens: 0,
                queued_tokens: 0,
                session: None,
                picked_at: 0,
                awaits_first_token,
            }),
            Step::LearnRate { tokens } => state.rate.record(tokens, 0.5),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn rows_that_were_kept_equal_rows_written_anew(
            // Many more than the changes that are known one by one.
            steps in prop::collection::vec((step(), 0usize..4, prop::bool::weighted(0.01)), 0..400),
            has_rate in any::<bool>(),
        ) {
            let model = LoadModel { prefill_tokens_per_second: has_rate.then_some(1_000.0), ..model() };
            let (mut pool, mut steady, mut late) = (EndpointPool::default(), Rows::default(), Rows::default());
            let (mut now, mut mean) = (0, 0.0);
            for (step, endpoint, late_looks) in steps {
                apply(&mut pool, &step, ["a", "b", "c", "d"][endpoint], now);
                if let Step::Pass { to, mean_uncached } = step {
                    (now, mean) = (to, f64::from(mean_uncached));
                }
                let mut anew = Rows::default();
                let summary = anew.update(&pool, &model, mean, now);
                for kept in [Some(&mut steady), late_looks.then_some(&mut late)].into_iter().flatten() {
                    prop_assert_eq!(kept.update(&pool, &model, mean, now), summary);
                    // As text, in which `NaN` equals itself.
                    prop_assert_eq!(format!("{:?}", kept.all()), format!("{:?}", anew.all()));
                }
                let waits = anew.all().iter().map(|row| row.wait_seconds).filter(|wait| !wait.is_nan());
                let (shortest, longest) = waits.fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), wait| (min.min(wait), max.max(wait)));
                prop_assert_eq!(summary.wait_range_seconds, longest - shortest);
                let is_admissible = |row: &Candidate| row.reachable && !row.prefill_only;
                prop_assert_eq!(summary.all_admissible, anew.all().iter().all(is_admissible));
            }
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
            pool.get_mut(slot).unwrap().metrics =
                EndpointMetrics { running_adapters, waiting_adapters, max_adapters, ..Default::default() };
        }
        let mut rows = Rows::default();
        rows.update(&pool, &model(), 0.0, 0);
        let mut states = |name: &str, guessed| {
            rows.rate_adapter(&pool, Some(name), guessed);
            rows.all().iter().map(|row| row.adapter).collect::<Vec<_>>()
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
