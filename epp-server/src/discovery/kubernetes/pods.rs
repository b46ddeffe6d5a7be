//! Pods as endpoints: those that are ready and not about to end, one endpoint per port.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt};
use p3sched::Endpoint;
use tokio::sync::watch;

use super::Target;
use super::watching::{NEEDED, Watch};
use crate::discovery::Pool;
use crate::health::Condition;

/// Label of an endpoint with the name of its pod.
pub(crate) const POD_LABEL: &str = "pod";
/// Label of an endpoint with the namespace of its pod.
pub(crate) const NAMESPACE_LABEL: &str = "namespace";
/// Label of an endpoint with the place of its port among those of the pool, if there are several: its data-parallel rank.
pub(crate) const RANK_LABEL: &str = "rank";

/// Annotations with the ports of a pod that serve, of which the first one that is there counts.
const ACTIVE_PORTS: [&str; 2] = ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"];

/// An endpoint and the processes that make it one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    endpoint: Endpoint,
    processes: Processes,
}

/// Which processes serve in a pod: others have another cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Processes {
    pod_uid: Option<String>,
    /// Id and number of restarts of every container.
    containers: Vec<(Option<String>, i32)>,
}

/// What was last found, and the pool that knows it.
pub(super) struct Published {
    pool: Arc<Pool>,
    synced: Condition,
    found: Vec<Found>,
}

impl Published {
    pub(super) fn new(pool: Arc<Pool>, synced: Condition) -> Self {
        Self { pool, synced, found: Vec::new() }
    }

    fn publish(&mut self, found: Vec<Found>) {
        if found == self.found {
            return;
        }
        let before: HashMap<&str, &Processes> =
            self.found.iter().map(|old| (&*old.endpoint.name, &old.processes)).collect();
        let is_restarted =
            |new: &&Found| before.get(&*new.endpoint.name).is_some_and(|old| **old != new.processes);
        let restarted: Vec<&str> = found.iter().filter(is_restarted).map(|new| &*new.endpoint.name).collect();
        let endpoints = found.iter().map(|new| new.endpoint.clone()).collect();
        match self.pool.set_restarted(endpoints, &restarted) {
            Ok(()) => self.found = found,
            Err(error) => tracing::warn!(%error, "endpoints refused, the last ones stay in force"),
        }
    }
}

