//! The engine proper: queue, prefix cache and clock of one replica, free of HTTP.

use super::kv_cache::{Allocation, KvCache};
use super::prompt::Prompt;
use super::{EngineSimulatorOptions, TimingModel};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};

/// One token of an answer, sent when the simulated GPU has computed it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub(crate) text: &'static str,
    /// Prompt tokens that came out of the prefix cache, in whole blocks.
    pub(crate) cached_tokens: usize,
}

/// What `/metrics` shows.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counters {
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    pub(crate) queried_tokens: u64,
    pub(crate) hit_tokens: u64,
    pub(crate) generated_tokens: u64,
    pub(crate) finished: u64,
    pub(crate) aborted: u64,
    /// Adapters of requests that wait or run, with the number of requests of each.
    pub(crate) waiting_adapters: BTreeMap<String, usize>,
    pub(crate) running_adapters: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct State {
    cache: KvCache,
    counters: Counters,
}

/// One simulated replica; cheap to clone, all clones are the same engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    block_size: usize,
    num_gpu_blocks: usize,
    timing: TimingModel,
    state: Arc<Mutex<State>>,
    /// Requests that may run at once.
    seats: Arc<Semaphore>,
    /// The GPU computes one prompt at a time.
    prefill: Arc<tokio::sync::Mutex<()>>,
    blocks_freed: Arc<Notify>,
}

impl Engine {
    pub(crate) fn new(options: &EngineSimulatorOptions) -> Self {
        let state = State { cache: KvCache::new(options.num_gpu_blocks), counters: Counters::default() };
        Self {
            block_size: options.block_size,
            num_gpu_blocks: options.num_gpu_blocks,
            timing: options.timing,
            state: Arc::new(Mutex::new(state)),
            seats: Arc::new(Semaphore::new(options.max_num_seqs)),
            prefill: Arc::default(),
            blocks_freed: Arc::default(),
        }
    }

    /// Whether the cache is large enough to ever run such a request.
    pub(crate) fn fits(&self, prompt: &Prompt, max_tokens: usize) -> bool {
        self.blocks_of(prompt.tokens().saturating_add(max_tokens)) <= self.num_gpu_blocks
    }

    /// Share of the cache that running requests hold, and the counters.
    pub(crate) fn observe(&self) -> (f64, Counters) {
        let state = self.state.lock();
        (state.cache.usage(), state.counters.clone())
    }

    /// Serves a request in the background; its tokens arrive in the receiver, and dropping that aborts it.
    pub(crate) fn generate(
        &self,
        prompt: Prompt,
        max_tokens: usize,
        adapter: Option<String>,
    ) -> mpsc::Receiver<Token> {
        let (sender, receiver) = mpsc::channel(max_tokens.max(1));
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = engine.serve(&prompt, max_tokens, adapter, &sender) => {}
                () = sender.closed() => engine.state.lock().counters.aborted += 1,
            }
        });
        receiver
    }

    async fn serve(
        &self,
        prompt: &Prompt,
        max_tokens: usize,
        adapter: Option<String>,
        tokens: &mpsc::Sender<Token>,
    ) {
        let hashes = prompt.block_hashes(self.block_size);
        let waiting = Gauge::waiting(self, adapter.clone());
        let Ok(_seat) = self.seats.acquire().await else { return };
        let prefill = self.prefill.lock().await;
        let mut running = self.schedule(prompt, &hashes, max_tokens).await;
        drop(waiting);
        let _gauge = Gauge::running(self, adapter);

        let cached_tokens = running.allocation.cached_blocks * self.block_size;
        let uncached = prompt.tokens() - cached_tokens;
        tokio::time::sleep(self.timing.prefill(uncached)).await;
        drop(prefill);

        let mut answer = String::new();
        for index in 0..max_tokens {
            if index > 0 {
                let batch = self.state.lock().counters.running;
                tokio::time::sleep(self.timing.decode_step(batch)).await;
            }
            let text = prompt.answer_token(index);
            answer.push_str(text);
            self.state.lock().counters.generated_tokens += 1;
            if tokens.send(Token { text, cached_tokens }).await.is_err() {
                return;
            }
        }
        running.completed = prompt.block_hashes_with(&answer, self.block_size);
        self.state.lock().counters.finished += 1;
    }

    /// Waits until the cache has room for the request; those behind it wait too, as in the engine's own queue.
    async fn schedule(&self, prompt: &Prompt, hashes: &[u64], max_tokens: usize) -> Running {
        // The engine always computes the last token of a prompt, so a full hit is one block short.
        let reusable = (prompt.tokens().saturating_sub(1)) / self.block_size;
        let total = self.blocks_of(prompt.tokens() + max_tokens);
        loop {
            let freed = self.blocks_freed.notified();
            if let Some(allocation) = self.try_schedule(prompt, hashes, reusable, total) {
                return Running { engine: self.clone(), allocation, completed: hashes.to_vec() };
            }
            freed.await;
        }
    }

    fn try_schedule(
        &self,
        prompt: &Prompt,
        hashes: &[u64],
        reusable: usize,
        total: usize,
    ) -> Option<Allocation> {
        let mut state = self.state.lock();
        let allocation = state.cache.allocate(hashes, reusable, total)?;
        state.counters.queried_tokens += prompt.tokens() as u64;
        state.counters.hit_tokens += (allocation.cached_blocks * self.block_size) as u64;
        Some(allocation)
    }

    fn blocks_of(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }
}

