//! A time-stamping authority on the web: RFC 3161 §3.4.

use std::{path::Path, sync::Arc, time::Duration};

use custodian_proto::tsp::{MAX_REPLY_LEN, QUERY_TYPE, REPLY_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime,
};
use tokio_rustls::TlsConnector;

use super::Authority;
use crate::{
    error::{Error, Kind, Result},
    remote,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority that is asked by HTTP POST.
pub struct HttpAuthority {
    url: Uri,
    host: String,
    port: u16,
    /// For https.
    tls: Option<Arc<ClientConfig>>,
}

impl HttpAuthority {
    /// The authority at this URL. With https, its server must be vouched for by one of the CAs in `ca` (PEM or DER); by one
    /// that the system trusts if that is `None`.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is no URL with http or https; [`Kind::Local`] if the certificates cannot be read.
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Usage, format!("cannot ask the authority {url}"), why)
                .hint("give its URL, as in https://tsa.example.org/tsr")
        };
        let uri: Uri = url.parse().map_err(|why| wrong(&why))?;
        let (tls, usual) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(Arc::new(tls(ca)?)), 443),
            _ => return Err(wrong(&"it is neither http nor https")),
        };
        let host = uri.host().ok_or_else(|| wrong(&"it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(usual);
        Ok(Self { url: uri, host, port, tls })
    }

    async fn post(&self, query: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
        let stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|why| why.to_string())?;
        match &self.tls {
            None => self.over(stream, query).await,
            Some(config) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|why| why.to_string())?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await.map_err(|why| why.to_string())?;
                self.over(stream, query).await
            }
        }
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        query: Vec<u8>,
    ) -> std::result::Result<Vec<u8>, String> {
        let text = |why: hyper::Error| why.to_string();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let host = self.url.authority().map(|host| host.as_str()).unwrap_or_default();
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, QUERY_TYPE)
            .body(Full::new(Bytes::from(query)))
            .map_err(|why| why.to_string())?;
        // The connection is driven beside the request, and ends with it.
        let exchange = async {
            let response = sender.send_request(request).await.map_err(text)?;
            read(response).await
        };
        tokio::pin!(exchange, connection);
        tokio::select! {
            answer = &mut exchange => answer,
            // The answer may have come before the end, however untidy that was.
            ended = &mut connection => {
                exchange.await.map_err(|why| ended.err().map_or(why, |why| why.to_string()))
            }
        }
    }
}

async fn read(response: Response<Incoming>) -> std::result::Result<Vec<u8>, String> {
    if response.status() != StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(REPLY_TYPE) {
        return Err(format!("it answers with {kind:?}, and not with {REPLY_TYPE}"));
    }
    let body = Limited::new(response.into_body(), MAX_REPLY_LEN).collect().await;
    Ok(body.map_err(|why| why.to_string())?.to_bytes().to_vec())
}

impl Authority for HttpAuthority {
    fn answer(&self, query: &[u8]) -> Result<Vec<u8>> {
        let unreachable =
            |why: String| Error::new(Kind::Unreachable, format!("no timestamp from {}", self.url), why);
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|why| unreachable(why.to_string()))?;
        // The clock of a timeout is the runtime's.
        let answer =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, self.post(query.to_vec())).await });
        answer
            .map_err(|_| unreachable(format!("no answer within {} s", PATIENCE.as_secs())))?
            .map_err(unreachable)
    }
}

fn tls(ca: Option<&Path>) -> Result<ClientConfig> {
    let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, "cannot use https", why);
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for der in remote::certificates(file)? {
                roots.add(CertificateDer::from(der)).map_err(|why| cannot(&why))?;
            }
        }
        None => {
            // Some of a system's may be odd: those are passed over.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(cannot(&"this system trusts no CA")
            .hint("install ca-certificates, or name the server's CA: --tls-ca FILE"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| cannot(&why))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
