//! What a person typed: `https://…`, `http://…` or `s3://BUCKET/KEY`.

use std::{fmt, path::PathBuf};

use hyper::Uri;

use super::s3::S3;
use crate::error::{Error, Kind, Result};

/// Where on the network an envelope is.
#[derive(Clone)]
pub struct Location(Place);

#[derive(Clone)]
enum Place {
    Http(Uri),
    S3(Box<S3>),
}

/// How it is reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The certificates (PEM) that may vouch for the server; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// What to do where nothing is encrypted on the way.
    pub plain: Plain,
}

/// Whether `http://` will do. The envelope is encrypted and authenticated anyway; who fetches what is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Plain {
    /// Only from this machine itself.
    #[default]
    LoopbackOnly,
    /// From anywhere.
    Allowed,
}

impl Location {
    /// Reads it. `None`: the text is no such place but a path.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it makes no sense; [`Kind::Local`] if the environment says too little about S3.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return Some(S3::parse(rest).map(|s3| Self(Place::S3(Box::new(s3)))));
        }
        let is_http = text.starts_with("https://") || text.starts_with("http://");
        is_http.then(|| http(text).map(|uri| Self(Place::Http(uri))))
    }

    /// Its URL. In S3 it is signed anew each time, because a signature is good for some minutes only.
    pub(super) fn uri(&self) -> Result<Uri> {
        match &self.0 {
            Place::Http(uri) => Ok(uri.clone()),
            Place::S3(s3) => http(&s3.signed()),
        }
    }

    /// Its last part: the name of the envelope.
    pub(crate) fn file_name(&self) -> String {
        let path = match &self.0 {
            Place::Http(uri) => uri.path(),
            Place::S3(s3) => s3.key(),
        };
        path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("envelope").to_owned()
    }
}

/// Without what stands behind the question mark: there it is that signatures are.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Http(uri) => f.write_str(&shown(uri)),
            Place::S3(s3) => s3.fmt(f),
        }
    }
}

/// A URL as a person may see it.
pub(super) fn shown(uri: &Uri) -> String {
    let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
    format!("{}://{}{}", part(uri.scheme_str()), part(uri.authority().map(|it| it.as_str())), uri.path())
}

/// A URL with a host and without a password.
pub(super) fn http(text: &str) -> Result<Uri> {
    let usage = |why: String| Error::new(Kind::Usage, "cannot use this URL", why);
    let uri: Uri = text.parse().map_err(|why| usage(format!("it makes no sense: {why}")))?;
    if !matches!(uri.scheme_str(), Some("https" | "http")) || uri.host().is_none_or(str::is_empty) {
        return Err(usage("it is neither https://HOST/… nor http://HOST/…".to_owned()));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(usage(
            "it has a user name in it, and all users of this machine can see what is typed".to_owned(),
        )
        .hint("use a presigned URL, or s3:// with the credentials in the environment or in a file"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for path in ["a.sealed", "/tmp/https", "https:/a", "ftp://a/b", "-", "./s3://a"] {
            assert!(Location::parse(path).is_none(), "{path}");
        }
        let parsed = |text: &str| Location::parse(text).expect("a URL");
        let location = parsed("https://example.org/a/b%20c.sealed?X-Amz-Signature=secret").expect("sound");
        assert_eq!(location.to_string(), "https://example.org/a/b%20c.sealed");
        assert_eq!(location.file_name(), "b%20c.sealed");
        assert_eq!(parsed("http://[::1]:8080/").expect("sound").file_name(), "envelope");
        for wrong in ["https://", "https:///a", "http://anna:secret@example.org/a", "https://a b/"] {
            let error = parsed(wrong).err().expect("refused");
            assert!(error.kind == Kind::Usage && !error.to_string().contains("secret"), "{error}");
        }
    }
}
