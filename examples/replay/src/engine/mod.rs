//! Step 2: an inference engine as far as routing can see it.
//!
//! Like vLLM's scheduler it works in steps: requests that generate get one token each, prompts are computed in chunks
//! within the step's budget of tokens, first those that have begun, then those that wait, in the order of their arrival.
//! A prompt's leading blocks that are in the KV cache are not computed, but for its last token. When blocks
//! run out, the request that came last gives its own back and starts over.
//!
//! Steps in which every request only generates are run together, up to the next that ends: what they take is a sum with
//! a closed form. So the cost of a simulation grows with requests and chunks, not with tokens.
//!
//! Source: vLLM, `vllm/v1/core/sched/scheduler.py`.

mod kv_cache;
mod parameters;

use std::collections::VecDeque;

use slab::Slab;

pub use parameters::{Calibration, EngineParameters, PRESETS, Timing};

use crate::trace::SECOND;
use kv_cache::{BlockId, KvCache};

/// What an engine is asked to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    /// Names the request in the events.
    pub(crate) ticket: usize,
    /// Chained hashes of the full blocks of prompt and answer, as far as they are known.
    pub(crate) blocks: &'a [u64],
    /// Added to each hash, so that repetitions of a trace share nothing.
    pub(crate) salt: u64,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) adapter: Option<u16>,
}

impl Job<'_> {
    fn hash(&self, at: usize) -> Option<u64> {
        self.blocks.get(at).map(|hash| hash.wrapping_add(self.salt))
    }
}

/// What happened in an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineEvent {
    /// The prompt is computed; so many of its tokens came from the cache.
    FirstToken { ticket: usize, cached_tokens: u32 },
    /// The answer is complete.
    Finished { ticket: usize },
}

/// What an engine's metrics page says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct EngineReport {
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    pub(crate) kv_usage: f64,
    pub(crate) running_adapters: Vec<u16>,
    pub(crate) waiting_adapters: Vec<u16>,
    pub(crate) totals: EngineTotals,
}

/// Counts since an engine started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineTotals {
    /// Prompt tokens that were looked up in the cache.
    pub queried_tokens: u64,
    /// Prompt tokens that were found there.
    pub found_tokens: u64,
    /// Tokens that were computed.
    pub computed_tokens: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that gave their blocks back and started over.
    pub preempted: u64,
    /// Nanoseconds in which the engine computed.
    pub busy: u64,
}

impl EngineTotals {
    /// Adds the counts of another engine.
    pub(crate) fn add(&mut self, other: &Self) {
        self.queried_tokens += other.queried_tokens;
        self.found_tokens += other.found_tokens;
        self.computed_tokens += other.computed_tokens;
        self.answered += other.answered;
        self.preempted += other.preempted;
        self.busy += other.busy;
    }
}

#[derive(Debug, Clone)]
struct Active<'a> {
    job: Job<'a>,
    held: Vec<BlockId>,
    /// Tokens whose keys and values are there.
    computed: u32,
    /// Tokens of the answer.
    generated: u32,
    cached: u32,
    /// Whether its first token was reported.
    answered: bool,
}

impl Active<'_> {
    fn tokens(&self) -> u32 {
        self.job.prompt_tokens + self.generated
    }

    fn generates(&self) -> bool {
        self.computed + 1 == self.tokens() && self.generated > 0
    }

    fn left(&self) -> u32 {
        self.job.output_tokens.saturating_sub(self.generated)
    }
}

/// Steps that are under way.
#[derive(Debug, Clone, Copy)]
struct Plan {
    started: u64,
    /// How many steps; more than one only if every request generates.
    steps: u64,
    /// Seconds of the first step.
    first: f64,
    /// Seconds by which each step is longer than the one before.
    growth: f64,
    /// Part of the first step's time that depends on what it computes.
    computing: f64,
}

impl Plan {
    /// When so many steps have ended.
    fn end_of(&self, steps: u64) -> u64 {
        let k = steps as f64;
        let seconds = k * self.first + self.growth * k * (k - 1.0).max(0.0) / 2.0;
        self.started + (seconds * SECOND).round() as u64
    }

    /// Steps that have ended at this time.
    fn ended_at(&self, now: u64) -> u64 {
        let (mut low, mut high) = (0, self.steps);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.end_of(middle) <= now {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }
}

/// One engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine<'a> {
    parameters: EngineParameters,
    block_tokens: u32,
    cache: KvCache,
    requests: Slab<Active<'a>>,
    waiting: VecDeque<usize>,
    /// In the order in which they were admitted.
    running: Vec<usize>,
    /// Prompt tokens that the step under way computes, by request.
    chunks: Vec<(usize, u32)>,
    plan: Option<Plan>,
    adapters: Vec<u16>,
    totals: EngineTotals,
}

