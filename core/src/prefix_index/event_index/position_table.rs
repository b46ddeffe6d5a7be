//! The table from an engine's block hash to where that block is, at 8 bytes per entry.

use super::super::storage;

/// An entry: the hash in the upper half, where its block is in the lower one.
const HASH_SHIFT: u32 = 32;
const VACANT: u64 = u64::MAX;

const SLOTS: usize = 8;
/// Hashes that are prepared for at once.
pub(super) const BATCH: usize = 128;
/// Buckets of the largest segments: what grows beyond splits, so no insertion moves more entries than they have.
const LARGEST: usize = 512;
/// Segments of this depth only grow: of the hash, too few bits are left to tell their buckets.
const DEEPEST: u32 = 20;

/// Extendible hashing: a directory of segments, each a small table of its own.
///
/// A segment is a row of buckets, each one cache line of entries. An entry is in the bucket where its hash belongs or,
/// as long as those on the way there are full, in one behind it. Segments grow by a quarter and split in two, so that no
/// insertion stops for a table of millions to be rebuilt and between 65 and 81 % of the memory is in use. Everything
/// follows from the hashes in the entries: nothing else is read. Equal hashes may be in the table several times.
#[derive(Debug)]
pub(super) struct PositionTable {
    /// Segment by the hash's first `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    segments: Vec<Segment>,
    /// What the segments occupy outside of `segments`.
    segment_bytes: usize,
}

#[derive(Debug)]
struct Segment {
    /// Leading bits that all hashes of the segment share.
    depth: u32,
    used: u32,
    buckets: Vec<Bucket>,
}

/// One cache line: entries, then vacant slots.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket([u64; SLOTS]);

const VACANT_BUCKET: Bucket = Bucket([VACANT; SLOTS]);

