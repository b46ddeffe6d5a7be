//! The addresses behind a DNS name, asked for again when the answer has aged.
//!
//! `llama.models.svc.cluster.local:8000` is one endpoint per address of the name: of a headless Service, one per ready pod.
//! `_http._tcp.llama.models.svc.cluster.local` is one per SRV record, each with its own port. IPv6 addresses count only where
//! there is no IPv4 one, because a pod of a dual-stack Service has both and is one endpoint.
//!
//! What is known stays in force while the name cannot be resolved. An answer without addresses stays without effect for a
//! minute, too: a Service shows it when all its pods fail their readiness probes, as engines under overload do, and then the
//! pods that still serve are better than none. Which of them are dead shows in the scrapes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use p3sched::Endpoint;
use tokio::time::sleep;

use super::Pool;
use crate::health::Condition;

/// Time that a name server has for an answer, and how often it is asked.
const ANSWER_TIME: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// A name that stands for endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName {
    name: Name,
    /// `None` where SRV records say it.
    port: Option<u16>,
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for DnsName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be name:port, or _port._protocol.name for SRV records: `{text}`");
        let (name, port) = match text.rsplit_once(':') {
            None if text.starts_with('_') => (text, None),
            Some((name, port)) if !text.starts_with('_') => {
                (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?))
            }
            _ => return Err(wrong()),
        };
        if name.is_empty() || name.parse::<IpAddr>().is_ok() {
            return Err(wrong());
        }
        Ok(Self { name: Name::from_utf8(name).map_err(|_| wrong())?, port })
    }
}

/// How often a name is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two questions at least, and after the first failure; later failures double it.
    pub shortest: Duration,
    /// Between two questions at most.
    pub longest: Duration,
    /// How long an answer without addresses has no effect.
    pub grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let [shortest, longest, grace] = [1, 30, 60].map(Duration::from_secs);
        Self { shortest, longest, grace }
    }
}

/// Resolves one name.
pub struct Dns {
    name: DnsName,
    resolver: TokioResolver,
    pace: Pace,
}

