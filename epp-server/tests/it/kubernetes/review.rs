//! Whoever reads the metrics needs a token that the cluster knows and allows.

use super::cluster::Cluster;

#[tokio::test]
async fn the_metrics_are_for_those_whom_the_cluster_lets_read_them() {
    let mut cluster = Cluster::own().await;
    cluster.api().add_user("prometheus", &["/metrics"]);
    cluster.api().add_user("stranger", &["/healthz"]);
    let program = cluster.start(&["--endpoints=127.1.0.1:8000", "--metrics-endpoint-auth"]);
    for (path, header, status) in [
        ("/metrics", "", 401),
        ("/metrics", "authorization: Basic prometheus\r\n", 401),
        ("/metrics", "authorization: Bearer nobody\r\n", 401),
        ("/metrics", "authorization: Bearer stranger\r\n", 403),
        ("/metrics", "authorization: Bearer prometheus\r\n", 200),
        ("/healthz", "", 200),
        // From the machine itself.
        ("/api/endpoints", "", 200),
    ] {
        let (answered, body) = program.get(path, header).await;
        assert_eq!(answered, status, "{path} {header} {body}");
    }
    let asked = cluster.api().requests("tokenreviews");
    assert_eq!(program.get("/metrics", "authorization: Bearer prometheus\r\n").await.0, 200);
    assert_eq!(cluster.api().requests("tokenreviews"), asked, "the answer is remembered");
    cluster.api().go_away();
    assert_eq!(program.get("/metrics", "authorization: Bearer another\r\n").await.0, 503);
    program.line("reviews no token").await;
}
