//! Parameters of plugins, from the names of the reference picker to ours.

use std::collections::BTreeMap;

use p3sched::SchedulerConfig;
use p3sched::filter::prefix_affinity;
use p3sched::scorer::{
    active_request, load_aware, no_hit_lru, prefix_cache, token_load, uncached_times_batch,
};

use super::document::{Fault, Node};

/// A number that means the same under another name, and its range.
type Number = (&'static str, &'static str, f64, f64);

/// What a plugin of one of our types understands.
struct Understood {
    numbers: &'static [Number],
    /// Names of other plugins, of which there is one of each kind here.
    producers: &'static [&'static str],
    /// Parameters that nothing here depends on.
    without_effect: &'static [&'static str],
}

const NOTHING: Understood = Understood { numbers: &[], producers: &[], without_effect: &[] };

fn understood(our_type: &str) -> Understood {
    match our_type {
        active_request::TYPE => Understood {
            numbers: &[("idleThreshold", "idle_requests", 0.0, 1e9), ("maxBusyScore", "busy_max", 0.0, 1.0)],
            producers: &["inFlightLoadProducerName"],
            without_effect: &["requestTimeout"],
        },
        load_aware::TYPE => {
            Understood { numbers: &[("threshold", "threshold_requests", 1.0, 1e9)], ..NOTHING }
        }
        token_load::TYPE => Understood {
            numbers: &[("queueThresholdTokens", "threshold_tokens", 1.0, 1e15)],
            producers: &["inFlightLoadProducerName"],
            ..NOTHING
        },
        prefix_cache::TYPE => Understood {
            numbers: &[
                ("prefixLengthWeight", "length_weight", 0.0, 1.0),
                ("maxModelLen", "scale_tokens", 1.0, 1e9),
            ],
            producers: &["prefixMatchInfoProducerName"],
            ..NOTHING
        },
        no_hit_lru::TYPE => Understood {
            producers: &["prefixMatchInfoProducerName", "prefixPluginName"],
            without_effect: &["lruSize", "prefixPluginType"],
            ..NOTHING
        },
        prefix_affinity::TYPE => Understood {
            numbers: &[("affinityThreshold", "min_share", 0.0, 1.0)],
            producers: &["prefixMatchInfoProducerName", "inFlightLoadProducerName"],
            without_effect: &["latencyPredictionInfoProducerName"],
        },
        uncached_times_batch::TYPE => {
            Understood { producers: &["prefixMatchInfoProducerName", "inFlightLoadProducerName"], ..NOTHING }
        }
        _ => NOTHING,
    }
}

