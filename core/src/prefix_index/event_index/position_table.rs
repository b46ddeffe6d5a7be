//! The table from an engine's block hash to where that block is, at 8 bytes per entry.

use super::super::storage;

/// One entry: 16 bits of the key, 26 bits of column, 22 bits of position within it. The key itself is where the entry
/// points to, so whoever looks up compares there.
const TAG_SHIFT: u32 = 48;
const POSITION_BITS: u32 = 22;
/// Most columns that entries can name; the last one would look like [`VACANT`].
pub(super) const MAX_COLUMNS: u32 = (1 << 26) - 1;
/// Most positions of a column that entries can name.
pub(super) const MAX_POSITIONS: usize = 1 << POSITION_BITS;
const VACANT: u64 = u64::MAX;

const SMALLEST: usize = 16;
/// A segment that is full at this size splits, so no insertion moves more entries than that.
const LARGEST: usize = 4096;
/// Deeper segments only grow: their keys are equal rather than many.
const DEEPEST: u32 = 30;

/// Extendible hashing: a directory of segments, each a small table of its own with linear probing.
///
/// Segments grow by a quarter and split in two, so that no insertion stops for a table of millions to be rebuilt and
/// between 64 and 80 % of the memory is in use. Within a segment an entry's place follows from its 16 bits alone: growing
/// reads no keys. Equal keys may be in the table several times.
#[derive(Debug)]
pub(super) struct PositionTable {
    /// Segment by the key's first `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    segments: Vec<Segment>,
    /// What the segments occupy outside of `segments`.
    segment_bytes: usize,
}

#[derive(Debug)]
struct Segment {
    /// Leading bits that all keys of the segment share.
    depth: u32,
    used: u32,
    slots: Vec<u64>,
}

impl PositionTable {
    pub(super) fn new() -> Self {
        let segment = Segment::with_slots(0, SMALLEST);
        let segment_bytes = storage::heap_bytes(&segment.slots);
        Self { directory: vec![0], depth: 0, segments: vec![segment], segment_bytes }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.segment_bytes + storage::heap_bytes(&self.directory) + storage::heap_bytes(&self.segments)
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.used as usize).sum()
    }

    /// Reads where the entry of a key belongs; done for many keys first, their cache misses overlap.
    #[inline]
    pub(super) fn touch(&self, key: u64) -> u64 {
        let segment = self.segments.get(self.segment_of(key) as usize);
        segment.and_then(|segment| segment.slots.get(segment.home(tag(key)))).copied().unwrap_or_default()
    }

    /// Every (column, position) whose entry may have this key.
    #[inline]
    pub(super) fn candidates(&self, key: u64) -> impl Iterator<Item = (u32, u32)> + '_ {
        let segment = self.segments.get(self.segment_of(key) as usize);
        let tag = tag(key);
        let mut at = segment.map_or(0, |segment| segment.home(tag));
        std::iter::from_fn(move || {
            let segment = segment?;
            loop {
                let entry = *segment.slots.get(at)?;
                if entry == VACANT {
                    return None;
                }
                at = segment.after(at);
                if entry >> TAG_SHIFT == tag {
                    return Some(unpack(entry));
                }
            }
        })
    }

    /// Adds an entry; `key_of` reads the key of one that is in the table.
    pub(super) fn insert(&mut self, key: u64, column: u32, position: u32, key_of: impl Fn(u32, u32) -> u64) {
        loop {
            let id = self.segment_of(key);
            let Some(segment) = self.segments.get_mut(id as usize) else { return };
            let slots = segment.slots.len();
            if (segment.used as usize + 1) * 5 <= slots * 4 {
                segment.place(pack(tag(key), column, position));
                segment.used += 1;
                return;
            }
            if slots < LARGEST || segment.depth >= DEEPEST {
                let grown = slots + slots / 4 + 4;
                let most = if segment.depth >= DEEPEST { grown } else { LARGEST };
                self.resize(id, grown.min(most));
            } else {
                self.split(id, key, &key_of);
            }
        }
    }

    /// Removes an entry if it is there, and moves those behind it up so that no probe sequence is interrupted.
    pub(super) fn remove(&mut self, key: u64, column: u32, position: u32) {
        let id = self.segment_of(key);
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        if !segment.remove(pack(tag(key), column, position)) {
            return;
        }
        let (used, slots) = (segment.used as usize, segment.slots.len());
        if slots > SMALLEST && used * 3 < slots {
            self.resize(id, roomy(used));
        }
    }

    #[inline]
    fn segment_of(&self, key: u64) -> u32 {
        // Two shifts, because one by 64 is none.
        let index = (key >> 1) >> (63 - self.depth);
        self.directory.get(index as usize).copied().unwrap_or_default()
    }

    #[cold]
    fn resize(&mut self, id: u32, slots: usize) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        self.segment_bytes -= storage::heap_bytes(&segment.slots);
        let old = std::mem::replace(&mut segment.slots, vec![VACANT; slots]);
        old.into_iter().filter(|&entry| entry != VACANT).for_each(|entry| segment.place(entry));
        self.segment_bytes += storage::heap_bytes(&segment.slots);
    }

    /// Moves the entries whose key has a 1 behind the shared bits to a segment of their own.
    #[cold]
    fn split(&mut self, id: u32, key: u64, key_of: &impl Fn(u32, u32) -> u64) {
        let new_id = self.segments.len() as u32;
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        let depth = segment.depth;
        self.segment_bytes -= storage::heap_bytes(&segment.slots);
        let entries = std::mem::take(&mut segment.slots).into_iter().filter(|&entry| entry != VACANT);
        let (ones, zeros): (Vec<u64>, Vec<u64>) = entries.partition(|&entry| {
            let (column, position) = unpack(entry);
            key_of(column, position) << depth >> 63 == 1
        });
        *segment = Segment::filled(depth + 1, &zeros);
        let sibling = Segment::filled(depth + 1, &ones);
        self.segment_bytes += storage::heap_bytes(&segment.slots) + storage::heap_bytes(&sibling.slots);
        storage::push(&mut self.segments, sibling);
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&id| [id, id]).collect();
            self.depth += 1;
        }
        let spread = self.depth - depth;
        let start = (((key >> 1) >> (63 - depth)) as usize) << spread;
        let half = 1 << (spread - 1);
        if let Some(places) = self.directory.get_mut(start + half..start + 2 * half) {
            places.fill(new_id);
        }
    }
}

