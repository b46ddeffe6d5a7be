//! The `epp-server` binary of this workspace, run beside Envoy.

use crate::process::{ManagedProcess, free_ports, workspace_binary};
use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// How to run the picker.
#[derive(Debug, Clone)]
pub struct PickerOptions {
    /// The replicas to pick from; empty when the arguments name them in another way.
    pub endpoints: Vec<SocketAddr>,
    /// Period of reading the replicas' metrics.
    pub refresh_metrics_interval: Duration,
    /// Further command-line arguments.
    pub arguments: Vec<String>,
}

impl PickerOptions {
    /// Options with a scrape every 50 ms and no further arguments.
    #[must_use]
    pub fn new(endpoints: Vec<SocketAddr>) -> Self {
        Self { endpoints, refresh_metrics_interval: Duration::from_millis(50), arguments: Vec::new() }
    }
}

/// A running picker; dropping it kills it.
#[derive(Debug)]
pub struct Picker {
    process: ManagedProcess,
    options: PickerOptions,
    ports: Ports,
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    grpc: u16,
    health: u16,
    metrics: u16,
}

impl Picker {
    /// Starts the picker on free ports, with its log in `folder`, and waits until it listens.
    ///
    /// # Errors
    ///
    /// If `epp-server` has not been built or ends while starting.
    pub async fn start(options: &PickerOptions, folder: &Path) -> Result<Self> {
        let mut picker = Self::spawn(options, folder)?;
        picker.wait().await?;
        Ok(picker)
    }

    /// As [`start`](Self::start), without waiting for anything.
    ///
    /// # Errors
    ///
    /// If `epp-server` has not been built.
    pub fn spawn(options: &PickerOptions, folder: &Path) -> Result<Self> {
        let ports = free_ports(3)?;
        let &[grpc, health, metrics] = ports.as_slice() else {
            anyhow::bail!("three free ports are needed: {}", ports.len());
        };
        let ports = Ports { grpc, health, metrics };
        let process = spawn_process(options, ports, folder)?;
        Ok(Self { process, options: options.clone(), ports, folder: folder.to_owned() })
    }

    /// Starts it again where it was, after it has ended or been killed.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        self.process.terminate(Duration::ZERO).await;
        self.process = spawn_process(&self.options, self.ports, &self.folder)?;
        self.wait().await
    }

    async fn wait(&mut self) -> Result<()> {
        for port in [self.ports.grpc, self.ports.health, self.ports.metrics] {
            self.process.wait_for_tcp(loopback(port), Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// Where Envoy asks for a pick.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        loopback(self.ports.grpc)
    }

    /// Where gRPC health checks are answered.
    #[must_use]
    pub fn health_addr(&self) -> SocketAddr {
        loopback(self.ports.health)
    }

    /// Base address of its Prometheus metrics and decision pages.
    #[must_use]
    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.metrics)
    }

    /// The process, for its log and to end it.
    pub fn process(&mut self) -> &mut ManagedProcess {
        &mut self.process
    }
}

fn spawn_process(options: &PickerOptions, ports: Ports, folder: &Path) -> Result<ManagedProcess> {
    let endpoints: Vec<_> = options.endpoints.iter().map(ToString::to_string).collect();
    let mut command = Command::new(workspace_binary("epp-server", "epp-server")?);
    if !endpoints.is_empty() {
        command.args(["--endpoints", &endpoints.join(",")]);
    }
    command
        .args(["--grpc-port", &ports.grpc.to_string()])
        .args(["--grpc-health-port", &ports.health.to_string()])
        .args(["--metrics-port", &ports.metrics.to_string()])
        .arg("--secure-serving=false")
        .arg(format!("--refresh-metrics-interval={}ms", options.refresh_metrics_interval.as_millis()))
        .args(&options.arguments);
    ManagedProcess::spawn("epp-server", command, &folder.join("epp-server.log"))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
