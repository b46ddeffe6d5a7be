//! Says in the log when the predictions for an endpoint's cache come to nothing, once for each endpoint.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use p3sched::stats::EndpointStats;
use tokio::time::sleep;

use crate::clock;
use crate::discovery::Pool;

const PERIOD: Duration = Duration::from_secs(10);

/// Looks at the endpoints of a pool for as long as the server runs.
pub(crate) async fn watch(pool: Arc<Pool>) {
    let mut distrusted = HashSet::new();
    loop {
        sleep(PERIOD).await;
        for endpoint in changes(&mut distrusted, pool.profiles().stats(clock::now()).endpoints) {
            match endpoint.predictions_distrusted {
                true => tracing::warn!(
                    endpoint = %endpoint.endpoint,
                    predicted_tokens = endpoint.predicted_cached_tokens,
                    actual_tokens = endpoint.actual_cached_tokens,
                    "the engine finds nothing in its cache where a hit is predicted, its entries were forgotten; hint: \
                     compare its block size with the configured one, and see whether its prefix caching is on"
                ),
                false => tracing::info!(endpoint = %endpoint.endpoint, "predictions come true again"),
            }
        }
    }
}

/// The endpoints whose predictions have lost or won trust since the last look.
fn changes(distrusted: &mut HashSet<Arc<str>>, endpoints: Vec<EndpointStats>) -> Vec<EndpointStats> {
    let has_changed = |endpoint: &EndpointStats| match endpoint.predictions_distrusted {
        true => distrusted.insert(Arc::clone(&endpoint.endpoint)),
        false => distrusted.remove(&endpoint.endpoint),
    };
    endpoints.into_iter().filter(has_changed).collect()
}

#[cfg(test)]
mod tests {
    use p3sched::{Endpoint, Outcome, Request, Scheduler, SchedulerConfig};

    use super::*;

    #[test]
    fn an_endpoint_is_named_once_when_its_predictions_fail_and_once_when_they_hold() {
        let scheduler = Scheduler::new(SchedulerConfig::default()).unwrap();
        scheduler.add_endpoint(Endpoint::new("10.0.0.1:8000")).unwrap();
        let request = Request::from_text("llama", "a prompt of some blocks ".repeat(200));
        let serve = |times: u64, share: u32| {
            for time in 0..times {
                let decision = scheduler.pick(&request, time).unwrap();
                let cached_tokens = Some(decision.matched_tokens * share);
                scheduler
                    .complete(decision.id, Outcome { cached_tokens, ..Outcome::success() }, time)
                    .unwrap();
            }
        };
        let mut distrusted = HashSet::new();
        let mut look = || changes(&mut distrusted, scheduler.stats(0).endpoints).len();
        serve(1, 1);
        assert_eq!(look(), 0);
        serve(10, 0);
        assert_eq!((look(), look()), (1, 0));
        serve(10, 1);
        assert_eq!((look(), look()), (1, 0));
    }
}
