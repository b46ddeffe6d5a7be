//! Who holds which prefix according to the engines' own KV events.
//!
//! The same tree of runs as in approximate mode, with what events need besides:
//!
//! * **No eviction.** The engine says what it removed, in its own names for blocks. Only the bound in bytes makes the
//!   index forget something by itself.
//! * **Engine hashes.** [`EngineHashes`] keeps them beside the runs, in columns that endpoints share as long as their
//!   engines give equal names, and finds them by one table of 8-byte entries for all endpoints.
//! * **Links.** A removed block takes its continuations with it, because no look-up can reach them any more; [`Links`]
//!   knows the continuations of a run.
//!
//! A *lane* is one cache: a data-parallel rank of an endpoint. An engine block is one or more blocks (its `stride`), and
//! its name stands for the last of them.

mod engine_hashes;
mod links;
#[cfg(test)]
mod naive;
mod position_table;
#[cfg(test)]
mod tests;
mod validate;

use std::iter::Peekable;
use std::ops::Range;

use engine_hashes::EngineHashes;
use links::{Link, Links};

use super::holders::Holder;
use super::recency::{self, Recency};
use super::run::Run;
use super::tree::Tree;
use super::{PrefixIndexStats, storage};

/// Which cache holds which prefix, fed by the KV events of engines.
///
/// Lanes are small dense numbers; every lane is made known by [`add_lane`](Self::add_lane). It has one writer and takes no
/// locks; the scheduler puts it behind one.
///
/// # Example
///
/// ```
/// use p3sched::prefix_index::{EventIndex, StoredBlocks};
///
/// let mut index = EventIndex::new();
/// index.add_lane(0);
/// let (hashes, names) = ([11, 12, 13], [901, 902, 903]);
/// index.store(0, &StoredBlocks { parent: None, hashes: &hashes, names: &names, stride: 1 });
///
/// let mut matched = [0];
/// index.remove(0, 903);
/// index.find(&hashes, &mut matched);
/// assert_eq!(matched, [2]);
/// ```
#[derive(Debug)]
pub struct EventIndex {
    tree: Tree,
    links: Links,
    names: EngineHashes,
    /// The shares of each lane, as one segment per run whose mark is the column with the lane's names.
    shares: Recency,
    /// Runs that a removal takes with it, by first hash; kept for its memory.
    doomed: Vec<u64>,
}

/// Engine blocks that are stored one after the other.
#[derive(Clone, Copy, Debug)]
pub struct StoredBlocks<'a> {
    /// Where the path goes on; `None` at its start.
    pub parent: Option<Position>,
    /// Chained hashes of the blocks, a multiple of `stride`.
    pub hashes: &'a [u64],
    /// The engine's names, one for every `stride` blocks.
    pub names: &'a [u64],
    /// Blocks per engine block.
    pub stride: u32,
}

/// A block in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    run: u32,
    offset: u32,
}

/// A block that a lane holds, and the engine block that ends with it.
#[derive(Clone, Copy)]
struct Place {
    position: Position,
    column: u32,
    /// Position of the engine block in the column.
    at: u32,
}

/// The part of stored blocks that is in one run.
struct Part {
    run: u32,
    /// The run's block with which the part begins.
    start: u32,
    blocks: Range<u32>,
    /// The run ends before the part.
    is_new: bool,
}

