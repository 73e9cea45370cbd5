//! An object in S3: its URL, signed for some minutes (AWS Signature Version 4). Credentials come from the environment or a
//! file, never from the command line.

use std::{env, fmt, fs, path::PathBuf, time::Duration};

use rusty_s3::{
    Bucket, Credentials, UrlStyle,
    actions::{GetObject, S3Action},
};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// How long a signature is good. A request is made at once.
const GOOD_FOR: Duration = Duration::from_secs(5 * 60);

/// If nobody says where: as Amazon's own tools.
const USUAL_REGION: &str = "us-east-1";

/// Longest file of credentials, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// An object, and who asks for it.
#[derive(Clone)]
pub(super) struct S3 {
    bucket: Bucket,
    key: String,
    credentials: Credentials,
}

impl S3 {
    /// Reads `BUCKET/KEY`. Where the bucket is, and who asks, is in the environment.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let usage = |why: &str| Error::new(Kind::Usage, "cannot use this S3 address", why);
        let (name, key) = text.split_once('/').unwrap_or((text, ""));
        if name.is_empty() || key.is_empty() || key.ends_with('/') {
            return Err(usage("it must be s3://BUCKET/KEY"));
        }
        let region = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| USUAL_REGION.to_owned());
        let endpoint = set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL"));
        // Other people's servers often know no host names for buckets; certificates know none with dots in them.
        let style = match endpoint {
            None if !name.contains('.') => UrlStyle::VirtualHost,
            _ => UrlStyle::Path,
        };
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let parsed = endpoint.parse().map_err(|_| usage("AWS_ENDPOINT_URL is no URL"))?;
        let bucket = Bucket::new(parsed, style, name.to_owned(), region)
            .map_err(|why| usage("no such bucket can be").hint(why.to_string()))?;
        Ok(Self { bucket, key: key.to_owned(), credentials: credentials()? })
    }

    /// The URL to get it from, from now on for some minutes.
    pub(super) fn signed(&self) -> String {
        GetObject::new(&self.bucket, Some(&self.credentials), &self.key).sign(GOOD_FOR).into()
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket.name(), self.key)
    }
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn credentials() -> Result<Credentials> {
    if let (Some(key), Some(secret)) = (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY")) {
        return Ok(match set("AWS_SESSION_TOKEN") {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        });
    }
    let file = set("AWS_SHARED_CREDENTIALS_FILE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".aws/credentials")));
    let missing = |why: String| {
        Error::new(Kind::Local, "cannot sign for S3", why).hint(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE and AWS_PROFILE; or use a \
             presigned https:// URL",
        )
    };
    let file = file.ok_or_else(|| missing("there are no credentials".to_owned()))?;
    let profile = set("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let shown = file.display();
    let len = fs::metadata(&file).map_err(|why| missing(format!("cannot read {shown}: {why}")))?.len();
    if len > MAX_FILE {
        return Err(missing(format!("{shown} is too long")));
    }
    let text = fs::read_to_string(&file).map_err(|why| missing(format!("cannot read {shown}: {why}")))?;
    of_profile(&Zeroizing::new(text), &profile)
        .ok_or_else(|| missing(format!("{shown} has no access key and secret of the profile {profile:?}")))
}

/// The credentials of a profile: a section of lines `name = value`.
fn of_profile(text: &str, profile: &str) -> Option<Credentials> {
    let section = text
        .lines()
        .map(str::trim)
        .skip_while(|line| section(line) != Some(profile))
        .skip(1)
        .take_while(|line| section(line).is_none());
    let (mut key, mut secret, mut token) = (None, None, None);
    for (name, value) in section.filter_map(|line| line.split_once('=')) {
        let value = Some(value.trim().to_owned());
        match name.trim() {
            "aws_access_key_id" => key = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(match token {
        Some(token) => Credentials::new_with_token(key?, secret?, token),
        None => Credentials::new(key?, secret?),
    })
}

fn section(line: &str) -> Option<&str> {
    Some(line.strip_prefix('[')?.strip_suffix(']')?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_the_profile() {
        let text = "\
[other]
aws_access_key_id = wrong
[ default ]
# aws_access_key_id = no
aws_access_key_id=AKID
aws_secret_access_key = a+b/c=
[third]
aws_session_token = token
aws_access_key_id = third
aws_secret_access_key = x
";
        let found = of_profile(text, "default").expect("there");
        assert_eq!((found.key(), found.secret(), found.token()), ("AKID", "a+b/c=", None));
        assert_eq!(of_profile(text, "third").expect("there").token(), Some("token"));
        assert!(of_profile(text, "other").is_none() && of_profile(text, "none").is_none());
    }
}
