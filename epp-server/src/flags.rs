//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use p3sched::Endpoint;

use crate::admin::access::AdminAccess;
use crate::arguments;
use crate::discovery::dns::DnsName;
use crate::discovery::fixed::parse_endpoint;
use crate::discovery::kubernetes::inference_pool::PoolGroup;
use crate::kv_events::BindAddress;
use crate::pool_config::{MetadataKey, PoolFlag};
use crate::scrape::Scheme;

/// How to serve.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Port of the `ext_proc` service that gateways call
    #[arg(long, value_name = "PORT", default_value_t = 9002, help_heading = PORTS)]
    pub grpc_port: u16,

    /// Port of the gRPC health service
    #[arg(long, value_name = "PORT", default_value_t = 9003, help_heading = PORTS)]
    pub grpc_health_port: u16,

    /// Serve gRPC health on --grpc-port too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = PORTS)]
    pub health_checking: bool,

    /// Port of the page for people, /api, /metrics and /healthz
    #[arg(long, value_name = "PORT", default_value_t = 9090, help_heading = PORTS)]
    pub metrics_port: u16,

    /// Who may see the page and /api on --metrics-port
    #[arg(long, value_name = "FROM", value_enum, default_value_t, help_heading = PORTS)]
    pub admin_access: AdminAccess,

    /// Host names, beside localhost and addresses, under which the page may be opened in a browser
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = PORTS)]
    pub admin_host: Vec<String>,

    /// Ask the Kubernetes API whether a token may read /metrics (`TokenReview`, `SubjectAccessReview`) [default: true where
    /// replicas are found by Kubernetes, as in the reference picker, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = parse_bool, help_heading = PORTS)]
    pub metrics_endpoint_auth: Option<bool>,

    /// Address that all ports listen on [default: every address, IPv6 and IPv4]
    #[arg(long, value_name = "IP", help_heading = PORTS)]
    pub bind_address: Option<IpAddr>,

    /// Serve the `ext_proc` port with TLS
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = PORTS)]
    pub secure_serving: bool,

    /// Folder with tls.crt and tls.key for --secure-serving [default: a certificate made at start]
    #[arg(long, value_name = "FOLDER", help_heading = PORTS)]
    pub cert_path: Option<PathBuf>,

    /// Read the files of --cert-path again when they change
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = PORTS)]
    pub enable_cert_reload: bool,

    /// Replicas to pick from: ip:port,ip:port…
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_endpoint,
          help_heading = ENDPOINTS, conflicts_with = "endpoints_file")]
    pub endpoints: Vec<Endpoint>,

    /// YAML file with the replicas, read again when it changes
    #[arg(long, value_name = "FILE", help_heading = ENDPOINTS)]
    pub endpoints_file: Option<PathBuf>,

    /// DNS name of the replicas, as of a headless Service, resolved again as its answers age; or _port._protocol.name
    #[arg(long, value_name = "NAME:PORT", help_heading = ENDPOINTS,
          conflicts_with_all = ["endpoints", "endpoints_file"])]
    pub endpoints_dns: Option<DnsName>,

    /// Name server for --endpoints-dns [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP:PORT", help_heading = ENDPOINTS)]
    pub dns_server: Option<SocketAddr>,

    /// `InferencePool` whose pods are the replicas, unless they are given otherwise; without a configuration its usual one
    /// is used, see below
    #[arg(long, value_name = "NAME", help_heading = ENDPOINTS)]
    pub pool_name: Option<String>,

    /// Namespace of the pool and of the pods [default: $NAMESPACE, else default]
    #[arg(long, value_name = "NAME", help_heading = ENDPOINTS)]
    pub pool_namespace: Option<String>,

    /// API group of --pool-name; the other one is used where only that is installed
    #[arg(long, value_name = "GROUP", value_enum, default_value_t = PoolGroup::Stable, help_heading = ENDPOINTS)]
    pub pool_group: PoolGroup,

    /// Labels of the pods that are the replicas, where there is no `InferencePool`: app=vllm,tier in (a,b)
    #[arg(long, value_name = "SELECTOR", help_heading = ENDPOINTS,
          conflicts_with_all = ["endpoints", "endpoints_file", "endpoints_dns"])]
    pub endpoint_selector: Option<String>,

    /// Ports of the pods of --endpoint-selector: 8000,8001…
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..),
          help_heading = ENDPOINTS)]
    pub endpoint_target_ports: Vec<u16>,

    /// One of several `InferencePools`, repeated: namespace/name=authority,*.domain…; what no authority fits is for the first
    #[arg(long, value_name = "POOL", help_heading = ENDPOINTS)]
    pub pool: Vec<PoolFlag>,

    /// Request header that names the pool, where there are several
    #[arg(long, value_name = "HEADER", help_heading = ENDPOINTS)]
    pub pool_header: Option<String>,

    /// The gateway's dynamic metadata that names it: namespace/key
    #[arg(long, value_name = "KEY", help_heading = ENDPOINTS)]
    pub pool_metadata: Option<MetadataKey>,

    /// Be ready only while holding the pool's lease, of which several servers seek one
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = ENDPOINTS)]
    pub ha_enable_leader_election: bool,

    /// `EndpointPickerConfig`, or YAML with `scheduler` and `endpoints`; flags go before it
    #[arg(long, value_name = "FILE", help_heading = CONFIGURATION, conflicts_with = "config_text")]
    pub config_file: Option<PathBuf>,

    /// The same as text
    #[arg(long, value_name = "YAML", help_heading = CONFIGURATION)]
    pub config_text: Option<String>,

    /// How much longer than the shortest an endpoint's predicted wait may be, `off` for any [default: as configured; 5s
    /// for weighted sums with a prefix-cache-scorer]
    #[arg(long, value_name = "TIME", value_parser = parse_load_gate, help_heading = CONFIGURATION)]
    pub load_gate: Option<LoadGate>,

    /// Pick endpoints in turn when the scheduler has no answer, instead of refusing with 503
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set,
          help_heading = CONFIGURATION)]
    pub fail_open: bool,

    /// Follow responses to see first tokens, ends and usage; without, the gateway's stream is closed with the pick, which
    /// is less work here, and what is in flight ends by time
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set,
          help_heading = CONFIGURATION)]
    pub watch_responses: bool,

    /// Tell the gateway the score of every replica, in the metadata beside the pick
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = CONFIGURATION)]
    pub emit_endpoint_scores: bool,

    /// Pick from all replicas, whatever subset the gateway names
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = CONFIGURATION)]
    pub disable_endpoint_subset_filter: bool,

    /// Time between two scrapes of a replica's metrics
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, default_value = "50ms", help_heading = METRICS)]
    pub refresh_metrics_interval: Duration,

    /// Age at which scraped metrics stop to count [default: fade from 1s to 5s, or as the configuration says]
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, help_heading = METRICS)]
    pub metrics_staleness_threshold: Option<Duration>,

    /// Scheme of the metrics page [default: http, or as the configuration says]
    #[arg(long, value_name = "SCHEME", value_enum, help_heading = METRICS)]
    pub model_server_metrics_scheme: Option<Scheme>,

    /// Path of the metrics page [default: /metrics, or as the configuration says]
    #[arg(long, value_name = "PATH", value_parser = parse_path, help_heading = METRICS)]
    pub model_server_metrics_path: Option<String>,

    /// Port of the metrics page [default: the replica's own]
    #[arg(long, value_name = "PORT", help_heading = METRICS)]
    pub model_server_metrics_port: Option<u16>,

    /// Certificate authorities (PEM) that https metrics are checked against
    #[arg(long, value_name = "FILE", help_heading = METRICS)]
    pub model_server_metrics_ca_cert: Option<PathBuf>,

    /// Do not check the certificates of https metrics [default: true without --model-server-metrics-ca-cert]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = parse_bool, help_heading = METRICS)]
    pub model_server_metrics_https_insecure_skip_verify: Option<bool>,

    /// Gauge of waiting requests, as in name or name{label=value} [default: the engine's own]
    #[arg(long, value_name = "METRIC", help_heading = METRICS)]
    pub total_queued_requests_metric: Option<String>,

    /// Gauge of running requests [default: the engine's own]
    #[arg(long, value_name = "METRIC", help_heading = METRICS)]
    pub total_running_requests_metric: Option<String>,

    /// Gauge of the share of the KV cache in use, 0 to 1 [default: the engine's own]
    #[arg(long, value_name = "METRIC", help_heading = METRICS)]
    pub kv_cache_usage_percentage_metric: Option<String>,

    /// Metric with the adapters as labels, as vLLM writes it [default: the engine's own]
    #[arg(long, value_name = "METRIC", help_heading = METRICS)]
    pub lora_info_metric: Option<String>,

    /// Metric with block size and number of blocks as labels, as vLLM writes it [default: the engine's own]
    #[arg(long, value_name = "METRIC", help_heading = METRICS)]
    pub cache_info_metric: Option<String>,

    /// Address that engines connect to and publish their KV events on, with topics as `kv@<ip:port>@<model>`
    #[arg(long, value_name = "ADDRESS", help_heading = KV_EVENTS)]
    pub kv_events_bind: Option<BindAddress>,

    /// Port that engines publish their KV events on themselves
    #[arg(long, value_name = "PORT", help_heading = KV_EVENTS)]
    pub kv_events_port: Option<u16>,

    /// Port that engines repeat missing KV events on
    #[arg(long, value_name = "PORT", help_heading = KV_EVENTS)]
    pub kv_events_replay_port: Option<u16>,

    /// Data-parallel ranks behind one replica; each uses the next port after the one before [default: 1]
    #[arg(long, value_name = "COUNT", help_heading = KV_EVENTS)]
    pub kv_events_ranks: Option<u16>,

    /// Model that KV events belong to where the replica has no label `model` [default: what the topic says]
    #[arg(long, value_name = "NAME", help_heading = KV_EVENTS)]
    pub kv_events_model: Option<String>,

    /// File that keeps what was learned of the replicas over restarts: prefixes and rates [default: none]
    #[arg(long, value_name = "FILE", help_heading = STATE)]
    pub state_file: Option<PathBuf>,

    /// Time between two writings of --state-file; it is written at the end, too
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, default_value = "30s", help_heading = STATE)]
    pub state_interval: Duration,

    /// Age from which --state-file is not read any more: the replicas' caches hold other prompts by then
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, default_value = "1h", help_heading = STATE)]
    pub state_max_age: Duration,

    /// Largest gRPC message; at least the gateway's buffer limit
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "64MiB", help_heading = LIMITS)]
    pub grpc_max_recv_msg_size: usize,

    /// Largest request body
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "64MiB", help_heading = LIMITS)]
    pub max_body_size: usize,

    /// Request bodies that are being received, all together, at least --max-body-size; further ones are refused with 429
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "1GiB", help_heading = LIMITS)]
    pub max_gathered_size: usize,

    /// Requests in flight at the same time; further ones are refused with 429
    #[arg(long, value_name = "COUNT", default_value_t = 32_768, help_heading = LIMITS)]
    pub max_streams: usize,

    /// Time from a request's headers to its pick; a body that takes longer is refused with 408
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, default_value = "60s", help_heading = LIMITS)]
    pub pick_deadline: Duration,

    /// How long to serve on after SIGTERM, until no request has been in flight for a while
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s",
          help_heading = LIMITS)]
    pub drain_timeout: Duration,

    /// How much to log: up to 3 what happens, 4 (bare -v) every pick, 5 (-vv) also what libraries say
    #[arg(short, long = "v", value_name = "N", num_args = 0..=1, require_equals = true,
          default_value_t = 2, default_missing_value = "4", help_heading = LOG)]
    pub verbosity: u8,

    /// The same by name, and before it: error, info, debug, or a number
    #[arg(long, value_name = "LEVEL", value_parser = parse_log_level, help_heading = LOG)]
    pub zap_log_level: Option<LogLevel>,

    /// How log lines on stderr are written
    #[arg(long, visible_alias = "zap-encoder", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text,
          help_heading = LOG)]
    pub log_format: LogFormat,

    /// Log one line per pick: the endpoint, its cached tokens, the time it took
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = LOG)]
    pub log_decisions: bool,

    /// Send traces to an OpenTelemetry collector, which the standard variables name: `OTEL_EXPORTER_OTLP_ENDPOINT` …
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = parse_bool, action = ArgAction::Set, help_heading = LOG)]
    pub tracing: bool,

    /// Serve a profiler
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = NO_EFFECT)]
    pub enable_pprof: Option<String>,

    /// Show the state of plugins
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = NO_EFFECT)]
    pub enable_plugin_state_debug: Option<String>,

    /// Count gRPC streams; they always are
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = NO_EFFECT)]
    pub enable_grpc_stream_metrics: Option<String>,

    /// Allow plugins that are not stable
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = NO_EFFECT)]
    pub allow_experimental_plugins: Option<String>,

    /// Time between two updates of own metrics; they are always up to date
    #[arg(long, value_name = "TIME", help_heading = NO_EFFECT)]
    pub refresh_prometheus_metrics_interval: Option<String>,

    /// Largest gRPC message that is sent; answers are cut into small ones
    #[arg(long, value_name = "BYTES", help_heading = NO_EFFECT)]
    pub grpc_max_send_msg_size: Option<String>,

    /// Level of log lines with a stack trace; there are none
    #[arg(long, value_name = "LEVEL", help_heading = NO_EFFECT)]
    pub zap_stacktrace_level: Option<String>,

    /// How log lines write the time; always as RFC 3339 does
    #[arg(long, value_name = "ENCODING", help_heading = NO_EFFECT)]
    pub zap_time_encoding: Option<String>,
}

