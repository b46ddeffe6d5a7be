//! What the server was told: the command line over the configuration file over the defaults.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p3sched::config::FilterConfig;
use p3sched::filter::load_gate;
use p3sched::{Endpoint, SchedulerConfig};

use crate::admin::access::AccessRules;
use crate::clock;
use crate::config_source::{Configuration, MetricsPage, configuration};
use crate::discovery::dns::DnsName;
use crate::discovery::kubernetes::{KubernetesSource, PodSource};
use crate::ext_proc::pool_selection::NamedBy;
use crate::ext_proc::protocol::Limits;
use crate::ext_proc::router::RoutingSettings;
use crate::ext_proc::service::ServiceLimits;
use crate::flags::{Flags, LoadGate};
use crate::kv_events::KvEventSettings;
use crate::leader_election::ElectionSettings;
use crate::metric_names::WrittenNames;
use crate::policies::WrittenPolicies;
use crate::pool_config;
use crate::profiles::ProfileSettings;
use crate::scrape::{Scheme, ScrapeSettings};
use crate::state_file::StateSettings;
use crate::traces::TraceSettings;

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    /// A list.
    Fixed(Vec<Endpoint>),
    /// A file that is read again when it changes.
    File(PathBuf),
    /// A name, and the name server that is asked for it; `None` for those of the system.
    Dns(DnsName, Option<SocketAddr>),
    /// Pods that Kubernetes tells of.
    Kubernetes(KubernetesSource),
}

/// One of the pools that a server picks for.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// What it is called; empty for the only one of a server that was not told.
    pub name: String,
    /// The `:authority` of its requests: `host`, or `*.domain`.
    pub authorities: Vec<String>,
    /// Where its endpoints come from.
    pub endpoints: EndpointSource,
    /// How they are picked.
    pub scheduler: SchedulerConfig,
    /// What is configured beside that for prefill and decode on different endpoints.
    pub profiles: ProfileSettings,
    /// What requests are allowed to.
    pub policies: WrittenPolicies,
    /// Where what was learned is kept over restarts.
    pub state: Option<StateSettings>,
}

/// What pools have in common, where one does not say otherwise.
#[derive(Debug)]
pub(crate) struct CommonSettings {
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) profiles: ProfileSettings,
    pub(crate) policies: WrittenPolicies,
}

/// Everything that the server needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `namespace/name` of the `InferencePool` that the server was started for.
    pub pool: Option<String>,
    /// Authorities that the first pool takes before any other one, where there are several.
    pub authorities: Vec<String>,
    /// Pools beside the first one, which all other settings are about.
    pub further_pools: Vec<PoolSettings>,
    /// What names the pool that a request is for.
    pub named_by: NamedBy,
    /// Address that all ports listen on; `None` for every address.
    pub bind_address: Option<IpAddr>,
    /// Port of `ext_proc`; 0 for any free one, here and below.
    pub grpc_port: u16,
    /// Port of gRPC health.
    pub health_port: u16,
    /// Whether gRPC health is served on the port of `ext_proc`, too.
    pub health_checking: bool,
    /// Port of metrics.
    pub metrics_port: u16,
    /// Who may see the page and `/api` on it.
    pub admin_access: AccessRules,
    /// Whether `ext_proc` is served with TLS.
    pub secure_serving: bool,
    /// Folder with `tls.crt` and `tls.key`; without it a certificate is made.
    pub certificates: Option<PathBuf>,
    /// Whether the certificate is read again when its files change.
    pub reload_certificates: bool,
    /// Where endpoints come from.
    pub endpoints: EndpointSource,
    /// Which lease the server needs to be ready, if there are several for the pool.
    pub election: Option<ElectionSettings>,
    /// Whether the Kubernetes API is asked who may read the metrics.
    pub metrics_endpoint_auth: bool,
    /// What said how they are picked.
    pub profile: String,
    /// How they are picked.
    pub scheduler: SchedulerConfig,
    /// Which of them are picked, and who does the prefill.
    pub profiles: ProfileSettings,
    /// What was decided about models and requests.
    pub policies: WrittenPolicies,
    /// What the configuration says that works otherwise here than where it was written for.
    pub notes: Vec<String>,
    /// How their metrics are read.
    pub scrape: ScrapeSettings,
    /// Where engines publish what their caches hold.
    pub kv_events: KvEventSettings,
    /// What requests may use.
    pub limits: ServiceLimits,
    /// How requests are routed.
    pub routing: RoutingSettings,
    /// Where what was learned is kept over restarts.
    pub state: Option<StateSettings>,
    /// Whether every pick becomes a line of the log.
    pub log_decisions: bool,
    /// Where traces of requests go, if anywhere.
    pub traces: Option<TraceSettings>,
    /// How long to serve on after the signal to stop.
    pub drain_timeout: Duration,
}

