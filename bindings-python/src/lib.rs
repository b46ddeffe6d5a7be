//! p3sched for Python.

/// Version of the package, the same for every package of the workspace.
pub const VERSION: &str = p3sched::VERSION;
