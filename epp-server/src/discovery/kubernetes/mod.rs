//! The pods behind an `InferencePool`, or behind a label selector, as the Kubernetes API tells them.
//!
//! - `inference_pool`: which pods and ports make the pool.
//! - `pods`: the endpoints that they are.
//! - `policies`: objectives and model rewrites for the pool.
//! - `watching`: what all of them watch with. Errors and outages of the API keep what was last known.

pub mod inference_pool;
mod pods;
mod policies;
mod watching;

use std::future;
use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::watch;

use self::inference_pool::PoolGroup;
use self::pods::Published;
use super::Pool;
use crate::health::Condition;
use crate::policies::WrittenPolicies;

pub use self::watching::{chain, client_error};

/// The API takes a moment at most to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than every watch, which the API ends by itself and keeps awake with bookmarks.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// What is read from Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSource {
    /// Namespace of the pods, and of the pool.
    pub namespace: String,
    /// Which of its pods.
    pub pods: PodSource,
}

/// Which pods are endpoints, and of which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodSource {
    /// Those of an `InferencePool`.
    Pool {
        /// Its name.
        name: String,
        /// Its API group.
        group: PoolGroup,
    },
    /// Those with some labels.
    Selector {
        /// As Kubernetes writes label selectors: `app=vllm,tier in (a,b)`.
        labels: String,
        /// Ports of every pod, in the order of data-parallel ranks.
        ports: Vec<u16>,
    },
}

/// What selects the pods now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    selector: String,
    ports: Vec<u16>,
}

/// A client of the API that `KUBECONFIG`, `~/.kube/config` or the pod's service account names; it connects when it is used.
///
/// # Errors
///
/// None of the three is there, or what it names cannot be read.
pub async fn connect() -> Result<Client, String> {
    let mut config = Config::infer().await.map_err(|error| {
        format!(
            "cannot tell where the Kubernetes API is, {}; hint: run in a pod with a service account, or name a \
             configuration file in `KUBECONFIG`",
            chain(&error)
        )
    })?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // Every caller retries by itself, and says so.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| format!("cannot use the Kubernetes API: {}", chain(&error)))
}

/// Keeps the pool at what Kubernetes says until the task is dropped; `synced` holds once the pods are known.
///
/// The policies that were configured stay in force beside those of the cluster.
pub async fn follow(
    client: Client,
    source: KubernetesSource,
    pool: Arc<Pool>,
    configured: WrittenPolicies,
    synced: Condition,
) {
    let targets = watch::Sender::new(None);
    let published = Published::new(Arc::clone(&pool), synced);
    let follow_pods = pods::follow(client.clone(), source.namespace.clone(), targets.subscribe(), published);
    let follow_target = async {
        match source.pods {
            PodSource::Selector { labels, ports } => {
                targets.send_replace(Some(Target { selector: labels, ports }));
                future::pending::<()>().await;
            }
            PodSource::Pool { name, group } => {
                tokio::join!(
                    inference_pool::follow(&client, &source.namespace, &name, group, &targets),
                    policies::follow(&client, &source.namespace, &name, pool, configured),
                );
            }
        }
    };
    tokio::join!(follow_target, follow_pods);
}
