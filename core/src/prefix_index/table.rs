//! The root table: from the chained hash of a run's first block to the run.

/// What a look-up needs of a run, kept beside its key: if few endpoints hold the run, or up to 64 all of it, a hit on
/// the whole run touches one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RootEntry {
    /// Chained hash of the run's first block: the key.
    pub(super) first: u64,
    /// Chained hash of the run's last block.
    pub(super) last: u64,
    /// Position of the run in the index; [`VACANT`] in an unused entry.
    pub(super) run: u32,
    /// Blocks in the run, with [`ALL`] added if `holders` is a set of endpoints.
    length: u32,
    /// A set of endpoints below 64, or one endpoint in the low and its blocks in the high half.
    holders: u64,
}

/// The holders of a run as far as its root entry knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RootHolders {
    /// One endpoint holds this many blocks of the run.
    One { endpoint: u32, held: u32 },
    /// The endpoints whose bits are set hold all of the run.
    All(u64),
    /// They have to be read from the run.
    InRun,
}

const ALL: u32 = 1 << 31;
const VACANT: u32 = u32::MAX;
const VACANT_ENTRY: RootEntry = RootEntry { first: 0, last: 0, run: VACANT, length: 0, holders: u64::MAX };

impl RootEntry {
    pub(super) fn new(run: u32, hashes: &[u64], holders: RootHolders) -> Self {
        let mut entry = Self { run, first: hashes.first().copied().unwrap_or_default(), ..VACANT_ENTRY };
        entry.update(hashes, holders);
        entry
    }

    /// Takes over what has changed at the end of the run.
    pub(super) fn update(&mut self, hashes: &[u64], holders: RootHolders) {
        self.last = hashes.last().copied().unwrap_or_default();
        self.length = hashes.len() as u32;
        self.holders = match holders {
            RootHolders::One { endpoint, held } => u64::from(held) << 32 | u64::from(endpoint),
            RootHolders::All(endpoints) => {
                self.length |= ALL;
                endpoints
            }
            RootHolders::InRun => u64::MAX,
        };
    }

    /// Blocks in the run.
    #[inline]
    pub(super) fn length(&self) -> u32 {
        self.length & !ALL
    }

    #[inline]
    pub(super) fn holders(&self) -> RootHolders {
        if self.length & ALL != 0 {
            RootHolders::All(self.holders)
        } else if self.holders == u64::MAX {
            RootHolders::InRun
        } else {
            RootHolders::One { endpoint: self.holders as u32, held: (self.holders >> 32) as u32 }
        }
    }
}

const SMALLEST: usize = 16;

/// Open addressing with linear probing and backward-shift deletion: no tombstones, so churn leaves no trace.
///
/// At most three quarters of the entries are in use, so every probe sequence ends at a vacant one.
#[derive(Debug)]
pub(super) struct RootTable {
    /// A power of two of entries, two to a cache line.
    entries: Vec<RootEntry>,
    used: usize,
    /// `64 - log2(entries.len())`.
    shift: u32,
}

impl RootTable {
    pub(super) fn new() -> Self {
        Self::with_entries(SMALLEST)
    }

    /// A table that does not grow before it has so many entries.
    pub(super) fn with_room(count: usize) -> Self {
        Self::with_entries(count + count / 3 + 1)
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn heap_bytes(&self) -> usize {
        super::storage::heap_bytes(&self.entries)
    }

    #[inline]
    pub(super) fn get(&self, first: u64) -> Option<&RootEntry> {
        let mut at = self.home(first);
        loop {
            let entry = self.entries.get(at)?;
            if entry.first == first && entry.run != VACANT {
                return Some(entry);
            }
            if entry.run == VACANT {
                return None;
            }
            at = self.after(at);
        }
    }

    pub(super) fn get_mut(&mut self, first: u64) -> Option<&mut RootEntry> {
        let at = self.position(first)?;
        self.entries.get_mut(at)
    }

    /// Adds an entry whose key is not in the table yet.
    pub(super) fn insert(&mut self, entry: RootEntry) {
        if (self.used + 1) * 4 > self.entries.len() * 3 {
            self.resize(self.entries.len() * 2);
        }
        self.place(entry);
        self.used += 1;
    }

    /// Removes the entry of `first`, and moves those behind it up so that no probe sequence is interrupted.
    pub(super) fn remove(&mut self, first: u64) {
        let Some(mut hole) = self.position(first) else { return };
        let mut at = self.after(hole);
        while let Some(&entry) = self.entries.get(at)
            && entry.run != VACANT
        {
            if self.distance(self.home(entry.first), at) >= self.distance(hole, at) {
                self.write(hole, entry);
                hole = at;
            }
            at = self.after(at);
        }
        self.write(hole, VACANT_ENTRY);
        self.used -= 1;
        if self.used * 8 < self.entries.len() && self.entries.len() > SMALLEST {
            self.resize(self.entries.len() / 4);
        }
    }

    fn with_entries(count: usize) -> Self {
        let count = count.next_power_of_two().max(SMALLEST);
        Self { entries: vec![VACANT_ENTRY; count], used: 0, shift: u64::BITS - count.trailing_zeros() }
    }

    fn position(&self, first: u64) -> Option<usize> {
        let mut at = self.home(first);
        loop {
            let entry = self.entries.get(at)?;
            if entry.run == VACANT {
                return None;
            }
            if entry.first == first {
                return Some(at);
            }
            at = self.after(at);
        }
    }

    fn place(&mut self, entry: RootEntry) {
        let mut at = self.home(entry.first);
        while self.entries.get(at).is_some_and(|found| found.run != VACANT) {
            at = self.after(at);
        }
        self.write(at, entry);
    }

    fn write(&mut self, at: usize, entry: RootEntry) {
        if let Some(slot) = self.entries.get_mut(at) {
            *slot = entry;
        }
    }

    /// The entries are visited in the order of their high bits, so both tables are walked front to back.
    #[cold]
    fn resize(&mut self, count: usize) {
        let old = std::mem::replace(self, Self::with_entries(count));
        self.used = old.used;
        for entry in old.entries {
            if entry.run != VACANT {
                self.place(entry);
            }
        }
    }

    /// Fibonacci hashing: the high bits of the product depend on all bits of the key.
    #[inline]
    fn home(&self, first: u64) -> usize {
        (first.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.entries.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(operations in prop::collection::vec((any::<bool>(), 0..200u64), 0..600)) {
            let mut table = RootTable::new();
            let mut expected = HashMap::new();
            for (step, (add, key)) in (0..).zip(operations) {
                if !add {
                    table.remove(key);
                    expected.remove(&key);
                } else if let Entry::Vacant(vacant) = expected.entry(key) {
                    table.insert(RootEntry { first: key, run: step, ..VACANT_ENTRY });
                    vacant.insert(step);
                }
                prop_assert_eq!(table.len(), expected.len());
                for key in 0..200 {
                    prop_assert_eq!(table.get(key).map(|entry| entry.run), expected.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn shrinks_after_a_peak() {
        let mut table = RootTable::new();
        for key in 0..10_000 {
            table.insert(RootEntry { first: key, run: 1, ..VACANT_ENTRY });
        }
        let peak = table.heap_bytes();
        for key in 10..10_000 {
            table.remove(key);
        }
        assert!(table.heap_bytes() < peak / 100);
        assert!((0..10).all(|key| table.get(key).is_some()));
    }
}
