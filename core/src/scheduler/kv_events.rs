//! Precise mode: what engines say about their caches.

use super::{Scheduler, State, nanoseconds};
use crate::kv_event::precise::PreparedEvents;
use crate::kv_event::{BlocksStored, KvBatchOutcome, KvEvent, KvEventBatch};
use crate::{Error, Prompt, Request};

/// The label of an endpoint that names its model.
const MODEL_LABEL: &str = "model";

impl Scheduler {
    /// Applies one event of an endpoint's engine, of rank 0 and outside of any numbered stream.
    ///
    /// Use this where events come from somewhere else than the engine's own stream, and
    /// [`apply_kv_batch`](Self::apply_kv_batch) for the stream.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKvEvent`] if the blocks cannot be compared with those of requests; [`Error::UnknownEndpoint`] if
    /// there is no such endpoint.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::kv_event::{BlocksStored, EngineHash};
    /// use p3sched::{Endpoint, KvEvent, Request, Scheduler, SchedulerConfig};
    ///
    /// # fn main() -> Result<(), p3sched::Error> {
    /// let mut config = SchedulerConfig::default();
    /// config.kv_events.model = "llama".to_owned();
    /// let scheduler = Scheduler::new(config)?;
    /// scheduler.add_endpoint(Endpoint::new("10.0.0.1:8000"))?;
    /// scheduler.add_endpoint(Endpoint::new("10.0.0.2:8000"))?;
    ///
    /// let tokens: Vec<u32> = (0..64).collect();
    /// let event = KvEvent::Stored(BlocksStored {
    ///     block_hashes: vec![EngineHash(11), EngineHash(12)],
    ///     token_ids: tokens.clone(),
    ///     block_size: 32,
    ///     ..BlocksStored::default()
    /// });
    /// scheduler.apply_kv_event("10.0.0.2:8000", &event, 0)?;
    ///
    /// let decision = scheduler.pick(&Request::from_tokens("llama", tokens), 1_000)?;
    /// assert_eq!((&*decision.endpoint, decision.matched_tokens), ("10.0.0.2:8000", 64));
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply_kv_event(&self, endpoint: &str, event: &KvEvent, now: u64) -> Result<(), Error> {
        let events = PreparedEvents::new(std::slice::from_ref(event), &self.hasher)?;
        let mut state = self.state.lock();
        let slot = state.endpoint(endpoint)?.0;
        self.apply(&mut state, slot, 0, &events, now);
        Ok(())
    }

    /// Applies a batch of the numbered stream that a rank of an endpoint's engine publishes.
    ///
    /// See [`KvBatchOutcome`] for what to do when batches are missing. A batch that begins the stream anew shows that the
    /// engine restarted, and what the rank held is forgotten first, with what picks of prompts as text have left.
    ///
    /// # Errors
    ///
    /// Those of [`apply_kv_event`](Self::apply_kv_event); then nothing of the batch was applied, and its number is still
    /// expected.
    ///
    /// # Complexity
    ///
    /// Linear in the tokens, for hashing outside of the lock, then in the blocks.
    pub fn apply_kv_batch(
        &self,
        endpoint: &str,
        batch: &KvEventBatch,
        now: u64,
    ) -> Result<KvBatchOutcome, Error> {
        let events = PreparedEvents::new(&batch.events, &self.hasher)?;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let slot = state.endpoint(endpoint)?.0;
        state.begin_precise(slot);
        let expected_before = state.precise.expected(slot, batch.rank);
        let outcome = state.precise.sequence(slot, batch);
        let has_restarted = match outcome {
            KvBatchOutcome::Restarted => true,
            // Numbers that went back, with the first ones missing.
            KvBatchOutcome::Gap { expected } => expected < expected_before,
            KvBatchOutcome::Applied | KvBatchOutcome::Repeated => false,
        };
        if has_restarted {
            state.counters.kv_event_restarts += 1;
            state.index.clear(slot);
        }
        match outcome {
            KvBatchOutcome::Repeated => {}
            KvBatchOutcome::Gap { .. } => state.counters.kv_event_gaps += 1,
            KvBatchOutcome::Applied | KvBatchOutcome::Restarted => {
                self.apply(state, slot, batch.rank, &events, now);
            }
        }
        Ok(outcome)
    }

    /// Goes on after missing batches that cannot be replayed: forgets what the rank holds and expects the batch `next`.
    ///
    /// What the rank stored before is found again as it is stored anew; until then it is not, which is the safe side.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownEndpoint`] if there is no such endpoint.
    pub fn resume_kv_events(&self, endpoint: &str, rank: u32, next: u64) -> Result<(), Error> {
        let mut state = self.state.lock();
        let slot = state.endpoint(endpoint)?.0;
        state.begin_precise(slot);
        state.precise.resume(slot, rank, next);
        Ok(())
    }

    /// Checks every invariant of what picks and events have built; the error says which one does not hold.
    ///
    /// # Errors
    ///
    /// A sentence about the first violation found.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        let state = self.state.lock();
        state.index.validate()?;
        state.precise.validate()
    }

    fn apply(&self, state: &mut State, slot: u32, rank: u32, events: &PreparedEvents<'_>, now: u64) {
        state.begin_precise(slot);
        state.expire_speculations(now);
        if events.clear_the_cache() {
            state.index.clear(slot);
        }
        let labels = state.pool.get(slot).map(|known| &known.endpoint.labels);
        let model = labels.and_then(|labels| labels.get(MODEL_LABEL)).unwrap_or(&self.config.kv_events.model);
        let counts = state.precise.apply(slot, rank, events, |event: &BlocksStored| {
            let model = event.adapter.as_deref().unwrap_or(model);
            self.hasher.token_seed(model, event.cache_salt.as_deref())
        });
        state.counters.kv_events += counts.applied;
        state.counters.skipped_kv_events += counts.skipped;
        state.counters.orphaned_kv_events += counts.orphaned;
        state.precise.evict_to(self.config.index_max_bytes.saturating_sub(state.index.stats().bytes));
    }

    /// Takes note that the endpoint will hold a prefix soon: for good, or until its events say what it really holds.
    pub(super) fn remember_prefix(
        &self,
        state: &mut State,
        request: &Request,
        slot: u32,
        hashes: &[u64],
        now: u64,
    ) {
        if matches!(request.prompt, Prompt::Tokens(_)) && state.precise.knows(slot) {
            let expires_at = now.saturating_add(nanoseconds(self.config.kv_events.confirm_within_seconds));
            state.precise.speculate(slot, hashes.to_vec(), expires_at);
        } else {
            if matches!(request.prompt, Prompt::Tokens(_)) {
                state.guessed_tokens.insert(slot);
            }
            state.index.insert(slot, hashes);
        }
    }
}

impl State {
    /// Ends approximate mode for an endpoint whose engine has begun to speak for itself. Prompts as text stay guesses.
    fn begin_precise(&mut self, slot: u32) {
        if self.guessed_tokens.remove(&slot) {
            self.index.clear(slot);
        }
    }

    pub(super) fn forget_endpoint(&mut self, slot: u32) {
        self.index.clear(slot);
        self.guessed_tokens.remove(&slot);
        self.precise.remove(slot);
    }

    pub(super) fn expire_speculations(&mut self, now: u64) {
        self.counters.unconfirmed_blocks += self.precise.expire(now);
    }
}
