//! All endpoints, by slot and by name, and the rows that a pick sees of them.

use std::sync::Arc;

use ahash::AHashMap;

use super::cold_order::ColdOrder;
use super::rows::{RowSummary, Rows};
use super::state::{EndpointState, LoadModel, NANOSECONDS};
use super::{AdapterState, Candidate, Endpoint};

/// All endpoints. A slot is a small number that belongs to one endpoint until that is removed.
#[derive(Debug, Default)]
pub(crate) struct EndpointPool {
    slots: Vec<Option<EndpointState>>,
    by_name: AHashMap<Arc<str>, u32>,
    generations: u32,
    cold_order: ColdOrder,
    cold_order_changed: bool,
    rows: Rows,
    /// Slots whose rows say something old, each once.
    outdated: Vec<u32>,
    /// Whether endpoints came or went since the rows were written.
    rows_are_others: bool,
    /// Whether the last pick wrote into the rows which endpoints its request's subset allows …
    has_subset: bool,
    /// … and which have its adapter.
    has_adapter: bool,
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
        if std::mem::replace(&mut state.row_is_current, false) {
            self.outdated.push(slot);
        }
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
        self.rows_are_others = true;
        slot
    }

    /// Removes an endpoint and returns the slot that it leaves.
    pub(crate) fn remove(&mut self, name: &str) -> Option<u32> {
        let slot = self.by_name.remove(name)?;
        *self.slots.get_mut(slot as usize)? = None;
        self.cold_order.remove(slot);
        self.rows_are_others = true;
        Some(slot)
    }

    /// Takes note that an endpoint was given a cold request.
    pub(crate) fn give_cold(&mut self, slot: u32) {
        self.cold_order.give(slot);
        self.cold_order_changed = true;
    }

    /// Brings the rows up to date, but for what depends on a request and for what [`date_rows`](Self::date_rows) notes.
    pub(crate) fn update_rows(
        &mut self,
        model: &LoadModel,
        mean_uncached_tokens: f64,
        now: u64,
    ) -> RowSummary {
        if std::mem::take(&mut self.rows_are_others) {
            self.make_rows();
        }
        while let Some(slot) = self.outdated.pop() {
            if let Some(state) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
                state.row_is_current = true;
                self.rows.write(state.row, state, model, now);
            }
        }
        if !self.rows.hold_at(now) {
            self.rows.write_all(self.slots.iter().flatten(), model, now);
        }
        if std::mem::take(&mut self.cold_order_changed) {
            self.rows.write_cold_ranks(&self.cold_order);
        }
        self.rows.write_waits(mean_uncached_tokens as f32)
    }

    /// One row per endpoint, as they were last brought up to date.
    pub(crate) fn rows(&self) -> &[Candidate] {
        self.rows.all()
    }

    /// Notes in each row how much of a prompt its endpoint holds.
    pub(crate) fn match_rows(&mut self, matched_tokens: impl Fn(u32) -> u32) {
        self.rows.all_mut().iter_mut().for_each(|row| row.matched_tokens = matched_tokens(row.endpoint));
    }

    /// Notes in each row how old its scrape is, which no score of this crate depends on.
    pub(crate) fn date_rows(&mut self, now: u64) {
        for (row, state) in self.rows.all_mut().iter_mut().zip(self.slots.iter().flatten()) {
            let age = state.scraped_at.map(|at| now.saturating_sub(at));
            row.metrics_age_seconds = age.map_or(f32::NAN, |age| age as i64 as f32 / NANOSECONDS as f32);
        }
    }

    /// Notes in each row whether a request's subset allows its endpoint; without a subset all are allowed.
    pub(crate) fn restrict_rows(&mut self, subset: Option<&[String]>) {
        if subset.is_none() && !self.has_subset {
            return;
        }
        for (row, state) in self.rows.all_mut().iter_mut().zip(self.slots.iter().flatten()) {
            let is_allowed = |allowed: &String| names_endpoint(allowed, &state.endpoint.name);
            row.in_subset = subset.is_none_or(|subset| subset.iter().any(is_allowed));
        }
        self.has_subset = subset.is_some();
    }

    /// Notes in each row whether its endpoint has an adapter of this name. A name that is only `guessed` to be an adapter
    /// (a model's) is none unless an endpoint knows it as one.
    pub(crate) fn rate_adapter(&mut self, name: Option<&str>, guessed: bool) {
        if name.is_none() && !self.has_adapter {
            return;
        }
        let mut is_known = false;
        for (row, state) in self.rows.all_mut().iter_mut().zip(self.slots.iter().flatten()) {
            row.adapter = name.map_or(AdapterState::NotNeeded, |name| state.adapter_state(name));
            is_known |= matches!(row.adapter, AdapterState::Running | AdapterState::Waiting);
        }
        if guessed && !is_known {
            self.rows.all_mut().iter_mut().for_each(|row| row.adapter = AdapterState::NotNeeded);
        }
        self.has_adapter = name.is_some();
    }

    /// Makes room for the rows of the endpoints that there are now.
    fn make_rows(&mut self) {
        self.rows.resize(self.by_name.len());
        self.outdated.clear();
        for (row, state) in self.slots.iter_mut().flatten().enumerate() {
            state.row = row;
            state.row_is_current = true;
        }
        self.cold_order_changed = true;
    }
}

