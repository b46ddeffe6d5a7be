//! What the server was told: the command line over the configuration file over the defaults.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p3sched::{Endpoint, SchedulerConfig};
use serde::Deserialize;

use crate::clock;
use crate::discovery::EndpointEntry;
use crate::ext_proc::service::ServiceLimits;
use crate::ext_proc::stream::Limits;
use crate::flags::Flags;
use crate::scrape::ScrapeSettings;

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    /// How endpoints are picked.
    scheduler: SchedulerConfig,
    /// The endpoints, where no flag names them.
    endpoints: Option<Vec<EndpointEntry>>,
}

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    /// A list.
    Fixed(Vec<Endpoint>),
    /// A file that is read again when it changes.
    File(PathBuf),
}

/// Everything that the server needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address that all ports listen on; `None` for every address.
    pub bind_address: Option<IpAddr>,
    /// Port of `ext_proc`; 0 for any free one, here and below.
    pub grpc_port: u16,
    /// Port of gRPC health.
    pub health_port: u16,
    /// Port of metrics.
    pub metrics_port: u16,
    /// Whether `ext_proc` is served with TLS.
    pub secure_serving: bool,
    /// Folder with `tls.crt` and `tls.key`; without it a certificate is made.
    pub certificates: Option<PathBuf>,
    /// Where endpoints come from.
    pub endpoints: EndpointSource,
    /// How they are picked.
    pub scheduler: SchedulerConfig,
    /// How their metrics are read.
    pub scrape: ScrapeSettings,
    /// What requests may use.
    pub limits: ServiceLimits,
    /// Whether to pick without the scheduler when it has no answer.
    pub fail_open: bool,
    /// How long to serve on after the signal to stop.
    pub drain_timeout: Duration,
}

impl Settings {
    /// Puts the command line over the configuration file that it names.
    ///
    /// # Errors
    ///
    /// The message names what cannot be read or cannot work, in a file with line and column.
    pub fn from_flags(flags: Flags) -> Result<Self, String> {
        let file = read_config(flags.config_file.as_deref(), flags.config_text.as_deref())?;
        let mut scheduler = file.scheduler;
        if let Some(threshold) = flags.metrics_staleness_threshold {
            let metrics = &mut scheduler.metrics;
            metrics.expire_seconds = threshold.as_secs_f64();
            metrics.fresh_seconds = metrics.fresh_seconds.min(threshold.as_secs_f64() / 2.0);
        }
        let configured =
            file.endpoints.map(|entries| entries.into_iter().map(|entry| entry.0).collect::<Vec<_>>());
        let endpoints = match (flags.endpoints_file, flags.endpoints, configured) {
            (Some(path), ..) => EndpointSource::File(path),
            (None, listed, _) if !listed.is_empty() => EndpointSource::Fixed(listed),
            (None, _, Some(configured)) => EndpointSource::Fixed(configured),
            (None, _, None) => return Err(NO_ENDPOINTS.to_owned()),
        };
        let skip_verify = flags
            .model_server_metrics_https_insecure_skip_verify
            .unwrap_or(flags.model_server_metrics_ca_cert.is_none());
        if !skip_verify && flags.model_server_metrics_ca_cert.is_none() {
            return Err(NO_AUTHORITIES.to_owned());
        }
        Ok(Self {
            bind_address: flags.bind_address,
            grpc_port: flags.grpc_port,
            health_port: flags.grpc_health_port,
            metrics_port: flags.metrics_port,
            secure_serving: flags.secure_serving,
            certificates: flags.cert_path,
            endpoints,
            scheduler,
            scrape: ScrapeSettings {
                interval: flags.refresh_metrics_interval,
                scheme: flags.model_server_metrics_scheme,
                path: flags.model_server_metrics_path,
                port: flags.model_server_metrics_port,
                authorities: flags.model_server_metrics_ca_cert.filter(|_| !skip_verify),
            },
            limits: ServiceLimits {
                request: Limits {
                    max_body_bytes: flags.max_body_size,
                    max_gathered_bytes: flags.max_gathered_size.max(flags.max_body_size),
                    pick_deadline: clock::nanoseconds(flags.pick_deadline),
                },
                max_message_bytes: flags.grpc_max_recv_msg_size,
                max_streams: flags.max_streams,
            },
            fail_open: flags.fail_open,
            drain_timeout: flags.drain_timeout,
        })
    }

