//! A custodian for tests: the contract of the .proto files over real TLS on 127.0.0.1, in this process, without token
//! and ledger.

// Test code: what cannot happen may panic. Not every test crate uses all of it.
#![allow(missing_docs, dead_code, unused_imports, clippy::unwrap_used, clippy::result_large_err)]

mod pki;
mod services;

pub(crate) use pki::{Pki, device_params};

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use custodian_proto::v1;
use rustls::{ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier, version::TLS13};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{broadcast, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, Server};

/// The password of the one user, anna.
pub(crate) const PASSWORD: &str = "correct horse battery";
/// The one code that enrols.
pub(crate) const CODE: &str = "code-for-laptop-9";

/// What the custodian knows. Tests look and meddle.
pub(crate) struct State {
    /// Token → SHA-256 of the certificate it is bound to.
    pub(crate) sessions: HashMap<String, Vec<u8>>,
    pub(crate) logins: usize,
    /// How many codes of a second factor were tried. None is right.
    pub(crate) codes: usize,
    pub(crate) keys: Vec<v1::Key>,
    pub(crate) devices: Vec<v1::Device>,
    pub(crate) records: Vec<v1::Record>,
    pub(crate) file_key: Vec<u8>,
    /// Every call is answered with this refusal.
    pub(crate) refuse_all: Option<&'static str>,
    pub(crate) unwraps: Vec<v1::UnwrapRequest>,
    /// Refused with this reason: these wrapped keys.
    pub(crate) denied: HashMap<Vec<u8>, &'static str>,
    /// How many of those were items of batches.
    pub(crate) batched: usize,
    /// So many files fit into the budgets.
    pub(crate) room: usize,
    /// Of how many files it was asked whether they fit.
    pub(crate) checked: Vec<usize>,
    pub(crate) new_records: broadcast::Sender<v1::Record>,
    pub(crate) tails: usize,
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// Whose client certificates the handshake accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Those of the device CA.
    DeviceCa,
    /// Any, as long as the peer has its key.
    Anyone,
}

/// A running custodian. Stops when dropped.
pub(crate) struct Custodian {
    pub(crate) address: SocketAddr,
    pub(crate) state: Shared,
    /// Stops all tasks when dropped.
    _runtime: Runtime,
}

impl Custodian {
    pub(crate) fn start(pki: &Pki, accept: Accept) -> Self {
        let state = Shared(Arc::new(Mutex::new(State {
            sessions: HashMap::new(),
            logins: 0,
            codes: 0,
            keys: Vec::new(),
            devices: Vec::new(),
            records: Vec::new(),
            file_key: vec![7; 32],
            refuse_all: None,
            unwraps: Vec::new(),
            denied: HashMap::new(),
            batched: 0,
            room: usize::MAX,
            checked: Vec::new(),
            new_records: broadcast::channel(64).0,
            tails: 0,
        })));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server_config(pki, accept)));
        let (connections, incoming) = mpsc::channel(16);
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, connections) = (acceptor.clone(), connections.clone());
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        connections.send(Ok::<_, std::io::Error>(Tls(tls))).await.ok();
                    }
                });
            }
        });
        let service = services::Services { state: state.clone(), ca: pki.ca.clone() };
        let server = Server::builder()
            .add_service(v1::session_service_server::SessionServiceServer::new(service.clone()))
            .add_service(v1::key_service_server::KeyServiceServer::new(service.clone()))
            .add_service(v1::device_service_server::DeviceServiceServer::new(service.clone()))
            .add_service(v1::audit_service_server::AuditServiceServer::new(service.clone()))
            .add_service(v1::budget_service_server::BudgetServiceServer::new(service.clone()))
            .add_service(v1::custody_service_server::CustodyServiceServer::new(service));
        runtime.spawn(server.serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming)));
        Self { address, state, _runtime: runtime }
    }
}

fn server_config(pki: &Pki, accept: Accept) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = match accept {
        Accept::Anyone => builder.with_client_cert_verifier(Arc::new(pki::AnyCertificate(provider))),
        Accept::DeviceCa => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(pki.ca.der().clone()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        }
    };
    let (chain, key) = pki.server();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// What a service learns of its caller: the certificate.
#[derive(Clone)]
pub(crate) struct Peer(pub(crate) Vec<u8>);

struct Tls(TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(self.0.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
