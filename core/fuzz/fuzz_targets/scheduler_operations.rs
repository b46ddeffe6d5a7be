//! Any life of a scheduler: every decision makes sense, and when all requests have ended nothing is left of them.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use p3sched::kv_event::{BlocksRemoved, BlocksStored, EngineHash};
use p3sched::{
    Decision, Endpoint, Error, KvEvent, Outcome, Request, Scheduler, SchedulerConfig, ScrapeFailure, Stats,
    preset,
};

#[derive(Arbitrary, Debug)]
struct Life {
    preset: u8,
    fallbacks: u8,
    gate: bool,
    rate: bool,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Add {
        endpoint: u8,
        role: u8,
    },
    Remove(u8),
    Set(Vec<u8>),
    Page {
        endpoint: u8,
        waiting: f64,
        running: f64,
        usage: f64,
        blocks: u16,
        adapter: u8,
    },
    LoadHeader {
        endpoint: u8,
        waiting: f64,
        usage: f64,
    },
    ScrapeFails {
        endpoint: u8,
        is_unreachable: bool,
    },
    Pick {
        prompt: Prompt,
        explain: bool,
    },
    Explain(Prompt),
    FirstToken(u8),
    Complete {
        id: u8,
        success: bool,
        cached: Option<u8>,
        served_by: Option<u8>,
    },
    Store {
        endpoint: u8,
        parent: Option<u8>,
        name: u8,
        tokens: Vec<bool>,
    },
    RemoveBlocks {
        endpoint: u8,
        names: Vec<u8>,
    },
    Clear(u8),
    TakeSnapshot,
    Restore {
        anew: bool,
    },
    Pass(u16),
    /// To a time, in seconds, before or after the present one.
    Jump(u32),
}

#[derive(Arbitrary, Debug)]
struct Prompt {
    tokens: Vec<bool>,
    is_text: bool,
    session: Option<u8>,
    adapter: Option<u8>,
    subset: Option<Vec<u8>>,
    priority: i8,
}

fn name(endpoint: u8) -> String {
    format!("10.0.0.{}:8000", endpoint % 5)
}

fn endpoint(number: u8, role: u8) -> Endpoint {
    let mut endpoint = Endpoint::new(name(number));
    let role = ["", "prefill", "decode", "prefill-decode"][usize::from(role % 4)];
    if !role.is_empty() {
        endpoint.labels.insert("llm-d.ai/role".to_owned(), role.to_owned());
    }
    endpoint
}

fn request(prompt: &Prompt) -> Request {
    let mut request = if prompt.is_text {
        Request::from_text("m", prompt.tokens.iter().map(|&bit| u8::from(bit)).collect::<Vec<_>>())
    } else {
        Request::from_tokens("m", tokens(&prompt.tokens))
    };
    request.session = prompt.session.map(|session| (session % 4).to_string());
    request.adapter = prompt.adapter.map(|adapter| format!("adapter-{}", adapter % 3));
    request.subset =
        prompt.subset.as_ref().map(|subset| subset.iter().map(|&endpoint| name(endpoint)).collect());
    request.priority = prompt.priority.into();
    request
}

fn tokens(bits: &[bool]) -> Vec<u32> {
    bits.iter().map(|&bit| u32::from(bit)).collect()
}

fn config(life: &Life) -> SchedulerConfig {
    let presets: Vec<_> = preset::names().collect();
    let mut config = SchedulerConfig::preset(presets[usize::from(life.preset) % presets.len()]).unwrap();
    config.fallbacks = usize::from(life.fallbacks % 4);
    config.load_gate_seconds = life.gate.then_some(0.5);
    config.prefill_tokens_per_second = life.rate.then_some(100.0);
    config.block_size_tokens = 1;
    config.bytes_per_token = 1;
    config.default_capacity_tokens = 20;
    config.index_max_bytes = 1 << 16;
    config
}

