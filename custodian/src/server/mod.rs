//! The network: TCP, TLS, HTTP/2, limits, shutdown. What a request means is not decided here.

mod connection;
mod crowd;
mod handshakes;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use custodian_proto::refusal::Refusal;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

pub(crate) use crowd::{Crowd, Held};
pub use tls::{Tls, TlsError};

use crate::{
    authority::{Peer, PeerKind, SpkiHash},
    custody::Denial,
    ledger::Ledger,
};
use connection::{Connection, PREFACE_LEN};
use handshakes::Handshakes;

/// Handshakes under way at once, and those of one address. A stranger needs nothing to begin one.
const HANDSHAKES: usize = 512;
const HANDSHAKES_OF_ONE: usize = 64;

/// Connections of one certificate: a workstation runs a few programs at once.
const CONNECTIONS_OF_ONE: usize = 32;

/// Connections of all self-signed certificates together: people enrol one by one.
const CONNECTIONS_OF_NEWCOMERS: usize = 16;

/// What a server takes at once.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Open connections. One more is closed after its handshake.
    pub connections: usize,
    /// Calls at once on one connection.
    pub streams: u32,
    /// How long a handshake may take, until the first bytes of HTTP/2.
    pub handshake: Duration,
    /// How long a call may take until its answer begins.
    pub call: Duration,
    /// How long open calls may take to end after shutdown was asked for.
    pub drain: Duration,
}

/// Serves `routes` on `listener` until `shutdown`, then lets open calls end, at most for `limits.drain`.
///
/// Every new connection uses the newest value of `tls`. Once a minute, and at the end, `turned_away` gives for each kind of call how
/// many were not recorded one by one; these numbers are recorded.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
    ledger: Arc<dyn Ledger>,
    routes: Routes,
    turned_away: impl Fn() -> Vec<(&'static str, u64)> + Send + 'static,
    limits: ServerLimits,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (sender, receiver) = mpsc::channel(16);
    let door = Arc::new(Door {
        tls,
        handshakes: Handshakes::new(Arc::clone(&ledger)),
        under_way: Arc::new(Semaphore::new(HANDSHAKES)),
        of_address: Crowd::new(HANDSHAKES_OF_ONE),
        connections: Arc::new(Semaphore::new(limits.connections)),
        of_certificate: Crowd::new(CONNECTIONS_OF_ONE),
        of_newcomers: Crowd::new(CONNECTIONS_OF_NEWCOMERS),
        limits,
        sender,
    });
    let end = CancellationToken::new();
    let numbers = tokio::spawn(record_numbers(Arc::clone(&door), ledger, turned_away, end.clone()));
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
    end.cancel();
    if let Err(error) = numbers.await {
        tracing::error!("how many calls were turned away is not recorded: {error}");
    }
    served
}

/// Puts the numbers of what was not recorded one by one into the log, once a minute and at the end.
async fn record_numbers(
    door: Arc<Door>,
    ledger: Arc<dyn Ledger>,
    turned_away: impl Fn() -> Vec<(&'static str, u64)>,
    end: CancellationToken,
) {
    let mut minute = tokio::time::interval(Duration::from_secs(60));
    minute.tick().await;
    loop {
        let ended = tokio::select! {
            _ = minute.tick() => false,
            () = end.cancelled() => true,
        };
        let handshakes = ("more refused handshakes", door.handshakes.roll());
        for (what, count) in turned_away().into_iter().chain([handshakes]) {
            if count > 0 {
                let detail = format!("{count} {what} within a minute were not recorded one by one");
                let denial = Denial::Refused { refusal: Refusal::Overloaded, detail };
                let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                handshakes::record(ledger.as_ref(), "Flood", nobody, None, denial).await;
            }
        }
        if ended {
            return;
        }
    }
}

/// Everything that decides whether a connection becomes one.
struct Door {
    tls: watch::Receiver<Arc<Tls>>,
    handshakes: Handshakes,
    under_way: Arc<Semaphore>,
    of_address: Crowd<IpAddr>,
    connections: Arc<Semaphore>,
    of_certificate: Crowd<SpkiHash>,
    of_newcomers: Crowd<AllNewcomers>,
    limits: ServerLimits,
    sender: mpsc::Sender<Result<Connection, io::Error>>,
}

async fn accept(listener: TcpListener, door: Arc<Door>, shutdown: CancellationToken) {
    loop {
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
        // With no room for another handshake the connection is closed at once: waiting would let the slow starve the rest.
        let Ok(under_way) = Arc::clone(&door.under_way).try_acquire_owned() else { continue };
        let Some(of_address) = door.of_address.enter(address.ip()) else { continue };
        let (door, shutdown) = (Arc::clone(&door), shutdown.clone());
        tokio::spawn(async move {
            let entered = tokio::select! {
                entered = tokio::time::timeout(door.limits.handshake, door.let_in(stream, address.ip())) => entered,
                () = shutdown.cancelled() => return,
            };
            drop((under_way, of_address));
            match entered {
                // The receiver is gone only when the server stops.
                Ok(Some(connection)) => drop(door.sender.send(Ok(connection)).await),
                Ok(None) => {}
                Err(_) => tracing::debug!(ip = %address.ip(), "no handshake in time"),
            }
        });
    }
}

impl Door {
    /// The TLS handshake and the first bytes of HTTP/2. A refusal is recorded; the peer learns of it by a TLS alert.
    async fn let_in(&self, stream: TcpStream, ip: IpAddr) -> Option<Connection> {
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
        let mut stream = match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                self.handshakes.failed(ip, seen.certificate(), &error).await;
                return None;
            }
        };
        let peer = seen.peer(ip)?;
        let preface = preface(&mut stream).await?;
        let places = self.places(&peer)?;
        Some(Connection::new(stream, preface, peer, places))
    }

    /// Room for one more connection, of all and of this peer.
    fn places(&self, peer: &Peer) -> Option<Places> {
        let all = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let of_certificate = self.of_certificate.enter(peer.certificate.spki)?;
        let of_newcomers = match peer.certificate.kind {
            PeerKind::Device => None,
            PeerKind::Newcomer => Some(self.of_newcomers.enter(AllNewcomers)?),
        };
        Some(Places { _all: all, _of_certificate: of_certificate, _of_newcomers: of_newcomers })
    }
}

/// All newcomers are one holder.
#[derive(Clone, PartialEq, Eq, Hash)]
struct AllNewcomers;

/// The places of a connection. Free again when it ends.
struct Places {
    _all: OwnedSemaphorePermit,
    _of_certificate: Held<SpkiHash>,
    _of_newcomers: Option<Held<AllNewcomers>>,
}

/// The first bytes a client sends. HTTP/2 itself would wait for them for ever.
async fn preface(stream: &mut TlsStream<TcpStream>) -> Option<[u8; PREFACE_LEN]> {
    let mut preface = [0; PREFACE_LEN];
    stream.read_exact(&mut preface).await.ok()?;
    Some(preface)
}
