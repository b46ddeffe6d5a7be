//! What a pick writes that nobody else reads.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::endpoint::rows::Rows;
use crate::profile::Workspace;

/// How many threads find scratch memory of their own; more have to share.
const SETS: usize = 16;

/// Hashes of a prompt for which memory is kept between picks.
const KEPT_HASHES: usize = 1 << 14;

/// The memory that a pick works in, kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Of the prompt, one per block.
    pub(super) hashes: Vec<u64>,
    /// By slot.
    pub(super) matched_blocks: Vec<u32>,
    pub(super) rows: Rows,
    pub(super) workspace: Workspace,
}

impl Scratch {
    /// Gives back what only an unusually long prompt needs.
    pub(super) fn tidy(&mut self) {
        if self.hashes.capacity() > KEPT_HASHES {
            self.hashes = Vec::new();
        }
    }
}

/// A set of scratch memory per thread, so that what every pick writes stays in the cache of one core.
#[derive(Default)]
pub(super) struct ScratchSets {
    sets: [CacheLines; SETS],
}

/// Apart from what other threads write; a core fetches two lines of 64 bytes at a time.
#[derive(Default)]
#[repr(align(128))]
struct CacheLines(Mutex<Scratch>);

impl ScratchSets {
    /// The calling thread's set, or another one that is free; waits only if all are in use.
    pub(super) fn take(&self) -> MutexGuard<'_, Scratch> {
        let number = thread_number() % SETS;
        let (before, from) = self.sets.split_at(number);
        let free = from.iter().chain(before).find_map(|set| set.0.try_lock());
        #[expect(clippy::indexing_slicing, reason = "`number` is below `SETS`")]
        free.unwrap_or_else(|| self.sets[number].0.lock())
    }
}

/// A small number that the calling thread keeps.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    OWN.with(|&number| number)
}