const PORTS: &str = "Ports";
const ENDPOINTS: &str = "Endpoints";
const CONFIGURATION: &str = "Configuration";
const METRICS: &str = "Metrics of the replicas";
const KV_EVENTS: &str = "KV events of the replicas, as in tcp://*:5557; none are read by default";
const STATE: &str = "State";
const LIMITS: &str = "Limits";
const LOG: &str = "Log";
const NO_EFFECT: &str = "Of the reference picker, without effect here, which the log says at start";

const AFTER_HELP: &str = "\
What runs without --config-file and --config-text:
  with --pool-name     what an InferencePool is used to: queue-scorer 2, kv-cache-utilization-scorer 2,
                       prefix-cache-scorer 3
  without it           the preset `default`: prefix-cache-scorer 3, queue-scorer 1, kv-cache-utilization-scorer 1
Both with the load gate and the max-score-picker. `epp-server check-config FILE` explains a configuration.

Flags may also be written with one dash or in camelCase (-grpcPort=9002). Empty arguments are ignored, and a flag
with an empty value counts as not given.";

/// gRPC endpoint picker for Envoy, Istio and KServe.
///
/// Answers a gateway's `ext_proc` calls with the replica that already holds the longest prefix of the prompt in its KV
/// cache, unless its queue or its memory makes another one faster.
#[derive(Debug, Clone, Parser)]
#[command(name = "epp-server", version, max_term_width = 110, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true, args_override_self = true)]
pub struct CommandLine {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub flags: Flags,
}

