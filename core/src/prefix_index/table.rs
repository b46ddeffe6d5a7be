//! The root table: from the chained hash of a run's first block to the run.

use super::root::RootEntry;
use super::storage;

const SMALLEST: usize = 8;
/// Entries per segment on average; the most, just before a split, is about twice as many.
const PER_SEGMENT: usize = 1536;

/// Linear hashing: segments that split one after the other, so that no insertion stops for a table of millions to be rebuilt.
///
/// Each segment is a small table of its own with open addressing, linear probing and backward-shift deletion: no
/// tombstones, so churn leaves no trace. An insertion moves the entries of one segment, or of two, at most.
#[derive(Debug)]
pub(super) struct RootTable {
    segments: Vec<Segment>,
    /// The low bits of keys that tell the segments apart.
    mask: usize,
    used: usize,
    /// What the segments occupy outside of `segments`.
    segment_bytes: usize,
}

/// Entries, and a byte of the key of each: what is not in the table is mostly settled by these bytes, of which
/// the caches hold sixty times as many as of entries.
#[derive(Debug)]
#[repr(align(64))]
struct Segment {
    /// By slot, [`VACANT`] in an unused one; at most two thirds are in use, so every probe sequence ends.
    tags: Vec<u8>,
    entries: Vec<RootEntry>,
    used: usize,
}

const VACANT: u8 = 0;

impl RootTable {
    pub(super) fn new() -> Self {
        let segment = Segment::with_slots(SMALLEST);
        Self { segment_bytes: segment.heap_bytes(), segments: vec![segment], mask: 0, used: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.segment_bytes + storage::heap_bytes(&self.segments)
    }

    #[inline]
    pub(super) fn get(&self, first: u64) -> Option<&RootEntry> {
        let key = key(first);
        let id = key as usize & self.mask;
        let segment = self.segments.get(id).or_else(|| self.segments.get(id & (self.mask >> 1)))?;
        segment.entries.get(segment.slot(key, first)?)
    }

    pub(super) fn get_mut(&mut self, first: u64) -> Option<&mut RootEntry> {
        let key = key(first);
        let segment = self.segment_of(key);
        let segment = self.segments.get_mut(segment)?;
        let slot = segment.slot(key, first)?;
        segment.entries.get_mut(slot)
    }

    /// Adds an entry whose key is not in the table yet.
    pub(super) fn insert(&mut self, entry: RootEntry) {
        let key = key(entry.first);
        self.change(self.segment_of(key), |segment| {
            let slots = segment.tags.len();
            if (segment.used + 1) * 3 > slots * 2 {
                segment.resize(slots + slots / 2);
            }
            segment.place(key, entry);
        });
        self.used += 1;
        if self.used > self.segments.len() * PER_SEGMENT {
            self.split();
        }
    }

    /// Removes the entry of `first`, if it is there.
    pub(super) fn remove(&mut self, first: u64) {
        let key = key(first);
        let id = self.segment_of(key);
        let Some(slot) = self.segments.get(id).and_then(|segment| segment.slot(key, first)) else { return };
        self.change(id, |segment| {
            segment.remove(slot);
            if segment.used * 4 < segment.tags.len() {
                segment.resize(roomy(segment.used));
            }
        });
        self.used -= 1;
        if self.segments.len() > 1 && self.used < self.segments.len() * PER_SEGMENT / 2 {
            self.merge();
        }
    }

    /// The segment of a key: its low bits, without the highest of them where there is no such segment yet.
    #[inline]
    fn segment_of(&self, key: u64) -> usize {
        let id = key as usize & self.mask;
        if id < self.segments.len() { id } else { id & (self.mask >> 1) }
    }

    /// Changes a segment and keeps the sum of bytes true.
    fn change(&mut self, id: usize, change: impl FnOnce(&mut Segment)) {
        let Some(segment) = self.segments.get_mut(id) else { return };
        self.segment_bytes -= segment.heap_bytes();
        change(segment);
        self.segment_bytes += segment.heap_bytes();
    }

    /// Moves the keys of one segment that have one more bit to a new one.
    #[cold]
    fn split(&mut self) {
        let new = self.segments.len();
        storage::push(&mut self.segments, Segment::with_slots(0));
        let bit = 1 << new.ilog2();
        let old = new - bit;
        self.mask = 2 * bit - 1;
        let Some(segment) = self.segments.get_mut(old) else { return };
        self.segment_bytes -= segment.heap_bytes();
        let entries = std::mem::replace(segment, Segment::with_slots(0)).into_entries();
        let (moved, kept): (Vec<_>, Vec<_>) = entries.partition(|entry| key(entry.first) as usize & bit != 0);
        for (id, entries) in [(old, kept), (new, moved)] {
            let filled = Segment::filled(entries);
            self.segment_bytes += filled.heap_bytes();
            if let Some(segment) = self.segments.get_mut(id) {
                *segment = filled;
            }
        }
    }

    /// Undoes the last split.
    #[cold]
    fn merge(&mut self) {
        let Some(last) = self.segments.pop() else { return };
        storage::release(&mut self.segments);
        self.segment_bytes -= last.heap_bytes();
        let id = self.segments.len();
        let bit = 1 << id.ilog2();
        // The highest segment that is left is `id - 1`.
        self.mask = if id == bit { bit - 1 } else { 2 * bit - 1 };
        self.change(id - bit, |segment| {
            segment.resize(roomy(segment.used + last.used));
            last.into_entries().for_each(|entry| segment.place(key(entry.first), entry));
        });
    }
}

impl Segment {
    fn with_slots(slots: usize) -> Self {
        let entries = std::iter::repeat_with(RootEntry::default).take(slots).collect();
        Self { tags: vec![VACANT; slots], entries, used: 0 }
    }

