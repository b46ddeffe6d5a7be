//! Step 4: the event loop. Requests come, schedulers pick, engines work, metrics are scraped; time is simulated.

mod arrivals;
mod dispatch;
mod options;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use p3sched::EndpointMetrics;
use slab::Slab;

pub use options::{
    Arrivals, Failure, Feedback, Machine, Options, Replica, SchedulerRestart, Schedulers, Scrape, Sharing,
};

use crate::Error;
use crate::engine::{Engine, EngineEvent, EngineTotals, Job};
use crate::result::{Alternative, ExplainedDecision, Replayed, ReplicaSample, RequestResult};
use crate::trace::{SECOND, Trace, chained};
use arrivals::{Number, Source, nanoseconds};
use dispatch::{Dispatcher, Pick};

/// Replays a trace. `progress` is told how many requests have been answered since it was told last.
///
/// # Errors
///
/// [`Error::InvalidOption`] or [`Error::Scheduler`] if the options cannot work.
///
/// # Complexity
///
/// A few events for each request, and one for each scrape. Memory: the trace, the caches and indexes, and 64 bytes for
/// each request's result.
///
/// # Example
///
/// ```
/// use p3sched_replay::engine::EngineParameters;
/// use p3sched_replay::policy::Policy;
/// use p3sched_replay::result::Summary;
/// use p3sched_replay::simulation::{Options, replay};
/// use p3sched_replay::workload::Workload;
///
/// let trace = Workload::parse("shared-prefix:groups=8:conversations=200")?.generate(1);
/// let engine = EngineParameters::preset("t4")?;
/// let of = |policy| -> Result<_, p3sched_replay::Error> {
///     let replayed = replay(&trace, &Options::new(Policy::parse(policy)?, &engine, 3), &|_| {})?;
///     Ok(Summary::of(&replayed))
/// };
/// assert!(of("default")?.cached_ratio > of("round-robin")?.cached_ratio);
/// # Ok::<(), p3sched_replay::Error>(())
/// ```
pub fn replay(trace: &Trace, options: &Options, progress: &dyn Fn(u64)) -> Result<Replayed, Error> {
    let mut simulation = Simulation::new(trace, options)?;
    simulation.start();
    while simulation.left > 0 {
        let Some(Reverse(event)) = simulation.events.pop() else { break };
        simulation.now = event.at;
        simulation.handle(event.kind)?;
        if simulation.answered >= REPORT_EVERY {
            progress(std::mem::take(&mut simulation.answered));
        }
    }
    progress(simulation.answered);
    Ok(simulation.finish())
}

/// Answers between two reports of progress.
const REPORT_EVERY: u64 = 256;

/// Load samples of one replica beyond which every other one is given up.
const MAX_SAMPLES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: u64,
    /// Those of one moment happen in the order in which they were planned.
    number: u64,
    kind: EventKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EventKind {
    /// A request that comes by itself; the next one is planned then.
    Arrival(Number),
    /// A request that follows an answer.
    Follow(Number),
    /// An engine's step ends, if this is still its plan of that number.
    Engine {
        replica: usize,
        plan: u64,
    },
    Scrape(usize),
    Observe(usize),
    Fail(usize),
    Recover(usize),
    RestartScheduler(usize),
    Sample,
}

struct Simulation<'a> {
    trace: &'a Trace,
    options: &'a Options,
    now: u64,
    events: BinaryHeap<Reverse<Event>>,
    planned: u64,
    source: Source<'a>,
    dispatcher: Dispatcher<'a>,
    replicas: Vec<ReplicaState<'a>>,
    in_flight: Slab<InFlight>,
    results: Vec<RequestResult>,
    decisions: Vec<ExplainedDecision>,
    samples: Vec<ReplicaSample>,
    sample_period: u64,
    /// Requests without an end.
    left: u64,
    /// Answers that were not reported as progress yet.
    answered: u64,
    engine_events: Vec<EngineEvent>,
}

