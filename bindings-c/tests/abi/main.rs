//! The C functions, called through the C ABI: the corpus of every language, and calls that no program should make.
#![expect(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test calls C functions and fails by panicking"
)]

#[path = "../../fuzz/call_sequence.rs"]
mod call_sequence;
mod client;
mod corpus;
mod session;

use proptest::prelude::*;

proptest! {
    /// The same as `fuzz/run`, without its guidance.
    #[test]
    fn no_sequence_of_calls_ends_the_process(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        call_sequence::play(&bytes);
    }
}
