//! Reads the metrics pages of the engines on a period.
//!
//! One task per endpoint, connections kept alive. A connection that the engine's own port refuses says that nobody listens
//! there; no answer counts as one failed scrape. An engine that answers with something else than metrics is alive: it is picked
//! by what the scheduler knows without them.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Uri;
use hyper::body::Body as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use p3sched::{Endpoint, ScrapeFailure};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use crate::admin::metrics::Metrics;
use crate::clock;
use crate::discovery::Pool;
use crate::tls;

/// The largest page that is read, in bytes; real ones are under 100 kB.
const MAX_PAGE: usize = 8 << 20;

/// What is kept for the next page when one was larger, in bytes.
const KEPT_PAGE: usize = 256 << 10;

/// An engine that takes longer than this for its metrics does not serve either.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How engines serve their metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// Where and how often metrics are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeSettings {
    /// Time between two scrapes of an endpoint.
    pub interval: Duration,
    /// Scheme of the metrics address.
    pub scheme: Scheme,
    /// Path of the metrics page, with its leading slash.
    pub path: String,
    /// Port of the metrics page, where it is not the endpoint's own.
    pub port: Option<u16>,
    /// Certificate authorities for https; without them certificates are not checked.
    pub authorities: Option<PathBuf>,
}

/// Why a scrape brought nothing.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error("nobody listens")]
    Unreachable,
    #[error("no answer within seconds: `{}`", TIMEOUT.as_secs())]
    Timeout,
    #[error("unexpected status: `{0}`")]
    Status(u16),
    #[error("page is larger than bytes: `{MAX_PAGE}`")]
    TooLarge,
    #[error("{0}")]
    Transport(String),
    #[error(transparent)]
    Page(#[from] p3sched::Error),
}

impl ScrapeError {
    fn label(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Transport(_) => "transport",
            Self::Page(_) => "invalid_page",
        }
    }
}

/// Scrapes every endpoint of a pool.
pub struct Scraper {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    settings: ScrapeSettings,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
}

impl Scraper {
    /// A scraper that has not started.
    ///
    /// # Errors
    ///
    /// The certificate authorities cannot be read.
    pub fn new(settings: ScrapeSettings, pool: Arc<Pool>, metrics: Arc<Metrics>) -> Result<Self, String> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config(settings.authorities.as_deref())?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, settings, pool, metrics })
    }

    /// Scrapes until the task is dropped, and follows the changes of the pool.
    pub async fn run(self: Arc<Self>) {
        let mut endpoints = self.pool.watch();
        endpoints.mark_changed();
        let mut running = Running::default();
        while endpoints.changed().await.is_ok() {
            let current = Arc::clone(&endpoints.borrow_and_update());
            running.follow(&current, &self);
        }
    }

    async fn scrape_forever(self: Arc<Self>, name: Arc<str>, delay: Duration) {
        let uri = match self.uri(&name) {
            Ok(uri) => uri,
            Err(error) => {
                return tracing::error!(endpoint = %name, error, "metrics of this endpoint are not read");
            }
        };
        let mut ticks = interval_at(tokio::time::Instant::now() + delay, self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut page = Vec::new();
        let mut well = None;
        loop {
            ticks.tick().await;
            let result = self.scrape(&name, &uri, &mut page).await;
            self.metrics.scraped(result.as_ref().err().map_or("success", ScrapeError::label));
            match result {
                Ok(()) if well != Some(true) => tracing::info!(endpoint = %name, "metrics are read"),
                Err(error) if well != Some(false) => {
                    tracing::warn!(endpoint = %name, %uri, %error, "metrics cannot be read");
                    well = Some(false);
                    continue;
                }
                Ok(()) => {}
                Err(_) => continue,
            }
            well = Some(true);
        }
    }

    async fn scrape(&self, name: &str, uri: &Uri, page: &mut Vec<u8>) -> Result<(), ScrapeError> {
        let fetched = timeout(TIMEOUT, self.fetch(uri, page)).await.unwrap_or(Err(ScrapeError::Timeout));
        let profiles = self.pool.profiles();
        let result = match fetched {
            Ok(()) => profiles.ingest_metrics(name, page, clock::now()).map_err(ScrapeError::Page),
            Err(error) => Err(error),
        };
        if let Err(error) = &result
            && let Some(failure) = self.failure(error)
            && let Err(gone) = profiles.scrape_failed(name, failure, clock::now())
        {
            tracing::debug!(%gone, "endpoint left during its scrape");
        }
        result
    }

    /// What a failed scrape says of the engine; only its own port tells that nobody is there.
    fn failure(&self, error: &ScrapeError) -> Option<ScrapeFailure> {
        match error {
            ScrapeError::Unreachable if self.settings.port.is_none() => Some(ScrapeFailure::Unreachable),
            ScrapeError::Unreachable | ScrapeError::Timeout | ScrapeError::Transport(_) => {
                Some(ScrapeFailure::Failed)
            }
            ScrapeError::Status(_) | ScrapeError::TooLarge | ScrapeError::Page(_) => None,
        }
    }

    async fn fetch(&self, uri: &Uri, page: &mut Vec<u8>) -> Result<(), ScrapeError> {
        page.clear();
        page.shrink_to(KEPT_PAGE);
        let response = self.client.get(uri.clone()).await.map_err(|error| classify(&error))?;
        if !response.status().is_success() {
            return Err(ScrapeError::Status(response.status().as_u16()));
        }
        let mut body = response.into_body();
        if body.size_hint().lower() > MAX_PAGE as u64 {
            return Err(ScrapeError::TooLarge);
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ScrapeError::Transport(error.to_string()))?;
            let Some(data) = frame.data_ref() else { continue };
            if page.len() + data.len() > MAX_PAGE {
                return Err(ScrapeError::TooLarge);
            }
            page.extend_from_slice(data);
        }
        Ok(())
    }

    fn uri(&self, name: &str) -> Result<Uri, String> {
        let scheme = match self.settings.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let authority = match (self.settings.port, name.rsplit_once(':')) {
            (Some(port), Some((host, _))) => format!("{host}:{port}"),
            _ => name.to_owned(),
        };
        let text = format!("{scheme}://{authority}{}", self.settings.path);
        text.parse().map_err(|error| format!("invalid metrics address, {error}: `{text}`"))
    }
}

/// The tasks that scrape, by endpoint; they end with it.
#[derive(Default)]
struct Running(HashMap<Arc<str>, AbortHandle>);

impl Running {
    fn follow(&mut self, endpoints: &[Endpoint], scraper: &Arc<Scraper>) {
        self.0.retain(|name, task| {
            let stays = endpoints.iter().any(|endpoint| endpoint.name == *name);
            if !stays {
                task.abort();
            }
            stays
        });
        let new: Vec<_> = endpoints.iter().filter(|endpoint| !self.0.contains_key(&endpoint.name)).collect();
        // Spread over the period, so that the pages do not all arrive at once.
        let step = scraper.settings.interval / u32::try_from(new.len()).unwrap_or(u32::MAX).max(1);
        for (endpoint, place) in new.into_iter().zip(0u32..) {
            let name = Arc::clone(&endpoint.name);
            let task = Arc::clone(scraper).scrape_forever(Arc::clone(&name), step * place);
            self.0.insert(name, tokio::spawn(task).abort_handle());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

fn classify(error: &hyper_util::client::legacy::Error) -> ScrapeError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::ConnectionRefused
        {
            return ScrapeError::Unreachable;
        }
        source = cause.source();
    }
    let cause = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    ScrapeError::Transport(cause)
}
