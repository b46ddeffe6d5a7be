//! In which order the endpoints were last given a cold request.

/// Per slot, how many endpoints have waited longer; those that were never given a cold request share rank 0.
///
/// Ranks are kept rather than computed, so that a pick reads them without sorting.
#[derive(Debug, Default)]
pub(crate) struct ColdOrder {
    slots: Vec<Slot>,
    /// Slots in use.
    endpoints: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    rank: u32,
    /// Whether the endpoint was ever given a cold request; false for a free slot.
    was_given: bool,
}

impl ColdOrder {
    pub(crate) fn rank(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |slot| slot.rank)
    }

    /// A new endpoint has waited longest, together with the others that were never given a cold request.
    pub(crate) fn add(&mut self, slot: u32) {
        let needed = self.slots.len().max(slot as usize + 1);
        self.slots.resize(needed, Slot::default());
        self.endpoints += 1;
        self.slots.iter_mut().filter(|slot| slot.was_given).for_each(|slot| slot.rank += 1);
    }

    /// Frees a slot.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.close_gap(self.rank(slot));
        self.endpoints = self.endpoints.saturating_sub(1);
        self.set(slot, Slot::default());
    }

    /// The endpoint was given a cold request just now.
    pub(crate) fn give(&mut self, slot: u32) {
        self.close_gap(self.rank(slot));
        self.set(slot, Slot { rank: self.endpoints.saturating_sub(1), was_given: true });
    }

    fn close_gap(&mut self, rank: u32) {
        for slot in &mut self.slots {
            slot.rank -= u32::from(slot.rank > rank);
        }
    }

    fn set(&mut self, slot: u32, new: Slot) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranks_are_those_of_sorting(steps in prop::collection::vec((0u32..3, 0u32..8), 0..200)) {
            let mut order = ColdOrder::default();
            let mut last_given = [None; 8];
            for (now, (step, slot)) in (1u64..).zip(steps) {
                let place = &mut last_given[slot as usize];
                match (step, place.is_some()) {
                    (0, false) => (order.add(slot), *place = Some(0)).0,
                    (1, true) => (order.remove(slot), *place = None).0,
                    (2, true) => (order.give(slot), *place = Some(now)).0,
                    _ => {}
                }
                for (slot, given) in (0u32..).zip(last_given) {
                    let Some(given) = given else { continue };
                    let longer = last_given.iter().flatten().filter(|other| **other < given).count();
                    prop_assert_eq!(order.rank(slot) as usize, longer);
                }
            }
        }
    }
}
