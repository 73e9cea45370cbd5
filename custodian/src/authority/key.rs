//! What the ledger knows of a wrapping key. The key pair itself is in the token.

use custodian_proto::key::{KeyId, KeyWrapping};
use jiff::Timestamp;

use super::KeyLife;

/// A wrapping key's metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrappingKey {
    /// Its id.
    pub id: KeyId,
    /// For people. All versions of a key share it.
    pub label: String,
    /// 1, 2, 3 …: each rotation makes the next. Unique together with the label.
    pub version: u32,
    /// Where it is in its life.
    pub life: KeyLife,
    /// The size of the modulus.
    pub modulus_bits: u32,
    /// The one wrapping it unwraps.
    pub wrapping: KeyWrapping,
    /// Its X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// When it was made.
    pub created: Timestamp,
    /// When an administrator last changed it.
    pub updated: Timestamp,
    /// The reason given for the last change, else empty.
    pub reason: String,
}

impl WrappingKey {
    /// How people tell it from its other versions: `invoices@2`.
    pub fn full_label(&self) -> String {
        format!("{}@{}", self.label, self.version)
    }
}