impl<'a> Engine<'a> {
    pub(crate) fn new(parameters: EngineParameters, block_tokens: u32) -> Self {
        Self {
            cache: KvCache::new(parameters.blocks(block_tokens)),
            parameters,
            block_tokens,
            requests: Slab::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            chunks: Vec::new(),
            plan: None,
            adapters: Vec::new(),
            totals: EngineTotals::default(),
        }
    }

    /// Whether a request can be served at all.
    pub(crate) fn fits(&self, job: &Job<'_>) -> bool {
        let tokens = job.prompt_tokens.saturating_add(job.output_tokens);
        tokens.div_ceil(self.block_tokens) as usize <= self.parameters.blocks(self.block_tokens)
    }

    /// When something happens next; `None` while there is nothing to do.
    pub(crate) fn next_event(&self) -> Option<u64> {
        self.plan.map(|plan| plan.end_of(plan.steps))
    }

    /// Takes a request; it is looked at when the step under way ends.
    pub(crate) fn submit(&mut self, job: Job<'a>, now: u64) {
        self.settle(now);
        // Steps behind the one under way could have been run together only while nobody waited.
        if let Some(plan) = &mut self.plan {
            plan.steps = 1;
        }
        let active = Active { job, held: Vec::new(), computed: 0, generated: 0, cached: 0, answered: false };
        self.waiting.push_back(self.requests.insert(active));
        if self.plan.is_none() {
            self.begin_step(now);
        }
    }

    /// When a request's first token would come if it came now and nobody after it, and how many of its tokens would come
    /// from the cache.
    pub(crate) fn first_token_of(&self, job: Job<'a>, now: u64) -> Option<(u64, u32)> {
        let mut engine = self.clone();
        let own = usize::MAX;
        engine.submit(Job { ticket: own, ..job }, now);
        let mut events = Vec::new();
        loop {
            let due = engine.next_event()?;
            engine.advance(due, &mut events);
            let cached = events.drain(..).find_map(|event| match event {
                EngineEvent::FirstToken { ticket, cached_tokens } if ticket == own => Some(cached_tokens),
                _ => None,
            });
            if let Some(cached_tokens) = cached {
                return Some((due, cached_tokens));
            }
        }
    }

    /// Ends what has ended by now and begins the next step.
    pub(crate) fn advance(&mut self, now: u64, events: &mut Vec<EngineEvent>) {
        self.settle(now);
        let Some(plan) = self.plan.filter(|plan| plan.end_of(plan.steps) <= now) else { return };
        self.totals.busy += plan.end_of(1) - plan.started;
        self.plan = None;
        self.end_step(events);
        self.begin_step(now);
    }

    /// Cores that the step under way uses on the mean, where computing uses `threads` and all else uses one.
    pub(crate) fn cores(&self, threads: f64) -> f64 {
        self.plan.map_or(0.0, |plan| 1.0 + plan.computing * (threads - 1.0))
    }

    /// What the metrics page says now.
    pub(crate) fn report(&mut self, now: u64) -> EngineReport {
        self.settle(now);
        let adapters = |requests: &mut dyn Iterator<Item = &usize>| {
            let named = requests.filter_map(|&at| self.requests.get(at)?.job.adapter);
            let mut named: Vec<_> = named.collect();
            named.sort_unstable();
            named.dedup();
            named
        };
        EngineReport {
            waiting: self.waiting.len(),
            running: self.running.len(),
            kv_usage: self.cache.usage(),
            running_adapters: adapters(&mut self.running.iter()),
            waiting_adapters: adapters(&mut self.waiting.iter()),
            totals: self.totals,
        }
    }

    /// Gives up all requests and says which they were, as a process that dies does.
    pub(crate) fn drain(&mut self) -> Vec<usize> {
        let order = self.running.drain(..).chain(self.waiting.drain(..));
        order.filter_map(|at| Some(self.requests.get(at)?.job.ticket)).collect()
    }

