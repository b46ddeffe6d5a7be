//! Step 2: one hash per block of the prompt, each of which stands for everything before it.
//!
//! # Algorithm
//!
//! All integers are unsigned, `x ^ y` is exclusive or, `‖` joins bytes and `XXH3_64` is
//! [XXH3](https://github.com/Cyan4973/xxHash) with 64 bits and seed 0.
//!
//! ```text
//! mix(h, x)  = low 64 bits of p  ^  high 64 bits of p,   p = (h ^ K0) · (x ^ K1) as 128 bits
//! K0 = 0x9E3779B97F4A7C15     K1 = 0xD6E8FEB86659FD93
//!
//! s_0  = mix(XXH3_64(model), XXH3_64(adapter))           UTF-8; an absent adapter or salt is the empty text
//! s_1  = mix(s_0, XXH3_64(cache salt))
//! h_-1 = mix(s_1, unit · 2^32 + block size)              unit 0: block size in bytes; unit 1: in tokens
//! h_i  = mix(h_i-1, XXH3_64(block_i))
//! ```
//!
//! Block `i` of a prompt in bytes is its bytes `i · size .. (i + 1) · size`, where size = tokens per block · bytes per
//! token. Block `i` of a prompt in token ids is its ids `i · size .. (i + 1) · size`, each as four bytes, least significant
//! first. What does not fill a block has no hash.
//!
//! `h_i` commits to all blocks up to `i`: two prompts with equal `h_i` have the same first `i + 1` blocks, up to the
//! collisions of a 64-bit hash. The hashes of the blocks do not depend on each other, so a CPU overlaps them; only `mix`, one
//! multiplication, is a chain. XXH3 is not a cryptographic hash: a client who wants to can construct two prompts that
//! collide, and thereby sends its own requests to a replica that does not hold their prefix.
//!
//! Golden vectors are in `testdata/block_hashes.json`.

use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Prompt, Request};

/// Largest number of tokens in a block.
pub const MAX_BLOCK_TOKENS: u32 = 1024;
/// Largest number of prompt bytes that stand for a token.
pub const MAX_BYTES_PER_TOKEN: u32 = 64;

const K0: u64 = 0x9E37_79B9_7F4A_7C15;
const K1: u64 = 0xD6E8_FEB8_6659_FD93;
/// 16 tokens of 4 bytes, as text or as token ids: the default, for which the compiler unrolls the hash.
const COMMON_BLOCK_BYTES: usize = 64;

/// Hashes the blocks of prompts, with block sizes that are the same for every request.
///
/// # Example
///
/// ```
/// use p3sched::{Request, block_hash::BlockHasher};
///
/// let hasher = BlockHasher::default();
/// let (mut first, mut longer) = (Vec::new(), Vec::new());
/// hasher.hash(&Request::from_text("llama", "x".repeat(150)), &mut first);
/// hasher.hash(&Request::from_text("llama", "x".repeat(150) + &"y".repeat(150)), &mut longer);
///
/// assert_eq!(first.len(), 2); // 150 bytes hold two full blocks of 64
/// assert!(longer.starts_with(&first));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHasher {
    block_tokens: u32,
    bytes_per_token: u32,
    max_prefix_tokens: Option<u32>,
}

impl Default for BlockHasher {
    /// 16 tokens per block, 4 bytes per token, no limit.
    fn default() -> Self {
        Self { block_tokens: 16, bytes_per_token: 4, max_prefix_tokens: None }
    }
}

impl BlockHasher {
    /// A hasher for blocks of `block_tokens` tokens.
    ///
    /// A prompt that is text has no tokens yet, so `bytes_per_token` of its bytes count as one. Tokens after the first
    /// `max_prefix_tokens` are not hashed; `None` hashes all.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] when `block_tokens` is not in 1 to [`MAX_BLOCK_TOKENS`] or `bytes_per_token` not in 1 to
    /// [`MAX_BYTES_PER_TOKEN`].
    pub fn new(
        block_tokens: u32,
        bytes_per_token: u32,
        max_prefix_tokens: Option<u32>,
    ) -> Result<Self, Error> {
        if !(1..=MAX_BLOCK_TOKENS).contains(&block_tokens) {
            let message = format!("block_size_tokens must be 1 to {MAX_BLOCK_TOKENS}: `{block_tokens}`");
            return Err(Error::InvalidConfig(message));
        }
        if !(1..=MAX_BYTES_PER_TOKEN).contains(&bytes_per_token) {
            let message = format!("bytes_per_token must be 1 to {MAX_BYTES_PER_TOKEN}: `{bytes_per_token}`");
            return Err(Error::InvalidConfig(message));
        }
        Ok(Self { block_tokens, bytes_per_token, max_prefix_tokens })
    }

    /// Tokens per block.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Bytes of a text prompt that count as one token.
    pub fn bytes_per_token(&self) -> u32 {
        self.bytes_per_token
    }

