//! The replicas of a run: simulated ones, or real vLLM on CPU.

use crate::process::{ManagedProcess, free_ports, repository_root, workspace_binary};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Name under which every replica serves its model.
pub const MODEL: &str = "tiny";

/// What serves the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The engine simulator of this package.
    Simulator,
    /// vLLM on CPU with a small model, installed by `examples/vllm/setup.sh`.
    Vllm,
}

/// Running replicas; dropping them kills them.
#[derive(Debug)]
pub struct Fleet {
    replicas: Vec<(SocketAddr, ManagedProcess)>,
}

impl EngineKind {
    /// The name in options and in the summary.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Simulator => "simulator",
            Self::Vllm => "vllm",
        }
    }

    /// How often the picker reads its metrics.
    #[must_use]
    pub fn refresh_metrics_interval(self) -> Duration {
        match self {
            Self::Simulator => Duration::from_millis(50),
            // Writing a page takes vLLM milliseconds of the cores that its replicas share here.
            Self::Vllm => Duration::from_millis(500),
        }
    }

    fn start_limit(self) -> Duration {
        match self {
            Self::Simulator => Duration::from_secs(20),
            Self::Vllm => Duration::from_secs(300),
        }
    }

    fn command(self, port: u16) -> Result<Command> {
        match self {
            Self::Simulator => simulator_command(port),
            Self::Vllm => vllm_command(port),
        }
    }
}

impl Fleet {
    /// Starts `count` replicas with empty caches, with their logs in `folder`, and waits until all are healthy.
    ///
    /// # Errors
    ///
    /// If an engine is not built or installed, or does not become healthy.
    pub async fn start(kind: EngineKind, count: usize, folder: &Path) -> Result<Self> {
        let mut replicas = Vec::new();
        for (index, port) in free_ports(count)?.into_iter().enumerate() {
            let name = format!("{}-{}", kind.name(), index + 1);
            let process =
                ManagedProcess::spawn(&name, kind.command(port)?, &folder.join(format!("{name}.log")))?;
            replicas.push((SocketAddr::from((Ipv4Addr::LOCALHOST, port)), process));
        }
        for (addr, process) in &mut replicas {
            process.wait_for_http(&format!("http://{addr}/health"), kind.start_limit()).await?;
        }
        Ok(Self { replicas })
    }

    /// Addresses in order; a replica is known by its place.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|(addr, _)| *addr).collect()
    }

    /// Kills one replica at once (SIGKILL), as a failing machine would.
    pub fn kill(&mut self, replica: usize) {
        if let Some((_, process)) = self.replicas.get_mut(replica) {
            process.kill();
        }
    }
}

fn simulator_command(port: u16) -> Result<Command> {
    let mut command = Command::new(workspace_binary("engine-simulator", "p3sched-examples")?);
    command.args(["--port", &port.to_string(), "--model", MODEL]);
    Ok(command)
}

fn vllm_command(port: u16) -> Result<Command> {
    let python = repository_root().join(".venv-vllm/bin/python");
    let model = vllm_model();
    ensure!(
        python.is_file() && model.is_dir(),
        "vLLM or its model is not installed: run `examples/vllm/setup.sh`"
    );
    let model = model.to_str().context("the path of the model is not UTF-8")?;
    let mut command = Command::new(python);
    command
        .args(["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", MODEL])
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--dtype", "bfloat16", "--load-format", "dummy", "--max-model-len", "4096", "--enforce-eager"])
        .args(["--enable-prefix-caching", "--enable-prompt-tokens-details", "--max-num-seqs", "8"])
        .args(["--block-size", "32", "--num-gpu-blocks-override", "512"])
        // Without compiled bytecode every start takes half a minute longer.
        .env_remove("PYTHONDONTWRITEBYTECODE")
        .env("VLLM_TARGET_DEVICE", "cpu")
        .env("VLLM_CPU_KVCACHE_SPACE", "1")
        .env("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        .env("OMP_NUM_THREADS", "2")
        // Three replicas share the cores: a thread that waits must not spin on one that another replica needs.
        .env("OMP_WAIT_POLICY", "PASSIVE")
        .env("KMP_BLOCKTIME", "0")
        .env("HF_HUB_OFFLINE", "1")
        .env("VLLM_NO_USAGE_STATS", "1");
    Ok(command)
}

/// Where `examples/vllm/setup.sh` puts the model.
fn vllm_model() -> PathBuf {
    repository_root().join(".venv-vllm/p3sched-model")
}
