//! Which endpoints a profile picks among, by their labels.

use std::fmt;

use p3sched::Endpoint;

/// Requirements on the labels of an endpoint, all of which must hold; without any, every endpoint is selected.
///
/// Operators mean what they mean in a Kubernetes label selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// What one label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Name of the label.
    pub label: String,
    /// What its value must be.
    pub condition: Condition,
}

/// What the value of a label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// One of these.
    In(Vec<String>),
    /// One of these, unless the endpoint does not have the label.
    InOrAbsent(Vec<String>),
    /// None of these, or the endpoint does not have the label.
    NotIn(Vec<String>),
    /// Any.
    Exists,
    /// The endpoint does not have the label.
    Absent,
}

impl LabelSelector {
    /// Adds a requirement.
    pub fn require(&mut self, requirement: Requirement) {
        self.requirements.push(requirement);
    }

    /// Whether every endpoint is selected.
    pub fn selects_all(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an endpoint is selected.
    pub fn selects(&self, endpoint: &Endpoint) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = endpoint.labels.get(&requirement.label).map(String::as_str);
            requirement.condition.holds(value)
        })
    }
}

impl Condition {
    fn holds(&self, value: Option<&str>) -> bool {
        let is_one_of = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        match self {
            Self::In(values) => is_one_of(values),
            Self::InOrAbsent(values) => value.is_none() || is_one_of(values),
            Self::NotIn(values) => !is_one_of(values),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.selects_all() {
            return f.write_str("all");
        }
        for (at, Requirement { label, condition }) in self.requirements.iter().enumerate() {
            let and = if at > 0 { ", and " } else { "" };
            write!(f, "{and}label `{label}` {condition}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(values) => write!(f, "is one of {}", values.join(", ")),
            Self::InOrAbsent(values) => write!(f, "is one of {}, or missing", values.join(", ")),
            Self::NotIn(values) => write!(f, "is none of {}", values.join(", ")),
            Self::Exists => f.write_str("is there"),
            Self::Absent => f.write_str("is missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(conditions: &[Condition]) -> LabelSelector {
        let requirement =
            |condition: &Condition| Requirement { label: "zone".to_owned(), condition: condition.clone() };
        LabelSelector { requirements: conditions.iter().map(requirement).collect() }
    }

    #[test]
    fn labels_are_selected_as_in_kubernetes() {
        let in_zone = |zone: &str| {
            let mut endpoint = Endpoint::new("10.0.0.1:1");
            endpoint.labels.insert("zone".to_owned(), zone.to_owned());
            endpoint
        };
        let (a, c, none) = (in_zone("a"), in_zone("c"), Endpoint::new("10.0.0.2:1"));
        let values = || vec!["a".to_owned(), "b".to_owned()];
        for (condition, selected) in [
            (Condition::In(values()), [true, false, false]),
            (Condition::InOrAbsent(values()), [true, false, true]),
            (Condition::NotIn(values()), [false, true, true]),
            (Condition::Exists, [true, true, false]),
            (Condition::Absent, [false, false, true]),
        ] {
            let selector = selector(std::slice::from_ref(&condition));
            let found = [&a, &c, &none].map(|endpoint| selector.selects(endpoint));
            assert_eq!(found, selected, "{condition}");
        }
        assert!(LabelSelector::default().selects(&none));
        let both = selector(&[Condition::Exists, Condition::NotIn(values())]);
        assert_eq!([&a, &c, &none].map(|endpoint| both.selects(endpoint)), [false, true, false]);
        assert_eq!(both.to_string(), "label `zone` is there, and label `zone` is none of a, b");
    }
}
