//! The schedulers of a replay, and what they are told.

use ahash::AHashMap;
use p3sched::{Decision, Endpoint, EndpointMetrics, Outcome, Prompt, Request, Scheduler, ScrapeFailure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Feedback, Options, Sharing};
use crate::Error;
use crate::engine::EngineReport;
use crate::trace::{Trace, TraceRequest, chained};

/// Schedulers that share the requests.
#[derive(Debug)]
pub(super) struct Dispatcher<'a> {
    trace: &'a Trace,
    options: &'a Options,
    schedulers: Vec<Running>,
    names: Vec<String>,
    places: AHashMap<String, usize>,
    /// Replicas that serve a model, by the model; `None` if all do.
    subsets: Vec<Option<Vec<String>>>,
    /// The request that is filled for every pick, so that nothing is allocated.
    request: Request,
    random: ChaCha8Rng,
    feedback: Feedback,
}

#[derive(Debug)]
struct Running {
    scheduler: Scheduler,
    /// How often it was restarted; what was picked before is not known to it.
    restarts: u32,
}

/// What was picked for a request, by one scheduler and noted by others.
#[derive(Debug, Clone)]
pub(super) struct Pick {
    pub(super) scheduler: usize,
    pub(super) replica: usize,
    pub(super) predicted_tokens: u32,
    pub(super) decision: Option<Box<Decision>>,
    ids: Vec<PickId>,
}

#[derive(Debug, Clone, Copy)]
struct PickId {
    scheduler: usize,
    restarts: u32,
    id: u64,
}

impl<'a> Dispatcher<'a> {
    pub(super) fn new(trace: &'a Trace, options: &'a Options) -> Result<Self, Error> {
        let names: Vec<_> = (0..options.replicas.len()).map(|at| format!("replica-{at}")).collect();
        let places = names.iter().cloned().zip(0..).collect();
        let serving = |model: u16| {
            let serves = |models: &[u16]| models.is_empty() || models.contains(&model);
            let replicas = options.replicas.iter().zip(&names);
            let subset: Vec<_> = replicas
                .filter(|(replica, _)| serves(&replica.models))
                .map(|(_, name)| name.clone())
                .collect();
            (subset.len() < names.len()).then_some(subset)
        };
        let subsets = (0..trace.models.len()).map(|model| serving(model as u16)).collect();
        let mut dispatcher = Self {
            trace,
            options,
            schedulers: Vec::new(),
            places,
            subsets,
            names,
            request: Request::default(),
            random: ChaCha8Rng::seed_from_u64(options.seed),
            feedback: options.feedback,
        };
        for at in 0..options.schedulers.count.max(1) {
            let scheduler = dispatcher.build(at)?;
            dispatcher.schedulers.push(Running { scheduler, restarts: 0 });
        }
        Ok(dispatcher)
    }

    fn build(&self, at: usize) -> Result<Scheduler, Error> {
        let scheduler = self.options.policy.build(self.options.seed.wrapping_add((at as u64) << 32))?;
        scheduler.set_endpoints(self.names.iter().map(|name| Endpoint::new(name.as_str())).collect())?;
        Ok(scheduler)
    }

    /// Picks a replica for a request, which none of those that are left out serves; `None` if there is none.
    pub(super) fn pick(
        &mut self,
        number: u64,
        salt: u64,
        left_out: &[usize],
        explain: bool,
        now: u64,
    ) -> Option<Pick> {
        let trace_request = self.trace_request(number)?;
        self.fill(&trace_request, number, salt, left_out);
        self.request.explain = explain;
        let chosen = match self.schedulers.len() {
            1 => 0,
            count => self.random.random_range(0..count),
        };
        let running = self.schedulers.get(chosen)?;
        let mut decision = running.scheduler.pick(&self.request, now).ok()?;
        let replica = *self.places.get(&*decision.endpoint)?;
        let mut ids = vec![PickId { scheduler: chosen, restarts: running.restarts, id: decision.id }];
        if self.options.schedulers.sharing == Sharing::Shared {
            self.tell_others(chosen, &decision, now, &mut ids);
        }
        let predicted_tokens = decision.matched_tokens;
        decision.id = number;
        let decision = explain.then(|| Box::new(decision));
        Some(Pick { scheduler: chosen, replica, predicted_tokens, decision, ids })
    }

    /// Lets all other schedulers pick the same replica, by leaving them no choice.
    fn tell_others(&mut self, chosen: usize, decision: &Decision, now: u64, ids: &mut Vec<PickId>) {
        self.request.explain = false;
        let subset = self.request.subset.replace(vec![decision.endpoint.to_string()]);
        for (at, other) in self.schedulers.iter().enumerate().filter(|(at, _)| *at != chosen) {
            if let Ok(noted) = other.scheduler.pick(&self.request, now) {
                ids.push(PickId { scheduler: at, restarts: other.restarts, id: noted.id });
            }
        }
        self.request.subset = subset;
    }

