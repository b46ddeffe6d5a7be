//! What the engines that send events hold, and what was picked for them a moment ago.

use serde::Serialize;
use std::collections::VecDeque;

use ahash::{AHashMap, AHashSet};

use super::{BlocksRemoved, BlocksStored, KvEvent, KvEventBatch};
use crate::Error;
use crate::block_hash::{BlockHasher, mix};
use crate::prefix_index::{EventIndex, PrefixIndex, StoredBlocks};

/// Hashes of recent picks that are kept at most, all endpoints together: 8 MiB.
const MAX_SPECULATIVE_HASHES: usize = 1 << 20;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KvBatchOutcome {
    /// Its events were applied.
    Applied,
    /// The engine has restarted: what the rank held was forgotten, then the events were applied.
    Restarted,
    /// It came before; nothing was changed.
    Repeated,
    /// Batches from `expected` on are missing; nothing was applied.
    ///
    /// Ask the engine to replay from there and apply that in its order, this batch included. Where it cannot, call
    /// [`resume_kv_events`](crate::Scheduler::resume_kv_events) with the sequence number of the next batch that you have.
    Gap {
        /// The sequence number that would have come next.
        expected: u64,
    },
}

/// Events of one batch, hashed, with what was found wrong with them: nothing.
pub(crate) struct PreparedEvents<'a> {
    events: Vec<PreparedEvent<'a>>,
}

enum PreparedEvent<'a> {
    Stored {
        event: &'a BlocksStored,
        /// One per block of ours.
        digests: Vec<u64>,
        stride: u32,
    },
    Removed(&'a BlocksRemoved),
    Cleared,
    Skipped,
}

impl<'a> PreparedEvents<'a> {
    /// Checks and hashes events; needs no lock.
    pub(crate) fn new(events: &'a [KvEvent], hasher: &BlockHasher) -> Result<Self, Error> {
        let events = events.iter().map(|event| match event {
            // Blocks of other media may come without their tokens.
            KvEvent::Stored(event) if !decides_hits(event) => Ok(PreparedEvent::Skipped),
            KvEvent::Stored(event) => {
                let stride = check(event, hasher.block_tokens())?;
                let mut digests = Vec::new();
                hasher.token_digests(&event.token_ids, &mut digests);
                for (digests, &media) in digests.chunks_mut(stride as usize).zip(&event.media) {
                    if media != 0 {
                        digests.iter_mut().for_each(|digest| *digest = mix(*digest, media));
                    }
                }
                Ok(PreparedEvent::Stored { event, digests, stride })
            }
            KvEvent::Removed(event) => Ok(PreparedEvent::Removed(event)),
            KvEvent::Cleared => Ok(PreparedEvent::Cleared),
        });
        Ok(Self { events: events.collect::<Result<_, Error>>()? })
    }

    /// Whether the engine holds nothing any more at some point, of prompts as text neither.
    pub(crate) fn clear_the_cache(&self) -> bool {
        self.events.iter().any(|event| matches!(event, PreparedEvent::Cleared))
    }
}

/// Whether the blocks are where the engine looks for prefix hits.
fn decides_hits(event: &BlocksStored) -> bool {
    event.attention.as_deref().is_none_or(|kind| kind == "full_attention")
        && is_in_gpu(event.medium.as_deref())
}

/// Blocks of ours in each block of the event.
fn check(event: &BlocksStored, block_tokens: u32) -> Result<u32, Error> {
    let BlocksStored { block_hashes, token_ids, block_size, media, .. } = event;
    if *block_size == 0 || block_size % block_tokens != 0 {
        return Err(Error::InvalidKvEvent(format!(
            "block_size must be a multiple of block_size_tokens `{block_tokens}`: `{block_size}`"
        )));
    }
    if block_hashes.len().checked_mul(*block_size as usize) != Some(token_ids.len()) {
        return Err(Error::InvalidKvEvent(format!(
            "`{}` blocks of `{block_size}` tokens must come with as many token ids: `{}`",
            block_hashes.len(),
            token_ids.len()
        )));
    }
    if !media.is_empty() && media.len() != block_hashes.len() {
        return Err(Error::InvalidKvEvent(format!(
            "media must be empty or one for each of `{}` blocks: `{}`",
            block_hashes.len(),
            media.len()
        )));
    }
    Ok(block_size / block_tokens)
}