impl Default for EventIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl EventIndex {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tree: Tree::new(),
            links: Links::default(),
            names: EngineHashes::new(),
            shares: Recency::default(),
            doomed: Vec::new(),
        }
    }

    /// Makes a lane known, so that it can hold blocks.
    pub fn add_lane(&mut self, lane: u32) {
        self.shares.set_capacity(lane, usize::MAX);
    }

    /// Writes to `matched[lane]` how many leading blocks of the path each lane holds.
    pub fn find(&self, hashes: &[u64], matched: &mut [u32]) {
        self.tree.find(hashes, matched);
    }

    /// The block that the lane's engine calls by this name, if the lane holds it.
    #[inline]
    #[must_use]
    pub fn position(&self, lane: u32, name: u64) -> Option<Position> {
        self.place(lane, name).map(|place| place.position)
    }

    /// The chained hash of a block.
    #[must_use]
    pub fn hash(&self, position: Position) -> Option<u64> {
        self.tree.root(position.run)?.hashes().get(position.offset as usize).copied()
    }

    /// Notes that a lane now holds these blocks; a block that it holds already takes the new name.
    ///
    /// # Complexity
    ///
    /// Proportional to the names, to the runs on this part of the path and to the blocks that nobody held before.
    pub fn store(&mut self, lane: u32, blocks: &StoredBlocks<'_>) {
        let mut known = 0;
        let mut end = None;
        if let Some(Position { run, offset }) = blocks.parent {
            let start = offset + 1;
            known = self.tree.root(run).map_or(0, |root| root.common_prefix_after(start, blocks.hashes));
            self.hold(lane, Part { run, start, blocks: 0..known, is_new: false }, blocks);
            end = Some((run, start + known));
        }
        while let Some(first) = blocks.hashes.get(known as usize) {
            let rest = blocks.hashes.get(known as usize..).unwrap_or_default();
            let length = rest.len() as u32;
            let (run, start, common, is_new) = match (self.tree.roots.get(*first), end) {
                (Some(root), _) => (root.run, 0, root.common_prefix(rest), false),
                (None, Some((run, start))) if self.tree.length(run) == Some(start) => {
                    (run, start, length, true)
                }
                (None, end) => {
                    let run = self.tree.add_run(rest);
                    self.links.push(end, &self.tree);
                    (run, 0, length, false)
                }
            };
            self.hold(lane, Part { run, start, blocks: known..known + common, is_new }, blocks);
            known += common;
            end = Some((run, start + common));
            if common == 0 {
                return;
            }
        }
    }

    /// Notes that a lane's engine removed a block; everything that continues it goes too.
    ///
    /// False if the lane holds no block of this name.
    ///
    /// # Complexity
    ///
    /// Proportional to the blocks that nobody holds any more, to the continuations of the run, whoever holds them, and
    /// to the continuations that the lane loses.
    pub fn remove(&mut self, lane: u32, name: u64) -> bool {
        let Some(place) = self.place(lane, name) else { return false };
        self.remove_from(lane, place);
        true
    }

    /// Notes that a lane's engine removed several blocks; neighbours of one run go at once, in whichever direction they
    /// are named.
    ///
    /// # Complexity
    ///
    /// One comparison per name, and that of [`remove`](Self::remove) per row of neighbours.
    pub fn remove_all(&mut self, lane: u32, names: impl Iterator<Item = u64>) {
        let mut names = names.peekable();
        while let Some(name) = names.next() {
            if let Some(place) = self.place(lane, name) {
                self.remove_from(lane, self.first_of_row(place, &mut names));
            }
        }
    }

    /// Forgets all that a lane holds.
    pub fn clear(&mut self, lane: u32) {
        // Continuations are newer than what they continue, so nothing is left hanging in between.
        while let Some(share) = self.shares.get(self.shares.lane(lane).newest) {
            self.shorten(lane, share.run, 0);
        }
    }

    /// Forgets blocks of the largest lane, continuations first, until the index occupies at most `max_bytes`.
    pub fn evict_to(&mut self, max_bytes: usize) {
        while self.bytes() > max_bytes
            && let Some(lane) = self.shares.largest()
            && let Some(share) = self.shares.get(self.shares.lane(lane).oldest)
        {
            let mut run = share.run;
            while let Some((child, _)) = self.held_children(run, lane).next() {
                run = child;
            }
            self.shorten(lane, run, 0);
        }
    }

    /// Number of blocks that a lane holds.
    #[must_use]
    pub fn block_count(&self, lane: u32) -> usize {
        self.shares.lane(lane).blocks
    }

    /// How much of the index is in use.
    #[must_use]
    pub fn stats(&self) -> PrefixIndexStats {
        PrefixIndexStats {
            unique_blocks: self.tree.unique_blocks,
            runs: self.tree.runs.len(),
            holdings: self.tree.holdings,
            segments: self.shares.len(),
            bytes: self.bytes(),
        }
    }

    /// Heap bytes occupied, idle capacity and the allocator's headers included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tree.heap_bytes()
            + self.links.heap_bytes()
            + self.names.heap_bytes()
            + self.shares.heap_bytes()
            + storage::heap_bytes(&self.doomed)
    }
}

