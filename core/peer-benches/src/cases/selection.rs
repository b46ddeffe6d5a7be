//! A request from pick to end beside Dynamo's `SelectionCore`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use dynamo_kv_router::protocols::RoutingConstraints;
use dynamo_kv_router::services::selection::{
    PromptRequest, SelectAndReserveRequest, SelectionCacheConfig, SelectionCore, WorkerRequest,
};
use dynamo_kv_router::{KvRouterConfig, WorkerSelectionPolicy};
use p3sched::{Endpoint, Outcome, Request, Scheduler, SchedulerConfig};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::{Case, speed_up};
use crate::Settings;
use crate::measure::{repeat, take_turns};
use crate::report::{Figure, Goal};

const TOKENS: std::ops::RangeInclusive<u32> = 1..=256;

pub fn cases() -> Vec<Case> {
    [8, 64, 512]
        .map(|endpoints| {
            let name = format!("pick-and-complete/{endpoints}-endpoints");
            Case::new(name.clone(), move |settings| pick_and_complete(settings, name, endpoints))
        })
        .into()
}

fn pick_and_complete(settings: &Settings, name: String, endpoints: u32) -> Result<Vec<Figure>> {
    let scheduler = Scheduler::new(SchedulerConfig::default())?;
    for endpoint in 0..endpoints {
        scheduler.add_endpoint(Endpoint::new(format!("worker-{endpoint}:8000").as_str()))?;
    }
    let request = Request::from_tokens("default", TOKENS.collect::<Vec<_>>());
    let mut ours = repeat(|| {
        if let Ok(decision) = scheduler.pick(&request, 0) {
            scheduler.complete(decision.id, Outcome::success(), 0).ok();
        }
    });
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let core = selection_core(&runtime, u64::from(endpoints))?;
    let mut number = 0;
    let mut theirs = |count| select_and_free(&runtime, &core, &mut number, count);
    let [ours, theirs] = take_turns(settings, [&mut ours, &mut theirs]);
    Ok(vec![speed_up(name, Goal::AtLeast(8.0), &ours, "SelectionCore", &theirs)])
}

/// As the peer's own benchmark sets it up.
fn selection_core(runtime: &Runtime, workers: u64) -> Result<SelectionCore> {
    let config = KvRouterConfig { use_kv_events: true, router_queue_threshold: None, ..Default::default() };
    let core = SelectionCore::try_new_local(
        config,
        1,
        CancellationToken::new(),
        SelectionCacheConfig::default(),
        Arc::new(|config, role, _| {
            WorkerSelectionPolicy::reference(config.clone(), role.default_selector_label())
        }),
    )
    .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    for worker_id in 1..=workers {
        let worker = WorkerRequest {
            worker_id,
            endpoint: Some(format!("http://worker-{worker_id}:8000")),
            kv_events_endpoint: Some(format!("tcp://127.0.0.1:{}", 40_000 + worker_id)),
            block_size: Some(16),
            max_num_batched_tokens: Some(8192),
            ..WorkerRequest::default()
        };
        runtime.block_on(core.upsert_worker(worker)).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    Ok(core)
}

/// The time of selecting and freeing alone; the requests are made before.
fn select_and_free(runtime: &Runtime, core: &SelectionCore, number: &mut u64, count: u32) -> Duration {
    let requests: Vec<_> = (0..count)
        .map(|_| {
            *number += 1;
            let id = number.to_string();
            (id.clone(), reserve_request(id))
        })
        .collect();
    let start = Instant::now();
    for (id, request) in requests {
        runtime.block_on(async {
            core.select_and_reserve(request).await.ok();
            core.free_reservation(&id).await.ok();
        });
    }
    start.elapsed()
}

fn reserve_request(selection_id: String) -> SelectAndReserveRequest {
    SelectAndReserveRequest {
        model_name: "default".to_owned(),
        routing_group: "default".to_owned(),
        selection_id: Some(selection_id),
        prompt: PromptRequest { token_ids: Some(TOKENS.collect()), ..PromptRequest::default() },
        router_config_override: None,
        expected_output_tokens: None,
        priority_jump: None,
        strict_priority: None,
        session_id: None,
        session_context: None,
        affinity_target: None,
        pinned_worker: None,
        allowed_worker_ids: None,
        routing_constraints: RoutingConstraints::default(),
    }
}
