//! What engines call the blocks of runs.

use super::super::storage;
use super::position_table::{BATCH, PositionTable};

/// No column.
pub(super) const NONE: u32 = u32::MAX;

/// A table entry names a column and the lower bits of a position: where columns are longer than this, the few positions
/// that are alike are compared, the last one first, because engines continue and remove ends.
const POSITIONS: u32 = 64;
/// Columns that table entries can name.
const MAX_COLUMNS: u32 = u32::MAX / POSITIONS;

/// Engine hashes of the leading engine blocks of one run.
///
/// Engines that name blocks alike share a column; one that names them otherwise gets a column of its own.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) run: u32,
    /// The next column of the same run, or the next unused column.
    pub(super) next: u32,
    /// Shares that are named by this column; 0 in an unused one.
    pub(super) users: u32,
    /// Blocks per engine block.
    pub(super) stride: u32,
    /// Blocks of the path before the run, modulo `stride`.
    phase: u32,
    pub(super) hashes: Vec<u64>,
}

impl Column {
    /// Engine blocks that end before the run's block `offset`.
    pub(super) fn ends_before(&self, offset: u32) -> usize {
        ((offset + self.phase) / self.stride) as usize
    }

    /// The run's block with which an engine block ends.
    pub(super) fn end(&self, position: u32) -> u32 {
        (position + 1) * self.stride - 1 - self.phase
    }
}

/// All columns and the one table that finds an engine hash in them.
#[derive(Debug)]
pub(super) struct EngineHashes {
    columns: Vec<Column>,
    /// First unused column. Ids never change, because table entries contain them.
    unused: u32,
    table: PositionTable,
    /// What the columns occupy outside of `columns`.
    column_bytes: usize,
}

impl EngineHashes {
    pub(super) fn new() -> Self {
        Self { columns: Vec::new(), unused: NONE, table: PositionTable::new(), column_bytes: 0 }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.column_bytes + storage::heap_bytes(&self.columns) + self.table.heap_bytes()
    }

    pub(super) fn column(&self, id: u32) -> Option<&Column> {
        self.columns.get(id as usize)
    }

    pub(super) fn column_mut(&mut self, id: u32) -> Option<&mut Column> {
        self.columns.get_mut(id as usize)
    }

    /// The first answer to a place that has this engine hash: a column, its id and the position of the engine block.
    #[inline]
    pub(super) fn find<T>(&self, hash: u64, ask: impl Fn(&Column, u32, u32) -> Option<T>) -> Option<T> {
        self.table.candidates(spread(hash)).find_map(|place| {
            let id = place / POSITIONS;
            let column = self.column(id)?;
            let last = (column.hashes.len() as u32).checked_sub(1 + place % POSITIONS);
            let mut position = last.map(|beyond| place % POSITIONS + beyond / POSITIONS * POSITIONS);
            while let Some(at) = position {
                if column.hashes.get(at as usize) == Some(&hash)
                    && let Some(answer) = ask(column, id, at)
                {
                    return Some(answer);
                }
                position = at.checked_sub(POSITIONS);
            }
            None
        })
    }

    /// Adds a column without hashes; `None` if there are as many as table entries can name.
    pub(super) fn add(&mut self, run: u32, next: u32, stride: u32, depth: u32) -> Option<u32> {
        let column = Column { run, next, users: 0, stride, phase: depth % stride, hashes: Vec::new() };
        let id = self.unused;
        if let Some(place) = self.columns.get_mut(id as usize) {
            self.unused = place.next;
            *place = column;
            return Some(id);
        }
        let id = self.columns.len() as u32;
        if id >= MAX_COLUMNS {
            return None;
        }
        storage::push(&mut self.columns, column);
        Some(id)
    }

    /// Removes a column and its hashes.
    pub(super) fn remove(&mut self, id: u32) {
        self.truncate(id, 0);
        let unused = self.unused;
        if let Some(column) = self.columns.get_mut(id as usize) {
            column.next = unused;
            column.users = 0;
            self.column_bytes -= storage::heap_bytes(&column.hashes);
            column.hashes = Vec::new();
            self.unused = id;
        }
    }

