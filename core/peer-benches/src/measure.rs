//! Times by rounds that take turns, so that whatever else the machine does hits all sides alike.

use std::time::{Duration, Instant};

use crate::Settings;

/// Runs an operation so many times and gives the time that took.
pub type Work<'a> = &'a mut dyn FnMut(u32) -> Duration;

/// Values of one quantity, one per round, in the order of the rounds.
#[derive(Debug, Clone)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn new(values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a sample has at least one value");
        Self(values)
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Distance between the quartiles over the median: 0.1 says that half of the rounds lie within 10 %.
    pub fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / self.median()
    }

    /// Round by round, this quantity over another one.
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(this, other)| this / other).collect())
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }
}

/// Nanoseconds per operation of each work, all works once per round.
pub fn take_turns<const N: usize>(settings: &Settings, mut works: [Work<'_>; N]) -> [Sample; N] {
    let counts = works.each_mut().map(|work| calibrate(settings, work));
    let mut samples = [const { Vec::new() }; N];
    for _ in 0..settings.rounds {
        for ((work, count), sample) in works.iter_mut().zip(counts).zip(&mut samples) {
            sample.push(work(count).as_nanos() as f64 / f64::from(count));
        }
    }
    samples.map(Sample::new)
}

/// A work that does nothing but the operation.
pub fn repeat(mut operation: impl FnMut()) -> impl FnMut(u32) -> Duration {
    move |count| {
        let start = Instant::now();
        for _ in 0..count {
            operation();
        }
        start.elapsed()
    }
}

/// How often the operation fits into a round.
fn calibrate(settings: &Settings, work: &mut Work<'_>) -> u32 {
    let mut count = 1_u32;
    loop {
        let time = work(count);
        if time >= settings.round_time || count > 1 << 24 {
            return count;
        }
        count *= 2;
    }
}
