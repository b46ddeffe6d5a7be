//! Dense vectors that stay close to their length.
//!
//! Runs and segments live in plain vectors without holes: removing one moves the last into its place.
//! There is no free list to bound, and what the index reports as its size is what it occupies.

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
    const ALLOCATION_HEADER: usize = 16;
    match values.capacity() * size_of::<T>() {
        0 => 0,
        bytes => bytes + ALLOCATION_HEADER,
    }
}
