//! What deployments start the server with.

use p3sched::scheduler::SaturationLimits;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epp_server::check_config;
use epp_server::config::{EndpointSource, Settings};
use epp_server::discovery::kubernetes::inference_pool::PoolGroup;
use epp_server::discovery::kubernetes::{KubernetesSource, PodSource};
use epp_server::flags::{CommandLine, LogFormat, LogLevel};
use epp_server::scrape::Scheme;

fn flags(arguments: &[&str]) -> epp_server::flags::Flags {
    let arguments = ["/app/epp"].iter().chain(arguments).map(OsString::from);
    CommandLine::read(arguments).unwrap().flags
}

fn settings(arguments: &[&str]) -> Result<Settings, String> {
    Settings::from_flags(flags(arguments))
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kserve").join(name)
}

/// What runs, in short.
fn profile(settings: &Settings) -> String {
    let filters: Vec<&str> =
        settings.scheduler.filters.iter().map(|filter| &*filter.filter_type).skip(3).collect();
    format!("{} | {} | {}", filters.join(" "), settings.scorers(), settings.scheduler.picker.picker_type)
}

const REPLICAS: &str = "--endpoints=10.0.0.1:8000";

#[test]
fn kserve_with_tls_starts() {
    let text = std::fs::read_to_string(data("single.yaml")).unwrap();
    let arguments = [
        "--pool-name",
        "llama-inference-pool",
        "--pool-namespace",
        "models",
        "--zap-encoder",
        "json",
        "--grpc-port",
        "9002",
        "--grpc-health-port",
        "9003",
        "--enable-cert-reload=true",
        "--secure-serving=true",
        "--model-server-metrics-scheme=https",
        "--cert-path=/var/run/kserve/tls",
        "--config-text",
        &text,
        REPLICAS,
    ];
    assert_eq!(flags(&arguments).log_format, LogFormat::Json);
    let settings = settings(&arguments).unwrap();
    assert_eq!(settings.pool.as_deref(), Some("models/llama-inference-pool"));
    assert!(settings.secure_serving && settings.reload_certificates);
    assert_eq!(settings.certificates.as_deref(), Some(Path::new("/var/run/kserve/tls")));
    assert_eq!((settings.scrape.scheme, &settings.scrape.authorities), (Scheme::Https, &None));
    assert_eq!(
        profile(&settings),
        "load-gate-filter | lora-affinity-scorer=4 queue-scorer=2 prefix-cache-scorer=3 | max-score-picker"
    );
}

#[test]
fn kserve_without_tls_starts() {
    let text = std::fs::read_to_string(data("inline.json")).unwrap();
    let arguments = [
        "--pool-name",
        "llama-inference-pool",
        "--pool-namespace",
        "models",
        "--zap-encoder",
        "json",
        "--grpc-port",
        "9002",
        "--grpc-health-port",
        "9003",
        "",
        "--secure-serving=false",
        "",
        "",
        "-configText",
        &text,
        REPLICAS,
    ];
    let settings = settings(&arguments).unwrap();
    assert!(!settings.secure_serving && !settings.reload_certificates);
    assert_eq!(
        profile(&settings),
        "load-gate-filter | queue-scorer=1 prefix-cache-scorer=2.5 | weighted-random-picker"
    );
    let scheduler = &settings.scheduler;
    assert_eq!(scheduler.fallbacks, 2);
    assert_eq!(
        (scheduler.block_size_tokens, scheduler.max_prefix_tokens, scheduler.default_capacity_tokens),
        (64, Some(256 * 64), 64_000)
    );
    let names = &scheduler.metrics.names;
    assert_eq!(names.waiting_requests.as_deref(), Some("atom:num_requests_waiting{state=\"queued\"}"));
    assert_eq!(names.kv_cache_utilization.as_deref(), Some("atom:kv_cache_usage_perc"));
    assert_eq!((settings.scrape.scheme, &*settings.scrape.path), (Scheme::Https, "/stats"));
}

