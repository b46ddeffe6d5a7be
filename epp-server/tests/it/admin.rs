//! The admin port over HTTP: the page, and every route below `/api`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epp_server::admin::access::AccessRules;
use epp_server::admin::metrics::Metrics;
use epp_server::admin::recorder::{LOG_TARGET, Recorder};
use epp_server::admin::{self, ShownPool};
use epp_server::clock;
use epp_server::discovery::Pool;
use epp_server::ext_proc::router::{Query, Router, RoutingSettings};
use epp_server::server::Server;
use p3sched::Outcome;
use p3sched::gateway::RequestHead;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing_subscriber::layer::SubscriberExt;

use crate::support;

const ENDPOINTS: &str = "--endpoints=10.0.0.1:8000,10.0.0.2:8000";
const SECRET: &str = "the prompt that nobody may see";

/// A running server's admin port.
struct Admin {
    port: u16,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }

    /// The code of an error, whose message must not be empty.
    fn error(&self, status: u16) -> String {
        let error = self.json();
        assert_eq!(self.status, status, "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        error["code"].as_str().unwrap().to_owned()
    }
}

impl Admin {
    async fn start(arguments: &[&str]) -> Self {
        let settings = support::settings(&[&["--refresh-metrics-interval=1h"], arguments].concat());
        let server = Server::bind(settings).await.unwrap();
        let [_, _, port] = server.ports().unwrap();
        tokio::spawn(server.run(std::future::pending()));
        Self { port }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, b"").await
    }

    async fn explain(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", &format!("/api/explain?path={path}"), body.as_bytes()).await
    }

    async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses a large body closes before it has read it.
        let _written = stream.write_all(body).await;
        let mut text = Vec::new();
        let _read = stream.read_to_end(&mut text).await;
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

fn serve(listener: TcpListener, routes: axum::Router) {
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, routes).await });
}

fn shown(pool: Arc<Pool>, recorder: Arc<Recorder>) -> Vec<ShownPool> {
    vec![ShownPool { name: String::new(), pool, recorder }]
}

fn chat(content: &str) -> String {
    json!({"model": "llama", "messages": [{"role": "user", "content": content}]}).to_string()
}

