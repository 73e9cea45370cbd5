//! Handshakes over real TCP and TLS: who gets in, and what is recorded of those who do not.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use custodian_proto::v1;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{ServerLimits, Tls, serve};
use crate::ledger::{
    Change, Ledger, RecordQuery, SqliteLedger,
    contract::world::{self, World},
};

struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate that is valid between these, in hours from now.
    fn issue(&self, from: i64, until: i64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "laptop");
        params.not_before = OffsetDateTime::now_utc() + time::Duration::hours(from);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::hours(until);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

fn self_signed() -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["newcomer".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

struct Served {
    ca: Ca,
    ledger: Arc<SqliteLedger>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Served {
    async fn new() -> Self {
        Self::with(Duration::from_secs(10)).await
    }

    async fn with(handshake: Duration) -> Self {
        let ca = Ca::new("device CA");
        let (certificate, key) = ca.issue(-1, 1);
        let tls = Tls::new(vec![certificate], key, ca.certificate.clone()).unwrap();
        let ledger = Arc::new(SqliteLedger::for_test(world::options()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ServerLimits {
            connections: 64,
            streams: 16,
            handshake,
            call: Duration::from_secs(10),
            drain: Duration::from_secs(1),
        };
        let stop = CancellationToken::new();
        let (_, health) = tonic_health::server::health_reporter();
        let tls = watch::Sender::new(Arc::new(tls));
        let (receiver, served_ledger) = (tls.subscribe(), Arc::clone(&ledger) as Arc<dyn Ledger>);
        tokio::spawn(serve(
            listener,
            receiver,
            served_ledger,
            Routes::new(health),
            Vec::new,
            limits,
            stop.clone(),
        ));
        Self { ca, ledger, address, stop }
    }

    /// A TLS connection. The server may still refuse it: in TLS 1.3 the client is done first.
    async fn handshake(&self, identity: Option<Identity>) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A connection that the server accepted: then it answers in HTTP/2, and sends an alert otherwise.
    async fn open(&self, identity: Option<Identity>) -> Option<TlsStream<TcpStream>> {
        let mut stream = self.handshake(identity).await.ok()?;
        // RFC 9113 §3.4: the client's preface and an empty SETTINGS frame.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.ok()?;
        let read = stream.read(&mut [0; 9]).await.ok()?;
        (read > 0).then_some(stream)
    }

    async fn lets_in(&self, identity: Option<Identity>) -> bool {
        self.open(identity).await.is_some()
    }

    /// The first `count` records, once they are there.
    async fn records(&self, count: u64) -> Vec<v1::Record> {
        world::announced(self.ledger.as_ref(), count).await;
        self.ledger.records(RecordQuery { limit: 1000, ..RecordQuery::default() }).await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_device_certificate_gets_in_and_nothing_is_recorded() {
    let served = Served::new().await;
    assert!(served.lets_in(Some(served.ca.issue(-1, 1))).await);
    assert_eq!(*served.ledger.last_sequence().borrow(), 0);
}

#[tokio::test]
async fn refused_certificates_are_recorded_with_their_fingerprint() {
    use sha2::{Digest, Sha256};
    let served = Served::new().await;
    let refused = [
        (served.ca.issue(-2, -1), "CERTIFICATE_EXPIRED"),
        (served.ca.issue(1, 2), "CERTIFICATE_EXPIRED"),
        (Ca::new("another CA").issue(-1, 1), "CERTIFICATE_REFUSED"),
        (Ca::new("device CA").issue(-1, 1), "CERTIFICATE_REFUSED"),
        (self_signed(), "CERTIFICATE_REFUSED"),
    ];
    for (number, (identity, outcome)) in (1..).zip(refused) {
        let fingerprint = hex::encode(Sha256::digest(&identity.0));
        assert!(!served.lets_in(Some(identity)).await);
        let record = served.records(number).await.pop().unwrap();
        assert_eq!((record.operation.as_str(), record.outcome.as_str()), ("Connect", outcome));
        assert_eq!(record.certificate_sha256, fingerprint);
        assert_eq!(record.peer_ip, "127.0.0.1");
    }
}

#[tokio::test]
async fn without_a_certificate_nobody_gets_in() {
    let served = Served::new().await;
    assert!(!served.lets_in(None).await);
    let record = served.records(1).await.pop().unwrap();
    assert_eq!((record.outcome.as_str(), record.certificate_sha256.as_str()), ("CERTIFICATE_REFUSED", ""));
}

#[tokio::test]
async fn a_newcomer_gets_in_only_while_an_invitation_is_open() {
    let served = Served::new().await;
    assert!(!served.lets_in(Some(self_signed())).await);
    let world = World { ledger: Arc::clone(&served.ledger) };
    world.done(Change::Invite(world::invitation(1, "laptop-9"))).await;
    assert!(served.lets_in(Some(self_signed())).await);
    // Of another CA is not self-signed.
    assert!(!served.lets_in(Some(Ca::new("another CA").issue(-1, 1))).await);
}

#[tokio::test]
async fn a_stranger_cannot_fill_the_log() {
    let served = Served::new().await;
    let each = super::handshakes::RECORDED_EACH;
    for _ in 0..each + 10 {
        // When it returns, the alert has come, and so the failure has been counted.
        assert!(!served.lets_in(None).await);
    }
    let records = served.records(u64::from(each)).await;
    assert_eq!(records.len(), each as usize);
}

#[tokio::test]
async fn what_is_no_attempt_is_not_recorded() {
    let served = Served::new().await;
    for noise in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b""] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        stream.shutdown().await.unwrap();
        // The end. A reset is an end, too.
        stream.read_to_end(&mut Vec::new()).await.ok();
    }
    assert_eq!(*served.ledger.last_sequence().borrow(), 0);
}

#[tokio::test]
async fn silence_after_the_handshake_is_not_endured() {
    let served = Served::with(Duration::from_millis(300)).await;
    let (certificate, key) = served.ca.issue(-1, 1);
    let mut stream = served.handshake(Some((certificate, key))).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut [0; 9])).await;
    assert!(!matches!(ended, Err(_) | Ok(Ok(1..))), "{ended:?}");
}

#[tokio::test]
async fn one_certificate_gets_its_share_of_connections_and_no_more() {
    let served = Served::new().await;
    let (certificate, key) = served.ca.issue(-1, 1);
    let mut open = Vec::new();
    for _ in 0..super::CONNECTIONS_OF_ONE + 4 {
        if let Some(stream) = served.open(Some((certificate.clone(), key.clone_key()))).await {
            open.push(stream);
        }
    }
    assert_eq!(open.len(), super::CONNECTIONS_OF_ONE);
    assert!(served.lets_in(Some(served.ca.issue(-1, 1))).await);
}
