//! What outlives a restart of the scheduler.

use std::sync::Arc;

use ahash::AHashSet;

use super::{Scheduler, State};
use crate::Error;
use crate::endpoint::rate::PrefillRate;
use crate::prefix_index::PrefixIndex;
use crate::snapshot::{self, Input, invalid};

/// What is known of an endpoint that has not been added yet.
#[derive(Debug)]
pub(super) struct AwaitedEndpoint {
    name: Arc<str>,
    /// Where its blocks are in the prefix index until it comes.
    slot: u32,
    rate: PrefillRate,
}

/// Bytes of a block with its share of the segments of endpoints, mostly.
const RESERVED_BYTES: usize = 10;

impl Scheduler {
    /// The prefix index and the learned rates as bytes, for [`restore`](Self::restore) after a restart.
    ///
    /// # Complexity
    ///
    /// Proportional to the index: 8 bytes per block and 12 per segment of an endpoint. Picks wait meanwhile.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = snapshot::begin();
        out.extend(self.config.block_size_tokens.to_le_bytes());
        out.extend(self.config.bytes_per_token.to_le_bytes());
        // Memory is taken, and touched, before picks have to wait.
        let blocks = self.state.lock().index.stats().unique_blocks;
        let head = out.len();
        out.resize(head + blocks.saturating_mul(RESERVED_BYTES), 0);
        out.truncate(head);
        let state = self.state.lock();
        let known = state.pool.iter().map(|(slot, known)| (&known.endpoint.name, slot, known.rate));
        let awaited = state.awaited.iter().map(|awaited| (&awaited.name, awaited.slot, awaited.rate));
        let endpoints: Vec<_> = known.chain(awaited).collect();
        out.extend(state.mean_uncached_tokens.to_le_bytes());
        out.extend((endpoints.len() as u32).to_le_bytes());
        for (name, _, rate) in &endpoints {
            out.extend((name.len() as u32).to_le_bytes());
            out.extend(name.as_bytes());
            out.extend(rate.sums().iter().flat_map(|sum| sum.to_le_bytes()));
        }
        let slots: Vec<u32> = endpoints.iter().map(|&(_, slot, _)| slot).collect();
        state.index.write_snapshot(&slots, &mut out);
        drop(state);
        snapshot::seal(out)
    }

    /// Replaces the prefix index and the learned rates by those of a [`snapshot`](Self::snapshot).
    ///
    /// Use this at the start, before or after endpoints are added: what belongs to an endpoint that is not known yet waits
    /// for it, within the bound in bytes of the index, until it is added or [`set_endpoints`](Self::set_endpoints) leaves
    /// it out.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSnapshot`] if the bytes are truncated, corrupted, of another format, or were written with another
    /// `block_size_tokens` or `bytes_per_token`; then nothing has changed.
    ///
    /// # Complexity
    ///
    /// Proportional to the snapshot. Picks wait meanwhile.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched::{Endpoint, Request, Scheduler, SchedulerConfig};
    ///
    /// # fn main() -> Result<(), p3sched::Error> {
    /// let request = Request::from_text("llama", "You are a helpful assistant. ".repeat(20));
    /// let scheduler = Scheduler::new(SchedulerConfig::default())?;
    /// scheduler.add_endpoint(Endpoint::new("10.0.0.1:8000"))?;
    /// scheduler.pick(&request, 0)?;
    ///
    /// let restarted = Scheduler::new(SchedulerConfig::default())?;
    /// restarted.restore(&scheduler.snapshot())?;
    /// restarted.add_endpoint(Endpoint::new("10.0.0.1:8000"))?;
    /// assert!(restarted.pick(&request, 0)?.matched_tokens > 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn restore(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut input = snapshot::open(bytes)?;
        self.check_block_size(&mut input)?;
        let mean_uncached_tokens = f64::from_bits(input.u64()?);
        if !(mean_uncached_tokens.is_finite() && mean_uncached_tokens >= 0.0) {
            return Err(invalid("a mean that is not a number"));
        }
        let endpoints = read_endpoints(&mut input)?;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let free = (0..).skip(state.pool.slot_count());
        let known: Vec<_> = endpoints.iter().map(|(name, _)| state.pool.slot(name)).collect();
        let slots: Vec<u32> = known.iter().zip(free).map(|(known, free)| known.unwrap_or(free)).collect();
        let mut index = PrefixIndex::read_snapshot(&mut input, &slots, self.config.index_max_bytes)?;
        if !input.is_empty() {
            return Err(invalid("more bytes than it says"));
        }
        state.awaited.clear();
        for (((name, rate), &slot), known) in endpoints.into_iter().zip(&slots).zip(known) {
            match known.and_then(|slot| state.pool.get_mut(slot)) {
                Some(known) => known.rate = rate,
                None => state.awaited.push(AwaitedEndpoint { name, slot, rate }),
            }
        }
        for (slot, known) in state.pool.iter() {
            index.set_capacity(slot, self.capacity_blocks(known.capacity_tokens()));
        }
        state.index = index;
        state.mean_uncached_tokens = mean_uncached_tokens;
        Ok(())
    }

    fn check_block_size(&self, input: &mut Input<'_>) -> Result<(), Error> {
        let config = &self.config;
        let sizes =
            [("block_size_tokens", config.block_size_tokens), ("bytes_per_token", config.bytes_per_token)];
        for (name, expected) in sizes {
            let written = input.u32()?;
            if written != expected {
                return Err(invalid(&format!("{name} must be `{expected}`: `{written}`")));
            }
        }
        Ok(())
    }
}

impl State {
    /// Gives an endpoint that was added what a restored snapshot knows of it.
    pub(super) fn welcome(&mut self, slot: u32, name: &str) {
        if self.awaited.is_empty() {
            return;
        }
        // Another one that is still awaited makes room.
        let free = self.awaited.iter().map(|awaited| awaited.slot + 1).max().unwrap_or(0).max(slot + 1);
        if let Some(other) =
            self.awaited.iter_mut().find(|awaited| awaited.slot == slot && *awaited.name != *name)
        {
            self.index.move_endpoint(slot, free);
            other.slot = free;
        }
        let Some(at) = self.awaited.iter().position(|awaited| *awaited.name == *name) else { return };
        let awaited = self.awaited.swap_remove(at);
        if awaited.slot != slot {
            self.index.move_endpoint(awaited.slot, slot);
        }
        if let Some(known) = self.pool.get_mut(slot) {
            known.rate = awaited.rate;
        }
    }

    /// Gives up waiting for endpoints.
    pub(super) fn forget_awaited(&mut self) {
        for awaited in std::mem::take(&mut self.awaited) {
            self.index.clear(awaited.slot);
            self.index.set_capacity(awaited.slot, 0);
        }
    }
}

fn read_endpoints(input: &mut Input<'_>) -> Result<Vec<(Arc<str>, PrefillRate)>, Error> {
    let count = input.u32()?;
    let mut endpoints = Vec::new();
    let mut names = AHashSet::new();
    for _ in 0..count {
        let length = input.u32()? as usize;
        let name =
            std::str::from_utf8(input.take(length)?).map_err(|_| invalid("a name that is not UTF-8"))?;
        let sums = [f64::from_bits(input.u64()?), f64::from_bits(input.u64()?)];
        let rate = PrefillRate::from_sums(sums).ok_or_else(|| invalid("a rate that is not a number"))?;
        if !names.insert(name) {
            return Err(invalid("an endpoint that is there twice"));
        }
        endpoints.push((Arc::from(name), rate));
    }
    Ok(endpoints)
}