struct ReplicaState<'a> {
    engine: Engine<'a>,
    is_up: bool,
    /// Number of its latest plan; events of earlier ones mean nothing any more.
    plan: u64,
    clock: EngineClock,
    /// Pages on their way; `None` where nobody listened.
    scraped: VecDeque<Option<EndpointMetrics>>,
    /// Counts of the engines that it had before it failed.
    totals_before: EngineTotals,
}

/// An engine's own time, which goes slower while others compute on the same machine.
#[derive(Debug, Clone, Copy)]
struct EngineClock {
    real: u64,
    own: u64,
    slowdown: f64,
}

impl EngineClock {
    fn own(&self, real: u64) -> u64 {
        self.own + ((real - self.real) as f64 / self.slowdown) as u64
    }

    fn real(&self, own: u64) -> u64 {
        self.real + ((own.saturating_sub(self.own)) as f64 * self.slowdown).ceil() as u64
    }

    fn change(&mut self, slowdown: f64, now: u64) {
        (self.own, self.real, self.slowdown) = (self.own(now), now, slowdown);
    }
}

#[derive(Debug)]
struct InFlight {
    number: Number,
    pick: Pick,
    cached_tokens: u32,
}

impl<'a> Simulation<'a> {
    fn new(trace: &'a Trace, options: &'a Options) -> Result<Self, Error> {
        check(trace, options)?;
        let requests = trace.requests.len() as u64 * u64::from(options.repeat);
        let replica = |replica: &Replica| ReplicaState {
            engine: Engine::new(replica.engine.clone(), trace.block_tokens),
            is_up: true,
            plan: 0,
            clock: EngineClock { real: 0, own: 0, slowdown: 1.0 },
            scraped: VecDeque::new(),
            totals_before: EngineTotals::default(),
        };
        Ok(Self {
            now: 0,
            events: BinaryHeap::new(),
            planned: 0,
            source: Source::new(trace, options),
            dispatcher: Dispatcher::new(trace, options)?,
            replicas: options.replicas.iter().map(replica).collect(),
            in_flight: Slab::new(),
            results: vec![RequestResult::default(); requests as usize],
            decisions: Vec::new(),
            samples: Vec::new(),
            sample_period: nanoseconds(options.sample_period).max(1),
            left: requests,
            answered: 0,
            engine_events: Vec::new(),
            trace,
            options,
        })
    }

    fn start(&mut self) {
        let (options, replicas) = (self.options, self.replicas.len());
        for (at, failure) in options.failures.iter().enumerate() {
            self.plan(nanoseconds(failure.at), EventKind::Fail(at));
            self.plan(nanoseconds(failure.at + failure.lasts), EventKind::Recover(failure.replica));
        }
        for (at, restart) in options.restarts.iter().enumerate() {
            self.plan(nanoseconds(restart.at), EventKind::RestartScheduler(at));
        }
        // Replicas take turns, so that no moment sees all of them fresh.
        for replica in 0..replicas {
            let phase = options.scrape.period * replica as f64 / replicas as f64;
            self.plan(nanoseconds(phase), EventKind::Scrape(replica));
        }
        self.plan(0, EventKind::Sample);
        self.plan_arrival();
        if let Arrivals::Clients { count } = options.arrivals {
            (0..count).for_each(|_| self.plan_client());
        }
    }

    fn plan(&mut self, at: u64, kind: EventKind) {
        self.planned += 1;
        self.events.push(Reverse(Event { at, number: self.planned, kind }));
    }

    fn plan_arrival(&mut self) {
        if let Some((at, number)) = self.source.next_by_time() {
            self.plan(at.max(self.now), EventKind::Arrival(number));
        }
    }

    fn plan_client(&mut self) {
        if let Some(number) = self.source.next_for_client() {
            self.plan(self.now, EventKind::Follow(number));
        }
    }

