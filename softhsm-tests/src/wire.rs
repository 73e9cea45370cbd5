//! A client of the gRPC API, made from the .proto files alone: what a stranger would write.

use std::{fs, path::Path, sync::Arc};

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use custodian_proto::v1::{
    self, audit_service_client::AuditServiceClient, custody_service_client::CustodyServiceClient,
    device_service_client::DeviceServiceClient, key_service_client::KeyServiceClient,
    log_service_client::LogServiceClient, session_service_client::SessionServiceClient,
};
use der::{Decode, Encode};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;
use tokio_stream::Stream;
use tonic::{Request, Status, transport::Endpoint};
use tonic_types::StatusExt;
use x509_cert::Certificate;

use crate::{Dev, Person};

pub use tonic::transport::Channel;

/// What a client shows in the TLS handshake.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// That of a person's device.
    pub fn of(dev: &Dev, person: Person) -> Self {
        let folder = dev.dir().join(person.name());
        Self {
            certificate: CertificateDer::from_pem_file(folder.join("device.crt")).unwrap(),
            key: PrivateKeyDer::from_pem_file(folder.join("device.key")).unwrap(),
        }
    }

    /// A new device of this name, invited, enrolled and activated.
    pub async fn enrolled(dev: &Dev, admin: &Wire, id: &str) -> Self {
        let request = v1::InviteDeviceRequest { device_id: id.to_owned(), ttl_seconds: 0 };
        let invited = admin.devices().invite_device(admin.request(request)).await.unwrap().into_inner();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([]).unwrap();
        let request = v1::EnrollRequest {
            code: invited.code,
            certificate_request: params.serialize_request(&key).unwrap().der().to_vec(),
        };
        let pkcs8 = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        // A device without a certificate yet shows one of its own making.
        let stranger = Self { certificate: params.self_signed(&key).unwrap().der().clone(), key: pkcs8() };
        let stranger = Wire::connect(dev, &stranger).await.unwrap();
        let enrolled = stranger.devices().enroll(request).await.unwrap().into_inner();
        let request = v1::ActivateDeviceRequest { name: format!("devices/{id}") };
        admin.devices().activate_device(admin.request(request)).await.unwrap();
        Self { certificate: enrolled.certificate.into(), key: pkcs8() }
    }

    /// The very key of a person's device, with a certificate that the device CA did not sign: its issuer has the CA's
    /// name, but another key. Another certificate at every call.
    pub fn forged(dev: &Dev, person: Person) -> Self {
        let folder = dev.dir().join(person.name());
        let ca = CertificateDer::from_pem_file(dev.dir().join("ca.crt")).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_der(&ca, rcgen::KeyPair::generate().unwrap()).unwrap();
        let pem = fs::read_to_string(folder.join("device.key")).unwrap();
        let key = rcgen::KeyPair::from_pem(&pem).unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{}-laptop", person.name()));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        Self { certificate, ..Self::of(dev, person) }
    }

    /// SHA-256 of the certificate, hex: as records show it.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        hex::encode(Sha256::digest(&self.certificate))
    }
}

/// A file key that was released. These are made by tests, so they may print.
#[derive(Debug)]
pub struct Released {
    pub file_key: Vec<u8>,
    pub request_id: String,
    /// The number of its record.
    pub sequence: u64,
}

/// One connection, and the session on it.
#[derive(Clone)]
pub struct Wire {
    channel: Channel,
    token: Option<String>,
}

impl Wire {
    /// Shakes hands and says nothing. The error is what TLS says of it, once the custodian has judged.
    ///
    /// In TLS 1.3 the client is done before the server has seen its certificate, so this waits for the first word.
    pub async fn shake_hands(dev: &Dev, identity: &Identity) -> std::io::Result<()> {
        let stream = TcpStream::connect(dev.address()).await?;
        let mut stream = connector(dev, identity).connect(server_name(), stream).await?;
        stream.read_u8().await.map(drop)
    }

