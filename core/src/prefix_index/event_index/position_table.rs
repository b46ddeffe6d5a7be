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
/// if that was full, in one behind it. A byte of each bucket says how many entries are in it and how many went past it:
/// so what is not in its bucket is looked for no further than needed, nothing moves when an entry goes, and an insertion
/// writes a bucket without reading it. Segments grow by a quarter and split in two, so that no
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
    /// What is known of each bucket without reading it.
    counts: Vec<Count>,
}

/// One cache line: entries, then vacant slots.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket([u64; SLOTS]);

const VACANT_BUCKET: Bucket = Bucket([VACANT; SLOTS]);

/// Slots in use in the low half of the byte, entries that are in a bucket further on because this one was full in the
/// high one. Once that does not fit it stays at its highest value until the segment is rebuilt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(u8);

/// Where an entry belongs.
#[derive(Clone, Copy, Default)]
struct Home {
    segment: u32,
    bucket: u32,
    entry: u64,
}

impl PositionTable {
    pub(super) fn new() -> Self {
        let segment = Segment::with_buckets(0, 1);
        let segment_bytes = segment.heap_bytes();
        Self { directory: vec![0], depth: 0, segments: vec![segment], segment_bytes }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.segment_bytes + storage::heap_bytes(&self.directory) + storage::heap_bytes(&self.segments)
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.used as usize).sum()
    }

    /// What was inserted with this hash.
    #[inline]
    pub(super) fn candidates(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        let segment = self.segments.get(self.segment_of(hash) as usize);
        let mut at = segment.map_or(0, |segment| segment.home(hash));
        let mut bucket = segment.and_then(|segment| segment.buckets.get(at));
        let mut rest = bucket.map_or(0, |bucket| bucket.matches(hash));
        let mut left = segment.map_or(0, |segment| segment.buckets.len());
        std::iter::from_fn(move || {
            while rest == 0 {
                let segment = segment?;
                left = left.checked_sub(1)?;
                if !segment.counts.get(at)?.is_passed() {
                    return None;
                }
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
        self.insert_at(self.home(hash, place));
    }

    /// Adds up to [`BATCH`] entries, waiting for memory once for all of them rather than for each.
    pub(super) fn insert_all(&mut self, entries: impl ExactSizeIterator<Item = (u32, u32)>) {
        self.for_each_home(entries, Self::insert_at);
    }

    /// Removes an entry if it is there.
    #[inline]
    pub(super) fn remove(&mut self, hash: u32, place: u32) {
        self.remove_at(self.home(hash, place));
    }

    /// Removes up to [`BATCH`] entries, waiting for memory once for all of them rather than for each.
    pub(super) fn remove_all(&mut self, entries: impl ExactSizeIterator<Item = (u32, u32)>) {
        self.for_each_home(entries, Self::remove_at);
    }

    /// Finds where entries belong, asks for all that before the first of them is needed, and then deals with each.
    #[inline]
    fn for_each_home(
        &mut self,
        entries: impl ExactSizeIterator<Item = (u32, u32)>,
        mut act: impl FnMut(&mut Self, Home) -> bool,
    ) {
        let count = entries.len();
        let mut homes = [Home::default(); BATCH];
        for (place, (hash, position)) in homes.iter_mut().zip(entries) {
            *place = self.home(hash, position);
            if let Some(segment) = self.segments.get(place.segment as usize) {
                segment.prefetch(place.bucket as usize);
            }
        }
        let mut has_changed = false;
        for &(mut home) in homes.iter().take(count) {
            if has_changed {
                home = self.home((home.entry >> HASH_SHIFT) as u32, home.entry as u32);
            }
            has_changed |= act(self, home);
        }
    }

    #[inline]
    fn home(&self, hash: u32, place: u32) -> Home {
        let segment = self.segment_of(hash);
        let bucket = self.segments.get(segment as usize).map_or(0, |segment| segment.home(hash) as u32);
        Home { segment, bucket, entry: pack(hash, place) }
    }

    /// Adds an entry; true if others are elsewhere after that.
    #[inline]
    fn insert_at(&mut self, home: Home) -> bool {
        let Some(segment) = self.segments.get_mut(home.segment as usize) else { return false };
        if !segment.is_loaded() {
            segment.place(home);
            return false;
        }
        self.grow_for(home);
        true
    }

    #[cold]
    fn grow_for(&mut self, Home { mut segment, entry, .. }: Home) {
        let hash = (entry >> HASH_SHIFT) as u32;
        while self.segments.get(segment as usize).is_some_and(Segment::is_loaded) {
            self.grow(segment);
            segment = self.segment_of(hash);
        }
        let home = self.home(hash, entry as u32);
        if let Some(segment) = self.segments.get_mut(segment as usize) {
            segment.place(home);
        }
    }

    /// Removes an entry if it is there; true if others are elsewhere after that.
    #[inline]
    fn remove_at(&mut self, home: Home) -> bool {
        let Some(segment) = self.segments.get_mut(home.segment as usize) else { return false };
        segment.remove(home);
        let is_idle = segment.is_idle();
        if is_idle {
            let buckets = roomy(segment.used as usize);
            self.resize(home.segment, buckets);
        }
        is_idle
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
        self.segment_bytes -= segment.heap_bytes();
        *segment = segment.rebuilt(segment.depth, buckets, |_| true);
        self.segment_bytes += segment.heap_bytes();
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
        self.segment_bytes -= segment.heap_bytes();
        self.segment_bytes += zeros.heap_bytes() + ones.heap_bytes();
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
        let counts = vec![Count::default(); buckets];
        Self { depth, used: 0, buckets: vec![VACANT_BUCKET; buckets], counts }
    }

    fn heap_bytes(&self) -> usize {
        storage::heap_bytes(&self.buckets) + storage::heap_bytes(&self.counts)
    }

    /// A segment with those entries that are to be kept, for which there must be room.
    fn rebuilt(&self, depth: u32, buckets: usize, keep: impl Fn(u64) -> bool) -> Self {
        let mut segment = Self::with_buckets(depth, buckets);
        for entry in self.entries().filter(|&entry| keep(entry)) {
            let bucket = segment.home((entry >> HASH_SHIFT) as u32) as u32;
            segment.place(Home { segment: 0, bucket, entry });
        }
        segment
    }

    fn entries(&self) -> impl Iterator<Item = u64> + '_ {
        let buckets = self.buckets.iter().zip(&self.counts);
        buckets.flat_map(|(bucket, count)| bucket.0.iter().copied().take(count.used()))
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

    /// Puts an entry into the first bucket for it that is not full.
    #[inline]
    fn place(&mut self, Home { bucket, entry, .. }: Home) {
        let mut at = bucket as usize;
        while let (Some(bucket), Some(count)) = (self.buckets.get_mut(at), self.counts.get_mut(at)) {
            if let Some(slot) = bucket.0.get_mut(count.used()) {
                *slot = entry;
                count.0 += 1;
                self.used += 1;
                return;
            }
            count.pass();
            at = self.after(at);
        }
    }

    /// Removes an entry if it is there.
    #[inline]
    fn remove(&mut self, Home { bucket, entry, .. }: Home) {
        let home = bucket as usize;
        let mut at = home;
        for _ in 0..self.buckets.len() {
            let (Some(bucket), Some(count)) = (self.buckets.get_mut(at), self.counts.get_mut(at)) else {
                return;
            };
            if bucket.take(entry, count.used()) {
                count.0 -= 1;
                self.used -= 1;
                return self.unpass(home, at);
            }
            if !count.is_passed() {
                return;
            }
            at = self.after(at);
        }
    }

    /// Takes note that an entry which went past some buckets is gone.
    #[inline]
    fn unpass(&mut self, mut at: usize, end: usize) {
        while at != end
            && let Some(count) = self.counts.get_mut(at)
        {
            count.unpass();
            at = self.after(at);
        }
    }
}

impl Count {
    const PASSED: u8 = 1 << 4;

    #[inline]
    fn used(self) -> usize {
        usize::from(self.0 % Self::PASSED)
    }

    #[inline]
    fn is_passed(self) -> bool {
        self.0 >= Self::PASSED
    }

    #[inline]
    fn pass(&mut self) {
        self.0 = self.0.checked_add(Self::PASSED).unwrap_or(self.0);
    }

    #[inline]
    fn unpass(&mut self) {
        if self.0 / Self::PASSED < u8::MAX / Self::PASSED {
            self.0 -= Self::PASSED;
        }
    }
}

impl Bucket {
    /// Bit `i` is set if entry `i` has this hash.
    #[inline]
    fn matches(&self, hash: u32) -> u32 {
        self.mask(|entry| (entry >> HASH_SHIFT) as u32 == hash)
    }

    #[inline]
    fn mask(&self, is_wanted: impl Fn(u64) -> bool) -> u32 {
        (0..).zip(self.0).fold(0, |mask, (slot, entry)| mask | u32::from(is_wanted(entry)) << slot)
    }

    /// Removes an entry if it is there; the last of the `used` ones takes its slot.
    #[inline]
    fn take(&mut self, wanted: u64, used: usize) -> bool {
        let found = self.mask(|entry| entry == wanted).trailing_zeros() as usize;
        let last = used.wrapping_sub(1);
        let moved = self.0.get(last).copied().unwrap_or(VACANT);
        let Some(slot) = self.0.get_mut(found) else { return false };
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
            let mut passed = vec![0; segment.buckets.len()];
            for (at, (bucket, count)) in segment.buckets.iter().zip(&segment.counts).enumerate() {
                assert!(bucket.0[count.used()..].iter().all(|&slot| slot == VACANT));
                for &entry in &bucket.0[..count.used()] {
                    let mut on_the_way = segment.home((entry >> HASH_SHIFT) as u32);
                    while on_the_way != at {
                        passed[on_the_way] += 1;
                        on_the_way = segment.after(on_the_way);
                    }
                }
            }
            for (count, passed) in segment.counts.iter().zip(passed) {
                let counted = usize::from(count.0 / Count::PASSED);
                assert!(
                    counted == passed || counted == 15,
                    "{passed} went past a bucket, counted: {counted}"
                );
            }
        }
        let bytes: usize = table.segments.iter().map(Segment::heap_bytes).sum();
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
