//! Several pools in one server: how a command line and a configuration file write them.

use std::fmt;
use std::mem;
use std::path::PathBuf;
use std::str::FromStr;

use p3sched::SchedulerConfig;
use serde::Deserialize;

use crate::config::{CommonSettings, EndpointSource, PoolSettings, apply_flags, namespace, state_settings};
use crate::discovery::EndpointEntry;
use crate::discovery::dns::DnsName;
use crate::discovery::kubernetes::{KubernetesSource, PodSource};
use crate::flags::Flags;
use crate::profiles::ProfileSettings;

/// A pool as the configuration file writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolEntry {
    /// What metrics, `/api/pools` and the header or metadata that selects it call it.
    pub(crate) name: String,
    /// Authorities of its requests: `host`, or `*.domain`.
    #[serde(default)]
    pub(crate) authorities: Vec<String>,
    endpoints: Option<Vec<EndpointEntry>>,
    endpoints_file: Option<PathBuf>,
    endpoints_dns: Option<DnsEntry>,
    /// Name of an `InferencePool`, with its namespace where that is another one than the server's.
    inference_pool: Option<String>,
    /// How its endpoints are picked, where that is not as the file says for all.
    pub(crate) scheduler: Option<SchedulerConfig>,
}

impl PoolEntry {
    /// Where its endpoints come from.
    fn source(&self, flags: &Flags) -> Result<EndpointSource, String> {
        match (&self.endpoints, &self.endpoints_file, &self.endpoints_dns, &self.inference_pool) {
            (Some(entries), None, None, None) => {
                Ok(EndpointSource::Fixed(entries.iter().map(|entry| entry.0.clone()).collect()))
            }
            (None, Some(path), None, None) => Ok(EndpointSource::File(path.clone())),
            (None, None, Some(name), None) => Ok(EndpointSource::Dns(name.0.clone(), flags.dns_server)),
            (None, None, None, Some(name)) => Ok(inference_pool(name, flags)),
            _ => Err(format!(
                "a pool needs one of `endpoints`, `endpoints_file`, `endpoints_dns` and `inference_pool`: `{}`",
                self.name
            )),
        }
    }
}

impl fmt::Display for PoolEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = match self.authorities.as_slice() {
            [] => "what no other pool claims, if it is the first one".to_owned(),
            authorities => authorities.join(", "),
        };
        let scheduler = if self.scheduler.is_some() { ", with a scheduler of its own" } else { "" };
        write!(f, "pool {}: {requests}{scheduler}", self.name)
    }
}

/// A DNS name as a file writes it.
#[derive(Debug, Clone)]
struct DnsEntry(DnsName);

impl<'de> Deserialize<'de> for DnsEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// An `InferencePool` by name or namespace/name.
fn inference_pool(name: &str, flags: &Flags) -> EndpointSource {
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name),
        None => (namespace(flags), name),
    };
    let pods = PodSource::Pool { name: name.to_owned(), group: flags.pool_group };
    EndpointSource::Kubernetes(KubernetesSource { namespace, pods })
}

/// A pool of `--pool`: `namespace/name=authority,*.domain…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFlag {
    name: String,
    authorities: Vec<String>,
}

impl FromStr for PoolFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, authorities) = text.split_once('=').unwrap_or((text, ""));
        let authorities = authorities.split(',').filter(|authority| !authority.is_empty());
        Ok(Self { name: name.to_owned(), authorities: authorities.map(str::to_owned).collect() })
    }
}

impl From<PoolFlag> for PoolEntry {
    fn from(flag: PoolFlag) -> Self {
        Self {
            inference_pool: Some(flag.name.clone()),
            name: flag.name,
            authorities: flag.authorities,
            endpoints: None,
            endpoints_file: None,
            endpoints_dns: None,
            scheduler: None,
        }
    }
}

