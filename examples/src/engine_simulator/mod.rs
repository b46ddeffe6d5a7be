//! An inference engine without a GPU: vLLM's API, metrics, queue and prefix cache with the timing of a small GPU.
//!
//! Use it to see what a routing policy does to a fleet without having one. What follows reality: the block-level
//! prefix cache with its eviction, the queue with its limits, the time of a prompt by its uncached tokens, the names
//! and formats of API and metrics. What does not: tokens are four bytes each and answers are filler words.

mod api;
mod engine;
mod kv_cache;
mod metrics;
mod prompt;

use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Limit of waiting for an engine's thread to end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// How long the simulated GPU takes.
///
/// The defaults are those of a T4 with a small model: a prompt of 1500 tokens takes about 280 ms cold and 110 ms when
/// its whole blocks are cached.
#[derive(Debug, Clone, Copy)]
pub struct TimingModel {
    /// Fixed time per prompt.
    pub prefill_overhead: Duration,
    /// Uncached prompt tokens per second.
    pub prefill_tokens_per_s: f64,
    /// Time per generated token of a batch of one.
    pub decode_step: Duration,
    /// Everything is this many times faster.
    pub speed: f64,
}

impl Default for TimingModel {
    fn default() -> Self {
        Self {
            prefill_overhead: Duration::from_micros(108_600),
            prefill_tokens_per_s: 8750.0,
            decode_step: Duration::from_millis(15),
            speed: 1.0,
        }
    }
}

/// What to simulate and where to listen.
#[derive(Debug, Clone)]
pub struct EngineSimulatorOptions {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Name of the replica, sent as `x-engine-id` with every response.
    pub engine_id: String,
    /// Served model.
    pub model: String,
    /// Served adapters; a request names one as its model.
    pub adapters: Vec<String>,
    /// Adapters that fit at once, as shown in the metrics.
    pub max_adapters: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Blocks of the prefix cache.
    pub num_gpu_blocks: usize,
    /// Requests that may run at once.
    pub max_num_seqs: usize,
    /// How long things take.
    pub timing: TimingModel,
}

impl Default for EngineSimulatorOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            engine_id: "engine".to_owned(),
            model: "simulated".to_owned(),
            adapters: Vec::new(),
            max_adapters: 2,
            block_size: 16,
            num_gpu_blocks: 1024,
            max_num_seqs: 16,
            timing: TimingModel::default(),
        }
    }
}

/// A way for the engine to misbehave, set by `POST /simulator/fault {"fault": "hang"}` or [`EngineSimulator::set_fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Works.
    #[default]
    None,
    /// Accepts API requests and never answers them.
    Hang,
    /// Accepts `/metrics` and never answers it.
    HangMetrics,
    /// Answers `/metrics` with bytes that are no metrics page.
    GarbageMetrics,
    /// Answers `/metrics` with a page of 10 MB.
    LargeMetrics,
    /// Answers `/metrics` with half a page and closes the connection.
    CutMetrics,
    /// Answers API requests a second later than it could.
    Slow,
    /// Answers API requests with status 500.
    ServerError,
    /// Answers API requests with status 503, which proxies usually retry.
    Unavailable,
}

/// A running simulated engine; dropping it is the same as [`EngineSimulator::kill`].
#[derive(Debug)]
pub struct EngineSimulator {
    addr: SocketAddr,
    service: api::Service,
    runtime: Option<tokio::runtime::Runtime>,
}

impl EngineSimulator {
    /// Starts an engine on a thread of its own, so that [`EngineSimulator::kill`] can end it like a killed process.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn start(options: EngineSimulatorOptions) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("engine-{}", options.engine_id))
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let service = api::Service::new(options);
        let router = service.router();
        let entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        drop(entered);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { addr, service, runtime: Some(runtime) })
    }

    /// Where the engine listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes the engine misbehave, or behave again with [`Fault::None`].
    pub fn set_fault(&self, fault: Fault) {
        self.service.set_fault(fault);
    }

    /// API requests received so far, faults included.
    #[must_use]
    pub fn requests_received(&self) -> u64 {
        self.service.requests_received()
    }

    /// Ends the engine at once: its connections are closed in the middle of whatever they were doing, and nobody
    /// listens on its port any more when this returns.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for EngineSimulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own, since a runtime must not wait for another one.
            let _ = std::thread::spawn(move || runtime.shutdown_timeout(SHUTDOWN_LIMIT)).join();
        }
    }
}

/// Serves until the process ends; what the `engine-simulator` binary does.
///
/// # Errors
///
/// If the address cannot be bound or accepting connections fails.
pub async fn serve(options: EngineSimulatorOptions) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    axum::serve(listener, api::Service::new(options).router()).await
}
