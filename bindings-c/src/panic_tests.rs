//! A panic anywhere below a function of the header ends as a status.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{mem, ptr};

use p3sched::endpoint::Candidate;
use p3sched::profile::RequestView;
use p3sched::scorer::Scorer;
use p3sched::{Endpoint, SchedulerConfig};

use crate::ffi::into_handle;
use crate::*;

static IS_DEFECTIVE: AtomicBool = AtomicBool::new(true);

/// Panics in the middle of a pick, where the scheduler's lock is held.
#[derive(Debug)]
struct DefectiveScorer;

impl Scorer for DefectiveScorer {
    fn name(&self) -> &'static str {
        "defective-scorer"
    }

    fn score(&self, _: &RequestView, _: &[Candidate], out: &mut [f32]) {
        assert!(!IS_DEFECTIVE.load(Ordering::Relaxed), "the scorer is defective");
        out.fill(1.0);
    }

    fn raw(&self, _: &RequestView, _: &Candidate) -> f32 {
        1.0
    }
}

#[test]
fn a_panic_becomes_a_status_and_the_scheduler_goes_on() {
    let builder = p3sched::Scheduler::builder(SchedulerConfig::default());
    let core = builder.scorer(Box::new(DefectiveScorer), 1.0).build().unwrap();
    for name in ["10.0.0.1:8000", "10.0.0.2:8000"] {
        core.add_endpoint(Endpoint::new(name)).unwrap();
    }
    let scheduler = into_handle(Scheduler::new(core));
    let mut decision = ptr::null_mut();
    // SAFETY: all zeros is a request, as the header says; handles are live until they are freed, once each.
    unsafe {
        let request: PickRequest = mem::zeroed();
        let pick: unsafe extern "C" fn(_, _, _) -> _ = p3sched_scheduler_pick;
        assert_eq!(pick(scheduler, &raw const request, &raw mut decision), Status::Panic);
        assert!(decision.is_null());
        let message = CStr::from_ptr(p3sched_last_error_message());
        assert_eq!(message, c"defect in p3sched: the scorer is defective");

        IS_DEFECTIVE.store(false, Ordering::Relaxed);
        assert_eq!(pick(scheduler, &raw const request, &raw mut decision), Status::Ok);
        assert_eq!(
            p3sched_scheduler_complete(scheduler, p3sched_decision_id(decision), ptr::null()),
            Status::Ok
        );
        p3sched_decision_free(decision);
        p3sched_scheduler_free(scheduler);
    }
}
