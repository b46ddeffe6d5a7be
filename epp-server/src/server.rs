//! The running server: four listeners and pollers over the schedulers of one or more pools, from start to drained.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server as GrpcServer;
use tonic::transport::server::Router as GrpcRouter;

use crate::admin;
use crate::admin::metrics::Metrics;
use crate::admin::review::Reviewer;
use crate::config::Settings;
use crate::discovery::{Pool, kubernetes};
use crate::ext_proc::pool_selection::Routers;
use crate::ext_proc::router::Router;
use crate::ext_proc::service::Service;
use crate::health::{self, Conditions};
use crate::kv_events::KvEvents;
use crate::leader_election;
use crate::served_pool::ServedPool;
use crate::tls::{self, ServedCertificate};
use crate::traces::Traces;
use crate::workers;

/// What one stream may have in flight; chunks of a body are 64 KiB at most.
const STREAM_WINDOW: u32 = 1 << 20;
/// What one connection may have in flight; a gateway sends all its requests over few of them.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Clients that go away reset their streams; the protocol library takes more than 20 at once for an attack.
const MAX_PENDING_RESETS: usize = 16_384;

/// Nothing in flight for so long means that no gateway sends requests here any more; they learn of the end by asking for
/// health, or from Kubernetes.
const QUIET: Duration = Duration::from_secs(5);
/// Time for what is said to the streams that are open when the drain ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const DRAIN_CHECK: Duration = Duration::from_millis(50);

/// A server whose ports are open and which serves once it runs.
pub struct Server {
    grpc: TcpListener,
    health: TcpListener,
    metrics_port: TcpListener,
    certificate: Option<Arc<ServedCertificate>>,
    tls: Option<TlsAcceptor>,
    routers: Arc<Routers>,
    kv_events: KvEvents,
    pools: Vec<ServedPool>,
    metrics: Arc<Metrics>,
    traces: Option<Arc<Traces>>,
    kubernetes: Option<kube::Client>,
    settings: Settings,
}

impl Server {
    /// Builds everything and opens the ports.
    ///
    /// # Errors
    ///
    /// The message says what cannot work and what would be right.
    pub async fn bind(settings: Settings) -> Result<Self, String> {
        let metrics = Arc::new(Metrics::new());
        let serve = |pool| ServedPool::new(pool, &settings, &metrics);
        let pools: Vec<ServedPool> = settings.pools().into_iter().map(serve).collect::<Result<_, _>>()?;
        let named = pools.iter().map(|served| (served.label(pools.len()), Arc::clone(served.pool())));
        metrics.watch_pools(named.collect(), settings.routing.saturation);
        let traces = settings.traces.as_ref().map(Traces::new).transpose()?.map(Arc::new);
        let routers = Arc::new(routers(&pools, &settings, &metrics, traces.clone())?);
        let certificate = match settings.secure_serving {
            true => Some(Arc::new(ServedCertificate::new(settings.certificates.as_deref())?)),
            false => None,
        };
        let tls = certificate.clone().map(tls::server_config).transpose()?;
        let kubernetes = if settings.needs_kubernetes() { Some(kubernetes::connect().await?) } else { None };
        let address = settings.bind_address;
        let kv_event_port = match settings.kv_events.bind {
            Some(bind) => Some(listen(bind.address.or(address), bind.port, "--kv-events-bind").await?),
            None => None,
        };
        Ok(Self {
            grpc: listen(address, settings.grpc_port, "--grpc-port").await?,
            health: listen(address, settings.health_port, "--grpc-health-port").await?,
            metrics_port: listen(address, settings.metrics_port, "--metrics-port").await?,
            certificate,
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
            routers,
            kv_events: KvEvents::new(
                settings.kv_events.clone(),
                kv_event_port,
                pools.iter().map(|served| Arc::clone(served.pool())).collect(),
                Arc::clone(&metrics),
            ),
            pools,
            metrics,
            traces,
            kubernetes,
            settings,
        })
    }

    /// The ports that are open: `ext_proc`, health, metrics.
    ///
    /// # Errors
    ///
    /// The operating system does not tell.
    pub fn ports(&self) -> io::Result<[u16; 3]> {
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        Ok([port(&self.grpc)?, port(&self.health)?, port(&self.metrics_port)?])
    }

