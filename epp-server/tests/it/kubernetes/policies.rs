//! Objectives and model rewrites of the cluster are in force for the pool that they name.

use std::sync::Arc;

use epp_server::discovery::Pool;
use epp_server::discovery::kubernetes::inference_pool::PoolGroup;
use epp_server::discovery::kubernetes::{KubernetesSource, PodSource, follow};
use epp_server::health::Conditions;
use epp_server::policies::{ModelRewrite, Target, WrittenPolicies};
use serde_json::{Value, json};

use super::cluster::Cluster;
use crate::support::{self, eventually};

const NEWER: &str = "llm-d.ai/v1alpha2";
const OLDER: &str = "inference.networking.x-k8s.io/v1alpha2";

impl Cluster {
    async fn put_objective(&self, api_version: &str, name: &str, pool: &str, priority: i32) {
        let spec =
            json!({"priority": priority, "poolRef": {"group": "inference.networking.k8s.io", "name": pool}});
        self.put(api_version, "InferenceObjective", json!({"metadata": {"name": name}, "spec": spec})).await;
    }

    async fn put_rewrite(&self, name: &str, pool: &str, rules: Value) {
        let spec = json!({"poolRef": {"name": pool}, "rules": rules});
        self.put(NEWER, "InferenceModelRewrite", json!({"metadata": {"name": name}, "spec": spec})).await;
    }

    fn watched(&self, configured: WrittenPolicies) -> Arc<Pool> {
        let pool = support::pool(&[]);
        pool.policies().set(configured.clone());
        let source = KubernetesSource {
            namespace: self.namespace.clone(),
            pods: PodSource::Pool { name: "llama".to_owned(), group: PoolGroup::Stable },
        };
        let synced = Conditions::default().add();
        tokio::spawn(follow(self.client.clone(), source, Arc::clone(&pool), configured, synced));
        pool
    }
}

fn rewritten(pool: &Pool, model: &str) -> Option<(String, Vec<(String, u32)>)> {
    let tables = pool.policies().tables();
    let rule = tables.rewrite(model)?;
    let targets = rule.targets.iter().map(|target| (target.model.clone(), target.weight));
    Some((rule.name.clone(), targets.collect()))
}

#[tokio::test]
async fn objectives_and_rewrites_of_the_pool_are_in_force() {
    let cluster = Cluster::own().await;
    cluster.put_objective(NEWER, "batch", "llama", -1).await;
    cluster.put_objective(OLDER, "batch", "llama", 9).await;
    cluster.put_objective(OLDER, "chat", "llama", 5).await;
    cluster.put_objective(NEWER, "foreign", "other", 7).await;
    let canary = json!([{
        "matches": [{"model": {"type": "Exact", "value": "food"}}],
        "targets": [{"modelRewrite": "food-v1", "weight": 90}, {"modelRewrite": "food-v2", "weight": 10}],
    }]);
    cluster.put_rewrite("canary", "llama", canary).await;
    cluster.put_rewrite("foreign", "other", json!([{"targets": [{"modelRewrite": "no"}]}])).await;
    let rewrite = ModelRewrite {
        name: "canary".to_owned(),
        matches: vec!["food".to_owned()],
        targets: vec![Target { model: "configured".to_owned(), weight: 1 }],
        created: 0,
    };
    let configured = WrittenPolicies {
        objectives: [("configured".to_owned(), 3)].into(),
        model_rewrites: vec![rewrite],
        ..WrittenPolicies::default()
    };
    let pool = cluster.watched(configured);
    let priority = |name: &str| pool.policies().tables().priority(Some(name));
    let all = || [priority("batch"), priority("chat"), priority("foreign"), priority("configured")];
    eventually("the objectives", || all() == [-1, 5, 0, 3]).await;
    let targets = vec![("food-v1".to_owned(), 90), ("food-v2".to_owned(), 10)];
    eventually("the rewrite", || rewritten(&pool, "food") == Some(("canary".to_owned(), targets.clone())))
        .await;
    assert_eq!(rewritten(&pool, "other"), None);

    cluster.delete(NEWER, "InferenceObjective", "batch").await;
    cluster.put_objective(OLDER, "chat", "other", 5).await;
    eventually("the older group's objective", || all() == [9, 0, 0, 3]).await;
    cluster.delete(NEWER, "InferenceModelRewrite", "canary").await;
    let targets = vec![("configured".to_owned(), 1)];
    eventually("the configured one", || {
        rewritten(&pool, "food") == Some(("canary".to_owned(), targets.clone()))
    })
    .await;
}

#[tokio::test]
async fn kinds_that_are_not_installed_are_no_fault() {
    let mut cluster = Cluster::own().await;
    cluster.put_pool("llama", &[8000]).await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    cluster.put_objective(OLDER, "batch", "llama", -1).await;
    cluster.api().set_absent("/llm-d.ai/", true);
    let program = cluster.start(&["--pool-name=llama"]);
    program.is_ready("readiness", true).await;
    let line = program.line("this kind of objects is not installed").await;
    assert_eq!((&line["group"], &line["level"]), (&json!("llm-d.ai"), &json!("INFO")));
    let pool = cluster.watched(WrittenPolicies::default());
    eventually("the objective", || pool.policies().tables().priority(Some("batch")) == -1).await;
}
