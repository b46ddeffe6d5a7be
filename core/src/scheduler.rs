//! `Scheduler`: the five steps of a pick, and what keeps their inputs true.

mod builder;
mod kv_events;
mod metrics;
mod outcome;
mod saturation;
mod scratch;
mod snapshot;
mod stats;

use std::fmt;
use std::sync::Arc;

use ahash::AHashSet;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::block_hash::BlockHasher;
use crate::decision::{Decision, Explanation, known_value};
use crate::endpoint::exposition::PageReader;
use crate::endpoint::ledger::{Booking, Expired, Ledger};
use crate::endpoint::pool::EndpointPool;
use crate::endpoint::session::Sessions;
use crate::endpoint::state::{EndpointState, LoadModel, NANOSECONDS, nanoseconds};
use crate::endpoint::{Candidate, Endpoint};
use crate::filter::load_gate;
use crate::kv_event::precise::PreciseIndex;
use crate::picker::TieRule;
use crate::prefix_index::PrefixIndex;
use crate::profile::{CustomPlugins, Profile, RequestView, split_mix};
use crate::stats::Counters;
use crate::{Error, Prompt, Request, SchedulerConfig};

use scratch::{Scratch, ScratchSets};

pub use builder::SchedulerBuilder;
pub use outcome::Outcome;
pub use saturation::SaturationLimits;

/// Picks endpoints for requests.
///
/// All methods take `&self` and may be called from any thread; none blocks on anything but a short critical section: one
/// lock guards all that picks change. Reading a request and hashing its prompt happen outside of it; looking the prompt up,
/// scoring and booking inside, so that two requests that arrive together see each other. The rows that are scored belong
/// to the calling thread (up to 16 threads), and catch up under the lock with what others have booked.
///
/// `now` is a time in nanoseconds from any fixed origin, for example of a monotonic clock; a time earlier than one given
/// before is allowed and makes things look younger, nothing else.
///
/// # Example
///
/// ```
/// use p3sched::{Endpoint, Outcome, Request, Scheduler, SchedulerConfig};
///
/// # fn main() -> Result<(), p3sched::Error> {
/// let scheduler = Scheduler::new(SchedulerConfig::default())?;
/// scheduler.add_endpoint(Endpoint::new("10.0.0.1:8000"))?;
/// scheduler.add_endpoint(Endpoint::new("10.0.0.2:8000"))?;
///
/// let body = br#"{"model": "llama", "messages": [{"role": "user", "content": "Tell me about the sea."}]}"#;
/// let request = Request::from_body("/v1/chat/completions", body)?;
/// let decision = scheduler.pick(&request, 0)?;
/// // … forward the request to decision.endpoint …
/// scheduler.first_token(decision.id, 180_000_000)?;
/// scheduler.complete(decision.id, Outcome::success(), 900_000_000)?;
/// # Ok(())
/// # }
/// ```
pub struct Scheduler {
    config: SchedulerConfig,
    hasher: BlockHasher,
    profile: Profile,
    load_model: LoadModel,
    request_timeout: u64,
    page_reader: PageReader,
    /// Taken before `state`.
    scratch: ScratchSets,
    state: Mutex<State>,
}

/// What picks change and others have to see, together and under one lock.
struct State {
    pool: EndpointPool,
    index: PrefixIndex,
    precise: PreciseIndex,
    /// Endpoints of which `index` guesses what they hold of prompts as tokens.
    guessed_tokens: AHashSet<u32>,
    ledger: Ledger,
    counters: Counters,
    /// Moving average of the uncached tokens of a request, ū.
    mean_uncached_tokens: f64,
    /// Kept while a scorer asks for it.
    sessions: Option<Sessions>,
    /// Endpoints that a snapshot knows and that have not been added yet.
    awaited: Vec<snapshot::AwaitedEndpoint>,
    /// Whether any endpoint ever reported adapters.
    adapters_reported: bool,
}

