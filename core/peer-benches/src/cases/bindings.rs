//! The same call from other languages: what crossing the border costs.
//!
//! Each language has a program that takes the file with the body as its argument and, for every line with a number on its
//! standard input, makes as many calls and answers with the nanoseconds that the picks took; see [`time_picks`], which does
//! the same in Rust.

use std::cell::RefCell;
use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use p3sched::{Endpoint, Request, Scheduler, SchedulerConfig};
use serde_json::json;

use super::{Case, Outcome};
use crate::Settings;
use crate::measure::take_turns;
use crate::report::{Figure, Goal, time_text};
use crate::workload::prompt;

const PATH: &str = "/v1/chat/completions";
const BODY_BYTES: usize = 4096;
/// Picks in flight at the end of a timed stretch, in every language.
const BATCH: u32 = 64;

/// A language, and the program that makes the calls in it.
struct Binding {
    language: &'static str,
    program: &'static str,
    script: Option<&'static str>,
    built_by: &'static str,
    /// Nanoseconds that a call may cost more than from Rust.
    goal: f64,
}

const BINDINGS: [Binding; 3] = [
    Binding {
        language: "c",
        program: "target/bindings-c/pick_body",
        script: None,
        built_by: "make c",
        goal: 60.0,
    },
    Binding {
        language: "python",
        program: ".venv-python-bench/bin/python",
        script: Some("bindings-python/benches/pick_body.py"),
        built_by: "make python-bench-setup",
        goal: 400.0,
    },
    Binding {
        language: "node",
        program: "node",
        script: Some("bindings-node/benches/pick_body.mjs"),
        built_by: "make node",
        goal: 1_000.0,
    },
];

pub fn cases() -> Vec<Case> {
    let case = |binding: Binding| Case {
        name: format!("bindings/{}", binding.language),
        run: Box::new(move |settings: &Settings| binding.measure(settings)),
    };
    BINDINGS.into_iter().map(case).collect()
}

impl Binding {
    fn measure(&self, settings: &Settings) -> Result<Outcome> {
        let body = body_file()?;
        let program = match self.program {
            path if path.contains('/') => root().join(path),
            name => PathBuf::from(name),
        };
        if program.is_absolute() && !program.exists() {
            return Ok(Outcome::Skipped(format!("`{}` builds what it needs", self.built_by)));
        }
        let child =
            Caller::start(&program, self.script, &body).with_context(|| format!("`{}`", self.built_by))?;
        let child = RefCell::new(child);
        let scheduler = scheduler()?;
        let bytes = fs::read(&body)?;
        let mut failure = None;
        let mut theirs = |count| {
            child.borrow_mut().time_picks(count).unwrap_or_else(|error| {
                failure = Some(error);
                settings.round_time
            })
        };
        let mut ours = |count| time_picks(&scheduler, &bytes, count);
        let [rust, foreign] = take_turns(settings, [&mut ours, &mut theirs]);
        if let Some(error) = failure {
            return Err(error.context(format!("the program of {}", self.language)));
        }
        let ratio = foreign.over(&rust);
        let figure = Figure {
            name: format!("bindings/{}/pick-body-over-rust", self.language),
            value: foreign.median() - rust.median(),
            unit: "ns",
            goal: Goal::AtMost(self.goal),
            spread: ratio.spread(),
            detail: format!("{}, Rust {}", time_text(foreign.median()), time_text(rust.median())),
        };
        Ok(Outcome::Measured(vec![figure]))
    }
}

/// A program that makes calls when told how many.
struct Caller {
    child: Child,
    counts: ChildStdin,
    times: BufReader<ChildStdout>,
}

impl Caller {
    fn start(program: &Path, script: Option<&str>, body: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .args(script.map(|script| root().join(script)))
            .arg(body)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start: `{}`", program.display()))?;
        let counts = child.stdin.take().context("no standard input")?;
        let times = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, counts, times })
    }

    fn time_picks(&mut self, count: u32) -> Result<Duration> {
        writeln!(self.counts, "{count}")?;
        self.counts.flush()?;
        let mut line = String::new();
        self.times.read_line(&mut line)?;
        let nanoseconds =
            line.trim().parse().with_context(|| format!("not a time in ns: `{}`", line.trim()))?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn scheduler() -> Result<Scheduler> {
    let scheduler = Scheduler::new(SchedulerConfig::default())?;
    for number in 1..=8 {
        scheduler.add_endpoint(Endpoint::new(format!("10.0.0.{number}:8000")))?;
    }
    Ok(scheduler)
}

/// The time of the picks alone; they are completed between stretches.
fn time_picks(scheduler: &Scheduler, body: &[u8], count: u32) -> Duration {
    // Users of the bindings get their times from a clock, too.
    let clock = Instant::now();
    let now = || u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut picked = Vec::with_capacity(BATCH as usize);
    let mut time = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let start = Instant::now();
        picked.extend((0..batch).map(|_| {
            let request = Request::from_body(PATH, black_box(body))?;
            scheduler.pick(&request, now())
        }));
        time += start.elapsed();
        for decision in picked.drain(..).flatten() {
            scheduler.complete(decision.id, p3sched::Outcome::success(), now()).ok();
        }
    }
    time
}

/// A chat with a system prompt and a question, 4 KB in all.
fn body_file() -> Result<PathBuf> {
    let chat = |system: &str| {
        json!({"model": "llama-3-8b", "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": "Where is my parcel?"},
        ]})
        .to_string()
    };
    let text = String::from_utf8(prompt(0, BODY_BYTES - chat("").len()))?;
    let body = chat(&text);
    ensure!(body.len() == BODY_BYTES, "the text has characters that JSON escapes");
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join("chat-4k.json");
    fs::write(&file, body)?;
    Ok(file)
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
