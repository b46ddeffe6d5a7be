//! What the simulated engine does to a prompt: rendering, "tokens" of four bytes, chained block hashes.

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes that count as one token.
pub(crate) const BYTES_PER_TOKEN: usize = 4;

/// Words of exactly one token each, so that an answer of n tokens has 4·n bytes.
const ANSWER_WORDS: [&str; 16] = [
    "the ", "and ", "for ", "not ", "you ", "all ", "any ", "can ", "her ", "was ", "one ", "our ", "out ",
    "day ", "get ", "has ",
];

/// A prompt as the engine sees it: rendered bytes and the seed that keeps models and cache salts apart.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    text: Vec<u8>,
    seed: u64,
}

impl Prompt {
    /// Renders the body of a chat completion with a minimal chat template.
    pub(crate) fn from_chat(body: &Value) -> Option<Self> {
        let mut text = Vec::new();
        for message in body.get("messages")?.as_array()? {
            let role = message.get("role").and_then(Value::as_str)?;
            text.extend_from_slice(format!("<|{role}|>\n").as_bytes());
            append_content(&mut text, message.get("content").unwrap_or(&Value::Null));
            text.push(b'\n');
        }
        text.extend_from_slice(b"<|assistant|>\n");
        Some(Self { text, seed: seed_of(body) })
    }

    /// Takes the prompt of a text completion: a string, a list with one string, or token ids.
    pub(crate) fn from_completion(body: &Value) -> Option<Self> {
        let mut text = Vec::new();
        match body.get("prompt")? {
            Value::String(prompt) => text.extend_from_slice(prompt.as_bytes()),
            Value::Array(items) => {
                for item in items {
                    match item {
                        Value::String(prompt) => text.extend_from_slice(prompt.as_bytes()),
                        Value::Number(id) => text.extend_from_slice(&(id.as_u64()? as u32).to_le_bytes()),
                        _ => return None,
                    }
                }
            }
            _ => return None,
        }
        Some(Self { text, seed: seed_of(body) })
    }

    /// Length in tokens; a started token counts.
    pub(crate) fn tokens(&self) -> usize {
        self.text.len().div_ceil(BYTES_PER_TOKEN)
    }

    /// Chained hashes of the full blocks of `block_size` tokens.
    pub(crate) fn block_hashes(&self, block_size: usize) -> Vec<u64> {
        chain(self.seed, &self.text, block_size)
    }

    /// Chained hashes of the full blocks of the prompt followed by its answer.
    pub(crate) fn block_hashes_with(&self, answer: &str, block_size: usize) -> Vec<u64> {
        let mut text = self.text.clone();
        text.extend_from_slice(answer.as_bytes());
        chain(self.seed, &text, block_size)
    }

    /// The n-th token of the answer: a function of the prompt alone, so that runs repeat.
    pub(crate) fn answer_token(&self, index: usize) -> &'static str {
        let hash = xxh3_64_with_seed(&self.text, self.seed.wrapping_add(index as u64));
        ANSWER_WORDS.get(hash as usize % ANSWER_WORDS.len()).copied().unwrap_or("the ")
    }
}

fn append_content(text: &mut Vec<u8>, content: &Value) {
    match content {
        Value::String(content) => text.extend_from_slice(content.as_bytes()),
        Value::Array(parts) => {
            for part in parts {
                match part.get("text").and_then(Value::as_str) {
                    Some(part) => text.extend_from_slice(part.as_bytes()),
                    None => text.extend_from_slice(part.to_string().as_bytes()),
                }
            }
        }
        _ => {}
    }
}

fn seed_of(body: &Value) -> u64 {
    let part = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    xxh3_64_with_seed(part("cache_salt").as_bytes(), xxh3_64_with_seed(part("model").as_bytes(), 0))
}

fn chain(seed: u64, text: &[u8], block_size: usize) -> Vec<u64> {
    let mut parent = seed;
    text.chunks_exact(block_size * BYTES_PER_TOKEN)
        .map(|block| {
            parent = xxh3_64_with_seed(block, parent);
            parent
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(system: &str, user: &str) -> Value {
        json!({"model": "m", "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]})
    }

    #[test]
    fn blocks_agree_up_to_the_first_difference() {
        let system = "s".repeat(640);
        let one = Prompt::from_chat(&chat(&system, "first question")).unwrap().block_hashes(16);
        let two = Prompt::from_chat(&chat(&system, "other question")).unwrap().block_hashes(16);
        let common = one.iter().zip(&two).take_while(|(a, b)| a == b).count();
        assert_eq!((common, one.len()), (10, 10), "{one:?} {two:?}");
    }

    #[test]
    fn the_next_turn_begins_with_prompt_and_answer() {
        let body = chat("be brief", "what is new?");
        let prompt = Prompt::from_chat(&body).unwrap();
        let answer: String = (0..40).map(|index| prompt.answer_token(index)).collect();
        assert_eq!(answer.len(), 160);
        let mut next = body.clone();
        let turns = next["messages"].as_array_mut().unwrap();
        turns.push(json!({"role": "assistant", "content": answer}));
        turns.push(json!({"role": "user", "content": "and then?"}));
        let next = Prompt::from_chat(&next).unwrap().block_hashes(16);
        assert!(next.starts_with(&prompt.block_hashes_with(&answer, 16)));
    }

    #[test]
    fn model_and_salt_keep_prompts_apart() {
        let mut other = chat(&"s".repeat(100), "q");
        let one = Prompt::from_chat(&other).unwrap().block_hashes(16);
        other["cache_salt"] = json!("tenant");
        assert_ne!(one, Prompt::from_chat(&other).unwrap().block_hashes(16));
    }

    #[test]
    fn token_ids_are_one_token_each() {
        let prompt = Prompt::from_completion(&json!({"model": "m", "prompt": [1, 2, 300_000]})).unwrap();
        assert_eq!(prompt.tokens(), 3);
        assert!(Prompt::from_completion(&json!({"model": "m", "prompt": {"a": 1}})).is_none());
    }
}