/// The pools of the command line, else those of a configuration file, the first one first.
pub(crate) fn several(
    flags: &Flags,
    entries: Vec<PoolEntry>,
    has_endpoints: bool,
    common: &CommonSettings,
) -> Result<(PoolSettings, Vec<PoolSettings>), String> {
    let entries = match flags.pool.as_slice() {
        [] => entries,
        named => named.iter().cloned().map(PoolEntry::from).collect(),
    };
    let has_flags = !flags.endpoints.is_empty()
        || flags.endpoints_file.is_some()
        || flags.endpoints_dns.is_some()
        || flags.endpoint_selector.is_some();
    if has_endpoints || has_flags || flags.pool_name.is_some() {
        return Err(TWICE.to_owned());
    }
    check_entries(&entries)?;
    let mut pools = Vec::new();
    for entry in entries {
        let endpoints = entry.source(flags)?;
        let PoolEntry { name, authorities, scheduler: own, .. } = entry;
        let (mut scheduler, mut profiles) = (common.scheduler.clone(), common.profiles.clone());
        if let Some(own) = own {
            (scheduler, profiles) = (own, ProfileSettings::default());
            apply_flags(flags, &mut scheduler);
        }
        let policies = common.policies.clone();
        let mut state = state_settings(flags);
        if let Some(state) = state.as_mut().filter(|_| !pools.is_empty()) {
            // One file for each of them, the first one's called as for a server with one pool.
            let mut path = mem::take(&mut state.path).into_os_string();
            path.push(format!(".{}", name.replace('/', ".")));
            state.path = path.into();
        }
        pools.push(PoolSettings { name, authorities, endpoints, scheduler, profiles, policies, state });
    }
    check_state_files(&pools)?;
    let mut pools = pools.into_iter();
    let first = pools.next().ok_or(NONE)?;
    Ok((first, pools.collect()))
}

const TWICE: &str = "endpoints are given beside several pools; hint: give each pool its own, and leave out `endpoints`, `--endpoints…` and `--pool-name`";
const NONE: &str = "no pool is given";

/// Refuses pools of which one would write over what another one has learned, or is just writing.
fn check_state_files(pools: &[PoolSettings]) -> Result<(), String> {
    let mut paths = std::collections::HashSet::new();
    for pool in pools {
        let Some(state) = &pool.state else { continue };
        for suffix in ["", ".prefill", ".next", ".prefill.next"] {
            let mut path = state.path.clone().into_os_string();
            path.push(suffix);
            if !paths.insert(path) {
                return Err(format!(
                    "two pools would write one state file; hint: give one another name: `{}`",
                    pool.name
                ));
            }
        }
    }
    Ok(())
}

/// Refuses pools that could not be told apart, or not be shown.
pub(crate) fn check_entries(entries: &[PoolEntry]) -> Result<(), String> {
    check(entries.iter().map(|entry| (entry.name.as_str(), entry.authorities.as_slice())))
}

fn check<'a>(pools: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Result<(), String> {
    let mut names = std::collections::HashSet::new();
    let mut authorities = std::collections::HashSet::new();
    for (name, own) in pools {
        let is_fine = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !name.split('/').all(is_fine) {
            return Err(format!(
                "name of a pool must be of letters, digits and `-`, as name or namespace/name: `{name}`"
            ));
        }
        if !names.insert(name) {
            return Err(format!("pools must have different names: `{name}`"));
        }
        for authority in own {
            let domain = authority.strip_prefix("*.").unwrap_or(authority);
            if domain.is_empty() || domain.contains('*') {
                return Err(format!("authority must be host or *.domain: `{authority}`"));
            }
            if !authorities.insert(authority.to_ascii_lowercase()) {
                return Err(format!("pools must have different authorities: `{authority}`"));
            }
        }
    }
    Ok(())
}

/// Namespace and key of dynamic metadata, as a flag writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataKey(pub (String, String));

impl FromStr for MetadataKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, key)) if !namespace.is_empty() && !key.is_empty() => {
                Ok(Self((namespace.to_owned(), key.to_owned())))
            }
            _ => Err(format!("must be namespace/key, as in envoy.lb/pool: `{text}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_that_cannot_be_told_apart_are_refused() {
        let checked = |pools: &[(&str, &[&str])]| {
            let pools: Vec<(&str, Vec<String>)> = pools
                .iter()
                .map(|(name, authorities)| {
                    (*name, authorities.iter().map(|name| (*name).to_owned()).collect())
                })
                .collect();
            check(pools.iter().map(|(name, authorities)| (*name, authorities.as_slice())))
        };
        assert_eq!(
            checked(&[("models/chat", &["chat.example.com", "*.chat"]), ("models/code", &[])]),
            Ok(())
        );
        for (pools, part) in [
            (&[("chat", &[][..]), ("chat", &[])][..], "different names: `chat`"),
            (&[("a", &["x.example"][..]), ("b", &["X.example"])], "different authorities: `X.example`"),
            (&[("", &[])], "letters, digits"),
            (&[("a/", &[])], "letters, digits"),
            (&[("a b", &[])], "letters, digits"),
            (&[("a", &["*"])], "host or *.domain: `*`"),
            (&[("a", &["chat.*"])], "host or *.domain: `chat.*`"),
        ] {
            let error = checked(pools).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
