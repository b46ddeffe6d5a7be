//! Scraping against small servers with captured pages, good and bad.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use epp_server::admin::metrics::Metrics;
use epp_server::discovery::Pool;
use epp_server::scrape::{Scheme, ScrapeSettings, Scraper};
use p3sched::stats::EndpointStats;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support;

pub(crate) const PAGE: &str = include_str!("../../../core/testdata/metrics/vllm-0.32-under-load.txt");

/// What a server answers to every request.
pub(crate) fn response(status: &str, page: &str) -> Arc<str> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{page}", page.len()).into()
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, response: Arc<str>) {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(count) = stream.read(&mut piece).await {
        if count == 0 {
            return;
        }
        request.extend_from_slice(&piece[..count]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            if stream.write_all(response.as_bytes()).await.is_err() || !response.contains("content-length") {
                return;
            }
        }
    }
}

/// An engine on loopback; with `tls` it shows that certificate.
pub(crate) async fn engine(response: Arc<str>, tls: Option<TlsAcceptor>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (response, tls) = (Arc::clone(&response), tls.clone());
            connections.spawn(async move {
                match tls {
                    None => answer(stream, response).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            answer(stream, response).await;
                        }
                    }
                }
            });
        }
    });
    (address, task.abort_handle())
}

fn settings(scheme: Scheme, authorities: Option<PathBuf>) -> ScrapeSettings {
    let interval = Duration::from_millis(20);
    ScrapeSettings { interval, scheme, path: "/metrics".to_owned(), port: None, authorities }
}

fn scrape(pool: &Arc<Pool>, scheme: Scheme, authorities: Option<PathBuf>) -> Arc<Metrics> {
    scrape_with(pool, settings(scheme, authorities))
}

fn scrape_with(pool: &Arc<Pool>, settings: ScrapeSettings) -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new());
    let scraper = Scraper::new(settings, Arc::clone(pool), Arc::clone(&metrics)).unwrap();
    tokio::spawn(Arc::new(scraper).run());
    metrics
}

fn endpoint(pool: &Pool, address: SocketAddr) -> EndpointStats {
    let stats = pool.scheduler().stats(epp_server::clock::now());
    stats.endpoints.into_iter().find(|endpoint| *endpoint.endpoint == *address.to_string()).unwrap()
}

