//! Step 1, without a recording: traffic that is made up, the same for the same seed.
//!
//! | workload | what it is like |
//! |---|---|
//! | [`shared-prefix`](shared_prefix) | conversations in groups that share a system prompt; some groups are more popular |
//! | [`bursts`] | the same, and now and then many requests with one hot prefix at once |
//! | [`agents`] | tasks whose prompt grows with every tool call, with helpers that start from the same head |
//! | [`mixed`] | several models and adapters that share nothing |
//!
//! On a command line a workload is a name and what it changes: `shared-prefix:groups=150:zipf=1.4`.

pub mod agents;
pub mod bursts;
pub mod mixed;
pub mod shared_prefix;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp, Zipf};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Error;
use crate::trace::{Chain, SECOND, Trace, TraceRequest};

/// Names of all workloads.
pub const NAMES: [&str; 4] = ["shared-prefix", "bursts", "agents", "mixed"];

/// A workload with its parameters.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Workload {
    /// Conversations in groups.
    SharedPrefix(shared_prefix::SharedPrefix),
    /// Conversations in groups, and bursts.
    Bursts(bursts::Bursts),
    /// Tasks of agents.
    Agents(agents::Agents),
    /// Several models and adapters.
    Mixed(mixed::Mixed),
}

impl Workload {
    /// Reads `NAME[:key=value…]`; what is not given is as the workload's own page says.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] names what is not known, or a value that cannot be.
    ///
    /// # Example
    ///
    /// ```
    /// use p3sched_replay::workload::Workload;
    ///
    /// let trace = Workload::parse("shared-prefix:groups=4:conversations=100")?.generate(7);
    /// assert_eq!(trace.requests.len(), 100);
    /// assert!(Workload::parse("shared-prefix:group=4").unwrap_err().to_string().contains("`group`"));
    /// # Ok::<(), p3sched_replay::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let settings = settings(name, parts)?;
        match name {
            "shared-prefix" => Ok(Self::SharedPrefix(from_settings(name, settings)?)),
            "bursts" => Ok(Self::Bursts(from_settings(name, settings)?)),
            "agents" => Ok(Self::Agents(from_settings(name, settings)?)),
            "mixed" => Ok(Self::Mixed(from_settings(name, settings)?)),
            unknown => Err(Error::unknown("workload", unknown, &NAMES)),
        }
    }

    /// The requests; the same seed makes the same ones.
    pub fn generate(&self, seed: u64) -> Trace {
        match self {
            Self::SharedPrefix(workload) => workload.generate(seed),
            Self::Bursts(workload) => workload.generate(seed),
            Self::Agents(workload) => workload.generate(seed),
            Self::Mixed(workload) => workload.generate(seed),
        }
    }
}

/// `key=value` pairs as JSON.
pub(crate) fn settings<'a>(
    owner: &str,
    pairs: impl Iterator<Item = &'a str>,
) -> Result<Map<String, Value>, Error> {
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Error::InvalidOption(format!("a setting of {owner} must be key=value: `{pair}`"))
            })?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Ok((key.to_owned(), value))
        })
        .collect()
}

/// Replaces the value at a path such as `steady.groups` or `filters.3.type`; the path has to be there.
pub(crate) fn set(owner: &str, all: &mut Value, path: &str, value: Value) -> Result<(), Error> {
    match all.pointer_mut(&pointer(path)) {
        Some(place) => *place = value,
        None => {
            let known: Vec<&str> =
                all.as_object().into_iter().flat_map(|fields| fields.keys().map(String::as_str)).collect();
            return Err(Error::unknown(&format!("setting of {owner}"), path, &known));
        }
    }
    Ok(())
}

fn from_settings<T: DeserializeOwned + Serialize + Default>(
    owner: &str,
    settings: Map<String, Value>,
) -> Result<T, Error> {
    let refused = |error: serde_json::Error| Error::InvalidOption(format!("{owner}: {error}"));
    let defaults = serde_json::to_value(T::default()).map_err(refused)?;
    let mut all = defaults.clone();
    for (key, value) in settings {
        set(owner, &mut all, &key, value.clone())?;
        if T::deserialize(&all).is_err() {
            let default = defaults.pointer(&pointer(&key)).cloned().unwrap_or_default();
            let message = format!("{key} of {owner} must be a number like its default {default}: `{value}`");
            return Err(Error::InvalidOption(message));
        }
    }
    T::deserialize(all).map_err(refused)
}

/// A path such as `steady.groups` as JSON names it.
fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

