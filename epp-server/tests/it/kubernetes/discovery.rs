//! Pools and their pods become endpoints; faults of the API change nothing.

use serde_json::{Value, json};

use super::cluster::Cluster;

const EXPERIMENTAL: &str = "inference.networking.x-k8s.io/v1alpha2";

#[tokio::test]
async fn ready_pods_of_the_pool_are_the_endpoints() {
    let cluster = Cluster::any().await;
    cluster.put_pool("llama", &[8000, 8001]).await;
    cluster
        .put_pod("vllm-0", "127.1.0.1", |pod| pod["metadata"]["labels"]["llm-d.ai/role"] = json!("decode"))
        .await;
    cluster.put_pod("other", "127.1.0.9", |pod| pod["metadata"]["labels"] = json!({"app": "other"})).await;
    let mut program = cluster.start(&["--pool-name=llama"]);
    program.is_ready("readiness", true).await;
    program.has_endpoints(&["127.1.0.1:8000", "127.1.0.1:8001"]).await;
    let labels = &program.endpoints().await[1]["labels"];
    assert_eq!(
        (&labels["llm-d.ai/role"], &labels["pod"], &labels["namespace"], &labels["rank"]),
        (&json!("decode"), &json!("vllm-0"), &json!(cluster.namespace), &json!("1"))
    );

    let unready = |pod: &mut Value| pod["status"]["conditions"][0]["status"] = json!("False");
    cluster.put_pod("vllm-1", "fd00::2", unready).await;
    cluster.put_pod("vllm-2", "127.1.0.3", |_| {}).await;
    let three = ["127.1.0.1:8000", "127.1.0.1:8001", "127.1.0.3:8000", "127.1.0.3:8001"];
    program.has_endpoints(&three).await;
    cluster.put_pod("vllm-1", "fd00::2", |_| {}).await;
    cluster.delete("v1", "Pod", "vllm-0").await;
    let annotated =
        |pod: &mut Value| pod["metadata"]["annotations"] = json!({"llm-d.ai/active-ports": "8001"});
    cluster.put_pod("vllm-2", "127.1.0.3", annotated).await;
    program.has_endpoints(&["127.1.0.3:8001", "[fd00::2]:8000", "[fd00::2]:8001"]).await;

    cluster.put_pool("llama", &[9000]).await;
    program.has_endpoints(&["[fd00::2]:9000"]).await;
    cluster.delete("inference.networking.k8s.io/v1", "InferencePool", "llama").await;
    program.has_endpoints(&[]).await;
    program.is_ready("readiness", false).await;
    program.is_ready("liveness", true).await;
    assert!(program.is_running());
}

#[tokio::test]
async fn a_restarted_container_has_an_empty_cache() {
    let cluster = Cluster::any().await;
    cluster.put_pool("llama", &[8000]).await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    cluster.put_pod("vllm-1", "127.1.0.2", |_| {}).await;
    let program = cluster.start(&["--pool-name=llama"]);
    program.has_endpoints(&["127.1.0.1:8000", "127.1.0.2:8000"]).await;
    let restarted = |pod: &mut Value| pod["status"]["containerStatuses"][0]["restartCount"] = json!(1);
    cluster.put_pod("vllm-1", "127.1.0.2", restarted).await;
    let line = program.line("its cache counts as empty").await;
    assert_eq!(line["endpoint"], "127.1.0.2:8000");
    // Another pod with the address of one that is gone.
    cluster.delete("v1", "Pod", "vllm-0").await;
    program.has_endpoints(&["127.1.0.2:8000"]).await;
    cluster.put_pod("vllm-2", "127.1.0.1", |_| {}).await;
    program.has_endpoints(&["127.1.0.1:8000", "127.1.0.2:8000"]).await;
    assert_eq!(program.lines("its cache counts as empty"), 1);
}

#[tokio::test]
async fn labels_and_ports_do_without_a_pool() {
    let cluster = Cluster::any().await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    cluster.put_pod("other", "127.1.0.9", |pod| pod["metadata"]["labels"] = json!({"app": "other"})).await;
    let program = cluster.start(&["--endpoint-selector", "app=vllm", "--endpoint-target-ports", "8000,8001"]);
    program.has_endpoints(&["127.1.0.1:8000", "127.1.0.1:8001"]).await;
    program.is_ready("inference-extension", true).await;
}

