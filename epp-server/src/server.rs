//! The running server: four listeners and pollers over one scheduler, from start to drained.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server as GrpcServer;
use tonic::transport::server::Router as GrpcRouter;

use crate::admin;
use crate::admin::metrics::Metrics;
use crate::admin::recorder::Recorder;
use crate::config::{EndpointSource, Settings};
use crate::discovery::dns::{Dns, Pace};
use crate::discovery::{self, Pool, kubernetes};
use crate::distrust;
use crate::ext_proc::router::Router;
use crate::ext_proc::service::Service;
use crate::health::{self, Conditions};
use crate::kv_events::KvEvents;
use crate::profiles::Profiles;
use crate::scrape::Scraper;
use crate::state_file::{StateFile, StateSettings};
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
    router: Arc<Router>,
    scraper: Arc<Scraper>,
    kv_events: KvEvents,
    dns: Option<Dns>,
    state_files: Vec<Arc<StateFile>>,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    recorder: Arc<Recorder>,
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
        let profiles = Profiles::new(settings.scheduler.clone(), settings.profiles.clone());
        let pool = Arc::new(Pool::with_profiles(profiles.map_err(|error| error.to_string())?));
        let endpoints = match &settings.endpoints {
            EndpointSource::Fixed(endpoints) => endpoints.clone(),
            EndpointSource::File(path) => discovery::file::read(path)?,
            EndpointSource::Dns(..) | EndpointSource::Kubernetes(_) => Vec::new(),
        };
        let state_files = state_files(settings.state.as_ref(), pool.profiles())?;
        pool.set(endpoints).map_err(|error| error.to_string())?;
        pool.policies().set(settings.policies.clone());
        let metrics = Arc::new(Metrics::new());
        let pool_name = settings.pool.as_deref().map_or("", |name| name.rsplit('/').next().unwrap_or(name));
        metrics.watch_pool(Arc::clone(&pool), pool_name, settings.routing.saturation);
        let recorder = Arc::new(Recorder::new(settings.log_decisions)?);
        let traces = settings.traces.as_ref().map(Traces::new).transpose()?.map(Arc::new);
        let router =
            Router::new(Arc::clone(&pool), Arc::clone(&metrics), Arc::clone(&recorder), settings.routing)
                .with_traces(traces.clone());
        let certificate = match settings.secure_serving {
            true => Some(Arc::new(ServedCertificate::new(settings.certificates.as_deref())?)),
            false => None,
        };
        let tls = certificate.clone().map(tls::server_config).transpose()?;
        let dns = match &settings.endpoints {
            EndpointSource::Dns(name, server) => Some(Dns::new(name.clone(), *server, Pace::default())?),
            _ => None,
        };
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
            router: Arc::new(router),
            scraper: Arc::new(Scraper::new(
                settings.scrape.clone(),
                Arc::clone(&pool),
                Arc::clone(&metrics),
            )?),
            dns,
            state_files,
            kv_events: KvEvents::new(
                settings.kv_events.clone(),
                kv_event_port,
                Arc::clone(&pool),
                Arc::clone(&metrics),
            ),
            pool,
            metrics,
            recorder,
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

    /// The endpoints and their scheduler.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Serves until `stop` is done, then drains.
    ///
    /// # Errors
    ///
    /// A listener failed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let (closing, closed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let conditions = Conditions::default();
        let mut open = conditions.add();
        self.follow_endpoints(&mut tasks, &conditions)?;
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
        let (metrics, pool) = (Arc::clone(&self.metrics), Arc::clone(&self.pool));
        let routes = admin::routes(metrics, pool, self.recorder, self.settings.admin_access.clone())
            .into_make_service_with_connect_info::<SocketAddr>();
        tasks.spawn(async move {
            axum::serve(self.metrics_port, routes).await.map_err(|error| error.to_string())
        });
        if let Some(dns) = self.dns {
            follow(&mut tasks, dns.follow(Arc::clone(&self.pool)));
        }
        for file in &self.state_files {
            follow(&mut tasks, Arc::clone(file).keep());
        }
        if let Some(certificate) = self.certificate.filter(|_| self.settings.reload_certificates) {
            follow(&mut tasks, certificate.watch()?);
        }
        follow(&mut tasks, distrust::watch(Arc::clone(&self.pool)));
        follow(&mut tasks, self.scraper.run());
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
        drain(&self.metrics, self.settings.drain_timeout).await;
        self.router.closing().begin();
        closing.send_replace(true);
        let _late = timeout(LAST_ANSWERS, until(|| serving.is_finished())).await;
        let (refused, left_to_gateway) = self.router.closing().counts();
        for file in self.state_files {
            file.save().await;
        }
        tracing::info!(refused, left_to_gateway, cut = self.metrics.open_streams(), "stopped");
        if let Some(traces) = self.traces {
            // It waits for its own thread, which needs this runtime.
            let _flushed = tokio::task::spawn_blocking(move || traces.shut_down()).await;
        }
        Ok(())
    }

    /// Keeps the endpoints at what a file or Kubernetes says.
    fn follow_endpoints(
        &self,
        tasks: &mut JoinSet<Result<(), String>>,
        conditions: &Conditions,
    ) -> Result<(), String> {
        let pool = Arc::clone(&self.pool);
        match (&self.settings.endpoints, self.kubernetes.clone()) {
            (EndpointSource::File(path), _) => follow(tasks, discovery::file::watch(path.clone(), pool)?),
            (EndpointSource::Kubernetes(source), Some(client)) => {
                follow(tasks, kubernetes::follow(client, source.clone(), pool, conditions.add()));
            }
            _ => {}
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
            .add_service(Service::server(Arc::clone(&self.router), self.settings.limits))
    }
}

/// One file for each scheduler: that for prefill has its own beside the named one.
fn state_files(settings: Option<&StateSettings>, profiles: &Profiles) -> Result<Vec<Arc<StateFile>>, String> {
    let Some(settings) = settings else { return Ok(Vec::new()) };
    let mut files = vec![StateFile::open(settings.clone(), Arc::clone(profiles.scheduler()))?];
    if let Some(scheduler) = profiles.prefill_scheduler() {
        let mut path = settings.path.clone().into_os_string();
        path.push(".prefill");
        let settings = StateSettings { path: path.into(), ..settings.clone() };
        files.push(StateFile::open(settings, Arc::clone(scheduler))?);
    }
    Ok(files.into_iter().map(Arc::new).collect())
}

/// Runs what only its cancellation ends.
fn follow(tasks: &mut JoinSet<Result<(), String>>, endless: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        endless.await;
        Ok(())
    });
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
