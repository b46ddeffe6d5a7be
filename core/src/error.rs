//! Errors: few, stable, and the same in every language.

/// Everything that can go wrong in this crate.
///
/// An operation that returns an error has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration holds a value that cannot work; the message names the value and what would be right.
    #[error("invalid configuration: {0}")]
    InvalidConfig(String),

    /// The request cannot be read; the message names the place and the reason.
    #[error("invalid request: {0}")]
    InvalidRequest(String),

    /// The scheduler has no endpoints at all.
    #[error("no endpoints: add at least one before picking")]
    NoEndpoints,

    /// There are endpoints, but a filter left none of them.
    #[error("no eligible endpoint: filter `{filter}` removed the last of {considered}")]
    NoEligibleEndpoint {
        /// The filter that emptied the list.
        filter: &'static str,
        /// How many endpoints that filter was given.
        considered: usize,
    },

    /// No endpoint of this name is known.
    #[error("unknown endpoint: `{0}`")]
    UnknownEndpoint(String),

    /// This id was never handed out by a pick of this scheduler.
    #[error("unknown request: `{0}`")]
    UnknownRequest(u64),

    /// The metrics page cannot be read; the message names the line and the reason.
    #[error("invalid metrics: {0}")]
    InvalidMetrics(String),

    /// A KV event, or the payload that should hold some, cannot be used; the message says why.
    #[error("invalid KV event: {0}")]
    InvalidKvEvent(String),

    /// The snapshot is truncated, corrupted or of another format.
    #[error("invalid snapshot: {0}")]
    InvalidSnapshot(String),
}

impl Error {
    /// The stable name of this kind of error; every binding exposes the same string.
    ///
    /// # Example
    ///
    /// ```
    /// assert_eq!(p3sched::Error::NoEndpoints.code(), "NoEndpoints");
    /// ```
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidConfig(_) => "InvalidConfig",
            Self::InvalidRequest(_) => "InvalidRequest",
            Self::NoEndpoints => "NoEndpoints",
            Self::NoEligibleEndpoint { .. } => "NoEligibleEndpoint",
            Self::UnknownEndpoint(_) => "UnknownEndpoint",
            Self::UnknownRequest(_) => "UnknownRequest",
            Self::InvalidMetrics(_) => "InvalidMetrics",
            Self::InvalidKvEvent(_) => "InvalidKvEvent",
            Self::InvalidSnapshot(_) => "InvalidSnapshot",
        }
    }
}
