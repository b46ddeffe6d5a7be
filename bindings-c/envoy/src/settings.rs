//! What the filter is told: JSON in `filter_config`.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use p3sched::{Endpoint, SchedulerConfig};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The configuration of a filter; unknown fields are errors.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How endpoints are picked.
    #[serde(default)]
    pub scheduler: SchedulerConfig,
    /// The endpoints; not beside `cluster`.
    endpoints: Option<Vec<EndpointEntry>>,
    /// The cluster of Envoy whose hosts are the endpoints; not beside `endpoints`.
    pub cluster: Option<ClusterSettings>,
    /// How the engines' metrics are read; without it they are not.
    pub scrape: Option<ScrapeSettings>,
    /// How Envoy is told the host.
    #[serde(default)]
    pub pick_to: PickTo,
    /// What happens to a request for which there is no answer.
    #[serde(default)]
    pub failure_mode: FailureMode,
    /// Largest request body in bytes.
    #[serde(default = "default_max_body_bytes")]
    pub max_body_bytes: u64,
    /// Whether every decision is explained in dynamic metadata.
    #[serde(default)]
    pub explanation: bool,
}

/// Where the endpoints come from when Envoy knows them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Name of the cluster whose hosts are the endpoints.
    pub name: String,
    /// Name of a cluster that leads to Envoy's own admin interface, which lists them.
    pub admin_cluster: String,
    /// Time between two looks, in seconds.
    #[serde(default = "default_cluster_period")]
    period_seconds: f64,
}

/// How metrics are read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrapeSettings {
    /// Name of a cluster that sends a request to the address in the header `x-gateway-destination-endpoint`.
    pub cluster: String,
    /// Path of the metrics page.
    #[serde(default = "default_scrape_path")]
    pub path: String,
    /// Port of the metrics page, where it is not the endpoint's own.
    #[serde(default)]
    pub port: Option<u16>,
    /// Time between two scrapes of an endpoint, in seconds.
    #[serde(default = "default_scrape_period")]
    period_seconds: f64,
    /// Longest time for an answer, in seconds.
    #[serde(default = "default_scrape_timeout")]
    timeout_seconds: f64,
}

/// How Envoy is told the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PickTo {
    /// By Envoy's own call for it; any load-balancing policy of the cluster stays as it is.
    #[default]
    OverrideHost,
    /// In the request header `x-gateway-destination-endpoint`.
    Header,
    /// In the dynamic metadata `envoy.lb` / `x-gateway-destination-endpoint`.
    Metadata,
}

/// What happens to a request for which the scheduler has no answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureMode {
    /// Envoy's own load balancer chooses.
    #[default]
    FailOpen,
    /// The client gets a 503, or a 500 where the module has a mistake.
    FailClosed,
}

impl Settings {
    /// Reads and checks the JSON in `filter_config`.
    ///
    /// # Errors
    ///
    /// The message names what is wrong, with line and column where it has one.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let settings: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        settings.check()?;
        Ok(settings)
    }

    /// The endpoints that are listed; none if they come from a cluster.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.iter().flatten().map(|entry| entry.0.clone()).collect()
    }

    fn check(&self) -> Result<(), String> {
        match (&self.endpoints, &self.cluster) {
            (Some(_), Some(_)) => return Err("`endpoints` and `cluster` exclude each other".to_owned()),
            (None, None) => return Err("`endpoints` or `cluster` is missing".to_owned()),
            _ => {}
        }
        let limit = self.max_body_bytes;
        if limit == 0 || limit > u64::from(u32::MAX) {
            return Err(format!("`max_body_bytes` must be 1 to {}: `{limit}`", u32::MAX));
        }
        if let Some(cluster) = &self.cluster {
            check_seconds("cluster.period_seconds", cluster.period_seconds)?;
        }
        if let Some(scrape) = &self.scrape {
            check_seconds("scrape.period_seconds", scrape.period_seconds)?;
            check_seconds("scrape.timeout_seconds", scrape.timeout_seconds)?;
            if !scrape.path.starts_with('/') {
                return Err(format!("`scrape.path` must begin with a slash: `{}`", scrape.path));
            }
        }
        Ok(())
    }
}

impl ClusterSettings {
    /// Time between two looks.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(self.period_seconds)
    }
}

impl ScrapeSettings {
    /// Time between two scrapes of an endpoint.
    pub fn period(&self) -> Duration {
        Duration::from_secs_f64(self.period_seconds)
    }

    /// Longest time for an answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_seconds)
    }
}

/// An endpoint: `"10.0.0.7:8000"`, or `{"name": "10.0.0.7:8000", "labels": {…}}`.
#[derive(Debug, Clone, PartialEq)]
struct EndpointEntry(Endpoint);

impl<'de> Deserialize<'de> for EndpointEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = EndpointEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an endpoint as `ip:port` or as an object with `name` and `labels`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<EndpointEntry, E> {
        checked(Endpoint::new(name)).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointEntry, A::Error> {
        let endpoint = Endpoint::deserialize(de::value::MapAccessDeserializer::new(map))?;
        checked(endpoint).map_err(de::Error::custom)
    }
}

