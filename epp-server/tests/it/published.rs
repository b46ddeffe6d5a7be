//! The configurations that KServe and llm-d publish, in structure: what each would run, or why it is refused.

use std::path::{Path, PathBuf};

use epp_server::check_config;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

const DECODE: &str = "picks among endpoints whose label `llm-d.ai/role` is one of decode, prefill-decode, both, encode-prefill-decode, or missing";
const PREFILL: &str = "picks among endpoints whose label `llm-d.ai/role` is one of prefill, encode-prefill, prefill-decode, both, encode-prefill-decode";

#[test]
fn published_configurations_run_as_they_say() {
    for (name, parts) in [
        (
            "kserve/prefill-decode.yaml",
            &[
                "profile: EndpointPickerConfig, profile `decode`",
                DECODE,
                "prefill elsewhere: every request, by profile `prefill`",
                "prefill headers: `x-llm-d-prefiller-host-port`, `x-prefiller-host-port`",
                PREFILL,
                "prefix-affinity-filter: keeps the holders",
                "1 × token-load-scorer",
                "512 MiB at most",
            ][..],
        ),
        (
            "kserve/prefill-decode-of-older-releases.yaml",
            &["prefill elsewhere: every request", "3 × prefix-cache-scorer", "load-gate-filter"],
        ),
        (
            "llm-d/pd-by-cached-prefix.yaml",
            &[
                "prefill elsewhere: requests of which the decode endpoint lacks 16 tokens or more, by profile `prefill`",
                "the first 4096 tokens of a prompt, 500000 tokens per endpoint",
            ],
        ),
        ("llm-d/wide-expert-parallelism.yaml", &[DECODE, PREFILL, "prefill elsewhere: every request"]),
        (
            "llm-d/agentic-prefill-decode.yaml",
            &["64000000 tokens per endpoint", "prefill elsewhere: every request"],
        ),
        (
            "llm-d/optimized-baseline.yaml",
            &[
                "prefix-affinity-filter (max_wait_seconds 18.0",
                "min_share 0.8)",
                "note: 286720 tokens in flight are a wait of 18.0 s at 15928 tokens per second",
            ],
        ),
        (
            "llm-d/data-parallel.yaml",
            &[DECODE, "port: 8200 for every endpoint, which `x-data-parallel-host-port` names"],
        ),
        (
            "kserve/precise.yaml",
            &[
                "KV events: read from port 5557 of each replica",
                "3 × prefix-cache-scorer",
                "blocks of 64 tokens",
                "note: nothing here makes tokens of text",
                "note: the index from KV events counts for prompts of token ids",
            ],
        ),
        (
            "llm-d/precise-of-older-releases.yaml",
            &[
                "KV events: engines connect to port 5557",
                "10 × prefix-cache-scorer",
                "note: `hashSeed` has no effect",
            ],
        ),
        (
            "llm-d/precise-prefill-decode.yaml",
            &["KV events: read from port 5556", "blocks of 128 tokens", "prefill elsewhere: every request"],
        ),
        ("llm-d/lmetric.yaml", &["1 × uncached-times-batch-scorer", "KV events: read from port 5557"]),
        (
            "llm-d/labels.yaml",
            &[
                "label `topology.kubernetes.io/zone` is one of a, b, or missing, and label `app` is one of llama",
                "and label `leaderworkerset.sigs.k8s.io/worker-index` is one of 0, and label `draining` is missing",
            ],
        ),
    ] {
        let explanation = check_config::explain_file(&data(name)).unwrap();
        for part in parts {
            assert!(explanation.contains(part), "{name}: {part}\n{explanation}");
        }
    }
}

#[test]
fn published_configurations_that_mean_nothing_here_are_refused() {
    for (name, parts) in [
        ("llm-d/encode-prefill-decode.yaml", &["does not encode images", "deciders.encode", "line 9"][..]),
        ("llm-d/latency-predictor.yaml", &["known but not built", "prefix-cache-affinity-filter", "line 5"]),
        ("llm-d/tiered-cache.yaml", &["one prefix index", "`gpu`", "line 6"]),
    ] {
        let error = check_config::explain_file(&data(name)).unwrap_err();
        for part in parts.iter().chain([&name]) {
            assert!(error.contains(part), "{name}: {part}\n{error}");
        }
    }
}

/// Every fixture is in one of the tables, or in the tests of the command line.
#[test]
fn no_published_configuration_is_forgotten() {
    let tests = concat!(include_str!("published.rs"), include_str!("launch.rs"));
    for folder in ["kserve", "llm-d"] {
        for entry in std::fs::read_dir(data(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(tests.contains(&name), "{folder}/{name}");
        }
    }
}
