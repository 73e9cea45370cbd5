//! Inspect: what can be told about an envelope without a key.

use custodian_proto::key::{KeyId, KeyWrapping};
use serde::Serialize;

use crate::{error::Result, extract::Input};

/// What an envelope tells without a key.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// `mtd`
    pub format: &'static str,
    /// Bytes of the envelope.
    pub envelope_bytes: u64,
    /// Whom it is sealed to.
    pub recipients: Vec<Recipient>,
    /// Files, folders and links; `None` where the format keeps that secret.
    pub entries: Option<Vec<Entry>>,
}

/// Somebody an envelope is sealed to.
#[derive(Clone, Debug, Serialize)]
pub struct Recipient {
    /// The wrapping key, 40 hex digits.
    #[serde(serialize_with = "as_text")]
    pub key_id: KeyId,
    /// How the file key is wrapped.
    #[serde(serialize_with = "as_text")]
    pub wrapping: KeyWrapping,
    /// SHA-256 of the wrapped key, hex: the name of this envelope in the custodian's log.
    pub wrapped_key_sha256: String,
}

/// One entry of an envelope whose list is public.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Path inside the envelope.
    pub path: String,
    /// Bytes of content.
    pub size: u64,
    /// Bytes in the envelope.
    pub sealed_size: u64,
    /// RFC 3339; `None` if not recorded.
    pub modified: Option<String>,
    /// Unix permission bits; `None` if not recorded.
    pub mode: Option<u32>,
}

/// Looks at an envelope of any format.
pub fn inspect(_envelope: &Input) -> Result<Inspection> {
    Err(crate::Error::new(crate::Kind::Local, "cannot inspect", "not written yet"))
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
