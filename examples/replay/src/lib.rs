//! Replays traffic against routing policies on simulated engines, in simulated time.
//!
//! 1. [`trace`]: requests with their times, recorded or made up by a [`workload`].
//! 2. [`engine`]: inference engines as far as routing can see them, with the timing of real accelerators.
//! 3. [`policy`]: every preset of [`p3sched`] and the formulas of its peers, each a real [`p3sched::Scheduler`].
//! 4. [`simulation`]: the event loop.
//! 5. [`result`]: what happened to every request, and what follows from it; [`comparison`]: many replays side by side;
//!    [`figure`]: values with the goals that they have to reach; [`goals`]: what the scheduler's default has to reach;
//!    [`report`]: a page for people.
//! 6. [`what_if`]: how many replicas are needed; [`tune`]: which weights serve a goal best; [`sweep`]: whether the
//!    scheduler's default numbers are good ones.
//!
//! [`validation`] compares the simulated engine with a real one.
//!
//! The same trace, options and seed give the same results, to the nanosecond.

pub mod comparison;
pub mod cost;
pub mod engine;
mod error;
pub mod figure;
pub mod goals;
pub mod policy;
pub mod report;
pub mod result;
pub mod simulation;
pub mod sweep;
pub mod trace;
pub mod tune;
pub mod validation;
pub mod what_if;
pub mod workload;

pub use error::Error;
