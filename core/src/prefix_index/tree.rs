//! The tree of prefixes: its runs, the root table that finds them, and the look-up.

use super::holders::{self, Holder, Holders};
use super::root::{RootEntry, RootHolders};
use super::run::Run;
use super::storage::Pool;
use super::table::RootTable;

/// Runs by id, and what has to stay true about them whoever forgets what and why.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) roots: RootTable,
    pub(super) runs: Pool<Run>,
    /// What hashes and holders of the runs occupy outside of `roots` and `runs`.
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
        Self { roots: RootTable::new(), runs: Pool::default(), run_bytes: 0, unique_blocks: 0, holdings: 0 }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.run_bytes + self.roots.heap_bytes() + self.runs.heap_bytes()
    }

    #[inline]
    pub(super) fn run(&self, id: u32) -> Option<&Run> {
        self.runs.get(id)
    }

    /// The root entry of a run.
    #[inline]
    pub(super) fn root(&self, id: u32) -> Option<&RootEntry> {
        self.roots.get(self.run(id)?.first())
    }

    /// Blocks in a run.
    pub(super) fn length(&self, id: u32) -> Option<u32> {
        self.root(id).map(RootEntry::length)
    }

    pub(super) fn holder(&self, run: u32, endpoint: u32) -> Option<Holder> {
        self.run(run)?.holders.get(endpoint)
    }
}

/// Finding.
impl Tree {
    /// Writes to `matched[endpoint]` how many leading blocks of the path each endpoint holds.
    pub(super) fn find(&self, hashes: &[u64], matched: &mut [u32]) {
        let mut walk = self.walk(hashes);
        let mut above = None;
        loop {
            let next = walk.next().map(|found| (found, self.listed_holders(found.root)));
            if let Some((found, holders)) = above {
                let deeper = next.and_then(|(_, holders)| holders);
                record(found, holders, deeper, matched);
            } else if next.is_none() {
                holders::fill_all(0, 0, matched);
            }
            if next.is_none() {
                return;
            }
            above = next;
        }
    }

    pub(super) fn walk<'a>(&'a self, path: &'a [u64]) -> Walk<'a> {
        Walk { tree: self, path, start: 0 }
    }

    /// The holders of a run whose root entry does not have them all.
    #[inline]
    fn listed_holders(&self, root: &RootEntry) -> Option<&Holders> {
        match root.holders() {
            RootHolders::InRun => Some(&self.run(root.run)?.holders),
            RootHolders::One { .. } | RootHolders::All(_) => None,
        }
    }
}

/// Writes the match of the holders of one run on the path, and of the first run's 0 for all others.
#[inline]
fn record(found: Found<'_>, holders: Option<&Holders>, deeper: Option<&Holders>, matched: &mut [u32]) {
    let Found { root, start, common } = found;
    match (root.holders(), start) {
        (RootHolders::One { endpoint, held }, 0) => holders::fill_one(endpoint, held.min(common), matched),
        (RootHolders::All(endpoints), 0) => holders::fill_all(endpoints, common, matched),
        (RootHolders::One { endpoint, held }, _) => {
            if let Some(slot) = matched.get_mut(endpoint as usize) {
                *slot = start + held.min(common);
            }
        }
        (RootHolders::All(endpoints), _) => holders::record_all(endpoints, start + common, matched),
        (RootHolders::InRun, _) => {
            if let Some(holders) = holders {
                holders.record(start, common, deeper, matched);
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

    // A call would hand over its answer in memory, from where it is read once the hashes have arrived.
    #[inline(always)]
    fn next(&mut self) -> Option<Found<'a>> {
        let root = self.tree.roots.get(*self.path.first()?)?;
        let common = root.common_prefix(self.path);
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
        let Some(root) = self.runs.get(id).and_then(|run| self.roots.get_mut(run.first())) else { return };
        self.run_bytes -= root.heap_bytes();
        root.extend(hashes);
        self.run_bytes += root.heap_bytes();
        self.unique_blocks += hashes.len();
    }

    /// Adds a run whose first block is in no run yet. The caller makes it held.
    pub(super) fn add_run(&mut self, hashes: &[u64]) -> u32 {
        self.add_run_of(hashes.to_vec())
    }

    /// The same with hashes that are the run's own already.
    pub(super) fn add_run_of(&mut self, hashes: Vec<u64>) -> u32 {
        let id = self.runs.len() as u32;
        let root = RootEntry::new(id, hashes);
        self.unique_blocks += root.hashes().len();
        self.run_bytes += root.heap_bytes();
        self.runs.push(Run::new(root.first));
        self.roots.insert(root);
        id
    }

    pub(super) fn set_holder(&mut self, run: u32, holder: Holder, slots: usize) {
        self.change_holders(run, |holders, _| holders.set(holder, slots));
    }

    /// The same with blocks that no run holds yet, by which the run and the share become longer.
    pub(super) fn extend_share(&mut self, run: u32, hashes: &[u64], holder: Holder, slots: usize) {
        self.unique_blocks += hashes.len();
        self.change_holders(run, |holders, root| {
            if !hashes.is_empty() {
                root.extend(hashes);
            }
            holders.set(holder, slots);
        });
    }

    /// Puts a share in the place of another endpoint's.
    pub(super) fn replace_holder(&mut self, run: u32, endpoint: u32, holder: Holder, slots: usize) {
        self.change_holders(run, |holders, _| {
            holders.remove(endpoint);
            holders.set(holder, slots);
        });
    }

    /// Shortens a share, to nothing if `length` is 0, and the run to its longest share; returns how many blocks the run
    /// has lost.
    pub(super) fn shorten_share(&mut self, run: u32, holder: Holder, length: u32, slots: usize) -> u32 {
        self.holdings -= usize::from(length == 0);
        let mut lost = 0;
        self.change_holders(run, |holders, root| {
            if length == 0 {
                holders.remove(holder.endpoint);
            } else {
                holders.set(Holder { length, ..holder }, slots);
            }
            if holder.length == root.length() {
                let longest = holders.longest();
                lost = root.length() - longest;
                if longest > 0 {
                    root.truncate(longest);
                }
            }
        });
        self.unique_blocks -= lost as usize;
        lost
    }

    /// Removes a run that nobody holds; the last run, if it is another one, takes its id.
    pub(super) fn remove_run(&mut self, id: u32) -> Option<&Run> {
        let run = self.run(id)?;
        let first = run.first();
        self.run_bytes -= run.holders.heap_bytes() + self.roots.get(first).map_or(0, RootEntry::heap_bytes);
        self.roots.remove(first);
        if !self.runs.remove(id) {
            return None;
        }
        let moved = self.runs.get(id)?;
        if let Some(root) = self.roots.get_mut(moved.first()) {
            root.run = id;
        }
        Some(moved)
    }

    /// Changes a run and keeps the sum of bytes and the run's root entry true.
    fn change_holders(&mut self, id: u32, change: impl FnOnce(&mut Holders, &mut RootEntry)) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let Some(root) = self.roots.get_mut(run.first()) else { return };
        self.run_bytes -= run.holders.heap_bytes() + root.heap_bytes();
        change(&mut run.holders, root);
        self.run_bytes += run.holders.heap_bytes() + root.heap_bytes();
        root.set_holders(run.holders.summary(root.length()));
    }
}