impl Settings {
    /// Puts the command line over the configuration that it names.
    ///
    /// # Errors
    ///
    /// The message names what cannot be read or cannot work, in a file with line and column.
    pub fn from_flags(flags: Flags) -> Result<Self, String> {
        let configuration = configuration(&flags)?;
        let routing = routing_settings(&flags, &configuration);
        let Configuration {
            profile,
            mut scheduler,
            mut profiles,
            endpoints,
            policies,
            metrics_page,
            kv_events,
            mut notes,
            pools,
            ..
        } = configuration;
        apply_flags(&flags, &mut scheduler);
        if let Some(prefill) = &mut profiles.prefill {
            apply_flags(&flags, &mut prefill.scheduler);
        }
        let common = CommonSettings { scheduler, profiles, policies };
        let (first, further_pools) = match pools.is_empty() && flags.pool.is_empty() {
            true => (only_pool(&flags, endpoints, common)?, Vec::new()),
            false => pool_config::several(&flags, pools, endpoints.is_some(), &common)?,
        };
        let scrape = scrape_settings(&flags, metrics_page)?;
        let kv_events = kv_event_settings(&flags, kv_events)?;
        if flags.enable_cert_reload && flags.cert_path.is_none() {
            return Err(NO_CERTIFICATE.to_owned());
        }
        let election = flags.ha_enable_leader_election.then(|| election(&flags, &first.name));
        let is_from_kubernetes =
            |pool: &PoolSettings| matches!(pool.endpoints, EndpointSource::Kubernetes(_));
        let metrics_endpoint_auth = flags
            .metrics_endpoint_auth
            .unwrap_or_else(|| further_pools.iter().chain([&first]).any(is_from_kubernetes));
        let reload_certificates = flags.enable_cert_reload && flags.secure_serving;
        notes.extend(flags.without_effect().map(|flag| format!("`{flag}` has no effect in this server")));
        if flags.enable_cert_reload && !flags.secure_serving {
            notes.push("`--enable-cert-reload` has no effect without `--secure-serving`".to_owned());
        }
        let traces = match flags.tracing {
            true => TraceSettings::from_variables(|name| std::env::var(name).ok())?,
            false => None,
        };
        Ok(Self {
            pool: Some(first.name).filter(|name| !name.is_empty()),
            authorities: first.authorities,
            further_pools,
            named_by: NamedBy {
                header: flags.pool_header.map(|name| name.to_ascii_lowercase()),
                metadata: flags.pool_metadata.map(|key| key.0),
            },
            bind_address: flags.bind_address,
            grpc_port: flags.grpc_port,
            health_port: flags.grpc_health_port,
            health_checking: flags.health_checking,
            metrics_port: flags.metrics_port,
            admin_access: AccessRules { from: flags.admin_access, hosts: flags.admin_host },
            secure_serving: flags.secure_serving,
            certificates: flags.cert_path,
            reload_certificates,
            election,
            metrics_endpoint_auth,
            endpoints: first.endpoints,
            profile,
            scheduler: first.scheduler,
            profiles: first.profiles,
            policies: first.policies,
            notes,
            scrape,
            kv_events,
            limits: ServiceLimits {
                request: Limits {
                    max_body_bytes: flags.max_body_size,
                    max_gathered_bytes: flags.max_gathered_size.max(flags.max_body_size),
                    pick_deadline: clock::nanoseconds(flags.pick_deadline),
                },
                max_message_bytes: flags.grpc_max_recv_msg_size,
                max_streams: flags.max_streams,
            },
            routing,
            state: first.state,
            log_decisions: flags.log_decisions,
            traces,
            drain_timeout: flags.drain_timeout,
        })
    }

    /// Whether the Kubernetes API is asked anything.
    pub fn needs_kubernetes(&self) -> bool {
        let further = self.further_pools.iter().map(|pool| &pool.endpoints);
        let mut sources = further.chain([&self.endpoints]);
        sources.any(|source| matches!(source, EndpointSource::Kubernetes(_)))
            || self.election.is_some()
            || self.metrics_endpoint_auth
    }

