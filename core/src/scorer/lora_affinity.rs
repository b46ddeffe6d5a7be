//! `lora-affinity-scorer`: endpoints that have the request's adapter (LoRA) loaded first.
//!
//! | the adapter of the request | score |
//! |---|---|
//! | is loaded and serves requests | 1.0 |
//! | is not loaded, but there is room for it | 0.8 |
//! | has requests waiting for it | 0.6 |
//! | is not loaded, and others hold all places | 0.0 |
//! | is unknown to an endpoint that reports no adapters | no score |
//!
//! A request for a plain model scores 1 everywhere. The adapter is `adapter` of the request, else its `model` where any
//! endpoint reports an adapter of that name. No parameters.
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `lora-affinity-scorer`.

use super::Scorer;
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::{AdapterState, Candidate};
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "lora-affinity-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraAffinityScorer;

impl LoraAffinityScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        config.parameters().finish()?;
        Ok(Self)
    }
}

impl Scorer for LoraAffinityScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        for (place, candidate) in out.iter_mut().zip(candidates) {
            *place = self.raw(request, candidate);
        }
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        match candidate.adapter {
            AdapterState::NotNeeded | AdapterState::Running => 1.0,
            AdapterState::Room => 0.8,
            AdapterState::Waiting => 0.6,
            AdapterState::Full => 0.0,
            AdapterState::Unknown => f32::NAN,
        }
    }
}
