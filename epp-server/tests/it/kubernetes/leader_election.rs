//! Of several servers the holder of the lease is ready.

use serde_json::{Value, json};

use super::cluster::{Cluster, Program, eventually};

const ARGUMENTS: [&str; 3] =
    ["--pool-name=llama", "--endpoints=127.1.0.1:8000", "--ha-enable-leader-election=true"];

async fn lease(cluster: &Cluster) -> Value {
    let name = format!("epp-{}-llama.llm-d.ai", cluster.namespace);
    cluster.object("coordination.k8s.io/v1", "Lease", &name).await.unwrap()
}

async fn follows(program: &Program) {
    program.line("another server leads").await;
    program.is_ready("readiness", false).await;
    program.is_ready("", false).await;
    program.is_ready("liveness", true).await;
}

#[tokio::test]
async fn one_server_leads_and_the_next_one_does_when_it_ends() {
    let cluster = Cluster::any().await;
    let first = cluster.start(&ARGUMENTS);
    first.is_ready("readiness", true).await;
    let second = cluster.start(&ARGUMENTS);
    follows(&second).await;
    let held = lease(&cluster).await;
    assert_eq!(
        (&held["spec"]["leaseDurationSeconds"], &held["spec"]["leaseTransitions"]),
        (&json!(15), &json!(1))
    );
    let renewed = eventually("a renewal", &first, async || {
        let now = lease(&cluster).await;
        (now["spec"]["renewTime"] != held["spec"]["renewTime"]).then_some(now)
    })
    .await;
    for same in ["holderIdentity", "acquireTime", "leaseTransitions"] {
        assert_eq!(renewed["spec"][same], held["spec"][same], "{same}");
    }
    first.terminate();
    first.line("lease given up").await;
    second.is_ready("readiness", true).await;
    let taken = lease(&cluster).await;
    assert_ne!(taken["spec"]["holderIdentity"], held["spec"]["holderIdentity"]);
    assert_eq!(taken["spec"]["leaseTransitions"], json!(2));
}

#[tokio::test]
async fn a_lease_that_nobody_renews_is_taken_and_one_that_was_taken_is_left() {
    let cluster = Cluster::any().await;
    let name = format!("epp-{}-llama.llm-d.ai", cluster.namespace);
    let held_by = |holder: &str| {
        // The clock of the other server is wrong, which does not matter.
        let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 3, "renewTime": "2040-01-01T00:00:00.000000Z", "leaseTransitions": 7});
        json!({"metadata": {"name": name}, "spec": spec})
    };
    cluster.put("coordination.k8s.io/v1", "Lease", held_by("gone")).await;
    let program = cluster.start(&ARGUMENTS);
    follows(&program).await;
    program.is_ready("readiness", true).await;
    assert_eq!(lease(&cluster).await["spec"]["leaseTransitions"], json!(8));
    cluster.put("coordination.k8s.io/v1", "Lease", held_by("faster")).await;
    program.is_ready("readiness", false).await;
    assert_eq!(program.line("faster").await["message"], "another server leads");
}

#[tokio::test]
async fn an_outage_of_the_api_leaves_the_leader_in_force() {
    let mut cluster = Cluster::own().await;
    let leader = cluster.start(&ARGUMENTS);
    leader.is_ready("readiness", true).await;
    let follower = cluster.start(&ARGUMENTS);
    follows(&follower).await;
    let holder = lease(&cluster).await["spec"]["holderIdentity"].clone();
    cluster.api().go_away();
    leader.line("lease not read").await;
    follower.line("lease not read").await;
    leader.is_ready("readiness", true).await;
    follower.is_ready("readiness", false).await;
    cluster.api().come_back();
    let before = lease(&cluster).await["spec"]["renewTime"].clone();
    let renewed = eventually("a renewal", &leader, async || {
        let now = lease(&cluster).await;
        (now["spec"]["renewTime"] != before).then_some(now)
    })
    .await;
    assert_eq!(renewed["spec"]["holderIdentity"], holder);
    follower.is_ready("readiness", false).await;
}

#[tokio::test]
async fn a_leader_that_may_not_write_the_lease_gives_up_when_it_has_run_out() {
    let mut cluster = Cluster::own().await;
    let leader = cluster.start(&ARGUMENTS);
    leader.is_ready("readiness", true).await;
    cluster.api().refuse("/leases", Some(403));
    leader.line("lease not read").await;
    leader.is_ready("readiness", true).await;
    leader.is_ready("readiness", false).await;
    leader.line("no longer leading").await;
    cluster.api().refuse("/leases", None);
    leader.is_ready("readiness", true).await;
}
