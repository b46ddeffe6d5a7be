//! `shared-prefix`: conversations in groups; a group's conversations begin with the same system prompt.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `groups` | system prompts | 32 |
//! | `zipf` | skew of the groups' popularity: the k-th is chosen in proportion to k^-zipf; 0 for equally popular ones | 0 |
//! | `system_tokens` | tokens of a system prompt | 1024 |
//! | `question_tokens` | mean tokens of a question, ±50 % | 64 |
//! | `answer_tokens` | mean tokens of an answer, ±50 % | 64 |
//! | `turns` | requests of a conversation | 1 |
//! | `think_seconds` | mean seconds between an answer and the next question | 5 |
//! | `conversations` | how many | 2000 |
//! | `rate` | conversations that start per second, independently of each other | 10 |
//! | `block_tokens` | tokens per block | 16 |

use serde::{Deserialize, Serialize};

use super::{Draws, GrowingText, Turns};
use crate::trace::{Chain, Trace, TraceRequest};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of the module says what each is")]
pub struct SharedPrefix {
    pub groups: u32,
    pub zipf: f64,
    pub system_tokens: u32,
    pub question_tokens: u32,
    pub answer_tokens: u32,
    pub turns: u32,
    pub think_seconds: f64,
    pub conversations: u32,
    pub rate: f64,
    pub block_tokens: u32,
}

impl Default for SharedPrefix {
    fn default() -> Self {
        Self {
            groups: 32,
            zipf: 0.0,
            system_tokens: 1024,
            question_tokens: 64,
            answer_tokens: 64,
            turns: 1,
            think_seconds: 5.0,
            conversations: 2000,
            rate: 10.0,
            block_tokens: 16,
        }
    }
}

impl SharedPrefix {
    pub(super) fn generate(&self, seed: u64) -> Trace {
        let mut trace = Trace::new("shared-prefix", self.block_tokens);
        self.add_to(&mut trace, &mut Draws::new(seed), TraceRequest::new(0, Chain::default()));
        trace.sort();
        trace
    }

    /// Adds all conversations, as requests like the template.
    pub(super) fn add_to(&self, trace: &mut Trace, draws: &mut Draws, template: TraceRequest) {
        let systems: Vec<_> =
            (0..self.groups.max(1)).map(|_| draws.contents(self.system_tokens, self.block_tokens)).collect();
        let mut start = 0;
        for _ in 0..self.conversations {
            start += draws.gap(self.rate);
            let group = draws.popular(self.groups, self.zipf);
            let system = systems.get(group).cloned().unwrap_or_default();
            self.converse(trace, draws, start, system, template);
        }
    }

    /// Adds one conversation after a system prompt.
    pub(super) fn converse(
        &self,
        trace: &mut Trace,
        draws: &mut Draws,
        start: u64,
        system: std::ops::Range<u64>,
        template: TraceRequest,
    ) {
        let mut text = GrowingText::new(self.block_tokens);
        text.append(system, self.system_tokens);
        let session = draws.next_content;
        let mut turns = Turns { start, session, turns: Vec::new() };
        for _ in 0..self.turns.max(1) {
            let (question, answer) = (draws.tokens(self.question_tokens), draws.tokens(self.answer_tokens));
            let think_time = draws.around(self.think_seconds);
            let contents = draws.contents(question, self.block_tokens);
            text.append(contents, question);
            turns.turns.push((text.tokens, answer, think_time));
            let contents = draws.contents(answer, self.block_tokens);
            text.append(contents, answer);
        }
        let chain = trace.add_chain(text.contents);
        turns.push(trace, chain, template);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_begins_with_all_of_the_one_before() {
        let workload = SharedPrefix { groups: 1, conversations: 2, turns: 3, ..SharedPrefix::default() };
        let trace = workload.generate(1);
        let of = |session| {
            let turns = trace.requests.iter().filter(move |request| request.session == Some(session));
            turns.map(|request| trace.blocks_of(request)).collect::<Vec<_>>()
        };
        let sessions: Vec<_> = trace.requests.iter().filter(|r| r.previous.is_none()).collect();
        let [one, two] = [0, 1].map(|at: usize| of(sessions[at].session.unwrap()));
        assert_eq!(one.len(), 3);
        assert!(one[1].starts_with(one[0]) && one[2].starts_with(one[1]));
        let shared = one[0].iter().zip(two[0]).take_while(|(a, b)| a == b).count();
        assert_eq!(shared, 1024 / 16, "the system prompt, and no more");
    }
}