#[tokio::test]
async fn the_other_api_group_is_used_where_only_that_is_installed() {
    let mut cluster = Cluster::own().await;
    let spec =
        json!({"selector": {"app": "vllm"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp"}});
    cluster.put(EXPERIMENTAL, "InferencePool", json!({"metadata": {"name": "llama"}, "spec": spec})).await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    cluster.api().set_absent("/inference.networking.k8s.io/", true);
    let program = cluster.start(&["--pool-name=llama"]);
    program.has_endpoints(&["127.1.0.1:8000"]).await;
    let line = program.line("only the other API group").await;
    assert_eq!(line["used"], "inference.networking.x-k8s.io");
    let program = cluster.start(&["--pool-name=llama", "--pool-group=inference.networking.x-k8s.io"]);
    program.has_endpoints(&["127.1.0.1:8000"]).await;
    assert_eq!(program.lines("only the other API group"), 0);
}

#[tokio::test]
async fn the_server_waits_for_the_definition_and_for_the_pool() {
    let mut cluster = Cluster::own().await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    cluster.api().set_absent("/inferencepools", true);
    let program = cluster.start(&["--pool-name=llama"]);
    program.line("not installed, the server waits for it").await;
    cluster.api().set_absent("/inferencepools", false);
    program.line("there is no such InferencePool").await;
    program.is_ready("readiness", false).await;
    cluster.put_pool("llama", &[8000]).await;
    program.has_endpoints(&["127.1.0.1:8000"]).await;
    program.is_ready("readiness", true).await;
}

#[tokio::test]
async fn of_several_pools_a_missing_one_leaves_the_server_ready_for_the_others() {
    let cluster = Cluster::any().await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    let program = cluster.start(&["--pool=llama", "--pool=missing"]);
    program.line("there is no such InferencePool").await;
    program.is_ready("readiness", false).await;
    cluster.put_pool("llama", &[8000]).await;
    program.is_ready("readiness", true).await;
    program.has_endpoints(&["127.1.0.1:8000"]).await;
    cluster.delete("inference.networking.k8s.io/v1", "InferencePool", "llama").await;
    program.has_endpoints(&[]).await;
    program.is_ready("readiness", true).await;
}

#[tokio::test]
async fn the_server_waits_for_an_api_that_is_away_at_start() {
    let mut cluster = Cluster::own().await;
    cluster.put_pool("llama", &[8000]).await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    cluster.api().go_away();
    let mut program = cluster.start(&["--pool-name=llama"]);
    program.line("Kubernetes API gives no answer").await;
    program.is_ready("readiness", false).await;
    program.is_ready("liveness", true).await;
    assert!(program.is_running());
    cluster.api().come_back();
    program.has_endpoints(&["127.1.0.1:8000"]).await;
    program.is_ready("readiness", true).await;
}

#[tokio::test]
async fn an_outage_of_the_api_keeps_the_last_endpoints() {
    let mut cluster = Cluster::own().await;
    cluster.put_pool("llama", &[8000]).await;
    cluster.put_pod("vllm-0", "127.1.0.1", |_| {}).await;
    let program = cluster.start(&["--pool-name=llama"]);
    program.has_endpoints(&["127.1.0.1:8000"]).await;

    cluster.api().go_away();
    program.line("Kubernetes API gives no answer").await;
    program.is_ready("readiness", true).await;
    program.has_endpoints(&["127.1.0.1:8000"]).await;
    cluster.api().come_back();
    cluster.put_pod("vllm-1", "127.1.0.2", |_| {}).await;
    program.has_endpoints(&["127.1.0.1:8000", "127.1.0.2:8000"]).await;
    program.line("Kubernetes API answers again").await;

    // Back with an error for a while, and with a history that does not reach to where the watch was.
    cluster.api().refuse("/pods", Some(500));
    cluster.api().break_watches();
    program.line("refused by the test").await;
    cluster.delete("inference.networking.k8s.io/v1", "InferencePool", "llama").await;
    cluster.put_pool("llama", &[8001]).await;
    cluster.api().compact();
    program.is_ready("liveness", true).await;
    cluster.api().refuse("/pods", None);
    cluster.delete("v1", "Pod", "vllm-0").await;
    program.has_endpoints(&["127.1.0.2:8001"]).await;
}

#[tokio::test]
async fn a_broken_watch_is_taken_up_again_without_a_gap() {
    let mut cluster = Cluster::own().await;
    cluster.put_pool("llama", &[8000]).await;
    let program = cluster.start(&["--pool-name=llama"]);
    program.is_ready("readiness", true).await;
    for turn in 1..4 {
        cluster.api().break_watches();
        cluster.put_pod(&format!("vllm-{turn}"), &format!("127.1.0.{turn}"), |_| {}).await;
    }
    program.has_endpoints(&["127.1.0.1:8000", "127.1.0.2:8000", "127.1.0.3:8000"]).await;
    let lists =
        |cluster: &mut Cluster| cluster.api().requests("/pods?") - cluster.api().requests("/pods?&watch");
    assert!(lists(&mut cluster) < 10);
    cluster.api().compact();
    cluster.api().break_watches();
    cluster.delete("v1", "Pod", "vllm-2").await;
    program.has_endpoints(&["127.1.0.1:8000", "127.1.0.3:8000"]).await;
}

#[tokio::test]
async fn a_large_pool_is_listed_in_pages() {
    let mut cluster = Cluster::own().await;
    cluster.put_pool("llama", &[8000]).await;
    for place in 0..600 {
        cluster
            .put_pod(&format!("vllm-{place}"), &format!("127.1.{}.{}", place / 250, place % 250), |_| {})
            .await;
    }
    let program = cluster.start(&["--pool-name=llama"]);
    let line = program.line("\"count\":600").await;
    assert_eq!(line["message"], "endpoints in force");
    assert_eq!(cluster.api().requests("continue=500"), 1);
}
