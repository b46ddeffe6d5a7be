//! The six steps of a run against one gateway.

use super::conversations::{Conversations, system_prompts};
use super::plan::{
    BURST_REQUESTS, CACHE_ROUTING_REQUESTS, CACHE_ROUTING_TOKENS, DISTRIBUTION_REQUESTS, DISTRIBUTION_TOKENS,
};
use super::{ApiRequest, Client, Level, Outcome, Plan, TextGenerator, Turn};
use crate::engines::Fleet;
use futures_util::future::join_all;
use indicatif::ProgressBar;
use parking_lot::Mutex;
use serde::Serialize;
use std::time::Duration;

/// The replica that the failure step kills.
const VICTIM: usize = 1;

/// Streams of text that the steps use; conversations count from a million.
const CACHE_ROUTING_TEXT: u64 = 1;
const DISTRIBUTION_TEXT: u64 = 2;
const BURST_TEXT: u64 = 3;
const FAILURE_TEXT: u64 = 100;

/// What the steps found, one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checks {
    /// Health, models, a completion, a chat and a streamed chat are answered.
    pub functions: bool,
    /// Ten requests with one shared prefix went to one replica.
    pub cache_routing: bool,
    /// Thirty different prompts at once reached all replicas, none with more than half.
    pub distribution: bool,
    /// Sixty requests with one hot prefix at once were answered, by more than one replica.
    pub burst: bool,
    /// No request failed while and after a replica was killed.
    pub failure: bool,
}

impl Checks {
    /// Whether all passed.
    #[must_use]
    pub fn all(self) -> bool {
        self.functions && self.cache_routing && self.distribution && self.burst && self.failure
    }
}

/// One level of the throughput step.
#[derive(Debug, Clone)]
pub struct LevelResult {
    /// Clients that sent at the same time.
    pub concurrency: usize,
    /// From the first request to the last answer.
    pub duration: Duration,
    /// What happened to each request.
    pub outcomes: Vec<Outcome>,
}

/// All of a run.
#[derive(Debug, Clone)]
pub struct RunResult {
    /// What the steps found.
    pub checks: Checks,
    /// The throughput step, the part that the figures are taken from.
    pub levels: Vec<LevelResult>,
    /// The burst.
    pub burst: Vec<Outcome>,
    /// Requests of all steps that failed, each with its step and reason.
    pub errors: Vec<String>,
}

/// Runs the steps in order against one gateway.
#[derive(Debug)]
pub struct Runner<'a> {
    plan: &'a Plan,
    client: Client,
    replicas: usize,
    progress: &'a ProgressBar,
    errors: Mutex<Vec<String>>,
}

impl<'a> Runner<'a> {
    /// Prepares a run; every request moves `progress` on by one.
    #[must_use]
    pub fn new(plan: &'a Plan, client: Client, replicas: usize, progress: &'a ProgressBar) -> Self {
        Self { plan, client, replicas, progress, errors: Mutex::default() }
    }

    /// Runs all steps; the last one kills a replica of `fleet`.
    pub async fn run(self, fleet: &mut Fleet) -> RunResult {
        let functions = self.functions().await;
        let cache_routing = self.cache_routing().await;
        let distribution = self.distribution().await;
        let levels = self.throughput().await;
        let (burst, burst_outcomes) = self.burst().await;
        let failure = self.failure(fleet).await;
        RunResult {
            checks: Checks { functions, cache_routing, distribution, burst, failure },
            levels,
            burst: burst_outcomes,
            errors: self.errors.into_inner(),
        }
    }

    async fn functions(&self) -> bool {
        self.progress.set_message("health and functions");
        let mut passed = true;
        for path in ["/health", "/v1/models"] {
            let answer = self.client.get(path).await;
            if let Err(error) = &answer {
                self.errors.lock().push(format!("functions, {path}: {error:#}"));
            }
            let expected = if path == "/health" { "" } else { "\"id\"" };
            passed &= answer.is_ok_and(|answer| answer.contains(expected));
            self.progress.inc(1);
        }
        let chat = ApiRequest::chat(&[Turn::user("Say something nice about the weather.")], 8);
        let completion = ApiRequest::completion("The weather today is", 8);
        for request in [completion, chat.clone(), chat.streamed()] {
            let outcome = self.send("functions", request).await;
            passed &= outcome.error.is_none() && outcome.prompt_tokens > 0;
        }
        passed
    }

    async fn cache_routing(&self) -> bool {
        self.progress.set_message("cache routing");
        let mut text = TextGenerator::new(self.plan.seed, CACHE_ROUTING_TEXT);
        let system = Turn::system(text.sentences(CACHE_ROUTING_TOKENS));
        let mut outcomes = Vec::new();
        for _ in 0..CACHE_ROUTING_REQUESTS {
            let turns = [system.clone(), Turn::user(text.sentences(16))];
            outcomes.push(self.send("cache routing", ApiRequest::chat(&turns, 4).streamed()).await);
        }
        answered(&outcomes) && self.share(&outcomes).contains(&outcomes.len())
    }