impl CommandLine {
    /// Reads arguments, the first of which is the program's name, in any spelling that the reference picker accepts.
    ///
    /// # Errors
    ///
    /// The error knows how to show itself and with which status to exit; help and version are errors, too.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments::normalize(&Self::command(), arguments))
    }
}

/// What to do instead of serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Explain what a configuration would run; the status is 1 if it cannot
    CheckConfig {
        /// `EndpointPickerConfig`, or YAML with `scheduler` and `endpoints`
        file: PathBuf,
    },
}

/// Seconds that the load gate allows; `None` switches it off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadGate(pub Option<f64>);

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// What happens, too.
    Info,
    /// Every pick, too.
    Debug,
    /// What libraries say, too.
    Trace,
}

impl Flags {
    /// The flags that were given and have no effect.
    pub fn without_effect(&self) -> impl Iterator<Item = &'static str> {
        [
            (&self.enable_pprof, "--enable-pprof"),
            (&self.enable_plugin_state_debug, "--enable-plugin-state-debug"),
            (&self.enable_grpc_stream_metrics, "--enable-grpc-stream-metrics"),
            (&self.allow_experimental_plugins, "--allow-experimental-plugins"),
            (&self.refresh_prometheus_metrics_interval, "--refresh-prometheus-metrics-interval"),
            (&self.grpc_max_send_msg_size, "--grpc-max-send-msg-size"),
            (&self.zap_stacktrace_level, "--zap-stacktrace-level"),
            (&self.zap_time_encoding, "--zap-time-encoding"),
        ]
        .map(|(value, flag)| value.is_some().then_some(flag))
        .into_iter()
        .flatten()
    }

    /// What is to be logged.
    pub fn log_level(&self) -> LogLevel {
        self.zap_log_level.unwrap_or(log_level_of(self.verbosity))
    }
}

