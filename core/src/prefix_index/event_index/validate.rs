//! The full check of every invariant, for tests and fuzzing.

use super::EventIndex;
use super::engine_hashes::NONE;

impl EventIndex {
    /// Checks every invariant of the structure; the error says which one does not hold.
    ///
    /// # Errors
    ///
    /// A sentence about the first violation found.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        self.names.validate()?;
        let mut shares = 0;
        let (mut blocks, mut bytes) = (0, 0);
        for (id, run) in (0..).zip(self.tree.runs.iter()) {
            let root =
                self.tree.roots.get(run.first()).ok_or(format!("run {id} is not in the root table"))?;
            ensure(root.run == id && root.is_consistent(), || format!("stale root of run {id}"))?;
            ensure(root.length() > 0 && run.holders.longest() == root.length(), || {
                format!("run {id} has {} blocks, its longest share {}", root.length(), run.holders.longest())
            })?;
            blocks += root.hashes().len();
            bytes += root.heap_bytes() + run.holders.heap_bytes();
            self.validate_link(id)?;
            let mut lanes = Vec::new();
            run.holders.for_each(|holder| lanes.push(holder));
            shares += lanes.len();
            for holder in lanes {
                self.validate_share(id, holder.endpoint, holder.length, holder.segment)?;
            }
        }
        ensure(blocks == self.tree.unique_blocks, || format!("unique blocks: {blocks}"))?;
        ensure(bytes == self.tree.run_bytes, || format!("bytes of runs: {bytes}"))?;
        ensure(self.tree.roots.len() == self.tree.runs.len(), || "root entries".to_owned())?;
        ensure(shares == self.shares.len() && shares == self.tree.holdings, || format!("shares: {shares}"))
    }

    fn validate_link(&self, run: u32) -> Result<(), String> {
        let link = self.links.get(run).ok_or(format!("run {run} has no link"))?;
        if link.attach > 0 {
            let parent = self.tree.roots.get(link.parent).ok_or(format!("run {run} hangs in the air"))?;
            ensure(link.attach <= parent.length(), || format!("run {run} begins after its parent's end"))?;
            ensure(self.links.children(parent.run).any(|(child, _)| child == run), || {
                format!("run {run} is not among its parent's children")
            })?;
        }
        for (child, child_link) in self.links.children(run) {
            let parent = self.tree.roots.get(child_link.parent).map(|root| root.run);
            ensure(parent == Some(run), || format!("run {child} is a child of {run} by mistake"))?;
        }
        let (mut at, mut users) = (link.columns, 0);
        while at != NONE {
            let column = self.names.column(at).ok_or(format!("run {run} has no column {at}"))?;
            ensure(column.run == run && column.users > 0, || {
                format!("column {at} of run {run}: {column:?}")
            })?;
            users += column.users as usize;
            at = column.next;
        }
        let holders = self.tree.run(run).map_or(0, |run| run.holders.count());
        ensure(users == holders, || format!("run {run} has {holders} holders and names for {users}"))
    }

    fn validate_share(&self, run: u32, lane: u32, length: u32, segment: u32) -> Result<(), String> {
        let share = self.shares.get(segment).ok_or(format!("run {run}, lane {lane}: no share"))?;
        ensure((share.run, share.endpoint, share.end) == (run, lane, length), || {
            format!("run {run}, lane {lane}: a foreign share: {share:?}")
        })?;
        let column = self.names.column(share.mark).ok_or(format!("run {run}, lane {lane}: no names"))?;
        ensure(column.run == run && column.hashes.len() >= column.ends_before(length), || {
            format!("run {run}, lane {lane}: {length} blocks, names: {column:?}")
        })?;
        let Some(link) = self.links.get(run).filter(|link| link.attach > 0) else { return Ok(()) };
        let parent = self.tree.roots.get(link.parent).and_then(|root| self.tree.holder(root.run, lane));
        ensure(parent.is_some_and(|parent| parent.length >= link.attach), || {
            format!("lane {lane} holds run {run} without what it continues")
        })
    }
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