/// A request that holds blocks; dropping it gives them back, whether it finished or was aborted.
struct Running {
    engine: Engine,
    allocation: Allocation,
    completed: Vec<u64>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.state.lock().cache.release(&self.allocation, &self.completed);
        self.engine.blocks_freed.notify_waiters();
    }
}

/// Counts a request as waiting or running for as long as it lives.
struct Gauge<'a> {
    engine: &'a Engine,
    adapter: Option<String>,
    waiting: bool,
}

impl<'a> Gauge<'a> {
    fn waiting(engine: &'a Engine, adapter: Option<String>) -> Self {
        Self { engine, adapter, waiting: true }.change(1)
    }

    fn running(engine: &'a Engine, adapter: Option<String>) -> Self {
        Self { engine, adapter, waiting: false }.change(1)
    }

    fn change(self, by: isize) -> Self {
        self.apply(by);
        self
    }

    fn apply(&self, by: isize) {
        let counters = &mut self.engine.state.lock().counters;
        let (count, adapters) = if self.waiting {
            (&mut counters.waiting, &mut counters.waiting_adapters)
        } else {
            (&mut counters.running, &mut counters.running_adapters)
        };
        *count = count.saturating_add_signed(by);
        if let Some(adapter) = &self.adapter {
            let requests = adapters.entry(adapter.clone()).or_insert(0);
            *requests = requests.saturating_add_signed(by);
            adapters.retain(|_, requests| *requests > 0);
        }
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.apply(-1);
    }
}

impl TimingModel {
    /// Time to compute a prompt of which `uncached` tokens are not in the prefix cache.
    #[must_use]
    pub fn prefill(&self, uncached: usize) -> Duration {
        let seconds = self.prefill_overhead.as_secs_f64() + uncached as f64 / self.prefill_tokens_per_s;
        Duration::from_secs_f64(seconds / self.speed)
    }

    /// Time of one decode step for a batch of `running` requests; a larger batch is a little slower.
    #[must_use]
    pub fn decode_step(&self, running: usize) -> Duration {
        let slower = 1.0 + 0.02 * running.saturating_sub(1) as f64;
        Duration::from_secs_f64(self.decode_step.as_secs_f64() * slower / self.speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::time::Instant;

    fn engine(change: impl FnOnce(&mut EngineSimulatorOptions)) -> Engine {
        let mut options = EngineSimulatorOptions::default();
        change(&mut options);
        Engine::new(&options)
    }

    fn prompt(tokens: usize, tail: &str) -> Prompt {
        let text = "word".repeat(tokens - tail.len().div_ceil(4)) + tail;
        Prompt::from_completion(&json!({"model": "m", "prompt": text})).unwrap()
    }

    /// Milliseconds to the first and to the last token, and the cached tokens.
    async fn measure(engine: &Engine, prompt: Prompt, max_tokens: usize) -> (u128, u128, usize) {
        let start = Instant::now();
        let mut tokens = engine.generate(prompt, max_tokens, None);
        let first = tokens.recv().await.unwrap();
        let to_first = start.elapsed().as_millis();
        while tokens.recv().await.is_some() {}
        (to_first, start.elapsed().as_millis(), first.cached_tokens)
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_of_1500_tokens_takes_280_ms_cold_and_110_ms_cached() {
        let engine = engine(|_| {});
        let (cold, _, cached) = measure(&engine, prompt(1500, ""), 1).await;
        assert!((275..=285).contains(&cold), "{cold}");
        assert_eq!(cached, 0);
        let (warm, _, cached) = measure(&engine, prompt(1500, ""), 1).await;
        assert!((105..=115).contains(&warm), "{warm}");
        assert_eq!(cached, 1488);
    }

    #[tokio::test(start_paused = true)]
    async fn prompts_are_computed_one_after_the_other_and_decoded_together() {
        let engine = engine(|_| {});
        let (one, two) = tokio::join!(
            measure(&engine, prompt(1500, "aaaa"), 20),
            measure(&engine, Prompt::from_completion(&json!({"prompt": "b".repeat(6000)})).unwrap(), 20)
        );
        assert!(one.0 < 290 && (550..580).contains(&two.0), "{one:?} {two:?}");
        assert!(two.1 - two.0 < 2 * (one.1 - one.0), "decoding overlaps: {one:?} {two:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_and_the_cache_are_visible_while_requests_wait() {
        let engine = engine(|options| options.max_num_seqs = 2);
        let mut running: Vec<_> =
            (0..5).map(|index| engine.generate(prompt(1600, &format!("q{index}")), 4, None)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (usage, counters) = engine.observe();
        assert_eq!((counters.running, counters.waiting), (1, 4));
        assert!(usage > 0.0 && usage < 0.2, "{usage}");
        running.truncate(3);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (usage, counters) = engine.observe();
        assert_eq!((counters.running, counters.waiting, counters.finished, counters.aborted), (0, 0, 3, 2));
        assert!(usage.abs() < f64::EPSILON);
        assert_eq!(counters.hit_tokens, 2 * 1584, "the common prefix of the first three");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_makes_the_next_request_wait() {
        let engine = engine(|options| options.num_gpu_blocks = 110);
        let other = Prompt::from_completion(&json!({"prompt": "b".repeat(6000)})).unwrap();
        assert!(engine.fits(&other, 100) && !engine.fits(&other, 300) && !engine.fits(&other, usize::MAX));
        let (one, two) =
            tokio::join!(measure(&engine, prompt(1500, "aaaa"), 20), measure(&engine, other, 20));
        assert!(two.0 > one.1, "the second waits for the blocks of the first: {one:?} {two:?}");
    }
}