/// Envoy sends a request to an address only, and knows it in its usual form.
fn checked(mut endpoint: Endpoint) -> Result<EndpointEntry, String> {
    match endpoint.name.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => {
            endpoint.name = address.to_string().into();
            Ok(EndpointEntry(endpoint))
        }
        _ => Err(format!("endpoint must be ip:port, with IPv6 in brackets: `{}`", endpoint.name)),
    }
}

fn check_seconds(name: &str, seconds: f64) -> Result<(), String> {
    /// Finer than this, Envoy's main thread would have little time for anything else.
    const SHORTEST: f64 = 0.01;
    if (SHORTEST..=3_600.0).contains(&seconds) {
        return Ok(());
    }
    Err(format!("`{name}` must be {SHORTEST} to 3600: `{seconds}`"))
}

fn default_max_body_bytes() -> u64 {
    64 << 20
}

fn default_cluster_period() -> f64 {
    1.0
}

fn default_scrape_path() -> String {
    "/metrics".to_owned()
}

fn default_scrape_period() -> f64 {
    0.1
}

fn default_scrape_timeout() -> f64 {
    2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        let settings =
            Settings::read(br#"{"endpoints": ["10.0.0.1:8000"], "scrape": {"cluster": "m"}}"#).unwrap();
        assert_eq!(settings.endpoints(), [Endpoint::new("10.0.0.1:8000")]);
        assert_eq!(settings.scheduler, SchedulerConfig::default());
        assert_eq!((settings.pick_to, settings.failure_mode), (PickTo::OverrideHost, FailureMode::FailOpen));
        assert_eq!((settings.max_body_bytes, settings.explanation), (64 << 20, false));
        let scrape = settings.scrape.unwrap();
        assert_eq!((scrape.path.as_str(), scrape.port), ("/metrics", None));
        assert_eq!((scrape.period(), scrape.timeout()), (Duration::from_millis(100), Duration::from_secs(2)));
    }

    #[test]
    fn everything_can_be_set() {
        let json = br#"{
            "scheduler": {"preset": "latency", "fallbacks": 1},
            "cluster": {"name": "pool", "admin_cluster": "admin", "period_seconds": 5},
            "scrape": {"cluster": "m", "path": "/stats", "port": 9090, "period_seconds": 0.5, "timeout_seconds": 1},
            "pick_to": "metadata", "failure_mode": "fail-closed", "max_body_bytes": 1000, "explanation": true
        }"#;
        let settings = Settings::read(json).unwrap();
        assert_eq!(settings.scheduler.preset, "latency");
        assert_eq!(settings.cluster.as_ref().unwrap().period(), Duration::from_secs(5));
        assert_eq!(settings.scrape.as_ref().unwrap().port, Some(9090));
        assert_eq!((settings.pick_to, settings.failure_mode), (PickTo::Metadata, FailureMode::FailClosed));
        assert!(settings.endpoints().is_empty() && settings.explanation);
    }

    #[test]
    fn an_endpoint_may_have_labels_and_is_named_as_envoy_does() {
        let json =
            br#"{"endpoints": ["[FD00:0::7]:08000", {"name": "10.0.0.2:1", "labels": {"zone": "b"}}]}"#;
        let endpoints = Settings::read(json).unwrap().endpoints();
        assert_eq!(&*endpoints[0].name, "[fd00::7]:8000");
        assert_eq!(endpoints[1].labels["zone"], "b");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, parts) in [
            (r#"{"endpoint": []}"#, &["unknown field `endpoint`", "line 1 column 11"][..]),
            ("{}", &["`endpoints` or `cluster` is missing"]),
            (r#"{"endpoints": [], "cluster": {"name": "a", "admin_cluster": "b"}}"#, &["exclude each other"]),
            (r#"{"endpoints": ["engine:8000"]}"#, &["must be ip:port", "`engine:8000`"]),
            (r#"{"endpoints": [{"name": "10.0.0.1:0"}]}"#, &["must be ip:port", "`10.0.0.1:0`"]),
            (r#"{"endpoints": [], "scheduler": {"fallback": 1}}"#, &["unknown field `fallback`"]),
            (r#"{"endpoints": [], "pick_to": "body"}"#, &["unknown variant `body`", "`override-host`"]),
            (r#"{"endpoints": [], "failure_mode": "500"}"#, &["unknown variant `500`", "`fail-closed`"]),
            (r#"{"endpoints": [], "max_body_bytes": 0}"#, &["`max_body_bytes` must be 1 to", "`0`"]),
            (
                r#"{"endpoints": [], "scrape": {"cluster": "m", "period_seconds": 0}}"#,
                &["`scrape.period_seconds` must be 0.01 to 3600: `0`"],
            ),
            (r#"{"endpoints": [], "scrape": {}}"#, &["missing field `cluster`"]),
            (r#"{"endpoints": [], "scrape": {"cluster": "m", "path": "metrics"}}"#, &["slash: `metrics`"]),
            ("", &["EOF while parsing"]),
        ] {
            let error = Settings::read(json.as_bytes()).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{json}: {error}");
            }
        }
    }
}
