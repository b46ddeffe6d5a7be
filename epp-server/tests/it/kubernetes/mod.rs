//! The program in a cluster, started as in production: with a `KUBECONFIG` and its flags.

mod api_server;
mod cluster;
mod discovery;