/// Chance, contents and times that all workloads draw from.
struct Draws {
    random: ChaCha8Rng,
    next_content: u64,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), next_content: 0 }
    }

    /// As many contents as `tokens` fill blocks, which nobody else has.
    fn contents(&mut self, tokens: u32, block_tokens: u32) -> std::ops::Range<u64> {
        let first = self.next_content;
        self.next_content += u64::from(tokens.div_ceil(block_tokens));
        first..self.next_content
    }

    /// Nanoseconds until the next event of those that come `rate` times a second, independently of each other.
    fn gap(&mut self, rate: f64) -> u64 {
        self.around(1.0 / rate)
    }

    /// Nanoseconds with this mean in seconds, exponentially distributed.
    fn around(&mut self, mean_seconds: f64) -> u64 {
        let Ok(distribution) = Exp::new(1.0 / mean_seconds) else { return 0 };
        (distribution.sample(&mut self.random) * SECOND) as u64
    }

    /// Tokens with this mean, evenly between half of it and one and a half times it.
    fn tokens(&mut self, mean: u32) -> u32 {
        self.random.random_range(mean.div_ceil(2)..=mean + mean / 2).max(1)
    }

    /// One of `count`, the first one most often: the k-th is drawn in proportion to k^-skew.
    fn popular(&mut self, count: u32, skew: f64) -> usize {
        let count = count.max(1);
        if skew <= 0.0 {
            return self.random.random_range(0..count) as usize;
        }
        let Ok(distribution) = Zipf::new(f64::from(count), skew) else { return 0 };
        distribution.sample(&mut self.random) as usize - 1
    }
}

/// A text that grows by parts, each of which begins a block: as chat templates separate messages, no two texts share
/// a block that only begins alike.
struct GrowingText {
    contents: Vec<u64>,
    tokens: u32,
    block_tokens: u32,
}

impl GrowingText {
    fn new(block_tokens: u32) -> Self {
        Self { contents: Vec::new(), tokens: 0, block_tokens }
    }

    fn append(&mut self, contents: impl Iterator<Item = u64>, tokens: u32) {
        self.contents.extend(contents);
        // Parts are rounded to full blocks, so that what they share does not depend on where they begin.
        self.tokens += tokens.div_ceil(self.block_tokens) * self.block_tokens;
    }
}

/// The turns of one conversation, from the tokens at which each asks and the tokens of its answer.
struct Turns {
    start: u64,
    session: u64,
    /// Prompt tokens, answer tokens and nanoseconds since the answer before, by turn.
    turns: Vec<(u32, u32, u64)>,
}

impl Turns {
    /// Adds the turns to a trace. In an open loop each comes after the think time and `pace` per token of the answer before.
    fn push(&self, trace: &mut Trace, chain: Chain, template: TraceRequest) {
        /// What an answer is assumed to take in an open loop, for each of its tokens.
        const OPEN_LOOP_TOKEN: u64 = 20_000_000;
        let (mut arrival, mut previous) = (self.start, None);
        for &(prompt_tokens, output_tokens, think_time) in &self.turns {
            arrival += if previous.is_some() { think_time } else { 0 };
            let at = trace.requests.len() as u32;
            trace.push(TraceRequest {
                arrival,
                previous,
                think_time,
                prompt_tokens,
                output_tokens,
                chain,
                session: Some(self.session),
                ..template
            });
            arrival += u64::from(output_tokens) * OPEN_LOOP_TOKEN;
            previous = Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_requests() {
        for name in NAMES {
            let workload = Workload::parse(name).unwrap();
            let trace = workload.generate(3);
            assert_eq!(trace, workload.generate(3), "{name}");
            assert_ne!(trace, workload.generate(4), "{name}");
            let arrivals: Vec<_> = trace.requests.iter().map(|request| request.arrival).collect();
            assert!(arrivals.is_sorted() && !arrivals.is_empty(), "{name}");
            for (at, request) in trace.requests.iter().enumerate() {
                assert!(request.previous.is_none_or(|before| (before as usize) < at), "{name}");
                assert_eq!(
                    trace.blocks_of(request).len(),
                    (request.prompt_tokens / trace.block_tokens) as usize,
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let refused = |text| Workload::parse(text).unwrap_err().to_string();
        assert!(refused("shared-prefx").contains("did you mean `shared-prefix`?"));
        assert!(refused("agents:kinds").contains("must be key=value: `kinds`"));
        assert_eq!(
            refused("mixed:models=many"),
            "models of mixed must be a number like its default 2: `\"many\"`"
        );
    }

    #[test]
    fn popularity_follows_zipf() {
        let mut draws = Draws::new(1);
        let mut counts = [0; 4];
        (0..40_000).for_each(|_| counts[draws.popular(4, 1.0)] += 1);
        // 1, 1/2, 1/3 and 1/4 over 25/12.
        for (count, expected) in counts.iter().zip([19_200_i32, 9_600, 6_400, 4_800]) {
            assert!((count - expected).abs() < 400, "{counts:?}");
        }
    }
}
