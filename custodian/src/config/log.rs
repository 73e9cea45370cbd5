//! `[log]`: its key, its second place, its witnesses.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use url::Url;

use super::friendly;
use crate::log::{BucketConfig, CopyConfig, OnFailure, Place, WitnessConfig};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) key: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copy: Option<RawCopy>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) witness: Vec<RawWitness>,
    #[serde(default = "ten_minutes")]
    #[serde(serialize_with = "friendly")]
    pub(crate) cosigners_within: SignedDuration,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWitness {
    pub(crate) key: String,
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

impl RawWitness {
    pub(super) fn check(&self, folder: &Path) -> Result<WitnessConfig, String> {
        let key = self.key.parse().map_err(|flaw| format!("log.witness.key: {flaw}"))?;
        let url = self.url.parse().map_err(|why| format!("log.witness.url: {why}"))?;
        Ok(WitnessConfig { key, url, ca: self.ca.as_ref().map(|ca| folder.join(ca)) })
    }
}

/// Each witness counts once.
pub(super) fn check_witnesses(raw: &[RawWitness], folder: &Path) -> Result<Vec<WitnessConfig>, String> {
    let mut witnesses: Vec<WitnessConfig> = Vec::new();
    for witness in raw {
        let witness = witness.check(folder)?;
        if witnesses
            .iter()
            .any(|other| other.key.is_of(&witness.key) || other.key.name() == witness.key.name())
        {
            return Err(format!("log.witness: {} is given twice", witness.key.name()));
        }
        witnesses.push(witness);
    }
    Ok(witnesses)
}

impl RawLog {
    pub(crate) fn of_key(path: &str) -> Self {
        Self { key: path.into(), copy: None, witness: Vec::new(), cosigners_within: ten_minutes() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCopy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bucket: Option<RawBucket>,
    pub(crate) on_failure: RawOnFailure,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBucket {
    pub(crate) endpoint: String,
    pub(crate) name: String,
    pub(crate) region: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) prefix: String,
    pub(crate) credentials: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

/// `"require"` or `{ lag = 1000 }`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawOnFailure {
    Require,
    Lag(u64),
}

impl RawCopy {
    pub(super) fn check(self, folder: &Path) -> Result<CopyConfig, String> {
        let on_failure = match self.on_failure {
            RawOnFailure::Require => OnFailure::Require,
            RawOnFailure::Lag(records) => OnFailure::Lag(records),
        };
        let place = match (self.directory, self.bucket) {
            (Some(directory), None) => Place::Folder(folder.join(directory)),
            (None, Some(bucket)) => Place::Bucket(bucket.check(folder)?),
            _ => return Err("log.copy: give directory or bucket, one of them".to_owned()),
        };
        Ok(CopyConfig { place, on_failure })
    }
}

impl RawBucket {
    fn check(self, folder: &Path) -> Result<BucketConfig, String> {
        let endpoint: Url = self
            .endpoint
            .parse()
            .map_err(|error| format!("log.copy.bucket.endpoint {:?}: {error}", self.endpoint))?;
        if !matches!(endpoint.scheme(), "https" | "http") || !endpoint.has_host() {
            return Err(format!("log.copy.bucket.endpoint {:?}: give https://HOST", self.endpoint));
        }
        if self.name.is_empty() || self.region.is_empty() {
            return Err("log.copy.bucket: name and region must not be empty".to_owned());
        }
        // Names that an object store may normalise would be other objects than those that were signed for.
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        let prefix = self.prefix.trim_end_matches('/');
        if !prefix.is_empty() && !prefix.split('/').all(is_plain) {
            return Err(format!("log.copy.bucket.prefix {:?}: give names with / between", self.prefix));
        }
        Ok(BucketConfig {
            endpoint,
            name: self.name,
            region: self.region,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            credentials: folder.join(self.credentials),
            ca: self.ca.map(|ca| folder.join(ca)),
        })
    }
}

fn ten_minutes() -> SignedDuration {
    SignedDuration::from_mins(10)
}
