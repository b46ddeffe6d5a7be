//! What picking costs in a real Envoy: the module and `ext_proc` beside plain round robin, in the same run.
//!
//! Every round measures every variant once, so that what changes on the machine changes for all of them. The ratios are
//! taken within a round; their median counts.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use p3sched_examples::benchmark::figure::Figure;
use p3sched_examples::benchmark::http::{Events, Load, chat_request, start_backends};
use p3sched_examples::benchmark::usage::processor_time;
use p3sched_examples::envoy::{DynamicModule, Envoy, EnvoyConfig, EnvoyOptions, PickSource};
use p3sched_examples::picker::{Picker, PickerOptions};
use p3sched_examples::process::ManagedProcess;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Compares the cost of picking inside Envoy and beside it with plain round robin; prints JSON.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Rounds; each measures every variant once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections of the client
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Worker threads of Envoy
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Folder for configurations and logs [default: a folder beside the program]
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Replicas behind Envoy.
const REPLICAS: usize = 3;

/// Bytes of a request's body.
const BODY_BYTES: usize = 4096;

/// Time between two scrapes of a replica.
const SCRAPE_PERIOD: Duration = Duration::from_millis(100);

/// A measurement starts when connections and caches have settled.
const WARM_UP: Duration = Duration::from_millis(500);

/// No request asks for a stream.
const NO_EVENTS: Events = Events { count: 0, period: Duration::ZERO };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    RoundRobin,
    Module,
    ExtProcBuffered,
    ExtProcFullDuplex,
}

impl Variant {
    const ALL: [Self; 4] = [Self::RoundRobin, Self::Module, Self::ExtProcBuffered, Self::ExtProcFullDuplex];

    fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Module => "module",
            Self::ExtProcBuffered => "ext-proc-buffered",
            Self::ExtProcFullDuplex => "ext-proc-full-duplex",
        }
    }

    fn config(self) -> EnvoyConfig {
        match self {
            Self::RoundRobin => EnvoyConfig::RoundRobin,
            Self::Module => EnvoyConfig::DynamicModule,
            Self::ExtProcBuffered => EnvoyConfig::BufferedOverrideHost,
            Self::ExtProcFullDuplex => EnvoyConfig::FullDuplexOverrideHost,
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Cost {
    requests_per_second: f64,
    /// Microseconds of Envoy for one request.
    envoy: f64,
    /// Microseconds of `epp-server` for one request.
    picker: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0 && arguments.seconds > 0.0, "rounds and seconds must be more than 0");
    let folder = match &arguments.output {
        Some(folder) => folder.clone(),
        None => binary_folder()?.join("envoy-bench-output"),
    };
    let backends = start_backends(REPLICAS, NO_EVENTS)?;
    let mut options = PickerOptions::new(backends.clone());
    options.refresh_metrics_interval = SCRAPE_PERIOD;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let mut picker = Picker::start(&options, &folder).await?;
    let mut envoys = Vec::new();
    for variant in Variant::ALL {
        envoys.push((variant, start_envoy(variant, &backends, &picker, arguments.workers, &folder).await?));
    }
    let requests = Arc::new(requests());
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        let mut costs = Vec::new();
        // Nobody is always the first or the last.
        for (variant, envoy) in envoys.iter().cycle().skip(round).take(envoys.len()) {
            let cost = measure(envoy, picker.process(), &requests, &arguments).await?;
            eprintln!(
                "round {}, {:<22} {:>7.0} requests/s, Envoy {:>5.1} µs",
                round + 1,
                variant.name(),
                cost.requests_per_second,
                cost.envoy
            );
            costs.push((*variant, cost));
        }
        rounds.push(costs);
    }
    println!("{}", serde_json::to_string_pretty(&figures(&rounds, &arguments))?);
    Ok(())
}

async fn start_envoy(
    variant: Variant,
    backends: &[SocketAddr],
    picker: &Picker,
    workers: u32,
    folder: &Path,
) -> Result<Envoy> {
    let mut options = EnvoyOptions::new(variant.config(), backends.to_vec(), picker.grpc_addr());
    (options.concurrency, options.retries) = (workers, 0);
    if variant == Variant::Module {
        let config = json!({
            "endpoints": backends,
            "scrape": {"cluster": "metrics", "period_seconds": SCRAPE_PERIOD.as_secs_f64()},
        });
        options.pick_source = PickSource::OverrideApi;
        options.module = DynamicModule {
            name: "p3sched_envoy".to_owned(),
            folder: binary_folder()?,
            config: config.to_string(),
        };
    }
    let folder = folder.join(variant.name());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    Envoy::start(&options, &folder).await
}

