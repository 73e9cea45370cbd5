//! TLS 1.3 with client certificates: who may connect.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    authority::{Peer, PeerCertificate, PeerKind},
    pki::peer::CertificateFacts,
};

/// What TLS needs: the server's certificate and key, and the device CA.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    resolver: Arc<SingleCertAndKey>,
    devices: Arc<dyn ClientCertVerifier>,
}

/// Certificate, key or CA do not fit.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl Tls {
    /// Serves with this chain (end entity first) and key; accepts devices with certificates of `device_ca`.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        device_ca: CertificateDer<'static>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| TlsError(format!("the server's certificate and key do not fit: {error}")))?;
        let mut roots = RootCertStore::empty();
        roots.add(device_ca).map_err(|error| TlsError(format!("the device CA's certificate: {error}")))?;
        let devices = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError(format!("the device CA's certificate: {error}")))?;
        Ok(Self { provider, resolver: Arc::new(SingleCertAndKey::from(key)), devices })
    }

    /// The configuration for one connection, and where its handshake leaves what it saw.
    pub(super) fn config(&self, newcomers: Newcomers) -> Result<(Arc<ServerConfig>, Arc<Seen>), Error> {
        let seen = Arc::new(Seen::default());
        let verifier = Verifier { devices: Arc::clone(&self.devices), newcomers, seen: Arc::clone(&seen) };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&self.resolver) as _);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would bypass the verifier, and with it `seen`.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((Arc::new(config), seen))
    }
}

/// Whether self-signed certificates are let in, to enrol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Newcomers {
    /// An invitation is open.
    Expected,
    /// None is.
    Refused,
}

/// What a handshake saw of its peer.
#[derive(Default)]
pub(super) struct Seen {
    presented: OnceLock<[u8; 32]>,
    accepted: OnceLock<PeerCertificate>,
}

impl Seen {
    /// SHA-256 of the certificate that was presented, accepted or not.
    pub(super) fn certificate(&self) -> Option<[u8; 32]> {
        self.presented.get().copied()
    }

    /// The peer, if its certificate was accepted.
    pub(super) fn peer(&self, ip: IpAddr) -> Option<Peer> {
        let certificate = self.accepted.get()?.clone();
        Some(Peer { ip: ip.to_canonical(), certificate })
    }
}

struct Verifier {
    devices: Arc<dyn ClientCertVerifier>,
    newcomers: Newcomers,
    seen: Arc<Seen>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("newcomers", &self.newcomers).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.devices.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let malformed = || Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        let sha256 = {
            use sha2::{Digest, Sha256};
            Sha256::digest(end_entity).into()
        };
        self.seen.presented.get_or_init(|| sha256);
        let identity = CertificateFacts::read(end_entity).map_err(|_| malformed())?;
        let verdict = self.devices.verify_client_cert(end_entity, intermediates, now);
        let kind = match verdict {
            Ok(_) => PeerKind::Device,
            // The signature over the handshake proves the key; nothing else in this certificate is believed.
            Err(_)
                if self.newcomers == Newcomers::Expected
                    && identity.self_issued
                    && intermediates.is_empty() =>
            {
                PeerKind::Newcomer
            }
            Err(error) => return Err(error),
        };
        let CertificateFacts { spki, sha256, not_before, not_after, .. } = identity;
        self.seen.accepted.get_or_init(|| PeerCertificate { spki, sha256, not_before, not_after, kind });
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.devices.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.devices.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.devices.supported_verify_schemes()
    }
}
