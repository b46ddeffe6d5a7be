//! Who may see the page and `/api`. `/metrics` and `/healthz` are for everyone who reaches the port, unless
//! `review` asks for a token.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use clap::ValueEnum;

use super::api::ApiError;

/// From where the page and `/api` are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AdminAccess {
    /// From the machine or pod itself, which is where `kubectl port-forward` comes from
    #[default]
    Loopback,
    /// From everywhere
    All,
    /// From nowhere
    None,
}

/// What is asked of whoever wants to see the page or `/api`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// From where.
    pub from: AdminAccess,
    /// Names in a browser's address line that are right, beside `localhost` and addresses.
    pub hosts: Vec<String>,
}

/// Answers 403 or 421 instead of the route where the rules say so.
pub(super) async fn check(State(rules): State<Arc<AccessRules>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    match rules.refusal(peer, request.headers()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

impl AccessRules {
    fn refusal(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<ApiError> {
        if !self.admits(peer) {
            return Some(ApiError {
                status: StatusCode::FORBIDDEN,
                code: "Forbidden",
                message: "the page and `/api` are not served to this address; hint: use `kubectl port-forward`, or start the server with `--admin-access=all`".to_owned(),
            });
        }
        let host = headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
        if let Some(host) = host.filter(|host| !self.knows(host)) {
            return Some(ApiError {
                status: StatusCode::MISDIRECTED_REQUEST,
                code: "MisdirectedRequest",
                message: format!(
                    "unknown host; hint: open `localhost` or an address, or name the host with `--admin-host`: `{host}`"
                ),
            });
        }
        // Set by browsers alone; another site's script may send requests here, though it cannot read the answers.
        let own_site =
            headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
        let opens_page = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
        (!own_site && !opens_page).then(|| ApiError {
            status: StatusCode::FORBIDDEN,
            code: "Forbidden",
            message: "asked for by another site".to_owned(),
        })
    }

    fn admits(&self, peer: Option<IpAddr>) -> bool {
        match self.from {
            AdminAccess::All => true,
            AdminAccess::None => false,
            // Not all of 127.0.0.0/8: Istio's sidecar brings requests of other pods from 127.0.0.6.
            AdminAccess::Loopback => peer.is_some_and(|peer| {
                let peer = peer.to_canonical();
                peer == Ipv4Addr::LOCALHOST || peer == Ipv6Addr::LOCALHOST
            }),
        }
    }

    /// Whether a browser that names this host means this server.
    ///
    /// A foreign site can let its own name point here, and its scripts could then read what they ask for.
    fn knows(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn status(rules: &AccessRules, peer: &str, headers: &[(&'static str, &str)]) -> Option<u16> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let refusal = rules.refusal(Some(peer.parse().unwrap()), &headers.collect());
        refusal.map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn only_the_machine_itself_sees_the_page_unless_it_is_opened() {
        let rules = |from| AccessRules { from, ..AccessRules::default() };
        for (from, peer, expected) in [
            (AdminAccess::Loopback, "127.0.0.1", None),
            (AdminAccess::Loopback, "::1", None),
            (AdminAccess::Loopback, "::ffff:127.0.0.1", None),
            (AdminAccess::Loopback, "127.0.0.6", Some(403)),
            (AdminAccess::Loopback, "10.0.0.7", Some(403)),
            (AdminAccess::All, "10.0.0.7", None),
            (AdminAccess::None, "127.0.0.1", Some(403)),
        ] {
            assert_eq!(status(&rules(from), peer, &[]), expected, "{from:?} {peer}");
        }
        assert!(AccessRules::default().refusal(None, &HeaderMap::new()).is_some(), "an unknown peer");
    }

    #[test]
    fn a_foreign_name_for_this_server_is_refused() {
        let rules = AccessRules { hosts: vec!["picker.example".to_owned()], ..AccessRules::default() };
        for (host, expected) in [
            ("localhost:9090", None),
            ("LOCALHOST", None),
            ("127.0.0.1:9090", None),
            ("[::1]:9090", None),
            ("10.0.0.7", None),
            ("picker.example:9090", None),
            ("rebound.example", Some(421)),
            ("localhost.rebound.example:9090", Some(421)),
            ("", Some(421)),
        ] {
            assert_eq!(status(&rules, "127.0.0.1", &[("host", host)]), expected, "{host}");
        }
    }

    #[test]
    fn other_sites_may_link_to_the_page_and_ask_for_nothing() {
        let rules = AccessRules::default();
        for (site, mode, expected) in [
            ("same-origin", "cors", None),
            ("none", "navigate", None),
            ("cross-site", "navigate", None),
            ("cross-site", "no-cors", Some(403)),
            ("same-site", "cors", Some(403)),
        ] {
            let headers = [("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            assert_eq!(status(&rules, "127.0.0.1", &headers), expected, "{site} {mode}");
        }
    }
}
