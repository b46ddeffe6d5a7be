//! Dense vectors that stay close to their length.
//!
//! Runs and segments live in vectors without holes: removing one moves the last into its place.
//! There is no free list to bound, and what the index reports as its size is what it occupies.

/// Values in a chunk of a [`Pool`].
const CHUNK: usize = 1 << 10;

/// A dense vector in chunks, so that growing never moves more than one of them.
#[derive(Debug)]
pub(super) struct Pool<T> {
    /// All full but the last, none empty.
    chunks: Vec<Vec<T>>,
    /// What the chunks occupy outside of `chunks`.
    chunk_bytes: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), chunk_bytes: 0 }
    }
}

impl<T> Pool<T> {
    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    pub(super) fn push(&mut self, value: T) {
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            push(&mut self.chunks, Vec::new());
        }
        let Some(last) = self.chunks.last_mut() else { return };
        self.chunk_bytes -= heap_bytes(last);
        push(last, value);
        self.chunk_bytes += heap_bytes(last);
    }

    /// Removes the value at `index` by moving the last one there, and gives back memory that has become idle.
    ///
    /// Returns true if another value moved to `index` (from the position that now is the length).
    pub(super) fn remove(&mut self, index: u32) -> bool {
        if index as usize >= self.len() {
            return false;
        }
        let Some(last) = self.chunks.last_mut() else { return false };
        self.chunk_bytes -= heap_bytes(last);
        let value = last.pop();
        release(last);
        self.chunk_bytes += heap_bytes(last);
        if last.is_empty()
            && let Some(idle) = self.chunks.pop()
        {
            self.chunk_bytes -= heap_bytes(&idle);
            release(&mut self.chunks);
        }
        match (self.get_mut(index), value) {
            (Some(place), Some(value)) => {
                *place = value;
                true
            }
            _ => false,
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.chunk_bytes + heap_bytes(&self.chunks)
    }
}

/// Appends `value` with at most a quarter of slack, where `Vec::push` may leave one half unused.
pub(super) fn push<T>(values: &mut Vec<T>, value: T) {
    if values.len() == values.capacity() {
        values.reserve_exact(values.len() / 4 + 8);
    }
    values.push(value);
}

/// Removes the value at `index` by moving the last one there, and gives back memory that has become idle.
///
/// Returns true if another value moved to `index` (from the position that now is the length).
pub(super) fn remove<T>(values: &mut Vec<T>, index: u32) -> bool {
    let index = index as usize;
    if index >= values.len() {
        return false;
    }
    values.swap_remove(index);
    release(values);
    index < values.len()
}

/// Gives memory back once more than a third of it is idle.
pub(super) fn release<T>(values: &mut Vec<T>) {
    if values.capacity() > values.len() + values.len() / 2 + 8 {
        values.shrink_to(values.len() + values.len() / 8);
    }
}

/// Bytes that a vector occupies on the heap, the allocator's own header included.
pub(super) fn heap_bytes<T>(values: &Vec<T>) -> usize {
    allocated(values.capacity() * size_of::<T>())
}

/// Bytes that an allocation of so many bytes occupies.
pub(super) fn allocated(bytes: usize) -> usize {
    const HEADER: usize = 16;
    if bytes == 0 { 0 } else { bytes + HEADER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_vector_with_swap_remove() {
        let mut pool = Pool::default();
        let mut expected = Vec::new();
        let mut random = 7_u64;
        for step in 0..20_000 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            // It grows past several chunks, and shrinks to nothing.
            if (random >> 33) % 3 < if step < 10_000 { 2 } else { 1 } {
                pool.push(step);
                expected.push(step);
            } else if !expected.is_empty() {
                let index = (random >> 35) as usize % expected.len();
                expected.swap_remove(index);
                assert_eq!(pool.remove(index as u32), index < expected.len());
            }
            assert_eq!(pool.len(), expected.len());
            if step % 100 == 0 {
                assert!(pool.iter().eq(&expected));
                assert_eq!(pool.chunk_bytes, pool.chunks.iter().map(heap_bytes).sum::<usize>());
            }
        }
        assert!(!pool.remove(expected.len() as u32));
        while !expected.is_empty() {
            expected.pop();
            assert!(!pool.remove(expected.len() as u32));
        }
        assert!(pool.heap_bytes() < 1_000);
    }
}
