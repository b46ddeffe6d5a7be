//! p3sched for C.

/// Version of the package, the same for every package of the workspace.
pub const VERSION: &str = p3sched::VERSION;
