//! What engines call the blocks of runs.

use std::hint::black_box;

use super::super::storage;
use super::position_table::{MAX_COLUMNS, MAX_POSITIONS, PositionTable};

/// No column.
pub(super) const NONE: u32 = u32::MAX;

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

    /// Every place that has this engine hash, as (column, position of the engine block).
    #[inline]
    pub(super) fn places(&self, hash: u64) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.table
            .candidates(key(hash))
            .filter(move |&(column, position)| hash_at(&self.columns, column, position) == Some(hash))
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
        touch(&self.table, hashes);
        for (position, &hash) in (position..MAX_POSITIONS).zip(hashes) {
            let Some(column) = self.columns.get_mut(id as usize) else { return };
            let before = column.hashes.get(position).copied();
            if before == Some(hash) {
                continue;
            }
            match column.hashes.get_mut(position) {
                Some(place) => *place = hash,
                None => self.append(id, hashes.len(), hash),
            }
            if let Some(before) = before {
                self.table.remove(key(before), id, position as u32);
            }
            let columns = &self.columns;
            self.table.insert(key(hash), id, position as u32, |column, position| {
                key(hash_at(columns, column, position).unwrap_or_default())
            });
        }
    }

    /// Removes the hashes from `length` on.
    pub(super) fn truncate(&mut self, id: u32, length: usize) {
        let Some(column) = self.columns.get_mut(id as usize) else { return };
        if length >= column.hashes.len() {
            return;
        }
        let gone = column.hashes.get(length..).unwrap_or_default();
        touch(&self.table, gone);
        for (position, &hash) in (0..).zip(&column.hashes).skip(length) {
            self.table.remove(key(hash), id, position);
        }
        self.column_bytes -= storage::heap_bytes(&column.hashes);
        column.hashes.truncate(length);
        storage::release(&mut column.hashes);
        self.column_bytes += storage::heap_bytes(&column.hashes);
    }

    /// Appends one of `coming` hashes.
    fn append(&mut self, id: u32, coming: usize, hash: u64) {
        let Some(column) = self.columns.get_mut(id as usize) else { return };
        if column.hashes.len() == column.hashes.capacity() {
            self.column_bytes -= storage::heap_bytes(&column.hashes);
            column.hashes.reserve_exact(coming.max(column.hashes.len() / 4 + 1));
            self.column_bytes += storage::heap_bytes(&column.hashes);
        }
        column.hashes.push(hash);
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
                if !self.places(hash).any(|place| place == (id, position)) {
                    return Err(format!("engine hash {position} of column {id} is not in the table"));
                }
            }
        }
        Ok(())
    }
}

/// Brings the places of many hashes into the cache at once, where one after the other would wait for memory each time.
fn touch(table: &PositionTable, hashes: &[u64]) {
    if hashes.len() > 1 {
        black_box(hashes.iter().fold(0, |sum, &hash| sum ^ table.touch(key(hash))));
    }
}

fn hash_at(columns: &[Column], column: u32, position: u32) -> Option<u64> {
    columns.get(column as usize)?.hashes.get(position as usize).copied()
}

/// Spreads engine hashes, which need not be random, over all bits.
#[inline]
fn key(hash: u64) -> u64 {
    let product = u128::from(hash ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    product as u64 ^ (product >> 64) as u64
}
