//! What can be tuned: the weights beside the first one, and the load gate.

use p3sched::SchedulerConfig;

/// Factor by which a weight can differ from where the search starts, up and down.
const WEIGHT_FACTOR: f64 = 32.0;
/// Seconds of the gate that are tried.
const GATE_SECONDS: (f64, f64) = (0.05, 60.0);

/// The configurations around one, as points.
///
/// A coordinate is the binary logarithm of what a weight, or the gate's seconds, is multiplied by. The first weight stays:
/// only ratios of weights count.
#[derive(Debug, Clone)]
pub(super) struct Space {
    start: SchedulerConfig,
}

impl Space {
    pub(super) fn around(start: &SchedulerConfig) -> Self {
        Self { start: start.clone() }
    }

    pub(super) fn dimensions(&self) -> usize {
        self.start.scorers.len().saturating_sub(1) + usize::from(self.start.load_gate_seconds.is_some())
    }

    /// The configuration at a point, with numbers that can be read; points beyond the bounds count as on them.
    pub(super) fn config(&self, point: &[f64]) -> SchedulerConfig {
        let mut config = self.start.clone();
        let mut factors = point.iter().map(|coordinate| coordinate.exp2());
        for scorer in config.scorers.iter_mut().skip(1) {
            let factor = factors.next().unwrap_or(1.0).clamp(1.0 / WEIGHT_FACTOR, WEIGHT_FACTOR);
            scorer.weight = two_digits(scorer.weight * factor);
        }
        if let Some(gate) = &mut config.load_gate_seconds {
            let (least, most) = GATE_SECONDS;
            *gate = two_digits((*gate * factors.next().unwrap_or(1.0)).clamp(least, most));
        }
        config
    }
}

/// Rounded to two digits that count.
fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

/// A configuration as YAML to paste: the preset, what was tuned, and whatever else differs from the preset.
pub(super) fn yaml(config: &SchedulerConfig) -> String {
    let mut text = format!("preset: {}\n", config.preset);
    text += if config.scorers.is_empty() { "scorers: []\n" } else { "scorers:\n" };
    for scorer in &config.scorers {
        let parameters: Vec<_> =
            scorer.parameters.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let parameters = match parameters.as_slice() {
            [] => String::new(),
            given => format!(", parameters: {{{}}}", given.join(", ")),
        };
        text += &format!("  - {{type: {}, weight: {}{parameters}}}\n", scorer.scorer_type, scorer.weight);
    }
    let gate = config.load_gate_seconds.map_or_else(|| "null".to_owned(), |gate| gate.to_string());
    text += &format!("load_gate_seconds: {gate}\n");
    let fields = |config: &SchedulerConfig| serde_json::to_value(config).ok();
    let (preset, own) =
        (SchedulerConfig::preset(&config.preset).ok().and_then(|preset| fields(&preset)), fields(config));
    let own = own.as_ref().and_then(serde_json::Value::as_object).into_iter().flatten();
    let other = own.filter(|(name, value)| {
        !["preset", "scorers", "load_gate_seconds"].contains(&name.as_str())
            && preset.as_ref().and_then(|preset| preset.get(name.as_str())) != Some(*value)
    });
    // JSON is YAML too.
    text + &other.map(|(name, value)| format!("{name}: {value}\n")).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use p3sched::{Scheduler, preset};

    #[test]
    fn points_are_factors_within_bounds() {
        let space = Space::around(&SchedulerConfig::default());
        assert_eq!(space.dimensions(), 3, "queue, KV use and the gate");
        let config = space.config(&[1.0, -1.0, -2.0]);
        let weights: Vec<_> = config.scorers.iter().map(|scorer| scorer.weight).collect();
        assert_eq!((weights.as_slice(), config.load_gate_seconds), ([3.0, 2.0, 0.5].as_slice(), Some(1.2)));
        let far = space.config(&[99.0, -99.0, 99.0]);
        let weights: Vec<_> = far.scorers.iter().map(|scorer| scorer.weight).collect();
        assert_eq!((weights.as_slice(), far.load_gate_seconds), ([3.0, 32.0, 0.031].as_slice(), Some(60.0)));
    }

    #[test]
    fn what_is_printed_is_what_was_tried() {
        for name in preset::names() {
            let mut start = SchedulerConfig::preset(name).unwrap();
            start.metrics.fresh_seconds = 0.5;
            let space = Space::around(&start);
            let tried = space.config(&[0.7, -1.3, 0.4, 2.1, -0.2]);
            let pasted: SchedulerConfig = serde_norway::from_str(&yaml(&tried)).unwrap();
            assert_eq!(pasted, tried, "{name}");
            assert!(Scheduler::new(pasted).is_ok(), "{name}");
        }
    }
}
