//! `epp-server`: reads the command line, builds, says what was built, serves, drains on a signal.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use epp_server::admin::recorder;
use epp_server::check_config;
use epp_server::config::{EndpointSource, Settings};
use epp_server::flags::{Command, CommandLine, Flags, LogFormat, LogLevel};
use epp_server::server::Server;
use mimalloc::MiMalloc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Bodies of requests come and go several times a second: giving their pages back to the system and touching them anew
/// would cost more than what is done with them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let CommandLine { command, flags } =
        CommandLine::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    if let Some(Command::CheckConfig { file }) = command {
        return match check_config::explain_file(&file) {
            Ok(explanation) => show(&explanation),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    start_log(flags.log_level(), flags.log_format);
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that has enough is no failure.
fn show(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

#[tokio::main]
async fn run(flags: Flags) -> Result<(), String> {
    let settings = Settings::from_flags(flags)?;
    let signals = Signals::listen().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let server = Server::bind(settings.clone()).await?;
    say_what_was_built(&settings, &server)?;
    server.run(signals.stop()).await
}

fn say_what_was_built(settings: &Settings, server: &Server) -> Result<(), String> {
    let [grpc, health, metrics] =
        server.ports().map_err(|error| format!("cannot read the open ports: {error}"))?;
    let source = match &settings.endpoints {
        EndpointSource::Fixed(_) => "list".to_owned(),
        EndpointSource::File(path) => path.display().to_string(),
        EndpointSource::Dns(name, _) => name.to_string(),
        EndpointSource::Kubernetes(_) => "Kubernetes".to_owned(),
    };
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    tracing::info!(
        version = p3sched::VERSION,
        pool = settings.pool,
        profile = settings.profile,
        endpoints = server.pools().map(|pool| pool.endpoints().len()).sum::<usize>(),
        endpoints_from = source,
        scorers = settings.scorers(),
        prefill_elsewhere = settings.profiles.prefill.as_ref().map(|prefill| prefill.decider.to_string()),
        load_gate_seconds = settings.scheduler.load_gate_seconds,
        picker = settings.scheduler.picker.picker_type,
        grpc_port = grpc,
        tls = settings.secure_serving,
        health_port = health,
        metrics_port = metrics,
        "serving"
    );
    Ok(())
}

/// The two signals that end a process politely.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Done at the first signal; the second one ends the process at once.
    async fn stop(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("second signal, stopping at once");
            std::process::exit(1);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn start_log(level: LogLevel, format: LogFormat) {
    let (own, libraries) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    // Decisions are only logged where that was asked for, so at every level.
    let filter = (Targets::new().with_target("epp_server", own))
        // What goes wrong in a watch is said here, once.
        .with_target("kube_runtime::watcher", libraries.min(LevelFilter::ERROR))
        .with_target("kube_client::client", libraries.min(LevelFilter::ERROR))
        .with_target(recorder::LOG_TARGET, LevelFilter::INFO)
        .with_default(libraries);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
        LogFormat::Text => {
            registry.with(lines.with_target(false).with_ansi(io::stderr().is_terminal())).init();
        }
    }
}