impl Scheduler {
    /// A scheduler without endpoints.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] names the value that cannot work and what would be right.
    pub fn new(config: SchedulerConfig) -> Result<Self, Error> {
        Self::with_plugins(config, CustomPlugins::default())
    }

    /// Makes a scheduler with plugins that are not part of this crate.
    pub fn builder(config: SchedulerConfig) -> SchedulerBuilder {
        SchedulerBuilder::new(config)
    }

    fn with_plugins(config: SchedulerConfig, custom: CustomPlugins) -> Result<Self, Error> {
        config.validate()?;
        let state = State {
            pool: EndpointPool::default(),
            index: PrefixIndex::new(config.index_max_bytes),
            precise: PreciseIndex::new(),
            guessed_tokens: AHashSet::new(),
            ledger: Ledger::new(),
            counters: Counters::default(),
            mean_uncached_tokens: 0.0,
            sessions: Sessions::from_config(&config)?,
            awaited: Vec::new(),
            adapters_reported: false,
        };
        Ok(Self {
            hasher: BlockHasher::new(
                config.block_size_tokens,
                config.bytes_per_token,
                config.max_prefix_tokens,
            )?,
            profile: Profile::new(&config, custom)?,
            load_model: LoadModel {
                fresh: nanoseconds(config.metrics.fresh_seconds),
                expire: nanoseconds(config.metrics.expire_seconds),
                dead_after_scrapes: config.metrics.dead_after_scrapes,
                dead_after: nanoseconds(config.metrics.dead_after_seconds),
                prefill_tokens_per_second: config.prefill_tokens_per_second,
            },
            request_timeout: nanoseconds(config.bookings.request_timeout_seconds),
            page_reader: PageReader::new(&config.metrics)?,
            scratch: ScratchSets::default(),
            state: Mutex::new(state),
            config,
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Adds an endpoint; one of the same name keeps its state and takes the new labels.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the name is empty.
    pub fn add_endpoint(&self, endpoint: Endpoint) -> Result<(), Error> {
        check_name(&endpoint)?;
        self.add(&mut self.state.lock(), endpoint);
        Ok(())
    }

    /// Removes an endpoint and everything that is known of it; its requests in flight end silently.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownEndpoint`] if there is none of this name.
    pub fn remove_endpoint(&self, name: &str) -> Result<(), Error> {
        let mut state = self.state.lock();
        let slot = state.pool.remove(name).ok_or_else(|| Error::UnknownEndpoint(name.to_owned()))?;
        state.forget_endpoint(slot);
        Ok(())
    }

    /// Makes these the only endpoints: adds the new ones, removes the missing ones, keeps what is known of the others.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a name is empty; then nothing has changed.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) -> Result<(), Error> {
        endpoints.iter().try_for_each(check_name)?;
        let mut state = self.state.lock();
        let names = state.pool.iter().map(|(_, known)| Arc::clone(&known.endpoint.name));
        let gone: Vec<_> = names.filter(|name| endpoints.iter().all(|new| new.name != *name)).collect();
        for name in gone {
            if let Some(slot) = state.pool.remove(&name) {
                state.forget_endpoint(slot);
            }
        }
        let are_there = !endpoints.is_empty();
        for endpoint in endpoints {
            self.add(&mut state, endpoint);
        }
        if are_there {
            state.forget_awaited();
        }
        Ok(())
    }

    /// Picks the endpoint for a request, books the work on it and remembers the prefix, in one step.
    ///
    /// Report what happens to the request with [`first_token`](Self::first_token) and [`complete`](Self::complete).
    ///
    /// # Errors
    ///
    /// [`Error::NoEndpoints`] if there is none at all; [`Error::NoEligibleEndpoint`] if a filter left none.
    ///
    /// # Complexity
    ///
    /// Linear in the prompt's bytes for hashing (outside of the lock), then linear in the endpoints (inside). The memory
    /// that it works in is kept, for each of up to 16 threads: about 150 bytes per endpoint.
    pub fn pick(&self, request: &Request, now: u64) -> Result<Decision, Error> {
        let mut scratch = self.scratch.take();
        self.hasher.hash(request, &mut scratch.hashes);
        let mut state = self.state.lock();
        let decision = self.pick_locked(&mut state, &mut scratch, request, now);
        state.counters.refused_picks += u64::from(decision.is_err());
        drop(state);
        scratch.tidy();
        decision
    }

    /// What [`pick`](Self::pick) would answer now, with its explanation; records nothing.
    ///
    /// # Errors
    ///
    /// Those of [`pick`](Self::pick).
    pub fn explain(&self, request: &Request, now: u64) -> Result<Decision, Error> {
        let scratch = &mut *self.scratch.take();
        self.hasher.hash(request, &mut scratch.hashes);
        let state = &mut *self.state.lock();
        // A pick would do this first, and so decide by it.
        self.expire_bookings(state, now);
        state.expire_speculations(now);
        let view = self.gather_candidates(state, scratch, request, now)?;
        scratch.rows.date(&state.pool, now);
        let tie_rule = self.profile.run(&view, scratch.rows.all(), &mut scratch.workspace)?;
        let explanation = self.explanation(state, scratch, &view, tie_rule);
        let mut decision = self.decide(state, scratch, request, &view, tie_rule)?;
        decision.explanation = Some(Box::new(explanation));
        Ok(decision)
    }

    /// Reports the first token of a request: its prefill is done. A second report changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownRequest`] if no pick of this scheduler handed out this id.
    pub fn first_token(&self, id: u64, now: u64) -> Result<(), Error> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(booking) = state.ledger.first_token(id) else {
            return state.check_issued(id);
        };
        if let Some(endpoint) = state.pool.occupant(booking.endpoint, booking.endpoint_generation) {
            endpoint.release_queued(&booking);
            let seconds = now.saturating_sub(booking.picked_at) as f64 / NANOSECONDS;
            endpoint.rate.record(booking.queued_tokens, seconds);
        }
        Ok(())
    }

    /// Reports the end of a request, successful or not. A second report changes nothing.
    ///
    /// Where [`Outcome::served_by`] names another endpoint than the chosen one, that one is what the request's session
    /// goes to next, and what the prefix index takes for a holder of the prompt from now on. The latter needs the prompt's
    /// hashes (8 bytes per block), which are kept while a request is in flight only if `fallbacks` are configured.
    ///
    /// An endpoint whose engine finds nothing in its cache where a hit was predicted, eight times in a row, loses its
    /// entries in the index once; [`Counters::prediction_clears`](crate::stats::Counters) counts it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownRequest`] if no pick of this scheduler handed out this id.
    pub fn complete(&self, id: u64, outcome: Outcome, now: u64) -> Result<(), Error> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some((booking, hashes)) = state.ledger.complete(id) else {
            return state.check_issued(id);
        };
        state.counters.completed_requests += 1;
        state.counters.failed_requests += u64::from(!outcome.success);
        let Some(endpoint) = state.pool.occupant(booking.endpoint, booking.endpoint_generation) else {
            return Ok(());
        };
        endpoint.release(&booking);
        if let Some(name) = outcome.served_by.filter(|name| **name != *endpoint.endpoint.name) {
            state.counters.served_elsewhere += 1;
            if outcome.success {
                state.learn_served_elsewhere(&name, &booking, &hashes, now);
            }
            return Ok(());
        }
        let Some(cached) = outcome.cached_tokens else { return Ok(()) };
        if endpoint.prediction.record(booking.matched_tokens, cached, booking.picked_at, now) {
            state.index.clear(booking.endpoint);
            state.counters.prediction_clears += 1;
        }
        Ok(())
    }

