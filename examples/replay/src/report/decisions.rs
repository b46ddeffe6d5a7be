//! The decisions of a policy that cost its users most, with their reasons.

use p3sched::{EndpointExplanation, Explanation};

use super::format::{number, percent, seconds};
use super::{Block, Cell, Row, Table};
use crate::result::{Alternative, ExplainedDecision, Replayed, RequestResult};
use crate::trace::SECOND;

/// Requests looked at because they waited longest, and as many because less was cached than expected.
const CONSPICUOUS: usize = 20;
/// Requests looked at besides, evenly over the replay.
const TYPICAL: usize = 60;
/// Decisions that are shown.
const SHOWN: usize = 5;
/// Seconds less than which no user notices.
const NOTICEABLE: f64 = 0.001;

/// What the policy lost by a decision.
struct Loss<'a> {
    explained: &'a ExplainedDecision,
    explanation: &'a Explanation,
    /// Seconds to the first token where it was sent, as it would be without later requests.
    chosen: f64,
    best: &'a Alternative,
}

impl Loss<'_> {
    fn seconds(&self) -> f64 {
        self.chosen - self.best.seconds
    }
}

/// Numbers of the requests that are worth to be looked at.
pub(super) fn candidates(replayed: &Replayed) -> Vec<u64> {
    let requests = &replayed.requests;
    let mut numbers: Vec<usize> = most(requests.len(), |at| {
        requests.get(at).and_then(RequestResult::time_to_first_token).unwrap_or(0.0)
    });
    numbers.extend(most(requests.len(), |at| {
        requests
            .get(at)
            .map_or(0.0, |request| f64::from(request.predicted_tokens) - f64::from(request.cached_tokens))
    }));
    numbers.extend(typical(requests.len()));
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(|number| number as u64).collect()
}

fn most(count: usize, of: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| of(b).total_cmp(&of(a)));
    order.truncate(CONSPICUOUS);
    order
}

fn typical(count: usize) -> impl Iterator<Item = usize> {
    (0..count).step_by(count.div_ceil(TYPICAL).max(1))
}

/// The worst decisions, and what a typical one loses.
pub(super) fn blocks(replayed: &Replayed) -> Vec<Block> {
    let mut losses: Vec<Loss<'_>> = replayed.decisions.iter().filter_map(loss).collect();
    if losses.is_empty() {
        return Vec::new();
    }
    let typical: Vec<_> = typical(replayed.requests.len()).map(|number| number as u64).collect();
    let of_typical = losses.iter().filter(|loss| typical.contains(&loss.explained.request));
    let of_typical: Vec<_> = of_typical.map(Loss::seconds).collect();
    let mean = of_typical.iter().sum::<f64>() / of_typical.len().max(1) as f64;
    losses.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
    let looked_at = losses.len();
    losses.truncate(SHOWN);
    losses.retain(|loss| loss.seconds() >= NOTICEABLE);
    let text = format!(
        "{looked_at} decisions were looked at: those of the slowest requests, those where less was cached than \
         expected, and some evenly over the replay. Every replica was asked what it would have done with the request, \
         had nobody come after it. A typical decision's first token comes {} later than it could have.",
        seconds(mean)
    );
    let none =
        losses.is_empty().then(|| Block::text("None of them could have been better by a millisecond."));
    let shown = losses.iter().map(|loss| details(replayed, loss));
    std::iter::once(Block::text(text)).chain(none).chain(shown).collect()
}

fn loss(explained: &ExplainedDecision) -> Option<Loss<'_>> {
    let alternatives = || explained.alternatives.iter();
    let chosen = alternatives().find(|alternative| *alternative.endpoint == *explained.decision.endpoint)?;
    let best = alternatives().min_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
    let explanation = explained.decision.explanation()?;
    Some(Loss { explained, explanation, chosen: chosen.seconds, best })
}

fn details(replayed: &Replayed, loss: &Loss<'_>) -> Block {
    let request = replayed.requests.get(loss.explained.request as usize).copied().unwrap_or_default();
    let (chosen, best) = (&loss.explained.decision.endpoint, &loss.best.endpoint);
    let summary = format!(
        "{} lost: request {} went to {chosen}, first token after {}; {best} would have taken {}",
        seconds(loss.seconds()),
        loss.explained.request,
        seconds(loss.chosen),
        seconds(loss.best.seconds),
    );
    let outcome = match request.time_to_first_token() {
        Some(waited) => format!("With the requests that came after it, it took {}", seconds(waited)),
        None => "It got no answer".to_owned(),
    };
    let text = format!(
        "{} tokens, {} s after the start. {outcome}. {}",
        loss.explanation.prompt_tokens,
        number(request.arrival as f64 / SECOND),
        reason(loss),
    );
    Block::details(summary, vec![Block::text(text), Block::Table { table: table(loss) }])
}

