//! Step 3: the policies that are compared, each a real [`Scheduler`].
//!
//! Every [`preset`](mod@p3sched::preset) of the scheduler, and the formulas that its peers publish. A peer's formula is a
//! [picker](p3sched::picker::Picker) in the same scheduler: all see the same prefix index, the same scraped metrics and
//! the same record of what is in flight, and differ in nothing but the rule.
//!
//! | policy | rule |
//! |---|---|
//! | [`sglang-cache-aware`](sglang_cache_aware) | SGLang's and vLLM's router: the longest match, unless the load is out of balance |
//! | [`dynamo`] | NVIDIA Dynamo: blocks to prefill and blocks to decode |
//! | `llm-d` | llm-d: holders of the prefix alone, then the fewest tokens; the preset [`affinity-token`](p3sched::preset) |
//! | [`bounded-load-hash`](bounded_load_hash) | KubeAI: consistent hashing with bounded loads |
//!
//! Any policy that scores can have a [prior](rendezvous_prior) on the prompt's head: `default:rendezvous_prior=1.5`.
//!
//! On a command line a policy is a name and what it changes: `default:prefix-cache-scorer=5:load_gate_seconds=2`. A
//! scorer's name sets its weight (0 leaves it out), anything else is a field of the
//! [configuration](p3sched::SchedulerConfig), nested ones with dots: `bookings.first_token_timeout_seconds=3`.

pub mod bounded_load_hash;
pub mod dynamo;
pub mod rendezvous_prior;
pub mod sglang_cache_aware;

use p3sched::config::ScorerConfig;
use p3sched::picker::Picker;
use p3sched::{Scheduler, SchedulerConfig, preset, scorer};
use serde_json::{Map, Value};

use crate::Error;
use crate::workload::{set, settings};

use bounded_load_hash::BoundedLoadHash;
use dynamo::Dynamo;
use rendezvous_prior::RendezvousPrior;
use sglang_cache_aware::SglangCacheAware;

/// Names of the policies that are not presets of the scheduler.
pub const PEERS: [&str; 4] = ["sglang-cache-aware", "dynamo", "llm-d", "bounded-load-hash"];

/// How requests find their replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// As it was asked for.
    pub name: String,
    /// The configuration of its schedulers.
    pub config: SchedulerConfig,
    peer: Option<Peer>,
    /// Weight of the [prior](rendezvous_prior) on the prompt's head.
    rendezvous_prior: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Peer {
    SglangCacheAware(SglangCacheAware),
    Dynamo(Dynamo),
    BoundedLoadHash(BoundedLoadHash),
}

impl Policy {
    /// Reads `NAME[:key=value…]`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] names what is not known, or a value that cannot be.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched_replay::policy::Policy;
    ///
    /// let policy = Policy::parse("default:prefix-cache-scorer=5:load_gate_seconds=2")?;
    /// assert_eq!(policy.config.scorers[0].weight, 5.0);
    /// assert_eq!(policy.config.load_gate_seconds, Some(2.0));
    /// # Ok::<(), p3sched_replay::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut settings = settings(name, parts)?;
        let peer = Peer::parse(name, &mut settings)?;
        let rendezvous_prior = take_number(name, "rendezvous_prior", &mut settings)?;
        let preset = match name {
            "llm-d" => "affinity-token",
            _ if peer.is_some() => "round-robin",
            preset => preset,
        };
        let known: Vec<_> = preset::names().chain(PEERS).collect();
        let mut config =
            SchedulerConfig::preset(preset).map_err(|_| Error::unknown("policy", name, &known))?;
        change(name, &mut config, settings)?;
        let policy = Self { name: text.to_owned(), config, peer, rendezvous_prior };
        policy.build(0)?;
        Ok(policy)
    }

    /// Names of all policies.
    pub fn names() -> impl Iterator<Item = &'static str> {
        preset::names().chain(PEERS)
    }

    /// A policy of this configuration.
    pub fn of_config(name: impl Into<String>, config: SchedulerConfig) -> Self {
        Self { name: name.into(), config, peer: None, rendezvous_prior: None }
    }

    /// A scheduler that follows the policy; where chance decides, the same seed makes the same choices.
    ///
    /// # Errors
    ///
    /// [`Error::Scheduler`] if the configuration cannot work.
    pub fn build(&self, seed: u64) -> Result<Scheduler, Error> {
        let mut config = self.config.clone();
        config.seed = config.seed.wrapping_add(seed);
        // One byte of a made-up prompt is one token.
        config.bytes_per_token = 1;
        let mut builder = Scheduler::builder(config);
        if let Some(weight) = self.rendezvous_prior {
            builder = builder.scorer(Box::new(RendezvousPrior), weight);
        }
        let picker: Box<dyn Picker> = match &self.peer {
            None => return Ok(builder.build()?),
            Some(Peer::SglangCacheAware(picker)) => Box::new(picker.clone()),
            Some(Peer::Dynamo(picker)) => Box::new(picker.clone()),
            Some(Peer::BoundedLoadHash(picker)) => Box::new(picker.clone()),
        };
        Ok(builder.picker(picker).build()?)
    }
}