/// Storing.
impl EventIndex {
    /// Makes the lane hold a run up to the end of a part of the stored blocks.
    fn hold(&mut self, lane: u32, part: Part, blocks: &StoredBlocks<'_>) {
        let Part { run, start, blocks: range, is_new } = part;
        let length = start + (range.end - range.start);
        let holder = self.tree.holder(run, lane);
        if range.is_empty() && holder.is_some_and(|holder| holder.length >= length) {
            return;
        }
        let stride = blocks.stride;
        let names = (range.start / stride) as usize..(range.end / stride) as usize;
        let names = blocks.names.get(names).unwrap_or_default();
        let range = range.start as usize..range.end as usize;
        let new = blocks.hashes.get(range).filter(|_| is_new).unwrap_or_default();
        let Some(holder) = holder else {
            let Some(column) = self.column_for(run, names, stride) else { return };
            let segment = self.shares.push(lane, run, length, recency::NONE, column);
            self.shares.count(lane, length as isize);
            self.tree.holdings += 1;
            let holder = Holder { endpoint: lane, length, segment };
            return self.tree.extend_share(run, new, holder, self.shares.slots());
        };
        self.rename(holder, start, names);
        if length > holder.length {
            self.shares.count(lane, (length - holder.length) as isize);
            if let Some(share) = self.shares.get_mut(holder.segment) {
                share.end = length;
            }
            self.tree.extend_share(run, new, Holder { length, ..holder }, self.shares.slots());
        }
    }

    /// A column of the run whose names are these, one that already exists if possible.
    fn column_for(&mut self, run: u32, names: &[u64], stride: u32) -> Option<u32> {
        let link = self.links.get(run)?;
        let existing = match names.first() {
            Some(&first) => self
                .names
                .find(first, |column, id, _| (column.run == run && column.stride == stride).then_some(id)),
            None => {
                self.names.column(link.columns).filter(|column| column.stride == stride).map(|_| link.columns)
            }
        };
        let fits = |&id: &u32| self.names.column(id).is_some_and(|column| agree(&column.hashes, names));
        let id = match existing.filter(fits) {
            Some(id) => id,
            None => {
                let id = self.names.add(run, link.columns, stride, link.depth)?;
                self.links.get_mut(run)?.columns = id;
                id
            }
        };
        self.names.write(id, 0, names);
        self.names.column_mut(id)?.users += 1;
        Some(id)
    }

    /// Gives names to the part of a share that begins at the run's block `start`.
    fn rename(&mut self, holder: Holder, start: u32, names: &[u64]) {
        let Some(share) = self.shares.get(holder.segment) else { return };
        let Some(column) = self.names.column(share.mark) else { return };
        let position = column.ends_before(start);
        let is_alike = agree(column.hashes.get(position..).unwrap_or_default(), names);
        if is_alike || column.users == 1 {
            return self.names.write(share.mark, position, names);
        }
        let held = column.hashes.get(..column.ends_before(holder.length)).unwrap_or_default().to_vec();
        let stride = column.stride;
        let Some(link) = self.links.get(share.run) else { return };
        let Some(id) = self.names.add(share.run, link.columns, stride, link.depth) else { return };
        self.names.write(id, 0, &held);
        self.names.write(id, position, names);
        if let Some(link) = self.links.get_mut(share.run) {
            link.columns = id;
        }
        if let Some(column) = self.names.column_mut(id) {
            column.users = 1;
        }
        if let Some(column) = self.names.column_mut(share.mark) {
            column.users -= 1;
        }
        if let Some(share) = self.shares.get_mut(holder.segment) {
            share.mark = id;
        }
    }
}