/// Publishes the pods of a target, and follows both.
pub(super) async fn follow(
    client: Client,
    namespace: String,
    mut targets: watch::Receiver<Option<Target>>,
    mut published: Published,
) {
    loop {
        let target = targets.borrow_and_update().clone();
        let changed = match target {
            None => {
                published.synced.set(false);
                published.publish(Vec::new());
                targets.changed().await
            }
            Some(target) => tokio::select! {
                changed = targets.changed() => changed,
                () = follow_target(&client, &namespace, &target, &mut published) => return,
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn follow_target(client: &Client, namespace: &str, target: &Target, published: &mut Published) {
    let pods = Watch {
        what: "Pod",
        group: "",
        api: Api::<Pod>::namespaced(client.clone(), namespace),
        kind: (),
        config: Config::default().labels(&target.selector),
        trim: |pod| pod.spec = None,
        longest_delay: NEEDED,
    };
    let show = |pods: &[Arc<Pod>]| {
        published.publish(endpoints(pods, &target.ports));
        published.synced.set(true);
    };
    pods.follow(show).await;
}

/// The endpoints of pods, by name of the pod and then by port.
fn endpoints(pods: &[Arc<Pod>], ports: &[u16]) -> Vec<Found> {
    let mut ready: Vec<&Pod> = pods.iter().map(|pod| &**pod).filter(|pod| is_ready(pod)).collect();
    ready.sort_by_key(|pod| pod.metadata.name.as_deref());
    ready.into_iter().flat_map(|pod| endpoints_of(pod, ports)).collect()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    pod.metadata.deletion_timestamp.is_none() && ready.any(|condition| condition.status == "True")
}

fn endpoints_of(pod: &Pod, ports: &[u16]) -> Vec<Found> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let Some(Ok(address)) = address.map(str::parse::<IpAddr>) else { return Vec::new() };
    let active = active_ports(pod);
    let processes = processes(pod);
    let is_active = |port: &u16| active.as_ref().is_none_or(|active| active.contains(port));
    let endpoint = |(rank, &port): (usize, &u16)| {
        let mut endpoint = Endpoint::new(SocketAddr::new(address, port).to_string());
        endpoint.labels = pod.labels().clone();
        endpoint.labels.insert(POD_LABEL.to_owned(), pod.name_any());
        endpoint.labels.insert(NAMESPACE_LABEL.to_owned(), pod.namespace().unwrap_or_default());
        if ports.len() > 1 {
            endpoint.labels.insert(RANK_LABEL.to_owned(), rank.to_string());
        }
        Found { endpoint, processes: processes.clone() }
    };
    ports.iter().enumerate().filter(|(_, port)| is_active(port)).map(endpoint).collect()
}

/// The ports that a pod says it serves; `None` for all.
fn active_ports(pod: &Pod) -> Option<Vec<u16>> {
    let written = ACTIVE_PORTS.iter().find_map(|name| pod.annotations().get(*name))?;
    Some(written.split(',').filter_map(|port| port.trim().parse().ok()).collect())
}

fn processes(pod: &Pod) -> Processes {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let container = |status: &ContainerStatus| (status.container_id.clone(), status.restart_count);
    Processes { pod_uid: pod.metadata.uid.clone(), containers: statuses.map(container).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": "vllm-0", "namespace": "models", "uid": "u1", "labels": {"llm-d.ai/role": "decode"}},
            "status": {
                "podIP": "10.0.0.7",
                "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "vllm", "image": "vllm", "imageID": "", "ready": true, "restartCount": 0, "containerID": "c1"}],
            },
        });
        change(&mut pod);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn names(pods: &[Arc<Pod>], ports: &[u16]) -> Vec<String> {
        endpoints(pods, ports).iter().map(|found| found.endpoint.name.to_string()).collect()
    }

    #[test]
    fn only_pods_that_serve_are_endpoints() {
        assert_eq!(names(&[pod(|_| {})], &[8000]), ["10.0.0.7:8000"]);
        let out: [fn(&mut Value); 5] = [
            |pod| pod["status"]["conditions"][1]["status"] = json!("False"),
            |pod| pod["status"]["conditions"] = json!([]),
            |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            |pod| pod["status"]["podIP"] = Value::Null,
            |pod| pod["status"] = Value::Null,
        ];
        for change in out {
            assert_eq!(names(&[pod(change)], &[8000]), [""; 0]);
        }
    }

    #[test]
    fn every_port_is_an_endpoint_with_its_rank() {
        let second = pod(|pod| {
            pod["metadata"]["name"] = json!("vllm-1");
            pod["status"]["podIP"] = json!("fd00::8");
        });
        let found = endpoints(&[second, pod(|_| {})], &[8000, 8001]);
        let shown: Vec<_> = found
            .iter()
            .map(|found| {
                (
                    &*found.endpoint.name,
                    &*found.endpoint.labels[RANK_LABEL],
                    &*found.endpoint.labels[POD_LABEL],
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.7:8000", "0", "vllm-0"),
                ("10.0.0.7:8001", "1", "vllm-0"),
                ("[fd00::8]:8000", "0", "vllm-1"),
                ("[fd00::8]:8001", "1", "vllm-1"),
            ]
        );
        assert_eq!(found[0].endpoint.labels["llm-d.ai/role"], "decode");
        assert_eq!(found[0].endpoint.labels[NAMESPACE_LABEL], "models");
        assert!(!endpoints(&[pod(|_| {})], &[8000])[0].endpoint.labels.contains_key(RANK_LABEL));
    }

    #[test]
    fn an_annotation_limits_the_ports() {
        for (annotations, ports) in [
            (json!({"llm-d.ai/active-ports": "8001, 9000,x"}), &["10.0.0.7:8001"][..]),
            (json!({"inference.networking.k8s.io/active-ports": "8000"}), &["10.0.0.7:8000"]),
            (json!({"llm-d.ai/active-ports": "", "inference.networking.k8s.io/active-ports": "8000"}), &[]),
            (json!({"other": "8000"}), &["10.0.0.7:8000", "10.0.0.7:8001"]),
        ] {
            let pod = pod(|pod| pod["metadata"]["annotations"] = annotations);
            assert_eq!(names(&[pod], &[8000, 8001]), ports);
        }
    }

    #[test]
    fn another_pod_and_a_restarted_container_are_other_processes() {
        let first = endpoints(&[pod(|_| {})], &[8000]).remove(0).processes;
        let relabelled = pod(|pod| pod["metadata"]["labels"] = json!({"app": "vllm"}));
        assert_eq!(endpoints(&[relabelled], &[8000])[0].processes, first);
        let changed: [fn(&mut Value); 3] = [
            |pod| pod["metadata"]["uid"] = json!("u2"),
            |pod| pod["status"]["containerStatuses"][0]["restartCount"] = json!(1),
            |pod| pod["status"]["containerStatuses"][0]["containerID"] = json!("c2"),
        ];
        for change in changed {
            assert_ne!(endpoints(&[pod(change)], &[8000])[0].processes, first);
        }
    }
}