#[tokio::test]
async fn a_page_is_read_and_a_dead_engine_is_out_at_once() {
    let (first, stop_first) = engine(response("200 OK", PAGE), None).await;
    let (second, _stop) = engine(response("200 OK", PAGE), None).await;
    let pool = support::pool(&[&first.to_string(), &second.to_string()]);
    let metrics = scrape(&pool, Scheme::Http, None);
    support::eventually("both pages", || {
        [first, second].iter().all(|address| endpoint(&pool, *address).running_requests.is_some())
    })
    .await;
    stop_first.abort();
    support::eventually("the first is out", || !endpoint(&pool, first).reachable).await;
    assert!(endpoint(&pool, second).reachable);
    let page = metrics.page().unwrap();
    assert!(page.contains(r#"p3sched_scrapes_total{result="success"}"#), "{page}");
}

#[tokio::test]
async fn a_metrics_port_that_nobody_listens_on_does_not_say_that_the_engine_is_gone() {
    let (own_port, stop) = engine(response("200 OK", PAGE), None).await;
    stop.abort();
    for (port, reachable) in [(None, false), (Some(own_port.port()), true)] {
        let mut config = p3sched::SchedulerConfig::default();
        config.metrics.dead_after_seconds = 3_600.0;
        let pool = support::pool_with(config, &[&own_port.to_string()]);
        let metrics = scrape_with(&pool, ScrapeSettings { port, ..settings(Scheme::Http, None) });
        support::eventually("refused scrapes", || {
            metrics.page().unwrap().contains("p3sched_scrapes_total{result=\"unreachable\"} 4")
        })
        .await;
        assert_eq!(endpoint(&pool, own_port).reachable, reachable, "{port:?}");
    }
}

#[tokio::test]
async fn endpoints_that_come_and_go_are_followed() {
    let (first, _stop_first) = engine(response("200 OK", PAGE), None).await;
    let (second, _stop_second) = engine(response("200 OK", PAGE), None).await;
    let pool = support::pool(&[&first.to_string()]);
    scrape(&pool, Scheme::Http, None);
    support::eventually("the first", || endpoint(&pool, first).metrics_age_seconds.is_some()).await;
    pool.set(vec![p3sched::Endpoint::new(second.to_string())]).unwrap();
    support::eventually("the second", || endpoint(&pool, second).metrics_age_seconds.is_some()).await;
}

#[tokio::test]
async fn bad_answers_are_counted_by_kind_and_silence_puts_an_engine_out() {
    for (answer, kind, answers) in [
        (response("500 Internal Server Error", "oops"), "status", true),
        (response("200 OK", "<html>no metrics here</html>"), "invalid_page", true),
        (response("200 OK", &"# padding padding padding\n".repeat(400_000)), "too_large", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nvllm:num".into(), "transport", false),
    ] {
        let (bad, _stop_bad) = engine(answer, None).await;
        let (good, _stop_good) = engine(response("200 OK", PAGE), None).await;
        let mut config = p3sched::SchedulerConfig::default();
        config.metrics.dead_after_seconds = 0.1;
        let pool = support::pool_with(config, &[&bad.to_string(), &good.to_string()]);
        let metrics = scrape(&pool, Scheme::Http, None);
        let counted = format!("p3sched_scrapes_total{{result=\"{kind}\"}}");
        // Far more than the three failures after which a silent engine is out.
        let count = || -> Option<u64> {
            metrics.page().unwrap().lines().find_map(|line| line.strip_prefix(&counted)?.trim().parse().ok())
        };
        support::eventually(kind, || count() >= Some(6)).await;
        support::eventually(kind, || endpoint(&pool, bad).reachable == answers).await;
        assert!(endpoint(&pool, good).reachable);
    }
}

#[tokio::test]
async fn https_is_checked_against_the_given_authority_or_not_at_all() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let right = folder.join(format!("authority-{}.pem", std::process::id()));
    std::fs::write(&right, authority_certificate.pem()).unwrap();
    let wrong = folder.join(format!("stranger-{}.pem", std::process::id()));
    let stranger = rcgen::generate_simple_self_signed(vec!["stranger".to_owned()]).unwrap();
    std::fs::write(&wrong, stranger.cert.pem()).unwrap();

    for (authorities, trusted) in [(Some(right.clone()), true), (None, true), (Some(wrong.clone()), false)] {
        let (address, _stop) = engine(response("200 OK", PAGE), Some(acceptor.clone())).await;
        let pool = support::pool(&[&address.to_string()]);
        let metrics = scrape(&pool, Scheme::Https, authorities);
        let counted = if trusted { "success" } else { "transport" };
        support::eventually(counted, || {
            metrics.page().unwrap().contains(&format!("p3sched_scrapes_total{{result=\"{counted}\"}}"))
        })
        .await;
        assert_eq!(endpoint(&pool, address).running_requests.is_some(), trusted);
    }
    std::fs::remove_file(right).unwrap();
    std::fs::remove_file(wrong).unwrap();
}

#[tokio::test]
async fn an_unusable_authority_file_is_named() {
    for path in ["/nonexistent/ca.pem", "/dev/null"] {
        let pool = support::pool(&[]);
        let settings = settings(Scheme::Https, Some(path.into()));
        let error = Scraper::new(settings, pool, Arc::new(Metrics::new())).map(|_| ()).unwrap_err();
        assert!(
            error.starts_with("cannot read certificate authorities") && error.ends_with(&format!("`{path}`")),
            "{error}"
        );
    }
}
