//! `kv-cache-utilization-scorer`: the free share of the KV cache.
//!
//! Score: `1 − min(1, u_e)`, with u_e the share in use: as scraped, plus the uncached tokens booked since that scrape
//! over the capacity, when the engine reports one.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `scraped` | 1 to take u as it was last scraped, of any age | 0 |
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
pub struct KvCacheUtilizationScorer {
    scraped: bool,
}

impl KvCacheUtilizationScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let scorer = Self { scraped: parameters.switch("scraped")? };
        parameters.finish()?;
        Ok(scorer)
    }
}

impl Scorer for KvCacheUtilizationScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        for (place, candidate) in out.iter_mut().zip(candidates) {
            // `f32::min` would turn a missing value into 1.
            let used = self.raw(request, candidate);
            *place = if used > 1.0 { 0.0 } else { 1.0 - used };
        }
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        if self.scraped { candidate.scraped_kv_cache_utilization } else { candidate.kv_cache_utilization }
    }
}
