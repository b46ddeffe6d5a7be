//! What `make image` prepares, run the way a strict cluster runs it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::grpc::{self, CHAT, DUPLEX, ENDPOINT, Gateway};

/// Mounts the folder read-only over itself, with the devices that every container has, and becomes the image's user in it.
const IN_ROOT: &str = r#"mkdir -p "$0/dev" && mount --bind "$0" "$0" && mount --bind /dev "$0/dev" &&
    mount -o remount,bind,ro "$0" && exec chroot --userspec=65532:65532 "$0" "$@""#;

/// Ended with the test, however that ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_before = self.0.kill();
    }
}

#[tokio::test]
#[ignore = "needs the folder that `make image` prepares, and root to change root"]
async fn the_binary_serves_in_an_empty_root_that_it_cannot_write() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image/root");
    let server = Command::new("unshare")
        .args(["--mount", "sh", "-c", IN_ROOT])
        .arg(root.canonicalize().expect("`make image` was run"))
        .args(["/epp-server", "--bind-address=127.0.0.1", "--grpc-port=0", "--grpc-health-port=0"])
        .args(["--metrics-port=0", "--secure-serving=false", "--drain-timeout=0", "--zap-encoder=json"])
        .arg(format!("--endpoints={ENDPOINT}"))
        .stderr(Stdio::piped())
        .spawn();
    let mut server = Server(server.unwrap());
    let log = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let mut log = log.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let serving = log.find(|line| line["message"] == "serving").expect("it serves before it ends");
    let port = |name: &str| u16::try_from(serving[name].as_u64().unwrap()).unwrap();

    let id = server.0.id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    assert!(status.contains("Uid:\t65532\t65532\t65532\t65532"), "{status}");
    let mut health = HealthClient::new(grpc::connect(port("health_port")).await);
    let readiness = HealthCheckRequest { service: "readiness".to_owned() };
    assert_eq!(health.check(readiness).await.unwrap().into_inner().status, 1, "serving");
    let mut gateway = Gateway::open(grpc::connect(port("grpc_port")).await).await;
    gateway.headers(DUPLEX, false).await;
    gateway.body(DUPLEX, CHAT, true).await;
    assert_eq!(grpc::destination(&gateway.answer().await).0, ENDPOINT);
    drop((gateway, health));

    assert!(Command::new("kill").arg(id.to_string()).status().unwrap().success());
    let ended = server.0.wait().unwrap();
    assert!(ended.success(), "{ended}");
}
