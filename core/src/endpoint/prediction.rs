//! Whether an endpoint's cache holds what the prefix index says.

/// Predictions in a row that came to nothing after which an endpoint's entries are forgotten …
const MISSES: u32 = 8;

/// … when together they predicted at least this many cached tokens.
const MISSED_TOKENS: u64 = 4_096;

/// Predicted against reported cached tokens of one endpoint.
///
/// An engine that finds nothing where a hit was predicted, time after time, has another block size, was restarted, or
/// keys its cache by something that the scheduler does not see. A miss counts only if its request was picked after the
/// miss before it had ended: a burst that shares a prefix which nobody has computed yet is one miss, not many.
#[derive(Debug, Clone, Default)]
pub(crate) struct CachePrediction {
    /// Tokens that completed requests were expected to find.
    pub(crate) predicted_tokens: u64,
    /// Tokens that the engine reported as found for the same requests.
    pub(crate) actual_tokens: u64,
    /// Predictions in a row that came to nothing.
    pub(crate) misses: u32,
    /// Whether the endpoint's entries were forgotten for it, and no prediction has come true since.
    pub(crate) is_distrusted: bool,
    missed_tokens: u64,
    missed_at: u64,
}

impl CachePrediction {
    /// Compares one request; true if the endpoint's entries are to be forgotten now. Times in nanoseconds.
    pub(crate) fn record(&mut self, predicted: u32, actual: u32, picked_at: u64, now: u64) -> bool {
        self.predicted_tokens += u64::from(predicted);
        self.actual_tokens += u64::from(actual);
        if actual > 0 {
            self.forget_misses();
            return false;
        }
        if predicted == 0 || (self.misses > 0 && picked_at < self.missed_at) {
            return false;
        }
        self.misses = self.misses.saturating_add(1);
        self.missed_tokens += u64::from(predicted);
        self.missed_at = now;
        if self.is_distrusted || self.misses < MISSES || self.missed_tokens < MISSED_TOKENS {
            return false;
        }
        self.is_distrusted = true;
        true
    }

    /// Starts anew, after a prediction came true or the engine restarted.
    pub(crate) fn forget_misses(&mut self) {
        (self.misses, self.missed_tokens, self.missed_at) = (0, 0, 0);
        self.is_distrusted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records `count` requests one after the other; how many of them asked for the entries to be forgotten.
    fn record(prediction: &mut CachePrediction, count: u64, predicted: u32, actual: u32) -> usize {
        let start = prediction.missed_at;
        (0..count).filter(|n| prediction.record(predicted, actual, start + 2 * n, start + 2 * n + 1)).count()
    }

    #[test]
    fn eight_misses_in_a_row_clear_once() {
        let mut prediction = CachePrediction::default();
        assert_eq!(record(&mut prediction, 7, 1_000, 0), 0);
        assert_eq!(record(&mut prediction, 1, 1_000, 0), 1);
        assert_eq!(record(&mut prediction, 50, 1_000, 0), 0);
        assert!(prediction.is_distrusted);
        assert_eq!((prediction.predicted_tokens, prediction.actual_tokens), (58_000, 0));
        record(&mut prediction, 1, 1_000, 16);
        assert_eq!((prediction.misses, prediction.is_distrusted), (0, false));
        assert_eq!(record(&mut prediction, 50, 1_000, 0), 1, "armed again by a hit");
    }

    #[test]
    fn hits_small_predictions_and_cold_requests_clear_nothing() {
        let mut prediction = CachePrediction::default();
        for _ in 0..10 {
            assert_eq!(record(&mut prediction, 7, 1_000, 0), 0);
            assert_eq!(record(&mut prediction, 1, 1_000, 1), 0);
        }
        assert_eq!(record(&mut prediction, 50, 0, 0), 0);
        assert_eq!(record(&mut prediction, 50, 64, 0), 0, "3 200 tokens in all");
        assert_eq!(record(&mut prediction, 50, 64, 0), 1);
    }

    #[test]
    fn a_burst_is_one_miss() {
        let mut prediction = CachePrediction::default();
        assert!((0..100).all(|n| !prediction.record(1_000, 0, 5, 10 + n)));
        assert_eq!(prediction.misses, 1);
    }
}