    /// The scorers with their weights, as one line.
    pub fn scorers(&self) -> String {
        let mut line = String::new();
        for scorer in &self.scheduler.scorers {
            let gap = if line.is_empty() { "" } else { " " };
            // Writing into a string cannot fail.
            let _written = write!(line, "{gap}{}={}", scorer.scorer_type, scorer.weight);
        }
        line
    }
}

const NO_ENDPOINTS: &str =
    "no endpoints are configured; hint: name them with `--endpoints` or `--endpoints-file`";
const NO_AUTHORITIES: &str = "certificates of https metrics cannot be checked; hint: name the authorities with `--model-server-metrics-ca-cert`";

fn read_config(path: Option<&Path>, text: Option<&str>) -> Result<ConfigFile, String> {
    if let Some(path) = path {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read configuration file, {error}: `{}`", path.display()))?;
        return parse_config(&text)
            .map_err(|error| format!("invalid configuration file, {error}: `{}`", path.display()));
    }
    parse_config(text.unwrap_or_default())
        .map_err(|error| format!("invalid configuration, {error}: `--config-text`"))
}

fn parse_config(text: &str) -> Result<ConfigFile, serde_norway::Error> {
    if text.trim().is_empty() {
        return Ok(ConfigFile::default());
    }
    serde_norway::from_str(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        Settings::from_flags(Flags::parse_from([&["epp-server"], arguments].concat()))
    }

    #[test]
    fn flags_go_before_the_file() {
        let text = "endpoints: ['10.0.0.1:8000', {name: '10.0.0.2:8000', labels: {zone: b}}]\nscheduler: {fallbacks: 1}";
        let from_file = settings(&["--config-text", text]).unwrap();
        let EndpointSource::Fixed(endpoints) = &from_file.endpoints else { panic!("a fixed list") };
        assert_eq!(
            endpoints.iter().map(|endpoint| &*endpoint.name).collect::<Vec<_>>(),
            ["10.0.0.1:8000", "10.0.0.2:8000"]
        );
        assert_eq!(endpoints[1].labels["zone"], "b");
        assert_eq!(from_file.scheduler.fallbacks, 1);
        assert_eq!(from_file.scorers(), "prefix-cache-scorer=3 queue-scorer=1 kv-cache-utilization-scorer=1");

        let listed = settings(&["--config-text", text, "--endpoints", "10.0.0.9:8000"]).unwrap();
        assert_eq!(listed.endpoints, EndpointSource::Fixed(vec![Endpoint::new("10.0.0.9:8000")]));
        let stale = settings(&["--config-text", text, "--metrics-staleness-threshold", "1s"]).unwrap();
        assert_eq!(
            (stale.scheduler.metrics.fresh_seconds, stale.scheduler.metrics.expire_seconds),
            (0.5, 1.0)
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (arguments, parts) in [
            (&[][..], &["no endpoints are configured", "--endpoints"][..]),
            (
                &["--config-text", "scheduler:\n  fallback: 1"],
                &["unknown field `fallback`", "line 2 column 3"],
            ),
            (
                &["--config-text", "endpoints: []\nschedule: {}"],
                &["unknown field `schedule`", "line 2 column 1"],
            ),
            (
                &["--config-text", "endpoints:\n- engine:8000"],
                &["must be ip:port", "`engine:8000`", "line 2"],
            ),
            (&["--config-text", "endpoints:\n- {name: x}"], &["must be ip:port", "`x`", "line 2"]),
            (
                &["--config-file", "/nonexistent/epp.yaml"],
                &["cannot read configuration file", "`/nonexistent/epp.yaml`"],
            ),
            (
                &["--endpoints", "10.0.0.1:1", "--model-server-metrics-https-insecure-skip-verify=false"],
                &["--model-server-metrics-ca-cert"],
            ),
        ] {
            let error = settings(arguments).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{arguments:?}: {error}");
            }
        }
    }
}