fn log_level_of(verbosity: u8) -> LogLevel {
    match verbosity {
        0..=3 => LogLevel::Info,
        4 => LogLevel::Debug,
        _ => LogLevel::Trace,
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    #[value(alias = "console")]
    Text,
}

fn parse_positive_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("time must be more than zero".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}, as in 50ms, 2s or 1m30s")),
    }
}

/// As Go writes them, too.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Ok(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Bytes with the suffixes of Kubernetes, with or without a final B: `64MiB`, `25M`.
fn parse_bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let (_, suffix) = text.split_at(digits.len());
    let factor = match suffix.trim_end_matches('B') {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(WRONG_BYTES.to_owned()),
    };
    let number: usize = digits.parse().map_err(|_| WRONG_BYTES.to_owned())?;
    number.checked_mul(factor).ok_or_else(|| WRONG_BYTES.to_owned())
}

const WRONG_BYTES: &str = "must be a number of bytes, as in 67108864, 64MiB or 25MB";

fn parse_load_gate(text: &str) -> Result<LoadGate, String> {
    match text {
        "off" => Ok(LoadGate(None)),
        _ => match humantime::parse_duration(text) {
            Ok(time) => Ok(LoadGate(Some(time.as_secs_f64()))),
            Err(error) => Err(format!("{error}; must be a time as in 5s, or off")),
        },
    }
}

