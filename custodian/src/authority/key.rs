//! What the ledger knows of a wrapping key. The key pair itself is in the token.

use custodian_proto::key::{KeyId, KeyWrapping};
use jiff::Timestamp;

/// Where a key is in its life: the two states of NIST SP 800-57 part 1 §7 that a key can have here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyState {
    /// Unwraps.
    Active,
    /// Stopped for a while.
    Suspended,
}

impl KeyState {
    /// As it stands in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }

    /// Reads what [`KeyState::name`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Suspended].into_iter().find(|state| state.name() == name)
    }
}

/// A wrapping key's metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrappingKey {
    /// Its id.
    pub id: KeyId,
    /// For people; unique.
    pub label: String,
    /// Where it is in its life.
    pub state: KeyState,
    /// The size of the modulus.
    pub modulus_bits: u32,
    /// The one wrapping it unwraps.
    pub wrapping: KeyWrapping,
    /// Its X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// When it was made.
    pub created: Timestamp,
}
