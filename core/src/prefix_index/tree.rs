//! The tree of prefixes: its runs, the root table that finds them, and the look-up.

use super::holders::{self, Holder};
use super::run::Run;
use super::storage;
use super::table::{RootEntry, RootHolders, RootTable};

/// Runs by id, and what has to stay true about them whoever forgets what and why.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) roots: RootTable,
    pub(super) runs: Vec<Run>,
    /// What the runs and their holders occupy outside `runs`.
    pub(super) run_bytes: usize,
    pub(super) unique_blocks: usize,
    pub(super) holdings: usize,
}

/// The part of a path that runs along one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathStep {
    pub(super) run: u32,
    /// Leading blocks of the run that are on the path.
    pub(super) common: u32,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { roots: RootTable::new(), runs: Vec::new(), run_bytes: 0, unique_blocks: 0, holdings: 0 }
    }

    /// An empty tree with room for so many runs.
    pub(super) fn with_runs(count: usize) -> Self {
        Self { roots: RootTable::with_room(count), runs: Vec::with_capacity(count), ..Self::new() }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.run_bytes + self.roots.heap_bytes() + storage::heap_bytes(&self.runs)
    }

    #[inline]
    pub(super) fn run(&self, id: u32) -> Option<&Run> {
        self.runs.get(id as usize)
    }

    pub(super) fn holder(&self, run: u32, endpoint: u32) -> Option<Holder> {
        self.run(run)?.holders.get(endpoint)
    }
}

/// Finding.
impl Tree {
    /// Writes to `matched[endpoint]` how many leading blocks of the path each endpoint holds.
    pub(super) fn find(&self, hashes: &[u64], matched: &mut [u32]) {
        matched.fill(0);
        let mut walk = self.walk(hashes);
        let mut current = walk.next();
        while let Some(found) = current {
            let deeper = walk.next();
            self.record(found, deeper, matched);
            current = deeper;
        }
    }

    pub(super) fn walk<'a>(&'a self, path: &'a [u64]) -> Walk<'a> {
        Walk { tree: self, path, start: 0 }
    }

    #[inline]
    fn record(&self, found: Found<'_>, deeper: Option<Found<'_>>, matched: &mut [u32]) {
        let Found { root, start, common } = found;
        match root.holders() {
            RootHolders::One { endpoint, held } => {
                if let Some(slot) = matched.get_mut(endpoint as usize) {
                    *slot = start + held.min(common);
                }
            }
            RootHolders::All(endpoints) => holders::record_all(endpoints, start + common, matched),
            RootHolders::InRun => {
                let Some(run) = self.run(root.run) else { return };
                let deeper = deeper.filter(|deeper| deeper.root.holders() == RootHolders::InRun);
                let deeper = deeper.and_then(|deeper| self.run(deeper.root.run));
                run.holders.record(start, common, deeper.map(|run| &run.holders), matched);
            }
        }
    }
}

/// The runs along a path, head first.
pub(super) struct Walk<'a> {
    tree: &'a Tree,
    /// What is left of the path.
    path: &'a [u64],
    /// Blocks before it.
    start: u32,
}

/// A run on a path.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) root: &'a RootEntry,
    /// Blocks of the path before the run.
    pub(super) start: u32,
    /// Leading blocks of the run that are on the path, at least 1.
    pub(super) common: u32,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Found<'a>;

    #[inline]
    fn next(&mut self) -> Option<Found<'a>> {
        let root = self.tree.roots.get(*self.path.first()?)?;
        let length = root.length();
        let common = if self.path.get(length as usize - 1) == Some(&root.last) {
            length
        } else {
            self.tree.run(root.run)?.common_prefix(self.path)
        };
        let found = Found { root, start: self.start, common };
        self.start += common;
        self.path = self.path.get(common as usize..)?;
        Some(found)
    }
}

/// Changing.
impl Tree {
    /// Lengthens a run by blocks that no run holds yet. The caller makes them held.
    pub(super) fn extend(&mut self, id: u32, hashes: &[u64]) {
        let Some(run) = self.runs.get_mut(id as usize) else { return };
        self.run_bytes -= run.heap_bytes();
        run.extend(hashes);
        self.run_bytes += run.heap_bytes();
        self.unique_blocks += hashes.len();
    }

    /// Adds a run whose first block is in no run yet. The caller makes it held.
    pub(super) fn add_run(&mut self, hashes: &[u64]) -> u32 {
        self.add_run_of(hashes.to_vec())
    }

    /// The same with hashes that are the run's own already.
    pub(super) fn add_run_of(&mut self, hashes: Vec<u64>) -> u32 {
        let id = self.runs.len() as u32;
        self.roots.insert(RootEntry::new(id, &hashes, RootHolders::InRun));
        self.unique_blocks += hashes.len();
        let run = Run::new(hashes);
        self.run_bytes += run.heap_bytes();
        storage::push(&mut self.runs, run);
        id
    }

    pub(super) fn set_holder(&mut self, run: u32, holder: Holder, slots: usize) {
        self.change_holders(run, |run| run.holders.set(holder, slots));
    }

    /// Puts a share in the place of another endpoint's.
    pub(super) fn replace_holder(&mut self, run: u32, endpoint: u32, holder: Holder, slots: usize) {
        self.change_holders(run, |run| {
            run.holders.remove(endpoint);
            run.holders.set(holder, slots);
        });
    }

    /// Shortens a share, to nothing if `length` is 0, and the run to its longest share.
    pub(super) fn shorten_share(&mut self, run: u32, endpoint: u32, length: u32, slots: usize) {
        let Some(holder) = self.holder(run, endpoint) else { return };
        self.holdings -= usize::from(length == 0);
        let mut idle = 0;
        self.change_holders(run, |run| {
            if length == 0 {
                run.holders.remove(endpoint);
            } else {
                run.holders.set(Holder { length, ..holder }, slots);
            }
            if holder.length == run.length() {
                let longest = run.holders.longest();
                idle = run.length() - longest;
                if longest > 0 {
                    run.truncate(longest);
                }
            }
        });
        self.unique_blocks -= idle as usize;
    }

    /// Removes a run that nobody holds; the last run, if it is another one, takes its id.
    pub(super) fn remove_run(&mut self, id: u32) -> Option<&Run> {
        let run = self.run(id)?;
        let (first, bytes) = (run.first(), run.heap_bytes());
        self.roots.remove(first);
        self.run_bytes -= bytes;
        if !storage::remove(&mut self.runs, id) {
            return None;
        }
        let moved = self.runs.get(id as usize)?;
        if let Some(root) = self.roots.get_mut(moved.first()) {
            root.run = id;
        }
        Some(moved)
    }

    /// Changes a run and keeps the sum of bytes and the run's root entry true.
    fn change_holders(&mut self, id: u32, change: impl FnOnce(&mut Run)) {
        let Some(run) = self.runs.get_mut(id as usize) else { return };
        self.run_bytes -= run.heap_bytes();
        change(run);
        self.run_bytes += run.heap_bytes();
        if let Some(root) = self.roots.get_mut(run.first()) {
            root.update(&run.hashes, run.root_holders());
        }
    }
}
