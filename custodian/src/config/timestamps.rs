//! `[timestamps]`.

use custodian_proto::tsp::USUAL_POLICY;
use der::asn1::ObjectIdentifier;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{friendly, positive};
use crate::tsa::TsaRules;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawTimestamps {
    pub(crate) label: String,
    pub(crate) policy: String,
    #[serde(serialize_with = "friendly")]
    pub(crate) accuracy: SignedDuration,
}

impl Default for RawTimestamps {
    fn default() -> Self {
        Self {
            label: "timestamps".to_owned(),
            policy: USUAL_POLICY.to_owned(),
            accuracy: SignedDuration::from_secs(1),
        }
    }
}

impl RawTimestamps {
    pub(super) fn check(self) -> Result<TsaRules, String> {
        let policy = ObjectIdentifier::new(&self.policy)
            .map_err(|error| format!("timestamps.policy: is no object identifier: {error}"))?;
        let accuracy = positive("timestamps.accuracy", self.accuracy)?;
        Ok(TsaRules { label: self.label, policy, accuracy })
    }
}