    fn add(&self, state: &mut State, endpoint: Endpoint) {
        let name = Arc::clone(&endpoint.name);
        let slot = state.pool.add(endpoint);
        state.welcome(slot, &name);
        let capacity = state.pool.get(slot).and_then(EndpointState::capacity_tokens);
        state.index.set_capacity(slot, self.capacity_blocks(capacity));
    }

    /// Blocks of the index that stand for an engine's whole cache.
    fn capacity_blocks(&self, capacity_tokens: Option<u64>) -> usize {
        let tokens = capacity_tokens.unwrap_or(self.config.default_capacity_tokens);
        usize::try_from(tokens / u64::from(self.config.block_size_tokens)).unwrap_or(usize::MAX)
    }

    fn expire_bookings(&self, state: &mut State, now: u64) {
        while let Some(expired) = state.ledger.expire_next(now, self.request_timeout) {
            state.counters.expired_bookings += 1;
            let (Expired::FirstToken(booking) | Expired::Request(booking)) = expired;
            let Some(endpoint) = state.pool.occupant(booking.endpoint, booking.endpoint_generation) else {
                continue;
            };
            match expired {
                // The ledger has taken the waiting mark off already.
                Expired::FirstToken(_) => endpoint.release_queued(&booking),
                Expired::Request(_) => endpoint.release(&booking),
            }
        }
    }