impl Segment {
    fn with_slots(depth: u32, slots: usize) -> Self {
        Self { depth, used: 0, slots: vec![VACANT; slots] }
    }

    fn filled(depth: u32, entries: &[u64]) -> Self {
        let mut segment = Self::with_slots(depth, roomy(entries.len()));
        segment.used = entries.len() as u32;
        entries.iter().for_each(|&entry| segment.place(entry));
        segment
    }

    #[inline]
    fn home(&self, tag: u64) -> usize {
        (tag as usize * self.slots.len()) >> 16
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }

    fn place(&mut self, entry: u64) {
        let mut at = self.home(entry >> TAG_SHIFT);
        while self.slots.get(at).is_some_and(|&found| found != VACANT) {
            at = self.after(at);
        }
        self.write(at, entry);
    }

    fn write(&mut self, at: usize, entry: u64) {
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = entry;
        }
    }

    fn remove(&mut self, entry: u64) -> bool {
        let mut hole = self.home(entry >> TAG_SHIFT);
        loop {
            match self.slots.get(hole) {
                Some(&found) if found == entry => break,
                Some(&found) if found != VACANT => hole = self.after(hole),
                _ => return false,
            }
        }
        let mut at = self.after(hole);
        while let Some(&moved) = self.slots.get(at)
            && moved != VACANT
        {
            if self.distance(self.home(moved >> TAG_SHIFT), at) >= self.distance(hole, at) {
                self.write(hole, moved);
                hole = at;
            }
            at = self.after(at);
        }
        self.write(hole, VACANT);
        self.used -= 1;
        true
    }
}

/// Slots for so many entries, three quarters of them in use.
fn roomy(entries: usize) -> usize {
    (entries * 4 / 3 + 4).max(SMALLEST)
}

fn tag(key: u64) -> u64 {
    key & 0xffff
}

fn pack(tag: u64, column: u32, position: u32) -> u64 {
    tag << TAG_SHIFT | u64::from(column) << POSITION_BITS | u64::from(position)
}

fn unpack(entry: u64) -> (u32, u32) {
    let position = entry & (MAX_POSITIONS as u64 - 1);
    ((entry >> POSITION_BITS) as u32 & MAX_COLUMNS, position as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key_of(column: u32, position: u32) -> u64 {
        // Few different keys, so that some are in the table several times.
        u64::from(column % 300 * 8 + position % 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
    }

    fn contains(table: &PositionTable, column: u32, position: u32) -> bool {
        table.candidates(key_of(column, position)).any(|found| found == (column, position))
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(operations in prop::collection::vec((0..5u8, 0..600u32, 0..8u32), 0..3_000)) {
            let mut table = PositionTable::new();
            let mut expected = BTreeSet::new();
            for (kind, column, position) in operations {
                if kind == 0 {
                    table.remove(key_of(column, position), column, position);
                    expected.remove(&(column, position));
                } else if expected.insert((column, position)) {
                    table.insert(key_of(column, position), column, position, key_of);
                }
            }
            prop_assert_eq!(table.len(), expected.len());
            for column in 0..600 {
                for position in 0..8 {
                    prop_assert_eq!(contains(&table, column, position), expected.contains(&(column, position)));
                }
            }
        }
    }

    #[test]
    fn splits_keep_every_entry_and_stay_compact() {
        let key_of = |column: u32, position: u32| {
            (u64::from(column) << 22 | u64::from(position)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        let mut table = PositionTable::new();
        let all = || (0..1_000_u32).flat_map(|column| (0..200_u32).map(move |position| (column, position)));
        for (column, position) in all() {
            table.insert(key_of(column, position), column, position, key_of);
        }
        assert_eq!(table.len(), 200_000);
        assert!(table.heap_bytes() < 200_000 * 13, "{}", table.heap_bytes());
        for (column, position) in all() {
            let mut found = table.candidates(key_of(column, position));
            assert!(found.any(|found| found == (column, position)));
        }
        for (column, position) in all() {
            table.remove(key_of(column, position), column, position);
        }
        assert_eq!(table.len(), 0);
        assert!(table.heap_bytes() < 50_000, "{}", table.heap_bytes());
    }

    #[test]
    fn equal_keys_do_not_split_for_ever() {
        let mut table = PositionTable::new();
        (0..6_000).for_each(|column| table.insert(7, column, 0, |_, _| 7));
        assert_eq!(table.candidates(7).count(), 6_000);
    }
}
