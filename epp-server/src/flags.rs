//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use p3sched::Endpoint;

use crate::discovery::fixed::parse_endpoint;
use crate::scrape::Scheme;

/// gRPC endpoint picker for Envoy, Istio and KServe.
///
/// Answers a gateway's `ext_proc` calls with the replica that already holds the longest prefix of the prompt in its KV
/// cache, unless its queue or its memory makes another one faster.
#[derive(Debug, Clone, Parser)]
#[command(name = "epp-server", version)]
pub struct Flags {
    /// Port of the `ext_proc` service that gateways call
    #[arg(long, value_name = "PORT", default_value_t = 9002, help_heading = "Ports")]
    pub grpc_port: u16,

    /// Port of the gRPC health service
    #[arg(long, value_name = "PORT", default_value_t = 9003, help_heading = "Ports")]
    pub grpc_health_port: u16,

    /// Port of /metrics and /healthz
    #[arg(long, value_name = "PORT", default_value_t = 9090, help_heading = "Ports")]
    pub metrics_port: u16,

    /// Address that all ports listen on [default: every address, IPv6 and IPv4]
    #[arg(long, value_name = "IP", help_heading = "Ports")]
    pub bind_address: Option<IpAddr>,

    /// Serve the `ext_proc` port with TLS
    #[arg(long, help_heading = "Ports", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub secure_serving: bool,

    /// Folder with tls.crt and tls.key for --secure-serving [default: a certificate made at start]
    #[arg(long, value_name = "FOLDER", help_heading = "Ports")]
    pub cert_path: Option<PathBuf>,

    /// Replicas to pick from: ip:port,ip:port…
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_endpoint,
          help_heading = "Endpoints", conflicts_with = "endpoints_file")]
    pub endpoints: Vec<Endpoint>,

    /// YAML file with the replicas, read again when it changes
    #[arg(long, value_name = "FILE", help_heading = "Endpoints")]
    pub endpoints_file: Option<PathBuf>,

    /// YAML file with `scheduler` and `endpoints`; flags go before it
    #[arg(long, value_name = "FILE", help_heading = "Configuration", conflicts_with = "config_text")]
    pub config_file: Option<PathBuf>,

    /// The same as text
    #[arg(long, value_name = "YAML", help_heading = "Configuration")]
    pub config_text: Option<String>,

    /// Pick endpoints in turn when the scheduler has no answer, instead of refusing with 503
    #[arg(long, help_heading = "Configuration", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub fail_open: bool,

    /// Time between two scrapes of a replica's metrics
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, default_value = "50ms",
          help_heading = "Metrics of the replicas")]
    pub refresh_metrics_interval: Duration,

    /// Age at which scraped metrics stop to count [default: fade from 1s to 5s, or as the configuration says]
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, help_heading = "Metrics of the replicas")]
    pub metrics_staleness_threshold: Option<Duration>,

    /// Scheme of the metrics page
    #[arg(long, value_name = "SCHEME", value_enum, default_value_t = Scheme::Http,
          help_heading = "Metrics of the replicas")]
    pub model_server_metrics_scheme: Scheme,

    /// Path of the metrics page
    #[arg(long, value_name = "PATH", value_parser = parse_path, default_value = "/metrics",
          help_heading = "Metrics of the replicas")]
    pub model_server_metrics_path: String,

    /// Port of the metrics page [default: the replica's own]
    #[arg(long, value_name = "PORT", help_heading = "Metrics of the replicas")]
    pub model_server_metrics_port: Option<u16>,

    /// Certificate authorities (PEM) that https metrics are checked against
    #[arg(long, value_name = "FILE", help_heading = "Metrics of the replicas")]
    pub model_server_metrics_ca_cert: Option<PathBuf>,

    /// Do not check the certificates of https metrics [default: true without --model-server-metrics-ca-cert]
    #[arg(long, help_heading = "Metrics of the replicas", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    pub model_server_metrics_https_insecure_skip_verify: Option<bool>,

    /// Largest gRPC message; at least the gateway's buffer limit
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, help_heading = "Limits")]
    pub grpc_max_recv_msg_size: usize,

    /// Largest request body
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, help_heading = "Limits")]
    pub max_body_size: usize,

    /// Request bodies that are being received, all together, at least --max-body-size; further ones are refused with 429
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, help_heading = "Limits")]
    pub max_gathered_size: usize,

    /// Requests in flight at the same time; further ones are refused with 429
    #[arg(long, value_name = "COUNT", default_value_t = 32_768, help_heading = "Limits")]
    pub max_streams: usize,

    /// Time from a request's headers to its pick; a body that takes longer is refused with 408
    #[arg(long, value_name = "TIME", value_parser = parse_positive_time, default_value = "60s",
          help_heading = "Limits")]
    pub pick_deadline: Duration,

    /// How long to serve on after SIGTERM, until no request has been in flight for a while
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s",
          help_heading = "Limits")]
    pub drain_timeout: Duration,

    /// Log more: -v every pick, -vv also what libraries say
    #[arg(short, long = "verbose", action = ArgAction::Count, help_heading = "Log")]
    pub verbosity: u8,

    /// How log lines on stderr are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Log")]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

fn parse_positive_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("time must be more than zero".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}, as in 50ms, 2s or 1m30s")),
    }
}

fn parse_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("path must begin with `/`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, String> {
        Flags::try_parse_from([&["epp-server"], arguments].concat()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn booleans_are_bare_or_have_a_value() {
        assert!(!parse(&[]).unwrap().secure_serving);
        assert!(parse(&["--secure-serving"]).unwrap().secure_serving);
        assert!(parse(&["--secure-serving=true"]).unwrap().secure_serving);
        assert!(!parse(&["--fail-open=false"]).unwrap().fail_open);
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
    fn a_bad_endpoint_is_named() {
        let flags = parse(&["--endpoints", "10.0.0.1:8000,[fd00::1]:8000"]).unwrap();
        assert_eq!(flags.endpoints.len(), 2);
        let error = parse(&["--endpoints", "10.0.0.1:8000,engine:8000"]).unwrap_err();
        assert!(error.contains("must be ip:port") && error.contains("`engine:8000`"), "{error}");
    }
}
