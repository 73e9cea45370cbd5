//! A bucket as the second place: any object store that speaks S3, with conditional writes.

use std::{fmt, fs, io, path::PathBuf, time::Duration};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes};
use rusty_s3::{
    Bucket as Signed, Credentials, S3Action, UrlStyle,
    actions::{DeleteObject, GetObject, HeadBucket, ListObjectsV2, PutObject},
};
use serde::Deserialize;
use tokio::runtime::Handle;
use url::Url;
use zeroize::Zeroize as _;

use super::{
    CopyError,
    store::{Created, MAX_FILE_LEN, Store},
};
use crate::net::{Http, Origin, Tls};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a signed request is good for. Clocks may differ by as much.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// The longest answer that is no object: a list of at most 256 names, or an error.
const MAX_ANSWER_LEN: usize = 1 << 20;

/// The longest file with credentials.
const MAX_CREDENTIALS_LEN: u64 = 64 * 1024;

/// Which bucket, and how to get there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketConfig {
    /// The object store: `https://s3.eu-central-1.amazonaws.com`. A path in it stands before the bucket's name.
    pub endpoint: Url,
    /// The bucket's name.
    pub name: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Stands before the name of each object: empty, or ends with a slash.
    pub prefix: String,
    /// A TOML file: `access_key_id`, `secret_access_key`, maybe `session_token`. Read at the start and after each failure.
    pub credentials: PathBuf,
    /// A PEM file with the CAs to trust. `None`: those that this system trusts.
    pub ca: Option<PathBuf>,
}

impl fmt::Display for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.name, self.prefix.trim_end_matches('/'))
    }
}

/// What a file with credentials has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCredentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// The bucket, and the connection to it.
pub(super) struct Bucket {
    shown: String,
    prefix: String,
    bucket: Signed,
    credentials: Credentials,
    http: Http,
    runtime: Handle,
}

impl Bucket {
    /// The bucket, which must be there.
    pub(super) fn open(config: &BucketConfig, runtime: Handle) -> Result<Self, CopyError> {
        let shown = config.to_string();
        let wrong = |why: String| CopyError::Io { path: PathBuf::from(&shown), error: io::Error::other(why) };
        let bucket =
            Signed::new(config.endpoint.clone(), UrlStyle::Path, config.name.clone(), config.region.clone());
        let bucket = bucket.map_err(|error| wrong(error.to_string()))?;
        let origin: Origin = config.endpoint.as_str().parse().map_err(wrong)?;
        let trust = || Tls::trusting_those_of(config.ca.as_deref());
        let tls = origin.is_https().then(trust).transpose().map_err(|error| wrong(error.to_string()))?;
        let credentials = credentials(config)?;
        let http = Http::to(origin, tls, PATIENCE);
        let mut this = Self { shown, prefix: config.prefix.clone(), bucket, credentials, http, runtime };
        this.must_be_there()?;
        Ok(this)
    }

    /// Without this, a bucket that is not there would look like an empty one.
    fn must_be_there(&mut self) -> Result<(), CopyError> {
        let action = HeadBucket::new(&self.bucket, Some(&self.credentials));
        let answer = ask(&mut self.http, &self.runtime, Method::HEAD, action, Bytes::new(), 0);
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            // The answer to HEAD has no body that would say more.
            Ok(answer) => {
                Err(self.io("", format!("there is no such bucket for us: HTTP {}", answer.status())))
            }
            Err(why) => Err(self.io("", why)),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn io(&self, name: &str, why: String) -> CopyError {
        let path = if name.is_empty() { self.shown.clone() } else { format!("{}/{name}", self.shown) };
        CopyError::Io { path: path.into(), error: io::Error::other(why) }
    }

    /// What an answer that is none of the expected ones says.
    fn refused(&self, name: &str, answer: &Response<Bytes>) -> CopyError {
        let code = error_code(answer.body()).unwrap_or_default();
        self.io(name, format!("the object store answers HTTP {} {code}", answer.status().as_u16()))
    }

    fn put(&mut self, name: &str, bytes: &[u8], only_new: bool) -> Result<Created, CopyError> {
        let key = self.key(name);
        let mut action = PutObject::new(&self.bucket, Some(&self.credentials), &key);
        if only_new {
            action.headers_mut().insert("if-none-match", "*");
        }
        let body = Bytes::copy_from_slice(bytes);
        let answer = ask(&mut self.http, &self.runtime, Method::PUT, action, body, MAX_ANSWER_LEN);
        let answer = answer.map_err(|why| self.io(name, why))?;
        match answer.status() {
            status if status.is_success() => Ok(Created::New),
            StatusCode::PRECONDITION_FAILED if only_new => Ok(Created::WasThere),
            _ => Err(self.refused(name, &answer)),
        }
    }

    /// The names beneath, without what stands before.
    fn list(&mut self, before: &str) -> Result<Vec<String>, CopyError> {
        let prefix = self.key(before);
        let mut action = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
        action.with_prefix(prefix.clone());
        let answer = ask(&mut self.http, &self.runtime, Method::GET, action, Bytes::new(), MAX_ANSWER_LEN);
        let answer = answer.map_err(|why| self.io(before, why))?;
        if !answer.status().is_success() {
            return Err(self.refused(before, &answer));
        }
        let wrong = |error: &dyn fmt::Display| self.io(before, format!("its list makes no sense: {error}"));
        let text = std::str::from_utf8(answer.body()).map_err(|error| wrong(&error))?;
        let listed = ListObjectsV2::parse_response(text).map_err(|error| wrong(&error))?;
        if listed.next_continuation_token.is_some() {
            return Err(wrong(&"it is longer than 256 names"));
        }
        let names = listed.contents.into_iter().map(|object| object.key);
        Ok(names.filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned())).collect())
    }
}

