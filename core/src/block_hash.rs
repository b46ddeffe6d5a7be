//! block_hash