    /// What each pool is told, the first one first.
    pub fn pools(&self) -> Vec<PoolSettings> {
        let first = PoolSettings {
            name: self.pool.clone().unwrap_or_default(),
            authorities: self.authorities.clone(),
            endpoints: self.endpoints.clone(),
            scheduler: self.scheduler.clone(),
            profiles: self.profiles.clone(),
            policies: self.policies.clone(),
            state: self.state.clone(),
        };
        [vec![first], self.further_pools.clone()].concat()
    }

    /// The scorers with their weights, as one line.
    pub fn scorers(&self) -> String {
        let mut line = String::new();
        for scorer in &self.scheduler.scorers {
            let gap = if line.is_empty() { "" } else { " " };
            // Writing into a string cannot fail.
            let _written = write!(line, "{gap}{}={}", scorer.scorer_type, scorer.weight);
        }
        line
    }
}

const NO_ENDPOINTS: &str = "no endpoints are configured; hint: name them with `--endpoints` or `--endpoints-file`, or an InferencePool with `--pool-name`";
const PORTS_ALONE: &str =
    "ports of pods are given, but not which pods; hint: give their labels with `--endpoint-selector`";
const NO_AUTHORITIES: &str = "certificates of https metrics cannot be checked; hint: name the authorities with `--model-server-metrics-ca-cert`";
const NO_CERTIFICATE: &str = "there is no certificate to reload; hint: name its folder with `--cert-path`, or leave out `--enable-cert-reload`";

/// `namespace/name` of the pool that the server was started for.
fn pool_name(flags: &Flags) -> Option<String> {
    let name = flags.pool_name.as_ref()?;
    Some(format!("{}/{name}", namespace(flags)))
}

pub(crate) fn namespace(flags: &Flags) -> String {
    let named = flags.pool_namespace.clone().into_iter().chain(std::env::var("NAMESPACE"));
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned())
}

/// The pool of a server that has one.
fn only_pool(
    flags: &Flags,
    endpoints: Option<Vec<Endpoint>>,
    common: CommonSettings,
) -> Result<PoolSettings, String> {
    let CommonSettings { scheduler, profiles, policies } = common;
    Ok(PoolSettings {
        name: pool_name(flags).unwrap_or_default(),
        authorities: Vec::new(),
        endpoints: endpoint_source(flags, endpoints)?,
        scheduler,
        profiles,
        policies,
        state: state_settings(flags),
    })
}

pub(crate) fn state_settings(flags: &Flags) -> Option<StateSettings> {
    let path = flags.state_file.clone()?;
    Some(StateSettings { path, interval: flags.state_interval, max_age: flags.state_max_age })
}

/// In a pod its name is unique; elsewhere the process and its start are.
fn election(flags: &Flags, first_pool: &str) -> ElectionSettings {
    let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    let (namespace, pool) = match first_pool.rsplit_once('/') {
        Some((namespace, pool)) => (namespace.to_owned(), pool.to_owned()),
        None => {
            // A pod of a Deployment is called after it, with two more parts.
            let deployment = pod.as_deref().and_then(|pod| pod.rsplitn(3, '-').nth(2));
            (namespace(flags), deployment.unwrap_or("epp").to_owned())
        }
    };
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "epp".to_owned());
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let identity = pod.unwrap_or_else(|| format!("{host}_{}_{started}", std::process::id()));
    ElectionSettings { namespace, pool, identity }
}

pub(crate) fn apply_flags(flags: &Flags, scheduler: &mut SchedulerConfig) {
    let metrics = &mut scheduler.metrics;
    if let Some(threshold) = flags.metrics_staleness_threshold {
        metrics.expire_seconds = threshold.as_secs_f64();
        metrics.fresh_seconds = metrics.fresh_seconds.min(threshold.as_secs_f64() / 2.0);
    }
    let written = WrittenNames {
        waiting: flags.total_queued_requests_metric.as_deref(),
        running: flags.total_running_requests_metric.as_deref(),
        utilization: flags.kv_cache_usage_percentage_metric.as_deref(),
        adapters: flags.lora_info_metric.as_deref(),
        cache: flags.cache_info_metric.as_deref(),
    };
    written.apply(&mut metrics.names);
    if let Some(model) = &flags.kv_events_model {
        scheduler.kv_events.model.clone_from(model);
    }
    if let Some(LoadGate(seconds)) = flags.load_gate {
        scheduler.load_gate_seconds = seconds;
        let has_gate = scheduler.filters.iter().any(|filter| filter.filter_type == load_gate::TYPE);
        if seconds.is_some() && !has_gate {
            scheduler.filters.push(FilterConfig::new(load_gate::TYPE));
        }
    }
}

