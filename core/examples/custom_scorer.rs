//! A scorer that is written outside of the crate: leave an endpoint alone when it has too many requests of ours.
//!
//! ```console
//! cargo run -p p3sched --example custom_scorer
//! ```
#![expect(clippy::disallowed_macros, reason = "an example prints")]

use p3sched::endpoint::Candidate;
use p3sched::profile::RequestView;
use p3sched::scorer::Scorer;
use p3sched::{Endpoint, Request, Scheduler, SchedulerConfig};

/// Score: 1 up to a number of own requests in flight, 0 beyond it.
#[derive(Debug)]
struct RoomScorer {
    max_requests: u32,
}

impl Scorer for RoomScorer {
    fn name(&self) -> &'static str {
        "room-scorer"
    }

    fn score(&self, _request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        for (place, candidate) in out.iter_mut().zip(candidates) {
            *place = f32::from(candidate.requests_in_flight < self.max_requests);
        }
    }

    fn raw(&self, _request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.requests_in_flight as f32
    }
}

fn main() -> Result<(), p3sched::Error> {
    let room = RoomScorer { max_requests: 2 };
    let scheduler = Scheduler::builder(SchedulerConfig::default()).scorer(Box::new(room), 10.0).build()?;
    scheduler.add_endpoint(Endpoint::new("10.0.0.1:8000"))?;
    scheduler.add_endpoint(Endpoint::new("10.0.0.2:8000"))?;

    // The prefix keeps the conversation where it is, until its endpoint has no room.
    let mut request = Request::from_text("llama", "You are a helpful assistant. ".repeat(50));
    request.explain = true;
    for now in 0..4 {
        let decision = scheduler.pick(&request, now)?;
        println!("{} with {} tokens cached", decision.endpoint, decision.matched_tokens);
        if let Some(explanation) = decision.explanation() {
            println!("{explanation}");
        }
    }
    Ok(())
}
