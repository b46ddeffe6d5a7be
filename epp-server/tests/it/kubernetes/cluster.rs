//! A cluster for a test, and a server that was started in it as in production.
//!
//! With `P3SCHED_TEST_KUBECONFIG` the tests that need no fault of the API run against the API server which that file
//! names. It must have the definitions of both kinds of `InferencePool`, and nothing that looks after pods.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::api_server::ApiServer;

const REAL: &str = "P3SCHED_TEST_KUBECONFIG";

/// A namespace of an API server.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) kubeconfig: PathBuf,
    /// The API server, where it is ours.
    pub(crate) api: Option<ApiServer>,
}

impl Cluster {
    /// A namespace of the API server that the environment names, else of our own.
    pub(crate) async fn any() -> Self {
        let Some(kubeconfig) = std::env::var_os(REAL).map(PathBuf::from) else { return Self::own().await };
        let cluster = Self::with(kubeconfig, None).await;
        let namespaces = Api::<DynamicObject>::all_with(cluster.client.clone(), &resource("v1", "Namespace"));
        let namespace = DynamicObject::new(&cluster.namespace, &resource("v1", "Namespace"));
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        cluster
    }

    /// A namespace of an API server that can be made to fail.
    pub(crate) async fn own() -> Self {
        let api = ApiServer::start();
        let folder = folder();
        let (kubeconfig, authority) = (folder.join("kubeconfig"), folder.join("ca.crt"));
        fs::write(&authority, &api.certificate).unwrap();
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": format!("https://{}", api.address), "certificate-authority": authority}}],
            "users": [{"name": "test", "user": {"token": "picker"}}],
        });
        fs::write(&kubeconfig, text.to_string()).unwrap();
        Self::with(kubeconfig, Some(api)).await
    }

    async fn with(kubeconfig: PathBuf, api: Option<ApiServer>) -> Self {
        let read = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
        let namespace = format!("p3sched-{}-{}", std::process::id(), number());
        Self { client: Client::try_from(config).unwrap(), namespace, kubeconfig, api }
    }

    pub(crate) fn api(&mut self) -> &mut ApiServer {
        self.api.as_mut().unwrap()
    }

    /// Makes an object, or replaces it together with its status.
    pub(crate) async fn put(&self, api_version: &str, kind: &str, mut object: Value) {
        let resource = resource(api_version, kind);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        let mut object: DynamicObject = serde_json::from_value(object).unwrap();
        let written = match api.get_opt(&name).await.unwrap() {
            None => api.create(&PostParams::default(), &object).await.unwrap(),
            Some(known) => {
                object.metadata.resource_version = known.metadata.resource_version;
                api.replace(&name, &PostParams::default(), &object).await.unwrap()
            }
        };
        if object.data.get("status").is_some() {
            object.metadata.resource_version = written.metadata.resource_version;
            api.replace_status(&name, &PostParams::default(), &object).await.unwrap();
        }
    }

    pub(crate) async fn object(&self, api_version: &str, kind: &str, name: &str) -> Option<Value> {
        let resource = resource(api_version, kind);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        api.get_opt(name).await.unwrap().map(|object| serde_json::to_value(object).unwrap())
    }

    pub(crate) async fn delete(&self, api_version: &str, kind: &str, name: &str) {
        let resource = resource(api_version, kind);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        api.delete(name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
            .await
            .unwrap();
    }

    /// A pool of the stable group over pods with the label `app: vllm`.
    pub(crate) async fn put_pool(&self, name: &str, ports: &[u16]) {
        let ports: Vec<_> = ports.iter().map(|port| json!({"number": port})).collect();
        let spec = json!({
            "selector": {"matchLabels": {"app": "vllm"}},
            "targetPorts": ports,
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        });
        self.put(
            "inference.networking.k8s.io/v1",
            "InferencePool",
            json!({"metadata": {"name": name}, "spec": spec}),
        )
        .await;
    }

    /// A pod that is ready, with the label `app: vllm`, as a change leaves it.
    pub(crate) async fn put_pod(&self, name: &str, ip: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "metadata": {"name": name, "labels": {"app": "vllm"}},
            // Nothing of a real cluster takes it for its own.
            "spec": {"schedulerName": "none", "containers": [{"name": "vllm", "image": "none"}]},
            "status": {
                "phase": "Running",
                "podIP": ip,
                "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [
                    {"name": "vllm", "image": "none", "imageID": "none", "ready": true, "restartCount": 0, "containerID": "c://1"},
                ],
            },
        });
        change(&mut pod);
        self.put("v1", "Pod", pod).await;
    }

    /// Starts the program in this cluster.
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        Program::start(&self.kubeconfig, &self.namespace, arguments)
    }
}

fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn folder() -> PathBuf {
    let name = format!("kubernetes-{}-{}", std::process::id(), number());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A running server; dropping it kills it.
pub(crate) struct Program {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Program {
    fn start(kubeconfig: &PathBuf, namespace: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_epp-server"))
            .args(["--bind-address=127.0.0.1", "--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"])
            .args(["--secure-serving=false", "--zap-encoder=json", "--refresh-metrics-interval=1h"])
            .args(["--drain-timeout=0s", "--pool-namespace", namespace])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, written) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                written.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    /// Waits for the first line of the log that contains a text.
    pub(crate) async fn line(&self, part: &str) -> Value {
        eventually(&format!("a line with {part}"), self, async || {
            let lines = self.log.lock().unwrap();
            lines.iter().find(|line| line.to_string().contains(part)).cloned()
        })
        .await
    }

    /// How many lines of the log contain a text.
    pub(crate) fn lines(&self, part: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.to_string().contains(part)).count()
    }

    /// Waits until these endpoints are in force.
    pub(crate) async fn has_endpoints(&self, names: &[&str]) {
        eventually(&format!("endpoints {names:?}"), self, async || {
            let known = self.endpoints().await;
            let known: Vec<_> = known.iter().map(|endpoint| endpoint["endpoint"].as_str().unwrap()).collect();
            (known == names).then_some(())
        })
        .await;
    }

    /// Waits until a health service says this.
    pub(crate) async fn is_ready(&self, service: &str, ready: bool) {
        let port = self.line("\"serving\"").await["health_port"].as_u64().unwrap();
        let channel = Endpoint::new(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap();
        let mut health = HealthClient::new(channel);
        eventually(&format!("{service}: {ready}"), self, async || {
            let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
            ((answer.into_inner().status == 1) == ready).then_some(())
        })
        .await;
    }

    /// What `/api/endpoints` shows.
    pub(crate) async fn endpoints(&self) -> Vec<Value> {
        let (status, body) = self.get("/api/endpoints", "").await;
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["endpoints"].as_array().unwrap().clone()
    }

    /// Asks the admin port, with one more header line.
    pub(crate) async fn get(&self, path: &str, header: &str) -> (u16, String) {
        let port = self.line("\"serving\"").await["metrics_port"].as_u64().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{header}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Asks it to end, as the kubelet does.
    pub(crate) fn terminate(&self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn shown(&self) -> String {
        let lines = self.log.lock().unwrap();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Waits until something is there; fails after half a minute, and shows the log.
pub(crate) async fn eventually<T>(
    what: &str,
    program: &Program,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    for _ in 0..600 {
        if let Some(seen) = look().await {
            return seen;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("did not happen: {what}\n{}", program.shown());
}
