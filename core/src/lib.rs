//! p3sched
pub mod block_hash;
pub mod endpoint;
mod error;
pub mod openai;
pub mod prefix_index;
mod request;

pub use error::Error;
pub use request::{Prompt, Request};

/// Version of this crate, the same for every package of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
