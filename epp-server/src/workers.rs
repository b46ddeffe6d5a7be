//! Threads that serve gRPC connections, each with a runtime of its own.
//!
//! All streams of an HTTP/2 connection share one lock. Served from one thread nobody waits for it and nobody is woken
//! on another core, which saves a quarter of the CPU per request. Gateways open at least one connection per thread of
//! theirs, so the connections spread over the threads here.

use std::io;
use std::net::TcpStream as PlainTcpStream;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Router;

use crate::cluster_authority::ClusterAuthority;

/// How long to wait after a failed accept; too many open files is the usual reason and goes by.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client that does not finish its handshake in this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the connections of a listener, dealt out in turn over one thread per service, until `closed` turns true and the
/// streams that are then open have ended.
///
/// # Errors
///
/// A thread cannot be started.
pub(crate) async fn serve(
    services: Vec<Router>,
    tls: Option<TlsAcceptor>,
    listener: TcpListener,
    mut closed: watch::Receiver<bool>,
) -> Result<(), String> {
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let mut workers = Vec::with_capacity(services.len());
    for service in services {
        let worker = start(service, tls.clone(), closed.clone(), alive.clone());
        workers.push(worker.map_err(|error| format!("cannot start a thread: {error}"))?);
    }
    drop(alive);
    let mut turn = workers.iter().cycle();
    loop {
        let accepted = tokio::select! {
            _ = closed.wait_for(|closed| *closed) => None,
            accepted = listener.accept() => Some(accepted),
        };
        let Some(accepted) = accepted else {
            // Nothing is ever sent; the channel closes with the last thread.
            let _none = ended.recv().await;
            return Ok(());
        };
        let connection = accepted.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            stream.into_std()
        });
        match connection {
            Ok(connection) => {
                let taken = turn.next().is_some_and(|worker| worker.send(connection).is_ok());
                if !taken {
                    return Err("a serving thread ended by itself".to_owned());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts one thread; it serves the connections that are sent to it.
fn start(
    service: Router,
    tls: Option<TlsAcceptor>,
    mut closed: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) -> io::Result<mpsc::UnboundedSender<PlainTcpStream>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (connections, queue) = mpsc::unbounded_channel();
    thread::Builder::new().name("grpc".to_owned()).spawn(move || {
        let _alive = alive;
        let stop = async move {
            // An error means that the server is gone, which is as good a reason to stop.
            let _stopped = closed.wait_for(|closed| *closed).await;
        };
        let served = runtime.block_on(async {
            let incoming = UnboundedReceiverStream::new(queue).map(TcpStream::from_std);
            match tls {
                None => {
                    let incoming = incoming.map(|stream| stream.map(ClusterAuthority::new));
                    service.serve_with_incoming_shutdown(incoming, stop).await
                }
                Some(tls) => {
                    let incoming = secured(incoming, tls).map(|stream| stream.map(ClusterAuthority::new));
                    service.serve_with_incoming_shutdown(incoming, stop).await
                }
            }
        });
        if let Err(error) = served {
            tracing::error!(%error, "serving thread ended");
        }
    })?;
    Ok(connections)
}

/// The connections whose handshake succeeds, in the order in which they do: none waits for another one.
fn secured(
    mut incoming: impl Stream<Item = io::Result<TcpStream>> + Send + Unpin + 'static,
    tls: TlsAcceptor,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let (ready, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(connection) = incoming.next().await {
            let (tls, ready) = (tls.clone(), ready.clone());
            tokio::spawn(async move {
                let handshake = async { tls.accept(connection?).await };
                match timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    // A server that no longer takes connections is about to end.
                    Ok(Ok(stream)) => drop(ready.send(Ok(stream))),
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_elapsed) => tracing::debug!("TLS handshake took too long"),
                }
            });
        }
    });
    UnboundedReceiverStream::new(connections)
}