fn parse_log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "error" | "panic" => Ok(LogLevel::Error),
        "warn" | "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        _ => text.parse().map(log_level_of).map_err(|_| "must be error, info, debug or a number".to_owned()),
    }
}

fn parse_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("path must begin with `/`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, String> {
        let arguments = [&["/app/epp"], arguments].concat().into_iter().map(OsString::from);
        CommandLine::read(arguments).map(|line| line.flags).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn booleans_are_bare_or_have_a_value() {
        assert!(parse(&[]).unwrap().secure_serving);
        assert!(parse(&["--secure-serving"]).unwrap().secure_serving);
        assert!(!parse(&["--secure-serving=f"]).unwrap().secure_serving);
        assert!(!parse(&["--fail-open=False"]).unwrap().fail_open);
        assert!(parse(&["--tracing=on"]).unwrap_err().contains("must be true or false"));
        let skip =
            |arguments: &[&str]| parse(arguments).unwrap().model_server_metrics_https_insecure_skip_verify;
        assert_eq!(skip(&[]), None);
        assert_eq!(skip(&["--model-server-metrics-https-insecure-skip-verify"]), Some(true));
        assert_eq!(skip(&["--model-server-metrics-https-insecure-skip-verify=false"]), Some(false));
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        let flags = parse(&["--drain-timeout", "1m30s", "--refresh-metrics-interval=200ms"]).unwrap();
        assert_eq!(flags.drain_timeout, Duration::from_secs(90));
        assert_eq!(flags.refresh_metrics_interval, Duration::from_millis(200));
        assert!(parse(&["--refresh-metrics-interval", "0s"]).unwrap_err().contains("more than zero"));
        assert!(parse(&["--pick-deadline", "soon"]).unwrap_err().contains("as in 50ms"));
    }

    #[test]
    fn bytes_are_written_as_kubernetes_writes_them() {
        for (text, bytes) in
            [("10MiB", Some(10 << 20)), ("25MB", Some(25_000_000)), ("4k", Some(4_000)), ("77", Some(77))]
        {
            assert_eq!(parse_bytes(text).ok(), bytes, "{text}");
        }
        for wrong in ["", "MiB", "-1", "1.5G", "10 MiB", "99999999999999999999", "9999999999999Gi"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_log_has_a_level_by_number_or_name() {
        for (arguments, level) in [
            (&[][..], LogLevel::Info),
            (&["-v"], LogLevel::Debug),
            (&["-vv"], LogLevel::Trace),
            (&["-v", "1"], LogLevel::Info),
            (&["--v=4"], LogLevel::Debug),
            (&["--v", "5"], LogLevel::Trace),
            (&["-v=4"], LogLevel::Debug),
            (&["--v=5", "--zap-log-level", "error"], LogLevel::Error),
            (&["--zap-log-level=4"], LogLevel::Debug),
        ] {
            assert_eq!(parse(arguments).unwrap().log_level(), level, "{arguments:?}");
        }
        assert_eq!(parse(&["--zap-encoder", "console"]).unwrap().log_format, LogFormat::Text);
        assert_eq!(parse(&["--zap-encoder=json"]).unwrap().log_format, LogFormat::Json);
    }

    #[test]
    fn a_bad_endpoint_is_named() {
        let flags = parse(&["--endpoints", "10.0.0.1:8000,[fd00::1]:8000"]).unwrap();
        assert_eq!(flags.endpoints.len(), 2);
        let error = parse(&["--endpoints", "10.0.0.1:8000,engine:8000"]).unwrap_err();
        assert!(error.contains("must be ip:port") && error.contains("`engine:8000`"), "{error}");
    }
}
