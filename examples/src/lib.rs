//! Demo, engine simulator and end-to-end harness of p3sched.
//!
//! In the order in which a run uses them:
//!
//! 1. [`engine_simulator`]: an inference engine without a GPU, with vLLM's API, metrics and prefix cache;
//! 2. [`process`]: child processes with a log file, a readiness check and a certain end;
//! 3. [`engines`]: the replicas of a run, simulated or real vLLM on CPU;
//! 4. [`envoy`]: the real proxy, started from the templates in `examples/envoy`;
//! 5. [`picker`]: the `epp-server` binary beside the running executable;
//! 6. [`workload`]: deterministic prompts, a measuring client and the six steps of the check;
//! 7. [`report`]: the summary, the terminal table and the HTML page.
//!
//! [`calibration`] measures one engine alone, so that it can be simulated. [`benchmark`] is what the programs share that measure the cost of picking.

pub mod benchmark;
pub mod calibration;
pub mod engine_simulator;
pub mod engines;
pub mod envoy;
pub mod picker;
pub mod process;
pub mod report;
pub mod workload;