    /// Steps 3 to 5 of a pick, which other picks must not interrupt.
    fn pick_locked(
        &self,
        state: &mut State,
        scratch: &mut Scratch,
        request: &Request,
        now: u64,
    ) -> Result<Decision, Error> {
        self.expire_bookings(state, now);
        state.expire_speculations(now);
        let view = self.gather_candidates(state, scratch, request, now)?;
        let tie_rule = self.run_profile(state, scratch, &view)?;
        let mut decision = self.decide(state, scratch, request, &view, tie_rule)?;
        decision.id = self.book(state, scratch, request, &view, now)?;
        Ok(decision)
    }

    /// Writes one row per endpoint: what it holds of the prompt and how loaded it is.
    fn gather_candidates(
        &self,
        state: &mut State,
        scratch: &mut Scratch,
        request: &Request,
        now: u64,
    ) -> Result<RequestView, Error> {
        if state.pool.len() == 0 {
            return Err(Error::NoEndpoints);
        }
        let State { pool, index, precise, sessions, .. } = state;
        let Scratch { hashes, matched_blocks, rows, .. } = scratch;
        matched_blocks.resize(pool.slot_count(), 0);
        index.find(hashes, matched_blocks);
        if matches!(request.prompt, Prompt::Tokens(_)) {
            precise.raise(hashes, matched_blocks);
        }
        let prompt_tokens = self.hasher.prompt_tokens(request);
        let block_tokens = self.config.block_size_tokens;
        let summary = rows.update(pool, &self.load_model, state.mean_uncached_tokens, now);
        rows.match_prompt(|slot| {
            let blocks = matched_blocks.get(slot as usize).copied().unwrap_or(0);
            (u64::from(blocks) * u64::from(block_tokens)).min(u64::from(prompt_tokens)) as u32
        });
        rows.restrict(pool, request.subset.as_deref());
        let guessed = state.adapters_reported.then_some(&request.model);
        rows.rate_adapter(
            pool,
            request.adapter.as_ref().or(guessed).map(|name| &**name),
            request.adapter.is_none(),
        );
        if request.explain || self.profile.has_custom_plugins {
            rows.date(pool, now);
        }
        let affinity_key = affinity_key(request, hashes);
        let session = sessions.as_ref().filter(|_| request.session.is_some());
        let session_endpoint = session.and_then(|sessions| sessions.endpoint(affinity_key, now));
        Ok(RequestView {
            prompt_tokens,
            hashed_tokens: (hashes.len() as u32).saturating_mul(block_tokens),
            affinity_key,
            has_session: request.session.is_some(),
            session_endpoint: session_endpoint
                .filter(|&(slot, generation)| {
                    pool.get(slot).is_some_and(|known| known.generation == generation)
                })
                .map(|(slot, _)| slot),
            // Without a branch per endpoint.
            is_warm: matched_blocks.iter().fold(0, |all, blocks| all | blocks) > 0,
            all_admissible: summary.all_admissible && request.subset.is_none(),
            waits_are_close: (self.profile.load_gate.as_ref())
                .is_some_and(|gate| summary.wait_range_seconds <= gate.gate_seconds),
            priority: request.priority,
            number: state.counters.picks,
            random: split_mix(self.config.seed, state.counters.picks),
        })
    }