    fn filled(entries: Vec<RootEntry>) -> Self {
        let mut segment = Self::with_slots(roomy(entries.len()));
        entries.into_iter().for_each(|entry| segment.place(key(entry.first), entry));
        segment
    }

    fn heap_bytes(&self) -> usize {
        storage::heap_bytes(&self.tags) + storage::heap_bytes(&self.entries)
    }

    fn into_entries(self) -> impl Iterator<Item = RootEntry> {
        self.entries.into_iter().zip(self.tags).filter(|(_, tag)| *tag != VACANT).map(|(entry, _)| entry)
    }

    #[inline]
    fn slot(&self, key: u64, first: u64) -> Option<usize> {
        let tag = tag(key);
        let mut at = self.home(key);
        loop {
            let found = *self.tags.get(at)?;
            if found == tag && self.entries.get(at)?.first == first {
                return Some(at);
            }
            if found == VACANT {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Puts an entry into the first vacant slot for it.
    fn place(&mut self, key: u64, entry: RootEntry) {
        let mut at = self.home(key);
        while self.tags.get(at).is_some_and(|&found| found != VACANT) {
            at = self.after(at);
        }
        if let (Some(slot), Some(place)) = (self.tags.get_mut(at), self.entries.get_mut(at)) {
            *slot = tag(key);
            *place = entry;
            self.used += 1;
        }
    }

    /// Vacates a slot, and moves those behind it up so that no probe sequence is interrupted.
    fn remove(&mut self, mut hole: usize) {
        let mut at = self.after(hole);
        while let (Some(&found), Some(entry)) = (self.tags.get(at), self.entries.get(at))
            && found != VACANT
        {
            if self.distance(self.home(key(entry.first)), at) >= self.distance(hole, at) {
                self.tags.swap(hole, at);
                self.entries.swap(hole, at);
                hole = at;
            }
            at = self.after(at);
        }
        if let (Some(slot), Some(entry)) = (self.tags.get_mut(hole), self.entries.get_mut(hole)) {
            *slot = VACANT;
            *entry = RootEntry::default();
            self.used -= 1;
        }
    }

    fn resize(&mut self, slots: usize) {
        if slots != self.tags.len() {
            let old = std::mem::replace(self, Self::with_slots(slots));
            old.into_entries().for_each(|entry| self.place(key(entry.first), entry));
        }
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        // The high half, scaled to the number of slots; the low bits are those of the segment.
        (((key >> 32) * self.tags.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.tags.len() { 0 } else { at + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.tags.len() - from }
    }
}

/// Slots for so many entries, half of them in use.
fn roomy(entries: usize) -> usize {
    (2 * entries).max(SMALLEST)
}

/// The byte of a key that is kept beside its entry, never [`VACANT`].
#[inline]
fn tag(key: u64) -> u8 {
    (key >> 24) as u8 | 1
}

/// Fibonacci hashing: the high bits of the product depend on all bits of the hash.
#[inline]
fn key(first: u64) -> u64 {
    first.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    use proptest::prelude::*;

    use super::*;

    fn entry(first: u64, run: u32) -> RootEntry {
        RootEntry::new(run, vec![first])
    }

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
                    table.insert(entry(key, step));
                    vacant.insert(step);
                }
                prop_assert_eq!(table.len(), expected.len());
                for key in 0..200 {
                    prop_assert_eq!(table.get(key).map(|entry| entry.run), expected.get(&key).copied());
                }
            }
        }
    }

    fn bytes_of_segments(table: &RootTable) -> usize {
        table.segments.iter().map(Segment::heap_bytes).sum()
    }

    #[test]
    fn splits_and_merges_keep_every_entry() {
        const COUNT: u32 = 10_000;
        let mut table = RootTable::new();
        let empty = table.heap_bytes();
        for run in 0..COUNT {
            table.insert(entry(run.into(), run));
            assert_eq!(table.segments.len(), (run as usize + 1).div_ceil(PER_SEGMENT));
        }
        assert_eq!(bytes_of_segments(&table), table.segment_bytes);
        assert!(table.heap_bytes() < COUNT as usize * 150, "{}", table.heap_bytes());
        assert!((0..COUNT).all(|run| table.get(run.into()).is_some_and(|entry| entry.run == run)));
        for run in 10..COUNT {
            table.remove(run.into());
            assert!(table.get(run.into()).is_none());
            assert!(run % 100 != 0 || (run + 1..COUNT).all(|run| table.get(run.into()).is_some()));
        }
        assert_eq!(bytes_of_segments(&table), table.segment_bytes);
        assert!((0..10).all(|key| table.get(key).is_some()));
        assert!(table.heap_bytes() < empty + 2_000, "{}", table.heap_bytes());
    }
}