    fn handle(&mut self, event: EventKind) -> Result<(), Error> {
        match event {
            EventKind::Arrival(number) => {
                self.plan_arrival();
                self.arrive(number);
            }
            EventKind::Follow(number) => self.arrive(number),
            EventKind::Engine { replica, plan } => self.advance(replica, plan),
            EventKind::Scrape(replica) => self.scrape(replica),
            EventKind::Observe(replica) => self.observe(replica),
            EventKind::Fail(at) => self.fail(at),
            EventKind::Recover(replica) => self.recover(replica),
            EventKind::RestartScheduler(at) => {
                if let Some(restart) = self.options.restarts.get(at) {
                    self.dispatcher.restart(restart.scheduler, restart.snapshot)?;
                }
            }
            EventKind::Sample => self.sample(),
        }
        Ok(())
    }

    fn arrive(&mut self, number: Number) {
        let at = number % self.trace.requests.len() as u64;
        if let (Some(result), Some(request)) =
            (self.results.get_mut(number as usize), self.trace.requests.get(at as usize))
        {
            result.arrival = self.now;
            result.prompt_tokens = request.prompt_tokens;
            result.output_tokens = request.output_tokens;
        }
        self.route(number);
    }

    /// Sends a request to the replica that is picked for it, to the next one if nobody listens there.
    fn route(&mut self, number: Number) {
        let salt = self.salt(number);
        let explain = self.options.explain.contains(&number);
        let mut left_out = Vec::new();
        while let Some(mut pick) = self.dispatcher.pick(number, salt, &left_out, explain, self.now) {
            if let Some(decision) = pick.decision.take() {
                let alternatives = self.alternatives(number, salt);
                self.decisions.push(ExplainedDecision { request: number, decision: *decision, alternatives });
            }
            if self.submit(number, salt, &pick) {
                return;
            }
            self.dispatcher.complete(&pick, false, 0, self.now);
            left_out.push(pick.replica);
            self.count_retry(number);
        }
        self.end(number, true);
    }

    /// What every replica that serves the request's model would do with it now.
    fn alternatives(&self, number: Number, salt: u64) -> Vec<Alternative> {
        let Some(job) = self.job(number, salt, 0) else { return Vec::new() };
        let model = self.trace.requests.get(self.place(number)).map_or(0, |request| request.model);
        let replicas = self.replicas.iter().zip(&self.options.replicas).zip(self.dispatcher.names());
        let able = replicas.filter(|((replica, options), _)| {
            let serves = options.models.is_empty() || options.models.contains(&model);
            replica.is_up && serves && replica.engine.fits(&job)
        });
        let alternative = |((replica, _), name): ((&ReplicaState<'a>, _), &String)| {
            let (at, cached_tokens) = replica.engine.first_token_of(job, replica.clock.own(self.now))?;
            let seconds = replica.clock.real(at).saturating_sub(self.now) as f64 / SECOND;
            Some(Alternative { endpoint: name.clone(), seconds, cached_tokens })
        };
        able.filter_map(alternative).collect()
    }

    /// Whether the replica takes the request.
    fn submit(&mut self, number: Number, salt: u64, pick: &Pick) -> bool {
        let Some(job) = self.job(number, salt, self.in_flight.vacant_key()) else { return false };
        let Some(replica) = self.replicas.get_mut(pick.replica).filter(|replica| replica.is_up) else {
            return false;
        };
        if !replica.engine.fits(&job) {
            return false;
        }
        if let Some(result) = self.results.get_mut(number as usize) {
            result.replica = pick.replica as u16;
            result.scheduler = pick.scheduler as u16;
            result.predicted_tokens = pick.predicted_tokens;
        }
        self.in_flight.insert(InFlight { number, pick: pick.clone(), cached_tokens: 0 });
        replica.engine.submit(job, replica.clock.own(self.now));
        self.plan_engine(pick.replica);
        self.share_machine();
        true
    }

    fn job(&self, number: Number, salt: u64, ticket: usize) -> Option<Job<'a>> {
        let request = self.trace.requests.get(self.place(number))?;
        Some(Job {
            ticket,
            blocks: self.trace.all_blocks_of(request),
            salt,
            prompt_tokens: request.prompt_tokens,
            output_tokens: request.output_tokens,
            adapter: request.adapter,
        })
    }