impl PositionTable {
    pub(super) fn new() -> Self {
        let segment = Segment::with_buckets(0, 1);
        let segment_bytes = storage::heap_bytes(&segment.buckets);
        Self { directory: vec![0], depth: 0, segments: vec![segment], segment_bytes }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.segment_bytes + storage::heap_bytes(&self.directory) + storage::heap_bytes(&self.segments)
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.used as usize).sum()
    }

    /// Brings what inserting or removing up to [`BATCH`] hashes will read into the cache, so that the cache misses overlap
    /// where one after the other would wait for memory each time.
    pub(super) fn prefetch(&self, hashes: impl Iterator<Item = u32>) {
        let Some(any) = self.segments.first() else { return };
        let mut places = [(any, 0); BATCH];
        let mut count = 0;
        for (place, hash) in places.iter_mut().zip(hashes) {
            let Some(segment) = self.segments.get(self.segment_of(hash) as usize) else { return };
            *place = (segment, segment.home(hash));
            segment.prefetch(place.1);
            count += 1;
        }
        // Then what comes after full buckets.
        while count > 0 {
            let mut full = 0;
            for at in 0..count {
                let Some(&(segment, bucket)) = places.get(at) else { return };
                if segment.buckets.get(bucket).is_some_and(Bucket::is_full)
                    && let Some(place) = places.get_mut(full)
                {
                    *place = (segment, segment.after(bucket));
                    segment.prefetch(place.1);
                    full += 1;
                }
            }
            count = full;
        }
    }

    /// What was inserted with this hash.
    #[inline]
    pub(super) fn candidates(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        let segment = self.segments.get(self.segment_of(hash) as usize);
        let mut at = segment.map_or(0, |segment| segment.home(hash));
        let bucket = segment.and_then(|segment| segment.buckets.get(at));
        let mut rest = bucket.map_or(0, |bucket| bucket.matches(hash));
        let mut bucket = bucket;
        std::iter::from_fn(move || {
            while rest == 0 {
                if !bucket?.is_full() {
                    return None;
                }
                let segment = segment?;
                at = segment.after(at);
                bucket = segment.buckets.get(at);
                rest = bucket?.matches(hash);
            }
            let slot = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            Some(*bucket?.0.get(slot)? as u32)
        })
    }

    /// Adds an entry.
    #[inline]
    pub(super) fn insert(&mut self, hash: u32, place: u32) {
        let mut id = self.segment_of(hash);
        while self.segments.get(id as usize).is_some_and(Segment::is_loaded) {
            self.grow(id);
            id = self.segment_of(hash);
        }
        if let Some(segment) = self.segments.get_mut(id as usize) {
            segment.place(pack(hash, place));
            segment.used += 1;
        }
    }

    /// Removes an entry if it is there.
    #[inline]
    pub(super) fn remove(&mut self, hash: u32, place: u32) {
        let id = self.segment_of(hash);
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        if segment.remove(pack(hash, place)) && segment.is_idle() {
            let buckets = roomy(segment.used as usize);
            self.resize(id, buckets);
        }
    }

    #[inline]
    fn segment_of(&self, hash: u32) -> u32 {
        let index = u64::from(hash) >> (u32::BITS - self.depth);
        self.directory.get(index as usize).copied().unwrap_or_default()
    }

    #[cold]
    fn grow(&mut self, id: u32) {
        let Some(segment) = self.segments.get(id as usize) else { return };
        let buckets = segment.buckets.len();
        let grown = buckets + buckets / 4 + 1;
        // Hashes are spread evenly: with one limit for all segments, all of them would split at the same time.
        let limit = LARGEST - (id.wrapping_mul(0x9e37_79b9) >> 16) as usize % (LARGEST / 2);
        if grown <= limit {
            return self.resize(id, grown);
        }
        // Hashes that are equal rather than many stay together in every split.
        let ones = segment.entries().filter(|&entry| segment.is_one(entry)).count();
        let (least, most) = (segment.used as usize / 8, segment.used as usize / 8 * 7);
        if segment.depth < DEEPEST && (least..most).contains(&ones) {
            self.split(id, ones);
        } else {
            self.resize(id, grown);
        }
    }

    #[cold]
    fn resize(&mut self, id: u32, buckets: usize) {
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        self.segment_bytes -= storage::heap_bytes(&segment.buckets);
        *segment = segment.rebuilt(segment.depth, buckets, |_| true);
        self.segment_bytes += storage::heap_bytes(&segment.buckets);
    }

    /// Moves the entries whose hash has a 1 behind the shared bits to a segment of their own.
    fn split(&mut self, id: u32, ones: usize) {
        let new_id = self.segments.len() as u32;
        let Some(segment) = self.segments.get_mut(id as usize) else { return };
        let Some(hash) = segment.entries().next().map(|entry| (entry >> HASH_SHIFT) as u32) else { return };
        let depth = segment.depth;
        let zeros = roomy(segment.used as usize - ones);
        let ones = segment.rebuilt(depth + 1, roomy(ones), |entry| segment.is_one(entry));
        let zeros = segment.rebuilt(depth + 1, zeros, |entry| !segment.is_one(entry));
        self.segment_bytes -= storage::heap_bytes(&segment.buckets);
        self.segment_bytes += storage::heap_bytes(&zeros.buckets) + storage::heap_bytes(&ones.buckets);
        *segment = zeros;
        storage::push(&mut self.segments, ones);
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&id| [id, id]).collect();
            self.depth += 1;
        }
        let spread = self.depth - depth;
        let start = ((u64::from(hash) >> (u32::BITS - depth)) as usize) << spread;
        let half = 1 << (spread - 1);
        if let Some(places) = self.directory.get_mut(start + half..start + 2 * half) {
            places.fill(new_id);
        }
    }
}

impl Segment {
    fn with_buckets(depth: u32, buckets: usize) -> Self {
        Self { depth, used: 0, buckets: vec![VACANT_BUCKET; buckets] }
    }

    /// A segment with those entries that are to be kept, for which there must be room.
    fn rebuilt(&self, depth: u32, buckets: usize, keep: impl Fn(u64) -> bool) -> Self {
        let mut segment = Self::with_buckets(depth, buckets);
        // Where the next entry of each bucket goes: cheaper than to look for it in the bucket.
        let mut used = vec![0_u8; buckets];
        for entry in self.entries().filter(|&entry| keep(entry)) {
            let mut at = segment.home((entry >> HASH_SHIFT) as u32);
            while used.get(at) == Some(&(SLOTS as u8)) {
                at = segment.after(at);
            }
            if let (Some(bucket), Some(used)) = (segment.buckets.get_mut(at), used.get_mut(at))
                && let Some(slot) = bucket.0.get_mut(usize::from(*used))
            {
                *slot = entry;
                *used += 1;
                segment.used += 1;
            }
        }
        segment
    }

