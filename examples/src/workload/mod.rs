//! The workload that deployments check themselves with: six steps, the same requests in every run.

mod client;
mod conversations;
mod plan;
mod steps;
mod text;

pub use client::{ApiRequest, Client, Outcome};
pub use plan::{Level, Plan};
pub use steps::{Checks, LevelResult, RunResult, Runner};
pub use text::{BYTES_PER_TOKEN, TextGenerator};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

impl Turn {
    /// The instructions that open a conversation.
    #[must_use]
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system", content: content.into() }
    }

    /// What the user says.
    #[must_use]
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user", content: content.into() }
    }

    /// What the model answered.
    #[must_use]
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant", content: content.into() }
    }
}