    /// Place of a request in the trace.
    fn place(&self, number: Number) -> usize {
        (number % self.trace.requests.len() as u64) as usize
    }

    fn advance(&mut self, at: usize, plan: u64) {
        let Some(replica) = self.replicas.get_mut(at).filter(|replica| replica.plan == plan) else { return };
        let Some(due) = replica.engine.next_event() else { return };
        let mut events = std::mem::take(&mut self.engine_events);
        replica.engine.advance(due, &mut events);
        self.plan_engine(at);
        for event in events.drain(..) {
            match event {
                EngineEvent::FirstToken { ticket, cached_tokens } => self.first_token(ticket, cached_tokens),
                EngineEvent::Finished { ticket } => self.finished(ticket),
            }
        }
        self.engine_events = events;
        self.share_machine();
    }

    fn first_token(&mut self, ticket: usize, cached_tokens: u32) {
        let Some(in_flight) = self.in_flight.get_mut(ticket) else { return };
        in_flight.cached_tokens = cached_tokens;
        self.dispatcher.first_token(&in_flight.pick, self.now);
        if let Some(result) = self.results.get_mut(in_flight.number as usize) {
            result.first_token = self.now;
            result.cached_tokens = cached_tokens;
        }
    }

    fn finished(&mut self, ticket: usize) {
        let Some(InFlight { number, pick, cached_tokens }) = self.in_flight.try_remove(ticket) else {
            return;
        };
        self.dispatcher.complete(&pick, true, cached_tokens, self.now);
        self.end(number, false);
    }

    /// Ends a request and lets what waited for its answer come.
    fn end(&mut self, number: Number, failed: bool) {
        if let Some(result) = self.results.get_mut(number as usize) {
            result.end = self.now;
            result.failed = failed;
        }
        self.left -= 1;
        self.answered += 1;
        for (think_time, follower) in self.source.answered(number) {
            self.plan(self.now + think_time, EventKind::Follow(follower));
        }
        self.plan_client();
    }

    fn plan_engine(&mut self, at: usize) {
        let Some(replica) = self.replicas.get_mut(at) else { return };
        replica.plan += 1;
        let Some(due) = replica.engine.next_event() else { return };
        let (due, plan) = (replica.clock.real(due), replica.plan);
        self.plan(due, EventKind::Engine { replica: at, plan });
    }

    /// Where engines share a machine, gives each its part of it.
    fn share_machine(&mut self) {
        let Some(machine) = self.options.machine else { return };
        let wanted: f64 = self.replicas.iter().map(|replica| replica.engine.cores(machine.threads)).sum();
        let slowdown = (wanted / machine.cores).max(1.0);
        for at in 0..self.replicas.len() {
            let Some(replica) = self.replicas.get_mut(at) else { continue };
            if replica.clock.slowdown != slowdown {
                replica.clock.change(slowdown, self.now);
                self.plan_engine(at);
            }
        }
    }

    fn scrape(&mut self, at: usize) {
        let period = nanoseconds(self.options.scrape.period).max(1);
        self.plan(self.now + period, EventKind::Scrape(at));
        let Some(replica) = self.replicas.get_mut(at) else { return };
        let report = replica.is_up.then(|| replica.engine.report(replica.clock.own(self.now)));
        let page = report.map(|report| self.dispatcher.metrics(at, &report));
        let delay = nanoseconds(self.options.scrape.delay);
        if delay == 0 {
            return self.dispatcher.observe(at, page.as_ref(), self.now);
        }
        if let Some(replica) = self.replicas.get_mut(at) {
            replica.scraped.push_back(page);
        }
        self.plan(self.now + delay, EventKind::Observe(at));
    }

    fn observe(&mut self, at: usize) {
        let page = self.replicas.get_mut(at).and_then(|replica| replica.scraped.pop_front());
        if let Some(page) = page {
            self.dispatcher.observe(at, page.as_ref(), self.now);
        }
    }

