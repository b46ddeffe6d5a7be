//! `bursts`: steady [conversations](super::shared_prefix), and now and then many requests with one hot prefix at once.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `burst_requests` | requests of a burst | 60 |
//! | `burst_every` | seconds between two bursts | 30 |
//! | `burst_prefix_tokens` | tokens that a burst's requests share | 1400 |
//! | `burst_tail_tokens` | mean tokens that each has for itself, ±50 % | 800 |
//!
//! All parameters of `shared-prefix` are set as `steady.groups=…`.

use serde::{Deserialize, Serialize};

use super::Draws;
use super::shared_prefix::SharedPrefix;
use crate::trace::{Chain, SECOND, Trace, TraceRequest};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of the module says what each is")]
pub struct Bursts {
    pub burst_requests: u32,
    pub burst_every: f64,
    pub burst_prefix_tokens: u32,
    pub burst_tail_tokens: u32,
    pub steady: SharedPrefix,
}

impl Default for Bursts {
    fn default() -> Self {
        Self {
            burst_requests: 60,
            burst_every: 30.0,
            burst_prefix_tokens: 1400,
            burst_tail_tokens: 800,
            steady: SharedPrefix::default(),
        }
    }
}

impl Bursts {
    pub(super) fn generate(&self, seed: u64) -> Trace {
        let mut draws = Draws::new(seed);
        let mut trace = Trace::new("bursts", self.steady.block_tokens);
        let template = TraceRequest::new(0, Chain::default());
        self.steady.add_to(&mut trace, &mut draws, template);
        let end = trace.requests.iter().map(|request| request.arrival).max().unwrap_or(0);
        let period = ((self.burst_every * SECOND) as u64).max(1);
        let burst = SharedPrefix {
            system_tokens: self.burst_prefix_tokens,
            question_tokens: self.burst_tail_tokens,
            turns: 1,
            ..self.steady
        };
        for at in (1..).map(|number| number * period).take_while(|&at| at <= end) {
            let hot = draws.contents(self.burst_prefix_tokens, self.steady.block_tokens);
            for _ in 0..self.burst_requests {
                burst.converse(&mut trace, &mut draws, at, hot.clone(), template);
            }
        }
        trace.sort();
        trace
    }
}
