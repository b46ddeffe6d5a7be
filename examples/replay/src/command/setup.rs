//! Options that every comparison has: where requests come from, and what serves them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use p3sched_replay::comparison::Input;
use p3sched_replay::engine::EngineParameters;
use p3sched_replay::policy::Policy;
use p3sched_replay::simulation::{
    Arrivals, Failure, Options, Replica, SchedulerRestart, Schedulers, Scrape, Sharing,
};
use p3sched_replay::trace::Trace;
use p3sched_replay::workload::Workload;

/// Where requests come from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Source {
    /// Recorded requests: Mooncake or Qwen-Bailian JSON lines, Azure CSV, or JSON lines of OpenAI bodies with timestamps
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Made-up requests: shared-prefix, bursts, agents or mixed, with settings: shared-prefix:groups=150:zipf=1.4
    #[arg(long, value_name = "NAME[:KEY=VALUE…]")]
    workload: Option<String>,
}

impl Source {
    pub(crate) fn input(&self) -> Result<Input> {
        match (&self.trace, &self.workload) {
            (Some(file), _) => Ok(Input::Recorded(Trace::read(file)?)),
            (None, Some(workload)) => Ok(Input::MadeUp(Workload::parse(workload)?)),
            (None, None) => bail!("name a trace with --trace or a workload with --workload"),
        }
    }

    /// What it is called for people.
    pub(crate) fn name(&self) -> String {
        let file = self.trace.as_ref().and_then(|file| file.file_name());
        file.map(|name| name.to_string_lossy().into_owned()).or(self.workload.clone()).unwrap_or_default()
    }
}

/// What serves requests, and what the schedulers get to know.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Engines, in turn: t4, v6e-4, a100, h100, 4xh100-70b
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "a100")]
    engine: Vec<String>,
    /// Blocks of every replica's KV cache [default: what fits into the engine's memory]
    #[arg(long, value_name = "BLOCKS")]
    cache_blocks: Option<usize>,
    /// Requests that a replica runs at once [default: as the engine]
    #[arg(long, value_name = "REQUESTS")]
    max_running: Option<usize>,
    /// Tokens that a step of an engine computes at most [default: as the engine]
    #[arg(long, value_name = "TOKENS")]
    step_tokens: Option<u32>,
    /// When requests come
    #[arg(long, value_enum, default_value_t = ArrivalKind::Open)]
    arrivals: ArrivalKind,
    /// How many times faster than recorded requests come
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Clients of `--arrivals clients`
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How many times the trace is replayed, one after the other, with prompts of its own each time
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Leave times as they were recorded where these were rounded, instead of spreading them by the seed
    #[arg(long)]
    rounded_times: bool,
    /// Schedulers that share the requests
    #[arg(long, default_value_t = 1)]
    schedulers: usize,
    /// Let all schedulers know what the others pick
    #[arg(long)]
    shared_index: bool,
    /// Time between two scrapes of a replica
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "50ms")]
    scrape_period: std::time::Duration,
    /// Time until a scrape counts
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0ms")]
    scrape_delay: std::time::Duration,
    /// Report no first tokens to the schedulers, like a proxy that hides responses
    #[arg(long)]
    no_first_tokens: bool,
    /// Report no cached tokens to the schedulers
    #[arg(long)]
    no_cached_tokens: bool,
    /// Let requests name their conversation, as `prompt_cache_key` and `user` do
    #[arg(long)]
    session_keys: bool,
    /// A replica that fails: its place, the second, and the seconds that it is gone: 2@60+30
    #[arg(long, value_name = "REPLICA@AT+LASTS", value_parser = parse_failure)]
    fail: Vec<Failure>,
    /// A scheduler that restarts: its place and the second, with a snapshot if wanted: 0@60 or 0@60+snapshot
    #[arg(long, value_name = "SCHEDULER@AT[+snapshot]", value_parser = parse_restart)]
    restart_scheduler: Vec<SchedulerRestart>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ArrivalKind {
    /// At the times of the trace, whatever the answers take
    Open,
    /// Later turns of a conversation after the answer before and the time that its user thinks
    Sessions,
    /// So many clients, each of which sends its next request when the last one is answered
    Clients,
}