/// Reads the parameters of a scorer or filter of one of our types.
pub(super) fn read(
    parameters: Option<&Node<'_>>,
    our_type: &str,
    plugin_names: &[&str],
    scheduler: &mut SchedulerConfig,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, f64>, Fault> {
    let mut ours = BTreeMap::new();
    let Some(parameters) = parameters else { return Ok(ours) };
    let understood = understood(our_type);
    let own: &[&str] = match our_type {
        prefix_cache::TYPE => &INDEX,
        prefix_affinity::TYPE => &AFFINITY,
        _ => &[],
    };
    let numbers = understood.numbers.iter().map(|(name, ..)| *name);
    let rest = [understood.producers, understood.without_effect, own].concat();
    parameters.only(&numbers.chain(rest).collect::<Vec<_>>())?;
    for (name, our_name, min, max) in understood.numbers {
        if let Some(number) = parameters.get(name) {
            ours.insert((*our_name).to_owned(), number.number(*min, *max)?);
        }
    }
    for name in understood.producers {
        if let Some(producer) = parameters.get(name)
            && !plugin_names.contains(&producer.text()?)
        {
            return Err(producer.fault("there is no plugin of this name"));
        }
    }
    for name in understood.without_effect {
        if parameters.get(name).is_some() {
            notes.push(format!("`{name}` of {our_type} has no effect: nothing here depends on it"));
        }
    }
    match our_type {
        prefix_cache::TYPE => index(parameters, scheduler, notes)?,
        prefix_affinity::TYPE => affinity(parameters, &mut ours, scheduler, notes)?,
        _ => {}
    }
    Ok(ours)
}

const AFFINITY: [&str; 5] = [
    "maxTTFTPenaltyMs",
    "ttftSource",
    "peakPrefillThroughput",
    "explorationProbability",
    "maxTokensInFlightPenalty",
];

/// Longest wait for a holder where none is configured, in seconds.
const DEFAULT_WAIT: f64 = 18.0;

/// What the reference picker takes for the prefill rate of an endpoint, in tokens per second.
const PEAK_PREFILL_THROUGHPUT: f64 = 15_928.0;

/// Longest wait that the filter understands, in seconds; stands for any.
const ANY_WAIT: f64 = 31_536_000.0;

fn affinity(
    parameters: &Node<'_>,
    ours: &mut BTreeMap<String, f64>,
    scheduler: &mut SchedulerConfig,
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    if let Some(penalty) = parameters.get("maxTTFTPenaltyMs") {
        let seconds = penalty.number(0.0, ANY_WAIT * 1e3)? / 1e3;
        ours.insert("max_wait_seconds".to_owned(), if seconds == 0.0 { ANY_WAIT } else { seconds });
    }
    if let Some(source) = parameters.get("ttftSource")
        && source.text()? != "prefillThroughput"
    {
        return Err(source.fault("must be `prefillThroughput`"));
    }
    if let Some(rate) = parameters.get("peakPrefillThroughput") {
        scheduler.prefill_tokens_per_second = Some(rate.number(1e-6, 1e12)?);
    }
    if let Some(penalty) = parameters.get("maxTokensInFlightPenalty") {
        let tokens = penalty.number(0.0, 1e12)?;
        if tokens > 0.0 {
            let rate = scheduler.prefill_tokens_per_second.unwrap_or(PEAK_PREFILL_THROUGHPUT);
            let seconds = tokens / rate;
            notes.push(format!(
                "{tokens} tokens in flight are a wait of {seconds:.1} s at {rate} tokens per second"
            ));
            let other = ours.get("max_wait_seconds").copied().unwrap_or(DEFAULT_WAIT);
            ours.insert("max_wait_seconds".to_owned(), seconds.min(other));
        }
    }
    if let Some(number) = parameters.get("explorationProbability")
        && number.number(0.0, f64::MAX)? > 0.0
    {
        return Err(number.fault("this version does not have it, must be 0"));
    }
    Ok(())
}

/// Parameters of the index, which older releases have on the scorer.
pub(super) const INDEX: [&str; 7] = [
    "autoTune",
    "blockSizeTokens",
    "blockSize",
    "hashBlockSize",
    "maxPrefixTokensToMatch",
    "maxPrefixBlocksToMatch",
    "lruCapacityPerServer",
];

/// Reads the parameters of the index.
///
/// A block size in characters becomes tokens of four characters, as it does in the reference picker.
pub(super) fn index(
    parameters: &Node<'_>,
    scheduler: &mut SchedulerConfig,
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    let size = |name: &str| parameters.get(name).map(|size| size.whole(0, 65_536)).transpose();
    let tokens = size("blockSizeTokens")?.filter(|tokens| *tokens > 0);
    let characters = size("blockSize")?.or(size("hashBlockSize")?).filter(|characters| *characters > 0);
    if let Some(characters) = characters.filter(|_| tokens.is_none()) {
        let bytes_per_token = f64::from(scheduler.bytes_per_token);
        scheduler.block_size_tokens = (f64::from(characters) / bytes_per_token).floor().max(1.0) as u32;
        notes.push(format!(
            "blocks of {characters} characters are blocks of {} tokens",
            scheduler.block_size_tokens
        ));
    }
    if let Some(tokens) = tokens {
        scheduler.block_size_tokens = tokens;
    }
    let block = u64::from(scheduler.block_size_tokens);
    let count = |name: &str| parameters.get(name).map(|count| count.count()).transpose();
    let (head, blocks) = (count("maxPrefixTokensToMatch")?, count("maxPrefixBlocksToMatch")?);
    let limit = head.filter(|head| *head > 0).or(blocks.map(|blocks| blocks.saturating_mul(block)));
    if head.is_some() || blocks.is_some() {
        scheduler.max_prefix_tokens =
            limit.filter(|limit| *limit > 0).map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
    }
    if let Some(blocks) = count("lruCapacityPerServer")?.filter(|blocks| *blocks > 0) {
        scheduler.default_capacity_tokens = blocks.saturating_mul(block);
        notes.push("`lruCapacityPerServer` counts where an engine does not report its KV cache".to_owned());
    }
    if let Some(tune) = parameters.get("autoTune") {
        let what =
            if tune.boolean()? { "the block size stays" } else { "the reported KV cache still counts" };
        notes.push(format!("`autoTune`: {what}"));
    }
    Ok(())
}
