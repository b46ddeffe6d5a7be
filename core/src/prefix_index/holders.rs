//! Who holds a run, and how much of it.

use super::root::RootHolders;
use super::storage;

/// One endpoint's share of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) endpoint: u32,
    /// Leading blocks of the run that it holds, at least 1.
    pub(super) length: u32,
    /// Its first segment of the run in the recency list.
    pub(super) segment: u32,
}

/// The holders of a run, in the representation that fits their number.
#[derive(Debug)]
pub(super) enum Holders {
    /// One holder: most runs. Nothing on the heap.
    One(Holder),
    /// A few, sorted by endpoint.
    List(Vec<Holder>),
    /// A good part of all endpoints, by slot.
    Dense(Box<DenseHolders>),
}

/// Up to this many holders a list is used, however few slots there are.
const LONGEST_SHORT_LIST: usize = 8;

impl Default for Holders {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Holders {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::List(list) => list.len(),
            Self::Dense(dense) => dense.count,
        }
    }

    pub(super) fn get(&self, endpoint: u32) -> Option<Holder> {
        match self {
            Self::One(holder) => (holder.endpoint == endpoint).then_some(*holder),
            Self::List(list) => list.get(position(list, endpoint).ok()?).copied(),
            Self::Dense(dense) => dense.get(endpoint as usize),
        }
    }

    /// What the root table keeps of the holders of a run of `length` blocks.
    pub(super) fn summary(&self, length: u32) -> RootHolders {
        match self {
            Self::One(only) => RootHolders::One { endpoint: only.endpoint, held: only.length },
            Self::List(list) => {
                let all = list.iter().all(|holder| holder.length == length);
                match list.last() {
                    Some(last) if last.endpoint < u64::BITS && all => {
                        RootHolders::All(list.iter().fold(0, |set, holder| set | 1 << holder.endpoint))
                    }
                    _ => RootHolders::InRun,
                }
            }
            Self::Dense(dense) => match dense.members.as_slice() {
                &[endpoints] if dense.shortest >= length => RootHolders::All(endpoints),
                _ => RootHolders::InRun,
            },
        }
    }

    /// Blocks of the longest share, 0 if there is no holder.
    pub(super) fn longest(&self) -> u32 {
        match self {
            Self::One(holder) => holder.length,
            Self::List(list) => list.iter().map(|holder| holder.length).max().unwrap_or(0),
            Self::Dense(dense) => dense.lengths.iter().copied().max().unwrap_or(0),
        }
    }

    /// Adds or replaces one endpoint's share; `slots` is the number of endpoint slots there are.
    pub(super) fn set(&mut self, holder: Holder, slots: usize) {
        match self {
            Self::One(only) if only.endpoint == holder.endpoint => *only = holder,
            Self::One(only) => {
                let mut list = vec![*only, holder];
                list.sort_unstable_by_key(|holder| holder.endpoint);
                *self = Self::List(list);
            }
            Self::List(list) if list.is_empty() => *self = Self::One(holder),
            Self::List(list) => match position(list, holder.endpoint) {
                Ok(at) => {
                    if let Some(found) = list.get_mut(at) {
                        *found = holder;
                    }
                }
                Err(at) => {
                    if list.len() == list.capacity() {
                        list.reserve_exact(list.len() / 4 + 2);
                    }
                    list.insert(at, holder);
                    if list.len() > LONGEST_SHORT_LIST && list.len() * 4 > slots {
                        *self = Self::Dense(Box::new(DenseHolders::new(list, slots)));
                    }
                }
            },
            Self::Dense(dense) => dense.set(holder),
        }
    }

    /// Ends one endpoint's share.
    pub(super) fn remove(&mut self, endpoint: u32) {
        match self {
            Self::One(only) if only.endpoint == endpoint => *self = Self::default(),
            Self::One(_) => {}
            Self::List(list) => {
                if let Ok(at) = position(list, endpoint) {
                    list.remove(at);
                }
                match list.as_slice() {
                    [only] => *self = Self::One(*only),
                    _ => storage::release(list),
                }
            }
            Self::Dense(dense) => {
                dense.remove(endpoint as usize);
                if dense.count * 2 <= LONGEST_SHORT_LIST || dense.count * 8 < dense.lengths.len() {
                    *self = Self::List(dense.iter().collect());
                }
            }
        }
    }

    /// Visits all holders by ascending endpoint.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Holder)) {
        match self {
            Self::One(holder) => visit(*holder),
            Self::List(list) => list.iter().copied().for_each(visit),
            Self::Dense(dense) => dense.iter().for_each(visit),
        }
    }

    /// Writes the match of every holder whose match ends in this run: `start` blocks before the run and those of the
    /// run's first `common` that it holds; of the first run on a path also 0 for all others.
    ///
    /// `deeper` are the holders of the next run on the path. Each of them holds this run up to there, so they are a
    /// subset, and what is written for them here is overwritten there: they are left out where that saves work.
    #[inline]
    pub(super) fn record(&self, start: u32, common: u32, deeper: Option<&Self>, matched: &mut [u32]) {
        let is_one_pass = matches!(self, Self::Dense(_)) && !matches!(deeper, Some(Self::Dense(_)));
        if start == 0 && !is_one_pass {
            matched.fill(0);
        }
        match (self, deeper) {
            (Self::One(holder), _) => record(holder, start, common, matched),
            (Self::List(list), Some(Self::List(deeper))) => {
                for holder in (Difference { list, deeper }) {
                    record(holder, start, common, matched);
                }
            }
            (Self::List(list), _) => {
                for holder in list {
                    record(holder, start, common, matched);
                }
            }
            (Self::Dense(dense), Some(Self::Dense(deeper))) => {
                dense.record_except(start, common, deeper, matched);
            }
            (Self::Dense(dense), _) => dense.record(start, common, matched),
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::List(list) => storage::heap_bytes(list),
            Self::Dense(dense) => dense.heap_bytes(),
        }
    }
}

