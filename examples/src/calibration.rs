//! How long one idle engine takes for a prompt that it does not know, and for one that it does.

use crate::engines::MODEL;
use crate::workload::{ApiRequest, Client, Outcome, Plan, TextGenerator, Turn};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::net::SocketAddr;

/// Prompts that are measured; the median counts.
const PROMPTS: u64 = 3;

/// Streams of text from here on are used by nothing else.
const TEXT: u64 = 200;

/// Two measurements of a prompt like those of the workload, from which a simulated engine follows.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Calibration {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens that the engine found in its cache the second time.
    pub cached_tokens: u64,
    /// Time to the first token the first time, in milliseconds.
    pub cold_ms: f64,
    /// Time to the first token the second time, in milliseconds.
    pub cached_ms: f64,
    /// Time between two tokens of the second answer, in milliseconds.
    pub token_ms: f64,
}

/// Measures an engine that does nothing else.
///
/// # Errors
///
/// If it does not answer.
pub async fn calibrate(plan: &Plan, engine: SocketAddr) -> Result<Calibration> {
    let client = Client::new(&format!("http://{engine}"), MODEL, &[])?;
    // The first request of a process takes longer than all later ones.
    measure(&client, plan, TEXT).await?;
    let mut measured = Vec::new();
    for prompt in 1..=PROMPTS {
        measured.push(measure(&client, plan, TEXT + prompt).await?);
    }
    let median = |of: fn(&Calibration) -> f64| {
        let mut values: Vec<_> = measured.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let any = measured.last().context("at least one prompt is measured")?;
    Ok(Calibration {
        cold_ms: median(|one| one.cold_ms),
        cached_ms: median(|one| one.cached_ms),
        token_ms: median(|one| one.token_ms),
        ..*any
    })
}

/// Sends one prompt twice.
async fn measure(client: &Client, plan: &Plan, stream: u64) -> Result<Calibration> {
    let mut text = TextGenerator::new(plan.seed, stream);
    let turns =
        [Turn::system(text.sentences(plan.system_tokens)), Turn::user(text.sentences(plan.user_tokens))];
    let (cold, _) = send(client, plan, &turns).await?;
    let (cached, seconds) = send(client, plan, &turns).await?;
    let [cold_ms, cached_ms] = [&cold, &cached].map(first_token_ms);
    let further_tokens = plan.answer_tokens.saturating_sub(1).max(1) as f64;
    Ok(Calibration {
        prompt_tokens: cached.prompt_tokens,
        cached_tokens: cached.cached_tokens,
        cold_ms,
        cached_ms,
        token_ms: (seconds * 1e3 - cached_ms) / further_tokens,
    })
}

/// The outcome of one request and the seconds to its last token.
async fn send(client: &Client, plan: &Plan, turns: &[Turn]) -> Result<(Outcome, f64)> {
    let start = client.elapsed();
    let outcome = client.send(ApiRequest::chat(turns, plan.answer_tokens).streamed()).await;
    let seconds = (client.elapsed() - start).as_secs_f64();
    let error = outcome.error.as_deref().unwrap_or_default();
    ensure!(outcome.error.is_none(), "an engine cannot be measured: {error}");
    Ok((outcome, seconds))
}

fn first_token_ms(outcome: &Outcome) -> f64 {
    outcome.time_to_first_token.map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