fuzz_target!(|life: Life| {
    let mut scheduler = Scheduler::new(config(&life)).unwrap();
    let mut snapshot = scheduler.snapshot();
    let mut now = 0_u64;
    for operation in &life.operations {
        match operation {
            Operation::TakeSnapshot => snapshot = scheduler.snapshot(),
            Operation::Restore { anew } => {
                if *anew {
                    end(&scheduler, now);
                    scheduler = Scheduler::new(config(&life)).unwrap();
                }
                scheduler.restore(&snapshot).unwrap();
            }
            Operation::Pass(milliseconds) => now = now.saturating_add(u64::from(*milliseconds) * 1_000_000),
            Operation::Jump(seconds) => now = u64::from(*seconds) * 1_000_000_000,
            operation => apply(&scheduler, operation, now),
        }
        scheduler.validate().unwrap();
    }
    end(&scheduler, now);
});

/// Ends all requests: nothing of them may be left.
fn end(scheduler: &Scheduler, now: u64) {
    let picks = scheduler.stats(now).counters.picks;
    for id in 1..=picks {
        scheduler.complete(id, Outcome::success(), now).unwrap();
    }
    assert!(matches!(scheduler.complete(picks + 1, Outcome::success(), now), Err(Error::UnknownRequest(_))));
    let stats = scheduler.stats(now);
    assert_eq!(stats.requests_in_flight, 0);
    for endpoint in stats.endpoints {
        let left = (endpoint.requests_in_flight, endpoint.tokens_in_flight, endpoint.queued_tokens);
        assert_eq!(left, (0, 0, 0), "{}", endpoint.endpoint);
    }
    scheduler.validate().unwrap();
}

fn apply(scheduler: &Scheduler, operation: &Operation, now: u64) {
    match operation {
        Operation::Add { endpoint: number, role } => {
            scheduler.add_endpoint(endpoint(*number, *role)).unwrap()
        }
        Operation::Remove(endpoint) => drop(scheduler.remove_endpoint(&name(*endpoint))),
        Operation::Set(endpoints) => {
            scheduler.set_endpoints(endpoints.iter().map(|&number| endpoint(number, 0)).collect()).unwrap();
        }
        Operation::Page { endpoint, waiting, running, usage, blocks, adapter } => {
            let page = format!(
                "vllm:num_requests_waiting{{}} {waiting}\nvllm:num_requests_running{{}} {running}\n\
                 vllm:kv_cache_usage_perc{{}} {usage}\n\
                 vllm:cache_config_info{{block_size=\"1\",num_gpu_blocks=\"{blocks}\"}} 1\n\
                 vllm:lora_requests_info{{max_lora=\"2\",running_lora_adapters=\"adapter-{adapter}\"}} 1\n"
            );
            let _ = scheduler.ingest_metrics(&name(*endpoint), page.as_bytes(), now);
        }
        Operation::LoadHeader { endpoint, waiting, usage } => {
            let report = format!(
                "JSON {{\"named_metrics\":{{\"num_requests_waiting\":{waiting},\"kv_cache_usage_perc\":{usage}}}}}"
            );
            let _ = scheduler.ingest_load_header(&name(*endpoint), &report, now);
        }
        Operation::ScrapeFails { endpoint, is_unreachable } => {
            let failure = if *is_unreachable { ScrapeFailure::Unreachable } else { ScrapeFailure::Failed };
            let _ = scheduler.scrape_failed(&name(*endpoint), failure, now);
        }
        Operation::Pick { prompt, explain } => pick(scheduler, prompt, *explain, now),
        Operation::Explain(prompt) => {
            let before = scheduler.stats(now);
            if let Ok(decision) = scheduler.explain(&request(prompt), now) {
                check(scheduler, &decision, true, now);
                check_loads(&decision, &before);
            }
            assert_eq!(scheduler.stats(now), before);
        }
        Operation::FirstToken(id) => drop(scheduler.first_token((*id).into(), now)),
        Operation::Complete { id, success, cached, served_by } => {
            let cached_tokens = cached.map(u32::from);
            let served_by = served_by.map(name);
            let outcome = Outcome { success: *success, cached_tokens, served_by, ..Outcome::default() };
            let _ = scheduler.complete((*id).into(), outcome, now);
        }
        Operation::Store { endpoint, parent, name: first, tokens: bits } => {
            let event = BlocksStored {
                block_hashes: (0..bits.len() as u64).map(|n| EngineHash(u64::from(*first) + n)).collect(),
                parent: parent.map(|parent| EngineHash(parent.into())),
                token_ids: tokens(bits),
                block_size: 1,
                ..BlocksStored::default()
            };
            let _ = scheduler.apply_kv_event(&name(*endpoint), &KvEvent::Stored(event), now);
        }
        Operation::RemoveBlocks { endpoint, names } => {
            let block_hashes = names.iter().map(|&name| EngineHash(name.into())).collect();
            let event = BlocksRemoved { block_hashes, ..BlocksRemoved::default() };
            let _ = scheduler.apply_kv_event(&name(*endpoint), &KvEvent::Removed(event), now);
        }
        Operation::Clear(endpoint) => {
            drop(scheduler.apply_kv_event(&name(*endpoint), &KvEvent::Cleared, now))
        }
        Operation::TakeSnapshot | Operation::Restore { .. } | Operation::Pass(_) | Operation::Jump(_) => {
            unreachable!("belongs to the life")
        }
    }
}

