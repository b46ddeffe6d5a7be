//! Prompts that look like text, are unique where they have to be, and are the same in every run.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The words that prompts are made of; the tokenizer of the vLLM model is trained on them too.
const WORDS: &str = include_str!("words.txt");

/// Bytes that count as one token when a prompt is made to measure.
pub const BYTES_PER_TOKEN: usize = 4;

/// A stream of pseudo-random text.
#[derive(Debug)]
pub struct TextGenerator {
    words: Vec<&'static str>,
    random: ChaCha8Rng,
}

impl TextGenerator {
    /// Starts the stream number `stream` of the workload `seed`; equal numbers give equal text.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        Self { words: WORDS.split_whitespace().collect(), random }
    }

    /// Sentences of exactly `tokens` tokens of four bytes.
    pub fn sentences(&mut self, tokens: usize) -> String {
        let length = tokens * BYTES_PER_TOKEN;
        let mut text = String::with_capacity(length + 16);
        while text.len() < length {
            let words = self.random.random_range(6..16);
            for position in 0..words {
                let word = self.words.choose(&mut self.random).copied().unwrap_or("word");
                if position == 0 {
                    text.push_str(&word.get(..1).unwrap_or_default().to_uppercase());
                    text.push_str(word.get(1..).unwrap_or_default());
                } else {
                    text.push(' ');
                    text.push_str(word);
                }
            }
            text.push_str(". ");
        }
        text.truncate(length);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_made_to_measure_and_repeats() {
        let text = TextGenerator::new(7, 1).sentences(1400);
        assert_eq!(text.len(), 5600);
        assert_eq!(text, TextGenerator::new(7, 1).sentences(1400));
        assert!(text.is_ascii() && text.split(' ').count() > 700, "{text}");
    }

    #[test]
    fn streams_and_later_calls_differ_from_the_first_block_on() {
        let mut one = TextGenerator::new(7, 1);
        let heads = [one.sentences(16), one.sentences(16), TextGenerator::new(7, 2).sentences(16)];
        assert!(heads[0] != heads[1] && heads[0] != heads[2], "{heads:?}");
    }
}