/// Removing.
impl EventIndex {
    /// Where the lane's engine block of this name is.
    #[inline]
    fn place(&self, lane: u32, name: u64) -> Option<Place> {
        self.names.find(name, |column, id, at| {
            let holder = self.tree.holder(column.run, lane)?;
            let is_own = self.shares.get(holder.segment)?.mark == id;
            let position = Position { run: column.run, offset: column.end(at) };
            (is_own && position.offset < holder.length).then_some(Place { position, column: id, at })
        })
    }

    /// The first block of the row of neighbours that begins with a block and goes on with the next names.
    fn first_of_row(&self, place: Place, names: &mut Peekable<impl Iterator<Item = u64>>) -> Place {
        let Some(column) = self.names.column(place.column) else { return place };
        let (mut first, mut last) = (place.at as usize, place.at as usize);
        while let Some(&next) = names.peek() {
            if first > 0 && column.hashes.get(first - 1) == Some(&next) {
                first -= 1;
            } else if column.hashes.get(last + 1) == Some(&next) {
                last += 1;
            } else {
                break;
            }
            names.next();
        }
        let at = first as u32;
        Place { at, position: Position { offset: column.end(at), ..place.position }, ..place }
    }

    /// Removes what the lane holds of a run from one of its engine blocks on.
    fn remove_from(&mut self, lane: u32, place: Place) {
        let Position { run, offset } = place.position;
        let stride = self.names.column(place.column).map_or(1, |column| column.stride);
        if stride == 1 {
            return self.cut(lane, run, offset);
        }
        let (first, link) = (self.tree.run(run).map_or(0, Run::first), self.links.get(run));
        self.cut(lane, run, offset);
        if let Some(link) = link {
            self.trim(lane, first, link, offset, stride);
        }
    }

    /// Shortens a share, and ends the shares of what continues the run after that.
    fn cut(&mut self, lane: u32, run: u32, length: u32) {
        if !self.links.has_children(run) {
            return self.shorten(lane, run, length);
        }
        let Some(first) = self.tree.run(run).map(Run::first) else { return };
        self.end_continuations(lane, run, length);
        if let Some(root) = self.tree.roots.get(first) {
            self.shorten(lane, root.run, length);
        }
    }

    /// Ends the lane's shares of what continues the run after `length` blocks.
    fn end_continuations(&mut self, lane: u32, run: u32, length: u32) {
        let mut doomed = std::mem::take(&mut self.doomed);
        doomed.extend(
            self.held_children(run, lane)
                .filter(|(_, attach)| *attach > length)
                .filter_map(|(child, _)| self.tree.run(child).map(Run::first)),
        );
        let mut at = 0;
        while let Some(root) = doomed.get(at).and_then(|&first| self.tree.roots.get(first)) {
            let children = self.held_children(root.run, lane);
            let firsts = children.filter_map(|(child, _)| self.tree.run(child).map(Run::first));
            doomed.extend(firsts.collect::<Vec<_>>());
            at += 1;
        }
        // Removing a run changes the ids of others, so each is looked up when its turn comes.
        while let Some(first) = doomed.pop() {
            if let Some(root) = self.tree.roots.get(first) {
                self.shorten(lane, root.run, 0);
            }
        }
        doomed.shrink_to(32);
        self.doomed = doomed;
    }

    /// Shortens what a cut has left of a share, and of those before it, to where an engine block or a held continuation
    /// ends: `length` blocks of the run that begins with `first`, or none of it.
    fn trim(&mut self, lane: u32, mut first: u64, mut link: Link, mut length: u32, stride: u32) {
        loop {
            if length > 0 {
                let Some(run) = self.tree.roots.get(first).map(|root| root.run) else { return };
                let needed = self.held_children(run, lane).map(|(_, attach)| attach).max().unwrap_or(0);
                let keep = length.saturating_sub((link.depth + length) % stride).max(needed);
                if keep < length {
                    self.shorten(lane, run, keep);
                }
                if keep > 0 {
                    return;
                }
            }
            let above = self.tree.roots.get(link.parent).filter(|_| link.attach > 0).map(|root| root.run);
            let Some(above) = above else { return };
            if self.tree.holder(above, lane).is_none_or(|holder| holder.length > link.attach) {
                return;
            }
            (first, length) = (link.parent, link.attach);
            let Some(next) = self.links.get(above) else { return };
            link = next;
        }
    }

