//! The manifests that ship are what Kubernetes reads, to the last field.

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use epp_server::flags::CommandLine;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

fn documents(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path);
    let text = fs::read_to_string(path).unwrap();
    serde_norway::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// Reads a document; a field that is not known would be missing when it is written again.
fn read<K: DeserializeOwned + Serialize + Debug>(document: &Value) -> K {
    let object: K = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(&object).unwrap(), *document);
    object
}

#[test]
fn every_field_is_one_of_kubernetes() {
    let files = ["rbac.yaml", "metrics-auth.yaml", "deployment.yaml", "../monitoring/network-policy.yaml"];
    let mut kinds = Vec::new();
    for document in files.iter().flat_map(|file| documents(&format!("kubernetes/{file}"))) {
        let kind = document["kind"].as_str().unwrap().to_owned();
        match &*kind {
            "ServiceAccount" => drop(read::<ServiceAccount>(&document)),
            "Role" => drop(read::<Role>(&document)),
            "RoleBinding" => drop(read::<RoleBinding>(&document)),
            "ClusterRole" => drop(read::<ClusterRole>(&document)),
            "ClusterRoleBinding" => drop(read::<ClusterRoleBinding>(&document)),
            "Deployment" => drop(read::<Deployment>(&document)),
            "Service" => drop(read::<Service>(&document)),
            "NetworkPolicy" => drop(read::<NetworkPolicy>(&document)),
            other => panic!("kind: {other}"),
        }
        kinds.push(kind);
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

#[test]
fn the_deployment_starts_the_server_and_runs_it_without_rights() {
    let documents = documents("kubernetes/deployment.yaml");
    let pod = read::<Deployment>(&documents[0]).spec.unwrap().template.spec.unwrap();
    let container = &pod.containers[0];
    let arguments = container.args.iter().flatten().map(String::as_str);
    let flags = CommandLine::read(["epp-server"].into_iter().chain(arguments).map(Into::into)).unwrap().flags;
    let ports: Vec<_> = container.ports.iter().flatten().map(|port| port.container_port).collect();
    let served = [flags.grpc_port, flags.grpc_health_port, flags.metrics_port].map(i32::from);
    assert_eq!(ports, served);
    let probes = [&container.readiness_probe, &container.liveness_probe]
        .map(|probe| probe.as_ref().unwrap().grpc.as_ref().unwrap());
    assert!(probes.iter().all(|probe| probe.port == i32::from(flags.grpc_health_port)));
    let security = container.security_context.as_ref().unwrap();
    assert_eq!(
        (security.read_only_root_filesystem, security.allow_privilege_escalation),
        (Some(true), Some(false))
    );
    assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
    let grace = u64::try_from(pod.termination_grace_period_seconds.unwrap()).unwrap();
    assert!(grace > 15 + flags.drain_timeout.as_secs());
}