/// Why the best replica was not chosen, in words.
fn reason(loss: &Loss<'_>) -> String {
    let endpoints = &loss.explanation.endpoints;
    let find = |name: &str| endpoints.iter().find(|endpoint| &*endpoint.endpoint == name);
    let (Some(chosen), Some(best)) = (find(&loss.explained.decision.endpoint), find(&loss.best.endpoint))
    else {
        return format!("{} was not among the candidates.", loss.best.endpoint);
    };
    if let Some(filter) = best.dropped_by {
        return format!("{} had been dropped by {filter}.", best.endpoint);
    }
    if chosen.scores.is_empty() {
        return "The policy has no scorers: its picker decided alone.".to_owned();
    }
    let ahead = |at: usize| -> Option<(f32, &'static str)> {
        let (ours, theirs) = (chosen.scores.get(at)?, best.scores.get(at)?);
        Some((ours.contribution - theirs.contribution, ours.scorer))
    };
    let most = (0..chosen.scores.len()).filter_map(ahead).max_by(|a, b| a.0.total_cmp(&b.0));
    match most.filter(|(points, _)| *points > 1e-6) {
        Some((points, scorer)) => {
            format!("What decided was {scorer}: {} points ahead.", number(f64::from(points)))
        }
        None => "Both were rated alike.".to_owned(),
    }
}

fn table(loss: &Loss<'_>) -> Table {
    let scorers = loss.explanation.endpoints.first().map(|endpoint| endpoint.scores.as_slice());
    let mut table = Table::new(["replica", "first token", "cached", "expected wait", "total"]);
    let heads = scorers.unwrap_or_default().iter().map(|score| format!("{} ×{}", score.scorer, score.weight));
    table.head.extend(heads);
    table.head.push("gate".to_owned());
    table.rows = loss.explanation.endpoints.iter().map(|endpoint| row(loss, endpoint)).collect();
    table
}

fn row(loss: &Loss<'_>, endpoint: &EndpointExplanation) -> Row {
    let mut alternatives = loss.explained.alternatives.iter();
    let alternative = alternatives.find(|alternative| *alternative.endpoint == *endpoint.endpoint);
    let is_chosen = endpoint.endpoint == loss.explained.decision.endpoint;
    let known = |value: Option<f32>, write: fn(f64) -> String| {
        value.map_or_else(|| "?".to_owned(), |value| write(f64::from(value)))
    };
    let prompt = f64::from(loss.explanation.prompt_tokens.max(1));
    let share = |tokens: u32| percent(f64::from(tokens) / prompt);
    let mut first_token = Cell::new(alternative.map_or_else(|| "–".to_owned(), |it| seconds(it.seconds)));
    first_token.is_best = loss.best.endpoint == *endpoint.endpoint;
    let name = Cell::new(&*endpoint.endpoint).note(if is_chosen { "chosen" } else { "" });
    let cached = Cell::new(alternative.map_or_else(|| "–".to_owned(), |it| share(it.cached_tokens)))
        .note(format!("expected {}", share(endpoint.matched_tokens)));
    let wait = Cell::new(known(endpoint.wait_seconds, seconds))
        .note(format!("{} in flight", endpoint.requests_in_flight));
    let total = Cell::new(endpoint.total.map_or_else(|| "–".to_owned(), |total| format!("{total:.3}")));
    let scores = endpoint.scores.iter().map(|score| {
        let raw =
            if score.missing { "unknown, mean of the others".to_owned() } else { known(score.raw, number) };
        Cell::new(format!("{:.3}", score.contribution)).note(format!("{raw} → {:.3}", score.score))
    });
    let count = loss.explanation.endpoints.first().map_or(0, |first| first.scores.len());
    let missing = count.saturating_sub(endpoint.scores.len());
    let gate = match endpoint.dropped_by {
        Some(filter) => Cell::new("dropped").note(filter),
        None => Cell::new("passes").note(
            endpoint
                .gate_margin_seconds
                .map_or_else(String::new, |margin| format!("{} left", seconds(f64::from(margin)))),
        ),
    };
    let cells = [name, first_token, cached, wait, total].into_iter().chain(scores);
    let cells = cells.chain(std::iter::repeat_n(Cell::new("–"), missing)).chain([gate]).collect();
    Row { cells, is_marked: is_chosen }
}
