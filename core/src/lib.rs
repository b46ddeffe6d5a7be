//! Picks the replica that should serve an LLM request: the one that already holds the longest prefix of the prompt
//! in its KV cache, unless its queue or its memory makes another one faster.
//!
//! # The pipeline
//!
//! ```text
//!          1 request          2 block hashes       3 candidates          4 scores              5 decision
//! body ───► Request ─────────► BlockHashes ───────► Candidates ─────────► filter · score · pick ──► Decision
//!                                  │                    ▲                                            │
//!                                  └──► PrefixIndex ────┤                                            │ booked
//!                                          ▲            │                                            ▼
//!                own picks (approximate) ──┘            └── EndpointMetrics ◄─ ingest_metrics     in-flight ledger
//!                                                                              (engine /metrics)   first_token · complete
//! ```
//!
//! 1. [`Request`]: model, adapter, cache salt, session and prompt, read from a body by [`openai`] in one scan.
//! 2. [`block_hash`]: the prompt as chained hashes of fixed-size blocks; [`prefix_index`]: who holds which prefix.
//!    Engines that send [`kv_event`]s say it themselves, else own picks tell.
//! 3. [`endpoint`]: what engines report ([`EndpointMetrics`]) and what is in flight, as one row per [`Endpoint`].
//! 4. [`filter`], [`scorer`] and [`picker`], put together by a [`profile`].
//! 5. [`Decision`], with its [`Explanation`] when asked for. [`usage`] reads from the answer what really was cached.
//!
//! [`gateway`] has the names that proxies and endpoint pickers agree on. [`Scheduler`] is the pipeline, [`SchedulerConfig`] and its [`preset`]s set it up, [`Error`] says what went wrong.
//!
//! # Example
//!
//! ```
//! use p3sched::{Endpoint, Outcome, Request, Scheduler, SchedulerConfig};
//!
//! # fn main() -> Result<(), p3sched::Error> {
//! let scheduler = Scheduler::new(SchedulerConfig::default())?;
//! for name in ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"] {
//!     scheduler.add_endpoint(Endpoint::new(name))?;
//! }
//! let prompt = "You are a helpful assistant who answers in verse. ".repeat(20);
//! let first = scheduler.pick(&Request::from_text("llama", prompt.clone() + "What is rain?"), 0)?;
//! let second = scheduler.pick(&Request::from_text("llama", prompt + "What is snow?"), 1_000)?;
//! assert_eq!(first.endpoint, second.endpoint);
//! assert!(second.matched_tokens > 200);
//! scheduler.complete(first.id, Outcome::success(), 1_000_000)?;
//! # Ok(())
//! # }
//! ```
//!
//! # This crate does no I/O
//!
//! It has no sockets, no clock, no threads and no async runtime. Time is an argument: nanoseconds from any fixed origin.
//! So a simulator, a test, a proxy and four languages drive the same code and get the same answers.
//!
//! # What it is not for
//!
//! It does not forward requests and does not tokenise prompts. For spreading requests over replicas that share nothing
//! worth finding again, a plain least-requests balancer (for example tower's `balance`) is simpler.

pub mod block_hash;
pub mod config;
pub mod decision;
pub mod endpoint;
mod error;
pub mod filter;
pub mod gateway;
pub mod kv_event;
pub mod openai;
pub mod picker;
pub mod prefix_index;
pub mod preset;
pub mod profile;
mod request;
pub mod scheduler;
pub mod scorer;
mod snapshot;
pub mod stats;
pub mod usage;
pub mod wrong_value;

pub use config::SchedulerConfig;
pub use decision::{Decision, EndpointExplanation, Explanation, ScoreExplanation};
pub use endpoint::{Endpoint, EndpointMetrics, ScrapeFailure};
pub use error::Error;
pub use kv_event::{KvBatchOutcome, KvEvent, KvEventBatch};
pub use request::{Prompt, Request};
pub use scheduler::{Outcome, Scheduler, SchedulerBuilder};
pub use stats::Stats;

/// Version of this crate, the same for every package of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The code in the README is compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
