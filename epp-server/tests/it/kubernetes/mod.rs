//! The program in a cluster, started as in production: with a `KUBECONFIG` and its flags.

mod api_server;
mod cluster;
mod discovery;
mod leader_election;
mod manifests;
mod policies;
mod review;
