//! Mooncake's conversation trace: look-ups and updates of 59 minutes of requests, as fast as they go.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dynamo_kv_router::protocols::{ExternalSequenceBlockHash, LocalBlockHash};
use dynamo_kv_router::{ConcurrentRadixTreeCompressed, PositionalIndexer, RouterEvent, SyncIndexer};
use p3sched::prefix_index::{EventIndex, PrefixIndex};
use serde::Deserialize;

use super::{Case, Outcome, events};
use crate::Settings;
use crate::measure::Sample;
use crate::peers::dynamo;
use crate::report::{Figure, Goal};
use crate::workload::split_mix;

const ENDPOINTS: u32 = 64;
/// Of 16 tokens each, so 1 M tokens.
const CAPACITY: usize = 65_536;
/// The trace names blocks of 512 tokens.
const BLOCKS_PER_ID: u64 = 512 / 16;

#[derive(Deserialize)]
struct Line {
    hash_ids: Vec<u64>,
}

type Names = HashMap<u64, ExternalSequenceBlockHash>;

/// A request, where it goes, and what the engine then stores and frees.
struct Request {
    endpoint: u32,
    path: Vec<u64>,
    stored: usize,
    freed: Vec<u64>,
}

pub fn cases() -> Vec<Case> {
    let run = |settings: &Settings| match &settings.mooncake {
        Some(trace) => replay(settings, trace).map(Outcome::Measured),
        None => Ok(Outcome::Skipped(
            "name the trace with --mooncake FILE or P3SCHED_MOONCAKE_TRACE; it is conversation_trace.jsonl \
             of https://github.com/kvcache-ai/Mooncake"
                .to_owned(),
        )),
    };
    vec![Case { name: "trace/mooncake".to_owned(), run: Box::new(run) }]
}

fn replay(settings: &Settings, trace: &Path) -> Result<Vec<Figure>> {
    let requests = schedule(trace, if settings.quick { 500 } else { usize::MAX })?;
    let operations = |request: &Request| request.path.len() + request.stored + request.freed.len();
    let operations: usize = requests.iter().map(operations).sum();
    let per_second = |time: Duration| operations as f64 / time.as_secs_f64();
    let theirs = Theirs::new(&requests);
    let (mut picks, mut events, mut scheduler) = (Vec::new(), Vec::new(), Vec::new());
    let (mut radix, mut positional) = (Vec::new(), Vec::new());
    let (mut held, mut found) = (0, [0; 2]);
    for _ in 0..if settings.quick { 2 } else { 5 } {
        picks.push(per_second(replay_picks(&requests)));
        let (time, blocks) = replay_events(&requests);
        events.push(per_second(time));
        held = blocks;
        scheduler.push(per_second(replay_scheduler(&requests)?));
        let (time, blocks) = theirs.replay(ConcurrentRadixTreeCompressed::new())?;
        radix.push(per_second(time));
        found[0] = blocks;
        let (time, blocks) = theirs.replay(PositionalIndexer::new(32))?;
        positional.push(per_second(time));
        found[1] = blocks;
    }
    let [picks, events, scheduler] = [picks, events, scheduler].map(Sample::new);
    let [radix, positional] = [radix, positional].map(Sample::new);
    let best = if radix.median() >= positional.median() { &radix } else { &positional };
    let millions = |sample: &Sample| sample.median() / 1e6;
    let figure = |mode: &str, goal, ours: &Sample, work: &str| {
        let ratio = ours.over(best);
        Figure {
            name: format!("trace/mooncake/{mode}"),
            value: ratio.median(),
            unit: "×",
            goal,
            spread: ratio.spread(),
            detail: format!(
                "{:.1} M block operations/s on one thread ({work}); dynamo's longer half of look-ups and updates: \
                 radix tree {:.1} M, positional {:.1} M; {:.1} M operations, blocks found {held}, {}, {}",
                millions(ours),
                millions(&radix),
                millions(&positional),
                operations as f64 / 1e6,
                found[0],
                found[1],
            ),
        }
    };
    Ok(vec![
        figure("picks", Goal::AtLeast(2.0), &picks, "find, insert, evict"),
        figure("events", Goal::AtLeast(2.0), &events, "find, store, remove"),
        figure("scheduler", Goal::None, &scheduler, "pick, complete, hash and apply events"),
    ])
}