    /// Connects. The error is of TCP or TLS.
    pub async fn connect(dev: &Dev, identity: &Identity) -> Result<Self, tonic::transport::Error> {
        let connector = connector(dev, identity);
        let address = dev.address().to_owned();
        let connect = tower::service_fn(move |_| {
            let (connector, address) = (connector.clone(), address.clone());
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(server_name(), stream).await?))
            }
        });
        let endpoint = Endpoint::from_shared(format!("https://{}", dev.address())).unwrap();
        Ok(Self { channel: endpoint.connect_with_connector(connect).await?, token: None })
    }

    /// Connects as a person's device and signs in as that person.
    pub async fn login(dev: &Dev, person: Person) -> Self {
        Self::login_on(dev, &Identity::of(dev, person), person).await
    }

    /// Connects as any device and signs in as this person.
    pub async fn login_on(dev: &Dev, device: &Identity, person: Person) -> Self {
        let mut wire = Self::connect(dev, device).await.unwrap();
        let password = fs::read_to_string(dev.dir().join(person.name()).join("password")).unwrap();
        wire.sign_in(person.name(), &password).await.unwrap();
        wire
    }

    /// Signs in on this connection.
    pub async fn sign_in(&mut self, user: &str, password: &str) -> Result<(), Status> {
        let request = v1::LoginRequest { user: user.to_owned(), password: password.to_owned() };
        let answer = SessionServiceClient::new(self.channel.clone()).login(request).await?;
        self.token = Some(answer.into_inner().session_token);
        Ok(())
    }

    /// The session's token, if signed in.
    pub fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// Uses another session token from now on.
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// A request in this session.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    /// Asks for one file key.
    pub async fn unwrap(&self, key: &str, wrapped_key: Vec<u8>) -> Result<Released, Status> {
        self.ask(unwrap_request(key, wrapped_key)).await.map(|(released, _)| released)
    }

    /// Asks for one file key, and its receipt with it.
    pub async fn unwrap_with_receipt(
        &self,
        key: &str,
        wrapped_key: Vec<u8>,
    ) -> Result<(Released, String), Status> {
        self.ask(v1::UnwrapRequest { with_receipt: true, ..unwrap_request(key, wrapped_key) }).await
    }

    async fn ask(&self, request: v1::UnwrapRequest) -> Result<(Released, String), Status> {
        let v1::UnwrapResponse { file_key, request_id, sequence, receipt } =
            self.custody().unwrap(self.request(request)).await?.into_inner();
        Ok((Released { file_key, request_id, sequence }, receipt))
    }

    /// Asks for the file keys of these items.
    pub async fn unwrap_batch(
        &self,
        items: impl Stream<Item = v1::UnwrapBatchRequest> + Send + 'static,
    ) -> Result<BatchAnswers, Status> {
        let answers = self.custody().unwrap_batch(self.request(items)).await?.into_inner();
        Ok(BatchAnswers { answers })
    }

    /// The receipt of a record.
    pub async fn receipt(&self, sequence: u64) -> Result<String, Status> {
        let request = self.request(v1::GetReceiptRequest { sequence });
        Ok(LogServiceClient::new(self.channel()).get_receipt(request).await?.into_inner().receipt)
    }

    /// Every record of the log, oldest first, as the auditor reads them.
    pub async fn records(dev: &Dev) -> Vec<v1::Record> {
        let auditor = Self::login(dev, Person::Auditor).await;
        let mut records = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListRecordsRequest { page_size: 1000, page_token, ..Default::default() };
            let mut audit = auditor.audit().max_decoding_message_size(8 << 20);
            let page = audit.list_records(auditor.request(request)).await.unwrap().into_inner();
            records.extend(page.records);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return records;
            }
        }
    }

    pub fn custody(&self) -> CustodyServiceClient<Channel> {
        CustodyServiceClient::new(self.channel.clone())
    }

    pub fn devices(&self) -> DeviceServiceClient<Channel> {
        DeviceServiceClient::new(self.channel.clone())
    }

    pub fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone())
    }

    pub fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone())
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

/// What a batch answers.
pub struct BatchAnswers {
    answers: tonic::Streaming<v1::UnwrapBatchResponse>,
}

impl BatchAnswers {
    /// The next item's reference and outcome. `None`: that was all. The error is the batch's own.
    pub async fn next(&mut self) -> Result<Option<(u64, Result<Released, Status>)>, Status> {
        let Some(answer) = self.answers.message().await? else { return Ok(None) };
        let outcome = match answer.outcome.expect("an answer has an outcome") {
            v1::unwrap_batch_response::Outcome::Released(v1::UnwrapResponse {
                file_key,
                request_id,
                sequence,
                receipt: _,
            }) => Ok(Released { file_key, request_id, sequence }),
            v1::unwrap_batch_response::Outcome::Denied(v1::ItemDenial { code, message, details }) => {
                Err(Status::with_details(code.into(), message, details.into()))
            }
        };
        Ok(Some((answer.reference, outcome)))
    }

    /// All that are left, and how the batch ended.
    pub async fn rest(mut self) -> (Vec<(u64, Result<Released, Status>)>, Result<(), Status>) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(answer)) => all.push(answer),
                Ok(None) => return (all, Ok(())),
                Err(status) => return (all, Err(status)),
            }
        }
    }
}

/// A request for the file key of a file that does not exist.
pub fn unwrap_request(key: &str, wrapped_key: Vec<u8>) -> v1::UnwrapRequest {
    v1::UnwrapRequest {
        key: key.to_owned(),
        wrapping: v1::KeyWrapping::RsaOaepSha1.into(),
        wrapped_key,
        claims: Some(v1::Claims {
            file_name: "test.mtd".into(),
            file_size: 1,
            format: "mtd".into(),
            reason: "test".into(),
        }),
        with_receipt: false,
    }
}

fn connector(dev: &Dev, identity: &Identity) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dev.dir().join("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// `keys/KEY_ID` of a certificate, and `plaintext` wrapped to it with OAEP and SHA-1, all that SoftHSM can do.
pub fn sealed_key(certificate: &Path, plaintext: &[u8]) -> (String, Vec<u8>) {
    let der = CertificateDer::from_pem_file(certificate).unwrap();
    let certificate = Certificate::from_der(&der).unwrap();
    let spki = certificate.tbs_certificate().subject_public_key_info();
    let id = custodian_proto::key::KeyId::of_public_key(spki.subject_public_key.raw_bytes());
    let key = PublicEncryptingKey::from_der(&spki.to_der().unwrap()).unwrap();
    let key = OaepPublicEncryptingKey::new(key).unwrap();
    let mut wrapped = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA1_MGF1SHA1, plaintext, &mut wrapped, None).unwrap();
    (id.resource_name(), wrapped)
}

/// Why a call was refused, in one word; empty if the status does not say, as one from the network.
pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