fn routing_settings(flags: &Flags, configuration: &Configuration) -> RoutingSettings {
    /// Scrapes that may fail before metrics that are scraped seldom count as stale.
    const MISSED_SCRAPES: f64 = 4.0;
    let mut saturation = configuration.saturation.limits;
    if !configuration.saturation.has_age {
        let seldom = MISSED_SCRAPES * flags.refresh_metrics_interval.as_secs_f64();
        saturation.stale_seconds = saturation.stale_seconds.max(seldom);
    }
    RoutingSettings {
        fail_open: flags.fail_open,
        saturation,
        obeys_subset: !flags.disable_endpoint_subset_filter,
        emits_scores: flags.emit_endpoint_scores,
        watches_responses: flags.watch_responses,
        serves_tests: configuration.serves_tests,
    }
}

fn endpoint_source(flags: &Flags, configured: Option<Vec<Endpoint>>) -> Result<EndpointSource, String> {
    if let Some(name) = &flags.endpoints_dns {
        return Ok(EndpointSource::Dns(name.clone(), flags.dns_server));
    }
    match (&flags.endpoints_file, configured) {
        (Some(path), _) => Ok(EndpointSource::File(path.clone())),
        (None, _) if !flags.endpoints.is_empty() => Ok(EndpointSource::Fixed(flags.endpoints.clone())),
        (None, Some(configured)) => Ok(EndpointSource::Fixed(configured)),
        (None, None) => {
            let pods = pod_source(flags)?.ok_or_else(|| NO_ENDPOINTS.to_owned())?;
            Ok(EndpointSource::Kubernetes(KubernetesSource { namespace: namespace(flags), pods }))
        }
    }
}

fn pod_source(flags: &Flags) -> Result<Option<PodSource>, String> {
    let (group, ports) = (flags.pool_group, &flags.endpoint_target_ports);
    match (&flags.endpoint_selector, &flags.pool_name) {
        (None, _) if !ports.is_empty() => Err(PORTS_ALONE.to_owned()),
        (None, name) => Ok(name.clone().map(|name| PodSource::Pool { name, group })),
        (Some(selector), Some(_)) => Err(format!(
            "pods are selected by an InferencePool or by labels; hint: give either `--pool-name` or \
             `--endpoint-selector`: `{selector}`"
        )),
        (Some(selector), None) if ports.is_empty() || ports.len() > 8 => Err(format!(
            "pods that are selected by labels need 1 to 8 ports; hint: give `--endpoint-target-ports`: `{selector}`"
        )),
        (Some(labels), None) => {
            Ok(Some(PodSource::Selector { labels: labels.clone(), ports: ports.clone() }))
        }
    }
}

fn scrape_settings(flags: &Flags, page: MetricsPage) -> Result<ScrapeSettings, String> {
    let authorities = flags.model_server_metrics_ca_cert.clone();
    let skip_verify = flags
        .model_server_metrics_https_insecure_skip_verify
        .or(page.skip_verify)
        .unwrap_or(authorities.is_none());
    if !skip_verify && authorities.is_none() {
        return Err(NO_AUTHORITIES.to_owned());
    }
    Ok(ScrapeSettings {
        interval: flags.refresh_metrics_interval,
        scheme: flags.model_server_metrics_scheme.or(page.scheme).unwrap_or(Scheme::Http),
        path: flags.model_server_metrics_path.clone().or(page.path).unwrap_or_else(|| "/metrics".to_owned()),
        port: flags.model_server_metrics_port,
        authorities: authorities.filter(|_| !skip_verify),
    })
}