/// Whether an entry of a subset, with or without a port, means this endpoint.
fn names_endpoint(allowed: &str, name: &str) -> bool {
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    allowed == name
        || allowed == host
        || host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) == Some(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::ledger::Booking;
    use crate::endpoint::{EndpointMetrics, ScrapeFailure};

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

    fn rows(pool: &mut EndpointPool, mean_uncached: f64, now: u64) -> Vec<Candidate> {
        pool.update_rows(&model(), mean_uncached, now);
        pool.rows().to_vec()
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
            steps in prop::collection::vec((step(), 0usize..4), 0..80),
            has_rate in any::<bool>(),
        ) {
            let model = LoadModel { prefill_tokens_per_second: has_rate.then_some(1_000.0), ..model() };
            let (mut kept, mut anew) = (EndpointPool::default(), EndpointPool::default());
            let (mut now, mut mean) = (0, 0.0);
            for (step, endpoint) in steps {
                let name = ["a", "b", "c", "d"][endpoint];
                apply(&mut kept, &step, name, now);
                apply(&mut anew, &step, name, now);
                if let Step::Pass { to, mean_uncached } = step {
                    (now, mean) = (to, f64::from(mean_uncached));
                }
                anew.rows_are_others = true;
                let kept_summary = kept.update_rows(&model, mean, now);
                let summary = anew.update_rows(&model, mean, now);
                // As text, in which `NaN` equals itself.
                prop_assert_eq!(format!("{:?}", kept.rows()), format!("{:?}", anew.rows()));
                prop_assert_eq!(kept_summary, summary);
                let waits = anew.rows().iter().map(|row| row.wait_seconds).filter(|wait| !wait.is_nan());
                let (shortest, longest) = waits.fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), wait| (min.min(wait), max.max(wait)));
                prop_assert_eq!(summary.wait_range_seconds, longest - shortest);
                let is_admissible = |row: &Candidate| row.reachable && !row.prefill_only;
                prop_assert_eq!(summary.all_admissible, anew.rows().iter().all(is_admissible));
            }
        }
    }

    #[test]
    fn own_work_counts_before_the_scrape_shows_it() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        pool.get_mut(slot).unwrap().observe(waiting(0.0, 0.0), 0);
        pool.get_mut(slot).unwrap().book(3_000, 2_500);
        assert_eq!(rows(&mut pool, 500.0, 0)[0].wait_seconds, 2.5);
    }

    #[test]
    fn a_scraped_queue_is_corrected_by_what_happened_since() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        let state = pool.get_mut(slot).unwrap();
        state.book(1_000, 1_000);
        state.observe(waiting(4.0, 0.0), 0);
        assert_eq!(rows(&mut pool, 500.0, 0)[0].wait_seconds, 2.0, "4 waiting of 500 tokens each");
        pool.get_mut(slot).unwrap().book(1_000, 600);
        assert!((rows(&mut pool, 500.0, 0)[0].wait_seconds - 2.6).abs() < 1e-6);
    }

    #[test]
    fn an_old_scrape_fades_and_own_booking_takes_over() {
        let mut pool = EndpointPool::default();
        let slot = pool.add(Endpoint::new("a"));
        pool.get_mut(slot).unwrap().observe(waiting(4.0, 0.5), 0);
        assert_eq!(rows(&mut pool, 500.0, SECOND)[0].wait_seconds, 2.0);
        assert_eq!(rows(&mut pool, 500.0, 3 * SECOND)[0].wait_seconds, 1.0);
        assert_eq!(rows(&mut pool, 500.0, 5 * SECOND)[0].wait_seconds, 0.0);
        assert!(rows(&mut pool, 500.0, 5 * SECOND)[0].kv_cache_utilization.is_nan());
    }

    #[test]
    fn a_refused_connection_is_dead_at_once_and_silence_after_a_while() {
        let mut pool = EndpointPool::default();
        let (a, b) = (pool.add(Endpoint::new("a")), pool.add(Endpoint::new("b")));
        pool.get_mut(a).unwrap().scrape_failed(ScrapeFailure::Unreachable, 0);
        (0..3).for_each(|_| pool.get_mut(b).unwrap().scrape_failed(ScrapeFailure::Failed, SECOND));
        let mut reachable =
            |now| rows(&mut pool, 0.0, now).iter().map(|row| row.reachable).collect::<Vec<_>>();
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
        pool.update_rows(&model(), 0.0, 0);
        let mut states = |name: &str, guessed| {
            pool.rate_adapter(Some(name), guessed);
            pool.rows().iter().map(|row| row.adapter).collect::<Vec<_>>()
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
        let prefill_only: Vec<_> = rows(&mut pool, 0.0, 0).iter().map(|row| row.prefill_only).collect();
        assert_eq!(prefill_only, [true, true, false, false]);
    }
}
