//! Block hashes against their definition, written out a second time, and against golden vectors.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking")]

use p3sched::block_hash::BlockHasher;
use p3sched::{Prompt, Request};
use proptest::prelude::*;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

#[derive(Deserialize)]
struct Vector {
    name: String,
    model: String,
    adapter: Option<String>,
    cache_salt: Option<String>,
    block_tokens: u32,
    bytes_per_token: u32,
    max_prefix_tokens: Option<u32>,
    prompt_hex: Option<String>,
    prompt_tokens: Option<Vec<u32>>,
    /// Hexadecimal, since not every language has 64-bit numbers in JSON.
    hashes: Vec<String>,
}

fn mix(hash: u64, block: u64) -> u64 {
    let product = u128::from(hash ^ 0x9E37_79B9_7F4A_7C15) * u128::from(block ^ 0xD6E8_FEB8_6659_FD93);
    (product & u128::from(u64::MAX)) as u64 ^ (product >> 64) as u64
}

/// The definition, as it stands in the documentation.
fn reference(request: &Request, block_tokens: u32, bytes_per_token: u32, limit: Option<u32>) -> Vec<u64> {
    let (bytes, token_bytes, unit, size) = match &request.prompt {
        Prompt::Bytes(bytes) => (bytes.clone(), bytes_per_token, 0, block_tokens * bytes_per_token),
        Prompt::Tokens(tokens) => {
            (tokens.iter().flat_map(|token| token.to_le_bytes()).collect(), 4, 1, block_tokens)
        }
        _ => unreachable!(),
    };
    let text_hash = |text: &Option<String>| xxh3_64(text.clone().unwrap_or_default().as_bytes());
    let mut hash = mix(xxh3_64(request.model.as_bytes()), text_hash(&request.adapter));
    hash = mix(mix(hash, text_hash(&request.cache_salt)), (unit << 32) + u64::from(size));
    let limit = limit.map_or(bytes.len(), |tokens| bytes.len().min((tokens * token_bytes) as usize));
    let blocks = bytes[..limit].chunks((block_tokens * token_bytes) as usize);
    let full = blocks.filter(|block| block.len() == (block_tokens * token_bytes) as usize);
    full.map(|block| {
        hash = mix(hash, xxh3_64(block));
        hash
    })
    .collect()
}

fn hashes(hasher: &BlockHasher, request: &Request) -> Vec<u64> {
    // What was there before is replaced.
    let mut hashes = vec![1, 2, 3];
    hasher.hash(request, &mut hashes);
    hashes
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn golden_vectors() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("../testdata/block_hashes.json")).unwrap();
    assert!(vectors.len() > 15);
    for vector in vectors {
        let mut request = match (vector.prompt_hex, vector.prompt_tokens) {
            (Some(hex), None) => Request::from_text(vector.model, from_hex(&hex)),
            (None, Some(tokens)) => Request::from_tokens(vector.model, tokens),
            _ => panic!("{}: either bytes or tokens", vector.name),
        };
        (request.adapter, request.cache_salt) = (vector.adapter, vector.cache_salt);
        let hasher =
            BlockHasher::new(vector.block_tokens, vector.bytes_per_token, vector.max_prefix_tokens).unwrap();
        let found: Vec<String> =
            hashes(&hasher, &request).iter().map(|hash| format!("{hash:016x}")).collect();
        assert_eq!(found, vector.hashes, "{}", vector.name);
    }
}

#[test]
fn block_sizes_out_of_range_are_errors() {
    for (block_tokens, bytes_per_token, message) in [
        (0, 4, "invalid configuration: block_size_tokens must be 1 to 1024: `0`"),
        (1025, 4, "invalid configuration: block_size_tokens must be 1 to 1024: `1025`"),
        (16, 0, "invalid configuration: bytes_per_token must be 1 to 64: `0`"),
        (16, 65, "invalid configuration: bytes_per_token must be 1 to 64: `65`"),
    ] {
        assert_eq!(BlockHasher::new(block_tokens, bytes_per_token, None).unwrap_err().to_string(), message);
    }
}

#[test]
fn prompt_lengths_in_tokens() {
    let hasher = BlockHasher::default();
    for (bytes, tokens) in [(0, 0), (1, 1), (4, 1), (5, 2), (400, 100)] {
        assert_eq!(hasher.prompt_tokens(&Request::from_text("m", vec![b'x'; bytes])), tokens);
        assert_eq!(hasher.prompt_tokens(&Request::from_tokens("m", vec![7; bytes])), bytes as u32);
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..600).prop_map(Prompt::Bytes);
    let tokens = proptest::collection::vec(any::<u32>(), 0..300).prop_map(Prompt::Tokens);
    let name = proptest::option::of("[a-c]{0,3}");
    ("[a-c]{0,3}", name.clone(), name, prop_oneof![bytes, tokens]).prop_map(
        |(model, adapter, cache_salt, prompt)| {
            let mut request = Request::from_text(model, "");
            (request.adapter, request.cache_salt, request.prompt) = (adapter, cache_salt, prompt);
            request
        },
    )
}

fn block_tokens() -> impl Strategy<Value = u32> {
    prop_oneof![Just(16), 1_u32..40]
}

proptest! {
    #[test]
    fn as_defined(request in any_request(), block_tokens in block_tokens(), bytes_per_token in 1_u32..6, limit in proptest::option::of(0_u32..200)) {
        let hasher = BlockHasher::new(block_tokens, bytes_per_token, limit).unwrap();
        prop_assert_eq!(hashes(&hasher, &request), reference(&request, block_tokens, bytes_per_token, limit));
    }

    /// A longer prompt has the hashes of the shorter one, and prompts have in common just the blocks before they differ.
    #[test]
    fn common_prefix(bytes in proptest::collection::vec(any::<u8>(), 1..600), at in any::<prop::sample::Index>(), more in proptest::collection::vec(any::<u8>(), 0..200)) {
        let hasher = BlockHasher::default();
        let whole = hashes(&hasher, &Request::from_text("m", bytes.clone()));
        prop_assert!(hashes(&hasher, &Request::from_text("m", [&bytes[..], &more].concat())).starts_with(&whole));

        let at = at.index(bytes.len());
        let mut other = bytes;
        other[at] ^= 1;
        let other = hashes(&hasher, &Request::from_text("m", other));
        let common = whole.iter().zip(&other).take_while(|(one, other)| one == other).count();
        prop_assert_eq!(common, (at / 64).min(whole.len()));
        // Once different, different for ever.
        prop_assert!(whole[common..].iter().zip(&other[common..]).all(|(one, other)| one != other));
    }

    /// Requests that differ in model, adapter or salt have no hash in common.
    #[test]
    fn isolation(one in any_request(), other in any_request()) {
        let key = |request: &Request| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            (request.model.clone(), text(&request.adapter), text(&request.cache_salt))
        };
        let mut same_prompt = other.clone();
        same_prompt.prompt = one.prompt.clone();
        let hasher = BlockHasher::new(1, 4, None).unwrap();
        let (hashes_one, hashes_other) = (hashes(&hasher, &one), hashes(&hasher, &same_prompt));
        prop_assume!(!hashes_one.is_empty());
        if key(&one) == key(&other) {
            prop_assert_eq!(hashes_one, hashes_other);
        } else {
            prop_assert!(hashes_one.iter().all(|hash| !hashes_other.contains(hash)));
        }
    }
}
