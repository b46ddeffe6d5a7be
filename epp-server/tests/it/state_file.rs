//! The state file: what a restart keeps, and what is said of files that are of no use.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use epp_server::clock;
use epp_server::discovery::Pool;
use epp_server::state_file::{StateFile, StateSettings};
use p3sched::{Request, SchedulerConfig};

use crate::grpc::{DUPLEX, Gateway, Running};
use crate::support;

const ENDPOINTS: [&str; 2] = ["10.0.0.1:8000", "10.0.0.2:8000"];

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn settings(path: &Path) -> StateSettings {
    let [interval, max_age] = [1, 3_600].map(Duration::from_secs);
    StateSettings { path: path.to_owned(), interval, max_age }
}

fn open(path: &Path, pool: &Pool) -> Result<Arc<StateFile>, String> {
    StateFile::open(settings(path), Arc::clone(pool.scheduler())).map(Arc::new)
}

fn request() -> Request {
    Request::from_text("llama", "You are a helpful assistant. ".repeat(200))
}

fn matched(pool: &Pool) -> u32 {
    pool.scheduler().explain(&request(), clock::now()).unwrap().matched_tokens
}

/// Writes the state of a pool that has picked once.
async fn written(path: &Path) {
    let pool = support::pool(&ENDPOINTS);
    pool.scheduler().pick(&request(), clock::now()).unwrap();
    open(path, &pool).unwrap().save().await;
}

#[tokio::test]
async fn a_restart_keeps_what_was_learned() {
    let folder = folder("state");
    let path = folder.join("state");
    // Left behind by a process that was killed; a link there must not lead the state elsewhere.
    symlink(folder.join("elsewhere"), folder.join("state.next")).unwrap();
    written(&path).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "the state and nothing else");

    // Before the endpoints are known, as it is with those that are discovered.
    let pool = support::pool(&[]);
    let _file = open(&path, &pool).unwrap();
    pool.set(ENDPOINTS.map(p3sched::Endpoint::new).to_vec()).unwrap();
    assert!(matched(&pool) > 1_000, "{}", matched(&pool));
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn it_is_written_on_a_period() {
    let folder = folder("period");
    let path = folder.join("state");
    let pool = support::pool(&ENDPOINTS);
    let interval = Duration::from_millis(10);
    let file =
        StateFile::open(StateSettings { interval, ..settings(&path) }, Arc::clone(pool.scheduler())).unwrap();
    let keeping = tokio::spawn(Arc::new(file).keep());
    pool.scheduler().pick(&request(), clock::now()).unwrap();
    let size = || fs::metadata(&path).map_or(0, |file| file.len());
    support::eventually("the state with a prefix", || size() > 600).await;
    keeping.abort();
    assert!(keeping.await.unwrap_err().is_cancelled());
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn what_is_of_no_use_is_left_out() {
    let folder = folder("useless");
    let path = folder.join("state");
    written(&path).await;
    let good = fs::read(&path).unwrap();
    let mut corrupted = good.clone();
    corrupted[40] ^= 1;
    for useless in [&b""[..], b"p3sched\0", b"somebody else's file", &good[..good.len() / 2], &corrupted] {
        fs::write(&path, useless).unwrap();
        let pool = support::pool(&ENDPOINTS);
        let file = open(&path, &pool).unwrap();
        assert_eq!(matched(&pool), 0);
        // The next writing makes it good again.
        file.save().await;
        assert_ne!(fs::read(&path).unwrap(), useless);
    }
    fs::write(&path, &good).unwrap();
    let mut config = SchedulerConfig::default();
    config.block_size_tokens = 32;
    let pool = support::pool_with(config, &ENDPOINTS);
    open(&path, &pool).unwrap();
    assert_eq!(matched(&pool), 0, "of another block size");

    fs::write(&path, &good).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(7_200);
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let pool = support::pool(&ENDPOINTS);
    open(&path, &pool).unwrap();
    assert_eq!(matched(&pool), 0, "too old");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_at_start() {
    let folder = folder("unwritable");
    let pool = support::pool(&ENDPOINTS);
    for (path, part) in [
        (folder.clone(), "not a folder"),
        (folder.join("missing/state"), "on a volume that is writable"),
        (PathBuf::from("/proc/state"), "on a volume that is writable"),
    ] {
        let error = open(&path, &pool).map(|_| ()).unwrap_err();
        assert!(error.contains(part) && error.ends_with(&format!(": `{}`", path.display())), "{error}");
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// The server as a process of its own.
struct Process {
    child: Child,
    grpc: u16,
    metrics: u16,
}

impl Process {
    fn start(state: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_epp-server"))
            .args(["--bind-address=127.0.0.1", "--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"])
            .args(["--secure-serving=false", "--log-format=json", "--endpoints=10.0.0.1:8000,10.0.0.2:8000"])
            .args(["--refresh-metrics-interval=1h", "--state-interval=20ms", "--drain-timeout=0s"])
            .arg(format!("--state-file={}", state.display()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines.find_map(|line| {
            let said: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            (said["message"] == "serving").then_some(said)
        });
        std::thread::spawn(|| lines.for_each(drop));
        let port = |name: &str| u16::try_from(said.as_ref().unwrap()[name].as_u64().unwrap()).unwrap();
        Self { grpc: port("grpc_port"), metrics: port("metrics_port"), child }
    }

    async fn pick(&self) {
        let channel = tonic::transport::Endpoint::new(format!("http://127.0.0.1:{}", self.grpc)).unwrap();
        let mut gateway = Gateway::open(channel.connect().await.unwrap()).await;
        gateway.headers(DUPLEX, false).await;
        let content = "You are a helpful assistant. ".repeat(200);
        let body = serde_json::json!({"model": "llama", "messages": [{"role": "user", "content": content}]});
        gateway.body(DUPLEX, body.to_string(), true).await;
        gateway.answer().await;
    }

    async fn page(&self) -> String {
        Running::page_of(self.metrics).await
    }

    fn end(mut self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_rolling_restart_keeps_its_hits_and_so_does_a_killed_process() {
    let folder = folder("processes");
    let path = folder.join("state");
    for signal in ["-TERM", "-KILL"] {
        let before = Process::start(&path);
        assert!(before.page().await.contains("p3sched_warm_picks_total 0"));
        before.pick().await;
        if signal == "-KILL" {
            let size = || fs::metadata(&path).map_or(0, |file| file.len());
            support::eventually("a state with the prefix", || size() > 600).await;
        }
        before.end(signal);
        let after = Process::start(&path);
        after.pick().await;
        let page = after.page().await;
        assert!(page.contains("p3sched_warm_picks_total 1"), "{signal}: {page}");
        after.end("-KILL");
        fs::remove_file(&path).unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
}
