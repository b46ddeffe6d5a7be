//! What can go wrong before a replay starts.

use std::path::Path;

/// Why there is nothing to replay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A trace cannot be read.
    #[error("{file}line {line}: {reason}")]
    Trace {
        /// The file, with `: `; empty if the text came from elsewhere.
        file: String,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read `{file}`: {reason}")]
    File {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A report cannot be made.
    #[error("{0}")]
    Report(String),
    /// A policy, a workload or an option cannot work.
    #[error("{0}")]
    InvalidOption(String),
    /// The scheduler refuses its configuration.
    #[error(transparent)]
    Scheduler(#[from] p3sched::Error),
}

impl Error {
    pub(crate) fn trace(line: usize, reason: String) -> Self {
        Self::Trace { file: String::new(), line, reason }
    }

    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::File { file: path.display().to_string(), reason: error.to_string() }
    }

    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Trace { line, reason, .. } => {
                Self::Trace { file: format!("{}, ", path.display()), line, reason }
            }
            other => other,
        }
    }

    /// An error for a name that is none of the known ones; proposes the nearest of them.
    pub(crate) fn unknown(kind: &str, name: &str, known: &[&str]) -> Self {
        /// From this similarity in [0, 1] on, the known name is likely to be what was meant.
        const LIKELY: f64 = 0.8;
        let rated = known.iter().map(|known| (strsim::jaro_winkler(known, name), known));
        let nearest =
            rated.max_by(|(a, _), (b, _)| a.total_cmp(b)).filter(|(similarity, _)| *similarity >= LIKELY);
        let hint = nearest.map_or_else(String::new, |(_, known)| format!(" (did you mean `{known}`?)"));
        Self::InvalidOption(format!("unknown {kind} `{name}`{hint}, expected one of: {}", known.join(", ")))
    }
}
