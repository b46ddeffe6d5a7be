//! A server of the Kubernetes API's protocol over loopback: objects with resource versions, pages, watches with
//! bookmarks and selectors, conflicts, reviews; and its faults.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// A running API; dropping it ends it.
pub(crate) struct ApiServer {
    pub(crate) address: SocketAddr,
    /// What clients check it with, as PEM.
    pub(crate) certificate: String,
    tls: TlsAcceptor,
    store: Arc<Store>,
    runtime: Option<Runtime>,
}

struct Store {
    content: Mutex<Content>,
    /// The newest resource version.
    revision: watch::Sender<u64>,
    /// Changes when every open watch is to break off.
    breaks: watch::Sender<u64>,
}

#[derive(Default)]
struct Content {
    /// By path of the collection, then by name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    changes: Vec<Change>,
    /// Changes up to this one are forgotten.
    compacted: u64,
    /// Collections without their namespace that answer 404, as those of a definition that is not installed.
    absent: BTreeSet<&'static str>,
    /// What a request to a path that contains the first is answered with, instead of being served.
    refused: Vec<(&'static str, u16)>,
    /// User by token, and the paths that she may get.
    users: HashMap<&'static str, &'static [&'static str]>,
    /// How often reviews were asked for, and how many lists.
    requests: Vec<String>,
}

#[derive(Clone)]
struct Change {
    revision: u64,
    collection: String,
    before: Option<Value>,
    after: Option<Value>,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let store = Store {
            content: Mutex::default(),
            revision: watch::Sender::new(1),
            breaks: watch::Sender::new(0),
        };
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate: made.cert.pem(),
            tls: TlsAcceptor::from(Arc::new(tls)),
            store: Arc::new(store),
            runtime: None,
        };
        server.come_back();
        server
    }

    /// Ends every connection; new ones are refused.
    pub(crate) fn go_away(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Serves again at the same address what it served before.
    pub(crate) fn come_back(&mut self) {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let routes = Router::new().fallback(serve).with_state(Arc::clone(&self.store));
        let (address, tls) = (self.address, self.tls.clone());
        let (bound, port) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = loop {
                // Connections of before may still hold the address for a moment.
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            bound.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(TlsListener { listener, tls }, routes).await.unwrap();
        });
        self.address = port.recv().unwrap();
        self.runtime = Some(runtime);
    }

    /// Breaks off every open watch in the middle of its answer.
    pub(crate) fn break_watches(&self) {
        self.store.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Forgets what changed so far: who watches from before has to list again.
    pub(crate) fn compact(&self) {
        let mut content = self.store.lock();
        content.compacted = *self.store.revision.borrow();
        content.changes.clear();
    }

    /// Answers 404 to everything about a kind, or no longer.
    pub(crate) fn set_absent(&self, collection: &'static str, absent: bool) {
        let mut content = self.store.lock();
        if absent {
            content.absent.insert(collection)
        } else {
            content.absent.remove(collection)
        };
    }

    /// Answers requests to paths that contain a text with a status, until there is none.
    pub(crate) fn refuse(&self, part: &'static str, status: Option<u16>) {
        let mut content = self.store.lock();
        content.refused.retain(|(refused, _)| *refused != part);
        content.refused.extend(status.map(|status| (part, status)));
    }

    /// Knows a user by her token, and what she may get.
    pub(crate) fn add_user(&self, token: &'static str, paths: &'static [&'static str]) {
        self.store.lock().users.insert(token, paths);
    }

    /// How many requests there were whose line, as in `GET /api/v1/pods?limit=1`, contains a text.
    pub(crate) fn requests(&self, part: &str) -> usize {
        self.store.lock().requests.iter().filter(|line| line.contains(part)).count()
    }
}

struct TlsListener {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, peer)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    /// Writes an object, or removes it, and tells who watches.
    fn write(&self, content: &mut Content, collection: &str, name: &str, mut object: Option<Value>) {
        let revision = *self.revision.borrow() + 1;
        if let Some(object) = &mut object {
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
        }
        let objects = content.objects.entry(collection.to_owned()).or_default();
        let before = match &object {
            Some(object) => objects.insert(name.to_owned(), object.clone()),
            None => objects.remove(name),
        };
        let after = object.or_else(|| before.clone().map(|_| Value::Null)).filter(|after| !after.is_null());
        content.changes.push(Change { revision, collection: collection.to_owned(), before, after });
        self.revision.send_replace(revision);
    }
}

type Parameters = HashMap<String, String>;

async fn serve(
    State(store): State<Arc<Store>>,
    method: Method,
    uri: Uri,
    Query(parameters): Query<Parameters>,
    body: Bytes,
) -> Response {
    let path = uri.path();
    {
        let mut content = store.lock();
        content.requests.push(format!("{method} {uri}"));
        if let Some((_, status)) = content.refused.iter().find(|(part, _)| path.contains(part)) {
            return refusal(*status, "Refused", "refused by the test");
        }
        if content.absent.iter().any(|collection| path.contains(collection)) {
            return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
        }
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match path {
        TOKEN_REVIEWS => return review_token(&store, body),
        ACCESS_REVIEWS => return review_access(&store, body),
        _ => {}
    }
    let (collection, name) = collection_and_name(path);
    match (method, name) {
        (Method::GET, None) if parameters.contains_key("watch") => {
            watch_collection(&store, &collection, parameters)
        }
        (Method::GET, None) => list(&store.lock(), &collection, &parameters, *store.revision.borrow()),
        (Method::GET, Some(name)) => get(&store.lock(), &collection, &name),
        (Method::POST, None) => create(&store, &collection, body),
        (Method::PUT, Some(name)) => replace(&store, &collection, &name, body),
        (Method::DELETE, Some(name)) => delete(&store, &collection, &name),
        _ => refusal(405, "MethodNotAllowed", "not served by the test"),
    }
}

/// `…/namespaces/NS/PLURAL[/NAME[/status]]` or `…/PLURAL`.
fn collection_and_name(path: &str) -> (String, Option<String>) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let start = parts.iter().position(|part| *part == "namespaces").map_or(parts.len(), |place| place + 3);
    let start = start.min(parts.len());
    (parts[..start].join("/"), parts.get(start).map(|name| (*name).to_owned()))
}

fn refusal(code: u16, reason: &str, message: &str) -> Response {
    answer(code, &failure(code, reason, message))
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code})
}