    /// Applies the steps of a plan that have ended, but for the last one.
    fn settle(&mut self, now: u64) {
        let Some(plan) = self.plan.filter(|plan| plan.steps > 1) else { return };
        let steps = plan.ended_at(now).min(plan.steps - 1);
        if steps == 0 {
            return;
        }
        let ended = plan.end_of(steps);
        self.totals.busy += ended - plan.started;
        self.totals.computed_tokens += steps * self.running.len() as u64;
        for at in 0..self.running.len() {
            self.generate(at, steps as u32);
        }
        self.plan = Some(Plan {
            started: ended,
            steps: plan.steps - steps,
            first: plan.first + plan.growth * steps as f64,
            ..plan
        });
    }

    /// Lets the running request at this place generate tokens for which there are blocks.
    fn generate(&mut self, at: usize, tokens: u32) {
        let Some(active) = self.running.get(at).and_then(|&at| self.requests.get_mut(at)) else { return };
        active.computed += tokens;
        active.generated += tokens;
        // The step under way computes one more.
        hold_blocks(&mut self.cache, active, active.computed + 1, self.block_tokens);
    }

    fn end_step(&mut self, events: &mut Vec<EngineEvent>) {
        self.totals.computed_tokens += self.chunks.iter().map(|&(_, tokens)| u64::from(tokens)).sum::<u64>();
        for (at, tokens) in std::mem::take(&mut self.chunks) {
            let Some(active) = self.requests.get_mut(at) else { continue };
            active.computed += tokens;
            if active.computed < active.tokens() {
                continue;
            }
            active.generated += 1;
            if !std::mem::replace(&mut active.answered, true) {
                let (ticket, cached_tokens) = (active.job.ticket, active.cached);
                events.push(EngineEvent::FirstToken { ticket, cached_tokens });
            }
            if active.left() == 0 {
                self.finish(at, events);
            }
        }
    }

    fn finish(&mut self, at: usize, events: &mut Vec<EngineEvent>) {
        let Some(mut active) = self.requests.try_remove(at) else { return };
        self.cache.release(&mut active.held);
        self.running.retain(|&running| running != at);
        self.totals.answered += 1;
        events.push(EngineEvent::Finished { ticket: active.job.ticket });
    }

    /// Decides what the next step computes, and how long it takes.
    fn begin_step(&mut self, now: u64) {
        let mut step = Step { budget: self.parameters.step_tokens, ..Step::default() };
        self.continue_running(&mut step);
        if !step.preempted {
            self.admit_waiting(&mut step);
        }
        if self.chunks.is_empty() {
            return;
        }
        let timing = self.parameters.timing;
        let compute = (f64::from(step.tokens) * timing.token).max(timing.weights);
        let fixed = timing.step + f64::from(step.prompts) * timing.prompt + step.loading;
        let first = fixed + compute + step.pairs * timing.pair + step.context as f64 * timing.context_token;
        let generates = step.prefill_tokens == 0;
        self.plan = Some(Plan {
            started: now,
            steps: if generates { self.steps_together() } else { 1 },
            first,
            growth: self.running.len() as f64 * timing.context_token,
            computing: (first - fixed) / first.max(f64::MIN_POSITIVE),
        });
    }

    /// Gives every running request its share of the budget, and blocks for it.
    fn continue_running(&mut self, step: &mut Step) {
        let mut place = 0;
        while let Some(&at) = self.running.get(place) {
            let Some(active) = self.requests.get(at) else { break };
            let tokens = (active.tokens() - active.computed).min(step.budget);
            if tokens == 0 {
                break;
            }
            let target = (active.computed + tokens).div_ceil(self.block_tokens) as usize;
            let missing = target.saturating_sub(active.held.len());
            if missing > self.cache.free() {
                step.preempted = true;
                // The last one may be this one.
                self.preempt_last();
                continue;
            }
            self.schedule(at, tokens, step);
            place += 1;
        }
    }

    /// Takes the request that was admitted last out of the batch; it starts over before all others that wait.
    fn preempt_last(&mut self) {
        let Some(at) = self.running.pop() else { return };
        self.totals.preempted += 1;
        self.waiting.push_front(at);
        if let Some(active) = self.requests.get_mut(at) {
            self.cache.release(&mut active.held);
            active.computed = 0;
        }
    }

