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
    /// A dynamic module picks inside Envoy.
    DynamicModule,
}

impl EnvoyConfig {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::FullDuplexOverrideHost,
        Self::BufferedOverrideHost,
        Self::BufferedOriginalDst,
        Self::IstioPerRoute,
        Self::DynamicModule,
    ];

    fn template(self) -> &'static str {
        match self {
            Self::RoundRobin => include_str!("../envoy/round-robin.yaml"),
            Self::FullDuplexOverrideHost => include_str!("../envoy/full-duplex-override-host.yaml"),
            Self::BufferedOverrideHost => include_str!("../envoy/buffered-override-host.yaml"),
            Self::BufferedOriginalDst => include_str!("../envoy/buffered-original-dst.yaml"),
            Self::IstioPerRoute => include_str!("../envoy/istio-per-route.yaml"),
            Self::DynamicModule => include_str!("../envoy/dynamic-module.yaml"),
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
    /// What a dynamic module told Envoy itself.
    OverrideApi,
}

/// The Envoys that `examples/setup-envoy.sh` installs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EnvoyVersion {
    /// 1.38.3
    V1_38,
    /// 1.39.3
    V1_39,
    /// 1.40.0
    #[default]
    V1_40,
}

/// A module that Envoy loads from `lib<name>.so`.
#[derive(Debug, Clone, Default)]
pub struct DynamicModule {
    /// Name of the file without `lib` and `.so`.
    pub name: String,
    /// Where the file is.
    pub folder: PathBuf,
    /// What the filter is told.
    pub config: String,
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
    /// Ask the picker over TLS, without a check of its certificate; [`EnvoyConfig::FullDuplexOverrideHost`] only.
    pub picker_tls: bool,
    /// Where the pick is read.
    pub pick_source: PickSource,
    /// Let requests pass unpicked when the picker fails.
    pub failure_mode_allow: bool,
    /// Further attempts after a failed one; 0 leaves the retry policy out.
    pub retries: u32,
    /// Limit of one answer of the picker in seconds; full duplex has none.
    pub message_timeout: u32,
    /// Used by [`EnvoyConfig::DynamicModule`] only.
    pub module: DynamicModule,
    /// File for a line on each request: the dynamic metadata `p3sched` with [`EnvoyConfig::DynamicModule`], the
    /// microseconds that the picker took with [`EnvoyConfig::FullDuplexOverrideHost`]; other configurations write none.
    pub access_log: Option<PathBuf>,
    /// Which Envoy to run.
    pub version: EnvoyVersion,
    /// Worker threads; with more than one, round robin is one rotation for each.
    pub concurrency: u32,
}

impl EnvoyOptions {
    /// Options with a fail-closed picker, the pick in metadata and two retries.
    #[must_use]
    pub fn new(config: EnvoyConfig, endpoints: Vec<SocketAddr>, picker: SocketAddr) -> Self {
        Self {
            config,
            endpoints,
            picker,
            picker_tls: false,
            pick_source: PickSource::Metadata,
            failure_mode_allow: false,
            retries: 2,
            message_timeout: 5,
            module: DynamicModule::default(),
            access_log: None,
            version: EnvoyVersion::default(),
            concurrency: 1,
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
            picker_tls => self.picker_tls,
            pick_source => self.pick_source,
            // As text: the template engine writes booleans as Python does.
            failure_mode_allow => self.failure_mode_allow.to_string(),
            retries => self.retries,
            message_timeout => self.message_timeout,
            module => context! {
                name => self.module.name,
                // A JSON string is a YAML string.
                config => serde_json::to_string(&self.module.config)?,
            },
            access_log => self.access_log,
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
        Self::start_with(options, folder, |listen, admin| options.render(listen, admin)).await
    }

    /// As [`start`](Self::start), with a configuration that `write` makes for a listener's and an admin port.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_with(
        options: &EnvoyOptions,
        folder: &Path,
        write: impl FnOnce(u16, u16) -> Result<String>,
    ) -> Result<Self> {
        let binary = installed_binary(options.version)?;
        let ports = free_ports(2)?;
        let (&[listen_port, admin_port], true) = (ports.as_slice(), folder.is_dir()) else {
            anyhow::bail!("the folder for Envoy's files is missing: `{}`", folder.display());
        };
        let config = folder.join("envoy.yaml");
        std::fs::write(&config, write(listen_port, admin_port)?)
            .with_context(|| format!("cannot write `{}`", config.display()))?;
        let mut command = Command::new(binary);
        command.args(["--concurrency", &options.concurrency.to_string()]);
        command.args(["--disable-hot-restart", "--log-level", "warning"]);
        command.args(["--file-flush-interval-msec", "200", "--config-path"]);
        command.arg(&config);
        command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", &options.module.folder);
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

/// The binary of an Envoy that `examples/setup-envoy.sh` installed.
///
/// # Errors
///
/// If it is not installed.
pub fn installed_binary(version: EnvoyVersion) -> Result<PathBuf> {
    let root = repository_root();
    let folders = match version {
        EnvoyVersion::V1_38 => vec![root.join(".venv-envoy-1.38.3")],
        EnvoyVersion::V1_39 => vec![root.join(".venv-envoy-1.39.3")],
        EnvoyVersion::V1_40 => {
            let libraries = std::fs::read_dir(root.join(".venv-envoy/lib")).into_iter().flatten().flatten();
            libraries.map(|python| python.path().join("site-packages")).collect()
        }
    };
    let mut binaries = folders.iter().map(|folder| folder.join("envoy/_bin/envoy"));
    binaries.find(|binary| binary.is_file()).with_context(|| {
        format!(
            "Envoy is not installed, run `examples/setup-envoy.sh`: `{version:?}` in `{}`",
            root.display()
        )
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
            if !matches!(config, EnvoyConfig::RoundRobin | EnvoyConfig::DynamicModule) {
                assert!(text.contains("address: \"127.0.0.1\", port_value: 9002"), "{text}");
                assert!(text.contains("failure_mode_allow: false"), "{text}");
            }
        }
    }

    #[test]
    fn a_module_is_told_its_configuration_word_for_word() {
        let mut options = options(EnvoyConfig::DynamicModule);
        options.module = DynamicModule {
            name: "p3sched_envoy".into(),
            config: r#"{"a": "b"}"#.into(),
            ..Default::default()
        };
        options.pick_source = PickSource::OverrideApi;
        let text = options.render(1, 2).unwrap();
        assert!(
            text.contains("name: p3sched_envoy,") && text.contains(r#"value: "{\"a\": \"b\"}""#),
            "{text}"
        );
        assert!(!text.contains("override_host") && !text.contains("access_log"), "{text}");
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