#[test]
fn kserve_of_the_first_releases_starts() {
    let file = data("first-release.yaml");
    let arguments = [
        "--poolName",
        "llama-inference-pool",
        "--poolNamespace",
        "models",
        "--zap-encoder",
        "json",
        "--grpcPort",
        "9012",
        "--grpcHealthPort",
        "9013",
        "--kv-cache-usage-percentage-metric",
        "vllm:kv_cache_usage_perc",
        "--configFile",
        file.to_str().unwrap(),
        REPLICAS,
    ];
    let settings = settings(&arguments).unwrap();
    assert_eq!((settings.grpc_port, settings.health_port), (9012, 9013));
    assert_eq!(settings.scheduler.metrics.names.kv_cache_utilization, None, "vLLM calls it so itself");
    assert_eq!(
        profile(&settings),
        "load-gate-filter | prefix-cache-scorer=2 load-aware-scorer=1 | max-score-picker"
    );
    let scheduler = &settings.scheduler;
    assert_eq!(scheduler.scorers[1].parameters["threshold_requests"], 100.0);
    assert_eq!(
        (scheduler.block_size_tokens, scheduler.max_prefix_tokens, scheduler.default_capacity_tokens),
        (16, Some(256 * 16), 31_250 * 16)
    );
}

#[test]
fn charts_of_the_extension_start() {
    let arguments = [
        "-poolName",
        "pool",
        "-poolNamespace=default",
        "-v",
        "4",
        "--zap-encoder",
        "console",
        "-grpcPort=9002",
        "--total-queued-requests-metric",
        "triton_requests{state=pending}",
        "--total-running-requests-metric=",
        "--lora-info-metric",
        "",
        "--cache-info-metric",
        "",
        "--model-server-metrics-path",
        "/stats",
        "--model-server-metrics-port=9100",
        "--model-server-metrics-https-insecure-skip-verify=true",
        "--refresh-metrics-interval",
        "100ms",
        "--metrics-staleness-threshold=2s",
        "--grpc-max-recv-msg-size",
        "25MB",
        "--metrics-endpoint-auth=false",
        "--tracing=false",
        "--ha-enable-leader-election=false",
        "--health-checking",
        "--enable-pprof=false",
        "--refresh-prometheus-metrics-interval",
        "5s",
        REPLICAS,
    ];
    assert_eq!(flags(&arguments).log_level(), LogLevel::Debug);
    let settings = settings(&arguments).unwrap();
    let names = &settings.scheduler.metrics.names;
    assert_eq!(names.waiting_requests.as_deref(), Some("triton_requests{state=\"pending\"}"));
    assert_eq!((&names.running_requests, &names.adapters, &names.cache_config), (&None, &None, &None));
    assert_eq!((&*settings.scrape.path, settings.scrape.port), ("/stats", Some(9100)));
    assert_eq!(settings.scrape.interval, Duration::from_millis(100));
    assert_eq!(settings.limits.max_message_bytes, 25_000_000);
    assert_eq!(settings.scheduler.metrics.expire_seconds, 2.0);
    assert!(settings.health_checking && settings.secure_serving);
    for flag in ["`--enable-pprof`", "`--refresh-prometheus-metrics-interval`"] {
        assert!(settings.notes.iter().any(|note| note.contains(flag)), "{flag}: {:?}", settings.notes);
    }
}

#[test]
fn without_a_configuration_the_start_decides_what_runs() {
    let own = settings(&[REPLICAS]).unwrap();
    assert_eq!(own.profile, "preset `default`");
    assert_eq!(own.scheduler, p3sched::SchedulerConfig::default());
    let pool = settings(&["--pool-name=llama", "--config-text", "", REPLICAS]).unwrap();
    assert_eq!(pool.profile, "default of an InferencePool");
    assert_eq!(
        profile(&pool),
        "load-gate-filter | queue-scorer=2 kv-cache-utilization-scorer=2 prefix-cache-scorer=3 | max-score-picker"
    );
    assert_eq!(pool.scheduler.load_gate_seconds, Some(5.0));
    let ungated = settings(&["--pool-name=llama", "--load-gate=off", REPLICAS]).unwrap();
    assert_eq!(ungated.scheduler.load_gate_seconds, None);
    let file = data("optimized-baseline.yaml");
    let gated = settings(&["--load-gate", "2s", "--config-file", file.to_str().unwrap(), REPLICAS]).unwrap();
    assert_eq!(gated.scheduler.load_gate_seconds, Some(2.0));
    assert!(profile(&gated).starts_with("prefix-affinity-filter load-gate-filter |"));
}