/// Where the programs and libraries of this workspace are.
fn binary_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().context("the program has no folder")?.to_owned())
}

/// Chat bodies of eight tenants: what a tenant's requests share is most of them.
fn requests() -> Vec<Vec<u8>> {
    let request = |number: usize| {
        let head = format!(
            r#"{{"model":"tiny","messages":[{{"role":"system","content":"Tenant {} says: "#,
            number % 8
        );
        let tail = format!(r#""}},{{"role":"user","content":"Question {number:04}?"}}]}}"#);
        let filler = "You answer in one word. ".chars().cycle().take(BODY_BYTES - head.len() - tail.len());
        chat_request(&(head + &filler.collect::<String>() + &tail))
    };
    (0..256).map(request).collect()
}

async fn measure(
    envoy: &Envoy,
    picker: &ManagedProcess,
    requests: &Arc<Vec<Vec<u8>>>,
    arguments: &Arguments,
) -> Result<Cost> {
    let mut load = Load::start(envoy.addr(), arguments.connections, requests)?;
    tokio::time::sleep(WARM_UP).await;
    let before = (processor_time(envoy.process())?, processor_time(picker)?);
    load.restart_count();
    tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
    let served = load.served();
    let after = (processor_time(envoy.process())?, processor_time(picker)?);
    load.stop()?;
    ensure!(served.requests > 0, "no request was served");
    let requests = served.requests as f64;
    Ok(Cost {
        requests_per_second: requests / served.lasted.as_secs_f64(),
        envoy: (after.0 - before.0) / requests,
        picker: (after.1 - before.1) / requests,
    })
}

fn figures(rounds: &[Vec<(Variant, Cost)>], arguments: &Arguments) -> Vec<Figure> {
    let detail = format!(
        "Envoy 1.40.0, {} workers, {} connections, body of {BODY_BYTES} bytes, {} rounds of {} s",
        arguments.workers, arguments.connections, arguments.rounds, arguments.seconds
    );
    let of = |variant: Variant, read: fn(&Cost) -> f64| -> Vec<f64> {
        rounds.iter().flatten().filter(|(known, _)| *known == variant).map(|(_, cost)| read(cost)).collect()
    };
    let figure = |name: String, values: &[f64], unit| {
        Figure::new(format!("envoy-module/{name}"), values, unit, &detail)
    };
    let ratios = |variant, read: fn(&Cost) -> f64| -> Vec<f64> {
        let pairs = of(variant, read).into_iter().zip(of(Variant::RoundRobin, read));
        pairs.map(|(value, base)| value / base).collect()
    };
    let mut figures = Vec::new();
    for variant in Variant::ALL {
        let name = variant.name();
        if variant != Variant::RoundRobin {
            let mut speed = figure(
                format!("{name}-requests-over-round-robin"),
                &ratios(variant, |cost| cost.requests_per_second),
                "ratio",
            );
            let mut cost =
                figure(format!("{name}-cpu-over-round-robin"), &ratios(variant, |cost| cost.envoy), "ratio");
            if variant == Variant::Module {
                (speed, cost) = (speed.at_least(0.85), cost.at_most(1.25));
            }
            figures.extend([speed, cost]);
        }
        figures.push(figure(
            format!("{name}-requests"),
            &of(variant, |cost| cost.requests_per_second),
            "requests/s",
        ));
        figures.push(figure(format!("{name}-cpu"), &of(variant, |cost| cost.envoy), "µs/request"));
        if matches!(variant, Variant::ExtProcBuffered | Variant::ExtProcFullDuplex) {
            figures.push(figure(
                format!("{name}-picker-cpu"),
                &of(variant, |cost| cost.picker),
                "µs/request",
            ));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_the_same_length_and_its_own_text() {
        let requests = requests();
        assert!(requests.iter().all(|request| request.len() == requests[0].len()));
        let head = String::from_utf8_lossy(&requests[0]).into_owned();
        let body = head.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.len(), BODY_BYTES);
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
        assert_ne!(requests[0], requests[8]);
    }
}