/// What came of events, for the scheduler's counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventCounts {
    pub(crate) applied: u64,
    pub(crate) skipped: u64,
    pub(crate) orphaned: u64,
}

/// One stream of events: a data-parallel rank of an endpoint.
#[derive(Debug)]
struct Stream {
    endpoint: u32,
    /// Sequence number of the next batch.
    next: u64,
    /// Of the last batch.
    timestamp: f64,
    /// Blocks of ours in an engine block, once known.
    stride: Option<u32>,
    /// The group of layers that is followed, once known.
    group: Option<u32>,
}

/// A pick that no event has confirmed yet.
#[derive(Debug)]
struct Speculation {
    endpoint: u32,
    expires_at: u64,
    hashes: Vec<u64>,
}

/// The event streams, what they told, and the picks that they have not told of yet.
#[derive(Debug)]
pub(crate) struct PreciseIndex {
    index: EventIndex,
    /// By lane of `index`.
    streams: Vec<Option<Stream>>,
    /// Lane by endpoint and rank.
    lanes: AHashMap<(u32, u32), u32>,
    /// Those that have a lane.
    endpoints: AHashSet<u32>,
    /// Recent picks by endpoint; the mark of a path is the number of its last pick.
    speculative: PrefixIndex,
    speculations: VecDeque<Speculation>,
    speculative_hashes: usize,
    /// Number of the first of `speculations`.
    first_speculation: u32,
    matched: Vec<u32>,
}

impl PreciseIndex {
    pub(crate) fn new() -> Self {
        Self {
            index: EventIndex::new(),
            streams: Vec::new(),
            lanes: AHashMap::new(),
            endpoints: AHashSet::new(),
            speculative: PrefixIndex::new(usize::MAX),
            speculations: VecDeque::new(),
            speculative_hashes: 0,
            first_speculation: 0,
            matched: Vec::new(),
        }
    }

    /// Whether any event of the endpoint was ever applied.
    pub(crate) fn knows(&self, endpoint: u32) -> bool {
        self.endpoints.contains(&endpoint)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes() + self.speculative.stats().bytes + self.speculative_hashes * size_of::<u64>()
    }

    pub(crate) fn unique_blocks(&self) -> usize {
        self.index.stats().unique_blocks
    }

    /// Blocks that the endpoint holds, all its ranks together.
    pub(crate) fn block_count(&self, endpoint: u32) -> usize {
        self.lanes_of(endpoint).map(|lane| self.index.block_count(lane)).sum()
    }

    /// Raises `matched[endpoint]` to what each endpoint holds of a path of token blocks.
    pub(crate) fn raise(&mut self, hashes: &[u64], matched: &mut [u32]) {
        if self.lanes.is_empty() {
            return;
        }
        let found = &mut self.matched;
        if !self.speculations.is_empty() {
            found.resize(matched.len(), 0);
            self.speculative.find(hashes, found);
            matched.iter_mut().zip(found.iter()).for_each(|(matched, &found)| *matched = found.max(*matched));
        }
        found.resize(self.streams.len(), 0);
        self.index.find(hashes, found);
        for (stream, &found) in self.streams.iter().zip(found.iter()) {
            if let Some(stream) = stream
                && let Some(matched) = matched.get_mut(stream.endpoint as usize)
            {
                *matched = found.max(*matched);
            }
        }
    }

    /// Notes a pick, which counts as held until its engine's events have had the time to say so themselves.
    pub(crate) fn speculate(&mut self, endpoint: u32, hashes: Vec<u64>, expires_at: u64) {
        let number = self.first_speculation.wrapping_add(self.speculations.len() as u32);
        self.speculative.set_capacity(endpoint, usize::MAX);
        self.speculative.insert_marked(endpoint, &hashes, number);
        self.speculative_hashes += hashes.len();
        self.speculations.push_back(Speculation { endpoint, expires_at, hashes });
    }