#[test]
fn what_cannot_work_is_refused_with_what_to_use() {
    let labels = "--endpoint-selector=app=vllm";
    for (arguments, parts) in [
        (&[REPLICAS, "--enable-cert-reload"][..], &["--cert-path"][..]),
        (&[labels], &["1 to 8 ports", "--endpoint-target-ports", "`app=vllm`"]),
        (&[labels, "--endpoint-target-ports=1,2,3,4,5,6,7,8,9"], &["1 to 8 ports"]),
        (&[labels, "--endpoint-target-ports=8000", "--pool-name=llama"], &["either `--pool-name`"]),
        (&["--endpoint-target-ports=8000"], &["--endpoint-selector"]),
    ] {
        let error = settings(arguments).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn a_pool_is_read_from_kubernetes_unless_the_replicas_are_given() {
    let pool = |arguments: &[&str]| {
        let given = ["--pool-name=llama", "--pool-namespace=models"];
        settings(&[&given, arguments].concat()).unwrap()
    };
    let pods = PodSource::Pool { name: "llama".to_owned(), group: PoolGroup::Experimental };
    let found = EndpointSource::Kubernetes(KubernetesSource { namespace: "models".to_owned(), pods });
    let read = pool(&["--pool-group", "inference.networking.x-k8s.io"]);
    assert!(read.endpoints == found && read.needs_kubernetes() && read.metrics_endpoint_auth);
    assert!(!pool(&["--metrics-endpoint-auth=false"]).metrics_endpoint_auth);
    let given = pool(&[REPLICAS]);
    assert!(matches!(given.endpoints, EndpointSource::Fixed(_)) && !given.needs_kubernetes());
    assert!(pool(&[REPLICAS, "--metrics-endpoint-auth"]).needs_kubernetes());
    let election = pool(&[REPLICAS, "--ha-enable-leader-election"]).election.unwrap();
    assert_eq!((&*election.namespace, &*election.pool), ("models", "llama"));
}

#[test]
fn saturation_and_tests_are_read_as_the_reference_picker_writes_them() {
    let detector = "{type: utilization-detector, parameters: {queueDepthThreshold: 9, kvCacheUtilThreshold: 0.5, metricsStalenessThreshold: 300ms, stalenessPolicy: ignore}}";
    let test = "{type: header-based-testing-filter}";
    let plugins = format!("{HEAD}plugins: [{{type: queue-scorer}}, {detector}, {test}]");
    let section =
        format!("{HEAD}plugins: [{{type: queue-scorer}}]\nsaturationDetector: {{queueDepthThreshold: 9}}");
    let routing = |text: &str| settings(&["--config-text", text, REPLICAS]).unwrap().routing;
    let written = SaturationLimits {
        waiting_requests: 9.0,
        kv_cache_utilization: 0.5,
        stale_seconds: 0.3,
        ignores_stale: true,
    };
    assert_eq!((routing(&plugins).saturation, routing(&plugins).serves_tests), (written, true));
    let usual = SaturationLimits { waiting_requests: 9.0, ..SaturationLimits::default() };
    assert_eq!((routing(&section).saturation, routing(&section).serves_tests), (usual, false));
    let seldom = settings(&["--refresh-metrics-interval=1s", REPLICAS]).unwrap();
    assert_eq!(seldom.routing.saturation.stale_seconds, 4.0, "else every endpoint would be saturated");
    for (parameter, part) in [
        ("stalenessPolicy: hold", "`saturated` or `ignore`"),
        ("metricsStalenessThreshold: 0s", "`200ms`"),
        ("kvCacheUtilThreshold: 80", "kvCacheUtilThreshold"),
    ] {
        let error = refused(&format!(
            "{HEAD}plugins:\n- {{type: queue-scorer}}\n- {{type: utilization-detector, parameters: {{{parameter}}}}}"
        ));
        assert!(error.contains(part) && error.contains("line 5"), "{parameter}: {error}");
    }
}

#[test]
fn the_formats_are_told_apart_by_their_keys() {
    let own = "# instead of an EndpointPickerConfig\nscheduler: {fallbacks: 1}\nendpoints: ['10.0.0.1:8000']";
    let settings = settings(&["--config-text", own]).unwrap();
    assert_eq!((&*settings.profile, settings.scheduler.fallbacks), ("configuration", 1));
}

#[test]
fn the_last_of_several_values_counts() {
    let flags = flags(&["--grpc-port=1", "--grpc-port=2", "--secure-serving", "--secure-serving=false"]);
    assert_eq!((flags.grpc_port, flags.secure_serving), (2, false));
}

#[test]
fn generated_configurations_are_explained() {
    for (name, parts) in [
        (
            "single.yaml",
            &[
                "profile: EndpointPickerConfig, profile `default`",
                "4 × lora-affinity-scorer: ",
                "3 × prefix-cache-scorer: matched",
                "load-gate-filter: drops endpoints whose wait is over 5 s",
            ][..],
        ),
        (
            "first-release.yaml",
            &[
                "load-aware-scorer (threshold_requests 100)",
                "blocks of 16 tokens, the first 4096 tokens",
                "note: blocks of 64 characters",
            ],
        ),
        ("optimized-baseline.yaml", &["prefix-affinity-filter: keeps the holders", "1 × token-load-scorer"]),
        ("weighted-sum.yaml", &["2 × no-hit-lru-scorer"]),
        ("modality.yaml", &["1 × active-request-scorer", "picker: max-score-picker"]),
        (
            "inline.json",
            &[
                "picker: weighted-random-picker",
                "fallbacks: 2",
                "metrics: https, /stats, waiting requests from",
                "saturated, so that negative priorities are refused: 5 waiting or 0.8 of the KV cache",
            ],
        ),
    ] {
        let explanation = check_config::explain_file(&data(name)).unwrap();
        for part in parts {
            assert!(explanation.contains(part), "{name}: {part}\n{explanation}");
        }
    }
    assert!(!check_config::explain_file(&data("optimized-baseline.yaml")).unwrap().contains("load-gate"));
}

/// A configuration of one profile; every line that a test writes stands where it counts.
fn refused(text: &str) -> String {
    settings(&["--config-text", text, REPLICAS]).unwrap_err()
}

const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";

#[test]
fn what_is_wrong_in_a_configuration_is_named_with_its_place() {
    for (text, parts) in [
        (
            "kind: EndpointPicker\napiVersion: llm-d.ai/v1",
            &["must be `EndpointPickerConfig`: `EndpointPicker`", "line 1 column 7"][..],
        ),
        (
            "kind: EndpointPickerConfig\napiVersion: llm-d.ai/v2",
            &["`inference.networking.x-k8s.io/v1alpha1`", "`llm-d.ai/v2`", "line 2 column 13"],
        ),
        ("plugins: []", &["`kind` is missing"]),
        ("kind: EndpointPickerConfig\napiVersion: [", &["line 3 column 1"]),
    ] {
        check(text, parts);
    }
    for (body, parts) in [
        ("plugin: []", &["the nearest known one is `plugins`", "`plugin`", "line 3 column 1"][..]),
        (
            "plugins:\n- type: queue-scorers",
            &["unknown plugin type", "`queue-scorer`: `queue-scorers`", "line 4 column 9", "plugins[0].type"],
        ),
        (
            "plugins:\n- type: latency-scorer",
            &["known but not built", "use prefix-cache-affinity-filter", "line 4 column 9"],
        ),
        (
            "plugins:\n- type: precise-prefix-cache-producer\n  parameters:\n    kvEventsConfig: {zmqEndpoint: 'ipc:///tmp/x'}",
            &["must be as `tcp://*:5557`: `ipc:///tmp/x`", "line 6 column 35"],
        ),
        (
            "plugins:\n- type: precise-prefix-cache-producer\n  parameters:\n    indexerConfig: {kvBlockIndexConfig: {redisConfig: {address: 'redis://x'}}}",
            &["shares its index with no other", "line 6"],
        ),
        ("plugins:\n- name: a", &["`type` is missing", "plugins[0]", "line 4"]),
        (
            "plugins:\n- {type: queue-scorer}\n- {type: queue-scorer}",
            &["two plugins", "`queue-scorer`", "line 5"],
        ),
        (
            "plugins:\n- type: active-request-scorer\n  parameters:\n    idleThresholds: 1\nschedulingProfiles:\n- name: a\n  plugins: [{pluginRef: active-request-scorer}]",
            &["`idleThreshold`: `idleThresholds`", "line 6 column 5"],
        ),
        (
            "plugins:\n- type: active-request-scorer\n  parameters:\n    maxBusyScore: 1.5",
            &["a number from 0 to 1: `1.5`", "line 6 column 19"],
        ),
        (
            "plugins:\n- type: prefix-cache-affinity-filter\n  parameters: {explorationProbability: 0.01}",
            &["must be 0", "line 5"],
        ),
        (
            "plugins:\n- type: prefix-cache-scorer\n  parameters:\n    prefixMatchInfoProducerName: precise",
            &["no plugin of this name: `precise`", "line 6"],
        ),
        (
            "plugins:\n- {type: approx-prefix-cache-producer}\n- {type: approx-prefix-cache-producer, name: b}",
            &["one prefix index", "line 5"],
        ),
        (
            "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: a\n  plugins:\n  - pluginRef: queue-scorr",
            &["nearest one is `queue-scorer`: `queue-scorr`", "line 8 column 16"],
        ),
        (
            "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: a\n  plugins: [{pluginRef: queue-scorer, weight: -1}]",
            &["0 or more: `-1`", "line 7"],
        ),
        (
            "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- {name: a, plugins: []}\n- {name: b, plugins: []}",
            &["only one profile", "`b`", "line 7"],
        ),
        (
            "plugins:\n- type: disagg-profile-handler\n  parameters: {deciders: {prefill: always}}",
            &["no decider of this name: `always`", "line 5"],
        ),
        (
            "plugins:\n- type: always-disagg-pd-decider\n- type: disagg-profile-handler\n  parameters: {deciders: {prefill: always-disagg-pd-decider}}\nschedulingProfiles:\n- {name: decode, plugins: []}",
            &["no profile for prefill of this name: `prefill`", "line 5"],
        ),
        (
            "plugins:\n- type: disagg-profile-handler\nschedulingProfiles:\n- {name: prefill, plugins: []}",
            &["no profile for decode of this name: `decode`", "line 4"],
        ),
        (
            "plugins:\n- type: always-disagg-multimodal-decider\n- type: disagg-profile-handler\n  parameters: {deciders: {encode: always-disagg-multimodal-decider}}",
            &["does not encode images", "line 6 column 35"],
        ),
        (
            "plugins:\n- type: by-label\n  parameters: {label: zone}\nschedulingProfiles:\n- {name: a, plugins: [{pluginRef: by-label}]}",
            &["`validValues` are missing", "line 5"],
        ),
        (
            "plugins:\n- type: by-label-selector\n  parameters:\n    matchExpressions: [{key: zone, operator: Is, values: []}]\nschedulingProfiles:\n- {name: a, plugins: [{pluginRef: by-label-selector}]}",
            &["`Exists`", "`Is`", "line 6"],
        ),
        ("plugins:\n- type: random-picker\n- type: max-score-picker", &["one picker", "line 5"]),
        (
            "plugins:\n- type: max-score-picker\n  parameters: {maxNumOfEndpoints: 1.5}",
            &["whole number from 1 to 64: `1.5`", "line 5"],
        ),
        (
            "plugins:\n- type: prefix-cache-scorer\n  parameters: {blockSizeTokens: 0.5}",
            &["whole number from 0 to 65536: `0.5`", "line 5"],
        ),
        (
            "plugins:\n- type: queue-scorer\nsaturationDetector: {pluginRef: queue-scorer}",
            &["must be a `utilization-detector`: `queue-scorer`", "line 5"],
        ),
        ("featureGates: [flowControl]", &["does not queue", "line 3 column 16"]),
        ("featureGates: [flowcontrol]", &["unknown feature gate", "`flowControl`", "line 3"]),
        ("dataLayer:\n  discovery: {pluginRef: file-discovery}", &["--endpoints-file", "line 4"]),
        ("dataLayer: {injectDefaults: false}", &["always read", "line 3"]),
        (
            "requestHandler:\n  parsers:\n  - pluginRef: vllmgrpc-parser",
            &["use openai-parser", "line 5 column 16"],
        ),
    ] {
        check(&format!("{HEAD}{body}"), parts);
    }
}

fn check(text: &str, parts: &[&str]) {
    let error = refused(text);
    for part in parts {
        assert!(error.contains(part), "{text}\n{part}\n{error}");
    }
    assert!(error.ends_with(": `--config-text`"), "{error}");
}

#[test]
fn a_disaggregated_configuration_that_never_disaggregates_runs() {
    let text = std::fs::read_to_string(data("prefill-decode.yaml")).unwrap();
    let text = text.replace("always-disagg-pd-decider", "prefix-based-pd-decider");
    let settings = settings(&["--config-text", &text, REPLICAS]).unwrap();
    assert_eq!(profile(&settings), " | active-request-scorer=1 | max-score-picker");
    assert!(settings.profile.contains("`decode`") && settings.profiles.prefill.is_none());
    assert!(settings.notes.iter().any(|note| note.contains("no decider asks for prefill elsewhere")));
    assert!(
        settings.notes.iter().any(|note| note.contains("token-load-scorer has no effect")),
        "{:?}",
        settings.notes
    );
}