impl Dns {
    /// A resolver that asks `server`, else those that the system is configured for.
    ///
    /// # Errors
    ///
    /// The configuration of the system cannot be read.
    pub fn new(name: DnsName, server: Option<SocketAddr>, pace: Pace) -> Result<Self, String> {
        let unusable = |error| {
            format!(
                "cannot read the name servers of this machine, {error}; hint: name one with `--dns-server`: `/etc/resolv.conf`"
            )
        };
        let mut builder = match server {
            Some(server) => {
                let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
                name_server.connections.iter_mut().for_each(|connection| connection.port = server.port());
                let config = ResolverConfig::from_name_servers(vec![name_server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
            None => TokioResolver::builder_tokio().map_err(unusable)?,
        };
        let options = builder.options_mut();
        (options.timeout, options.attempts) = (ANSWER_TIME, ATTEMPTS);
        // When to ask again is decided here.
        options.cache_size = 0;
        Ok(Self { name, resolver: builder.build().map_err(unusable)?, pace })
    }

    /// Keeps the pool at what the name stands for until the task is dropped; `resolved` holds from the first answer on.
    pub async fn follow(self, pool: Arc<Pool>, mut resolved: Condition) {
        let mut retry = self.pace.shortest;
        let mut empty_since = None;
        let mut is_reported = false;
        loop {
            let name = &self.name.name;
            let answer = self.resolve().await;
            if answer.is_ok() {
                resolved.set(true);
            }
            let wait = match answer {
                Ok(found) if !found.endpoints.is_empty() => {
                    (retry, empty_since, is_reported) = (self.pace.shortest, None, false);
                    put(&pool, found.endpoints);
                    found.valid_until.saturating_duration_since(Instant::now())
                }
                answer => {
                    if !is_reported {
                        let error =
                            answer.as_ref().err().map_or("no addresses".to_owned(), ToString::to_string);
                        tracing::warn!(%name, error, "name is not resolved, the last endpoints stay in force");
                    }
                    is_reported = true;
                    match answer {
                        Ok(_)
                            if empty_since.get_or_insert_with(Instant::now).elapsed() >= self.pace.grace =>
                        {
                            put(&pool, Vec::new());
                        }
                        Ok(_) => {}
                        Err(_) => empty_since = None,
                    }
                    retry *= 2;
                    retry / 2
                }
            };
            retry = retry.min(self.pace.longest);
            sleep(wait.clamp(self.pace.shortest, self.pace.longest)).await;
        }
    }

    async fn resolve(&self) -> Result<Found, NetError> {
        let mut found = Found::default();
        match self.name.port {
            Some(port) => {
                let addresses = self.addresses(&self.name.name, &mut found).await?;
                found.add(addresses, port);
            }
            None => self.resolve_services(&mut found).await?,
        }
        found.endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        found.endpoints.dedup();
        Ok(found)
    }

    async fn resolve_services(&self, found: &mut Found) -> Result<(), NetError> {
        let Some(lookup) = self.lookup(&self.name.name, RecordType::SRV, found).await? else { return Ok(()) };
        let services = || {
            lookup.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(service) => Some(service),
                _ => None,
            })
        };
        // The others are spares.
        let first = services().map(|service| service.priority).min();
        for service in services().filter(|service| Some(service.priority) == first) {
            let addresses = match glue(&lookup, service) {
                addresses if !addresses.is_empty() => addresses,
                _ => self.addresses(&service.target, found).await?,
            };
            found.add(addresses, service.port);
        }
        Ok(())
    }

    /// IPv4 addresses, else IPv6 ones.
    async fn addresses(&self, name: &Name, found: &mut Found) -> Result<Vec<IpAddr>, NetError> {
        for family in [RecordType::A, RecordType::AAAA] {
            if let Some(lookup) = self.lookup(name, family, found).await? {
                return Ok(lookup.answers().iter().filter_map(|record| address(&record.data)).collect());
            }
        }
        Ok(Vec::new())
    }

    /// `None` if there are no such records.
    async fn lookup(
        &self,
        name: &Name,
        record_type: RecordType,
        found: &mut Found,
    ) -> Result<Option<Lookup>, NetError> {
        match self.resolver.lookup(name.clone(), record_type).await {
            Ok(lookup) => {
                found.valid_until = found.valid_until.min(lookup.valid_until());
                Ok(Some(lookup))
            }
            Err(error) if error.is_no_records_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What a name stands for, and for how long.
struct Found {
    endpoints: Vec<Endpoint>,
    valid_until: Instant,
}

impl Default for Found {
    fn default() -> Self {
        Self { endpoints: Vec::new(), valid_until: Instant::now() + Duration::from_secs(86_400) }
    }
}

impl Found {
    fn add(&mut self, addresses: Vec<IpAddr>, port: u16) {
        let names = addresses.into_iter().map(|address| SocketAddr::new(address, port).to_string());
        self.endpoints.extend(names.map(Endpoint::new));
    }
}

/// The addresses of a service that came along with it.
fn glue(lookup: &Lookup, service: &SRV) -> Vec<IpAddr> {
    let records = lookup.additionals().iter().filter(|record| record.name == service.target);
    let (mut v4, v6): (Vec<_>, Vec<_>) =
        records.filter_map(|record| address(&record.data)).partition(IpAddr::is_ipv4);
    if v4.is_empty() {
        v4 = v6;
    }
    v4
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

fn put(pool: &Pool, endpoints: Vec<Endpoint>) {
    if *endpoints == *pool.endpoints() {
        return;
    }
    if let Err(error) = pool.set(endpoints) {
        tracing::warn!(%error, "endpoints refused, the last ones stay in force");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_port_or_are_those_of_services() {
        let parts = |text: &str| text.parse::<DnsName>().map(|name| (name.name.to_string(), name.port));
        assert_eq!(parts("llama.models.svc:8000"), Ok(("llama.models.svc".to_owned(), Some(8000))));
        assert_eq!(parts("llama.:80"), Ok(("llama.".to_owned(), Some(80))));
        assert_eq!(parts("_http._tcp.llama"), Ok(("_http._tcp.llama".to_owned(), None)));
        for wrong in [
            "",
            "llama",
            "llama:0",
            "llama:http",
            ":8000",
            "_http._tcp.llama:8000",
            "10.0.0.1:8000",
            "a..b:1",
        ] {
            assert!(parts(wrong).unwrap_err().ends_with(&format!(": `{wrong}`")), "{wrong}");
        }
    }
}
