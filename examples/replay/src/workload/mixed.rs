//! `mixed`: several models, each with adapters, whose conversations share nothing across models and adapters.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `models` | models | 2 |
//! | `adapters` | adapters of each model | 3 |
//! | `zipf` | skew of the popularity of models with adapters, as in [`shared-prefix`](super::shared_prefix) | 0.8 |
//!
//! All parameters of `shared-prefix` are set as `conversation.groups=…`; groups are those of one model or adapter.

use serde::{Deserialize, Serialize};

use super::Draws;
use super::shared_prefix::SharedPrefix;
use crate::trace::{Chain, Trace, TraceRequest};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of the module says what each is")]
pub struct Mixed {
    pub models: u16,
    pub adapters: u16,
    pub zipf: f64,
    pub conversation: SharedPrefix,
}

impl Default for Mixed {
    fn default() -> Self {
        let conversation = SharedPrefix { groups: 4, ..SharedPrefix::default() };
        Self { models: 2, adapters: 3, zipf: 0.8, conversation }
    }
}

impl Mixed {
    pub(super) fn generate(&self, seed: u64) -> Trace {
        let mut draws = Draws::new(seed);
        let (models, adapters) = (self.models.max(1), self.adapters);
        let kinds = models * (adapters + 1);
        let mut trace = Trace::new("mixed", self.conversation.block_tokens);
        trace.models = (0..models).map(|model| format!("model-{model}")).collect();
        trace.adapters = (0..models * adapters).map(|adapter| format!("adapter-{adapter}")).collect();
        let groups: Vec<_> = (0..u32::from(kinds) * self.conversation.groups.max(1))
            .map(|_| draws.contents(self.conversation.system_tokens, self.conversation.block_tokens))
            .collect();
        let mut start = 0;
        for _ in 0..self.conversation.conversations {
            start += draws.gap(self.conversation.rate);
            let kind = draws.popular(kinds.into(), self.zipf);
            let group = draws.popular(self.conversation.groups, self.conversation.zipf);
            let system = groups.get(kind * self.conversation.groups.max(1) as usize + group).cloned();
            let (model, variant) = (kind as u16 % models, kind as u16 / models);
            let template = TraceRequest {
                model,
                adapter: variant.checked_sub(1).map(|adapter| model * adapters + adapter),
                ..TraceRequest::new(0, Chain::default())
            };
            self.conversation.converse(&mut trace, &mut draws, start, system.unwrap_or_default(), template);
        }
        trace.sort();
        trace
    }
}
