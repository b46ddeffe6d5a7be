//! The index of smg, the SGLang model gateway, crate `kv-index`.

use anyhow::{Context, Result};
use kv_index::{ChainBlockMap, ChainIndex, ContentHash, SequenceHash, StoredBlock};

/// Their index, with what they keep per endpoint beside it.
pub struct Smg {
    index: ChainIndex,
    blocks: Vec<ChainBlockMap>,
}

impl Smg {
    /// # Errors
    ///
    /// If their index takes fewer endpoints.
    pub fn new(endpoints: u32) -> Result<Self> {
        let index = ChainIndex::with_max_workers(endpoints as usize);
        for endpoint in 0..endpoints {
            let id = index.intern_worker(&endpoint.to_string()).context("too many endpoints")?;
            anyhow::ensure!(id == endpoint, "their endpoints are numbered in order: {id}");
        }
        Ok(Self { index, blocks: (0..endpoints).map(|_| ChainBlockMap::default()).collect() })
    }

    /// # Errors
    ///
    /// Those of the peer.
    pub fn store(&mut self, endpoint: u32, path: &[u64]) -> Result<()> {
        let block = |&hash: &u64| StoredBlock {
            seq_hash: SequenceHash(hash ^ 0x5555_5555_5555_5555),
            content_hash: ContentHash(hash),
        };
        let blocks: Vec<_> = path.iter().map(block).collect();
        Ok(self.index.apply_stored(endpoint, &blocks, None, &mut self.blocks[endpoint as usize])?)
    }

    pub fn find(&self, path: &[u64], matched: &mut [u32]) {
        matched.fill(0);
        self.index.score_into(
            path,
            |&hash| hash,
            false,
            |endpoint, depth| matched[endpoint as usize] = depth,
        );
    }
}
