//! Who may read the admin port, as the Kubernetes API says: `--metrics-endpoint-auth`.
//!
//! A request brings the token of a service account (`Authorization: Bearer …`). A `TokenReview` says whose it is, a
//! `SubjectAccessReview` whether that account may do with the path what it asks for, as a `ClusterRole` with
//! `nonResourceURLs: ["/metrics"]` and `verbs: ["get"]` allows it. The page and `/api` ask the same of everybody but the machine
//! itself, where `kubectl port-forward` ends, which the API has let through already. `/healthz` is for everyone.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client, Error};
use moka::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::discovery::kubernetes::client_error;

/// How long an answer counts; a scrape comes every few seconds.
const REMEMBERED: Duration = Duration::from_secs(30);
const MAX_REMEMBERED: u64 = 1_000;
/// Questions that the API is asked at a time: whoever reaches the port can make up new tokens without end.
const MAX_ASKED: usize = 8;
/// An API that takes longer for an answer counts as away; waiting for a turn counts too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the API, and remembers its answers for a moment.
pub struct Reviewer {
    client: Client,
    verdicts: Cache<Question, Verdict>,
    turns: Semaphore,
}

/// Not to be shown: it holds a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    token: String,
    verb: String,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allowed,
    /// The token is nobody's.
    Unknown,
    /// Its owner may not do that.
    Forbidden,
}

impl Reviewer {
    /// A reviewer that has not asked yet.
    pub fn new(client: Client) -> Self {
        let verdicts = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build();
        Self { client, verdicts, turns: Semaphore::new(MAX_ASKED) }
    }

    async fn review(&self, question: Question) -> Result<Verdict, String> {
        if let Some(verdict) = self.verdicts.get(&question) {
            return Ok(verdict);
        }
        match timeout(ANSWER_TIMEOUT, self.ask(question)).await {
            Ok(answer) => answer.map_err(|error| client_error(&error)),
            Err(_elapsed) => Err("no answer in time".to_owned()),
        }
    }

    async fn ask(&self, question: Question) -> Result<Verdict, Error> {
        let _turn = self.turns.acquire().await;
        let verdict = match self.user(&question.token).await? {
            None => Verdict::Unknown,
            Some(user) => match self.may(user, &question).await? {
                true => Verdict::Allowed,
                false => Verdict::Forbidden,
            },
        };
        self.verdicts.insert(question, verdict);
        Ok(verdict)
    }

    async fn user(&self, token: &str) -> Result<Option<UserInfo>, Error> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = answer.status.unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated == Some(true)))
    }

    async fn may(&self, user: UserInfo, question: &Question) -> Result<bool, Error> {
        let attributes =
            NonResourceAttributes { path: Some(question.path.clone()), verb: Some(question.verb.clone()) };
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            non_resource_attributes: Some(attributes),
            resource_attributes: None,
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// Answers 401, 403 or 503 instead of the route where the API does not let the request through.
pub(super) async fn check(
    State(reviewer): State<Option<Arc<Reviewer>>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(reviewer) = reviewer.filter(|_| !is_exempt(&request)) else { return next.run(request).await };
    let Some(token) = bearer_token(request.headers()) else { return unauthorized() };
    let verb = request.method().as_str().to_ascii_lowercase();
    let question = Question { token: token.to_owned(), verb, path: request.uri().path().to_owned() };
    match reviewer.review(question).await {
        Ok(Verdict::Allowed) => next.run(request).await,
        Ok(Verdict::Unknown) => unauthorized(),
        Ok(Verdict::Forbidden) => {
            (StatusCode::FORBIDDEN, "this account may not read this path\n").into_response()
        }
        Err(error) => {
            tracing::warn!(error, "Kubernetes API reviews no token");
            (StatusCode::SERVICE_UNAVAILABLE, "the Kubernetes API reviews no token\n").into_response()
        }
    }
}

/// The page and `/api` from the machine itself.
fn is_exempt(request: &Request) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical());
    let is_local = peer.is_some_and(|peer| peer == Ipv4Addr::LOCALHOST || peer == Ipv6Addr::LOCALHOST);
    is_local && request.uri().path() != "/metrics"
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unauthorized() -> Response {
    let hint = "send the token of a service account: `Authorization: Bearer …`\n";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], hint).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn only_the_page_is_open_to_the_machine_itself() {
        for (peer, path, exempt) in [
            ("127.0.0.1:1", "/", true),
            ("[::ffff:127.0.0.1]:1", "/api/endpoints", true),
            ("127.0.0.1:1", "/metrics", false),
            ("127.0.0.6:1", "/", false),
            ("10.0.0.7:1", "/api/endpoints", false),
        ] {
            let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert!(!is_exempt(&request), "an unknown peer");
            request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
            assert_eq!(is_exempt(&request), exempt, "{peer} {path}");
        }
    }

    #[test]
    fn a_token_is_read_as_http_writes_it() {
        for (written, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer ", None),
            ("abc", None),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, written.parse().unwrap())]);
            assert_eq!(bearer_token(&headers), token, "{written}");
        }
    }
}
