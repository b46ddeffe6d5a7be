//! The hosts of a cluster, as Envoy's admin interface lists them under `/clusters?format=json`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use p3sched::Endpoint;
use serde::Deserialize;

/// Where the admin interface lists them.
pub const PATH: &str = "/clusters?format=json";

/// Reads the hosts of `cluster` that Envoy would send requests to.
///
/// Left out are hosts that failed their health check or that the control plane says are unhealthy or leaving, and those whose
/// address is no IP address.
///
/// # Errors
///
/// The page is not what it should be, or there is no such cluster.
pub fn endpoints(cluster: &str, page: &[u8]) -> Result<Vec<Endpoint>, String> {
    let page: Page = serde_json::from_slice(page).map_err(|error| format!("no list of clusters: {error}"))?;
    let known = page.cluster_statuses.into_iter().find(|known| known.name == cluster);
    let known = known.ok_or_else(|| format!("no such cluster: `{cluster}`"))?;
    Ok(known.host_statuses.into_iter().filter_map(Host::endpoint).collect())
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    cluster_statuses: Vec<Cluster>,
}

#[derive(Deserialize)]
struct Cluster {
    name: String,
    #[serde(default)]
    host_statuses: Vec<Host>,
}

#[derive(Deserialize)]
struct Host {
    address: Address,
    #[serde(default)]
    health_status: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Address {
    socket_address: Option<SocketAddress>,
}

#[derive(Deserialize)]
struct SocketAddress {
    address: String,
    port_value: u16,
}

impl Host {
    fn endpoint(self) -> Option<Endpoint> {
        let is_bad = self.health_status.iter().any(|(kind, value)| match kind.as_str() {
            "eds_health_status" => matches!(value.as_str(), Some("UNHEALTHY" | "DRAINING" | "TIMEOUT")),
            "failed_active_health_check" | "pending_dynamic_removal" => value.as_bool() == Some(true),
            _ => false,
        });
        let address = self.address.socket_address.filter(|_| !is_bad)?;
        let ip: IpAddr = address.address.parse().ok()?;
        Some(Endpoint::new(SocketAddr::from((ip, address.port_value)).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"{"cluster_statuses": [
        {"name": "admin", "host_statuses": []},
        {"name": "pool", "added_via_api": true, "host_statuses": [
            {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 8000}}, "weight": 1,
             "health_status": {"eds_health_status": "HEALTHY"}},
            {"address": {"socket_address": {"address": "fd00::7", "port_value": 8000}}},
            {"address": {"socket_address": {"address": "10.0.0.2", "port_value": 8000}},
             "health_status": {"eds_health_status": "DRAINING"}},
            {"address": {"socket_address": {"address": "10.0.0.3", "port_value": 8000}},
             "health_status": {"eds_health_status": "HEALTHY", "failed_active_health_check": true}},
            {"address": {"pipe": {"path": "/run/engine"}}}
        ]}
    ]}"#;

    #[test]
    fn hosts_that_serve_are_endpoints() {
        let endpoints = endpoints("pool", PAGE.as_bytes()).unwrap();
        let names: Vec<_> = endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        assert_eq!(names, ["10.0.0.1:8000", "[fd00::7]:8000"]);
    }

    #[test]
    fn what_is_no_such_list_is_an_error() {
        assert_eq!(endpoints("engines", PAGE.as_bytes()).unwrap_err(), "no such cluster: `engines`");
        assert!(endpoints("pool", b"<html>").unwrap_err().starts_with("no list of clusters: "));
    }
}