    fn held_children(&self, run: u32, lane: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let children = self.links.children(run).map(|(child, link)| (child, link.attach));
        children.filter(move |&(child, _)| self.tree.holder(child, lane).is_some())
    }

    /// Shortens a share, to nothing if `length` is 0; the lane holds no continuation beyond.
    fn shorten(&mut self, lane: u32, run: u32, length: u32) {
        let Some(holder) = self.tree.holder(run, lane) else { return };
        let Some(share) = self.shares.get_mut(holder.segment) else { return };
        share.end = length;
        let column = share.mark;
        self.shares.count(lane, -((holder.length - length) as isize));
        let lost = self.tree.shorten_share(run, holder, length, self.shares.slots());
        self.shorten_column(column, length);
        if length == 0 {
            self.remove_share(holder.segment);
        }
        let Some(run_of) = self.tree.run(run).filter(|_| lost > 0) else { return };
        match run_of.holders.longest() {
            0 => self.remove_run(run),
            left => self.shorten_columns(run, left),
        }
    }

    /// Takes note that one user of a column has only `length` blocks left.
    fn shorten_column(&mut self, id: u32, length: u32) {
        let Some(column) = self.names.column_mut(id) else { return };
        if length == 0 {
            column.users -= 1;
        }
        match column.users {
            0 => self.remove_column(id),
            1 if length > 0 => {
                let position = column.ends_before(length);
                self.names.truncate(id, position);
            }
            _ => {}
        }
    }

    /// Forgets the names of blocks that the run does not have any more.
    fn shorten_columns(&mut self, run: u32, length: u32) {
        let mut at = self.links.get(run).map_or(engine_hashes::NONE, |link| link.columns);
        while let Some(column) = self.names.column(at) {
            let (next, position) = (column.next, column.ends_before(length));
            self.names.truncate(at, position);
            at = next;
        }
    }

    fn remove_column(&mut self, id: u32) {
        let Some((run, next)) = self.names.column(id).map(|column| (column.run, column.next)) else { return };
        self.names.remove(id);
        let Some(link) = self.links.get_mut(run) else { return };
        if link.columns == id {
            link.columns = next;
            return;
        }
        let mut at = link.columns;
        while let Some(column) = self.names.column_mut(at) {
            if column.next == id {
                column.next = next;
                return;
            }
            at = column.next;
        }
    }

    fn remove_share(&mut self, id: u32) {
        if !self.shares.remove(id) {
            return;
        }
        let Some(moved) = self.shares.get(id) else { return };
        if let Some(holder) = self.tree.holder(moved.run, moved.endpoint) {
            self.tree.set_holder(moved.run, Holder { segment: id, ..holder }, self.shares.slots());
        }
    }

    /// Removes a run that nobody holds, and tells all who know it where the run that takes its id is now.
    fn remove_run(&mut self, run: u32) {
        self.links.detach(run, &self.tree);
        let Some(moved) = self.tree.remove_run(run) else {
            return self.links.remove(run, &self.tree);
        };
        let shares = &mut self.shares;
        moved.holders.for_each(|holder| {
            if let Some(share) = shares.get_mut(holder.segment) {
                share.run = run;
            }
        });
        self.links.remove(run, &self.tree);
        let mut at = self.links.get(run).map_or(engine_hashes::NONE, |link| link.columns);
        while let Some(column) = self.names.column_mut(at) {
            column.run = run;
            at = column.next;
        }
    }
}

/// Whether two lists of names are equal as far as both go.
fn agree(a: &[u64], b: &[u64]) -> bool {
    let length = a.len().min(b.len());
    a.get(..length) == b.get(..length)
}
