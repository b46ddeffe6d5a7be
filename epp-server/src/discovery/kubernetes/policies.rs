//! `InferenceObjective` and `InferenceModelRewrite` of the pool's namespace, in both API groups that have them.
//!
//! What the configuration says stays in force beside them; on the same name the cluster counts, and there the newer group.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::inference_pool::PoolGroup;
use super::watching::Watch;
use crate::discovery::Pool;
use crate::policies::{ModelRewrite, Target, WrittenPolicies};

/// The longest time between two looks for a kind that nobody has to install.
const OPTIONAL: Duration = Duration::from_secs(60);

/// API groups with these kinds, the newer one first; both have them in version v1alpha2.
const GROUPS: [&str; 2] = ["llm-d.ai", "inference.networking.x-k8s.io"];

/// Everything that is in force, by the group that it is from.
struct Merged {
    pool: Arc<Pool>,
    configured: WrittenPolicies,
    objectives: [HashMap<String, i32>; GROUPS.len()],
    rewrites: [Vec<ModelRewrite>; GROUPS.len()],
}

impl Merged {
    fn publish_objectives(&self) {
        let mut objectives = self.configured.objectives.clone();
        for group in self.objectives.iter().rev() {
            objectives.extend(group.clone());
        }
        self.pool.policies().set_objectives(objectives);
    }

    fn publish_rewrites(&self) {
        let [newer, older] = &self.rewrites;
        let is_newer = |rewrite: &&ModelRewrite| newer.iter().any(|other| other.name == rewrite.name);
        let older = older.iter().filter(|rewrite| !is_newer(rewrite));
        let is_of_cluster =
            |rewrite: &&ModelRewrite| self.rewrites.iter().flatten().any(|other| other.name == rewrite.name);
        let configured = self.configured.model_rewrites.iter().filter(|rewrite| !is_of_cluster(rewrite));
        let rewrites = configured.chain(newer).chain(older).cloned();
        self.pool.policies().set_model_rewrites(rewrites.collect());
    }
}

/// Keeps the policies of a pool at what the cluster says until the task is dropped.
pub(super) async fn follow(
    client: &Client,
    namespace: &str,
    name: &str,
    pool: Arc<Pool>,
    configured: WrittenPolicies,
) {
    let merged = Merged { pool, configured, objectives: Default::default(), rewrites: Default::default() };
    let merged = Mutex::new(merged);
    tokio::join!(
        follow_group(client, namespace, name, 0, &merged),
        follow_group(client, namespace, name, 1, &merged),
    );
}

async fn follow_group(client: &Client, namespace: &str, pool: &str, group: usize, merged: &Mutex<Merged>) {
    let show_objectives = |objects: &[Arc<DynamicObject>]| {
        let read = of_pool::<ObjectiveSpec>(objects, pool);
        let read = read.map(|(object, spec)| (object.name_any(), spec.priority.unwrap_or(0))).collect();
        let mut merged = merged.lock();
        if let Some(objectives) = merged.objectives.get_mut(group) {
            *objectives = read;
        }
        merged.publish_objectives();
    };
    let show_rewrites = |objects: &[Arc<DynamicObject>]| {
        let read =
            of_pool::<RewriteSpec>(objects, pool).flat_map(|(object, spec)| spec.rules(object)).collect();
        let mut merged = merged.lock();
        if let Some(rewrites) = merged.rewrites.get_mut(group) {
            *rewrites = read;
        }
        merged.publish_rewrites();
    };
    let group = GROUPS.get(group).copied().unwrap_or_default();
    tokio::join!(
        watch(client.clone(), namespace, group, "InferenceObjective").follow(show_objectives),
        watch(client.clone(), namespace, group, "InferenceModelRewrite").follow(show_rewrites),
    );
}

fn watch(client: Client, namespace: &str, group: &'static str, what: &'static str) -> Watch<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1alpha2", what));
    Watch {
        what,
        group,
        api: Api::namespaced_with(client, namespace, &kind),
        kind,
        config: Config::default(),
        trim: |_| {},
        longest_delay: OPTIONAL,
    }
}

/// The objects for a pool, with their specification; what cannot be read is left out.
fn of_pool<'a, S: Spec>(
    objects: &'a [Arc<DynamicObject>],
    pool: &str,
) -> impl Iterator<Item = (&'a DynamicObject, S)> {
    let mut objects: Vec<_> = objects.iter().map(|object| &**object).collect();
    objects.sort_by_key(|object| object.metadata.name.as_deref());
    objects.into_iter().filter_map(move |object| {
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        match serde_json::from_value::<S>(spec) {
            Ok(spec) => spec.is_for(pool).then_some((object, spec)),
            Err(error) => {
                tracing::warn!(kind = S::KIND, name = object.name_any(), %error, "object ignored");
                None
            }
        }
    })
}

/// What is read of an object.
trait Spec: DeserializeOwned {
    const KIND: &'static str;

    /// Whether it names the pool.
    fn is_for(&self, pool: &str) -> bool;
}

#[derive(Deserialize)]
struct PoolRef {
    name: String,
    group: Option<String>,
}

impl PoolRef {
    fn is(&self, pool: &str) -> bool {
        let groups = [PoolGroup::Stable, PoolGroup::Experimental].map(PoolGroup::name);
        self.name == pool
            && self.group.as_deref().is_none_or(|group| group.is_empty() || groups.contains(&group))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectiveSpec {
    priority: Option<i32>,
    pool_ref: Option<PoolRef>,
    #[serde(default)]
    pool_refs: Vec<PoolRef>,
}

impl Spec for ObjectiveSpec {
    const KIND: &'static str = "InferenceObjective";

    fn is_for(&self, pool: &str) -> bool {
        self.pool_ref.iter().chain(&self.pool_refs).any(|reference| reference.is(pool))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RewriteSpec {
    pool_ref: PoolRef,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    matches: Vec<Match>,
    #[serde(default)]
    targets: Vec<TargetModel>,
}

#[derive(Deserialize)]
struct Match {
    model: ModelMatch,
}

#[derive(Deserialize)]
struct ModelMatch {
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetModel {
    model_rewrite: String,
    #[serde(default)]
    weight: u32,
}

impl Spec for RewriteSpec {
    const KIND: &'static str = "InferenceModelRewrite";

    fn is_for(&self, pool: &str) -> bool {
        self.pool_ref.is(pool)
    }
}

impl RewriteSpec {
    fn rules(self, object: &DynamicObject) -> Vec<ModelRewrite> {
        let created = object.metadata.creation_timestamp.as_ref();
        let created = created.and_then(|time| u64::try_from(time.0.as_second()).ok()).unwrap_or(0);
        let rule = |rule: Rule| ModelRewrite {
            name: object.name_any(),
            matches: rule.matches.into_iter().map(|model| model.model.value).collect(),
            targets: rule.targets.into_iter().map(TargetModel::into).collect(),
            created,
        };
        self.rules.into_iter().map(rule).collect()
    }
}

impl From<TargetModel> for Target {
    fn from(target: TargetModel) -> Self {
        Self { model: target.model_rewrite, weight: target.weight }
    }
}