/// Reads the trace and lets engines with caches of `CAPACITY` blocks serve it.
fn schedule(trace: &Path, limit: usize) -> Result<Vec<Request>> {
    let text = fs::read_to_string(trace).with_context(|| format!("cannot read: `{}`", trace.display()))?;
    let mut engines: Vec<_> = (0..ENDPOINTS).map(|_| Engine::default()).collect();
    let mut requests = Vec::new();
    for (turn, line) in text.lines().take(limit).enumerate() {
        let Line { hash_ids } = serde_json::from_str(line)?;
        let path: Vec<u64> = (hash_ids.iter())
            .flat_map(|id| (0..BLOCKS_PER_ID).map(move |part| split_mix(id * BLOCKS_PER_ID + part)))
            .collect();
        // Where most of it is, in turn where that is on several.
        let endpoint = (0..ENDPOINTS)
            .map(|step| (turn as u32 + step) % ENDPOINTS)
            .max_by_key(|&endpoint| engines[endpoint as usize].held_of(&path) / 64)
            .context("there are endpoints")?;
        let engine = &mut engines[endpoint as usize];
        let held = engine.held_of(&path);
        let freed = engine.serve(&path);
        requests.push(Request { endpoint, stored: path.len() - held, path, freed });
    }
    Ok(requests)
}

/// An engine's cache: the least recently used block goes first, of those used together the deepest.
#[derive(Default)]
struct Engine {
    used: HashMap<u64, (u64, i64)>,
    order: BTreeMap<(u64, i64), u64>,
    requests: u64,
}

impl Engine {
    fn held_of(&self, path: &[u64]) -> usize {
        path.partition_point(|hash| self.used.contains_key(hash))
    }

    /// Uses all blocks of a path and gives those that were freed for it.
    fn serve(&mut self, path: &[u64]) -> Vec<u64> {
        self.requests += 1;
        for (depth, &hash) in path.iter().enumerate() {
            let now = (self.requests, -(depth as i64));
            if let Some(before) = self.used.insert(hash, now) {
                self.order.remove(&before);
            }
            self.order.insert(now, hash);
        }
        let mut freed = Vec::new();
        while self.used.len() > CAPACITY
            && let Some((_, hash)) = self.order.pop_first()
        {
            self.used.remove(&hash);
            freed.push(hash);
        }
        freed
    }
}

/// Approximate mode: look up, then remember.
fn replay_picks(requests: &[Request]) -> Duration {
    let mut index = PrefixIndex::new(usize::MAX);
    for endpoint in 0..ENDPOINTS {
        index.set_capacity(endpoint, CAPACITY);
    }
    let mut matched = [0; ENDPOINTS as usize];
    let start = Instant::now();
    for request in requests {
        index.find(&request.path, &mut matched);
        black_box(&matched);
        index.insert(request.endpoint, &request.path);
    }
    start.elapsed()
}

/// Precise mode: look up, then take the engine's events. Also how many blocks the look-ups have found, on all endpoints.
fn replay_events(requests: &[Request]) -> (Duration, u64) {
    let mut index = EventIndex::new();
    (0..ENDPOINTS).for_each(|endpoint| index.add_lane(endpoint));
    let events_of = |request: &Request| {
        let known = request.path.len() - request.stored;
        let stored = (request.stored > 0).then(|| events::Stored::new(&request.path, known));
        (stored, events::names(&request.freed))
    };
    let events: Vec<_> = requests.iter().map(events_of).collect();
    let mut matched = [0; ENDPOINTS as usize];
    let mut found = 0;
    let start = Instant::now();
    for (request, (stored, freed)) in requests.iter().zip(&events) {
        index.find(&request.path, &mut matched);
        found += matched.iter().copied().map(u64::from).sum::<u64>();
        if let Some(stored) = stored {
            stored.apply(&mut index, request.endpoint);
        }
        index.remove_all(request.endpoint, freed.iter().copied());
    }
    (start.elapsed(), found)
}

