//! Which pods and ports an `InferencePool` says its replicas are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use clap::ValueEnum;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Target;
use super::watching::{Failure, NEEDED, Retries, Watch};

const KIND: &str = "InferencePool";

/// API group of an `InferencePool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolGroup {
    /// `inference.networking.k8s.io`, version v1.
    #[value(name = "inference.networking.k8s.io")]
    Stable,
    /// `inference.networking.x-k8s.io`, version v1alpha2.
    #[value(name = "inference.networking.x-k8s.io")]
    Experimental,
}

impl PoolGroup {
    /// The group without its version.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "inference.networking.k8s.io",
            Self::Experimental => "inference.networking.x-k8s.io",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Stable => Self::Experimental,
            Self::Experimental => Self::Stable,
        }
    }

    fn resource(self) -> ApiResource {
        let version = match self {
            Self::Stable => "v1",
            Self::Experimental => "v1alpha2",
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(self.name(), version, KIND))
    }

    fn target(self, object: &DynamicObject) -> Result<Target, String> {
        match self {
            Self::Stable => spec::<StableSpec>(object)?.try_into(),
            Self::Experimental => spec::<ExperimentalSpec>(object)?.try_into(),
        }
    }
}

impl fmt::Display for PoolGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StableSpec {
    selector: LabelSelector,
    target_ports: Vec<TargetPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LabelSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct TargetPort {
    number: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExperimentalSpec {
    selector: BTreeMap<String, String>,
    target_port_number: u16,
}

impl TryFrom<StableSpec> for Target {
    type Error = String;

    fn try_from(spec: StableSpec) -> Result<Self, String> {
        let ports = spec.target_ports.into_iter().map(|port| port.number).collect();
        Ok(Self { selector: selector(&spec.selector.match_labels)?, ports })
    }
}

impl TryFrom<ExperimentalSpec> for Target {
    type Error = String;

    fn try_from(spec: ExperimentalSpec) -> Result<Self, String> {
        Ok(Self { selector: selector(&spec.selector)?, ports: vec![spec.target_port_number] })
    }
}

/// Labels as the API takes them; none would select every pod of the namespace, this server among them.
fn selector(labels: &BTreeMap<String, String>) -> Result<String, String> {
    if labels.is_empty() {
        return Err("the selector of an InferencePool must have a label".to_owned());
    }
    Ok(labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
}

fn spec<S: DeserializeOwned>(object: &DynamicObject) -> Result<S, String> {
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).map_err(|error| format!("invalid InferencePool, {error}"))
}

/// Keeps the target at what the pool says; without the pool there is none.
pub(super) async fn follow(
    client: &Client,
    namespace: &str,
    name: &str,
    group: PoolGroup,
    targets: &watch::Sender<Option<Target>>,
) {
    let group = installed_group(client, namespace, group).await;
    let resource = group.resource();
    let pools = Watch {
        what: KIND,
        group: group.name(),
        api: Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource),
        kind: resource,
        config: Config::default().fields(&format!("metadata.name={name}")),
        trim: |_| {},
        longest_delay: NEEDED,
    };
    let show = |objects: &[Arc<DynamicObject>]| {
        let Some(object) = objects.iter().find(|object| object.metadata.name.as_deref() == Some(name)) else {
            tracing::warn!(namespace, name, %group, "there is no such InferencePool, waiting for it");
            targets.send_if_modified(|target| target.take().is_some());
            return;
        };
        match group.target(object) {
            Ok(new) => {
                targets.send_if_modified(|target| {
                    let changed = target.as_ref() != Some(&new);
                    if changed {
                        tracing::info!(namespace, name, %group, selector = new.selector, ports = ?new.ports, "InferencePool");
                        *target = Some(new);
                    }
                    changed
                });
            }
            Err(error) => {
                tracing::warn!(namespace, name, %group, error, "InferencePool ignored, its last state stays in force");
            }
        }
    };
    pools.follow(show).await;
}

/// The group that was asked for, or else the other one if only that is installed; waits until one of them is.
async fn installed_group(client: &Client, namespace: &str, wanted: PoolGroup) -> PoolGroup {
    let mut retries = Retries::new(KIND, wanted.name(), NEEDED);
    loop {
        let failure = match list(client, namespace, wanted).await {
            Ok(()) => return wanted,
            Err(failure) => failure,
        };
        if failure.is_unknown_kind && list(client, namespace, wanted.other()).await.is_ok() {
            tracing::warn!(%wanted, used = %wanted.other(), "only the other API group of InferencePool is installed, it is used");
            return wanted.other();
        }
        retries.failed(&failure).await;
    }
}

async fn list(client: &Client, namespace: &str, group: PoolGroup) -> Result<(), Failure> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &group.resource());
    let listed = api.list_metadata(&ListParams::default().limit(1)).await;
    listed.map(drop).map_err(|error| Failure::of_client(&error))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target(group: PoolGroup, spec: &Value) -> Result<Target, String> {
        let object = DynamicObject::new("llama", &group.resource()).data(json!({"spec": spec}));
        group.target(&object)
    }

    #[test]
    fn both_versions_of_a_pool_are_read() {
        let stable = json!({
            "selector": {"matchLabels": {"role": "decode", "app": "vllm"}},
            "targetPorts": [{"number": 8000}, {"number": 8001}],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        });
        let read = target(PoolGroup::Stable, &stable).unwrap();
        assert_eq!(read, Target { selector: "app=vllm,role=decode".to_owned(), ports: vec![8000, 8001] });
        let experimental = json!({"selector": {"app": "vllm"}, "targetPortNumber": 8000, "extensionRef": {}});
        let read = target(PoolGroup::Experimental, &experimental).unwrap();
        assert_eq!(read, Target { selector: "app=vllm".to_owned(), ports: vec![8000] });
    }

    #[test]
    fn a_pool_that_selects_everything_or_is_incomplete_is_refused() {
        for (spec, part) in [
            (json!({"selector": {}, "targetPorts": []}), "must have a label"),
            (json!({"selector": {"matchLabels": {"app": "vllm"}}}), "missing field `targetPorts`"),
            (
                json!({"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 70_000}]}),
                "70000",
            ),
        ] {
            let error = target(PoolGroup::Stable, &spec).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let error = PoolGroup::Stable.target(&DynamicObject::new("llama", &PoolGroup::Stable.resource()));
        assert!(error.unwrap_err().starts_with("invalid InferencePool"));
    }
}
