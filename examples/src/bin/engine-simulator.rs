//! A simulated inference engine as a process of its own.

use clap::Parser;
use p3sched_examples::engine_simulator::{EngineSimulatorOptions, TimingModel, serve};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// An inference engine without a GPU: OpenAI API, vLLM's metrics, a real prefix cache and the timing of a T4.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Name of the replica, sent as x-engine-id [default: HOST:PORT]
    #[arg(long)]
    engine_id: Option<String>,
    /// Served model
    #[arg(long, default_value = "simulated")]
    model: String,
    /// Served adapters, separated by commas
    #[arg(long, value_delimiter = ',')]
    adapters: Vec<String>,
    /// Adapters that fit at once
    #[arg(long, default_value_t = 2)]
    max_adapters: usize,
    /// Tokens per cache block
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    block_size: u32,
    /// Blocks of the prefix cache
    #[arg(long, default_value_t = 1024)]
    num_gpu_blocks: usize,
    /// Requests that may run at once
    #[arg(long, default_value_t = 16)]
    max_num_seqs: usize,
    /// Fixed time per prompt, in milliseconds
    #[arg(long, default_value_t = 108.6)]
    prefill_overhead_ms: f64,
    /// Uncached prompt tokens per second
    #[arg(long, default_value_t = 8750.0)]
    prefill_tokens_per_s: f64,
    /// Time per generated token, in milliseconds
    #[arg(long, default_value_t = 15.0)]
    decode_step_ms: f64,
    /// Run everything this many times faster
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let listen = SocketAddr::new(arguments.host, arguments.port);
    let timing = TimingModel {
        prefill_overhead: Duration::try_from_secs_f64(arguments.prefill_overhead_ms / 1e3)?,
        prefill_tokens_per_s: arguments.prefill_tokens_per_s,
        decode_step: Duration::try_from_secs_f64(arguments.decode_step_ms / 1e3)?,
        speed: arguments.speed,
    };
    let options = EngineSimulatorOptions {
        listen,
        engine_id: arguments.engine_id.unwrap_or_else(|| listen.to_string()),
        model: arguments.model,
        adapters: arguments.adapters,
        max_adapters: arguments.max_adapters,
        block_size: arguments.block_size as usize,
        num_gpu_blocks: arguments.num_gpu_blocks,
        max_num_seqs: arguments.max_num_seqs,
        timing,
    };
    anyhow::ensure!(timing.speed > 0.0 && timing.prefill_tokens_per_s > 0.0, "speeds have to be above 0");
    eprintln!("engine `{}` listens on http://{listen}", options.engine_id);
    serve(options).await?;
    Ok(())
}
