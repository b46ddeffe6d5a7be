//! The index from what engines say about their caches.

use p3sched::SchedulerConfig;

use super::document::{Fault, Node};
use crate::kv_events::KvEventSettings;

/// Port that engines publish on, where nothing else is configured.
const PORT: u16 = 5557;
/// What the topics of engines begin with.
const TOPIC: &str = "kv@";

/// Reads the parameters of `precise-prefix-cache-producer`, which older releases have on the scorer.
pub(super) fn read(
    parameters: Option<&Node<'_>>,
    scheduler: &mut SchedulerConfig,
    events: &mut KvEventSettings,
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    events.topic = TOPIC.to_owned();
    events.port = Some(PORT);
    notes.push(TOKENS_ONLY.to_owned());
    let Some(parameters) = parameters else { return Ok(()) };
    parameters.only(&[
        "tokenProcessorConfig",
        "indexerConfig",
        "kvEventsConfig",
        "speculativeIndexing",
        "speculativeTTL",
    ])?;
    if let Some(tokens) = parameters.get("tokenProcessorConfig") {
        token_processor(&tokens, scheduler, notes)?;
    }
    if let Some(indexer) = parameters.get("indexerConfig") {
        self::indexer(&indexer, scheduler, notes)?;
    }
    if let Some(config) = parameters.get("kvEventsConfig") {
        kv_events(&config, events, notes)?;
    }
    if let Some(speculates) = parameters.get("speculativeIndexing")
        && !speculates.boolean()?
    {
        notes.push("`speculativeIndexing`: a pick always counts until its engine has told".to_owned());
    }
    if let Some(time) = parameters.get("speculativeTTL") {
        let duration = humantime::parse_duration(time.text()?);
        let duration = duration.map_err(|_| time.fault("must be a time such as `2s`"))?;
        scheduler.kv_events.confirm_within_seconds = duration.as_secs_f64();
    }
    Ok(())
}

const TOKENS_ONLY: &str = "the index from KV events counts for prompts of token ids; other prompts are matched by own picks, since \
                           nothing here makes tokens of text";

fn token_processor(
    config: &Node<'_>,
    scheduler: &mut SchedulerConfig,
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    config.only(&["blockSize", "blockSizeTokens", "hashSeed"])?;
    if let Some(size) = config.get("blockSizeTokens").or(config.get("blockSize")) {
        scheduler.block_size_tokens = size.whole(1, 1024)?;
    }
    if config.get("hashSeed").is_some() {
        notes.push("`hashSeed` has no effect: hashes of engines need not be computed here".to_owned());
    }
    Ok(())
}

fn indexer(config: &Node<'_>, scheduler: &mut SchedulerConfig, notes: &mut Vec<String>) -> Result<(), Fault> {
    const UNUSED: [&str; 4] =
        ["prefixStoreConfig", "tokenizersPoolConfig", "kvCacheBackendConfigs", "kvBlockScorerConfig"];
    config.only(&[&["tokenProcessorConfig", "kvBlockIndexConfig"], &UNUSED[..]].concat())?;
    if let Some(tokens) = config.get("tokenProcessorConfig") {
        token_processor(&tokens, scheduler, notes)?;
    }
    if let Some(index) = config.get("kvBlockIndexConfig") {
        for shared in ["redisConfig", "valkeyConfig"] {
            if let Some(shared) = index.get(shared) {
                return Err(shared.fault("this version shares its index with no other; hint: leave it out"));
            }
        }
        notes.push("`kvBlockIndexConfig` has no effect: the index is bounded in bytes".to_owned());
    }
    for name in UNUSED {
        if config.get(name).is_some() {
            notes.push(format!("`{name}` has no effect: nothing here depends on it"));
        }
    }
    Ok(())
}

fn kv_events(config: &Node<'_>, events: &mut KvEventSettings, notes: &mut Vec<String>) -> Result<(), Fault> {
    config.only(&["zmqEndpoint", "topicFilter", "concurrency", "discoverPods", "podDiscoveryConfig"])?;
    if let Some(topic) = config.get("topicFilter") {
        events.topic = topic.text()?.to_owned();
    }
    if config.get("concurrency").is_some() {
        notes.push("`concurrency` of KV events has no effect: nothing here depends on it".to_owned());
    }
    let endpoint = config.get("zmqEndpoint");
    if let Some(endpoint) = &endpoint {
        let text = endpoint.text()?.replace("tcp://0.0.0.0:", "tcp://*:");
        events.bind = Some(text.parse().map_err(|_| endpoint.fault("must be as `tcp://*:5557`"))?);
    }
    // Engines that connect here do not listen themselves.
    let discovers = config.get("discoverPods").map(|discovers| discovers.boolean()).transpose()?;
    if !discovers.unwrap_or(endpoint.is_none()) {
        events.port = None;
    }
    if let Some(pods) = config.get("podDiscoveryConfig") {
        pods.only(&["podLabelSelector", "podNamespace", "socketPort"])?;
        if let Some(port) = pods.get("socketPort") {
            let port = port.whole(1, 65_535)? as u16;
            events.port = events.port.map(|_| port);
        }
        for name in ["podLabelSelector", "podNamespace"] {
            if pods.get(name).is_some() {
                notes.push(format!("`{name}` has no effect: the endpoints of the pool are asked"));
            }
        }
    }
    Ok(())
}