    fn run_profile(
        &self,
        state: &mut State,
        scratch: &mut Scratch,
        view: &RequestView,
    ) -> Result<TieRule, Error> {
        let tie_rule = self.profile.run(view, scratch.rows.all(), &mut scratch.workspace)?;
        let gated = scratch.workspace.dropped.iter().filter(|(_, filter)| *filter == load_gate::TYPE).count();
        state.counters.load_gate_drops += gated as u64;
        state.counters.tied_picks += u64::from(tie_rule != TieRule::Unique);
        Ok(tie_rule)
    }

    /// Turns the ranking into names, and into an explanation if one was asked for.
    fn decide(
        &self,
        state: &State,
        scratch: &Scratch,
        request: &Request,
        view: &RequestView,
        tie_rule: TieRule,
    ) -> Result<Decision, Error> {
        let mut ranked = scratch.workspace.ranked(scratch.rows.all());
        let chosen = ranked.next().ok_or(Error::NoEndpoints)?;
        Ok(Decision {
            id: 0,
            endpoint: state.name(chosen),
            fallbacks: ranked.map(|candidate| state.name(candidate)).collect(),
            matched_tokens: chosen.matched_tokens,
            prompt_tokens: view.prompt_tokens,
            explanation: request.explain.then(|| Box::new(self.explanation(state, scratch, view, tie_rule))),
        })
    }

    /// Books the work of the chosen candidate and remembers that it will hold the prefix.
    fn book(
        &self,
        state: &mut State,
        scratch: &mut Scratch,
        request: &Request,
        view: &RequestView,
        now: u64,
    ) -> Result<u64, Error> {
        let Scratch { hashes, rows, workspace, .. } = scratch;
        let chosen = *workspace.ranked(rows.all()).next().ok_or(Error::NoEndpoints)?;
        let endpoint = state.pool.get_mut(chosen.endpoint).ok_or(Error::NoEndpoints)?;
        let uncached = u64::from(view.prompt_tokens.saturating_sub(chosen.matched_tokens));
        endpoint.book(view.prompt_tokens, uncached);
        let booking = Booking {
            endpoint: chosen.endpoint,
            endpoint_generation: endpoint.generation,
            prompt_tokens: view.prompt_tokens,
            matched_tokens: chosen.matched_tokens,
            queued_tokens: endpoint.queued_tokens,
            session: view.has_session.then_some(view.affinity_key),
            picked_at: now,
            awaits_first_token: true,
        };
        if !view.is_warm {
            state.pool.give_cold(chosen.endpoint);
        }
        state.record_session(&booking, chosen.endpoint, booking.endpoint_generation, now);
        self.remember_prefix(state, request, chosen.endpoint, hashes, now);
        state.count_pick(view, &chosen, uncached);
        // Without fallbacks nobody else serves the request, so nothing is learned from its hashes later.
        let kept = if self.config.fallbacks > 0 { std::mem::take(hashes) } else { Vec::new() };
        Ok(state.ledger.book(booking, self.first_token_deadline(&booking, &chosen), kept))
    }

