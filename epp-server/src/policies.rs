//! What operators decide about models and requests: priorities, other names of models, the models that are served.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Deserialize;

/// The policies in force: requests read them while a watch replaces them.
///
/// # Example
///
/// ```
/// use std::collections::HashMap;
///
/// use epp_server::policies::Policies;
///
/// let policies = Policies::default();
/// policies.set_objectives(HashMap::from([("batch".to_owned(), -1)]));
/// assert_eq!(policies.tables().priority(Some("batch")), -1);
/// assert_eq!(policies.tables().priority(Some("unknown")), 0);
/// ```
#[derive(Debug, Default)]
pub struct Policies {
    tables: RwLock<Arc<PolicyTables>>,
}

/// Policies as they were at one time.
#[derive(Debug, Clone, Default)]
pub struct PolicyTables {
    objectives: HashMap<String, i32>,
    /// The first one that fits counts.
    rewrites: Vec<ModelRewrite>,
    /// Place in `rewrites` by exact name of the model.
    rewrite_of_model: HashMap<String, usize>,
    /// Place in `rewrites` of the one for every model.
    rewrite_of_others: Option<usize>,
    served_models: Option<HashSet<String>>,
}

/// One rule of an `InferenceModelRewrite`: requests for some models become requests for others.
///
/// A rule that names the model goes before one for every model. Among those that are left the older one counts, among
/// those of one age the first by name, and in one object the first that is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRewrite {
    /// Name of the object that the rule is from.
    #[serde(default)]
    pub name: String,
    /// Exact names of models; empty for every model.
    #[serde(default)]
    pub matches: Vec<String>,
    /// What the model becomes, one of these by weight.
    pub targets: Vec<Target>,
    /// Seconds since 1970 when the object was made.
    #[serde(default)]
    pub created: u64,
}

/// A model that requests are sent on for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name.
    pub model: String,
    /// Its share among the targets of the rule; if all are 0 they are equal.
    #[serde(default = "one")]
    pub weight: u32,
}

/// Policies as a configuration file writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrittenPolicies {
    /// Priority by name of the objective.
    pub objectives: HashMap<String, i32>,
    /// Other names of models.
    pub model_rewrites: Vec<ModelRewrite>,
    /// The models that are served, if they are listed.
    pub served_models: Option<Vec<String>>,
}

impl WrittenPolicies {
    /// What is decided, for people, in lines.
    pub fn lines(&self) -> Vec<String> {
        let sorted: BTreeMap<_, _> = self.objectives.iter().collect();
        let objectives = sorted.into_iter().map(|(name, priority)| match priority {
            ..0 => {
                format!("objective {name}: priority {priority}, refused with 429 while the pool is saturated")
            }
            _ => format!("objective {name}: priority {priority}"),
        });
        let rewrites = self.model_rewrites.iter().map(|rewrite| {
            let every = ["every model".to_owned()];
            let models = if rewrite.matches.is_empty() { &every[..] } else { &rewrite.matches };
            let targets: Vec<_> =
                rewrite.targets.iter().map(|target| format!("{} {}", target.weight, target.model)).collect();
            format!("rewrite {}: {} to {}", rewrite.name, models.join(", "), targets.join(", "))
        });
        let served =
            self.served_models.iter().map(|models| format!("models, others get 404: {}", models.join(", ")));
        objectives.chain(rewrites).chain(served).collect()
    }
}

fn one() -> u32 {
    1
}

impl Policies {
    /// The policies in force.
    pub fn tables(&self) -> Arc<PolicyTables> {
        Arc::clone(&self.tables.read())
    }

    /// Replaces everything by what a configuration file says.
    pub fn set(&self, written: WrittenPolicies) {
        self.set_objectives(written.objectives);
        self.set_model_rewrites(written.model_rewrites);
        self.set_served_models(written.served_models);
    }

    /// Replaces the priorities, by name of the `InferenceObjective`.
    pub fn set_objectives(&self, objectives: HashMap<String, i32>) {
        self.change(|tables| tables.objectives = objectives);
    }

    /// Replaces the rules for other names of models.
    pub fn set_model_rewrites(&self, rewrites: Vec<ModelRewrite>) {
        self.change(|tables| tables.set_model_rewrites(rewrites));
    }

    /// Replaces the models that are served; with `None` nobody knows, and every model is tried.
    pub fn set_served_models(&self, models: Option<Vec<String>>) {
        self.change(|tables| tables.served_models = models.map(|models| models.into_iter().collect()));
    }

    fn change(&self, change: impl FnOnce(&mut PolicyTables)) {
        change(Arc::make_mut(&mut self.tables.write()));
    }
}

impl PolicyTables {
    /// Priority of a request with this objective; 0 without one and for an unknown one.
    pub fn priority(&self, objective: Option<&str>) -> i32 {
        objective.and_then(|name| self.objectives.get(name)).copied().unwrap_or(0)
    }

    /// The rule for a model.
    pub fn rewrite(&self, model: &str) -> Option<&ModelRewrite> {
        let place = self.rewrite_of_model.get(model).or(self.rewrite_of_others.as_ref())?;
        self.rewrites.get(*place)
    }