/// Precise mode through the whole scheduler: pick, complete, take the engine's events.
fn replay_scheduler(requests: &[Request]) -> Result<Duration> {
    let scheduler = events::scheduler(ENDPOINTS)?;
    let prepare = |request: &Request| {
        let known = request.path.len() - request.stored;
        let prompt = p3sched::Request::from_tokens("", events::tokens(&request.path));
        let stored = (request.stored > 0).then(|| events::stored(&request.path, known));
        let removed = (!request.freed.is_empty()).then(|| events::removed_blocks(request.freed.iter()));
        (request.endpoint.to_string(), prompt, [stored, removed])
    };
    let prepared: Vec<_> = requests.iter().map(prepare).collect();
    let start = Instant::now();
    for (endpoint, prompt, events) in &prepared {
        let decision = scheduler.pick(prompt, 0)?;
        scheduler.complete(decision.id, p3sched::Outcome::success(), 0)?;
        for event in events.iter().flatten() {
            scheduler.apply_kv_event(endpoint, event, 0)?;
        }
    }
    let time = start.elapsed();
    let counters = scheduler.stats(0).counters;
    let lost = counters.orphaned_kv_events + counters.skipped_kv_events;
    ensure!(lost == 0, "events that were not understood: {lost}");
    Ok(time)
}

/// What the peer is given.
struct Theirs {
    queries: Arc<Vec<Vec<LocalBlockHash>>>,
    /// By request, after nothing.
    events: Vec<Vec<RouterEvent>>,
}

/// How long the peer has taken, and what it has found.
#[derive(Default)]
struct Replayed {
    start: Option<Instant>,
    total: Duration,
    lookups: Duration,
    found: u64,
}

impl Theirs {
    fn new(requests: &[Request]) -> Self {
        let names = engine_hashes(requests);
        let events = requests.iter().map(|request| events_of(request, &names).collect());
        Self {
            queries: Arc::new(requests.iter().map(|request| dynamo::query(&request.path)).collect()),
            events: std::iter::once(Vec::new()).chain(events).collect(),
        }
    }

    /// Every look-up sees all events before it, as ours does. Of look-ups and updates the longer time counts: two
    /// threads that never wait for each other could not be faster. Also how many blocks the look-ups have found.
    fn replay(&self, index: impl SyncIndexer + 'static) -> Result<(Duration, u64)> {
        let index = Arc::new(index);
        let (lookups, queries) = (Arc::clone(&index), Arc::clone(&self.queries));
        let replayed = Arc::new(Mutex::new(Replayed::default()));
        let recorded = Arc::clone(&replayed);
        dynamo::apply_rounds(&*index, self.events.clone(), move |round| {
            let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = *recorded.start.get_or_insert(now);
            if let Some(query) = queries.get(round) {
                let scores = lookups.find_matches(query, false).scores;
                recorded.found += scores.values().copied().map(u64::from).sum::<u64>();
                drop(scores);
                recorded.lookups += now.elapsed();
            }
            recorded.total = start.elapsed();
        })?;
        let replayed = replayed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((replayed.lookups.max(replayed.total - replayed.lookups), replayed.found))
    }
}

fn events_of(request: &Request, names: &Names) -> impl Iterator<Item = RouterEvent> {
    let Request { endpoint, path, stored, freed } = request;
    let stored = (*stored > 0).then(|| dynamo::stored(*endpoint, path, path.len() - stored));
    let freed = freed.iter().filter_map(|hash| names.get(hash).copied()).collect::<Vec<_>>();
    let removed = (!freed.is_empty()).then(|| dynamo::removed_blocks(*endpoint, freed));
    stored.into_iter().chain(removed)
}

/// The peer's names for all blocks of the trace.
fn engine_hashes(requests: &[Request]) -> Names {
    let of_path = |request: &Request| {
        request.path.iter().copied().zip(dynamo::engine_hashes(&request.path)).collect::<Vec<_>>()
    };
    requests.iter().flat_map(of_path).collect()
}
