//! One request for a part of an object (RFC 9110 §14), and what the answer means.

use std::{ops::Range, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HOST, HeaderMap, HeaderName, IF_RANGE,
        LAST_MODIFIED, LOCATION, RANGE, USER_AGENT,
    },
};
use tokio::time::timeout;

use super::{connection::Connection, object::Failure};
use crate::error::{Error, Kind};

/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which version of the object it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Version {
    /// Bytes of all of it.
    pub(super) len: u64,
    etag: Option<String>,
    modified: Option<String>,
}

/// An answer that makes sense.
pub(super) enum Answer {
    /// The part asked for, or as much of it as the object has.
    Part(Vec<u8>, Version),
    /// It is somewhere else.
    Elsewhere(String),
}

/// Asks for some bytes: of the object as it is, or of this version of it.
pub(super) async fn ask(
    connection: &mut Connection,
    uri: &Uri,
    range: Range<u64>,
    known: Option<&Version>,
) -> Result<Answer, Failure> {
    let request = request(uri, &range, known)?;
    let answered = timeout(PATIENCE, connection.send_request(request)).await.map_err(|_| silent())?;
    let response = answered.map_err(Failure::http)?;
    let header = |name: HeaderName| text(response.headers(), name);
    match response.status() {
        StatusCode::PARTIAL_CONTENT => part(response, range, known).await,
        StatusCode::OK if known.is_some() => Err(changed()),
        StatusCode::OK => Err(never("the server gives whole objects only, no parts").hinted(DOWNLOAD)),
        StatusCode::PRECONDITION_FAILED => Err(changed()),
        StatusCode::RANGE_NOT_SATISFIABLE if known.is_none() => Err(never("it is empty")),
        StatusCode::RANGE_NOT_SATISFIABLE => Err(changed()),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(never("there is no such object").hinted("check the address"))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(never("the server does not allow it")
            .hinted("a presigned URL may have expired; for s3:// check credentials, AWS_REGION and AWS_ENDPOINT_URL")),
        status if status.is_redirection() => match (header(LOCATION), known) {
            (Some(to), None) => Ok(Answer::Elsewhere(to)),
            _ => Err(never(&format!("the server answers {status}, which leads nowhere"))),
        },
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(Failure::Again(format!("the server answers {status}")))
        }
        status => Err(never(&format!("the server answers {status}"))),
    }
}

const DOWNLOAD: &str = "download it first, e.g. with curl -O, and give the file";

fn request(uri: &Uri, range: &Range<u64>, known: Option<&Version>) -> Result<Request<Empty<Bytes>>, Failure> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let mut request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("envelope/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT_ENCODING, "identity")
        .header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
    if let Some(validator) = known.and_then(Version::strong) {
        request = request.header(IF_RANGE, validator);
    }
    request.body(Empty::new()).map_err(|why| never(&why.to_string()))
}

/// Takes a part that is the one asked for, of the version that is known.
async fn part(
    response: Response<Incoming>,
    range: Range<u64>,
    known: Option<&Version>,
) -> Result<Answer, Failure> {
    let headers = response.headers();
    if text(headers, CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(
            never("the server compresses it on the way, so that no part of it can be found").hinted(DOWNLOAD)
        );
    }
    let told = text(headers, CONTENT_RANGE).and_then(|range| content_range(&range));
    let Some((told, len)) = told else {
        return Err(never("the server does not say which part of it this is").hinted(DOWNLOAD));
    };
    let version = Version { len, etag: text(headers, ETAG), modified: text(headers, LAST_MODIFIED) };
    if version.etag.is_none() && version.modified.is_none() {
        let why = "the server tells neither its ETag nor when it was modified: it could change unnoticed";
        return Err(never(why).hinted(DOWNLOAD));
    }
    if known.is_some_and(|known| *known != version) {
        return Err(changed());
    }
    let expected = range.start..range.end.min(len);
    if told != expected {
        return Err(Failure::Again("the server gives another part than was asked for".to_owned()));
    }
    let wanted = usize::try_from(expected.end - expected.start).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(wanted);
    let mut body = response.into_body();
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.map_err(|_| silent())? {
        if let Ok(data) = frame.map_err(Failure::http)?.into_data() {
            if bytes.len() + data.len() > wanted {
                return Err(never("the server sends more than it says"));
            }
            bytes.extend_from_slice(&data);
        }
    }
    if bytes.len() < wanted {
        return Err(Failure::Again("the connection ended too early".to_owned()));
    }
    Ok(Answer::Part(bytes, version))
}

impl Version {
    /// What a server can compare to the last bit (RFC 9110 §13.1.5): no weak ETag, and of the rest the time.
    fn strong(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) if !etag.starts_with("W/") => Some(etag),
            _ => self.modified.as_deref(),
        }
    }
}

/// `bytes 0-99/1234`.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, len): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, len.parse().ok()?);
    (first <= last && last < len).then_some((first..last + 1, len))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn silent() -> Failure {
    Failure::Again(format!("the server said nothing for {} s", PATIENCE.as_secs()))
}

fn never(why: &str) -> Failure {
    Failure::Never(Error::new(Kind::Local, "cannot fetch the envelope", why))
}

fn changed() -> Failure {
    never("it changed while it was read").hinted("try again, once nobody writes to it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_as_the_rfc_has_them() {
        assert_eq!(content_range("bytes 0-99/1234"), Some((0..100, 1234)));
        assert_eq!(content_range("bytes 5-5/6"), Some((5..6, 6)));
        for wrong in ["bytes 0-99/*", "bytes */1234", "bytes 9-5/10", "bytes 0-10/10", "0-9/10", "bytes 0-9"]
        {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_weak_etag_is_not_what_parts_are_compared_by() {
        let version = |etag: Option<&str>| Version {
            len: 1,
            etag: etag.map(str::to_owned),
            modified: Some("Sat, 21 Nov 2026 10:00:00 GMT".to_owned()),
        };
        assert_eq!(version(Some("\"a\"")).strong(), Some("\"a\""));
        assert!(version(Some("W/\"a\"")).strong().is_some_and(|time| time.starts_with("Sat")));
    }
}