    /// The endpoints of all pools, the first one first.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter().map(ServedPool::pool)
    }

    /// Serves until `stop` is done, then drains.
    ///
    /// # Errors
    ///
    /// A listener failed.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let (closing, closed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let conditions = Conditions::default();
        let mut open = conditions.add();
        let (resigning, resigns) = watch::channel(false);
        let election =
            self.kubernetes.clone().zip(self.settings.election.clone()).map(|(client, election)| {
                follow(&mut tasks, leader_election::run(client, election, conditions.add(), resigns))
            });
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (readiness, health) = health::service().await;
        let service = || {
            let service = self.grpc_service();
            if self.settings.health_checking { service.add_service(health.clone()) } else { service }
        };
        let services = (0..threads).map(|_| service()).collect();
        let serving = tasks.spawn(workers::serve(services, self.tls, self.grpc, closed.clone()));
        let health_services = vec![GrpcServer::builder().add_service(health)];
        tasks.spawn(workers::serve(health_services, None, self.health, closed));
        let shown = self.pools.iter().map(ServedPool::shown).collect();
        let reviewer =
            self.kubernetes.clone().filter(|_| self.settings.metrics_endpoint_auth).map(Reviewer::new);
        let rules = self.settings.admin_access.clone();
        let routes = admin::routes(Arc::clone(&self.metrics), shown, rules, reviewer)
            .into_make_service_with_connect_info::<SocketAddr>();
        tasks.spawn(async move {
            axum::serve(self.metrics_port, routes).await.map_err(|error| error.to_string())
        });
        let needed = if self.pools.len() > 1 { conditions.only_at_start() } else { conditions.clone() };
        for (place, served) in self.pools.iter_mut().enumerate() {
            // One pool that is missing must not take the server from the others.
            let needed = if place == 0 { needed.clone() } else { Conditions::default() };
            served.start(&mut tasks, self.kubernetes.as_ref(), &needed)?;
        }
        if let Some(certificate) = self.certificate.filter(|_| self.settings.reload_certificates) {
            follow(&mut tasks, certificate.watch()?);
        }
        follow(&mut tasks, self.kv_events.run());
        open.set(true);
        follow(&mut tasks, readiness.follow(conditions));

        tokio::select! {
            () = stop => {}
            ended = tasks.join_next() => return Err(match ended {
                Some(Ok(Err(error))) => error,
                _ => "a part of the server ended by itself".to_owned(),
            }),
        }
        tracing::info!(open_streams = self.metrics.open_streams(), "draining");
        open.set(false);
        resigning.send_replace(true);
        drain(&self.metrics, self.settings.drain_timeout).await;
        self.routers.first().closing().begin();
        closing.send_replace(true);
        let is_done = || serving.is_finished() && election.as_ref().is_none_or(AbortHandle::is_finished);
        let _late = timeout(LAST_ANSWERS, until(is_done)).await;
        let (refused, left_to_gateway) = self.routers.first().closing().counts();
        for served in &self.pools {
            served.save().await;
        }
        tracing::info!(refused, left_to_gateway, cut = self.metrics.open_streams(), "stopped");
        if let Some(traces) = self.traces {
            // It waits for its own thread, which needs this runtime.
            let _flushed = tokio::task::spawn_blocking(move || traces.shut_down()).await;
        }
        Ok(())
    }

    fn grpc_service(&self) -> GrpcRouter {
        GrpcServer::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(u32::MAX)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_max_local_error_reset_streams(None)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_service(Service::server(Arc::clone(&self.routers), self.settings.limits))
    }
}

/// One router for each pool.
fn routers(
    pools: &[ServedPool],
    settings: &Settings,
    metrics: &Arc<Metrics>,
    traces: Option<Arc<Traces>>,
) -> Result<Routers, String> {
    let (first, further) = pools.split_first().ok_or("a server needs a pool")?;
    let (pool, recorder) = (Arc::clone(first.pool()), Arc::clone(first.recorder()));
    let router = Router::new(pool, Arc::clone(metrics), recorder, settings.routing).with_traces(traces);
    let router = Arc::new(router);
    let mut routers = Routers::new(Arc::clone(&router), settings.named_by.clone());
    if further.is_empty() {
        return Ok(routers);
    }
    routers = routers.with_pool(&first.settings().name, &first.settings().authorities, &router);
    for served in further {
        let beside = router.beside(Arc::clone(served.pool()), Arc::clone(served.recorder()));
        let settings = served.settings();
        routers = routers.with_pool(&settings.name, &settings.authorities, &Arc::new(beside));
    }
    Ok(routers)
}

/// Runs what only its cancellation or the server's end ends.
pub(crate) fn follow(
    tasks: &mut JoinSet<Result<(), String>>,
    endless: impl Future<Output = ()> + Send + 'static,
) -> AbortHandle {
    tasks.spawn(async move {
        endless.await;
        Ok(())
    })
}

/// Serves on for `limit` at most; ends early when no stream was open for [`QUIET`].
async fn drain(metrics: &Metrics, limit: Duration) {
    let end = Instant::now() + limit;
    let mut quiet_since = Instant::now();
    while Instant::now() < end && quiet_since.elapsed() < QUIET {
        sleep(DRAIN_CHECK).await;
        if metrics.open_streams() > 0 {
            quiet_since = Instant::now();
        }
    }
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        sleep(DRAIN_CHECK).await;
    }
}

async fn listen(address: Option<IpAddr>, port: u16, flag: &str) -> Result<TcpListener, String> {
    let listener = match address {
        Some(address) => TcpListener::bind(SocketAddr::from((address, port))).await,
        None => match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
            }
            other => other,
        },
    };
    listener.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another process listens there, stop it or choose another with `{flag}`")
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine does not have the address of `--bind-address`".to_owned()
            }
            _ => format!("choose another with `{flag}`"),
        };
        format!("cannot listen on port {port}, {error}; hint: {hint}")
    })
}
