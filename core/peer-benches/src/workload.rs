//! Paths and prompts, the same in every run.

/// The path numbered `number`: chained hashes as evenly spread as real ones.
pub fn path(number: u64, blocks: usize) -> Vec<u64> {
    let mut path = Vec::with_capacity(blocks);
    extend(&mut path, number, blocks);
    path
}

/// Appends to a path the `blocks` blocks of the branch numbered `number`.
pub fn extend(path: &mut Vec<u64>, number: u64, blocks: usize) {
    let seed = split_mix(number);
    path.extend((0..blocks as u64).map(|block| split_mix(seed.wrapping_add(block))));
}

/// The numbers from 0 up in an order that looks like chance.
pub fn split_mix(number: u64) -> u64 {
    let mut x = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// English-looking text of exactly `bytes` bytes; the first tenth is the same for every number.
pub fn prompt(number: u64, bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ",
        "endpoint ",
        "holds ",
        "a ",
        "prefix ",
        "of ",
        "this ",
        "prompt ",
        "and ",
        "its ",
        "queue ",
        "is ",
        "short, ",
        "so ",
        "it ",
        "answers ",
    ];
    let mut text = Vec::with_capacity(bytes + 16);
    let mut state = 0;
    while text.len() < bytes {
        let seed = if text.len() < bytes / 10 { 0 } else { number };
        state = split_mix(state ^ seed);
        text.extend_from_slice(WORDS[(state % 16) as usize].as_bytes());
    }
    text.truncate(bytes);
    text
}
