//! The prefill rate of an endpoint, learned from first-token times.

/// Prompts shorter than this say more about fixed overheads than about the prefill rate.
const MINIMUM_SAMPLE_TOKENS: u64 = 128;

/// Weight that the past keeps when a sample arrives: the last twenty or so samples decide.
const MEMORY: f64 = 0.95;

/// Tokens per second as a ratio of decayed sums, so that long prefills count more than short ones.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PrefillRate {
    tokens: f64,
    seconds: f64,
    /// The ratio, so that a pick does not divide.
    tokens_per_second: f64,
}

impl PrefillRate {
    /// Takes note that `tokens` uncached tokens had passed through prefill `seconds` after a pick.
    pub(crate) fn record(&mut self, tokens: u64, seconds: f64) {
        if tokens < MINIMUM_SAMPLE_TOKENS || seconds <= 0.0 {
            return;
        }
        self.tokens = self.tokens * MEMORY + tokens as f64;
        self.seconds = self.seconds * MEMORY + seconds;
        self.tokens_per_second = self.tokens / self.seconds;
    }

    /// The two sums, to be kept.
    pub(crate) fn sums(&self) -> [f64; 2] {
        [self.tokens, self.seconds]
    }

    /// A rate from kept sums; `None` if they cannot be such.
    pub(crate) fn from_sums([tokens, seconds]: [f64; 2]) -> Option<Self> {
        let is_possible = |sum: f64| sum.is_finite() && sum >= 0.0;
        let tokens_per_second = if seconds > 0.0 { tokens / seconds } else { 0.0 };
        (is_possible(tokens) && is_possible(seconds)).then_some(Self { tokens, seconds, tokens_per_second })
    }

    /// The learned rate; `None` before the first sample.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0).then_some(self.tokens_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_prefills_decide_and_short_ones_are_ignored() {
        let mut rate = PrefillRate::default();
        assert_eq!(rate.tokens_per_second(), None);
        rate.record(127, 10.0);
        assert_eq!(rate.tokens_per_second(), None);
        rate.record(8_000, 1.0);
        rate.record(8_000, 1.0);
        assert!((rate.tokens_per_second().unwrap() - 8_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_changed_rate_is_followed() {
        let mut rate = PrefillRate::default();
        (0..100).for_each(|_| rate.record(1_000, 1.0));
        (0..100).for_each(|_| rate.record(4_000, 1.0));
        assert!((3_900.0..=4_000.0).contains(&rate.tokens_per_second().unwrap()));
    }
}