    fn fail(&mut self, at: usize) {
        let Some(failure) = self.options.failures.get(at) else { return };
        let Some(parameters) = self.options.replicas.get(failure.replica) else { return };
        let Some(replica) = self.replicas.get_mut(failure.replica) else { return };
        replica.is_up = false;
        let lost = replica.engine.drain();
        let totals = replica.engine.report(replica.clock.own(self.now)).totals;
        replica.totals_before.add(&totals);
        replica.engine = Engine::new(parameters.engine.clone(), self.trace.block_tokens);
        self.plan_engine(failure.replica);
        self.share_machine();
        for ticket in lost {
            let Some(InFlight { number, pick, .. }) = self.in_flight.try_remove(ticket) else { continue };
            self.dispatcher.complete(&pick, false, 0, self.now);
            self.count_retry(number);
            self.route(number);
        }
    }

    fn recover(&mut self, at: usize) {
        if let Some(replica) = self.replicas.get_mut(at) {
            replica.is_up = true;
        }
    }

    fn count_retry(&mut self, number: Number) {
        if let Some(result) = self.results.get_mut(number as usize) {
            result.retries = result.retries.saturating_add(1);
        }
    }

    fn sample(&mut self) {
        for at in 0..self.replicas.len() {
            let Some(replica) = self.replicas.get_mut(at) else { continue };
            let report = replica.engine.report(replica.clock.own(self.now));
            self.samples.push(ReplicaSample {
                at: self.now,
                replica: at as u16,
                waiting: report.waiting as u32,
                running: report.running as u32,
                kv_usage: report.kv_usage as f32,
            });
        }
        if self.samples.len() > MAX_SAMPLES * self.replicas.len() {
            self.sample_period *= 2;
            let period = self.sample_period;
            self.samples.retain(|sample| sample.at % period == 0);
        }
        let next = (self.now / self.sample_period + 1) * self.sample_period;
        self.plan(next, EventKind::Sample);
    }

    /// What is added to the hashes of a repetition, so that it shares nothing with the others.
    fn salt(&self, number: Number) -> u64 {
        match number / self.trace.requests.len() as u64 {
            0 => 0,
            repetition => chained(repetition, 0),
        }
    }

    fn finish(self) -> Replayed {
        let totals = self.replicas.into_iter().map(|mut replica| {
            let mut totals = replica.engine.report(u64::MAX).totals;
            totals.add(&replica.totals_before);
            totals
        });
        Replayed {
            policy: self.options.policy.name.clone(),
            seed: self.options.seed,
            replicas: totals.collect(),
            requests: self.results,
            samples: self.samples,
            decisions: self.decisions,
        }
    }
}

fn check(trace: &Trace, options: &Options) -> Result<(), Error> {
    let refuse = |message: String| Err(Error::InvalidOption(message));
    if options.replicas.is_empty() {
        return refuse("replicas must be 1 or more: `0`".to_owned());
    }
    if options.scrape.period <= 0.0 {
        return refuse(format!("the scrape period must be more than 0 seconds: `{}`", options.scrape.period));
    }
    if let Arrivals::Open { speed, .. } | Arrivals::Sessions { speed } = options.arrivals
        && (speed <= 0.0 || !speed.is_finite())
    {
        return refuse(format!("speed must be more than 0: `{speed}`"));
    }
    if let Some(failure) = options.failures.iter().find(|failure| failure.replica >= options.replicas.len()) {
        return refuse(format!(
            "a replica that fails must be one of {}: `{}`",
            options.replicas.len(),
            failure.replica
        ));
    }
    let served = |model: u16| {
        options.replicas.iter().any(|replica| replica.models.is_empty() || replica.models.contains(&model))
    };
    match (0..).zip(&trace.models).find(|(model, _)| !served(*model)) {
        Some((_, model)) => refuse(format!("no replica serves the model: `{model}`")),
        None => Ok(()),
    }
}
