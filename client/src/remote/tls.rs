//! TLS 1.3 with a client certificate, and what went wrong with it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use custodian_proto::refusal::Refusal;
use rustls::{AlertDescription, ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::identity::Identity;
use crate::{
    error::{Error, Kind, Result},
    settings::Address,
};

/// TLS 1.3 only, HTTP/2 only, these roots only, and this identity.
pub(super) fn config(roots: RootCertStore, identity: Identity) -> Result<Arc<ClientConfig>> {
    let cannot = |error: rustls::Error| {
        let why = match error {
            rustls::Error::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
            other => other.to_string(),
        };
        Error::new(Kind::Local, "cannot use this device's certificate and key", why)
            .hint("check CUSTODIAN_CERT and CUSTODIAN_KEY")
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(cannot)?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(cannot)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Why a connection does not work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// Nobody answers, or the connection broke.
    Unreachable(String),
    /// The other end speaks, but not as a custodian does.
    NotACustodian(String),
    /// The other end's certificate is not vouched for.
    ServerNotTrusted(String),
    /// The other end does not accept our certificate.
    OurCertificate(Refusal, AlertDescription),
}

impl Trouble {
    /// Reads it from an error of the TLS stream.
    pub(super) fn of(error: &io::Error) -> Self {
        use AlertDescription as Alert;
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Unreachable(error.to_string());
        };
        match tls {
            rustls::Error::InvalidCertificate(why) => Self::ServerNotTrusted(why.to_string()),
            rustls::Error::NoCertificatesPresented => Self::ServerNotTrusted("it shows none".to_owned()),
            // With TLS 1.3 the server judges our certificate after we believe the handshake done: its answer comes
            // with the first read (RFC 8446 §4.4.2.4 and §6.2 say which alerts).
            rustls::Error::AlertReceived(Alert::CertificateExpired) => {
                Self::OurCertificate(Refusal::CertificateExpired, Alert::CertificateExpired)
            }
            rustls::Error::AlertReceived(
                alert @ (Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError
                | Alert::CertificateRequired),
            ) => Self::OurCertificate(Refusal::CertificateRefused, *alert),
            other => Self::NotACustodian(other.to_string()),
        }
    }

    /// Tells a person. `what` failed.
    pub(super) fn error(&self, what: &str, address: &Address) -> Error {
        match self {
            Self::Unreachable(why) => Error::new(
                Kind::Unreachable,
                what,
                format!("the custodian at {address} cannot be reached: {why}"),
            )
            .hint("check CUSTODIAN_ADDR and the network, and that the custodian runs"),
            Self::NotACustodian(why) => Error::new(
                Kind::Unreachable,
                what,
                format!("what answers at {address} is no custodian: {why}"),
            )
            .hint("check CUSTODIAN_ADDR"),
            Self::ServerNotTrusted(why) => {
                let why = format!("the certificate of the custodian at {address} is not trusted: {why}");
                Error::new(Kind::Local, what, why)
                    .hint("check CUSTODIAN_CA and the name in CUSTODIAN_ADDR; if both are right, somebody is in between")
            }
            Self::OurCertificate(refusal, alert) => {
                let why = format!("{} ({}, TLS alert {alert:?})", refusal.text(), refusal.code());
                Error::new(Kind::Refused, what, why).hint(refusal.hint())
            }
        }
    }
}

/// Where a connection leaves word of its trouble: what tonic reports is too many layers away to tell.
#[derive(Clone, Default)]
pub(super) struct TroubleSlot(Arc<Mutex<Option<Trouble>>>);

impl TroubleSlot {
    /// What went wrong last, if anything did since [`TroubleSlot::clear`].
    pub(super) fn last(&self) -> Option<Trouble> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new connection, a new chance.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes trouble. The first word of TLS stands: what follows is only its consequence.
    pub(super) fn note(&self, error: &io::Error) {
        let new = Trouble::of(error);
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, None | Some(Trouble::Unreachable(_))) {
            *slot = Some(new);
        }
    }
}

/// A TLS stream that notes its trouble.
pub(super) struct Watched {
    stream: TlsStream<TcpStream>,
    trouble: TroubleSlot,
    /// A write that failed, told once the peer's last words are read.
    failed: Option<io::Error>,
}

impl Watched {
    /// Watches `stream`.
    pub(super) fn new(stream: TlsStream<TcpStream>, trouble: TroubleSlot) -> Self {
        Self { stream, trouble, failed: None }
    }

    /// Writes, unless an earlier write failed already.
    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let error = match self.failed.take() {
            Some(error) => error,
            None => match ready!(write(Pin::new(&mut self.stream), context)) {
                Ok(done) => return Poll::Ready(Ok(done)),
                Err(error) => error,
            },
        };
        if self.read_last_words(context).is_pending() {
            self.failed = Some(error);
            return Poll::Pending;
        }
        self.trouble.note(&error);
        Poll::Ready(Err(error))
    }

    /// A server that does not accept our certificate says so and hangs up. Then our next write fails, often before that
    /// alert is read. A write fails only when the peer has closed, so this ends.
    fn read_last_words(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(()),
                Ok(()) => {}
                Err(error) => {
                    self.trouble.note(&error);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if let Err(error) = &result {
            self.trouble.note(error);
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |stream, context| stream.poll_shutdown(context))
    }
}