    /// When a first token that nobody reports is taken as seen.
    fn first_token_deadline(&self, booking: &Booking, chosen: &Candidate) -> u64 {
        let timeout = match known_value(chosen.prefill_tokens_per_second) {
            Some(rate) => (2.0 * booking.queued_tokens as f64 / f64::from(rate)).max(1.0),
            None => self.config.bookings.first_token_timeout_seconds,
        };
        booking.picked_at.saturating_add(nanoseconds(timeout).min(self.request_timeout))
    }

    fn explanation(
        &self,
        state: &State,
        scratch: &Scratch,
        view: &RequestView,
        tie_rule: TieRule,
    ) -> Explanation {
        let candidates = scratch.workspace.candidates(scratch.rows.all());
        Explanation::new(&self.profile, view, candidates, &scratch.workspace, tie_rule, |candidate| {
            state.name(candidate)
        })
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Scheduler")
            .field("endpoints", &state.pool.len())
            .field("requests_in_flight", &state.ledger.len())
            .finish_non_exhaustive()
    }
}

impl State {
    fn endpoint(&mut self, name: &str) -> Result<(u32, &mut EndpointState), Error> {
        let unknown = || Error::UnknownEndpoint(name.to_owned());
        let slot = self.pool.slot(name).ok_or_else(unknown)?;
        Ok((slot, self.pool.get_mut(slot).ok_or_else(unknown)?))
    }

    fn name(&self, candidate: &Candidate) -> Arc<str> {
        self.pool
            .get(candidate.endpoint)
            .map_or_else(|| Arc::from(""), |known| Arc::clone(&known.endpoint.name))
    }

    fn record_session(&mut self, booking: &Booking, endpoint: u32, generation: u32, now: u64) {
        if let (Some(sessions), Some(key)) = (&mut self.sessions, booking.session) {
            sessions.record(key, endpoint, generation, now);
        }
    }

    /// The endpoint that served holds the prompt now, and the session goes on there.
    fn learn_served_elsewhere(&mut self, name: &str, booking: &Booking, hashes: &[u64], now: u64) {
        let Ok((slot, served)) = self.endpoint(name) else { return };
        let generation = served.generation;
        if !self.precise.knows(slot) {
            // They may be of tokens.
            self.guessed_tokens.insert(slot);
            self.index.insert(slot, hashes);
        }
        self.record_session(booking, slot, generation, now);
    }

    /// A report about an ended request is fine, one about a request that never was is not.
    fn check_issued(&self, id: u64) -> Result<(), Error> {
        if self.ledger.was_issued(id) { Ok(()) } else { Err(Error::UnknownRequest(id)) }
    }

    fn count_pick(&mut self, view: &RequestView, chosen: &Candidate, uncached: u64) {
        /// Share of the newest request in the moving average of uncached tokens.
        const NEWEST: f64 = 0.05;
        // An engine computes at least the last token; without it the average would decay to numbers that are slow.
        let uncached = uncached.max(1) as f64;
        let first = self.counters.picks == 0;
        self.mean_uncached_tokens +=
            if first { uncached } else { NEWEST * (uncached - self.mean_uncached_tokens) };
        self.counters.picks += 1;
        self.counters.warm_picks += u64::from(chosen.matched_tokens > 0);
        self.counters.prompt_tokens += u64::from(view.prompt_tokens);
        self.counters.matched_tokens += u64::from(chosen.matched_tokens);
    }
}

fn check_name(endpoint: &Endpoint) -> Result<(), Error> {
    if endpoint.name.is_empty() {
        return Err(Error::InvalidConfig("the name of an endpoint must be `host:port`: ``".to_owned()));
    }
    Ok(())
}

/// What keeps related requests together: the session if there is one, else the head of the prompt.
fn affinity_key(request: &Request, hashes: &[u64]) -> u64 {
    match &request.session {
        Some(session) => xxh3_64(session.as_bytes()),
        None => hashes.first().copied().unwrap_or(0),
    }
}