/// Up to so many slots are written in one pass.
const FEW_SLOTS: usize = 16;

/// Writes the match of one endpoint, and 0 for all others.
#[inline]
pub(super) fn fill_one(endpoint: u32, blocks: u32, matched: &mut [u32]) {
    if matched.len() <= FEW_SLOTS {
        return fill_few(1_u64.checked_shl(endpoint).unwrap_or(0), blocks, matched);
    }
    matched.fill(0);
    if let Some(slot) = matched.get_mut(endpoint as usize) {
        *slot = blocks;
    }
}

/// Writes the match of each endpoint whose bit is set, and 0 for all others.
#[inline]
pub(super) fn fill_all(endpoints: u64, blocks: u32, matched: &mut [u32]) {
    if matched.len() <= FEW_SLOTS {
        return fill_few(endpoints, blocks, matched);
    }
    matched.fill(0);
    record_all(endpoints, blocks, matched);
}

/// The same for few slots, four at a time: who reads them in vectors would wait until single stores are in the cache.
#[inline(never)]
fn fill_few(endpoints: u64, blocks: u32, matched: &mut [u32]) {
    let mut left = endpoints as u32;
    let (words, rest) = matched.as_chunks_mut::<4>();
    for word in words {
        *word = [1, 2, 4, 8].map(|bit| if left & bit == 0 { 0 } else { blocks });
        left >>= 4;
    }
    for slot in rest {
        *slot = if left & 1 == 0 { 0 } else { blocks };
        left >>= 1;
    }
}

/// Writes the match of each endpoint whose bit is set.
#[inline]
pub(super) fn record_all(endpoints: u64, blocks: u32, matched: &mut [u32]) {
    let slots = matched.len().min(u64::BITS as usize);
    if endpoints.trailing_ones() as usize >= slots {
        return matched.iter_mut().take(slots).for_each(|slot| *slot = blocks);
    }
    let mut left = endpoints;
    while left != 0 {
        if let Some(slot) = matched.get_mut(left.trailing_zeros() as usize) {
            *slot = blocks;
        }
        left &= left - 1;
    }
}

fn position(list: &[Holder], endpoint: u32) -> Result<usize, usize> {
    list.binary_search_by_key(&endpoint, |holder| holder.endpoint)
}

#[inline]
fn record(holder: &Holder, start: u32, common: u32, matched: &mut [u32]) {
    if let Some(slot) = matched.get_mut(holder.endpoint as usize) {
        *slot = start + holder.length.min(common);
    }
}

/// The holders in `list` that are not in `deeper`, which is a subset of it, both sorted by endpoint.
///
/// Up to the next missing holder the two agree position by position, so each is found by bisection.
struct Difference<'a> {
    list: &'a [Holder],
    deeper: &'a [Holder],
}

impl<'a> Iterator for Difference<'a> {
    type Item = &'a Holder;

    fn next(&mut self) -> Option<&'a Holder> {
        if self.list.len() <= self.deeper.len() {
            return None;
        }
        let (mut equal, mut differs) = (0, self.deeper.len());
        while equal < differs {
            let middle = equal + (differs - equal) / 2;
            let pair = (self.list.get(middle)?, self.deeper.get(middle)?);
            if pair.0.endpoint == pair.1.endpoint {
                equal = middle + 1;
            } else {
                differs = middle;
            }
        }
        let missing = self.list.get(equal)?;
        self.list = self.list.get(equal + 1..)?;
        self.deeper = self.deeper.get(equal..)?;
        Some(missing)
    }
}