    async fn distribution(&self) -> bool {
        self.progress.set_message("distribution");
        let mut text = TextGenerator::new(self.plan.seed, DISTRIBUTION_TEXT);
        let requests = (0..DISTRIBUTION_REQUESTS)
            .map(|_| ApiRequest::chat(&[Turn::user(text.sentences(DISTRIBUTION_TOKENS))], 4).streamed());
        let outcomes = self.send_at_once("distribution", requests).await;
        let fair = |requests: &usize| (1..=DISTRIBUTION_REQUESTS / 2).contains(requests);
        answered(&outcomes) && self.share(&outcomes).iter().all(fair)
    }

    async fn throughput(&self) -> Vec<LevelResult> {
        let systems = system_prompts(self.plan);
        let mut results = Vec::new();
        for (number, level) in self.plan.levels.iter().enumerate() {
            self.progress.set_message(format!("throughput, {} at a time", level.concurrency));
            let conversations = Conversations::open(self.plan, number, level, &systems);
            results.push(self.level(level, conversations).await);
        }
        results
    }

    async fn level(&self, level: &Level, conversations: Conversations) -> LevelResult {
        let start = self.client.elapsed();
        let conversations = Mutex::new(conversations);
        let clients = (0..level.concurrency).map(|_| self.converse(&conversations));
        let outcomes = join_all(clients).await.concat();
        LevelResult { concurrency: level.concurrency, duration: self.client.elapsed() - start, outcomes }
    }

    /// One client: takes up conversations until none is left.
    async fn converse(&self, conversations: &Mutex<Conversations>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        loop {
            let Some(conversation) = conversations.lock().take() else { return outcomes };
            let request = ApiRequest::chat(conversation.turns(), self.plan.answer_tokens).streamed();
            let outcome = self.send("throughput", request).await;
            conversations.lock().put_back(conversation, &outcome);
            outcomes.push(outcome);
        }
    }

    async fn burst(&self) -> (bool, Vec<Outcome>) {
        self.progress.set_message("burst");
        let mut text = TextGenerator::new(self.plan.seed, BURST_TEXT);
        let hot = Turn::system(text.sentences(self.plan.system_tokens));
        let opening = [hot.clone(), Turn::user(text.sentences(16))];
        let warm = self.send("burst", ApiRequest::chat(&opening, 4).streamed()).await;
        let requests = (0..BURST_REQUESTS).map(|_| {
            let turns = [hot.clone(), Turn::user(text.sentences(self.plan.burst_tail_tokens))];
            ApiRequest::chat(&turns, 4).streamed()
        });
        let outcomes = self.send_at_once("burst", requests).await;
        let spread = self.share(&outcomes).iter().filter(|requests| **requests > 0).count() > 1;
        (warm.error.is_none() && answered(&outcomes) && spread, outcomes)
    }

    /// Clients send without a pause while one replica is killed; answers come in one piece, so that the gateway can
    /// repeat a request whose replica went away.
    async fn failure(&self, fleet: &mut Fleet) -> bool {
        self.progress.set_message("failure of a replica");
        let end = self.client.elapsed() + self.plan.failure_duration;
        let clients = (0..self.plan.failure_clients).map(|client| self.send_until(client, end));
        let kill = async {
            tokio::time::sleep(self.plan.failure_duration / 3).await;
            fleet.kill(VICTIM);
        };
        let (outcomes, ()) = tokio::join!(join_all(clients), kill);
        self.progress.inc(1);
        let outcomes = outcomes.concat();
        let survivors = outcomes.iter().filter(|outcome| outcome.replica != Some(VICTIM)).count();
        answered(&outcomes) && survivors > 0
    }

    async fn send_until(&self, client: usize, end: Duration) -> Vec<Outcome> {
        let mut text = TextGenerator::new(self.plan.seed, FAILURE_TEXT + client as u64);
        let system = Turn::system(text.sentences(CACHE_ROUTING_TOKENS));
        let mut outcomes = Vec::new();
        while self.client.elapsed() < end {
            let turns = [system.clone(), Turn::user(text.sentences(16))];
            let outcome = self.client.send(ApiRequest::chat(&turns, 4)).await;
            self.record("failure", &outcome);
            outcomes.push(outcome);
        }
        outcomes
    }

    async fn send_at_once(&self, step: &str, requests: impl Iterator<Item = ApiRequest>) -> Vec<Outcome> {
        join_all(requests.map(|request| self.send(step, request))).await
    }

    async fn send(&self, step: &str, request: ApiRequest) -> Outcome {
        let outcome = self.client.send(request).await;
        self.record(step, &outcome);
        self.progress.inc(1);
        outcome
    }

    fn record(&self, step: &str, outcome: &Outcome) {
        if let Some(error) = &outcome.error {
            self.errors.lock().push(format!("{step}: {error}"));
        }
    }

    /// Requests of each replica.
    fn share(&self, outcomes: &[Outcome]) -> Vec<usize> {
        let served = |replica| outcomes.iter().filter(|outcome| outcome.replica == Some(replica)).count();
        (0..self.replicas).map(served).collect()
    }
}

fn answered(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| outcome.error.is_none())
}