    fn admit_waiting(&mut self, step: &mut Step) {
        while step.budget > 0 && self.running.len() < self.parameters.max_running {
            let Some(&at) = self.waiting.front() else { return };
            let Some(active) = self.requests.get(at) else { return };
            let (job, all) = (active.job, active.tokens());
            // The last token is always computed: it is what the first token of the answer follows from.
            let usable = ((all - 1) / self.block_tokens) as usize;
            let hashes = || job.blocks.iter().take(usable).map(|hash| hash.wrapping_add(job.salt));
            let (found, found_free) = self.cache.find(hashes());
            let computed = found as u32 * self.block_tokens;
            let tokens = (all - computed).min(step.budget);
            let target = (computed + tokens).div_ceil(self.block_tokens) as usize;
            if found_free + target - found > self.cache.free() {
                return;
            }
            let Some(loading) = self.load_adapter(job.adapter) else { return };
            let Some(active) = self.requests.get_mut(at) else { return };
            self.cache.hold_found(hashes(), &mut active.held);
            active.computed = computed;
            if !active.answered {
                active.cached = computed.min(job.prompt_tokens);
                self.totals.queried_tokens += u64::from(job.prompt_tokens);
                self.totals.found_tokens += u64::from(active.cached);
            }
            step.loading += loading;
            step.prompts += 1;
            self.waiting.pop_front();
            self.running.push(at);
            self.schedule(at, tokens, step);
        }
    }

    /// Makes room for an adapter and gives the seconds that loading it takes; `None` if running requests use all places.
    fn load_adapter(&mut self, adapter: Option<u16>) -> Option<f64> {
        let Some(adapter) = adapter else { return Some(0.0) };
        if let Some(at) = self.adapters.iter().position(|&known| known == adapter) {
            // The one that was used last is at the end.
            self.adapters.remove(at);
            self.adapters.push(adapter);
            return Some(0.0);
        }
        if self.adapters.len() >= self.parameters.max_adapters.max(1) {
            let in_use = |adapter: u16| {
                let mut jobs = self.running.iter().filter_map(|&at| self.requests.get(at));
                jobs.any(|active| active.job.adapter == Some(adapter))
            };
            let unused = self.adapters.iter().position(|&known| !in_use(known))?;
            self.adapters.remove(unused);
        }
        self.adapters.push(adapter);
        Some(self.parameters.adapter_load)
    }

    /// Adds tokens of a request to the step; there are blocks for them.
    fn schedule(&mut self, at: usize, tokens: u32, step: &mut Step) {
        let Some(active) = self.requests.get_mut(at) else { return };
        if active.generates() {
            step.context += u64::from(active.computed);
        } else {
            step.prefill_tokens += tokens;
            // Every new token attends to all before it, those of its own chunk included.
            step.pairs += f64::from(tokens) * (f64::from(active.computed) + f64::from(tokens) / 2.0);
        }
        step.tokens += tokens;
        step.budget -= tokens;
        // Blocks can be found from the moment on in which they are going to be computed, as in vLLM.
        hold_blocks(&mut self.cache, active, active.computed + tokens, self.block_tokens);
        self.chunks.push((at, tokens));
    }

    /// How many steps in which all only generate can be run as one: until the first ends, while there are blocks for all.
    fn steps_together(&self) -> u64 {
        let requests = || self.running.iter().filter_map(|&at| self.requests.get(at));
        let mut steps = requests().map(Active::left).min().unwrap_or(1).max(1);
        let blocks = |steps: u32| -> usize {
            let needed = |active: &Active<'_>| {
                ((active.computed + steps).div_ceil(self.block_tokens) as usize)
                    .saturating_sub(active.held.len())
            };
            requests().map(needed).sum()
        };
        while steps > 1 && blocks(steps) > self.cache.free() {
            steps /= 2;
        }
        u64::from(steps)
    }
}

/// What a step computes.
#[derive(Debug, Default)]
struct Step {
    budget: u32,
    tokens: u32,
    prefill_tokens: u32,
    prompts: u32,
    pairs: f64,
    context: u64,
    loading: f64,
    preempted: bool,
}

/// Holds blocks for so many tokens of a request and lets others find those that are full.
fn hold_blocks(cache: &mut KvCache, active: &mut Active<'_>, tokens: u32, block_tokens: u32) {
    let full = (tokens / block_tokens) as usize;
    // The last block that is held may have been filled only now.
    if let Some(last) = active.held.len().checked_sub(1)
        && last < full
        && let (Some(&id), Some(hash)) = (active.held.last(), active.job.hash(last))
    {
        cache.name(id, hash);
    }
    for at in active.held.len()..tokens.div_ceil(block_tokens) as usize {
        let hash = if at < full { active.job.hash(at) } else { None };
        cache.take(hash, &mut active.held);
    }
}

#[cfg(test)]
mod tests;