    /// Names of the replicas' endpoints, in their order.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn first_token(&self, pick: &Pick, now: u64) {
        if !self.feedback.first_tokens {
            return;
        }
        for (scheduler, id) in self.known(pick) {
            // An id that has expired is no mistake.
            let _ = scheduler.first_token(id, now);
        }
    }

    pub(super) fn complete(&self, pick: &Pick, success: bool, cached_tokens: u32, now: u64) {
        if !self.feedback.ends {
            return;
        }
        for (scheduler, id) in self.known(pick) {
            let cached_tokens = (success && self.feedback.cached_tokens).then_some(cached_tokens);
            let _ = scheduler.complete(id, Outcome { success, cached_tokens, ..Outcome::default() }, now);
        }
    }

    /// What a page says, as the schedulers get it.
    pub(super) fn metrics(&self, replica: usize, report: &EngineReport) -> EndpointMetrics {
        let names = |adapters: &[u16]| {
            adapters
                .iter()
                .filter_map(|&adapter| self.trace.adapters.get(adapter as usize).cloned())
                .collect()
        };
        let mut metrics = EndpointMetrics::default();
        metrics.waiting_requests = Some(report.waiting as f64);
        metrics.running_requests = Some(report.running as f64);
        metrics.kv_cache_utilization = Some(report.kv_usage);
        metrics.block_size_tokens = Some(self.trace.block_tokens);
        if let Some(replica) = self.options.replicas.get(replica) {
            let blocks = replica.engine.blocks(self.trace.block_tokens) as u64;
            metrics.block_count = self.feedback.capacity.then_some(blocks);
            metrics.max_adapters = Some(replica.engine.max_adapters as u32);
        }
        metrics.running_adapters = names(&report.running_adapters);
        metrics.waiting_adapters = names(&report.waiting_adapters);
        metrics.prefix_cache_queries_total = Some(report.totals.queried_tokens as f64);
        metrics.prefix_cache_hits_total = Some(report.totals.found_tokens as f64);
        metrics.request_success_total = Some(report.totals.answered as f64);
        metrics
    }

    /// Tells every scheduler what a replica's page says; `None` if nobody listens there.
    pub(super) fn observe(&self, replica: usize, metrics: Option<&EndpointMetrics>, now: u64) {
        let Some(name) = self.names.get(replica) else { return };
        for running in &self.schedulers {
            let told = match metrics {
                Some(metrics) => running.scheduler.observe(name, metrics.clone(), now),
                None => running.scheduler.scrape_failed(name, ScrapeFailure::Unreachable, now),
            };
            debug_assert!(told.is_ok(), "all replicas are known");
        }
    }

    /// Replaces a scheduler by a new one.
    pub(super) fn restart(&mut self, at: usize, with_snapshot: bool) -> Result<(), Error> {
        let scheduler = self.build(at)?;
        let Some(running) = self.schedulers.get_mut(at) else { return Ok(()) };
        if with_snapshot {
            scheduler.restore(&running.scheduler.snapshot())?;
        }
        *running = Running { scheduler, restarts: running.restarts + 1 };
        Ok(())
    }

    fn known<'p>(&'p self, pick: &'p Pick) -> impl Iterator<Item = (&'p Scheduler, u64)> {
        pick.ids.iter().filter_map(|pick| {
            let running = self.schedulers.get(pick.scheduler)?;
            (running.restarts == pick.restarts).then_some((&running.scheduler, pick.id))
        })
    }

    fn trace_request(&self, number: u64) -> Option<TraceRequest> {
        let at = number % self.trace.requests.len().max(1) as u64;
        self.trace.requests.get(at as usize).copied()
    }

    /// Makes the request of a trace one for a scheduler: one byte of its prompt is one token.
    fn fill(&mut self, from: &TraceRequest, number: u64, salt: u64, left_out: &[usize]) {
        let request = &mut self.request;
        if let Some(model) = self.trace.models.get(from.model as usize)
            && request.model != *model
        {
            request.model.clone_from(model);
        }
        request.adapter = from.adapter.and_then(|adapter| self.trace.adapters.get(adapter as usize).cloned());
        let session = from.session.filter(|_| self.options.session_keys);
        request.session = session.map(|session| session.wrapping_add(salt).to_string());
        request.priority = from.priority;
        let serving = self.subsets.get(from.model as usize).and_then(Option::as_ref);
        request.subset = if left_out.is_empty() {
            serving.cloned()
        } else {
            let is_left = |name: &&String| self.places.get(*name).is_none_or(|at| !left_out.contains(at));
            Some(serving.unwrap_or(&self.names).iter().filter(is_left).cloned().collect())
        };
        let mut bytes = match std::mem::take(&mut request.prompt) {
            Prompt::Bytes(bytes) => bytes,
            _ => Vec::new(),
        };
        write_prompt(
            &mut bytes,
            self.trace.blocks_of(from),
            from.prompt_tokens,
            self.trace.block_tokens,
            number,
            salt,
        );
        request.prompt = Prompt::Bytes(bytes);
    }
}

/// Makes up a prompt of one byte per token: each block is its hash over and over, what follows belongs to this request.
fn write_prompt(
    bytes: &mut Vec<u8>,
    hashes: &[u64],
    prompt_tokens: u32,
    block_tokens: u32,
    number: u64,
    salt: u64,
) {
    bytes.clear();
    bytes.resize(prompt_tokens as usize, 0);
    let own = chained(number, salt);
    let mut hashes = hashes.iter();
    for block in bytes.chunks_mut(block_tokens as usize) {
        let full = block.len() == block_tokens as usize;
        let hash = if full { hashes.next() } else { None };
        let word = hash.map_or(own, |hash| hash.wrapping_add(salt)).to_le_bytes();
        for place in block.chunks_mut(word.len()) {
            let length = place.len();
            place.copy_from_slice(word.get(..length).unwrap_or(&word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_equal_as_far_as_their_blocks_are() {
        let write = |hashes: &[u64], tokens, number, salt| {
            let mut bytes = Vec::new();
            write_prompt(&mut bytes, hashes, tokens, 16, number, salt);
            bytes
        };
        let (one, two) = (write(&[1, 2], 40, 7, 0), write(&[1, 3], 40, 8, 0));
        assert_eq!((one.len(), &one[..16]), (40, &two[..16]));
        assert!(one[16..32] != two[16..32] && one[32..] != two[32..]);
        assert_ne!(write(&[1, 2], 40, 7, 0)[..16], write(&[1, 2], 40, 7, 5)[..16], "another repetition");
    }
}
