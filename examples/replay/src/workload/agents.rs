//! `agents`: tasks in steps; every step's prompt is all of the step before, its answer and what a tool returned.
//!
//! | parameter | unit | default |
//! |---|---|---|
//! | `kinds` | agents with instructions and tools of their own | 8 |
//! | `zipf` | skew of their popularity, as in [`shared-prefix`](super::shared_prefix) | 0.8 |
//! | `instruction_tokens` | tokens of instructions and tools | 6000 |
//! | `steps` | requests of a task | 8 |
//! | `tool_tokens` | mean tokens that a tool returns, ±50 % | 1200 |
//! | `answer_tokens` | mean tokens of a step's answer, ±50 % | 150 |
//! | `tool_seconds` | mean seconds that a tool takes | 2 |
//! | `helpers` | helpers of a task: each starts with the task's first step and goes its own way | 2 |
//! | `tasks` | how many | 300 |
//! | `rate` | tasks that start per second, independently of each other | 0.5 |
//! | `block_tokens` | tokens per block | 16 |

use serde::{Deserialize, Serialize};

use super::{Draws, GrowingText, Turns};
use crate::trace::{Chain, Trace, TraceRequest};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of the module says what each is")]
pub struct Agents {
    pub kinds: u32,
    pub zipf: f64,
    pub instruction_tokens: u32,
    pub steps: u32,
    pub tool_tokens: u32,
    pub answer_tokens: u32,
    pub tool_seconds: f64,
    pub helpers: u32,
    pub tasks: u32,
    pub rate: f64,
    pub block_tokens: u32,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            kinds: 8,
            zipf: 0.8,
            instruction_tokens: 6000,
            steps: 8,
            tool_tokens: 1200,
            answer_tokens: 150,
            tool_seconds: 2.0,
            helpers: 2,
            tasks: 300,
            rate: 0.5,
            block_tokens: 16,
        }
    }
}

impl Agents {
    pub(super) fn generate(&self, seed: u64) -> Trace {
        let mut draws = Draws::new(seed);
        let mut trace = Trace::new("agents", self.block_tokens);
        let instructions: Vec<_> = (0..self.kinds.max(1))
            .map(|_| draws.contents(self.instruction_tokens, self.block_tokens))
            .collect();
        let mut start = 0;
        for _ in 0..self.tasks {
            start += draws.gap(self.rate);
            let kind = draws.popular(self.kinds, self.zipf);
            let assignment = draws.tokens(self.tool_tokens);
            let mut head = GrowingText::new(self.block_tokens);
            head.append(instructions.get(kind).cloned().unwrap_or_default(), self.instruction_tokens);
            head.append(draws.contents(assignment, self.block_tokens), assignment);
            for worker in 0..=self.helpers {
                let delay = if worker == 0 { 0 } else { draws.around(self.tool_seconds) };
                self.work(&mut trace, &mut draws, start + delay, &head);
            }
        }
        trace.sort();
        trace
    }

    /// Adds the steps of the agent or of a helper.
    fn work(&self, trace: &mut Trace, draws: &mut Draws, start: u64, head: &GrowingText) {
        let mut text = GrowingText { contents: head.contents.clone(), ..*head };
        let mut turns = Turns { start, session: draws.next_content, turns: Vec::new() };
        for _ in 0..self.steps.max(1) {
            let (answer, result) = (draws.tokens(self.answer_tokens), draws.tokens(self.tool_tokens));
            turns.turns.push((text.tokens, answer, draws.around(self.tool_seconds)));
            let contents = draws.contents(answer, self.block_tokens);
            text.append(contents, answer);
            let contents = draws.contents(result, self.block_tokens);
            text.append(contents, result);
        }
        let chain = trace.add_chain(text.contents);
        turns.push(trace, chain, TraceRequest::new(0, Chain::default()));
    }
}