    /// Writes hashes from `position`, which is at most the column's length, on.
    pub(super) fn write(&mut self, id: u32, position: usize, hashes: &[u64]) {
        let Some(column) = self.columns.get_mut(id as usize) else { return };
        let known = hashes.len().min(column.hashes.len() - position.min(column.hashes.len()));
        let (changed, new) = hashes.split_at_checked(known).unwrap_or((hashes, &[]));
        for (position, (before, &hash)) in
            (position..).zip(column.hashes.iter_mut().skip(position).zip(changed))
        {
            if *before != hash {
                self.table.remove(spread(*before), place(id, position));
                self.table.insert(spread(hash), place(id, position));
                *before = hash;
            }
        }
        self.append(id, new);
    }

    /// Writes hashes behind the last one of a column.
    fn append(&mut self, id: u32, hashes: &[u64]) {
        let Some(column) = self.columns.get_mut(id as usize) else { return };
        let end = column.hashes.len();
        if hashes.len() > column.hashes.capacity() - end {
            self.column_bytes -= storage::heap_bytes(&column.hashes);
            column.hashes.reserve_exact(hashes.len().max(end / 4 + 1));
            self.column_bytes += storage::heap_bytes(&column.hashes);
        }
        column.hashes.extend_from_slice(hashes);
        match hashes {
            &[hash] => self.table.insert(spread(hash), place(id, end)),
            hashes => {
                for (start, batch) in (end..).step_by(BATCH).zip(hashes.chunks(BATCH)) {
                    self.table.insert_all(entries(id, start, batch));
                }
            }
        }
    }

    /// Removes the hashes from `length` on.
    pub(super) fn truncate(&mut self, id: u32, length: usize) {
        let Some(column) = self.columns.get_mut(id as usize) else { return };
        match column.hashes.get(length..).unwrap_or_default() {
            [] => return,
            &[hash] => self.table.remove(spread(hash), place(id, length)),
            hashes => {
                for (start, batch) in (length..).step_by(BATCH).zip(hashes.chunks(BATCH)) {
                    self.table.remove_all(entries(id, start, batch));
                }
            }
        }
        self.column_bytes -= storage::heap_bytes(&column.hashes);
        column.hashes.truncate(length);
        storage::release(&mut column.hashes);
        self.column_bytes += storage::heap_bytes(&column.hashes);
    }

    /// Checks sums and the table; for tests.
    pub(super) fn validate(&self) -> Result<(), String> {
        let bytes: usize = self.columns.iter().map(|column| storage::heap_bytes(&column.hashes)).sum();
        let hashes: usize = self.columns.iter().map(|column| column.hashes.len()).sum();
        if bytes != self.column_bytes {
            return Err(format!("bytes of columns: {bytes}, counted: {}", self.column_bytes));
        }
        if hashes != self.table.len() {
            return Err(format!("engine hashes: {hashes}, in the table: {}", self.table.len()));
        }
        for (id, column) in (0..).zip(&self.columns) {
            for (position, &hash) in (0..).zip(&column.hashes) {
                let is_there = |_: &_, column, at| ((column, at) == (id, position)).then_some(());
                if self.find(hash, is_there).is_none() {
                    return Err(format!("engine hash {position} of column {id} is not in the table"));
                }
            }
        }
        Ok(())
    }
}

/// What the table is given of a column's hashes from a position on.
#[inline]
fn entries(column: u32, start: usize, hashes: &[u64]) -> impl ExactSizeIterator<Item = (u32, u32)> + '_ {
    hashes.iter().enumerate().map(move |(at, &hash)| (spread(hash), place(column, start + at)))
}

/// What the table keeps of a place.
#[inline]
fn place(column: u32, position: usize) -> u32 {
    column * POSITIONS + position as u32 % POSITIONS
}

/// Spreads engine hashes, which need not be random, over the bits that the table uses.
#[inline]
fn spread(hash: u64) -> u32 {
    let product = u128::from(hash ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    ((product as u64 ^ (product >> 64) as u64) >> 32) as u32
}
