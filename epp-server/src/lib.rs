//! gRPC endpoint picker for Envoy, Istio and KServe: everything of p3sched with a socket, a clock or a task.
//!
//! A gateway asks [`ext_proc`] about each request; the scheduler of the core picks among the endpoints that
//! [`discovery`] found, with the load that [`scrape`] and the caches that [`kv_events`] read from them; [`state_file`]
//! keeps over restarts what it has learned. [`health`],
//! [`admin`] and [`traces`] say how it goes.

pub mod admin;
mod arguments;
pub mod check_config;
pub mod clock;
mod cluster_authority;
pub mod config;
mod config_source;
pub mod discovery;
mod distrust;
mod endpoint_picker_config;
pub mod ext_proc;
pub mod flags;
mod folder_watch;
pub mod health;
pub mod kv_events;
pub mod label_selector;
pub mod leader_election;
mod metric_names;
pub mod policies;
pub mod pool_config;
pub mod profiles;
pub mod scrape;
mod served_pool;
pub mod server;
pub mod state_file;
pub mod tls;
pub mod traces;
mod workers;