impl Store for Bucket {
    fn shown(&self) -> String {
        self.shown.clone()
    }

    /// Each write that is answered is in the bucket: there is nothing to look for.
    fn is_still_there(&mut self) -> Result<(), CopyError> {
        Ok(())
    }

    fn read(&mut self, name: &str, longest: usize) -> Result<Option<Vec<u8>>, CopyError> {
        let key = self.key(name);
        let action = GetObject::new(&self.bucket, Some(&self.credentials), &key);
        let most = MAX_FILE_LEN.max(MAX_ANSWER_LEN);
        let answer = ask(&mut self.http, &self.runtime, Method::GET, action, Bytes::new(), most);
        let answer = answer.map_err(|why| self.io(name, why))?;
        match answer.status() {
            status if status.is_success() && answer.body().len() <= longest => {
                Ok(Some(answer.into_body().to_vec()))
            }
            status if status.is_success() => {
                Err(CopyError::Foreign(format!("{}/{name}: it is too long", self.shown)))
            }
            // A bucket that is gone is NoSuchBucket.
            StatusCode::NOT_FOUND if error_code(answer.body()) == Some("NoSuchKey") => Ok(None),
            _ => Err(self.refused(name, &answer)),
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CopyError> {
        self.put(name, bytes, false).map(drop)
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> Result<Created, CopyError> {
        self.put(name, bytes, true)
    }

    fn remove(&mut self, name: &str) -> Result<(), CopyError> {
        let key = self.key(name);
        let action = DeleteObject::new(&self.bucket, Some(&self.credentials), &key);
        let answer = ask(&mut self.http, &self.runtime, Method::DELETE, action, Bytes::new(), MAX_ANSWER_LEN);
        let answer = answer.map_err(|why| self.io(name, why))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND if error_code(answer.body()) == Some("NoSuchKey") => Ok(()),
            _ => Err(self.refused(name, &answer)),
        }
    }

    fn widest(&mut self, full: &str) -> Result<Option<usize>, CopyError> {
        let names = self.list(&format!("{full}.p/"))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).max())
    }

    fn remove_narrow(&mut self, full: &str) -> Result<(), CopyError> {
        let folder = format!("{full}.p/");
        self.list(&folder)?.iter().try_for_each(|name| self.remove(&format!("{folder}{name}")))
    }
}

/// Asks for it, signed. No error has the URL in it: its signature is as good as a password for a while.
fn ask<'a>(
    http: &mut Http,
    runtime: &Handle,
    method: Method,
    mut action: impl S3Action<'a>,
    body: Bytes,
    longest: usize,
) -> Result<Response<Bytes>, String> {
    let url = action.sign(SIGNED_FOR);
    let query = url.query().unwrap_or_default();
    let mut request = Request::builder().method(method).uri(format!("{}?{query}", url.path()));
    for (name, value) in action.headers_mut().iter() {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(body)).map_err(|_| "its URL makes no sense".to_owned())?;
    runtime.block_on(http.send(request, longest))
}

/// The code in an error's XML, such as `NoSuchKey`.
fn error_code(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let is_plain = |code: &&str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some(code).filter(is_plain)
}

/// Law 9: nothing of it is in an error.
fn credentials(config: &BucketConfig) -> Result<Credentials, CopyError> {
    let path = &config.credentials;
    let io = |error| CopyError::Io { path: path.clone(), error };
    if fs::metadata(path).map_err(io)?.len() > MAX_CREDENTIALS_LEN {
        return Err(io(io::Error::other("it is too long to be a file with credentials")));
    }
    let mut text = fs::read_to_string(path).map_err(io)?;
    let raw = toml::from_str::<RawCredentials>(&text);
    text.zeroize();
    let raw = raw.map_err(|_| {
        io(io::Error::other("give access_key_id = \"…\" and secret_access_key = \"…\", maybe session_token"))
    })?;
    let RawCredentials { access_key_id, secret_access_key, session_token } = raw;
    Ok(match session_token {
        Some(token) => Credentials::new_with_token(access_key_id, secret_access_key, token),
        None => Credentials::new(access_key_id, secret_access_key),
    })
}
