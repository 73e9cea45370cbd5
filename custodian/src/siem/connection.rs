//! Where syslog messages go: a TCP stream, maybe with TLS (RFC 5425), or a local socket.

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadHalf, WriteHalf},
    net::{TcpStream, UnixDatagram},
};

use crate::net::Tls;

/// How long connecting, and each write, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection is broken if the other machine acknowledges nothing for this long (TCP_USER_TIMEOUT).
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// A stream to and fro.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Where to.
#[derive(Clone, Debug)]
pub enum SyslogTarget {
    /// `HOST:PORT`, messages with their length in front: RFC 6587 §3.4.1.
    Tcp(String),
    /// The same within TLS: RFC 5425.
    Tls(String, Tls),
    /// A datagram socket, such as `/dev/log`.
    Unix(PathBuf),
}

impl SyslogTarget {
    pub(super) async fn connect(&self) -> Result<Connection, String> {
        let connected = tokio::time::timeout(PATIENCE, self.try_connect()).await;
        let connected = connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        connected.map_err(|error| match self {
            Self::Tcp(address) | Self::Tls(address, _) => format!("{address}: {error}"),
            Self::Unix(path) => format!("{}: {error}", path.display()),
        })
    }

    async fn try_connect(&self) -> io::Result<Connection> {
        let stream: Box<dyn Stream> = match self {
            Self::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                return Ok(Connection::Datagrams(socket));
            }
            Self::Tcp(address) => Box::new(tcp(address).await?),
            Self::Tls(address, tls) => {
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                Box::new(tls.connect(host, tcp(address).await?).await?)
            }
        };
        let (reader, writer) = tokio::io::split(stream);
        Ok(Connection::Stream { reader, writer: BufWriter::new(writer) })
    }
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    let millis = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, millis)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    Ok(stream)
}

/// An open way to a listener.
pub(super) enum Connection {
    Stream { reader: ReadHalf<Box<dyn Stream>>, writer: BufWriter<WriteHalf<Box<dyn Stream>>> },
    Datagrams(UnixDatagram),
}

impl Connection {
    /// Sends one message.
    pub(super) async fn send(&mut self, message: &str) -> Result<(), String> {
        in_time(async {
            match self {
                Self::Stream { writer, .. } => {
                    writer.write_all(format!("{} ", message.len()).as_bytes()).await?;
                    writer.write_all(message.as_bytes()).await
                }
                Self::Datagrams(socket) => socket.send(message.as_bytes()).await.map(drop),
            }
        })
        .await
    }

    /// Sends what is still here.
    pub(super) async fn flush(&mut self) -> Result<(), String> {
        in_time(async {
            match self {
                Self::Stream { writer, .. } => writer.flush().await,
                Self::Datagrams(_) => Ok(()),
            }
        })
        .await
    }

    /// How long after sending it counts as received. A datagram is in the listener's queue at once.
    pub(super) fn settles_after(&self, stream: Duration) -> Duration {
        match self {
            Self::Stream { .. } => stream,
            Self::Datagrams(_) => Duration::ZERO,
        }
    }

    /// Returns, with the reason, when the listener goes away.
    pub(super) async fn breaks(&mut self) -> String {
        let Self::Stream { reader, .. } = self else { return std::future::pending().await };
        let mut ignored = [0; 256];
        loop {
            match reader.read(&mut ignored).await {
                Ok(0) => return "the listener closed the connection".to_owned(),
                // Syslog has no answers.
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }
}

async fn in_time(sending: impl Future<Output = io::Result<()>>) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, sending).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the listener takes nothing for {PATIENCE:?}")),
    }
}
