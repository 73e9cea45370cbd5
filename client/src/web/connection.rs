//! One HTTP/1.1 connection to the server of an envelope.

use std::{io, sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper::{Uri, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName, version::TLS13};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    location::{Access, Plain},
    object::Failure,
};
use crate::{
    error::{Error, Kind, Result},
    remote,
};

/// How long a connection may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A connection that takes requests.
pub(super) type Connection = http1::SendRequest<Empty<Bytes>>;

/// How servers are reached.
pub(super) struct Connector {
    tls: Arc<ClientConfig>,
    plain: Plain,
}

impl Connector {
    /// TLS 1.3 only, with the system's certificates or these.
    ///
    /// # Errors
    /// [`Kind::Local`] if there are none.
    pub(super) fn new(access: &Access) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        match &access.ca {
            Some(path) => {
                for certificate in remote::certificates(path)? {
                    roots.add(certificate.into()).map_err(|why| {
                        Error::new(Kind::Local, format!("cannot trust {}", path.display()), why)
                    })?;
                }
            }
            // Those that do not parse vouch for nobody.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|why| Error::new(Kind::Local, "cannot use TLS", why))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls), plain: access.plain })
    }

    /// Connects to the server of this URL.
    pub(super) async fn connect(&self, uri: &Uri) -> std::result::Result<Connection, Failure> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = in_time(TcpStream::connect((host, port))).await?;
        stream.set_nodelay(true).map_err(Failure::io)?;
        if is_tls {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| Failure::Never(not_reached(format!("{host:?} is no name of a server"))))?;
            let connect = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
            return speak(in_time(connect).await?).await;
        }
        // Not by its name: what it resolves to counts.
        let is_here = stream.peer_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        if !is_here && self.plain != Plain::Allowed {
            let why = "http:// is not encrypted: anybody on the way sees who fetches which envelope";
            return Err(Failure::Never(
                not_reached(why.to_owned())
                    .hint("use https://, or give --allow-http if that does not matter"),
            ));
        }
        speak(stream).await
    }
}

async fn in_time<T>(connect: impl Future<Output = io::Result<T>>) -> std::result::Result<T, Failure> {
    match timeout(PATIENCE, connect).await {
        Ok(connected) => connected.map_err(Failure::io),
        Err(_) => Err(Failure::Again(format!("nobody answered within {} s", PATIENCE.as_secs()))),
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> std::result::Result<Connection, Failure> {
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD);
    let (requests, connection) = http.handshake(TokioIo::new(stream)).await.map_err(Failure::http)?;
    // Ends with the last request, or with an error that the request sees, too.
    tokio::spawn(connection);
    Ok(requests)
}

fn not_reached(why: String) -> Error {
    Error::new(Kind::Local, "cannot fetch the envelope", why)
}