    fn entries(&self) -> impl Iterator<Item = u64> + '_ {
        self.buckets.iter().flat_map(|bucket| bucket.0).filter(|&entry| entry != VACANT)
    }

    /// No further entry fits without many buckets being full.
    #[inline]
    fn is_loaded(&self) -> bool {
        self.used as usize >= self.buckets.len() * SLOTS * 13 / 16
    }

    /// Most of the memory is not in use.
    #[inline]
    fn is_idle(&self) -> bool {
        self.buckets.len() > 1 && (self.used as usize) < self.buckets.len() * SLOTS / 3
    }

    /// Whether the first bit behind the shared ones is a 1.
    fn is_one(&self, entry: u64) -> bool {
        entry << self.depth >> 63 == 1
    }

    /// Asks the processor to bring a bucket into its cache, without waiting for it.
    #[inline]
    fn prefetch(&self, at: usize) {
        let Some(bucket) = self.buckets.get(at) else { return };
        #[cfg(target_arch = "x86_64")]
        #[expect(
            unsafe_code,
            reason = "there is no safe prefetch; the benchmark `kv_events` shows what it buys beside reads, of which few are on their way at a time"
        )]
        // SAFETY: a prefetch has no effect that a program can observe, and SSE is part of every x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(bucket.0.as_ptr().cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::hint::black_box(bucket.0[SLOTS - 1]);
    }

    /// The bucket where a hash belongs: in the order of the bits behind the shared ones.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash << self.depth) * self.buckets.len() as u64) >> u32::BITS) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.buckets.len() - from }
    }

    #[inline]
    fn place(&mut self, entry: u64) {
        let mut at = self.home((entry >> HASH_SHIFT) as u32);
        while let Some(bucket) = self.buckets.get_mut(at) {
            let first_vacant = bucket.used();
            if let Some(slot) = bucket.0.get_mut(first_vacant) {
                *slot = entry;
                return;
            }
            at = self.after(at);
        }
    }

    #[inline]
    fn remove(&mut self, entry: u64) -> bool {
        let mut at = self.home((entry >> HASH_SHIFT) as u32);
        while let Some(bucket) = self.buckets.get_mut(at) {
            let was_full = bucket.is_full();
            if bucket.take(bucket.equals(entry)) {
                self.used -= 1;
                if was_full {
                    self.fill(at);
                }
                return true;
            }
            if !was_full {
                return false;
            }
            at = self.after(at);
        }
        false
    }

    /// Gives the one vacant slot of a bucket to an entry that had to go further, and so on from where that was.
    fn fill(&mut self, mut vacant: usize) {
        let mut at = self.after(vacant);
        while at != vacant
            && let Some(bucket) = self.buckets.get(at)
        {
            let was_full = bucket.is_full();
            let belongs = |&entry: &u64| {
                let home = self.home((entry >> HASH_SHIFT) as u32);
                entry != VACANT && self.distance(home, at) >= self.distance(vacant, at)
            };
            if let Some(entry) = bucket.0.iter().copied().find(belongs) {
                if let Some(Bucket(slots)) = self.buckets.get_mut(vacant) {
                    slots[SLOTS - 1] = entry;
                }
                if let Some(bucket) = self.buckets.get_mut(at) {
                    bucket.take(bucket.equals(entry));
                }
                vacant = at;
            }
            if !was_full {
                return;
            }
            at = self.after(at);
        }
    }
}

impl Bucket {
    #[inline]
    fn is_full(&self) -> bool {
        self.0[SLOTS - 1] != VACANT
    }