impl Peer {
    /// The peer of this name, with those of the settings that are its own.
    fn parse(name: &str, settings: &mut Map<String, Value>) -> Result<Option<Self>, Error> {
        let mut number =
            |key: &str, default: f64| Ok::<_, Error>(take_number(name, key, settings)?.unwrap_or(default));
        Ok(match name {
            "sglang-cache-aware" => Some(Self::SglangCacheAware(SglangCacheAware::new(
                number("cache_threshold", sglang_cache_aware::CACHE_THRESHOLD)?,
                number("balance_abs_threshold", sglang_cache_aware::BALANCE_ABS_THRESHOLD)?,
                number("balance_rel_threshold", sglang_cache_aware::BALANCE_REL_THRESHOLD)?,
            ))),
            "dynamo" => Some(Self::Dynamo(Dynamo { overlap_weight: number("overlap_weight", 1.0)? as f32 })),
            "bounded-load-hash" => {
                Some(Self::BoundedLoadHash(BoundedLoadHash { load_factor: number("load_factor", 1.25)? }))
            }
            _ => None,
        })
    }
}

/// Takes a number, 0 or more, out of the settings of a policy.
fn take_number(name: &str, key: &str, settings: &mut Map<String, Value>) -> Result<Option<f64>, Error> {
    let Some(value) = settings.remove(key) else { return Ok(None) };
    let number = value.as_f64().filter(|number| *number >= 0.0);
    let refused = || Error::InvalidOption(format!("{key} of {name} must be a number, 0 or more: `{value}`"));
    number.map(Some).ok_or_else(refused)
}

/// Makes changes to a configuration: weights by a scorer's name, anything else by its path.
fn change(name: &str, config: &mut SchedulerConfig, settings: Map<String, Value>) -> Result<(), Error> {
    let refused = |error: serde_json::Error| Error::InvalidOption(format!("{name}: {error}"));
    let mut fields = Map::new();
    for (key, value) in settings {
        if !scorer::TYPES.contains(&key.as_str()) {
            fields.insert(key, value);
            continue;
        }
        let weight = value
            .as_f64()
            .ok_or_else(|| Error::InvalidOption(format!("weight of {key} must be a number: `{value}`")))?;
        match config.scorers.iter_mut().find(|known| known.scorer_type == key) {
            Some(known) => known.weight = weight,
            None => config.scorers.push(ScorerConfig::new(key, weight)),
        }
    }
    config.scorers.retain(|scorer| scorer.weight != 0.0);
    if fields.is_empty() {
        return Ok(());
    }
    let mut all = serde_json::to_value(&*config).map_err(refused)?;
    for (path, value) in fields {
        set(name, &mut all, &path, value)?;
    }
    *config = serde_json::from_value(all).map_err(refused)?;
    Ok(())
}

/// Tables of values for the tests of pickers.
#[cfg(test)]
mod tests_support {
    use p3sched::endpoint::Candidate;
    use p3sched::picker::Picker;
    use p3sched::profile::RequestView;

    pub(super) fn request(prompt_tokens: u32) -> RequestView {
        let mut request = RequestView::default();
        request.prompt_tokens = prompt_tokens;
        request
    }

    /// Endpoints by matched tokens and requests in flight.
    pub(super) fn candidates(rows: &[(u32, u32)]) -> Vec<Candidate> {
        let candidate = |(endpoint, &(matched_tokens, requests_in_flight)): (u32, &(u32, u32))| {
            let mut candidate = Candidate::default();
            candidate.endpoint = endpoint;
            candidate.matched_tokens = matched_tokens;
            candidate.requests_in_flight = requests_in_flight;
            candidate
        };
        (0..).zip(rows).map(candidate).collect()
    }

    pub(super) fn pick(picker: &dyn Picker, request: &RequestView, candidates: &[Candidate]) -> usize {
        let mut ranking = Vec::new();
        picker.pick(request, candidates, &[], 1, &mut ranking);
        ranking[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_policy() {
        for name in Policy::names() {
            assert!(Policy::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn weights_and_fields_can_be_changed() {
        let policy =
            Policy::parse("default:queue-scorer=0:token-load-scorer=2:bookings.request_timeout_seconds=9")
                .unwrap();
        let weights: Vec<_> =
            policy.config.scorers.iter().map(|scorer| (scorer.scorer_type.as_str(), scorer.weight)).collect();
        let expected =
            [("prefix-cache-scorer", 3.0), ("kv-cache-utilization-scorer", 1.0), ("token-load-scorer", 2.0)];
        assert_eq!(weights, expected);
        assert_eq!(policy.config.bookings.request_timeout_seconds, 9.0);
        assert_eq!(policy.config.load_gate_seconds, Some(5.0));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |text| Policy::parse(text).unwrap_err().to_string();
        assert!(refused("defaults").contains("unknown policy `defaults` (did you mean `default`?)"));
        assert!(refused("default:load_gate=2").contains("did you mean `load_gate_seconds`?"));
        assert!(refused("default:load_gate_seconds=-1").contains("0 or more, or null: `-1`"));
        assert!(refused("dynamo:overlap_weight=x").contains("must be a number, 0 or more"));
    }
}
