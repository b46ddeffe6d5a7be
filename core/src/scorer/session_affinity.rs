//! `session-affinity-scorer`: the endpoint that served the session last.
//!
//! Score: 1 for that endpoint, 0 for the others; 0 for all when the request has no session, or its session is new or
//! forgotten. The scheduler remembers sessions while a profile has this scorer.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `ttl_seconds` | seconds after its last request until a session is forgotten | 300 |
//! | `max_sessions` | sessions remembered, the least recent ones go first (about 40 bytes each) | 65 536 |
//!
//! Source: the endpoint picker of the Gateway API Inference Extension, `session-affinity-scorer`, which keeps the
//! endpoint in a header of the client's next request.

use super::Scorer;
use crate::Error;
use crate::config::ScorerConfig;
use crate::endpoint::Candidate;
use crate::profile::RequestView;

/// Name in configurations.
pub const TYPE: &str = "session-affinity-scorer";

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct SessionAffinityScorer {
    pub(crate) ttl_seconds: f64,
    pub(crate) max_sessions: usize,
}

impl SessionAffinityScorer {
    pub(crate) fn from_config(config: &ScorerConfig) -> Result<Self, Error> {
        let mut parameters = config.parameters();
        let scorer = Self {
            ttl_seconds: parameters.number("ttl_seconds", 300.0, 0.0..=31_536_000.0)?,
            max_sessions: parameters.number("max_sessions", 65_536.0, 1.0..=1e9)? as usize,
        };
        parameters.finish()?;
        Ok(scorer)
    }
}

impl Scorer for SessionAffinityScorer {
    fn name(&self) -> &'static str {
        TYPE
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        for (place, candidate) in out.iter_mut().zip(candidates) {
            *place = self.raw(request, candidate);
        }
    }

    fn raw(&self, request: &RequestView, candidate: &Candidate) -> f32 {
        f32::from(request.session_endpoint == Some(candidate.endpoint))
    }
}
