//! What a token is called here.

use std::{fmt, str::FromStr};

use crate::authority::{BadId, DeviceId};

/// A token's name in the configuration: `hsm-1`. Keeps the rules of device ids.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenName(String);

impl TokenName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The resource name, `tokens/hsm-1`.
    pub fn resource_name(&self) -> String {
        format!("tokens/{}", self.0)
    }
}

impl FromStr for TokenName {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        text.parse::<DeviceId>().map(|_| Self(text.to_owned()))
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
