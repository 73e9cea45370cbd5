//! Inspect: what can be told about an envelope without a key.

use custodian_proto::key::{KeyId, KeyWrapping, WrappedKey};
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    envelope::{self, EntryKind, Format, SenderMark, cms, mtd, openpgp, sealed},
    error::Result,
    extract::{Input, Limits},
    input::Envelope,
    output::SafePath,
    progress::Silent,
    single,
    unwrapper::KeyName,
};

/// What an envelope tells without a key: in JSON the same names for all formats, with `null` for what a format does not tell.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// `mtd`, `sealed`, `cms` or `openpgp`
    pub format: &'static str,
    /// Bytes of the envelope.
    pub envelope_bytes: u64,
    /// Whom it is sealed to.
    pub recipients: Vec<Recipient>,
    /// Whom else it is sealed to, and why no custodian can serve them.
    pub other_recipients: Vec<String>,
    /// How the content is encrypted, in text.
    pub encryption: String,
    /// Whether content that was changed on the way is found out.
    pub authenticated: bool,
    /// Files, folders and links; `None` where the format keeps that secret.
    pub entries: Option<Vec<Entry>>,
    /// Who must have signed it, if it says so.
    #[serde(skip)]
    pub sender_mark: Option<SenderMark>,
}

/// Somebody an envelope is sealed to.
#[derive(Clone, Debug, Serialize)]
pub struct Recipient {
    /// The wrapping key, 40 hex digits; `None` where the format names keys in its own way.
    #[serde(serialize_with = "as_text_if_any")]
    pub key_id: Option<KeyId>,
    /// The id (16 hex digits) or the fingerprint of the OpenPGP key, if the format is that.
    pub openpgp_key: Option<String>,
    /// Serial number and issuer of the certificate, if a CMS message names the key so.
    pub certificate: Option<String>,
    /// How the file key is wrapped.
    #[serde(serialize_with = "as_text")]
    pub wrapping: KeyWrapping,
    /// SHA-256 of the wrapped key, hex: the name of this envelope in the custodian's log.
    pub wrapped_key_sha256: String,
}

/// One entry of an envelope whose list is public.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Path inside the envelope; a folder's ends with a slash.
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
///
/// # Errors
/// [`Kind::Integrity`](crate::Kind::Integrity) for envelopes that are damaged or unsafe;
/// [`Kind::Local`](crate::Kind::Local) for what is no envelope, or exceeds the usual limits.
pub fn inspect(input: &Input) -> Result<Inspection> {
    let envelope = Envelope::open(input, &Silent)?;
    let format = envelope.format()?;
    let found = |wrapped: &[WrappedKey], encryption: String, entries| Inspection {
        format: format.name(),
        envelope_bytes: envelope.len(),
        recipients: wrapped.iter().map(Recipient::from).collect(),
        other_recipients: Vec::new(),
        encryption,
        authenticated: true,
        entries,
        sender_mark: None,
    };
    let inspection = match format {
        Format::Mtd => {
            envelope.file().and_then(|file| mtd::read_header(file, &Limits::default())).map(|sealed| {
                let entries = sealed.entries().iter().map(Entry::from).collect();
                let how = "AES-256-CTR with HMAC-SHA1 (WinZip AE-2)";
                let inspection = found(sealed.wrapped_keys(), how.to_owned(), Some(entries));
                Inspection { sender_mark: sealed.sender_mark(), ..inspection }
            })
        }
        Format::Sealed => sealed::read_header(envelope.source(), envelope.len()).map(|sealed| {
            let inspection = found(sealed.wrapped_keys(), "AES-256-GCM (Cobblestone-256)".to_owned(), None);
            Inspection { sender_mark: sealed.sender_mark(), ..inspection }
        }),
        Format::Cms => envelope.file().and_then(|file| {
            let message = cms::Message::new(file, envelope.len())?;
            let sealed = message.read_header()?;
            let entry = Entry::single(&single::content_name(input)?, sealed.content_len());
            let others = sealed.other_recipients().to_vec();
            let mut inspection = found(sealed.wrapped_keys(), sealed.encryption(), Some(vec![entry]));
            inspection.recipients.extend(sealed.named().map(Recipient::named));
            Ok(Inspection {
                other_recipients: others,
                authenticated: sealed.is_authenticated(),
                sender_mark: sealed.sender_mark(),
                ..inspection
            })
        }),
        Format::OpenPgp => envelope.file().and_then(|file| {
            let message = openpgp::Message::new(file, envelope.len())?;
            let sealed = message.read_header(&Silent)?;
            let entry = Entry::single(&single::content_name(input)?, sealed.content_len());
            let inspection = found(&[], sealed.encryption().to_owned(), Some(vec![entry]));
            Ok(Inspection {
                recipients: sealed
                    .served()
                    .map(|(name, wrapped)| Recipient::named((name, KeyWrapping::OpenPgp, wrapped)))
                    .collect(),
                other_recipients: sealed.other_recipients().to_vec(),
                ..inspection
            })
        }),
    };
    inspection.map_err(|error| envelope.named(error))
}

impl From<&WrappedKey> for Recipient {
    fn from(wrapped: &WrappedKey) -> Self {
        Self {
            key_id: Some(wrapped.key_id()),
            openpgp_key: None,
            certificate: None,
            wrapping: wrapped.wrapping(),
            wrapped_key_sha256: hex::encode(wrapped.sha256()),
        }
    }
}

impl Recipient {
    fn named((name, wrapping, ciphertext): (&KeyName, KeyWrapping, &[u8])) -> Self {
        let (openpgp_key, certificate) = match name {
            KeyName::OpenPgpId(_) | KeyName::OpenPgpFingerprint(_) => (Some(name.to_string()), None),
            KeyName::Certificate(_) => (None, Some(name.to_string())),
        };
        Self {
            key_id: None,
            openpgp_key,
            certificate,
            wrapping,
            wrapped_key_sha256: hex::encode(Sha256::digest(ciphertext)),
        }
    }

    /// Whom: how the envelope names the key.
    pub fn name(&self) -> String {
        let key_id = self.key_id.map(|id| id.resource_name());
        let openpgp_key = || self.openpgp_key.as_ref().map(|key| format!("OpenPGP key {key}"));
        key_id.or_else(openpgp_key).or_else(|| self.certificate.clone()).unwrap_or_default()
    }
}

impl Entry {
    /// The one file of an envelope that records nothing but its size.
    pub(crate) fn single(name: &SafePath, size: u64) -> Self {
        Self { path: name.to_string(), size, sealed_size: size, modified: None, mode: None }
    }
}

impl From<&envelope::Entry> for Entry {
    fn from(entry: &envelope::Entry) -> Self {
        let slash = if entry.kind() == EntryKind::Folder { "/" } else { "" };
        Self {
            path: format!("{}{slash}", entry.path()),
            size: entry.size(),
            sealed_size: entry.sealed_size(),
            modified: entry.modified().and_then(|time| Some(Timestamp::from_second(time).ok()?.to_string())),
            mode: entry.mode(),
        }
    }
}

pub(crate) fn as_text_if_any<T: std::fmt::Display, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
