//! One request to a witness, over HTTP/1.1. Without TLS: what comes back proves itself.

use std::{fmt, str::FromStr, time::Duration};

use custodian_proto::tlog::witness::ADD_CHECKPOINT;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer, in bytes.
const MAX_ANSWER_LEN: usize = 64 * 1024;

/// Where a witness listens: `http://HOST:PORT/PREFIX`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessUrl {
    /// `HOST:PORT`
    authority: String,
    /// `/PREFIX/add-checkpoint`
    path: String,
}

impl FromStr for WitnessUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!(
                "{text:?}: give http://HOST:PORT/; what a witness signs needs no TLS to be believed"
            ));
        }
        let host = uri.host().ok_or_else(|| format!("{text:?} has no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let path = format!("{}/{ADD_CHECKPOINT}", uri.path().trim_end_matches('/'));
        Ok(Self { authority, path })
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Sends a text. The status and the text of the answer, or why there is none.
pub(super) async fn post(url: &WitnessUrl, text: String) -> Result<(StatusCode, String), String> {
    match tokio::time::timeout(PATIENCE, exchange(url, text)).await {
        Ok(answer) => answer.map_err(|why| format!("{url}: {why}")),
        Err(_) => Err(format!("{url}: no answer within {PATIENCE:?}")),
    }
}

async fn exchange(url: &WitnessUrl, text: String) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(&url.authority).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(async move { connection.await.err() });
    let request = Request::post(&url.path)
        .header(HOST, &url.authority)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_LEN).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let text = String::from_utf8(body.to_vec()).map_err(|_| "its answer is no text".to_owned())?;
        Ok((status, text))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_named_by_a_url_with_or_without_a_prefix() {
        for (text, url) in [
            ("http://w.example:7380", "http://w.example:7380/add-checkpoint"),
            ("http://w.example:7380/", "http://w.example:7380/add-checkpoint"),
            ("http://w.example/one/", "http://w.example:80/one/add-checkpoint"),
            ("http://[::1]:80/one", "http://[::1]:80/one/add-checkpoint"),
        ] {
            assert_eq!(text.parse::<WitnessUrl>().unwrap().to_string(), url);
        }
        for wrong in ["", "w.example:7380", "https://w.example", "ftp://w", "/path"] {
            assert!(wrong.parse::<WitnessUrl>().is_err(), "{wrong}");
        }
    }
}