    /// Entries, which come before all vacant slots: three steps of a bisection and one for the last slot.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    fn used(&self) -> usize {
        let is_used = |slot: usize| usize::from(self.0[slot % SLOTS] != VACANT);
        let used = 4 * is_used(3);
        let used = used + 2 * is_used(used + 1);
        let used = used + is_used(used);
        used + is_used(used)
    }

    /// Bit `i` is set if entry `i` has this hash.
    #[inline]
    fn matches(&self, hash: u32) -> u32 {
        self.mask(|entry| (entry >> HASH_SHIFT) as u32 == hash)
    }

    #[inline]
    fn equals(&self, wanted: u64) -> u32 {
        self.mask(|entry| entry == wanted)
    }

    #[inline]
    fn mask(&self, is_wanted: impl Fn(u64) -> bool) -> u32 {
        (0..).zip(self.0).fold(0, |mask, (slot, entry)| mask | u32::from(is_wanted(entry)) << slot)
    }

    /// Removes the first entry of a set, if there is one; the last takes its slot.
    #[inline]
    fn take(&mut self, entries: u32) -> bool {
        let last = self.used().wrapping_sub(1);
        let moved = self.0.get(last).copied().unwrap_or(VACANT);
        let Some(slot) = self.0.get_mut(entries.trailing_zeros() as usize) else { return false };
        *slot = moved;
        if let Some(slot) = self.0.get_mut(last) {
            *slot = VACANT;
        }
        true
    }
}

/// Buckets for so many entries, not quite two thirds of the slots in use.
fn roomy(entries: usize) -> usize {
    entries / 5 + 1
}

#[inline]
fn pack(hash: u32, place: u32) -> u64 {
    u64::from(hash) << HASH_SHIFT | u64::from(place)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn contains(table: &PositionTable, hash: u32, place: u32) -> bool {
        table.candidates(hash).any(|found| found == place)
    }

    /// Few different hashes, so that some are in the table several times, and a good part of them side by side.
    fn hash_of(place: u32) -> u32 {
        let hash = (place % 700).wrapping_mul(0x9e37_79b9);
        if place.is_multiple_of(3) { hash >> 24 } else { hash }
    }

    fn check_buckets(table: &PositionTable) {
        for segment in &table.segments {
            assert_eq!(segment.entries().count(), segment.used as usize);
            for (at, bucket) in segment.buckets.iter().enumerate() {
                assert!(bucket.0[bucket.used()..].iter().all(|&slot| slot == VACANT));
                for &entry in &bucket.0[..bucket.used()] {
                    let mut on_the_way = segment.home((entry >> HASH_SHIFT) as u32);
                    while on_the_way != at {
                        assert!(segment.buckets[on_the_way].is_full());
                        on_the_way = segment.after(on_the_way);
                    }
                }
            }
        }
        let bytes: usize = table.segments.iter().map(|segment| storage::heap_bytes(&segment.buckets)).sum();
        assert_eq!(table.segment_bytes, bytes);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(operations in prop::collection::vec((0..5u8, 0..5_000u32), 0..3_000), mostly_adds: bool) {
            let mut table = PositionTable::new();
            let mut expected = BTreeSet::new();
            for (kind, place) in operations {
                if (kind == 0) == mostly_adds {
                    table.remove(hash_of(place), place);
                    expected.remove(&place);
                } else if expected.insert(place) {
                    table.insert(hash_of(place), place);
                }
            }
            prop_assert_eq!(table.len(), expected.len());
            check_buckets(&table);
            for place in 0..5_000 {
                prop_assert_eq!(contains(&table, hash_of(place), place), expected.contains(&place));
            }
            for place in expected {
                table.remove(hash_of(place), place);
            }
            check_buckets(&table);
            prop_assert_eq!(table.len(), 0);
        }
    }

    #[test]
    fn splits_keep_every_entry_and_stay_compact() {
        let hash_of = |place: u32| (u64::from(place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        let mut table = PositionTable::new();
        (0..200_000).for_each(|place| table.insert(hash_of(place), place));
        assert_eq!(table.len(), 200_000);
        assert!(table.heap_bytes() < 200_000 * 12, "{}", table.heap_bytes());
        check_buckets(&table);
        assert!((0..200_000).all(|place| contains(&table, hash_of(place), place)));
        (0..200_000).for_each(|place| table.remove(hash_of(place), place));
        assert_eq!(table.len(), 0);
        assert!(table.heap_bytes() < 50_000, "{}", table.heap_bytes());
    }

    #[test]
    fn equal_hashes_grow_one_segment() {
        let mut table = PositionTable::new();
        (0..6_000).for_each(|place| table.insert(7, place));
        assert_eq!((table.candidates(7).count(), table.segments.len()), (6_000, 1));
    }
}
