//! Any sequence of calls: the process lives, and every call keeps the contract of the header.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../call_sequence.rs"]
mod call_sequence;

fuzz_target!(|bytes: &[u8]| call_sequence::play(bytes));
