//! How runs hang together: what a removal has to take with it.

use super::super::storage;
use super::super::tree::Tree;

/// No run.
pub(super) const NONE: u32 = u32::MAX;

/// Where one run hangs, and what hangs from it.
///
/// A parent is named by its first hash, which stays when its id changes: so a run with ten thousand children moves
/// like any other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// First hash of the run that this one continues.
    pub(super) parent: u64,
    /// Leading blocks of that run which are on the path; 0 if this run starts a path.
    pub(super) attach: u32,
    /// Blocks of the path before this run.
    pub(super) depth: u32,
    pub(super) first_child: u32,
    pub(super) next: u32,
    pub(super) previous: u32,
    /// The first of the run's columns of engine hashes.
    pub(super) columns: u32,
}

/// The links of all runs, by run.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: Vec<Link>,
}

impl Links {
    pub(super) fn heap_bytes(&self) -> usize {
        storage::heap_bytes(&self.links)
    }

    pub(super) fn get(&self, run: u32) -> Option<Link> {
        self.links.get(run as usize).copied()
    }

    pub(super) fn get_mut(&mut self, run: u32) -> Option<&mut Link> {
        self.links.get_mut(run as usize)
    }

    /// Adds the link of the newest run, which continues `parent` after `attach` blocks.
    pub(super) fn push(&mut self, parent: Option<(u32, u32)>, tree: &Tree) {
        let run = self.links.len() as u32;
        let mut link = Link {
            parent: 0,
            attach: 0,
            depth: 0,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            columns: super::engine_hashes::NONE,
        };
        if let Some((parent, attach)) = parent
            && let Some(above) = self.get_mut(parent)
        {
            link.parent = tree.run(parent).map_or(0, super::Run::first);
            link.attach = attach;
            link.depth = above.depth + attach;
            link.next = std::mem::replace(&mut above.first_child, run);
        }
        if let Some(next) = self.get_mut(link.next) {
            next.previous = run;
        }
        storage::push(&mut self.links, link);
    }

    /// Takes a run out from among its siblings.
    pub(super) fn detach(&mut self, run: u32, tree: &Tree) {
        let Some(link) = self.get(run) else { return };
        self.set_next(&link, link.next, tree);
        if let Some(next) = self.get_mut(link.next) {
            next.previous = link.previous;
        }
    }

    /// Forgets a detached run; the last run takes its id.
    pub(super) fn remove(&mut self, run: u32, tree: &Tree) {
        if !storage::remove(&mut self.links, run) {
            return;
        }
        let Some(moved) = self.get(run) else { return };
        self.set_next(&moved, run, tree);
        if let Some(next) = self.get_mut(moved.next) {
            next.previous = run;
        }
    }

    /// Says what comes after the sibling before `link`, or first if there is none.
    fn set_next(&mut self, link: &Link, run: u32, tree: &Tree) {
        if let Some(previous) = self.get_mut(link.previous) {
            previous.next = run;
        } else if link.attach > 0
            && let Some(parent) = tree.roots.get(link.parent)
            && let Some(parent) = self.get_mut(parent.run)
        {
            parent.first_child = run;
        }
    }

    #[inline]
    pub(super) fn has_children(&self, run: u32) -> bool {
        self.links.get(run as usize).is_some_and(|link| link.first_child != NONE)
    }

    /// The runs that continue this one, in no order.
    pub(super) fn children(&self, run: u32) -> impl Iterator<Item = (u32, Link)> + '_ {
        let mut at = self.get(run).map_or(NONE, |link| link.first_child);
        std::iter::from_fn(move || {
            let id = at;
            let link = self.get(id)?;
            at = link.next;
            Some((id, link))
        })
    }
}