impl Setup {
    /// Options for so many replicas under a policy.
    pub(crate) fn options(&self, policy: Policy, replicas: usize) -> Result<Options> {
        ensure!(self.repeat > 0, "--repeat must be 1 or more: `0`");
        let engines: Vec<_> = self.engine.iter().map(|name| self.engine(name)).collect::<Result<_>>()?;
        let first = engines.first().context("--engine must name an engine: ``")?;
        let mut options = Options::new(policy, first, replicas);
        let in_turn = engines.iter().cycle().take(replicas);
        options.replicas =
            in_turn.map(|engine| Replica { engine: engine.clone(), models: Vec::new() }).collect();
        options.arrivals = match self.arrivals {
            ArrivalKind::Open => Arrivals::Open { speed: self.speed, jitter: !self.rounded_times },
            ArrivalKind::Sessions => Arrivals::Sessions { speed: self.speed },
            ArrivalKind::Clients => Arrivals::Clients { count: self.clients },
        };
        options.repeat = self.repeat;
        let sharing = if self.shared_index { Sharing::Shared } else { Sharing::Private };
        options.schedulers = Schedulers { count: self.schedulers, sharing };
        options.scrape =
            Scrape { period: self.scrape_period.as_secs_f64(), delay: self.scrape_delay.as_secs_f64() };
        options.feedback.first_tokens = !self.no_first_tokens;
        options.feedback.cached_tokens = !self.no_cached_tokens;
        options.session_keys = self.session_keys;
        options.failures.clone_from(&self.fail);
        options.restarts.clone_from(&self.restart_scheduler);
        Ok(options)
    }

    /// How many times the trace is replayed.
    pub(crate) fn repeat(&self) -> u32 {
        self.repeat
    }

    fn engine(&self, name: &str) -> Result<EngineParameters> {
        let mut engine = EngineParameters::preset(name)?;
        engine.cache_blocks = self.cache_blocks.or(engine.cache_blocks);
        engine.max_running = self.max_running.unwrap_or(engine.max_running);
        engine.step_tokens = self.step_tokens.unwrap_or(engine.step_tokens);
        Ok(engine)
    }
}

/// `8`, `3,8,16` or `1..16`, both ends included.
pub(crate) fn parse_counts(text: &str) -> Result<Vec<usize>> {
    let mut counts = Vec::new();
    for part in text.split(',') {
        let number =
            |text: &str| text.trim().parse::<usize>().ok().filter(|count| (1..=1024).contains(count));
        let (from, to) = part.split_once("..").unwrap_or((part, part));
        let (Some(from), Some(to)) = (number(from), number(to.trim_start_matches('='))) else {
            bail!("numbers of replicas must be 1 to 1024, like 3,8,16 or 1..16: `{part}`");
        };
        counts.extend(from..=to);
    }
    Ok(counts)
}

fn parse_failure(text: &str) -> Result<Failure, String> {
    let parts = text.split_once('@').and_then(|(replica, times)| Some((replica, times.split_once('+')?)));
    let parsed = parts.and_then(|(replica, (at, lasts))| {
        Some(Failure { replica: replica.parse().ok()?, at: at.parse().ok()?, lasts: lasts.parse().ok()? })
    });
    parsed
        .ok_or_else(|| format!("must be a replica, a second and a number of seconds, like 2@60+30: `{text}`"))
}

fn parse_restart(text: &str) -> Result<SchedulerRestart, String> {
    let parsed = text.split_once('@').and_then(|(scheduler, time)| {
        let (at, snapshot) = match time.strip_suffix("+snapshot") {
            Some(at) => (at, true),
            None => (time, false),
        };
        Some(SchedulerRestart { scheduler: scheduler.parse().ok()?, at: at.parse().ok()?, snapshot })
    });
    parsed.ok_or_else(|| format!("must be a scheduler and a second, like 0@60 or 0@60+snapshot: `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_lists_and_ranges() {
        assert_eq!(parse_counts("3,8,16").unwrap(), [3, 8, 16]);
        assert_eq!(parse_counts("1..4").unwrap(), [1, 2, 3, 4]);
        assert!(parse_counts("0").unwrap_err().to_string().ends_with("`0`"));
    }

    #[test]
    fn faults_are_read_from_one_word() {
        assert_eq!(parse_failure("2@60+30").unwrap(), Failure { replica: 2, at: 60.0, lasts: 30.0 });
        let restart = SchedulerRestart { scheduler: 0, at: 1.5, snapshot: true };
        assert_eq!(parse_restart("0@1.5+snapshot").unwrap(), restart);
        assert!(parse_failure("2").unwrap_err().contains("`2`"));
    }
}
