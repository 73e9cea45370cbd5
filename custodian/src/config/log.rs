//! `[log]`: its key, its second place, its witnesses.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::friendly;
use crate::log::{CopyConfig, OnFailure, WitnessConfig};

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
}

impl RawWitness {
    pub(super) fn check(&self) -> Result<WitnessConfig, String> {
        let key = self.key.parse().map_err(|flaw| format!("log.witness.key: {flaw}"))?;
        let url = self.url.parse().map_err(|why| format!("log.witness.url: {why}"))?;
        Ok(WitnessConfig { key, url })
    }
}

/// Each witness counts once.
pub(super) fn check_witnesses(raw: &[RawWitness]) -> Result<Vec<WitnessConfig>, String> {
    let mut witnesses: Vec<WitnessConfig> = Vec::new();
    for witness in raw {
        let witness = witness.check()?;
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
    pub(crate) directory: PathBuf,
    pub(crate) on_failure: RawOnFailure,
}

/// `"require"` or `{ lag = 1000 }`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawOnFailure {
    Require,
    Lag(u64),
}

impl RawCopy {
    pub(super) fn check(self, folder: &Path) -> CopyConfig {
        let on_failure = match self.on_failure {
            RawOnFailure::Require => OnFailure::Require,
            RawOnFailure::Lag(records) => OnFailure::Lag(records),
        };
        CopyConfig { directory: folder.join(self.directory), on_failure }
    }
}

fn ten_minutes() -> SignedDuration {
    SignedDuration::from_mins(10)
}
