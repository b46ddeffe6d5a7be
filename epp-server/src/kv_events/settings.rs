//! Where engines publish their KV events.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Where engines publish what their caches hold; by default nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "names and values of `kv_events`")]
pub struct KvEventSettings {
    /// Address that this server listens on and engines connect to, `tcp://*:5557`. Their topics, `kv@<endpoint>@<model>`,
    /// say who they are.
    pub bind: Option<BindAddress>,
    /// Port that engines listen on and this server connects to.
    pub port: Option<u16>,
    /// Port that engines repeat missing batches on.
    pub replay_port: Option<u16>,
    /// Data-parallel ranks behind one endpoint. Rank r publishes on `port` + r and repeats on `replay_port` + r; the ranks
    /// of further endpoints of the same address come after those of the first one, in the order of their ports.
    pub ranks: u16,
    /// What the topics of events begin with; those of other topics are not read.
    pub topic: String,
}

impl Default for KvEventSettings {
    fn default() -> Self {
        Self { bind: None, port: None, replay_port: None, ranks: 1, topic: String::new() }
    }
}

impl KvEventSettings {
    /// Refuses what cannot work.
    ///
    /// # Errors
    ///
    /// The message names the value and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.ranks == 0 {
            return Err("ranks of KV events must be 1 or more: `0`".to_owned());
        }
        if self.replay_port.is_some() && self.bind.is_none() && self.port.is_none() {
            return Err("KV events are replayed but not read; hint: say where engines publish them with `--kv-events-port` \
                        or `--kv-events-bind`"
                .to_owned());
        }
        Ok(())
    }
}

impl fmt::Display for KvEventSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.bind.map(|bind| format!("engines connect to port {}", bind.port)));
        parts.extend(self.port.map(|port| format!("read from port {port} of each replica")));
        if parts.is_empty() {
            return f.write_str("none");
        }
        parts.extend(self.replay_port.map(|port| format!("missing ones from port {port}")));
        if self.ranks > 1 {
            parts.push(format!("{} ranks behind a replica", self.ranks));
        }
        f.write_str(&parts.join(", "))
    }
}

/// An address to listen on: `tcp://*:5557`, `10.0.0.1:5557` or `5557`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindAddress {
    /// `None` for every address.
    pub address: Option<IpAddr>,
    /// 0 for any free one.
    pub port: u16,
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("address to listen on must be as `tcp://*:5557`: `{text}`");
        let (address, port) = match text.strip_prefix("tcp://").unwrap_or(text).rsplit_once(':') {
            None => ("*", text),
            Some(parts) => parts,
        };
        let address = match address.trim_start_matches('[').trim_end_matches(']') {
            "*" => None,
            address => Some(address.parse().map_err(|_| wrong())?),
        };
        Ok(Self { address, port: port.parse().map_err(|_| wrong())? })
    }
}

impl<'de> Deserialize<'de> for BindAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_zeromq_writes_them() {
        let any = |port| BindAddress { address: None, port };
        for (text, expected) in [
            ("tcp://*:5557", any(5557)),
            ("*:0", any(0)),
            ("5557", any(5557)),
            ("tcp://[::1]:1", BindAddress { address: Some([0, 0, 0, 0, 0, 0, 0, 1].into()), port: 1 }),
            ("10.0.0.1:9", BindAddress { address: Some([10, 0, 0, 1].into()), port: 9 }),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in ["", "tcp://*", "tcp://engine:5557", "ipc:///tmp/x", "*:70000"] {
            let error = wrong.parse::<BindAddress>().unwrap_err();
            assert!(error.ends_with(&format!(": `{wrong}`")), "{error}");
        }
    }
}