/// A pick answers what `explain` answered before, and the picked request is in flight.
fn pick(scheduler: &Scheduler, prompt: &Prompt, explain: bool, now: u64) {
    let mut request = request(prompt);
    request.explain = explain;
    let explained = scheduler.explain(&request, now);
    let before = scheduler.stats(now).requests_in_flight;
    let Ok(decision) = scheduler.pick(&request, now) else {
        assert!(explained.is_err());
        return;
    };
    let explained = explained.unwrap();
    check(scheduler, &decision, explain, now);
    assert_eq!((&explained.endpoint, &explained.fallbacks), (&decision.endpoint, &decision.fallbacks));
    assert_eq!(explained.matched_tokens, decision.matched_tokens);
    assert_eq!(scheduler.stats(now).requests_in_flight, before + 1);
}

fn check(scheduler: &Scheduler, decision: &Decision, has_explanation: bool, now: u64) {
    let stats = scheduler.stats(now);
    let chosen = std::iter::once(&decision.endpoint).chain(&decision.fallbacks);
    let mut names: Vec<_> = chosen.collect();
    assert!(names.iter().all(|name| stats.endpoints.iter().any(|known| known.endpoint == **name)));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 1 + decision.fallbacks.len(), "an endpoint twice");
    assert!(decision.matched_tokens <= decision.prompt_tokens);
    assert_eq!(decision.explanation().is_some(), has_explanation);
    let Some(explanation) = decision.explanation() else { return };
    assert_eq!(explanation.endpoints.len(), stats.endpoints.len());
    for endpoint in &explanation.endpoints {
        assert!(endpoint.wait_seconds.is_none_or(|seconds| seconds >= 0.0), "{endpoint:?}");
        for score in &endpoint.scores {
            assert!((0.0..=1.0).contains(&score.score), "{endpoint:?}");
            assert!(score.contribution.is_finite(), "{endpoint:?}");
        }
    }
}

/// What the candidates were rated by is what the endpoints have.
fn check_loads(decision: &Decision, stats: &Stats) {
    for explained in &decision.explanation().unwrap().endpoints {
        let known = stats.endpoints.iter().find(|known| known.endpoint == explained.endpoint).unwrap();
        assert_eq!(explained.requests_in_flight, known.requests_in_flight);
        if let (Some(explained), Some(age)) = (explained.metrics_age_seconds, known.metrics_age_seconds) {
            assert!((f64::from(explained) - age).abs() <= age * 1e-6, "{explained} {age}");
        }
    }
}
