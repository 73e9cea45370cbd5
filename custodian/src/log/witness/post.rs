//! One request to a witness, over HTTP/1.1. TLS is not needed for what comes back, which proves itself; some witnesses want it.

use std::{fmt, str::FromStr, time::Duration};

use custodian_proto::tlog::witness::ADD_CHECKPOINT;
use http_body_util::Full;
use hyper::{Request, StatusCode, Uri, body::Bytes, header::CONTENT_TYPE};

use super::WitnessConfig;
use crate::net::{Http, Origin, Tls};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer, in bytes.
const MAX_ANSWER_LEN: usize = 64 * 1024;

/// Where a witness listens: `http://HOST:PORT/PREFIX` or `https://…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessUrl {
    origin: Origin,
    /// `/PREFIX/add-checkpoint`
    path: String,
}

impl FromStr for WitnessUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let origin = text.parse()?;
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let path = format!("{}/{ADD_CHECKPOINT}", uri.path().trim_end_matches('/'));
        Ok(Self { origin, path })
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// The way to a witness, or why there is none.
pub(super) fn way(witness: &WitnessConfig) -> Result<Http, String> {
    let origin = witness.url.origin.clone();
    let tls = origin.is_https().then(|| Tls::trusting_those_of(witness.ca.as_deref())).transpose();
    Ok(Http::to(origin, tls.map_err(|error| error.to_string())?, PATIENCE))
}

/// Sends a text. The status and the text of the answer, or why there is none.
pub(super) async fn post(
    http: &mut Http,
    url: &WitnessUrl,
    text: String,
) -> Result<(StatusCode, String), String> {
    let request = Request::post(&url.path)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| error.to_string())?;
    let answer = http.send(request, MAX_ANSWER_LEN).await?;
    let status = answer.status();
    let text = String::from_utf8(answer.into_body().to_vec());
    Ok((status, text.map_err(|_| format!("{url}: its answer is no text"))?))
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
            ("https://w.example/one/", "https://w.example:443/one/add-checkpoint"),
            ("http://[::1]:80/one", "http://[::1]:80/one/add-checkpoint"),
        ] {
            assert_eq!(text.parse::<WitnessUrl>().unwrap().to_string(), url);
        }
        for wrong in ["", "w.example:7380", "ftp://w", "/path"] {
            assert!(wrong.parse::<WitnessUrl>().is_err(), "{wrong}");
        }
    }
}