    /// Ends the speculations whose time is over; returns the blocks that no event has confirmed.
    pub(crate) fn expire(&mut self, now: u64) -> u64 {
        let mut unconfirmed = 0;
        while let Some(oldest) = self.speculations.front()
            && (oldest.expires_at <= now || self.speculative_hashes > MAX_SPECULATIVE_HASHES)
        {
            let Some(Speculation { endpoint, hashes, .. }) = self.speculations.pop_front() else { break };
            self.speculative_hashes -= hashes.len();
            self.speculative.forget_marked(endpoint, self.first_speculation);
            self.first_speculation = self.first_speculation.wrapping_add(1);
            self.matched.resize(self.streams.len(), 0);
            self.index.find(&hashes, &mut self.matched);
            let confirmed = self.lanes_of(endpoint).filter_map(|lane| self.matched.get(lane as usize)).max();
            unconfirmed += hashes.len() as u64 - u64::from(confirmed.copied().unwrap_or(0));
        }
        unconfirmed
    }

    /// Forgets what the endpoint's engines hold, but not where their streams are.
    pub(crate) fn clear(&mut self, endpoint: u32) {
        self.speculative.clear(endpoint);
        for speculation in self.speculations.iter_mut().filter(|speculation| speculation.endpoint == endpoint)
        {
            self.speculative_hashes -= speculation.hashes.len();
            speculation.hashes = Vec::new();
        }
        for lane in self.lanes_of(endpoint).collect::<Vec<_>>() {
            self.index.clear(lane);
        }
    }

    /// Forgets an endpoint that was removed.
    pub(crate) fn remove(&mut self, endpoint: u32) {
        self.clear(endpoint);
        self.lanes.retain(|&(owner, _), _| owner != endpoint);
        self.endpoints.remove(&endpoint);
        for stream in &mut self.streams {
            stream.take_if(|stream| stream.endpoint == endpoint);
        }
    }

    /// Forgets blocks until events and recent picks together occupy at most `max_bytes`.
    pub(crate) fn evict_to(&mut self, max_bytes: usize) {
        let speculative = self.bytes() - self.index.bytes();
        self.index.evict_to(max_bytes.saturating_sub(speculative));
    }

    /// The number of the next batch of a rank.
    pub(crate) fn expected(&self, endpoint: u32, rank: u32) -> u64 {
        let lane = self.lanes.get(&(endpoint, rank)).and_then(|&lane| self.streams.get(lane as usize));
        lane.and_then(Option::as_ref).map_or(0, |stream| stream.next)
    }

    /// Where a batch stands in its stream. A restarted engine's blocks are forgotten at once.
    pub(crate) fn sequence(&mut self, endpoint: u32, batch: &KvEventBatch) -> KvBatchOutcome {
        let lane = self.lane(endpoint, batch.rank);
        let Some(Some(stream)) = self.streams.get_mut(lane as usize) else { return KvBatchOutcome::Repeated };
        let is_newer = batch.timestamp > stream.timestamp;
        if batch.sequence == stream.next {
            stream.next += 1;
            stream.timestamp = batch.timestamp;
            return KvBatchOutcome::Applied;
        }
        if batch.sequence > stream.next {
            return KvBatchOutcome::Gap { expected: stream.next };
        }
        // A number that was there before: the engine counts anew, or somebody repeats what it said.
        let times_are_known = batch.timestamp > 0.0 && stream.timestamp > 0.0;
        if (times_are_known && !is_newer) || (!times_are_known && batch.sequence > 0) {
            return KvBatchOutcome::Repeated;
        }
        self.resume(endpoint, batch.rank, 0);
        match self.sequence(endpoint, batch) {
            KvBatchOutcome::Applied => KvBatchOutcome::Restarted,
            outcome => outcome,
        }
    }

    /// Forgets what a rank holds and expects the batch of that number next.
    pub(crate) fn resume(&mut self, endpoint: u32, rank: u32, next: u64) {
        let lane = self.lane(endpoint, rank);
        self.index.clear(lane);
        if let Some(Some(stream)) = self.streams.get_mut(lane as usize) {
            *stream = Stream { endpoint, next, timestamp: 0.0, stride: None, group: None };
        }
    }