    /// Whether an operator wrote down this model, be it as one that is served, that has a rule, or that a rule names.
    pub fn names(&self, model: &str) -> bool {
        let is_target = |rewrite: &ModelRewrite| rewrite.targets.iter().any(|target| target.model == model);
        self.served_models.as_ref().is_some_and(|models| models.contains(model))
            || self.rewrite_of_model.contains_key(model)
            || self.rewrites.iter().any(is_target)
    }

    /// Whether a model may be asked for.
    pub fn serves(&self, model: &str) -> bool {
        self.served_models.as_ref().is_none_or(|models| models.contains(model))
    }

    fn set_model_rewrites(&mut self, mut rewrites: Vec<ModelRewrite>) {
        rewrites.retain(|rewrite| !rewrite.targets.is_empty());
        rewrites.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        self.rewrite_of_model.clear();
        for (place, rewrite) in rewrites.iter().enumerate() {
            for model in &rewrite.matches {
                self.rewrite_of_model.entry(model.clone()).or_insert(place);
            }
        }
        self.rewrite_of_others = rewrites.iter().position(|rewrite| rewrite.matches.is_empty());
        self.rewrites = rewrites;
    }
}

impl ModelRewrite {
    /// The target that a number drawn evenly from all of `u64` falls to.
    pub fn target(&self, draw: u64) -> Option<&str> {
        let all_zero = self.targets.iter().all(|target| target.weight == 0);
        let weight = |target: &Target| if all_zero { 1 } else { u128::from(target.weight) };
        let total: u128 = self.targets.iter().map(weight).sum();
        // The share of the range below the draw, in units of weight.
        let mut left = (u128::from(draw) * total) >> 64;
        let chosen = self.targets.iter().find(|target| {
            let falls_here = left < weight(target);
            left = left.saturating_sub(weight(target));
            falls_here
        });
        chosen.map(|target| target.model.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(name: &str, matches: &[&str], created: u64) -> ModelRewrite {
        ModelRewrite {
            name: name.to_owned(),
            matches: matches.iter().map(|&model| model.to_owned()).collect(),
            targets: vec![Target { model: format!("{name}-target"), weight: 1 }],
            created,
        }
    }

    #[test]
    fn exact_rules_go_before_those_for_every_model_and_old_ones_before_new_ones() {
        let policies = Policies::default();
        policies.set_model_rewrites(vec![
            rewrite("young", &["llama"], 9),
            rewrite("old", &["llama", "mistral"], 5),
            rewrite("b", &["phi"], 7),
            rewrite("a", &["phi"], 7),
            rewrite("all-young", &[], 2),
            rewrite("all-old", &[], 1),
            ModelRewrite { targets: Vec::new(), ..rewrite("empty", &["llama"], 0) },
        ]);
        let tables = policies.tables();
        let rule = |model: &str| tables.rewrite(model).map(|rewrite| rewrite.name.as_str());
        for (model, name) in [("llama", "old"), ("mistral", "old"), ("phi", "a"), ("gpt", "all-old")] {
            assert_eq!(rule(model), Some(name), "{model}");
        }
        policies.set_model_rewrites(Vec::new());
        assert_eq!(policies.tables().rewrite("llama"), None);
    }

    #[test]
    fn targets_get_their_share_of_the_draws() {
        let with_weights = |weights: &[u32]| {
            let target = |(place, &weight): (usize, &u32)| Target { model: place.to_string(), weight };
            ModelRewrite {
                targets: weights.iter().enumerate().map(target).collect(),
                ..rewrite("canary", &[], 0)
            }
        };
        for (weights, shares) in [
            (&[90, 10][..], &[900, 100][..]),
            (&[0, 1], &[0, 1_000]),
            (&[0, 0], &[500, 500]),
            (&[u32::MAX, u32::MAX], &[500, 500]),
        ] {
            let rule = with_weights(weights);
            let mut counts = vec![0; weights.len()];
            let step = u64::MAX / 1_000;
            for number in 0..1_000 {
                let target = rule.target(number * step + step / 2).unwrap();
                counts[target.parse::<usize>().unwrap()] += 1;
            }
            assert_eq!(counts, shares, "{weights:?}");
        }
    }

    #[test]
    fn a_configuration_file_has_policies_and_they_can_be_explained() {
        let text = "{objectives: {batch: -1, chat: 5}, modelRewrites: [{name: canary, matches: [llama], targets: [{model: llama-8b, weight: 9}, {model: llama-9b}]}], models: [llama-8b, llama-9b]}";
        let written = crate::config_source::parse(text).unwrap().policies;
        assert_eq!(
            written.lines(),
            [
                "objective batch: priority -1, refused with 429 while the pool is saturated",
                "objective chat: priority 5",
                "rewrite canary: llama to 9 llama-8b, 1 llama-9b",
                "models, others get 404: llama-8b, llama-9b",
            ]
        );
    }

    #[test]
    fn only_listed_models_are_served_where_there_is_a_list() {
        let policies = Policies::default();
        assert!(policies.tables().serves("llama"));
        policies.set_served_models(Some(vec!["llama".to_owned()]));
        assert!(policies.tables().serves("llama") && !policies.tables().serves("phi"));
        policies.set_served_models(None);
        assert!(policies.tables().serves("phi"));
    }
}
