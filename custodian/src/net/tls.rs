//! Whom to trust on other machines.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{self, CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Whom to trust. TLS 1.3 only: rustls is built without 1.2.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum NoTrust {
    /// A CA certificate cannot be used.
    #[error(transparent)]
    Unusable(#[from] rustls::Error),
    /// A file cannot be read as PEM, or has no certificate in it.
    #[error("{}: {why}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system has no CA certificates.
    #[error("this system has no CA certificates ({0})")]
    NoneHere(String),
}

impl Tls {
    /// Trusts what these CAs signed.
    ///
    /// # Errors
    /// If one is no usable CA certificate.
    pub fn trusting(authorities: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self, NoTrust> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// Trusts the CAs of this PEM file, or, without one, those that this system trusts.
    ///
    /// # Errors
    /// If there are none, or one is unusable.
    pub fn trusting_those_of(file: Option<&Path>) -> Result<Self, NoTrust> {
        let Some(path) = file else { return Self::of_the_system() };
        let wrong = |why: String| NoTrust::Unreadable { path: path.to_owned(), why };
        let found: Result<Vec<_>, pki_types::pem::Error> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let found = found.map_err(|error| wrong(error.to_string()))?;
        if found.is_empty() {
            return Err(wrong("there is no certificate in it".to_owned()));
        }
        Self::trusting(found)
    }

    fn of_the_system() -> Result<Self, NoTrust> {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            return Err(NoTrust::NoneHere(why.join("; ")));
        }
        // Systems have odd certificates among their many; those are left out, as everybody does.
        let mut roots = RootCertStore::empty();
        let usable = found.certs.into_iter().filter(|authority| roots.add(authority.clone()).is_ok());
        Self::trusting(usable.collect::<Vec<_>>())
    }

    /// Shakes hands with the machine of this name.
    pub(crate) async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }
}