    /// Length of the prompt in tokens: exact for token ids, bytes over bytes per token, rounded up, for text.
    pub fn prompt_tokens(&self, request: &Request) -> u32 {
        let tokens = match &request.prompt {
            Prompt::Bytes(bytes) => bytes.len().div_ceil(self.bytes_per_token as usize),
            Prompt::Tokens(tokens) => tokens.len(),
        };
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// What the chain of a prompt in token ids starts from.
    pub(crate) fn token_seed(&self, model: &str, cache_salt: Option<&str>) -> u64 {
        seed(model, None, cache_salt, 1, self.block_tokens)
    }

    /// Replaces what is in `digests` by the hashes of full blocks of token ids, not chained yet.
    pub(crate) fn token_digests(&self, tokens: &[u32], digests: &mut Vec<u64>) {
        digests.clear();
        hash_tokens(tokens, self.block_tokens as usize, digests, |digest| digest);
    }

    /// Replaces what is in `hashes` by the chained hashes of the request's full blocks, first block first.
    ///
    /// Requests whose model, adapter or cache salt differ have no hash in common, and neither have prompts in text and
    /// prompts in token ids.
    ///
    /// # Complexity
    ///
    /// One pass over the prompt; allocates only where `hashes` has to grow.
    pub fn hash(&self, request: &Request, hashes: &mut Vec<u64>) {
        hashes.clear();
        let limit = self.max_prefix_tokens.map_or(usize::MAX, |tokens| tokens as usize);
        match &request.prompt {
            Prompt::Bytes(bytes) => {
                let limit = limit.saturating_mul(self.bytes_per_token as usize).min(bytes.len());
                let block_bytes = self.block_tokens * self.bytes_per_token;
                let seed = self.seed(request, 0, block_bytes);
                hash_bytes(bytes.get(..limit).unwrap_or(bytes), block_bytes as usize, seed, hashes);
            }
            Prompt::Tokens(tokens) => {
                let limit = limit.min(tokens.len());
                let mut chain = self.seed(request, 1, self.block_tokens);
                let tokens = tokens.get(..limit).unwrap_or(tokens);
                hash_tokens(tokens, self.block_tokens as usize, hashes, |digest| {
                    chain = mix(chain, digest);
                    chain
                });
            }
        }
    }

    fn seed(&self, request: &Request, unit: u64, block_size: u32) -> u64 {
        seed(&request.model, request.adapter.as_deref(), request.cache_salt.as_deref(), unit, block_size)
    }
}

/// What the chain starts from, so that equal blocks of different models, adapters, salts or units differ.
fn seed(model: &str, adapter: Option<&str>, cache_salt: Option<&str>, unit: u64, block_size: u32) -> u64 {
    let text_hash = |text: Option<&str>| xxh3_64(text.unwrap_or_default().as_bytes());
    let seed = mix(xxh3_64(model.as_bytes()), text_hash(adapter));
    let seed = mix(seed, text_hash(cache_salt));
    mix(seed, unit << 32 | u64::from(block_size))
}

/// Folds the 128-bit product of both arguments: one multiplication in which every input bit reaches every output bit.
#[inline]
pub(crate) fn mix(hash: u64, block: u64) -> u64 {
    let product = u128::from(hash ^ K0) * u128::from(block ^ K1);
    product as u64 ^ (product >> 64) as u64
}

fn hash_bytes(bytes: &[u8], block_bytes: usize, seed: u64, hashes: &mut Vec<u64>) {
    let mut chain = seed;
    if block_bytes == COMMON_BLOCK_BYTES {
        let (blocks, _) = bytes.as_chunks::<COMMON_BLOCK_BYTES>();
        hashes.extend(blocks.iter().map(|block| {
            chain = mix(chain, xxh3_64(block));
            chain
        }));
    } else {
        hashes.extend(bytes.chunks_exact(block_bytes).map(|block| {
            chain = mix(chain, xxh3_64(block));
            chain
        }));
    }
}

/// Writes what `chained` makes of the hash of each full block.
fn hash_tokens(
    tokens: &[u32],
    block_tokens: usize,
    hashes: &mut Vec<u64>,
    mut chained: impl FnMut(u64) -> u64,
) {
    if block_tokens * size_of::<u32>() == COMMON_BLOCK_BYTES {
        let (blocks, _) = tokens.as_chunks::<{ COMMON_BLOCK_BYTES / size_of::<u32>() }>();
        hashes.extend(blocks.iter().map(|block| {
            let mut buffer = [0; COMMON_BLOCK_BYTES];
            chained(xxh3_64(little_endian(block, &mut buffer)))
        }));
    } else {
        let mut buffer = [0; MAX_BLOCK_TOKENS as usize * size_of::<u32>()];
        hashes.extend(
            tokens
                .chunks_exact(block_tokens)
                .map(|block| chained(xxh3_64(little_endian(block, &mut buffer)))),
        );
    }
}

/// Writes a block of token ids into the buffer and gives the part of it that was written.
#[inline]
fn little_endian<'a, const SIZE: usize>(block: &[u32], buffer: &'a mut [u8; SIZE]) -> &'a [u8] {
    let (slots, _) = buffer.as_chunks_mut::<4>();
    for (slot, token) in slots.iter_mut().zip(block) {
        *slot = token.to_le_bytes();
    }
    buffer.get(..size_of_val(block)).unwrap_or_default()
}
