//! The real Envoy, started from the templates in `examples/envoy`.

use crate::process::{ManagedProcess, free_ports, repository_root};
use anyhow::{Context, Result};
use minijinja::{Environment, context};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// A configuration that ships with the examples; each is one file in `examples/envoy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvoyConfig {
    /// Plain round robin without a picker.
    RoundRobin,
    /// `ext_proc` sees both directions as streams; the pick overrides the host.
    FullDuplexOverrideHost,
    /// `ext_proc` sees the buffered request; the pick overrides the host.
    BufferedOverrideHost,
    /// `ext_proc` sees the buffered request; Envoy dials the address that the pick names.
    BufferedOriginalDst,
    /// As Istio does it: `ext_proc` is switched on per route.
    IstioPerRoute,
}

impl EnvoyConfig {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::RoundRobin,
        Self::FullDuplexOverrideHost,
        Self::BufferedOverrideHost,
        Self::BufferedOriginalDst,
        Self::IstioPerRoute,
    ];

    fn template(self) -> &'static str {
        match self {
            Self::RoundRobin => include_str!("../envoy/round-robin.yaml"),
            Self::FullDuplexOverrideHost => include_str!("../envoy/full-duplex-override-host.yaml"),
            Self::BufferedOverrideHost => include_str!("../envoy/buffered-override-host.yaml"),
            Self::BufferedOriginalDst => include_str!("../envoy/buffered-original-dst.yaml"),
            Self::IstioPerRoute => include_str!("../envoy/istio-per-route.yaml"),
        }
    }
}

/// Where Envoy reads the pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PickSource {
    /// The request header `x-gateway-destination-endpoint`.
    Header,
    /// The dynamic metadata `envoy.lb` / `x-gateway-destination-endpoint`.
    Metadata,
}

/// How to run Envoy.
#[derive(Debug, Clone)]
pub struct EnvoyOptions {
    /// The configuration to fill in.
    pub config: EnvoyConfig,
    /// The replicas.
    pub endpoints: Vec<SocketAddr>,
    /// The picker's gRPC address; not used by [`EnvoyConfig::RoundRobin`].
    pub picker: SocketAddr,
    /// Where the pick is read.
    pub pick_source: PickSource,
    /// Let requests pass unpicked when the picker fails.
    pub failure_mode_allow: bool,
    /// Further attempts after a failed one; 0 leaves the retry policy out.
    pub retries: u32,
    /// Limit of one answer of the picker in seconds; full duplex has none.
    pub message_timeout: u32,
}

impl EnvoyOptions {
    /// Options with a fail-closed picker, the pick in metadata and two retries.
    #[must_use]
    pub fn new(config: EnvoyConfig, endpoints: Vec<SocketAddr>, picker: SocketAddr) -> Self {
        Self {
            config,
            endpoints,
            picker,
            pick_source: PickSource::Metadata,
            failure_mode_allow: false,
            retries: 2,
            message_timeout: 5,
        }
    }

    /// Fills the configuration in.
    ///
    /// # Errors
    ///
    /// If the template is not valid.
    pub fn render(&self, listen_port: u16, admin_port: u16) -> Result<String> {
        let host = |addr: &SocketAddr| context! { host => addr.ip().to_string(), port => addr.port() };
        let endpoints: Vec<_> = self.endpoints.iter().map(host).collect();
        let values = context! {
            listen_port, admin_port, endpoints,
            picker => host(&self.picker),
            pick_source => self.pick_source,
            // As text: the template engine writes booleans as Python does.
            failure_mode_allow => self.failure_mode_allow.to_string(),
            retries => self.retries,
            message_timeout => self.message_timeout,
        };
        Ok(Environment::new().render_str(self.config.template(), values)?)
    }
}

/// A running Envoy; dropping it kills it.
#[derive(Debug)]
pub struct Envoy {
    process: ManagedProcess,
    listen_port: u16,
    admin_port: u16,
}

impl Envoy {
    /// Writes the configuration and the log into `folder`, starts Envoy on free ports and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If Envoy is not installed or does not accept the configuration.
    pub async fn start(options: &EnvoyOptions, folder: &Path) -> Result<Self> {
        let binary = installed_binary()?;
        let ports = free_ports(2)?;
        let (&[listen_port, admin_port], true) = (ports.as_slice(), folder.is_dir()) else {
            anyhow::bail!("the folder for Envoy's files is missing: `{}`", folder.display());
        };
        let config = folder.join("envoy.yaml");
        std::fs::write(&config, options.render(listen_port, admin_port)?)
            .with_context(|| format!("cannot write `{}`", config.display()))?;
        let mut command = Command::new(binary);
        // One worker, so that round robin is one rotation and not one per worker.
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--config-path",
        ]);
        command.arg(&config);
        let mut process = ManagedProcess::spawn("Envoy", command, &folder.join("envoy.log"))?;
        process
            .wait_for_http(&format!("http://127.0.0.1:{admin_port}/ready"), Duration::from_secs(20))
            .await?;
        Ok(Self { process, listen_port, admin_port })
    }

    /// Where clients send their requests, such as `http://127.0.0.1:10000`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The listener's address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.listen_port))
    }

    /// The admin interface, with statistics under `/stats`.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    /// The process, for its log.
    #[must_use]
    pub fn process(&self) -> &ManagedProcess {
        &self.process
    }
}

/// The Envoy binary of the virtual environment that `examples/setup-envoy.sh` makes.
///
/// # Errors
///
/// If it is not installed.
pub fn installed_binary() -> Result<PathBuf> {
    let environment = repository_root().join(".venv-envoy");
    let packages = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
    packages
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file())
        .with_context(|| {
            format!("Envoy is not in `{}`: install it with `examples/setup-envoy.sh`", environment.display())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(config: EnvoyConfig) -> EnvoyOptions {
        let endpoints = vec!["127.0.0.1:8001".parse().unwrap(), "[::1]:8002".parse().unwrap()];
        EnvoyOptions::new(config, endpoints, "127.0.0.1:9002".parse().unwrap())
    }

    #[test]
    fn every_value_reaches_the_configuration() {
        for config in EnvoyConfig::ALL {
            let text = options(config).render(10000, 9901).unwrap();
            assert!(text.contains("port_value: 10000") && text.contains("port_value: 9901"), "{text}");
            assert!(text.contains("num_retries: 2") && !text.contains("{{"), "{text}");
            if config != EnvoyConfig::BufferedOriginalDst {
                assert!(text.contains("address: \"::1\", port_value: 8002"), "{text}");
            }
            if config != EnvoyConfig::RoundRobin {
                assert!(text.contains("address: \"127.0.0.1\", port_value: 9002"), "{text}");
                assert!(text.contains("failure_mode_allow: false"), "{text}");
            }
        }
    }

    #[test]
    fn the_pick_is_read_from_one_place() {
        let mut options = options(EnvoyConfig::FullDuplexOverrideHost);
        let metadata = options.render(1, 2).unwrap();
        options.pick_source = PickSource::Header;
        options.retries = 0;
        let header = options.render(1, 2).unwrap();
        let by_metadata = "- metadata: { key: envoy.lb, path: [ { key: x-gateway-destination-endpoint } ] }";
        let by_header = "- header: x-gateway-destination-endpoint";
        assert!(metadata.contains(by_metadata) && !metadata.contains(by_header), "{metadata}");
        assert!(header.contains(by_header) && !header.contains(by_metadata), "{header}");
        assert!(!header.contains("retry_policy"), "{header}");
    }
}
