//! HTTP/1.1 to one machine, on one connection that is kept.

use std::{fmt, str::FromStr, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use super::Tls;

/// A machine that speaks HTTP: `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    host: String,
    port: u16,
    scheme: Scheme,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    Http,
    Https,
}

impl Origin {
    /// Whether what is said there is secret on the way.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

impl FromStr for Origin {
    type Err = String;

    /// The beginning of a URL. What follows the port is not looked at.
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let (scheme, usual) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, 80),
            Some("https") => (Scheme::Https, 443),
            _ => return Err(format!("{text:?}: give https://HOST/ or http://HOST:PORT/")),
        };
        let host = uri.host().ok_or_else(|| format!("{text:?} has no host"))?;
        Ok(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(usual), scheme })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// The way to one machine. Requests go one after the other.
pub struct Http {
    origin: Origin,
    /// What `https` is checked with.
    tls: Option<Tls>,
    patience: Duration,
    open: Option<Open>,
}

struct Open {
    requests: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

impl Http {
    /// `patience` is for connecting, asking and hearing the whole answer.
    pub fn to(origin: Origin, tls: Option<Tls>, patience: Duration) -> Self {
        Self { origin, tls, patience, open: None }
    }

    /// Sends a request whose repetition does no harm: a kept connection that turns out to be closed is opened anew, once.
    /// The answer's body is no longer than `longest` bytes.
    ///
    /// # Errors
    /// Why there is no whole answer, in words.
    pub async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
        longest: usize,
    ) -> Result<Response<Bytes>, String> {
        // RFC 9112 §3.2: the target's authority, without the scheme's own port.
        let authority = match (self.origin.scheme, self.origin.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => self.origin.host.clone(),
            (_, port) => format!("{}:{port}", self.origin.host),
        };
        request.headers_mut().insert(HOST, HeaderValue::from_str(&authority).map_err(text)?);
        let origin = self.origin.to_string();
        let patience = self.patience;
        match tokio::time::timeout(patience, self.exchange(request, longest)).await {
            Ok(answer) => answer.map_err(|why| format!("{origin}: {why}")),
            Err(_) => {
                self.open = None;
                Err(format!("{origin}: no answer within {patience:?}"))
            }
        }
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        longest: usize,
    ) -> Result<Response<Bytes>, String> {
        if let Some(mut kept) = self.open.take()
            && kept.requests.ready().await.is_ok()
            && let Ok(answer) = kept.ask(request.clone(), longest).await
        {
            self.open = Some(kept);
            return Ok(answer);
        }
        let mut new = self.connect().await?;
        let answer = new.ask(request, longest).await?;
        self.open = Some(new);
        Ok(answer)
    }

    async fn connect(&self) -> Result<Open, String> {
        let Origin { host, port, scheme } = &self.origin;
        let address = (host.trim_start_matches('[').trim_end_matches(']'), *port);
        let stream = TcpStream::connect(address).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        match (scheme, &self.tls) {
            (Scheme::Http, _) => open(stream).await,
            (Scheme::Https, Some(tls)) => open(tls.connect(host, stream).await.map_err(text)?).await,
            (Scheme::Https, None) => Err("there is no CA to check it with".to_owned()),
        }
    }
}

impl Open {
    async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        longest: usize,
    ) -> Result<Response<Bytes>, String> {
        let (head, body) = self.requests.send_request(request).await.map_err(text)?.into_parts();
        let body = Limited::new(body, longest).collect().await.map_err(text)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

async fn open(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Open, String> {
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Whoever asked is told by the request itself.
            tracing::debug!("a connection ended: {error}");
        }
    });
    Ok(Open { requests, _driver: AbortOnDropHandle::new(driver) })
}

/// What went wrong, and what that came of: hyper says only the first.
fn text(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> String {
    let error = error.into();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
