//! `kv-cache-utilization-scorer`: the free share of the KV cache.
//!
//! Score: `1 − min(1, u_e)`, with u_e the share in use: as scraped, plus the uncached tokens booked since that scrape
//! over the capacity, when the engine reports one. No parameters.
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `kv-cache-utilization-scorer` (`1 − u`).

use super::Scorer;
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "kv-cache-utilization-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvCacheUtilizationScorer;

impl KvCacheUtilizationScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        config.parameters().finish()?;
        Ok(Self)
    }
}

impl Scorer for KvCacheUtilizationScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, _request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        for (place, candidate) in out.iter_mut().zip(candidates) {
            // `f32::min` would turn a missing value into 1.
            let used = candidate.kv_cache_utilization;
            *place = if used > 1.0 { 0.0 } else { 1.0 - used };
        }
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.kv_cache_utilization
    }
}
