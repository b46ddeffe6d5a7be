//! Multi-turn conversations in groups, and the order in which clients take them up.

use super::{Level, Outcome, Plan, TextGenerator, Turn};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One conversation between requests.
#[derive(Debug)]
pub(crate) struct Conversation {
    turns: Vec<Turn>,
    asked: usize,
    questions: TextGenerator,
}

/// The conversations of one level that wait for a client.
#[derive(Debug)]
pub(crate) struct Conversations {
    ready: Vec<Conversation>,
    random: ChaCha8Rng,
    question_tokens: usize,
    turns: usize,
}

/// System prompts of all groups.
pub(crate) fn system_prompts(plan: &Plan) -> Vec<String> {
    let mut text = TextGenerator::new(plan.seed, 0);
    (0..plan.groups).map(|_| text.sentences(plan.system_tokens)).collect()
}

impl Conversations {
    /// Opens the conversations of the level with number `number`; no text but the system prompts repeats between
    /// levels.
    pub(crate) fn open(plan: &Plan, number: usize, level: &Level, systems: &[String]) -> Self {
        let systems = systems.iter().cycle().take(level.conversations);
        let ready = systems.enumerate().map(|(index, system)| Conversation {
            turns: vec![Turn::system(system)],
            asked: 0,
            questions: TextGenerator::new(plan.seed, ((number + 1) * 1_000_000 + index) as u64),
        });
        Self {
            ready: ready.collect(),
            random: ChaCha8Rng::seed_from_u64(plan.seed + number as u64),
            question_tokens: plan.user_tokens,
            turns: level.turns,
        }
    }

    /// Takes one of the conversations that have advanced least, at random, and asks its next question.
    pub(crate) fn take(&mut self) -> Option<Conversation> {
        let least = self.ready.iter().map(|conversation| conversation.asked).min()?;
        let behind = self.ready.iter().enumerate().filter(|(_, conversation)| conversation.asked == least);
        let behind: Vec<_> = behind.map(|(index, _)| index).collect();
        let chosen = *behind.get(self.random.random_range(0..behind.len()))?;
        let mut conversation = self.ready.swap_remove(chosen);
        conversation.asked += 1;
        let question = conversation.questions.sentences(self.question_tokens);
        conversation.turns.push(Turn::user(question));
        Some(conversation)
    }

    /// Puts a conversation back after its answer, if it has turns left.
    pub(crate) fn put_back(&mut self, mut conversation: Conversation, outcome: &Outcome) {
        if conversation.asked < self.turns && outcome.error.is_none() {
            conversation.turns.push(Turn::assistant(&outcome.text));
            self.ready.push(conversation);
        }
    }
}

impl Conversation {
    /// The messages so far, the new question last.
    pub(crate) fn turns(&self) -> &[Turn] {
        &self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::EngineKind;

    #[test]
    fn every_turn_is_asked_once_and_begins_with_the_one_before() {
        let plan = Plan::new(EngineKind::Simulator, false);
        let systems = system_prompts(&plan);
        let level = Level { concurrency: 1, conversations: 30, turns: 3 };
        let mut conversations = Conversations::open(&plan, 0, &level, &systems);
        let answer = Outcome { text: "fine".to_owned(), ..Outcome::default() };
        let mut asked = Vec::new();
        while let Some(conversation) = conversations.take() {
            asked.push(conversation.turns().to_vec());
            conversations.put_back(conversation, &answer);
        }
        assert_eq!(asked.len(), 90);
        assert!(asked[..30].iter().all(|turns| turns.len() == 2), "all first turns come first");
        let last = &asked[89];
        assert_eq!(last.len(), 6);
        assert!(asked.iter().filter(|turns| last.starts_with(turns)).count() == 3);
    }

    #[test]
    fn the_working_set_is_about_two_and_a_half_caches() {
        let plan = Plan::new(EngineKind::Simulator, false);
        let cache = 16_384.0;
        for level in &plan.levels {
            let own = level.conversations * level.turns * (plan.user_tokens + plan.answer_tokens + 8);
            let ratio = (plan.groups * plan.system_tokens + own) as f64 / cache;
            assert!((2.1..2.9).contains(&ratio), "{level:?}: {ratio}");
        }
    }
}