fn answer(code: u16, value: &Value) -> Response {
    let head = [("content-type", "application/json")];
    (StatusCode::from_u16(code).unwrap(), head, value.to_string()).into_response()
}

fn list(content: &Content, collection: &str, parameters: &Parameters, revision: u64) -> Response {
    let objects = content.objects.get(collection).into_iter().flat_map(BTreeMap::values);
    let all: Vec<&Value> = objects.filter(|object| selects(parameters, object)).collect();
    let start: usize = parameters.get("continue").map_or(0, |start| start.parse().unwrap());
    let limit: usize = parameters.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let page: Vec<&&Value> = all.iter().skip(start).take(limit).collect();
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if start + page.len() < all.len() {
        metadata["continue"] = json!((start + page.len()).to_string());
    }
    answer(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page}))
}

fn get(content: &Content, collection: &str, name: &str) -> Response {
    match content.objects.get(collection).and_then(|objects| objects.get(name)) {
        Some(object) => answer(200, object),
        None => refusal(404, "NotFound", &format!("{collection} \"{name}\" not found")),
    }
}

fn create(store: &Store, collection: &str, mut object: Value) -> Response {
    let content = &mut *store.lock();
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    if content.objects.get(collection).is_some_and(|objects| objects.contains_key(&name)) {
        return refusal(409, "AlreadyExists", &format!("{collection} \"{name}\" already exists"));
    }
    let namespace = collection.split('/').rev().nth(1).unwrap().to_owned();
    object["metadata"]["namespace"] = json!(namespace);
    object["metadata"]["uid"] = json!(format!("uid-{}", *store.revision.borrow() + 1));
    if object["metadata"]["creationTimestamp"].is_null() {
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    store.write(content, collection, &name, Some(object));
    get(content, collection, &name)
}

fn replace(store: &Store, collection: &str, name: &str, mut object: Value) -> Response {
    let content = &mut *store.lock();
    let Some(known) = content.objects.get(collection).and_then(|objects| objects.get(name)) else {
        return refusal(404, "NotFound", &format!("{collection} \"{name}\" not found"));
    };
    let version = &object["metadata"]["resourceVersion"];
    if !version.is_null() && *version != known["metadata"]["resourceVersion"] {
        let message =
            "the object has been modified; please apply your changes to the latest version and try again";
        return refusal(409, "Conflict", message);
    }
    for key in ["uid", "namespace", "creationTimestamp"] {
        object["metadata"][key] = known["metadata"][key].clone();
    }
    store.write(content, collection, name, Some(object));
    get(content, collection, name)
}

fn delete(store: &Store, collection: &str, name: &str) -> Response {
    let content = &mut *store.lock();
    let found = get(content, collection, name);
    if found.status() == StatusCode::OK {
        store.write(content, collection, name, None);
    }
    found
}

/// Selectors as far as the tests use them: `a=b,c=d` on labels, and the name.
fn selects(parameters: &Parameters, object: &Value) -> bool {
    let pairs = |name: &str| -> Vec<(String, String)> {
        let text = parameters.get(name).map_or("", String::as_str);
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let labels = &object["metadata"]["labels"];
    pairs("labelSelector").iter().all(|(key, value)| labels[key] == **value)
        && pairs("fieldSelector").iter().all(|(key, value)| match &**key {
            "metadata.name" => object["metadata"]["name"] == **value,
            other => panic!("field selector: {other}"),
        })
}

fn watch_collection(store: &Arc<Store>, collection: &str, parameters: Parameters) -> Response {
    let (events, stream) = mpsc::channel::<io::Result<Bytes>>(64);
    let (store, collection) = (Arc::clone(store), collection.to_owned());
    tokio::spawn(async move {
        let seconds: u64 = parameters.get("timeoutSeconds").map_or(60, |seconds| seconds.parse().unwrap());
        let mut breaks = store.breaks.subscribe();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            _ = breaks.changed() => drop(events.send(Err(io::Error::other("broken off by the test"))).await),
            () = send_changes(&store, &collection, &parameters, &events) => {}
        }
    });
    ([("content-type", "application/json")], Body::from_stream(ReceiverStream::new(stream))).into_response()
}

async fn send_changes(
    store: &Store,
    collection: &str,
    parameters: &Parameters,
    events: &mpsc::Sender<io::Result<Bytes>>,
) {
    let mut seen: u64 = parameters["resourceVersion"].parse().unwrap();
    let mut revision = store.revision.subscribe();
    let send = async |kind: &str, object: &Value| {
        let text = json!({"type": kind, "object": object}).to_string();
        // A line in two pieces, as networks deliver them.
        let (first, second) = text.split_at(text.len() / 2);
        events.send(Ok(Bytes::copy_from_slice(first.as_bytes()))).await.is_ok()
            && events.send(Ok(Bytes::from(format!("{second}\n")))).await.is_ok()
    };
    loop {
        let newest = *revision.borrow_and_update();
        let (is_gone, changes) = {
            let content = store.lock();
            let new = content
                .changes
                .iter()
                .filter(|change| change.revision > seen && change.collection == collection);
            (seen < content.compacted, new.cloned().collect::<Vec<_>>())
        };
        if is_gone {
            send("ERROR", &failure(410, "Expired", "too old resource version")).await;
            return;
        }
        for change in changes {
            let was_selected = change.before.as_ref().is_some_and(|object| selects(parameters, object));
            let is_selected = change.after.as_ref().is_some_and(|object| selects(parameters, object));
            let (kind, object) = match (was_selected, is_selected, change.after, change.before) {
                (false, true, Some(after), _) => ("ADDED", after),
                (true, true, Some(after), _) => ("MODIFIED", after),
                (true, false, _, Some(mut before)) => {
                    before["metadata"]["resourceVersion"] = json!(change.revision.to_string());
                    ("DELETED", before)
                }
                _ => continue,
            };
            if !send(kind, &object).await {
                return;
            }
        }
        seen = newest;
        if parameters.contains_key("allowWatchBookmarks") {
            let metadata = json!({"resourceVersion": newest.to_string(), "creationTimestamp": null});
            if !send("BOOKMARK", &json!({"kind": "Any", "apiVersion": "any/v1", "metadata": metadata})).await
            {
                return;
            }
        }
        tokio::select! {
            _ = revision.changed() => {}
            () = events.closed() => return,
        }
    }
}

fn review_token(store: &Store, mut review: Value) -> Response {
    let token = review["spec"]["token"].as_str().unwrap().to_owned();
    review["status"] = match store.lock().users.contains_key(&*token) {
        true => {
            json!({"authenticated": true, "user": {"username": token, "groups": ["system:authenticated"]}})
        }
        false => json!({"authenticated": false}),
    };
    answer(201, &review)
}

fn review_access(store: &Store, mut review: Value) -> Response {
    let user = review["spec"]["user"].as_str().unwrap().to_owned();
    let asked = &review["spec"]["nonResourceAttributes"];
    let path = asked["path"].as_str().unwrap();
    let allowed = asked["verb"] == "get"
        && store.lock().users.get(&*user).is_some_and(|paths| paths.contains(&path))
        && review["spec"]["groups"][0] == "system:authenticated";
    review["status"] = json!({"allowed": allowed});
    answer(201, &review)
}
