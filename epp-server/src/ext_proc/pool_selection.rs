//! Which pool a request is for, where one server picks for several.
//!
//! In this order: the pool that a header or the gateway's metadata names, if the settings say which; the one whose authorities
//! have the request's `:authority`; the one with the longest pattern `*.domain` that fits it; the first one.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::google::protobuf::value::Kind;

use super::messages::request_headers;
use super::router::Router;

/// What names a pool, beside the authority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedBy {
    /// A request header, in lower case.
    pub header: Option<String>,
    /// Namespace and key of the gateway's dynamic metadata.
    pub metadata: Option<(String, String)>,
}

/// One router for each pool.
pub struct Routers {
    first: Arc<Router>,
    /// Those beside the first one, by what selects them.
    by_name: HashMap<String, Arc<Router>>,
    by_authority: HashMap<String, Arc<Router>>,
    /// By the domain with its leading dot, longest first.
    by_domain: Vec<(String, Arc<Router>)>,
    named_by: NamedBy,
}

impl Routers {
    /// All requests go to the first pool.
    pub fn new(first: Arc<Router>, named_by: NamedBy) -> Self {
        let (by_name, by_authority) = (HashMap::new(), HashMap::new());
        Self { first, by_name, by_authority, by_domain: Vec::new(), named_by }
    }

    /// Requests of these authorities, or that name the pool, go to a router: `host` or `*.domain`, ports left out.
    #[must_use]
    pub fn with_pool(mut self, name: &str, authorities: &[String], router: &Arc<Router>) -> Self {
        self.by_name.insert(name.to_owned(), Arc::clone(router));
        for authority in authorities {
            let authority = host(authority).to_ascii_lowercase();
            match authority.strip_prefix('*') {
                Some(domain) => self.by_domain.push((domain.to_owned(), Arc::clone(router))),
                None => drop(self.by_authority.insert(authority, Arc::clone(router))),
            }
        }
        self.by_domain.sort_by_key(|(domain, _)| std::cmp::Reverse(domain.len()));
        self
    }

    /// The router of the first pool.
    pub fn first(&self) -> &Arc<Router> {
        &self.first
    }

    /// The router for the request whose headers come with a message; `None` for a message without.
    pub(super) fn select(&self, message: &ProcessingRequest) -> Option<&Arc<Router>> {
        let headers = request_headers(message)?;
        if self.by_name.is_empty() {
            return Some(&self.first);
        }
        let headers: HashMap<&[u8], &[u8]> = headers.collect();
        let header = |name: &str| headers.get(name.as_bytes()).copied();
        let named =
            self.named_by.header.as_deref().and_then(header).and_then(|name| str::from_utf8(name).ok());
        let named = named.or_else(|| metadata(message, self.named_by.metadata.as_ref()?));
        if let Some(router) = named.and_then(|name| self.by_name.get(name)) {
            return Some(router);
        }
        let authority = header(":authority").or_else(|| header("host")).unwrap_or_default();
        Some(self.of_authority(str::from_utf8(authority).unwrap_or_default()))
    }

    fn of_authority(&self, authority: &str) -> &Arc<Router> {
        let host = host(authority).to_ascii_lowercase();
        let of_domain =
            || self.by_domain.iter().find(|(domain, _)| host.ends_with(domain)).map(|(_, router)| router);
        self.by_authority.get(&host).or_else(of_domain).unwrap_or(&self.first)
    }
}

fn metadata<'a>(message: &'a ProcessingRequest, (namespace, key): &(String, String)) -> Option<&'a str> {
    let namespaces = &message.metadata_context.as_ref()?.filter_metadata;
    match namespaces.get(namespace)?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(name) => Some(name),
        _ => None,
    }
}

/// An authority without its port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
    use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, processing_request};
    use envoy_types::pb::google::protobuf::{Struct, Value};
    use p3sched::{Scheduler, SchedulerConfig};

    use super::*;
    use crate::admin::metrics::Metrics;
    use crate::admin::recorder::Recorder;
    use crate::discovery::Pool;
    use crate::ext_proc::router::RoutingSettings;

    fn router() -> Arc<Router> {
        let pool = Arc::new(Pool::new(Arc::new(Scheduler::new(SchedulerConfig::default()).unwrap())));
        let recorder = Arc::new(Recorder::new(false).unwrap());
        Arc::new(Router::new(pool, Arc::new(Metrics::new()), recorder, RoutingSettings::default()))
    }

    fn request(headers: &[(&str, &str)], metadata: Option<&str>) -> ProcessingRequest {
        let header = |&(key, value): &(&str, &str)| HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let headers = Some(HeaderMap { headers: headers.iter().map(header).collect() });
        let message = HttpHeaders { headers, ..HttpHeaders::default() };
        let fields = metadata.map(|name| {
            let value = Value { kind: Some(Kind::StringValue(name.to_owned())) };
            ("envoy.lb".to_owned(), Struct { fields: HashMap::from([("pool".to_owned(), value)]) })
        });
        let filter_metadata = fields.into_iter().collect();
        ProcessingRequest {
            request: Some(processing_request::Request::RequestHeaders(message)),
            metadata_context: Some(Metadata { filter_metadata, ..Metadata::default() }),
            ..ProcessingRequest::default()
        }
    }

    #[test]
    fn the_request_says_which_pool_it_is_for() {
        let pools = [router(), router(), router()];
        let named_by = NamedBy {
            header: Some("x-pool".to_owned()),
            metadata: Some(("envoy.lb".to_owned(), "pool".to_owned())),
        };
        let authorities = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let routers = Routers::new(Arc::clone(&pools[0]), named_by)
            .with_pool("models/first", &[], &pools[0])
            .with_pool(
                "models/chat",
                &authorities(&["Chat.example.com", "*.example.com", "[fd00::1]"]),
                &pools[1],
            )
            .with_pool("models/code", &authorities(&["*.code.example.com"]), &pools[2]);
        for (headers, metadata, expected) in [
            (&[(":authority", "chat.example.com")][..], None, 1),
            (&[(":authority", "CHAT.example.com:8080")], None, 1),
            (&[("host", "chat.example.com")], None, 1),
            (&[(":authority", "other.example.com")], None, 1),
            (&[(":authority", "a.code.example.com")], None, 2),
            (&[(":authority", "[fd00::1]:80")], None, 1),
            (&[(":authority", "example.com")], None, 0),
            (&[(":authority", "badexample.com")], None, 0),
            (&[], None, 0),
            (&[(":authority", "chat.example.com"), ("x-pool", "models/code")], None, 2),
            (&[(":authority", "chat.example.com"), ("x-pool", "models/first")], None, 0),
            (&[(":authority", "chat.example.com"), ("x-pool", "nobody")], None, 1),
            (&[(":authority", "chat.example.com")], Some("models/code"), 2),
            (&[("x-pool", "models/chat")], Some("models/code"), 1),
        ] {
            let selected = routers.select(&request(headers, metadata)).unwrap();
            assert!(Arc::ptr_eq(selected, &pools[expected]), "{headers:?} {metadata:?}");
        }
        assert!(routers.select(&ProcessingRequest::default()).is_none());
    }
}
