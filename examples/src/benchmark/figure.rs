//! Figures as `make bench` collects them.

use serde::Serialize;

/// One figure: the median of its rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Program and case, with a slash between them.
    pub name: String,
    /// The median.
    pub value: f64,
    /// What is counted.
    pub unit: &'static str,
    /// Goal of a figure that should be high.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Goal of a figure that should be low.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Interquartile range over median.
    pub spread: f64,
    /// How it was measured.
    pub detail: String,
}

impl Figure {
    /// The median of what the rounds measured, without a goal.
    #[must_use]
    pub fn new(name: String, rounds: &[f64], unit: &'static str, detail: &str) -> Self {
        let (value, spread) = median_and_spread(rounds);
        Self { name, value, unit, at_least: None, at_most: None, spread, detail: detail.to_owned() }
    }

    /// Demands a value of at most `bound`.
    #[must_use]
    pub fn at_most(self, bound: f64) -> Self {
        Self { at_most: Some(bound), ..self }
    }

    /// Demands a value of at least `bound`.
    #[must_use]
    pub fn at_least(self, bound: f64) -> Self {
        Self { at_least: Some(bound), ..self }
    }
}

/// The value below which a part of the values lies, between two of them where it falls there; NaN of none.
#[must_use]
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor(), place.ceil());
    let value = |place: f64| sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    value(low) + (value(high) - value(low)) * (place - low)
}

/// Median, and interquartile range over median; 0 where the median is 0.
fn median_and_spread(values: &[f64]) -> (f64, f64) {
    let median = quantile(values, 0.5);
    let range = quantile(values, 0.75) - quantile(values, 0.25);
    (median, if median == 0.0 { 0.0 } else { range / median })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quartiles_lie_between_the_values() {
        assert_eq!(median_and_spread(&[4.0, 1.0, 3.0, 2.0]), (2.5, 0.6));
        assert_eq!(median_and_spread(&[5.0]), (5.0, 0.0));
        assert_eq!(median_and_spread(&[0.0, 0.0]), (0.0, 0.0));
    }
}
