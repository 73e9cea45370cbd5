//! The network: TCP, TLS, HTTP/2, limits, shutdown. What a request means is not decided here.

mod connection;
mod handshakes;
mod tls;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

pub use tls::{Tls, TlsError};

use crate::ledger::Ledger;
use connection::Connection;
use handshakes::Handshakes;

/// What a server takes at once.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Open connections, handshakes included. More wait in the kernel's queue.
    pub connections: usize,
    /// Calls at once on one connection.
    pub streams: u32,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long a call may take until its answer begins.
    pub call: Duration,
    /// How long open calls may take to end after shutdown was asked for.
    pub drain: Duration,
}

/// Serves `routes` on `listener` until `shutdown`, then lets open calls end, at most for `limits.drain`.
///
/// Every new connection uses the newest value of `tls`.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
    ledger: Arc<dyn Ledger>,
    routes: Routes,
    limits: ServerLimits,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (sender, receiver) = mpsc::channel(16);
    let door = Arc::new(Door { tls, handshakes: Handshakes::new(ledger), limits, sender });
    let accepting = tokio::spawn(accept(listener, door, shutdown.clone()));
    let serving = Server::builder()
        .max_concurrent_streams(limits.streams)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 * 1024)
        .timeout(limits.call)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(receiver), shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits.drain).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = overdue => {
            tracing::warn!("some calls did not end in time and were cut off");
            Ok(())
        }
    };
    accepting.abort();
    served
}

struct Door {
    tls: watch::Receiver<Arc<Tls>>,
    handshakes: Handshakes,
    limits: ServerLimits,
    sender: mpsc::Sender<Result<Connection, std::io::Error>>,
}

async fn accept(listener: TcpListener, door: Arc<Door>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(door.limits.connections));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: closing connections will free some.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let door = Arc::clone(&door);
        tokio::spawn(async move {
            let Some((stream, peer)) = door.shake_hands(stream, address.ip()).await else { return };
            // The receiver is gone only when the server stops.
            door.sender.send(Ok(Connection::new(stream, peer, place))).await.ok();
        });
    }
}

impl Door {
    /// The TLS handshake. A refusal is recorded; the peer learns of it by a TLS alert.
    async fn shake_hands(
        &self,
        stream: TcpStream,
        ip: std::net::IpAddr,
    ) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, crate::authority::Peer)> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("the peer is gone already: {error}");
            return None;
        }
        let newcomers = self.handshakes.expects_newcomers().await;
        let tls = Arc::clone(&self.tls.borrow());
        let (config, seen) = match tls.config(newcomers) {
            Ok(made) => made,
            Err(error) => {
                tracing::error!("no TLS configuration: {error}");
                return None;
            }
        };
        let handshake = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(self.limits.handshake, handshake).await {
            Err(_) => {
                tracing::debug!(%ip, "no handshake in time");
                None
            }
            Ok(Err(error)) => {
                self.handshakes.failed(ip, seen.certificate(), &error).await;
                None
            }
            Ok(Ok(stream)) => match seen.peer(ip) {
                Some(peer) => Some((stream, peer)),
                None => {
                    tracing::error!("a handshake succeeded without a certificate");
                    None
                }
            },
        }
    }
}
