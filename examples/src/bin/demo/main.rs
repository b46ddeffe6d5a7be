//! The same workload through Envoy once by round robin and once by p3sched, against cold engines.

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use p3sched_examples::calibration::{Calibration, calibrate};
use p3sched_examples::engines::{EngineKind, Fleet, MODEL};
use p3sched_examples::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use p3sched_examples::picker::{Picker, PickerOptions};
use p3sched_examples::process::{repository_root, workspace_binary};
use p3sched_examples::report::{Figures, Summary, print_table, write_page};
use p3sched_examples::workload::{Client, Plan, RunResult, Runner};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Replicas of every run.
const REPLICAS: usize = 3;

/// Compares p3sched with round robin: three engines, a real Envoy, one workload, a table and a report.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What serves the requests
    #[arg(long, value_enum, default_value_t = EngineKind::Simulator)]
    engine: EngineKind,
    /// The same checks with a workload of less than a minute
    #[arg(long)]
    short: bool,
    /// Fail if a goal of the comparison is missed, not only if a check fails
    #[arg(long)]
    strict: bool,
    /// Folder for the report, the summary and the logs [default: target/demo in the repository]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// How requests find their replica.
#[derive(Clone, Copy)]
enum Routing {
    RoundRobin,
    P3sched,
}

impl Routing {
    fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round robin",
            Self::P3sched => "p3sched",
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    // Returning drops the engines, Envoy and the picker, which ends them.
    tokio::select! {
        result = compare(&arguments) => result,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
        _ = terminated.recv() => Ok(ExitCode::from(143)),
    }
}

async fn compare(arguments: &Arguments) -> Result<ExitCode> {
    // What is missing should be known before minutes have passed.
    workspace_binary("epp-server", "epp-server")?;
    let output = arguments.output.clone().unwrap_or_else(|| repository_root().join("target/demo"));
    let plan = Plan::new(arguments.engine, arguments.short);
    let (round_robin, calibration) =
        run(Routing::RoundRobin, arguments.engine, &plan, &output.join("round-robin")).await?;
    let (p3sched, _) = run(Routing::P3sched, arguments.engine, &plan, &output.join("p3sched")).await?;

    let mut summary = Summary::new(
        arguments.engine,
        Figures::of(&round_robin, REPLICAS),
        Figures::of(&p3sched, REPLICAS),
        p3sched.checks,
    );
    (summary.workload, summary.calibration) = (Some(plan), calibration);
    let (page, json) = (output.join("report.html"), output.join("summary.json"));
    write_page(&page, &summary, &round_robin, &p3sched)?;
    std::fs::write(&json, serde_json::to_string_pretty(&summary)? + "\n")
        .with_context(|| format!("cannot write `{}`", json.display()))?;
    print_table(&summary);
    for (routing, run) in [(Routing::RoundRobin, &round_robin), (Routing::P3sched, &p3sched)] {
        for error in run.errors.iter().take(10) {
            println!("error with {}: {error}", routing.name());
        }
    }
    println!("\nreport: {}\nsummary: {}", page.display(), json.display());
    let goals = !arguments.strict || summary.goals.iter().all(|goal| goal.ok);
    Ok(if summary.checks.all() && goals { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts everything afresh, runs the workload and stops everything.
///
/// Real engines are measured one by one before anything else is sent.
async fn run(
    routing: Routing,
    engine: EngineKind,
    plan: &Plan,
    folder: &Path,
) -> Result<(RunResult, Option<Calibration>)> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let progress = progress_bar(routing, plan.requests())?;
    progress.set_message(format!("starting {REPLICAS} engines"));
    let mut fleet = Fleet::start(engine, REPLICAS, folder).await?;
    let calibration = match (engine, fleet.addrs().first()) {
        (EngineKind::Vllm, Some(&first)) => {
            progress.set_message("measuring one engine");
            Some(calibrate(plan, first).await?)
        }
        _ => None,
    };
    let (_picker, envoy) = gateway(routing, engine, &fleet.addrs(), folder).await?;
    let client = Client::new(&envoy.url(), MODEL, &fleet.addrs())?;
    let result = Runner::new(plan, client, REPLICAS, &progress).run(&mut fleet).await;
    progress.finish_with_message("done");
    Ok((result, calibration))
}

async fn gateway(
    routing: Routing,
    engine: EngineKind,
    replicas: &[SocketAddr],
    folder: &Path,
) -> Result<(Option<Picker>, Envoy)> {
    let (config, picker) = match routing {
        Routing::RoundRobin => (EnvoyConfig::RoundRobin, None),
        Routing::P3sched => {
            let mut options = PickerOptions::new(replicas.to_vec());
            options.refresh_metrics_interval = engine.refresh_metrics_interval();
            let picker = Picker::start(&options, folder).await?;
            (EnvoyConfig::FullDuplexOverrideHost, Some(picker))
        }
    };
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let picker_addr = picker.as_ref().map_or(nobody, Picker::grpc_addr);
    let envoy = Envoy::start(&EnvoyOptions::new(config, replicas.to_vec(), picker_addr), folder).await?;
    Ok((picker, envoy))
}

fn progress_bar(routing: Routing, requests: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{prefix:>12} {bar:32} {pos:>4}/{len} {elapsed:>4} {msg}")?;
    let bar = ProgressBar::new(requests as u64).with_style(style).with_prefix(routing.name());
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}