fn kv_event_settings(flags: &Flags, configured: KvEventSettings) -> Result<KvEventSettings, String> {
    let settings = KvEventSettings {
        bind: flags.kv_events_bind.or(configured.bind),
        port: flags.kv_events_port.or(configured.port),
        replay_port: flags.kv_events_replay_port.or(configured.replay_port),
        ranks: flags.kv_events_ranks.unwrap_or(configured.ranks),
        topic: configured.topic,
    };
    settings.check()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::flags::CommandLine;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = [&["epp-server"], arguments].concat().into_iter().map(OsString::from);
        Settings::from_flags(CommandLine::read(arguments).unwrap().flags)
    }

    #[test]
    fn flags_go_before_the_file() {
        let text = "endpoints: ['10.0.0.1:8000', {name: '10.0.0.2:8000', labels: {zone: b}}]\nscheduler: {fallbacks: 1}";
        let from_file = settings(&["--config-text", text]).unwrap();
        let EndpointSource::Fixed(endpoints) = &from_file.endpoints else { panic!("a fixed list") };
        assert_eq!(
            endpoints.iter().map(|endpoint| &*endpoint.name).collect::<Vec<_>>(),
            ["10.0.0.1:8000", "10.0.0.2:8000"]
        );
        assert_eq!(endpoints[1].labels["zone"], "b");
        assert_eq!(from_file.scheduler.fallbacks, 1);
        assert_eq!(from_file.scorers(), "prefix-cache-scorer=3 queue-scorer=1 kv-cache-utilization-scorer=1");

        let listed = settings(&["--config-text", text, "--endpoints", "10.0.0.9:8000"]).unwrap();
        assert_eq!(listed.endpoints, EndpointSource::Fixed(vec![Endpoint::new("10.0.0.9:8000")]));
        let stale = settings(&["--config-text", text, "--metrics-staleness-threshold", "1s"]).unwrap();
        assert_eq!(
            (stale.scheduler.metrics.fresh_seconds, stale.scheduler.metrics.expire_seconds),
            (0.5, 1.0)
        );
    }

    #[test]
    fn metrics_need_a_token_where_any_pool_is_from_kubernetes() {
        for (pools, needs_token) in [
            ("[{name: a, endpoints: ['10.0.0.1:1']}, {name: b, endpoints: []}]", false),
            ("[{name: a, endpoints: ['10.0.0.1:1']}, {name: b, inference_pool: b}]", true),
            ("[{name: b, inference_pool: b}, {name: a, endpoints: ['10.0.0.1:1']}]", true),
        ] {
            let read = settings(&["--config-text", &format!("pools: {pools}")]).unwrap();
            assert_eq!(read.metrics_endpoint_auth, needs_token, "{pools}");
        }
    }

    #[test]
    fn pools_that_would_share_a_state_file_are_refused() {
        let read = |names: [&str; 3]| {
            let pools = names.map(|name| format!("{{name: {name}, endpoints: []}}")).join(", ");
            settings(&["--state-file=/tmp/state", "--config-text", &format!("pools: [{pools}]")])
        };
        assert!(read(["a", "team/chat", "chat"]).is_ok());
        for (names, part) in [
            (["a", "team/chat", "team.chat"], "`team.chat`"),
            (["a", "prefill", "b"], "`prefill`"),
            (["a", "next", "b"], "`next`"),
            (["a", "b.prefill", "b"], "`b`"),
        ] {
            let error = read(names).unwrap_err();
            assert!(error.contains("one state file") && error.contains(part), "{names:?}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (arguments, parts) in [
            (&[][..], &["no endpoints are configured", "--endpoints"][..]),
            (
                &["--config-text", "scheduler:\n  fallback: 1"],
                &["unknown field `fallback`", "line 2 column 3"],
            ),
            (
                &["--config-text", "endpoints: []\nschedule: {}"],
                &["unknown field `schedule`", "line 2 column 1"],
            ),
            (
                &["--config-text", "endpoints:\n- engine:8000"],
                &["must be ip:port", "`engine:8000`", "line 2"],
            ),
            (&["--config-text", "endpoints:\n- {name: x}"], &["must be ip:port", "`x`", "line 2"]),
            (&["--config-text", "pools:\n- name: a"], &["needs one of `endpoints`", "`a`"]),
            (
                &["--config-text", "pools:\n- name: a\n  endpoints_dns: a"],
                &["must be name:port", "`a`", "line 2"],
            ),
            (
                &["--config-text", "pools:\n- {name: a, endpoints: []}", "--pool-name=a"],
                &["endpoints are given beside several pools"],
            ),
            (
                &["--config-file", "/nonexistent/epp.yaml"],
                &["cannot read configuration file", "`/nonexistent/epp.yaml`"],
            ),
            (
                &["--endpoints", "10.0.0.1:1", "--model-server-metrics-https-insecure-skip-verify=false"],
                &["--model-server-metrics-ca-cert"],
            ),
        ] {
            let error = settings(arguments).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{arguments:?}: {error}");
            }
        }
    }
}