/// Shares by slot: a match over all endpoints is one pass of vector instructions.
#[derive(Debug)]
pub(super) struct DenseHolders {
    count: usize,
    /// No share is shorter: a match that ends before is the same for all.
    shortest: u32,
    /// Bit `slot % 64` of word `slot / 64` is set for a holder.
    members: Vec<u64>,
    /// Blocks held by slot, 0 for none.
    lengths: Vec<u32>,
    /// First segment by slot.
    segments: Vec<u32>,
}

impl DenseHolders {
    fn new(list: &[Holder], slots: usize) -> Self {
        let mut dense = Self {
            count: 0,
            shortest: u32::MAX,
            members: vec![0; slots.div_ceil(64)],
            lengths: vec![0; slots],
            segments: vec![0; slots],
        };
        for &holder in list {
            dense.set(holder);
        }
        dense
    }

    fn get(&self, slot: usize) -> Option<Holder> {
        match (self.lengths.get(slot), self.segments.get(slot)) {
            (Some(&length), Some(&segment)) if length > 0 => {
                Some(Holder { endpoint: slot as u32, length, segment })
            }
            _ => None,
        }
    }

    fn set(&mut self, holder: Holder) {
        let slot = holder.endpoint as usize;
        if slot >= self.lengths.len() {
            self.lengths.resize(slot + 1, 0);
            self.segments.resize(slot + 1, 0);
            self.members.resize((slot + 1).div_ceil(64), 0);
        }
        if let (Some(length), Some(segment), Some(word)) =
            (self.lengths.get_mut(slot), self.segments.get_mut(slot), self.members.get_mut(slot / 64))
        {
            let before = std::mem::replace(length, holder.length);
            *segment = holder.segment;
            *word |= 1 << (slot % 64);
            self.count += usize::from(before == 0);
            self.shortest = self.shortest.min(holder.length);
            if before == self.shortest && before < holder.length {
                self.shortest =
                    self.lengths.iter().copied().filter(|&length| length > 0).min().unwrap_or(u32::MAX);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        if let (Some(length), Some(word)) = (self.lengths.get_mut(slot), self.members.get_mut(slot / 64)) {
            self.count -= usize::from(*length > 0);
            *length = 0;
            *word &= !(1 << (slot % 64));
        }
    }

    fn iter(&self) -> impl Iterator<Item = Holder> + '_ {
        (0..self.lengths.len()).filter_map(|slot| self.get(slot))
    }

    fn record(&self, start: u32, common: u32, matched: &mut [u32]) {
        if start == 0
            && let Some(unknown) = matched.get_mut(self.lengths.len()..)
        {
            unknown.fill(0);
        }
        if self.shortest >= common && self.count == self.lengths.len() {
            let everyone = matched.len().min(self.lengths.len());
            return matched.iter_mut().take(everyone).for_each(|slot| *slot = start + common);
        }
        // Lengths fit in an `i32`, and the baseline x86-64 has vector comparisons of signed integers only.
        let common = common as i32;
        if start == 0 {
            // The first run of a path: there is nothing to keep.
            for (slot, &length) in matched.iter_mut().zip(&self.lengths) {
                *slot = (length as i32).min(common) as u32;
            }
            return;
        }
        for (slot, &length) in matched.iter_mut().zip(&self.lengths) {
            let held = (length as i32).min(common) as u32;
            *slot = if held == 0 { *slot } else { start + held };
        }
    }

    fn record_except(&self, start: u32, common: u32, deeper: &Self, matched: &mut [u32]) {
        let others = deeper.members.iter().copied().chain(std::iter::repeat(0));
        for ((word, &members), others) in self.members.iter().enumerate().zip(others) {
            let mut missing = members & !others;
            while missing != 0 {
                let slot = word * 64 + missing.trailing_zeros() as usize;
                missing &= missing - 1;
                if let (Some(matched), Some(&length)) = (matched.get_mut(slot), self.lengths.get(slot)) {
                    *matched = start + length.min(common);
                }
            }
        }
    }

    /// True if bits, count and bound agree with the lengths.
    pub(super) fn is_consistent(&self) -> bool {
        let mut members = vec![0_u64; self.members.len()];
        for holder in self.iter() {
            if let Some(word) = members.get_mut(holder.endpoint as usize / 64) {
                *word |= 1 << (holder.endpoint % 64);
            }
        }
        members == self.members
            && self.count == self.iter().count()
            && self.iter().all(|holder| holder.length >= self.shortest)
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Self>()
            + storage::heap_bytes(&self.members)
            + storage::heap_bytes(&self.lengths)
            + storage::heap_bytes(&self.segments)
    }
}
