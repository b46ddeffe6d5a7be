//! Which blocks an endpoint used last: one intrusive list of segments per endpoint.

use super::storage::{self, Pool};

/// No segment.
pub(super) const NONE: u32 = u32::MAX;

/// Consecutive blocks of one run that an endpoint used last at the same time.
///
/// An endpoint's share of a run is a chain of segments, head first, each at most as recent as the one before.
/// The last segment of the chain is the one that ends where the share ends; its `deeper` is meaningless.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) run: u32,
    pub(super) endpoint: u32,
    /// First block within the run.
    pub(super) start: u32,
    /// One past the last block within the run.
    pub(super) end: u32,
    /// The next segment of the same endpoint and run.
    pub(super) deeper: u32,
    pub(super) newer: u32,
    pub(super) older: u32,
    /// What the owner of the lists notes of a segment.
    pub(super) mark: u32,
}

/// One endpoint's segments by recency, and how many blocks they may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) newest: u32,
    pub(super) oldest: u32,
    /// Blocks held.
    pub(super) blocks: usize,
    /// Blocks that may be held.
    pub(super) capacity: usize,
}

const EMPTY_LANE: Lane = Lane { newest: NONE, oldest: NONE, blocks: 0, capacity: 0 };

/// The segments of all endpoints, in one dense pool, and the list of each endpoint through it.
#[derive(Debug, Default)]
pub(super) struct Recency {
    segments: Pool<Segment>,
    lanes: Vec<Lane>,
}

impl Recency {
    /// Number of endpoint slots known.
    pub(super) fn slots(&self) -> usize {
        self.lanes.len()
    }

    /// Number of segments.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.segments.heap_bytes() + storage::heap_bytes(&self.lanes)
    }

    pub(super) fn lane(&self, endpoint: u32) -> Lane {
        self.lanes.get(endpoint as usize).copied().unwrap_or(EMPTY_LANE)
    }

    pub(super) fn set_capacity(&mut self, endpoint: u32, capacity: usize) {
        let slot = endpoint as usize;
        if slot >= self.lanes.len() {
            self.lanes.resize(slot + 1, EMPTY_LANE);
        }
        if let Some(lane) = self.lanes.get_mut(slot) {
            lane.capacity = capacity;
        }
    }

    /// The endpoint with the most blocks, unless no endpoint holds any.
    pub(super) fn largest(&self) -> Option<u32> {
        let (endpoint, lane) = (0..).zip(&self.lanes).max_by_key(|(_, lane)| lane.blocks)?;
        (lane.blocks > 0).then_some(endpoint)
    }

    pub(super) fn get(&self, id: u32) -> Option<Segment> {
        self.segments.get(id).copied()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Segment> {
        self.segments.get_mut(id)
    }

    /// Adds a segment as the endpoint's most recent; its blocks are counted by `count`.
    pub(super) fn push(&mut self, endpoint: u32, run: u32, end: u32, deeper: u32, mark: u32) -> u32 {
        let id = self.segments.len() as u32;
        let segment = Segment { run, endpoint, start: 0, end, deeper, newer: NONE, older: NONE, mark };
        self.segments.push(segment);
        self.link(id);
        id
    }

    /// Makes a segment its endpoint's most recent.
    pub(super) fn promote(&mut self, id: u32) {
        if self.get(id).is_some_and(|segment| segment.newer != NONE) {
            self.unlink(id);
            self.link(id);
        }
    }

    /// Removes a segment; true if the last segment of the pool, [`len`](Self::len), has taken its id.
    ///
    /// The caller mends the chain of the segment that moved.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        self.unlink(id);
        if !self.segments.remove(id) {
            return false;
        }
        let Some(moved) = self.get(id) else { return false };
        self.set_older(moved.endpoint, moved.newer, id);
        self.set_newer(moved.endpoint, moved.older, id);
        true
    }

    /// Gives one endpoint's list, and its capacity, to another one that has none.
    pub(super) fn move_lane(&mut self, from: u32, to: u32) {
        let lane = self.lane(from);
        self.set_capacity(from, 0);
        self.set_capacity(to, 0);
        for (endpoint, lane) in [(from, EMPTY_LANE), (to, lane)] {
            if let Some(place) = self.lanes.get_mut(endpoint as usize) {
                *place = lane;
            }
        }
        let mut at = lane.newest;
        while let Some(segment) = self.get_mut(at) {
            segment.endpoint = to;
            at = segment.older;
        }
    }

    /// Counts blocks that the endpoint has gained (positive) or lost.
    pub(super) fn count(&mut self, endpoint: u32, change: isize) {
        if let Some(lane) = self.lanes.get_mut(endpoint as usize) {
            lane.blocks = lane.blocks.saturating_add_signed(change);
        }
    }

    fn link(&mut self, id: u32) {
        let Some(segment) = self.segments.get_mut(id) else { return };
        let Some(lane) = self.lanes.get_mut(segment.endpoint as usize) else { return };
        let second = lane.newest;
        lane.newest = id;
        segment.newer = NONE;
        segment.older = second;
        let endpoint = segment.endpoint;
        self.set_newer(endpoint, second, id);
    }

    fn unlink(&mut self, id: u32) {
        let Some(segment) = self.get(id) else { return };
        self.set_older(segment.endpoint, segment.newer, segment.older);
        self.set_newer(segment.endpoint, segment.older, segment.newer);
    }

    /// Says what is older than `id`, which is the list's head if it is [`NONE`].
    fn set_older(&mut self, endpoint: u32, id: u32, older: u32) {
        if let Some(segment) = self.segments.get_mut(id) {
            segment.older = older;
        } else if let Some(lane) = self.lanes.get_mut(endpoint as usize) {
            lane.newest = older;
        }
    }

    /// Says what is newer than `id`, which is the list's end if it is [`NONE`].
    fn set_newer(&mut self, endpoint: u32, id: u32, newer: u32) {
        if let Some(segment) = self.segments.get_mut(id) {
            segment.newer = newer;
        } else if let Some(lane) = self.lanes.get_mut(endpoint as usize) {
            lane.oldest = newer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest_first(recency: &Recency, endpoint: u32) -> Vec<u32> {
        let mut runs = Vec::new();
        let mut id = recency.lane(endpoint).newest;
        while let Some(segment) = recency.get(id) {
            runs.push(segment.run);
            id = segment.older;
        }
        runs
    }

    #[test]
    fn keeps_order_while_segments_move() {
        let mut recency = Recency::default();
        recency.set_capacity(0, 10);
        recency.set_capacity(1, 10);
        let a = recency.push(0, 100, 1, NONE, 0);
        let b = recency.push(1, 200, 1, NONE, 0);
        let c = recency.push(0, 101, 1, NONE, 0);
        recency.push(0, 102, 1, NONE, 0);
        recency.promote(a);
        assert_eq!(newest_first(&recency, 0), [100, 102, 101]);
        assert!(recency.remove(b));
        assert_eq!(newest_first(&recency, 0), [100, 102, 101]);
        assert_eq!(newest_first(&recency, 1), [0_u32; 0]);
        assert!(!recency.remove(c), "the last of the vector leaves no gap");
        assert_eq!(newest_first(&recency, 0), [100, 102]);
        assert_eq!(recency.lane(0).oldest, b, "102 has moved to where 200 was");
    }
}