#[tokio::test]
async fn the_page_runs_no_foreign_code() {
    let admin = Admin::start(&[ENDPOINTS]).await;
    let page = admin.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    assert!(page.head.contains("content-security-policy: default-src 'none'; script-src 'self';"));
    assert!(page.head.contains("x-content-type-options: nosniff"));
    assert!(page.head.contains("x-frame-options: DENY"));
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "it works offline");
    let mut files = 0;
    for (attribute, kind) in [("src=\"", "text/javascript"), ("href=\"page/", "text/css")] {
        for rest in page.body.split(attribute).skip(1) {
            let path = rest.split('"').next().unwrap();
            let path = if path.starts_with("page/") { path.to_owned() } else { format!("page/{path}") };
            let file = admin.get(&format!("/{path}")).await;
            assert_eq!(file.status, 200, "{path}");
            let icon = path.ends_with(".svg") && file.head.contains("content-type: image/svg+xml");
            assert!(icon || file.head.contains(&format!("content-type: {kind}")), "{}", file.head);
            files += 1;
        }
    }
    assert!(files >= 4, "{files}");
    assert_eq!(admin.get("/healthz").await.body, "ok\n");
    assert!(admin.get("/metrics").await.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn metrics_are_open_where_the_page_is_not() {
    let admin = Admin::start(&[ENDPOINTS, "--admin-access=none"]).await;
    for path in ["/", "/page/main.js", "/api/endpoints"] {
        assert_eq!(admin.get(path).await.error(403), "Forbidden", "{path}");
    }
    assert_eq!(admin.explain("/v1/completions", "{}").await.error(403), "Forbidden");
    for path in ["/metrics", "/healthz"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn endpoints_index_and_configuration_are_shown() {
    let config = "{endpoints: [{name: '10.0.0.2:8000', labels: {zone: b}}, '10.0.0.1:8000'], scheduler: {fallbacks: 1}}";
    let admin = Admin::start(&["--config-text", config]).await;
    let endpoints = admin.get("/api/endpoints").await.json();
    assert_eq!(endpoints["requests_in_flight"], 0);
    let names = [&endpoints["endpoints"][0]["endpoint"], &endpoints["endpoints"][1]["endpoint"]];
    assert_eq!(names, ["10.0.0.1:8000", "10.0.0.2:8000"]);
    assert_eq!(endpoints["endpoints"][1]["labels"], json!({"zone": "b"}));
    assert_eq!(endpoints["endpoints"][1]["waiting_requests"], Value::Null);

    let index = admin.get("/api/index").await.json();
    assert_eq!(index["endpoints"], json!({"10.0.0.1:8000": 0, "10.0.0.2:8000": 0}));
    assert_eq!((&index["unique_blocks"], &index["counters"]["picks"]), (&json!(0), &json!(0)));

    let shown: p3sched::SchedulerConfig = serde_json::from_str(&admin.get("/api/config").await.body).unwrap();
    assert_eq!(shown.fallbacks, 1, "it reads as a configuration");
}

#[tokio::test]
async fn explaining_answers_as_a_pick_would_and_records_nothing() {
    let admin = Admin::start(&[ENDPOINTS]).await;
    for _ in 0..2 {
        let answer = admin.explain("/v1/chat/completions", &chat(SECRET)).await;
        assert!(!answer.body.contains(SECRET));
        let decision = answer.json();
        assert_eq!((&decision["id"], &decision["matched_tokens"]), (&json!(0), &json!(0)));
        assert_eq!(decision["explanation"]["endpoints"].as_array().unwrap().len(), 2);
        assert_eq!(decision["explanation"]["endpoints"][0]["endpoint"], decision["endpoint"]);
    }
    assert_eq!(admin.get("/api/decisions").await.json()["last_sequence"], 0);
    assert_eq!(admin.get("/api/index").await.json()["counters"]["picks"], 0);
    assert_eq!(admin.get("/api/endpoints").await.json()["requests_in_flight"], 0);
}

#[tokio::test]
async fn what_cannot_be_answered_says_why_as_json() {
    let admin = Admin::start(&["--config-text", "endpoints: []"]).await;
    let path = "/v1/chat/completions";
    assert_eq!(admin.explain(path, &chat("x")).await.error(503), "NoEndpoints");
    assert_eq!(admin.explain(path, "{").await.error(400), "InvalidRequest");
    let large = vec![b' '; (16 << 20) + 1];
    let answer = admin.ask("POST", "/api/explain?path=/v1/completions", &large).await;
    assert_eq!(answer.error(413), "PayloadTooLarge");
    assert_eq!(admin.ask("POST", "/api/explain", b"{}").await.error(400), "BadRequest");
    assert_eq!(admin.get("/api/explain?path=/v1/completions").await.error(405), "MethodNotAllowed");
    assert_eq!(admin.get("/api/decisions?after=x").await.error(400), "BadRequest");
    assert_eq!(admin.get("/api/decisions/x").await.error(400), "BadRequest");
    assert_eq!(admin.get("/api/decisions/7").await.error(404), "NotFound");
    assert_eq!(admin.get("/api/nothing").await.error(404), "NotFound");
    assert_eq!(admin.get("/api/endpoints").await.json()["endpoints"], json!([]));
}

#[tokio::test]
async fn decisions_are_kept_with_their_reason_and_their_end() {
    let pool = support::pool(&["10.0.0.1:8000", "10.0.0.2:8000"]);
    let (metrics, recorder) = (Arc::new(Metrics::new()), Arc::new(Recorder::new(false).unwrap()));
    let router = Router::new(
        Arc::clone(&pool),
        Arc::clone(&metrics),
        Arc::clone(&recorder),
        RoutingSettings::default(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = Admin { port: listener.local_addr().unwrap().port() };
    serve(listener, admin::routes(metrics, shown(pool, recorder), AccessRules::default(), None));

    let head = RequestHead { path: "/v1/chat/completions".to_owned(), ..RequestHead::default() };
    let body = chat(SECRET);
    let pick = |now| {
        let query =
            Query { head: &head, body: Some(body.as_bytes()), truncated: false, subset: None, received: now };
        router.pick(query, now).unwrap().0
    };
    let now = clock::now();
    let first = pick(now);
    let outcome = Outcome { cached_tokens: Some(3), ..Outcome::success() };
    router.complete(&first, outcome, 9, None, now + 2_000_000_000);
    pick(now);

    let list = admin.get("/api/decisions").await;
    assert!(!list.body.contains(SECRET));
    let list = list.json();
    assert_eq!((&list["last_sequence"], &list["skipped"]), (&json!(2), &json!(0)));
    let [kept, _] = list["decisions"].as_array().unwrap().as_slice() else { panic!("two: {list}") };
    assert_eq!((&kept["model"], &kept["sequence"]), (&json!("llama"), &json!(1)));
    assert!(kept["at"].as_f64().unwrap() > 1.7e9 && kept["pick_microseconds"].as_f64().unwrap() > 0.0);
    let newer = admin.get("/api/decisions?after=1").await.json();
    assert_eq!(newer["decisions"].as_array().unwrap().len(), 1);

    let detail = admin.get(&format!("/api/decisions/{}", kept["id"])).await;
    assert!(!detail.body.contains(SECRET));
    let detail = detail.json();
    assert_eq!(detail["decision"]["endpoint"], kept["endpoint"]);
    assert_eq!(detail["decision"]["explanation"]["endpoints"].as_array().unwrap().len(), 2);
    assert_eq!(detail["outcome"]["cached_tokens"], 3);
    assert_eq!(detail["outcome"]["seconds"], 2.0);
    let running = admin.get(&format!("/api/decisions/{}", newer["decisions"][0]["id"])).await.json();
    assert_eq!(running["outcome"], Value::Null);
}

#[tokio::test]
async fn the_history_shows_whole_seconds() {
    let recorder = Recorder::new(false).unwrap();
    recorder.refused(clock::now());
    let pool = support::pool(&["10.0.0.1:8000"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = Admin { port: listener.local_addr().unwrap().port() };
    let recorder = Arc::new(recorder);
    serve(
        listener,
        admin::routes(Arc::new(Metrics::new()), shown(pool, recorder), AccessRules::default(), None),
    );
    let mut history = admin.get("/api/history").await.json();
    while history["seconds"].as_array().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        history = admin.get("/api/history").await.json();
    }
    assert_eq!((&history["refusals"][0], &history["picks"][0]), (&json!(1), &json!(0)));
    assert_eq!(history["pick_microseconds_p99"][0], Value::Null);
    for column in history.as_object().unwrap().values() {
        assert_eq!(column.as_array().unwrap().len(), history["seconds"].as_array().unwrap().len());
    }
}

/// Log lines, shared with the logger.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_pick_is_one_line_of_the_log_if_that_is_wanted() {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer =
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let head = RequestHead { path: "/v1/chat/completions".to_owned(), ..RequestHead::default() };
    let body = chat(SECRET);
    for log_decisions in [false, true] {
        let recorder = Arc::new(Recorder::new(log_decisions).unwrap());
        let pool = support::pool(&["10.0.0.1:8000"]);
        let router = Router::new(pool, Arc::new(Metrics::new()), recorder, RoutingSettings::default());
        for _ in 0..30 {
            let body = Some(body.as_bytes());
            let query = Query { head: &head, body, truncated: false, subset: None, received: 0 };
            router.pick(query, 0).unwrap();
        }
    }
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains(SECRET));
    let decisions: Vec<Value> = (text.lines().map(|line| serde_json::from_str(line).unwrap()))
        .filter(|line: &Value| line["target"] == LOG_TARGET)
        .collect();
    assert_eq!(decisions.len(), 30, "the ones without an explanation too");
    let second = &decisions[1];
    assert_eq!((&second["endpoint"], &second["model"]), (&json!("10.0.0.1:8000"), &json!("llama")));
    assert!(second["id"].as_u64() > decisions[0]["id"].as_u64());
    assert!(second["pick_microseconds"].as_f64().unwrap() > 0.0);
    assert_eq!(second["request_bytes"], body.len());
    for number in ["prompt_tokens", "matched_tokens"] {
        assert!(second[number].is_u64(), "{number}: {second}");
    }
}
