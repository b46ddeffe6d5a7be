//! Demo, engine simulator and end-to-end harness of p3sched.
