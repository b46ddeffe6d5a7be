//! The plugin types of the reference picker, in every spelling that one of its releases had.

use p3sched::filter::{lora, prefix_affinity};
use p3sched::picker::{max_score, random, round_robin, weighted_random};
use p3sched::scorer::{
    active_request, kv_cache_utilization, least_requests, load_aware, lora_affinity, no_hit_lru,
    prefix_cache, queue, running_requests_size, session_affinity, token_load, uncached_times_batch,
};

use super::document::nearest;
use super::label_filters::LabelFilter;

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A filter of the scheduler, by our type name.
    Filter(&'static str),
    /// A scorer of the scheduler, by our type name.
    Scorer(&'static str),
    /// A picker of the scheduler, by our type name.
    Picker(&'static str),
    /// Which endpoints a profile picks among, by label.
    Labels(LabelFilter),
    /// Runs the profiles.
    Handler(HandlerPart),
    /// Decides whether another profile runs, too.
    Decider(DeciderPart),
    /// Writes the header that names the endpoint for prefill.
    PrefillerHeader,
    /// The index of prefixes, with its parameters.
    PrefixIndex,
    /// The index of prefixes from the KV events of engines, with its parameters.
    EventIndex,
    /// The scorer of prefixes with such an index; older releases have the parameters of the index on it.
    EventScorer,
    /// Where metrics are read.
    MetricsSource,
    /// Which metrics are read.
    MetricsExtractor,
    /// Reads prompts without a tokenizer, if it is not told to use one.
    TokenEstimate,
    /// When requests of negative priority are refused.
    Saturation,
    /// Lets a header name the endpoints to route to.
    ConformanceTest,
    /// Counts what is in flight, which the server always does.
    InFlightLoad,
    /// Tells other plugins of endpoints that come and go, which the server always does.
    EndpointEvents,
    /// Is part of the server, whatever the configuration says; takes no parameters.
    BuiltIn,
    /// Means nothing here; the text says why.
    WithoutEffect(&'static str),
    /// Is known and not built; the text says what to use instead.
    Unbuilt(&'static str),
}

/// Which profiles run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandlerPart {
    /// The only one.
    Single,
    /// One for decode, and others where a decider says so.
    Disaggregated,
    /// The same with the parameters of older releases.
    OldDisaggregated,
    /// The only one, with a sidecar before the ranks of an engine.
    DataParallel,
}

/// When another profile runs, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeciderPart {
    /// For every request, or for every one that it is about.
    Always,
    /// For requests of so many uncached tokens or more; never for 0.
    ByUncachedTokens,
    /// For prompts of so many tokens or more; never for 0.
    ByPromptTokens,
}

impl Part {
    /// Which profiles the plugin runs, if that is what it is for.
    pub(super) fn handler(self) -> Option<HandlerPart> {
        match self {
            Self::Handler(handler) => Some(handler),
            _ => None,
        }
    }
}

const LATENCY: &str =
    "the predicted time to the first token needs no plugin, use prefix-cache-affinity-filter";
const PRECISE: &str = "use approx-prefix-cache-producer";
const FLOW: &str = "leave it out, requests are not queued here";
const MULTI: &str = "use single-profile-handler";
const PARSER: &str = "use openai-parser";
const FLOW_OFF: &str = "flow control is off";

/// Every type with what it is for.
const TYPES: [(&str, Part); 81] = [
    ("queue-scorer", Part::Scorer(queue::TYPE)),
    ("kv-cache-utilization-scorer", Part::Scorer(kv_cache_utilization::TYPE)),
    ("kv-cache-scorer", Part::Scorer(kv_cache_utilization::TYPE)),
    ("running-requests-size-scorer", Part::Scorer(running_requests_size::TYPE)),
    ("prefix-cache-scorer", Part::Scorer(prefix_cache::TYPE)),
    ("no-hit-lru-scorer", Part::Scorer(no_hit_lru::TYPE)),
    ("lora-affinity-scorer", Part::Scorer(lora_affinity::TYPE)),
    ("active-request-scorer", Part::Scorer(active_request::TYPE)),
    ("load-aware-scorer", Part::Scorer(load_aware::TYPE)),
    ("token-load-scorer", Part::Scorer(token_load::TYPE)),
    ("session-affinity-scorer", Part::Scorer(session_affinity::TYPE)),
    ("least-requests", Part::Scorer(least_requests::TYPE)),
    ("lmetric-scorer", Part::Scorer(uncached_times_batch::TYPE)),
    ("prefix-cache-affinity-filter", Part::Filter(prefix_affinity::TYPE)),
    ("decode-filter", Part::Labels(LabelFilter::Decode)),
    ("lora-affinity-filter", Part::Filter(lora::TYPE)),
    ("max-score-picker", Part::Picker(max_score::TYPE)),
    ("random-picker", Part::Picker(random::TYPE)),
    ("weighted-random-picker", Part::Picker(weighted_random::TYPE)),
    ("round-robin-picker", Part::Picker(round_robin::TYPE)),
    ("single-profile-handler", Part::Handler(HandlerPart::Single)),
    ("disagg-profile-handler", Part::Handler(HandlerPart::Disaggregated)),
    ("pd-profile-handler", Part::Handler(HandlerPart::OldDisaggregated)),
    ("data-parallel-profile-handler", Part::Handler(HandlerPart::DataParallel)),
    ("always-disagg-pd-decider", Part::Decider(DeciderPart::Always)),
    ("prefix-based-pd-decider", Part::Decider(DeciderPart::ByUncachedTokens)),
    ("prompt-length-based-pd-decider", Part::Decider(DeciderPart::ByPromptTokens)),
    ("always-disagg-multimodal-decider", Part::Decider(DeciderPart::Always)),
    ("disagg-headers-handler", Part::PrefillerHeader),
    ("prefill-header-handler", Part::PrefillerHeader),
    ("prefill-filter", Part::Labels(LabelFilter::Prefill)),
    ("encode-filter", Part::Labels(LabelFilter::Encode)),
    ("by-label", Part::Labels(LabelFilter::ByLabel)),
    ("by-label-selector", Part::Labels(LabelFilter::Selector)),
    ("label-selector-filter", Part::Labels(LabelFilter::Selector)),
    ("approx-prefix-cache-producer", Part::PrefixIndex),
    ("inflight-load-producer", Part::InFlightLoad),
    ("session-id-producer", Part::BuiltIn),
    ("token-producer", Part::TokenEstimate),
    ("tokenizer", Part::TokenEstimate),
    ("metrics-data-source", Part::MetricsSource),
    ("core-metrics-extractor", Part::MetricsExtractor),
    ("model-server-protocol-metrics", Part::MetricsExtractor),
    ("utilization-detector", Part::Saturation),
    ("concurrency-detector", Part::Unbuilt("use --max-streams, or utilization-detector")),
    ("openai-parser", Part::BuiltIn),
    ("anthropic-parser", Part::BuiltIn),
    ("vllmhttp-parser", Part::BuiltIn),
    ("sglanghttp-parser", Part::BuiltIn),
    ("vllmgrpc-parser", Part::Unbuilt(PARSER)),
    ("vertexai-parser", Part::Unbuilt(PARSER)),
    ("passthrough-parser", Part::Unbuilt("use openai-parser, which lets what it does not know through")),
    ("global-strict-fairness-policy", Part::WithoutEffect(FLOW_OFF)),
    ("round-robin-fairness-policy", Part::WithoutEffect(FLOW_OFF)),
    ("fcfs-ordering-policy", Part::WithoutEffect(FLOW_OFF)),
    ("edf-ordering-policy", Part::WithoutEffect(FLOW_OFF)),
    ("slo-deadline-ordering-policy", Part::WithoutEffect(FLOW_OFF)),
    ("static-usage-limit-policy", Part::WithoutEffect(FLOW_OFF)),
    ("program-aware-fairness-policy", Part::Unbuilt(FLOW)),
    ("probabilistic-admitter", Part::Unbuilt(FLOW)),
    ("latency-slo-admitter", Part::Unbuilt(FLOW)),
    ("header-profile-handler", Part::Unbuilt(MULTI)),
    ("precise-prefix-cache-scorer", Part::EventScorer),
    ("precise-prefix-cache-producer", Part::EventIndex),
    ("burst-prefix-cache-producer", Part::Unbuilt(PRECISE)),
    ("predicted-latency-producer", Part::Unbuilt(LATENCY)),
    ("predicted-latency-scorer", Part::Unbuilt(LATENCY)),
    ("latency-scorer", Part::Unbuilt(LATENCY)),
    ("slo-headroom-tier-filter", Part::Unbuilt(LATENCY)),
    ("context-length-aware", Part::Unbuilt("use token-load-scorer")),
    ("mm-embeddings-cache-producer", Part::Unbuilt(PRECISE)),
    ("mm-embeddings-cache-scorer", Part::Unbuilt("use prefix-cache-scorer")),
    ("header-based-testing-filter", Part::ConformanceTest),
    ("destination-endpoint-served-verifier", Part::ConformanceTest),
    ("low-queue-filter", Part::Unbuilt("use queue-scorer")),
    ("least-queue-filter", Part::Unbuilt("use queue-scorer")),
    ("least-kv-cache-filter", Part::Unbuilt("use kv-cache-utilization-scorer")),
    ("file-discovery", Part::Unbuilt("use --endpoints-file")),
    ("endpoint-notification-source", Part::EndpointEvents),
    ("models-data-source", Part::Unbuilt("leave it out, the models of an endpoint are not asked for")),
    (
        "model-server-models-extractor",
        Part::Unbuilt("leave it out, the models of an endpoint are not asked for"),
    ),
];

/// What a type is for; the error says which one is nearest.
pub(super) fn part_of(written: &str) -> Result<Part, String> {
    if let Some((_, part)) = TYPES.iter().find(|(name, _)| *name == written) {
        return match part {
            Part::Unbuilt(instead) => {
                Err(format!("this plugin type is known but not built into this version; hint: {instead}"))
            }
            part => Ok(*part),
        };
    }
    let built = TYPES.iter().filter(|(_, part)| !matches!(part, Part::Unbuilt(_))).map(|(name, _)| *name);
    Err(match nearest(written, built) {
        Some(nearest) => format!("unknown plugin type, the nearest known one is `{nearest}`"),
        None => "unknown plugin type; hint: `queue-scorer`, `kv-cache-utilization-scorer` and `prefix-cache-scorer` are \
                 the usual ones"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn types_are_listed_once_and_unknown_ones_have_a_neighbour() {
        let names: HashSet<_> = TYPES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), TYPES.len());
        assert_eq!(part_of("kv-cache-scorer"), Ok(Part::Scorer("kv-cache-utilization-scorer")));
        assert!(part_of("queue-scorers").unwrap_err().contains("`queue-scorer`"));
        assert!(part_of("maxscore-picker").unwrap_err().contains("`max-score-picker`"));
        assert!(part_of("latency-scorer").unwrap_err().contains("known but not built"));
        assert!(part_of("zzzzzz").unwrap_err().contains("the usual ones"));
    }
}