    /// Applies events of one rank; `seed` gives the hash that a prompt's chain starts from.
    pub(crate) fn apply(
        &mut self,
        endpoint: u32,
        rank: u32,
        events: &PreparedEvents<'_>,
        seed: impl Fn(&BlocksStored) -> u64,
    ) -> EventCounts {
        let lane = self.lane(endpoint, rank);
        let mut counts = EventCounts::default();
        for event in &events.events {
            match event {
                PreparedEvent::Stored { event, digests, stride } => {
                    if !self.follows(lane, event, *stride) {
                        counts.skipped += 1;
                    } else if self.store(lane, event, digests, *stride, &seed) {
                        counts.applied += 1;
                    } else {
                        counts.orphaned += 1;
                    }
                }
                PreparedEvent::Removed(event) => {
                    let group = self.streams.get(lane as usize).and_then(|stream| stream.as_ref()?.group);
                    let is_other = group.is_some() && event.group.is_some() && group != event.group;
                    if is_other || !is_in_gpu(event.medium.as_deref()) {
                        counts.skipped += 1;
                        continue;
                    }
                    self.index.remove_all(lane, event.block_hashes.iter().map(|name| name.0));
                    counts.applied += 1;
                }
                PreparedEvent::Cleared => {
                    self.index.clear(lane);
                    counts.applied += 1;
                }
                PreparedEvent::Skipped => counts.skipped += 1,
            }
        }
        counts
    }

    /// False if the blocks continue one that is not known.
    fn store(
        &mut self,
        lane: u32,
        event: &BlocksStored,
        digests: &[u64],
        stride: u32,
        seed: impl Fn(&BlocksStored) -> u64,
    ) -> bool {
        let parent = event.parent.map(|parent| self.index.position(lane, parent.0));
        let mut chain = match parent {
            None => seed(event),
            Some(position) => match position.and_then(|position| self.index.hash(position)) {
                Some(hash) => hash,
                None => return false,
            },
        };
        let hashes = digests.iter().map(|&digest| {
            chain = mix(chain, digest);
            chain
        });
        let hashes: Vec<u64> = hashes.collect();
        let names: Vec<u64> = event.block_hashes.iter().map(|name| name.0).collect();
        let parent = parent.flatten();
        self.index.store(lane, &StoredBlocks { parent, hashes: &hashes, names: &names, stride });
        true
    }

    /// Whether these blocks are of the group that decides about prefix hits; the first ones of a rank say which that is.
    fn follows(&mut self, lane: u32, event: &BlocksStored, stride: u32) -> bool {
        let Some(Some(stream)) = self.streams.get_mut(lane as usize) else { return false };
        stream.group = stream.group.or(event.group);
        *stream.stride.get_or_insert(stride) == stride
            && (event.group.is_none() || stream.group == event.group)
    }

    fn lane(&mut self, endpoint: u32, rank: u32) -> u32 {
        if let Some(&lane) = self.lanes.get(&(endpoint, rank)) {
            return lane;
        }
        let stream = Stream { endpoint, next: 0, timestamp: 0.0, stride: None, group: None };
        let lane = self.streams.iter().position(Option::is_none).unwrap_or(self.streams.len());
        match self.streams.get_mut(lane) {
            Some(place) => *place = Some(stream),
            None => self.streams.push(Some(stream)),
        }
        let lane = lane as u32;
        self.index.add_lane(lane);
        self.lanes.insert((endpoint, rank), lane);
        self.endpoints.insert(endpoint);
        lane
    }

    fn lanes_of(&self, endpoint: u32) -> impl Iterator<Item = u32> + '_ {
        let streams = (0..).zip(&self.streams);
        streams
            .filter(move |(_, stream)| stream.as_ref().is_some_and(|s| s.endpoint == endpoint))
            .map(|(lane, _)| lane)
    }

    /// Checks every invariant, for tests and fuzzing.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.index.validate()?;
        self.speculative.validate()
    }
}

fn is_in_gpu(medium: Option<&str>) -> bool {
    medium.is_none_or(|medium| medium.eq_ignore_ascii_case("gpu"))
}
